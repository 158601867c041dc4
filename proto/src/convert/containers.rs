//! Conversion of task containers.

use argosy_state::task::{CniNetwork, Container, ContainerNetwork, ImagePull, PublishedPort};

use super::InvalidMessage;
use super::security_options::{opt_outs, opt_outs_from, sizes, sizes_from};
use crate::v1;
use crate::v1::network::Mode;

/// Returns a container on the wire; absent if it is the agent's default.
pub(super) fn container(container: &Container) -> Option<v1::ContainerSpec> {
    (*container != Container::default()).then(|| v1::ContainerSpec {
        image: container.image.clone(),
        network: network(&container.network, container.security_options.host_network),
        opt_outs: opt_outs(&container.security_options),
        sizes: sizes(container.sizes),
        pull: match container.pull {
            None => v1::ImagePull::Unspecified,
            Some(ImagePull::IfAbsent) => v1::ImagePull::IfAbsent,
            Some(ImagePull::Always) => v1::ImagePull::Always,
        }
        .into(),
    })
}

/// Returns a network on the wire; absent if it is the agent's default. `host_network`: whether that
/// means the network of the host.
#[must_use]
pub fn network(network: &ContainerNetwork, host_network: bool) -> Option<v1::Network> {
    let mode = match network {
        ContainerNetwork::AgentDefault if host_network => Mode::Host(v1::HostNetwork {}),
        ContainerNetwork::AgentDefault => return None,
        ContainerNetwork::None => Mode::None(v1::NoNetwork {}),
        ContainerNetwork::Bridge(ports) => Mode::Bridge(v1::BridgeNetwork {
            published: published(ports),
        }),
        ContainerNetwork::Cni(cni) => Mode::Cni(v1::CniNetwork {
            name: cni.name.clone(),
            published: published(&cni.published),
        }),
    };
    Some(v1::Network { mode: Some(mode) })
}

/// Reads a container.
pub(super) fn container_from(wire: Option<v1::ContainerSpec>) -> Result<Container, InvalidMessage> {
    let Some(wire) = wire else {
        return Ok(Container::default());
    };
    let mut opt_outs = opt_outs_from(wire.opt_outs);
    let network = match wire.network.and_then(|network| network.mode) {
        None => ContainerNetwork::AgentDefault,
        Some(Mode::Host(v1::HostNetwork {})) => {
            opt_outs.iter_mut().for_each(|it| it.host_network = true);
            ContainerNetwork::AgentDefault
        }
        Some(Mode::None(v1::NoNetwork {})) => ContainerNetwork::None,
        Some(Mode::Bridge(bridge)) => ContainerNetwork::Bridge(ports(bridge.published)?),
        Some(Mode::Cni(cni)) => ContainerNetwork::Cni(CniNetwork {
            name: cni.name,
            published: ports(cni.published)?,
        }),
    };
    Ok(Container {
        image: wire.image,
        network,
        security_options: opt_outs.map_err(|why| why.inside("container.opt_outs"))?,
        sizes: sizes_from(wire.sizes),
        pull: image_pull_from(wire.pull).map_err(|why| why.inside("container"))?,
    })
}

/// Reads the pull policy of an image; an absent one means the agent's default.
///
/// # Errors
/// Names the field if the value is invalid, or of a newer release.
pub fn image_pull_from(wire: i32) -> Result<Option<ImagePull>, InvalidMessage> {
    match v1::ImagePull::try_from(wire) {
        Ok(v1::ImagePull::Unspecified) => Ok(None),
        Ok(v1::ImagePull::IfAbsent) => Ok(Some(ImagePull::IfAbsent)),
        Ok(v1::ImagePull::Always) => Ok(Some(ImagePull::Always)),
        Err(_) => {
            let text = format!("{wire} is not a pull policy: give 1 (if absent) or 2 (always)");
            Err(InvalidMessage::new("pull", text))
        }
    }
}

fn published(ports: &[PublishedPort]) -> Vec<v1::PublishedPort> {
    let published = ports.iter().map(|port| v1::PublishedPort {
        host_port: port.host.into(),
        container_port: port.container.into(),
        udp: port.udp,
    });
    published.collect()
}

fn ports(wire: Vec<v1::PublishedPort>) -> Result<Vec<PublishedPort>, InvalidMessage> {
    wire.into_iter().map(port).collect()
}

fn port(wire: v1::PublishedPort) -> Result<PublishedPort, InvalidMessage> {
    let number = |field: &str, number: u32| {
        let field = format!("container.network.published.{field}");
        let fits = u16::try_from(number).ok().filter(|port| *port > 0);
        fits.ok_or_else(|| {
            InvalidMessage::new(&field, format!("{number} is not a port: 1 to 65535"))
        })
    };
    Ok(PublishedPort {
        host: number("host_port", wire.host_port)?,
        container: number("container_port", wire.container_port)?,
        udp: wire.udp,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn containers_round_trip() {
        let port = PublishedPort {
            host: 8080,
            container: 80,
            udp: true,
        };
        let cni = CniNetwork {
            name: "blue".to_owned(),
            published: vec![port],
        };
        for network in [
            ContainerNetwork::AgentDefault,
            ContainerNetwork::None,
            ContainerNetwork::Bridge(vec![port]),
            ContainerNetwork::Cni(cni),
        ] {
            for image in ["", "web:1"] {
                let ours = Container {
                    image: image.to_owned(),
                    network: network.clone(),
                    ..Container::default()
                };
                assert_eq!(container_from(container(&ours)), Ok(ours));
            }
        }
        assert_eq!(container(&Container::default()), None);
    }

    #[test]
    fn pull_policies_round_trip_and_unknown_ones_are_named() {
        for pull in [ImagePull::IfAbsent, ImagePull::Always] {
            let ours = Container {
                image: "web:1".to_owned(),
                pull: Some(pull),
                ..Container::default()
            };
            assert_eq!(container_from(container(&ours)), Ok(ours));
        }
        let wire = v1::ContainerSpec {
            pull: 3,
            ..v1::ContainerSpec::default()
        };
        let refused = container_from(Some(wire)).unwrap_err();
        assert_eq!(refused.field, "container.pull");
    }

    #[test]
    fn the_host_network_is_read_from_either_field_and_written_to_both() {
        let host = v1::Network {
            mode: Some(Mode::Host(v1::HostNetwork {})),
        };
        let opt_outs = v1::OptOuts {
            host_network: true,
            ..v1::OptOuts::default()
        };
        let both = v1::ContainerSpec {
            network: Some(host.clone()),
            opt_outs: Some(opt_outs.clone()),
            ..v1::ContainerSpec::default()
        };
        let by_network = v1::ContainerSpec {
            network: Some(host),
            ..v1::ContainerSpec::default()
        };
        let by_opt_out = v1::ContainerSpec {
            opt_outs: Some(opt_outs),
            ..v1::ContainerSpec::default()
        };
        for asked in [by_network, by_opt_out, both.clone()] {
            let ours = container_from(Some(asked)).unwrap();
            assert_eq!(container(&ours), Some(both.clone()));
        }
    }

    #[test]
    fn an_invalid_published_port_names_its_field() {
        for (host_port, container_port, field) in
            [(0, 80, "host_port"), (80, 65_536, "container_port")]
        {
            let bridge = v1::BridgeNetwork {
                published: vec![v1::PublishedPort {
                    host_port,
                    container_port,
                    udp: false,
                }],
            };
            let wire = v1::ContainerSpec {
                image: String::new(),
                network: Some(v1::Network {
                    mode: Some(Mode::Bridge(bridge)),
                }),
                ..v1::ContainerSpec::default()
            };
            let refused = container_from(Some(wire)).unwrap_err();
            assert_eq!(
                refused.field,
                format!("container.network.published.{field}")
            );
        }
    }
}
