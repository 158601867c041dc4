//! Validation of the name, ports and labels by which other programs find a task.

use std::collections::{BTreeMap, BTreeSet};

use crate::limits;
use crate::task::{Discovery, DiscoveryPort, TaskSpec};

/// The name of an invalid field, and a message that names the remedy.
type FieldError = (String, String);

/// Validates the discovery of a description.
pub(super) fn check(spec: &TaskSpec) -> Result<(), FieldError> {
    let Some(Discovery {
        name,
        ports,
        labels,
    }) = spec.discovery.as_deref()
    else {
        return Ok(());
    };
    let wrong = |field: &str, text| Err((format!("discovery.{field}"), text));
    if !is_plain(name) {
        return wrong("name", plain_text());
    }
    if let Err(text) = check_labels(labels) {
        return wrong("labels", text);
    }
    let most = limits::DISCOVERY_PORTS;
    if ports.len() > most {
        return wrong(
            "ports",
            format!("{} are given; at most {most}", ports.len()),
        );
    }
    let mut names = BTreeSet::new();
    for (at, port) in ports.iter().enumerate() {
        if let Err((field, text)) = check_port(spec, port) {
            return wrong(&format!("ports[{at}].{field}"), text);
        }
        if !names.insert(&port.name) {
            let text = format!("two ports have the name {:?}: rename one", port.name);
            return wrong(&format!("ports[{at}].name"), text);
        }
    }
    Ok(())
}

fn check_port(spec: &TaskSpec, port: &DiscoveryPort) -> Result<(), (&'static str, String)> {
    let DiscoveryPort {
        name,
        number,
        udp,
        labels,
    } = port;
    if name.is_empty() || !is_plain(name) {
        return Err(("name", plain_text()));
    }
    if *number == 0 || spec.host_port(*number, *udp).is_none() {
        let protocol = if *udp { "UDP" } else { "TCP" };
        let text = format!(
            "no port of the host leads to {protocol} port {number} of the task: publish it in its network, or name the host's network and ask for ports:[{number}-{number}]"
        );
        return Err(("number", text));
    }
    check_labels(labels).map_err(|text| ("labels", text))
}

fn check_labels(labels: &BTreeMap<String, String>) -> Result<(), String> {
    let (most, most_bytes) = (limits::DISCOVERY_LABELS, limits::DISCOVERY_LABEL_BYTES);
    let bytes: usize = labels
        .iter()
        .map(|(name, value)| name.len() + value.len())
        .sum();
    if labels.len() > most || bytes > most_bytes {
        return Err(format!(
            "{} labels with {bytes} bytes are given; at most {most} with {most_bytes}",
            labels.len()
        ));
    }
    let mut names = labels.keys();
    if names.any(|name| name.is_empty() || !is_plain(name)) {
        return Err(plain_text());
    }
    match labels.values().find(|value| has_control(value)) {
        Some(value) => Err(format!(
            "{value:?} contains control characters: remove them"
        )),
        None => Ok(()),
    }
}

fn has_control(text: &str) -> bool {
    text.chars().any(char::is_control)
}

/// Returns whether a name is short and printable. The name of a service may also be empty.
fn is_plain(name: &str) -> bool {
    name.len() <= limits::NAME_BYTES && !has_control(name)
}

fn plain_text() -> String {
    let most = limits::NAME_BYTES;
    format!(
        "a name is empty, too long or not printable: give 1 to {most} bytes without control characters"
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::task::{ContainerNetwork, PublishedPort};
    use crate::testing;

    fn port(name: &str, number: u16) -> DiscoveryPort {
        DiscoveryPort {
            name: name.to_owned(),
            number,
            udp: false,
            labels: BTreeMap::new(),
        }
    }

    /// Returns the error of a task that publishes port 80.
    fn refusal(discovery: Discovery) -> Option<FieldError> {
        let mut spec = testing::spec("t", "cpus:1;ports:[31000-31000]");
        spec.container.network = ContainerNetwork::Bridge(vec![PublishedPort {
            host: 31_000,
            container: 80,
            udp: false,
        }]);
        spec.discovery = Some(Box::new(discovery));
        check(&spec).err()
    }

    fn of_ports(ports: &[DiscoveryPort]) -> Option<String> {
        let discovery = Discovery {
            ports: ports.to_vec(),
            ..Discovery::default()
        };
        refusal(discovery).map(|(field, _)| field)
    }

    fn of_labels(labels: impl IntoIterator<Item = (String, String)>) -> Option<String> {
        let discovery = Discovery {
            labels: labels.into_iter().collect(),
            ..Discovery::default()
        };
        refusal(discovery).map(|(field, _)| field)
    }

    #[test]
    fn each_port_has_a_unique_name_and_a_port_of_the_host() {
        assert_eq!(of_ports(&[]), None);
        assert_eq!(of_ports(&[port("http", 80), port("metrics", 80)]), None);
        let long = "n".repeat(limits::NAME_BYTES + 1);
        for name in ["", "a\nb", "\u{1b}[31m", &long] {
            let found = of_ports(&[port("http", 80), port(name, 80)]);
            assert_eq!(
                found.as_deref(),
                Some("discovery.ports[1].name"),
                "{name:?}"
            );
        }
        let twice = of_ports(&[port("http", 80), port("http", 80)]);
        assert_eq!(twice.as_deref(), Some("discovery.ports[1].name"));
        let over_udp = DiscoveryPort {
            udp: true,
            ..port("dns", 80)
        };
        for unreachable in [port("a", 0), port("a", 81), port("a", 31_000), over_udp] {
            let found = of_ports(&[unreachable]);
            assert_eq!(found.as_deref(), Some("discovery.ports[0].number"));
        }
        let many: Vec<_> = (0..=limits::DISCOVERY_PORTS)
            .map(|at| port(&format!("p{at}"), 80))
            .collect();
        assert_eq!(of_ports(&many).as_deref(), Some("discovery.ports"));
        assert_eq!(of_ports(&many[1..]), None);
    }

    #[test]
    fn the_refusal_of_an_unreachable_port_names_both_remedies() {
        let discovery = Discovery {
            ports: vec![port("metrics", 9_100)],
            ..Discovery::default()
        };
        let (_, text) = refusal(discovery).unwrap();
        for part in ["TCP port 9100", "publish it", "ports:[9100-9100]"] {
            assert!(text.contains(part), "{text}");
        }
    }

    #[test]
    fn labels_are_few_short_and_printable() {
        let pair = |name: &str, value: &str| (name.to_owned(), value.to_owned());
        let fine = [pair("a\"b", "\\{}'\"é"), pair("team", "")];
        assert_eq!(of_labels(fine), None);
        let wrong = Some("discovery.labels");
        assert_eq!(of_labels([pair("", "a")]).as_deref(), wrong);
        assert_eq!(of_labels([pair("a\n", "b")]).as_deref(), wrong);
        assert_eq!(of_labels([pair("a", "b\u{1b}[2J")]).as_deref(), wrong);
        let numbered = |count: usize| (0..count).map(|at| (format!("l{at}"), String::new()));
        assert_eq!(of_labels(numbered(limits::DISCOVERY_LABELS)), None);
        assert_eq!(of_labels(numbered(10_000)).as_deref(), wrong);
        let most = limits::DISCOVERY_LABEL_BYTES;
        assert_eq!(of_labels([pair("a", &"v".repeat(most - 1))]), None);
        let beyond = of_labels([pair("a", &"v".repeat(most))]);
        assert_eq!(beyond.as_deref(), wrong);
        let mut of_port = port("http", 80);
        of_port.labels = numbered(10_000).collect();
        let found = of_ports(&[of_port]);
        assert_eq!(found.as_deref(), Some("discovery.ports[0].labels"));
        let name = Discovery {
            name: "web\r".to_owned(),
            ..Discovery::default()
        };
        assert_eq!(refusal(name).unwrap().0, "discovery.name");
    }
}
