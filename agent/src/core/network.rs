//! The network that the tasks of a group share: of the first one's kind, with the published ports
//! of all.

use argosy_state::task::{ContainerNetwork, PublishedPort, TaskSpec};

use super::input::GroupNetwork;

/// Returns the network of these tasks; `None` without tasks. Masters refuse a group whose tasks
/// name different kinds.
pub(super) fn of_group(specs: &[&TaskSpec]) -> Option<GroupNetwork> {
    let first = &specs.first()?.container;
    let network = match &first.network {
        ContainerNetwork::Bridge(_) => {
            ContainerNetwork::Bridge(specs.iter().flat_map(|spec| published(spec)).collect())
        }
        // Masters refuse groups with CNI networks; an agent that receives one fails its tasks.
        other @ (ContainerNetwork::AgentDefault
        | ContainerNetwork::None
        | ContainerNetwork::Cni(_)) => other.clone(),
    };
    Some(GroupNetwork {
        network,
        is_host: first.security_options.host_network,
    })
}

fn published(spec: &TaskSpec) -> Vec<PublishedPort> {
    match &spec.container.network {
        ContainerNetwork::Bridge(published) => published.clone(),
        ContainerNetwork::AgentDefault | ContainerNetwork::None | ContainerNetwork::Cni(_) => {
            Vec::new()
        }
    }
}

#[cfg(test)]
mod tests {
    use argosy_state::ids::TaskId;
    use argosy_state::task::CommandSpec;

    use super::*;

    fn bridge(host: u16) -> ContainerNetwork {
        ContainerNetwork::Bridge(vec![PublishedPort {
            host,
            container: 80,
            udp: false,
        }])
    }

    fn spec(network: ContainerNetwork) -> TaskSpec {
        let mut spec = TaskSpec::new(TaskId::new("t").unwrap(), CommandSpec::Image);
        spec.container.network = network;
        spec
    }

    #[test]
    fn a_group_publishes_the_ports_of_all_its_tasks() {
        let unsaid = spec(ContainerNetwork::AgentDefault);
        let (one, other) = (spec(bridge(8080)), spec(bridge(8081)));
        let shared = of_group(&[&one, &unsaid, &other]).unwrap();
        let ContainerNetwork::Bridge(published) = shared.network else {
            panic!("{shared:?}");
        };
        let ports: Vec<_> = published.iter().map(|port| port.host).collect();
        assert_eq!(ports, [8080, 8081]);
        let default = GroupNetwork {
            network: ContainerNetwork::AgentDefault,
            is_host: false,
        };
        assert_eq!(of_group(&[&unsaid, &unsaid]), Some(default));
    }
}
