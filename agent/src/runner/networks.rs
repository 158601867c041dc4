//! The network of a container: which it is to be in, and that it is made.

use std::net::Ipv4Addr;
use std::os::fd::OwnedFd;

use argosy_isolation::network::cni::Added;
use argosy_isolation::{Isolation, Network, NetworkError, Root, Spec};
use argosy_proto::v1;
use argosy_proto::v1::network::Mode;

use super::description::{NEEDS_ROOT, failed, invalid};
use super::own_files::{Place, host_name, own_files};
use super::{Shared, bridges};
use crate::core::{Refusal, Start};
use argosy_content::fetcher::Reach;

/// The network that it names, or that its group has.
fn named_network(start: &Start) -> Option<&v1::Network> {
    match &start.group {
        Some(group) => group.network.as_ref(),
        None => {
            let own = start.launch.spec.as_ref()?.container.as_ref()?;
            own.network.as_ref()
        }
    }
}

/// Which servers it may fetch from.
pub(super) fn reach(start: &Start) -> Reach {
    match named_network(start).and_then(|network| network.mode.as_ref()) {
        Some(Mode::None(_)) => Reach::Nothing,
        None | Some(Mode::Host(_) | Mode::Bridge(_) | Mode::Cni(_)) => Reach::Usual,
    }
}

/// Its network, and the files by which it finds itself and others. Last of all, as a network is to be given back.
pub(super) fn network(
    shared: &Shared,
    start: &Start,
    plugged: Option<Added>,
    spec: &mut Spec,
) -> Result<Option<OwnedFd>, Refusal> {
    let task = start.launch.spec.as_ref();
    let refused = |error: NetworkError| {
        let why = crate::error::sentence(&error);
        failed(format!("container.network: {why}"))
    };
    let name = host_name(start.key.task.as_str());
    let (network, place, namespace) =
        match named_network(start).and_then(|network| network.mode.as_ref()) {
            None | Some(Mode::Host(_)) => {
                // Only the profile has a wall that knows ports.
                let ports = task.filter(|_| spec.profile.is_some()).map(ports);
                (Network::Host { ports }, Place::Host, None)
            }
            Some(Mode::None(_)) if start.group.is_none() => (Network::None, Place::Alone, None),
            Some(Mode::None(_) | Mode::Bridge(_) | Mode::Cni(_))
                if spec.isolation != Isolation::Full =>
            {
                return Err(invalid(NEEDS_ROOT));
            }
            Some(Mode::None(_)) => {
                let (namespace, _) = shared.groups.alone(start.holder()).map_err(refused)?;
                (Network::Joined, Place::Alone, Some(namespace))
            }
            Some(Mode::Bridge(bridge)) => {
                let (namespace, at) = bridged(shared, start, bridge).map_err(refused)?;
                let place = Place::Own(Some(at.into()));
                (Network::Joined, place, Some(namespace))
            }
            Some(Mode::Cni(_)) => {
                let added =
                    plugged.ok_or_else(|| failed("its network was not made; launch it again"))?;
                let address = added.addresses.first().copied();
                (Network::Joined, Place::Own(address), Some(added.namespace))
            }
        };
    if let Place::Own(address) = place {
        let own = "ARGOSY_ADDRESS";
        spec.environment.retain(|(name, _)| name != own);
        let address = address.map(|address| (own.to_owned(), address.to_string()));
        spec.environment.extend(address);
    }
    if place != Place::Host {
        spec.hostname = Some(name.clone());
    }
    spec.network = network;
    if let Some(profile) = &spec.profile {
        spec.files = own_files(&name, place, profile.view.root != Root::Host);
    }
    Ok(namespace)
}

/// The namespace and address of a container behind the host, or of its group.
fn bridged(
    shared: &Shared,
    start: &Start,
    bridge: &v1::BridgeNetwork,
) -> Result<(OwnedFd, Ipv4Addr), NetworkError> {
    let take = || {
        let ports = bridges::publications(&bridge.published);
        let joined = shared.bridges.take(start.holder(), &ports)?;
        Ok((joined.namespace, joined.address))
    };
    match &start.group {
        Some(group) => shared.groups.joined(group.name, take),
        None => take(),
    }
}

/// The ports of the host that are the task's.
fn ports(task: &v1::TaskSpec) -> Vec<u16> {
    let named = task
        .resources
        .iter()
        .filter(|resource| resource.name == "ports");
    let ranges = named.flat_map(|resource| match &resource.value {
        Some(v1::resource::Value::Ranges(ranges)) => ranges.range.as_slice(),
        Some(v1::resource::Value::ScalarMilli(_) | v1::resource::Value::Set(_)) | None => &[],
    });
    let numbers = ranges.flat_map(|range| range.begin..=range.end.min(u64::from(u16::MAX)));
    numbers
        .filter_map(|number| u16::try_from(number).ok())
        .filter(|port| *port > 0)
        .collect()
}
