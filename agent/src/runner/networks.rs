//! Chooses and creates the network of a container.

use std::net::IpAddr;
use std::os::fd::OwnedFd;

use argosy_isolation::{Isolation, LaunchSpec, Network, RootFs};
use argosy_network::cni::CniResult;
use argosy_proto::v1;
use argosy_proto::v1::network::Mode;
use argosy_state::task::{Cause, Code, Explanation};

use super::RunnerState;
use super::bridges;
use super::description::{failed, needs_root};
use super::etc_files::{NetworkLocation, host_name, own_files};
use super::requests::ContainerStart;
use crate::broker_client::BrokerClient;
use crate::core::CreateError;
use argosy_content::fetcher::ServerAccess;

/// Returns the network that the task or its group names.
fn named_network(start: &ContainerStart) -> Option<&v1::Network> {
    match &start.group {
        Some(group) => group.network.as_ref(),
        None => {
            let own = start.launch.spec.as_ref()?.container.as_ref()?;
            own.network.as_ref()
        }
    }
}

/// Returns the servers from which it may fetch.
pub(super) fn server_access(start: &ContainerStart) -> ServerAccess {
    match named_network(start).and_then(|network| network.mode.as_ref()) {
        Some(Mode::None(_)) => ServerAccess::None,
        None | Some(Mode::Host(_) | Mode::Bridge(_) | Mode::Cni(_)) => ServerAccess::Default,
    }
}

/// Returns the network mode for the named one, or the reason for a refusal. `own` probes for
/// private networks.
fn choose_mode(
    named: Option<&Mode>,
    allows_host: bool,
    own: impl FnOnce() -> Result<(), String>,
) -> Result<Mode, Cause> {
    match named {
        Some(Mode::Host(_)) if !allows_host => Err(Cause::new(Code::HostNetworkForbidden, &[])),
        Some(named) => Ok(named.clone()),
        None => match own() {
            Ok(()) => Ok(Mode::Bridge(v1::BridgeNetwork::default())),
            Err(_) if allows_host => Ok(Mode::Host(v1::HostNetwork {})),
            Err(why) => Err(Cause::new(Code::NetworkUnavailable, &[&why])),
        },
    }
}

/// Logs a warning if tasks that name no network cannot get a private one, or one without IPv6.
/// Blocks.
pub(super) fn log_availability(broker: &BrokerClient, allows_host: bool) {
    let why = match broker.check_networks() {
        Ok(None) => return,
        Ok(Some(why)) => {
            tracing::warn!(why, "networks of tasks have only IPv4");
            return;
        }
        Err(why) => why,
    };
    if allows_host {
        tracing::warn!(
            why,
            "tasks cannot have private networks: those that name no network are in the host's"
        );
    } else {
        tracing::warn!(
            why,
            "tasks cannot have private networks: those that name no network are refused; remove the cause, or allow the host's with --allow-host-network"
        );
    }
}

/// Creates its network, and the files with its own and other addresses. Called last, as a network
/// has to be released.
pub(super) fn network(
    shared: &RunnerState,
    start: &ContainerStart,
    plugged: Option<CniResult>,
    spec: &mut LaunchSpec,
) -> Result<Option<OwnedFd>, CreateError> {
    let task = start.launch.spec.as_ref();
    let refused = |why: String| failed(Explanation::of(Code::NetworkFailed, &[]).with_detail(why));
    let name = host_name(start.key.task.as_str());
    let named = named_network(start).and_then(|network| network.mode.as_ref());
    let allowed = shared.settings.allowed_security_options.host_network;
    let own = || shared.broker.check_networks().map(drop);
    let mode = choose_mode(named, allowed, own).map_err(failed)?;
    let mut addresses: Vec<IpAddr> = Vec::new();
    let (network, place, namespace) = match mode {
        Mode::Host(_) => {
            // Only the profile has an isolation layer that restricts ports.
            let ports = task.filter(|_| spec.profile.is_some()).map(ports);
            (Network::Host { ports }, NetworkLocation::Host, None)
        }
        Mode::None(_) if start.group.is_none() => (Network::None, NetworkLocation::None, None),
        Mode::None(_) | Mode::Bridge(_) | Mode::Cni(_) if spec.isolation != Isolation::Full => {
            return Err(needs_root());
        }
        Mode::None(_) => {
            let (namespace, _) = shared
                .groups
                .without_network(start.resource_owner(), &shared.broker)
                .map_err(refused)?;
            (Network::Joined, NetworkLocation::None, Some(namespace))
        }
        Mode::Bridge(bridge) => {
            let (namespace, given) = bridge_network(shared, start, &bridge).map_err(refused)?;
            addresses.extend(given);
            (
                Network::Joined,
                NetworkLocation::Private(&addresses),
                Some(namespace),
            )
        }
        Mode::Cni(_) => {
            let added = plugged.ok_or_else(|| failed(Cause::new(Code::NetworkNotMade, &[])))?;
            addresses.extend(added.addresses.first());
            let location = NetworkLocation::Private(&addresses);
            (Network::Joined, location, Some(added.namespace))
        }
    };
    if let NetworkLocation::Private(addresses) = place {
        add_addresses(addresses, &mut spec.environment);
    }
    if place != NetworkLocation::Host {
        spec.hostname = Some(name.clone());
    }
    spec.network = network;
    if let Some(profile) = &spec.profile {
        spec.files = own_files(&name, place, profile.view.root != RootFs::Host);
    }
    Ok(namespace)
}

/// Adds addresses to a task's environment: the first one, and the first IPv6 address after it.
fn add_addresses(addresses: &[IpAddr], environment: &mut Vec<(String, String)>) {
    let [first, ipv6] = ["ARGOSY_ADDRESS", "ARGOSY_ADDRESS6"];
    environment.retain(|(name, _)| name != first && name != ipv6);
    let later = addresses.iter().skip(1).find(|address| address.is_ipv6());
    let reported = [(first, addresses.first()), (ipv6, later)];
    environment.extend(reported.into_iter().filter_map(|(name, address)| {
        let address = address?;
        Some((name.to_owned(), address.to_string()))
    }));
}

/// Returns the namespace and addresses of a container on the bridge, or of its group.
fn bridge_network(
    shared: &RunnerState,
    start: &ContainerStart,
    bridge: &v1::BridgeNetwork,
) -> Result<(OwnedFd, Vec<IpAddr>), String> {
    let take = || {
        let ports = bridges::publications(&bridge.published);
        shared.broker.take_network(start.resource_owner(), ports)
    };
    match &start.group {
        Some(group) => shared.groups.group_namespace(group.name, take),
        None => take(),
    }
}

/// Returns the host ports of the task.
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_environment_contains_both_container_addresses_and_no_host_address() {
        let variable = |name: &str, value: &str| (name.to_owned(), value.to_owned());
        let mut environment = vec![
            variable("ARGOSY_ADDRESS", "127.0.0.1"),
            variable("HOME", "/"),
        ];
        let addresses = ["10.183.0.5", "fd12::ab7:5"].map(|text| text.parse().unwrap());
        add_addresses(&addresses, &mut environment);
        let expected = [
            variable("HOME", "/"),
            variable("ARGOSY_ADDRESS", "10.183.0.5"),
            variable("ARGOSY_ADDRESS6", "fd12::ab7:5"),
        ];
        assert_eq!(environment, expected);
        add_addresses(&addresses[..1], &mut environment);
        assert_eq!(environment, expected[..2]);
        add_addresses(&[], &mut environment);
        assert_eq!(environment, expected[..1]);
    }

    #[test]
    fn the_default_network_is_private_or_the_allowed_host_network() {
        let (host, bridge) = (
            Mode::Host(v1::HostNetwork {}),
            Mode::Bridge(v1::BridgeNetwork::default()),
        );
        let cannot = || Err("no nft".to_owned());
        let can = || Ok(());
        for allows_host in [false, true] {
            assert_eq!(choose_mode(None, allows_host, can), Ok(bridge.clone()));
            let none = Mode::None(v1::NoNetwork {});
            assert_eq!(choose_mode(Some(&none), allows_host, cannot), Ok(none));
        }
        assert_eq!(choose_mode(None, true, cannot), Ok(host.clone()));
        assert_eq!(choose_mode(Some(&host), true, can), Ok(host.clone()));
        for refused in [
            choose_mode(None, false, cannot),
            choose_mode(Some(&host), false, can),
        ] {
            let why = refused.unwrap_err().to_string();
            assert!(why.starts_with("container.network: this agent"), "{why}");
            assert!(why.ends_with("with --allow-host-network"), "{why}");
        }
    }
}
