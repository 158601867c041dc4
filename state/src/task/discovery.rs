//! The description by which other programs find a task.

use std::collections::BTreeMap;

use super::{CniNetwork, ContainerNetwork, TaskSpec};
use crate::codec::canonical::CanonicalWriter;
use crate::codec::stored::stored;
use crate::resources::{Resources, Value};

/// The name, ports and labels by which other programs find a task. Masters store and list them;
/// agents ignore them.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Discovery {
    /// The name of the service, which all its tasks share; may be empty.
    pub name: String,
    /// The ports.
    pub ports: Vec<DiscoveryPort>,
    /// Free text.
    pub labels: BTreeMap<String, String>,
}

/// A port at which other programs reach a task.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DiscoveryPort {
    /// The purpose of the port; unique in the task.
    pub name: String,
    /// The port at which the task listens.
    pub number: u16,
    /// Whether the protocol is UDP instead of TCP.
    pub udp: bool,
    /// Free text.
    pub labels: BTreeMap<String, String>,
}

impl DiscoveryPort {
    /// The name of the port at which Prometheus reads metrics.
    pub const METRICS: &'static str = "metrics";
    /// The label of that port with the path of the metrics; by default `/metrics`.
    pub const PATH: &'static str = "path";
}

impl TaskSpec {
    /// Returns the port of the agent's host at which other hosts reach this port of the task, if
    /// there is one. A task that names no network has none: its agent chooses the network.
    #[must_use]
    pub fn host_port(&self, number: u16, udp: bool) -> Option<u16> {
        let executor = self.executor.as_deref();
        let container = executor.map_or(&self.container, |executor| &executor.container);
        let published = match &container.network {
            ContainerNetwork::AgentDefault if container.security_options.host_network => {
                let of_executor = executor.map(|executor| &executor.resources);
                let mut resources = [Some(&self.resources), of_executor].into_iter().flatten();
                return resources
                    .any(|resources| has_port(resources, number))
                    .then_some(number);
            }
            ContainerNetwork::AgentDefault | ContainerNetwork::None => return None,
            ContainerNetwork::Bridge(published)
            | ContainerNetwork::Cni(CniNetwork { published, .. }) => published,
        };
        let mut published = published.iter();
        let port = published.find(|port| port.container == number && port.udp == udp)?;
        Some(port.host)
    }
}

/// Returns whether a port is among these resources.
pub(crate) fn has_port(resources: &Resources, port: u16) -> bool {
    let mut ports = resources
        .iter()
        .filter(|resource| &*resource.identity.name == "ports");
    ports.any(|resource| match &resource.value {
        Value::Ranges(ranges) => ranges
            .iter()
            .any(|range| (range.begin..=range.end).contains(&port.into())),
        Value::Scalar(_) | Value::Set(_) => false,
    })
}

stored!(message Discovery {
    1 name: Text,
    2 ports: PartList,
    3 labels: TextMap,
});

impl Discovery {
    /// Appends the fields that the fingerprint of a request covers. The numbers belong to the
    /// fingerprint, not to the wire format.
    pub(crate) fn fingerprint(&self, out: &mut CanonicalWriter) {
        let Discovery {
            name,
            ports,
            labels,
        } = self;
        out.text(1, name);
        out.list(2, ports, |out, one: &DiscoveryPort| one.fingerprint(out));
        out.texts(3, labels);
    }
}

stored!(message DiscoveryPort {
    1 name: Text,
    2 number: Number or "port of a task",
    3 udp: Number,
    4 labels: TextMap,
});

impl DiscoveryPort {
    /// Appends the fields that the fingerprint of a request covers. The numbers belong to the
    /// fingerprint, not to the wire format.
    pub(crate) fn fingerprint(&self, out: &mut CanonicalWriter) {
        let DiscoveryPort {
            name,
            number,
            udp,
            labels,
        } = self;
        out.text(1, name);
        out.number(2, (*number).into());
        out.flag(3, *udp);
        out.texts(4, labels);
    }
}

#[cfg(test)]
impl Discovery {
    /// Returns a description that uses every field.
    pub(crate) fn sample() -> Self {
        let labels = |name: &str, value: &str| [(name.to_owned(), value.to_owned())].into();
        Self {
            name: "web".to_owned(),
            ports: vec![DiscoveryPort {
                name: DiscoveryPort::METRICS.to_owned(),
                number: 9_100,
                udp: true,
                labels: labels(DiscoveryPort::PATH, "/stats"),
            }],
            labels: labels("team", "blue"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::task::PublishedPort;
    use crate::testing;

    fn in_network(network: ContainerNetwork) -> TaskSpec {
        let mut spec = testing::spec("t", "cpus:1;ports:[31000-31001]");
        spec.container.network = network;
        spec
    }

    #[test]
    fn a_port_of_a_task_is_reached_at_the_published_port_or_at_the_same_in_the_hosts_network() {
        let published = vec![
            PublishedPort {
                host: 31_000,
                container: 53,
                udp: true,
            },
            PublishedPort {
                host: 31_001,
                container: 53,
                udp: false,
            },
        ];
        let plugged = ContainerNetwork::Cni(CniNetwork {
            name: "blue".to_owned(),
            published: published.clone(),
        });
        for network in [ContainerNetwork::Bridge(published), plugged] {
            let spec = in_network(network);
            assert_eq!(spec.host_port(53, false), Some(31_001));
            assert_eq!(spec.host_port(53, true), Some(31_000));
            assert_eq!(spec.host_port(31_000, true), None);
        }
        let mut own = in_network(ContainerNetwork::AgentDefault);
        assert_eq!(own.host_port(31_000, false), None, "its network is unknown");
        own.container.security_options.host_network = true;
        assert_eq!(own.host_port(31_000, false), Some(31_000));
        assert_eq!(own.host_port(31_002, false), None, "not among its ports");
        let none = in_network(ContainerNetwork::None);
        assert_eq!(none.host_port(31_000, false), None);
    }

    #[test]
    fn a_task_of_an_executor_is_reached_in_the_network_of_the_executor() {
        let mut executor = testing::executor("e", "cpus:1;ports:[31005-31005]");
        executor.container.security_options.host_network = true;
        let mut spec = in_network(ContainerNetwork::AgentDefault);
        spec.executor = Some(Box::new(executor));
        assert_eq!(spec.host_port(31_000, false), Some(31_000));
        assert_eq!(spec.host_port(31_005, false), Some(31_005));
        assert_eq!(spec.host_port(31_006, false), None);
    }
}
