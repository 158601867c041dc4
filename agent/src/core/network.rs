//! The network that the tasks of a group share: of the first one's kind, with the published ports
//! of all.

use argosy_proto::v1;
use argosy_proto::v1::network::Mode;

/// Returns the network of these tasks; `None` means that of the host. Masters refuse a group whose
/// tasks name different kinds.
pub(super) fn of_group(specs: &[&v1::TaskSpec]) -> Option<v1::Network> {
    let mode = match mode(specs.first()?)? {
        Mode::Bridge(_) => Mode::Bridge(v1::BridgeNetwork {
            published: specs.iter().flat_map(|spec| published(spec)).collect(),
        }),
        // Masters refuse groups with CNI networks; an agent that receives one fails its tasks.
        other @ (Mode::Host(_) | Mode::None(_) | Mode::Cni(_)) => other.clone(),
    };
    Some(v1::Network { mode: Some(mode) })
}

fn mode(spec: &v1::TaskSpec) -> Option<&Mode> {
    spec.container.as_ref()?.network.as_ref()?.mode.as_ref()
}

fn published(spec: &v1::TaskSpec) -> Vec<v1::PublishedPort> {
    match mode(spec) {
        Some(Mode::Bridge(bridge)) => bridge.published.clone(),
        Some(Mode::Host(_) | Mode::None(_) | Mode::Cni(_)) | None => Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bridge(host_port: u32) -> Option<v1::Network> {
        let port = v1::PublishedPort {
            host_port,
            container_port: 80,
            udp: false,
        };
        let published = vec![port];
        let mode = Some(Mode::Bridge(v1::BridgeNetwork { published }));
        Some(v1::Network { mode })
    }

    fn spec(network: Option<v1::Network>) -> v1::TaskSpec {
        v1::TaskSpec {
            container: Some(v1::ContainerSpec {
                network,
                ..v1::ContainerSpec::default()
            }),
            ..v1::TaskSpec::default()
        }
    }

    #[test]
    fn a_group_publishes_the_ports_of_all_its_tasks() {
        let (one, unsaid, other) = (spec(bridge(8080)), spec(None), spec(bridge(8081)));
        let shared = of_group(&[&one, &unsaid, &other]).unwrap();
        let Some(Mode::Bridge(shared)) = shared.mode else {
            panic!("{shared:?}");
        };
        let ports: Vec<_> = shared.published.iter().map(|port| port.host_port).collect();
        assert_eq!(ports, [8080, 8081]);
        assert_eq!(of_group(&[&unsaid, &unsaid]), None);
    }
}
