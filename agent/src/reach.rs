//! Endpoints to which this agent's tasks, and their fetches, cannot connect: the ports of the
//! cluster, and the services that serve the host's credentials, unless the operator opens them.

use std::collections::BTreeSet;

use argosy_content::fetcher::FetchAllow;
use argosy_content::images::InsecureRegistry;
use argosy_proto::CLUSTER_PORTS;

use crate::broker_client::{BlockedEndpoints, BrokerClient};
use crate::config::{Config, TaskAllow};

/// The closed endpoints, and the cgroups to which they are closed.
pub(crate) struct EgressRules {
    /// Closes endpoints. `None` if nothing is closed.
    broker: Option<BrokerClient>,
    allowed: BTreeSet<TaskAllow>,
    /// The settings of `--fetch-allow`: the service itself checks addresses against them, this is
    /// the second isolation layer.
    fetch_allow: Vec<FetchAllow>,
    /// The registries of `--insecure-registry`.
    registries: Vec<InsecureRegistry>,
    ports: BTreeSet<u16>,
}

impl EgressRules {
    /// Returns the settings of the operator.
    pub(crate) fn new(config: &Config, broker: Option<BrokerClient>) -> Self {
        let mut ports: BTreeSet<u16> = CLUSTER_PORTS.collect();
        ports.extend(config.api_port);
        ports.extend(&config.task_deny);
        ports.extend(port(&config.address));
        ports.extend(config.masters.iter().filter_map(|master| port(master)));
        Self {
            broker,
            fetch_allow: config.fetch_allow.clone(),
            registries: config.images.insecure_registries.clone(),
            allowed: config.task_allow.iter().copied().collect(),
            ports,
        }
    }

    /// Adds a master's address: its port is closed from now on, whatever `--masters` contains.
    pub(crate) fn block_master(&mut self, master: &str) {
        let is_new = port(master).is_some_and(|port| self.ports.insert(port));
        let Some(broker) = self.broker.clone().filter(|_| is_new) else {
            return;
        };
        let (tasks, content) = (self.blocked(), self.blocked_for_content());
        let master = master.to_owned();
        // The request waits for others, and the agent's loop must not wait.
        let close = move || {
            if let Err(why) = broker.block_endpoints(tasks, content) {
                tracing::warn!(why, master, "tasks can connect to this master's port");
            }
        };
        let thread = std::thread::Builder::new().name("reach".to_owned());
        if let Err(error) = thread.spawn(close) {
            tracing::warn!(%error, "tasks can connect to a master's port: no thread can be started");
        }
    }

    pub(crate) fn blocked(&self) -> BlockedEndpoints {
        let is_closed = |port: &u16| !self.allowed.contains(&TaskAllow::Port(*port));
        BlockedEndpoints {
            ports: self.ports.iter().copied().filter(is_closed).collect(),
            metadata: !self.allowed.contains(&TaskAllow::Metadata),
        }
    }
}

impl EgressRules {
    /// Returns the endpoints closed to the content service. A port that the operator opens is open
    /// at every address here, and a network opens all ports: a filter by addresses would duplicate
    /// the check of the service.
    pub(crate) fn blocked_for_content(&self) -> BlockedEndpoints {
        let registries = || self.registries.iter().map(InsecureRegistry::server);
        let is_open = |port: &u16| {
            let mut allowed = self.fetch_allow.iter().chain(registries());
            allowed.any(|allow| match allow {
                FetchAllow::Network { .. } => true,
                FetchAllow::Server { port: open, .. } => open == port,
            })
        };
        BlockedEndpoints {
            ports: self
                .ports
                .iter()
                .copied()
                .filter(|port| !is_open(port))
                .collect(),
            // Most registries are elsewhere: such a registry opens nothing that it does not need.
            metadata: self.fetch_allow.is_empty() && !registries().any(FetchAllow::is_at_metadata),
        }
    }
}

/// Returns the port of `host:port`.
fn port(address: &str) -> Option<u16> {
    address.rsplit_once(':')?.1.parse().ok()
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::*;

    fn config() -> Config {
        let masters = vec!["10.0.0.1:6050".to_owned(), "[fd00::1]:6051".to_owned()];
        Config::new(PathBuf::from("/d"), masters, "10.0.0.9:7051".to_owned())
    }

    #[test]
    fn cluster_ports_are_blocked_unless_allowed() {
        let closed = EgressRules::new(&config(), None).blocked();
        assert_eq!(closed.ports, [5_050, 5_051, 5_052, 6_050, 6_051, 7_051]);
        assert!(closed.metadata);
        let mut config = config();
        config.task_allow = ["5050", "6051", "metadata"]
            .map(|one| one.parse().unwrap())
            .into();
        config.task_deny = vec![6_052];
        config.api_port = Some(7_052);
        let closed = EgressRules::new(&config, None).blocked();
        assert_eq!(closed.ports, [5_051, 5_052, 6_050, 6_052, 7_051, 7_052]);
        assert!(!closed.metadata);
    }

    #[test]
    fn the_content_service_reaches_only_allowed_endpoints() {
        let mut config = config();
        let closed = |config: &Config| {
            let closed = EgressRules::new(config, None).blocked_for_content();
            (closed.ports, closed.metadata)
        };
        let all = vec![5_050, 5_051, 5_052, 6_050, 6_051, 7_051];
        // Endpoints are opened separately for tasks and for their fetches.
        config.task_allow = vec!["5051".parse().unwrap(), "metadata".parse().unwrap()];
        assert_eq!(closed(&config), (all, true));
        config.fetch_allow = vec!["files.example:6050".parse().unwrap()];
        let rest = vec![5_050, 5_051, 5_052, 6_051, 7_051];
        assert_eq!(closed(&config), (rest, false));
        config.fetch_allow = vec!["10.0.0.0/8".parse().unwrap()];
        assert_eq!(closed(&config), (Vec::new(), false));
        config.fetch_allow = Vec::new();
        let listing = |text: &str| vec![text.parse().unwrap()];
        config.images.insecure_registries = listing("registry.example:6050");
        let rest = vec![5_050, 5_051, 5_052, 6_051, 7_051];
        assert_eq!(closed(&config), (rest, true));
        config.images.insecure_registries = listing("169.254.1.1:5000");
        assert!(!closed(&config).1);
    }

    #[test]
    fn endpoints_of_masters_added_later_are_blocked() {
        let mut reach = EgressRules::new(&config(), None);
        reach.block_master("10.0.0.2:6050");
        reach.block_master("10.0.0.3:9050");
        assert_eq!(reach.blocked().ports.last(), Some(&9_050));
    }
}
