//! Targets for the metrics of tasks.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};

use argosy_state::registry::Registry;
use argosy_state::task::{Discovery, DiscoveryPort, Task, TaskState};
use tonic::Status;

use super::{TargetLabels, TargetList, zone_of};
use crate::service::agent_api::is_host_and_port;

/// Prefix of the labels of a task's discovery.
const OWN_LABEL: &str = "__meta_argosy_label_";

/// Adds a task, if it runs and has a port of metrics that can be reached.
pub(super) fn add(list: &mut TargetList, registry: &Registry, task: &Task) -> Result<(), Status> {
    let found = task.spec.discovery.as_deref().filter(|_| is_running(task));
    let Some((found, port)) = found.and_then(|found| Some((found, metrics_port(found)?))) else {
        return Ok(());
    };
    let Some(agent) = registry.agent(task.agent) else {
        return Ok(());
    };
    let api = agent.report.info.address.as_str();
    let host = api.rsplit_once(':').filter(|_| is_host_and_port(api));
    let host_port = task.spec.host_port(port.number, port.udp);
    let Some(((host, _), host_port)) = host.zip(host_port) else {
        return Ok(());
    };
    let framework = registry.framework(task.key.framework);
    let (id, node) = (task.key.framework.to_string(), agent.id.to_string());
    let path = port.labels.get(DiscoveryPort::PATH).map(String::as_str);
    let mut labels = TargetLabels::of("task", &node);
    labels.push("zone", zone_of(agent));
    labels.push("task", task.key.task.as_str());
    labels.push("framework", &id);
    labels.push(
        "framework_name",
        framework.map_or("", |framework| &framework.info.name),
    );
    labels.push("role", task.role.as_str());
    labels.push("service", &found.name);
    labels.push(
        "metrics_path",
        path.filter(|path| path.starts_with('/')).unwrap_or(""),
    );
    labels.0.extend(own_labels(&found.labels));
    list.add(&format!("{host}:{host_port}"), labels)
}

/// Returns whether a task ran when its agent last reported it. One whose agent is unreachable stays
/// in the list, so that its absence is seen.
fn is_running(task: &Task) -> bool {
    task.agent_state == TaskState::Running && !task.is_terminal() && !task.is_stopped()
}

fn metrics_port(found: &Discovery) -> Option<&DiscoveryPort> {
    let mut ports = found.ports.iter();
    ports.find(|port| port.name == DiscoveryPort::METRICS && !port.udp)
}

/// Returns the labels under names that Prometheus accepts. Of names that become the same, the first
/// one is kept.
fn own_labels(labels: &BTreeMap<String, String>) -> impl Iterator<Item = (Cow<'_, str>, &str)> {
    let mut seen = BTreeSet::new();
    labels.iter().filter_map(move |(name, value)| {
        let plain = |char: char| match char.is_ascii_alphanumeric() {
            true => char,
            false => '_',
        };
        let name: String = name.chars().map(plain).collect();
        let is_first = seen.insert(name.clone());
        is_first.then(|| (Cow::from(format!("{OWN_LABEL}{name}")), value.as_str()))
    })
}

#[cfg(test)]
mod tests {
    use argosy_state::command::{CommandReply, OperatorOperation};
    use argosy_state::ids::{AgentId, FrameworkId, TaskKey};
    use argosy_state::limits;
    use argosy_state::task::{ContainerNetwork, PublishedPort, TaskSpec};
    use argosy_state::testing::{World, key, spec};
    use serde_json::{Value, json};

    use super::*;
    use crate::http::discovery::everything;

    fn listed(registry: &Registry, limit: usize) -> Result<Vec<Value>, Status> {
        let mut list = TargetList::new(limit, everything());
        let mut after = None;
        while let Some(next) = list.add_tasks(registry, after.as_ref())? {
            after = Some(next);
        }
        Ok(serde_json::from_str(&list.end()).unwrap())
    }

    fn pairs<const N: usize>(pairs: [(&str, &str); N]) -> BTreeMap<String, String> {
        pairs
            .map(|(name, value)| (name.to_owned(), value.to_owned()))
            .into()
    }

    /// Returns a task that serves metrics at its port 80, which is a port of the host.
    fn measured(name: &str, host: u16) -> TaskSpec {
        let mut task = spec(name, &format!("cpus:0.001;ports:[{host}-{host}]"));
        task.container.network = ContainerNetwork::Bridge(vec![PublishedPort {
            host,
            container: 80,
            udp: false,
        }]);
        let port = DiscoveryPort {
            name: DiscoveryPort::METRICS.to_owned(),
            number: 80,
            udp: false,
            labels: BTreeMap::new(),
        };
        task.discovery = Some(Box::new(Discovery {
            ports: vec![port],
            ..Discovery::default()
        }));
        task
    }

    struct Cluster {
        world: World,
        agent: AgentId,
        framework: FrameworkId,
    }

    impl Cluster {
        fn new() -> Self {
            let mut world = World::new();
            let agent = world.register("cpus:8;ports:[30000-32999]");
            let framework = world.subscribe("shop");
            Self {
                world,
                agent,
                framework,
            }
        }

        fn launch(&mut self, task: TaskSpec) -> TaskKey {
            let key = key(self.framework, task.task.as_str());
            let resources = task.resources.to_string();
            let offer = self.world.offer(self.framework, self.agent, &resources);
            let applied = self.world.accept(self.framework, vec![offer], vec![task]);
            match applied.outcome {
                Ok(CommandReply::Call { refused, .. }) if refused.is_empty() => key,
                other => panic!("{key}: {other:?}"),
            }
        }

        fn run(&mut self, task: TaskSpec) -> TaskKey {
            let key = self.launch(task);
            self.world.update(&key, TaskState::Running);
            key
        }

        fn names(&self) -> Vec<String> {
            let groups = listed(&self.world.registry, 99_999).unwrap();
            let name = |group: &Value| group["labels"]["__meta_argosy_task"].to_string();
            groups.iter().map(name).collect()
        }
    }

    #[test]
    fn a_task_is_reached_at_the_host_of_its_agent_and_the_published_port() {
        let mut cluster = Cluster::new();
        let mut task = measured("web-1", 31_000);
        let found = task.discovery.as_deref_mut().unwrap();
        found.name = "shop front".to_owned();
        found.labels = pairs([("team", "blue")]);
        found.ports[0].labels = pairs([("path", "/stats")]);
        cluster.run(task);
        let set = OperatorOperation::SetAttribute {
            agent: cluster.agent,
            name: "zone".to_owned(),
            value: "east".to_owned(),
        };
        cluster.world.operate(set).unwrap();
        let expected = json!([{
            "targets": ["127.0.0.1:31000"],
            "labels": {
                "__meta_argosy_kind": "task",
                "__meta_argosy_node": "agent-1",
                "__meta_argosy_zone": "east",
                "__meta_argosy_task": "web-1",
                "__meta_argosy_framework": "framework-1",
                "__meta_argosy_framework_name": "shop",
                "__meta_argosy_role": "*",
                "__meta_argosy_service": "shop front",
                "__meta_argosy_metrics_path": "/stats",
                "__meta_argosy_label_team": "blue",
            },
        }]);
        let found = listed(&cluster.world.registry, 9_999).unwrap();
        assert_eq!(json!(found), expected);
    }

    #[test]
    fn only_tasks_that_run_and_have_a_tcp_port_of_metrics_are_listed() {
        let mut cluster = Cluster::new();
        cluster.launch(measured("staging", 30_000));
        let mut without = measured("without", 30_001);
        without.discovery = None;
        cluster.run(without);
        let mut other = measured("other", 30_002);
        other.discovery.as_deref_mut().unwrap().ports[0].name = "http".to_owned();
        cluster.run(other);
        let mut over_udp = measured("udp", 30_003);
        over_udp.discovery.as_deref_mut().unwrap().ports[0].udp = true;
        if let ContainerNetwork::Bridge(published) = &mut over_udp.container.network {
            published[0].udp = true;
        }
        cluster.run(over_udp);
        assert_eq!(cluster.names(), [""; 0]);
        let running = cluster.run(measured("running", 30_004));
        let ended = cluster.run(measured("ended", 30_005));
        assert_eq!(cluster.names(), ["\"ended\"", "\"running\""]);
        cluster.world.update(&ended, TaskState::Failed);
        assert_eq!(cluster.names(), ["\"running\""]);
        cluster.world.mark_unreachable(cluster.agent);
        assert_eq!(cluster.names(), ["\"running\""], "it may still run");
        cluster.world.register_again(cluster.agent);
        cluster.world.update(&running, TaskState::Killing);
        assert_eq!(cluster.names(), [""; 0]);
    }

    #[test]
    fn hostile_labels_are_valid_labels_of_prometheus_and_replace_no_others() {
        let mut cluster = Cluster::new();
        let mut task = measured("hostile", 31_000);
        let found = task.discovery.as_deref_mut().unwrap();
        found.name = "\"},{\"targets\":[\"".to_owned();
        found.labels = pairs([
            ("a\"b", "quote\"'\\"),
            ("a'b", "hidden by the former"),
            ("job", "argosy-master"),
            ("__address__", "10.0.0.1:22"),
            ("näme{}", "{{ $labels }}"),
        ]);
        found.ports[0].labels = pairs([("path", "http://elsewhere/")]);
        cluster.run(task);
        let groups = listed(&cluster.world.registry, 9_999).unwrap();
        let [group] = &groups[..] else {
            panic!("{groups:?}");
        };
        assert_eq!(group["targets"], json!(["127.0.0.1:31000"]));
        let labels = group["labels"].as_object().unwrap();
        for name in labels.keys() {
            let rest = name.strip_prefix("__meta_argosy_").unwrap();
            let is_plain = |byte: u8| byte == b'_' || byte.is_ascii_alphanumeric();
            assert!(rest.bytes().all(is_plain), "{name}");
        }
        let own = |name: &str| labels[&format!("{OWN_LABEL}{name}")].as_str().unwrap();
        assert_eq!(own("a_b"), "quote\"'\\");
        assert_eq!(own("job"), "argosy-master");
        assert_eq!(own("__address__"), "10.0.0.1:22");
        assert_eq!(own("n_me__"), "{{ $labels }}");
        assert!(!labels.contains_key("__meta_argosy_metrics_path"));
        assert_eq!(labels["__meta_argosy_service"], "\"},{\"targets\":[\"");
    }

    #[test]
    fn ten_thousand_labels_are_refused_and_the_most_are_listed() {
        let mut cluster = Cluster::new();
        let with = |name: &str, host, count: usize| {
            let mut task = measured(name, host);
            let labels = (0..count).map(|at| (format!("l{at}"), "\"".repeat(50)));
            task.discovery.as_deref_mut().unwrap().labels = labels.collect();
            task
        };
        let offer = cluster.world.offer(
            cluster.framework,
            cluster.agent,
            "cpus:1;ports:[31000-31000]",
        );
        let many = with("many", 31_000, 10_000);
        let applied = cluster
            .world
            .accept(cluster.framework, vec![offer], vec![many]);
        let Ok(CommandReply::Call { refused, .. }) = applied.outcome else {
            panic!("{applied:?}");
        };
        let why = refused[0].1.to_string();
        assert!(why.starts_with("discovery.labels: 10000 labels"), "{why}");
        cluster.run(with("most", 31_001, limits::DISCOVERY_LABELS));
        let groups = listed(&cluster.world.registry, 99_999).unwrap();
        let labels = groups[0]["labels"].as_object().unwrap();
        let own = labels.keys().filter(|name| name.starts_with(OWN_LABEL));
        assert_eq!(own.count(), limits::DISCOVERY_LABELS);
    }

    #[test]
    fn a_list_of_several_parts_is_complete_and_a_longer_one_than_the_limit_is_refused() {
        let mut cluster = Cluster::new();
        for at in 0..2 * super::super::PART + 1 {
            let host = 30_000 + u16::try_from(at).unwrap();
            cluster.run(measured(&format!("t{at}"), host));
        }
        let registry = &cluster.world.registry;
        let all = listed(registry, super::super::LIST_BYTES).unwrap();
        assert_eq!(all.len(), 2 * super::super::PART + 1);
        let bytes = serde_json::to_string(&all).unwrap().len();
        let refused = listed(registry, bytes - 1).unwrap_err();
        assert_eq!(refused.code(), tonic::Code::ResourceExhausted);
        assert!(refused.message().contains("kinds"), "{refused}");
    }
}
