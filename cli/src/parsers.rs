//! Parsers of flag values: sizes, times, addresses, pairs. Each error names the remedy.
//!
//! Pure; the argument parser adds the name of the flag.

mod amounts;
mod context_name;
mod times;
mod volumes;

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;

use argosy_client::{InvalidMasters, Masters};
use argosy_proto::uri::RedactedUri;
use argosy_proto::v1;
use argosy_state::task::DiscoveryPort;

pub(crate) use amounts::{Demand, Milli, cpus, demand, duration, memory, size, timeout, weight};
pub(crate) use context_name::ContextName;
pub(crate) use times::{PointInTime, point_in_time};
pub(crate) use volumes::{VolumeMount, secret, tmpfs, volume};

/// The port of a master's API.
pub(crate) const API_PORT: u16 = 5050;
/// The port of an agent's API.
pub(crate) const AGENT_PORT: u16 = 5051;
/// The port of Raft connections between masters.
pub(crate) const RAFT_PORT: u16 = 5052;

/// Parses a device's name and its paths on the host: `gpu0=/dev/dri/card0,/dev/dri/renderD128`.
pub(crate) fn device(text: &str) -> Result<(String, Vec<PathBuf>), String> {
    let remedy = || {
        format!(
            "{text:?} names no device: write a name of letters, digits and ._- and its paths, as gpu0=/dev/dri/card0"
        )
    };
    let (name, paths) = text.split_once('=').ok_or_else(remedy)?;
    let plain = |letter: char| letter.is_ascii_alphanumeric() || "._-".contains(letter);
    let paths: Vec<PathBuf> = paths.split(',').map(PathBuf::from).collect();
    let below = paths
        .iter()
        .all(|path| path.starts_with("/dev") && path.file_name().is_some());
    let fits = !name.is_empty() && name.chars().all(plain) && below;
    fits.then(|| (name.to_owned(), paths)).ok_or_else(remedy)
}

/// Parses the variable of a flag without a value.
pub(crate) fn switch(text: &str) -> Result<bool, String> {
    match text.to_ascii_lowercase().as_str() {
        "true" | "yes" | "on" | "1" => Ok(true),
        "false" | "no" | "off" | "0" => Ok(false),
        _ => Err(
            "its variable is true, yes, on or 1 to set the flag, else false, no, off or 0"
                .to_owned(),
        ),
    }
}

/// Parses a user of this host, by name or number.
pub(crate) fn user(text: &str) -> Result<u32, String> {
    if let Ok(number) = text.parse() {
        return Ok(number);
    }
    match nix::unistd::User::from_name(text) {
        Ok(Some(user)) => Ok(user.uid.as_raw()),
        Ok(None) => {
            Err("this host has no such user; write one of `getent passwd`, or a number".to_owned())
        }
        Err(why) => Err(format!("the users of this host cannot be read: {why}")),
    }
}

/// Parses `10.0.0.1:5050`, `[::1]:5050` or `host:5050`. Without a port the default one is added.
pub(crate) fn address(text: &str, default_port: u16) -> Result<String, String> {
    let remedy =
        || format!("{text:?} is not an address: write host:port, as 10.0.0.1:{default_port}");
    let text = text.trim();
    let (host, port) = match text.rsplit_once(':') {
        // An IPv6 address without brackets has more than one colon.
        Some((host, _)) if host.contains(':') && !host.starts_with('[') => return Err(remedy()),
        Some((host, port)) if !port.ends_with(']') => {
            (host, port.parse::<u16>().map_err(|_| remedy())?)
        }
        _ => (text, default_port),
    };
    let fits = !host.is_empty()
        && host
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || b".-_[]:%".contains(&byte));
    if fits {
        Ok(format!("{host}:{port}"))
    } else {
        Err(remedy())
    }
}

/// A list of Raft addresses, each `host:port`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Addresses(pub(crate) Vec<String>);

impl fmt::Display for Addresses {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0.join(","))
    }
}

/// Parses the Raft addresses of masters.
pub(crate) fn peers(text: &str) -> Result<Addresses, String> {
    let parts = text
        .split(',')
        .map(str::trim)
        .filter(|part| !part.is_empty());
    let mut list = Vec::new();
    for part in parts {
        let address = address(part, RAFT_PORT)?;
        if list.contains(&address) {
            return Err(format!("{address} is listed twice; list each master once"));
        }
        list.push(address);
    }
    if list.is_empty() {
        return Err(
            "the list is empty; write 10.0.0.1:5052,10.0.0.2:5052,10.0.0.3:5052".to_owned(),
        );
    }
    Ok(Addresses(list))
}

/// Parses the API addresses of masters, as the client library does.
pub(crate) fn masters(text: &str) -> Result<Masters, String> {
    text.parse()
        .map_err(|error: InvalidMasters| error.to_string())
}

/// Parses `NAME=VALUE`.
pub(crate) fn pair(text: &str) -> Result<(String, String), String> {
    let (name, value) = text
        .split_once('=')
        .ok_or_else(|| format!("{text:?} has no '='; write NAME=VALUE"))?;
    if name.is_empty() || name.contains('\0') || value.contains('\0') {
        return Err(format!("{text:?} has no name before '='; write NAME=VALUE"));
    }
    Ok((name.to_owned(), value.to_owned()))
}

/// Collects the pairs of repeated flags. A name given twice is an error.
pub(crate) fn unique(
    pairs: &[(String, String)],
    flag: &str,
) -> Result<BTreeMap<String, String>, String> {
    let mut all = BTreeMap::new();
    for (name, value) in pairs {
        if all.insert(name.clone(), value.clone()).is_some() {
            return Err(format!("{flag} {name} is given twice; give it once"));
        }
    }
    Ok(all)
}

/// Parses `[FILE=]URI[#sha256=DIGITS]`: a file that the agent fetches into the sandbox, under its
/// own or another name.
pub(crate) fn uri(text: &str) -> Result<v1::Uri, String> {
    let (file, value) = match text.split_once('=') {
        Some((file, value)) if !file.contains(['/', ':']) => (file, value),
        _ => ("", text),
    };
    let (value, sha256) = value.rsplit_once("#sha256=").unwrap_or((value, ""));
    let known = ["/", "file:///", "http://", "https://"];
    if !known.iter().any(|start| value.starts_with(start)) {
        let shown = RedactedUri::of(value);
        return Err(format!(
            "{shown:?} is not a URI; write an absolute path on the agents' hosts, file:///…, http://… or https://…"
        ));
    }
    Ok(v1::Uri {
        value: value.to_owned(),
        output_file: file.to_owned(),
        sha256: sha256.to_ascii_lowercase(),
        ..v1::Uri::default()
    })
}

/// Parses a port of a task.
pub(crate) fn port(text: &str) -> Result<u16, String> {
    let number = text.parse::<u16>().ok().filter(|port| *port > 0);
    number.ok_or_else(|| format!("{text:?} is not a port: write a number from 1 to 65535"))
}

/// Parses `PORT[/PATH]` for an HTTPS check.
pub(crate) fn https_check(text: &str) -> Result<v1::HttpCheck, String> {
    let http = http_check(text)?;
    Ok(v1::HttpCheck { tls: true, ..http })
}

/// Parses `PORT[/PATH]` for an HTTP check.
pub(crate) fn http_check(text: &str) -> Result<v1::HttpCheck, String> {
    let (port, path) = port_and_path(text, "8080/health")?;
    Ok(v1::HttpCheck {
        port: port.into(),
        path: path.to_owned(),
        ..v1::HttpCheck::default()
    })
}

/// Parses `PORT[/PATH]` of metrics.
pub(crate) fn metrics_port(text: &str) -> Result<v1::DiscoveryPort, String> {
    let (number, path) = port_and_path(text, "8080/stats")?;
    let labels = [(DiscoveryPort::PATH.to_owned(), path.to_owned())];
    Ok(v1::DiscoveryPort {
        name: DiscoveryPort::METRICS.to_owned(),
        number: number.into(),
        udp: false,
        labels: labels
            .into_iter()
            .filter(|(_, path)| !path.is_empty())
            .collect(),
    })
}

fn port_and_path<'a>(text: &'a str, example: &str) -> Result<(u16, &'a str), String> {
    let at = text.find('/').unwrap_or(text.len());
    let (number, path) = text.split_at(at);
    let number = port(number).map_err(|_| {
        format!("{text:?} names no port: write the task's port and a path, as {example}")
    })?;
    Ok((number, path))
}

/// Parses `HOST:CONTAINER[/udp]`, two ports.
pub(crate) fn published_port(text: &str) -> Result<v1::PublishedPort, String> {
    let (ports, udp) = match text.rsplit_once('/') {
        None | Some((_, "tcp")) => (text.strip_suffix("/tcp").unwrap_or(text), false),
        Some((ports, "udp")) => (ports, true),
        Some(_) => ("", false),
    };
    let port = |text: &str| text.parse::<u16>().ok().filter(|port| *port > 0);
    let pair = ports.split_once(':');
    let pair = pair.and_then(|(host, container)| Some((port(host)?, port(container)?)));
    let (host, container) = pair.ok_or_else(|| {
        format!(
            "{text:?} publishes no port: write port-of-host:port-of-task, each 1 to 65535, with /udp at the end for UDP"
        )
    })?;
    Ok(v1::PublishedPort {
        host_port: host.into(),
        container_port: container.into(),
        udp,
    })
}

/// The number of masters and of agents in a dev cluster.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct ClusterSize {
    pub(crate) masters: u8,
    pub(crate) agents: u8,
}

/// Parses `3x3`: masters, then agents.
pub(crate) fn cluster_size(text: &str) -> Result<ClusterSize, String> {
    let remedy =
        || "write masters x agents, as 3x3: 1, 3 or 5 masters and 0 to 50 agents".to_owned();
    let (masters, agents) = text.split_once('x').ok_or_else(remedy)?;
    let masters: u8 = masters.trim().parse().map_err(|_| remedy())?;
    let agents: u8 = agents.trim().parse().map_err(|_| remedy())?;
    if ![1, 3, 5].contains(&masters) || agents > 50 {
        return Err(remedy());
    }
    Ok(ClusterSize { masters, agents })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn users_are_known_by_name_or_number() {
        assert_eq!(user("root"), Ok(0));
        assert_eq!(user("4294967294"), Ok(4_294_967_294));
        for bad in ["no such user", "-1", "4294967296", ""] {
            let refused = user(bad).unwrap_err();
            assert!(refused.contains("getent passwd"), "{bad}: {refused}");
        }
    }

    #[test]
    fn addresses_get_the_default_port_and_are_listed_once() {
        let list = peers("10.0.0.1, b:6000,[::1]").unwrap();
        assert_eq!(list.0, ["10.0.0.1:5052", "b:6000", "[::1]:5052"]);
        assert!(peers("a,a:5052").unwrap_err().contains("twice"));
        for text in [
            "",
            ",",
            "a:b",
            "a:99999",
            "::1",
            "http://a:5050",
            ":5050",
            "a b",
        ] {
            assert!(peers(text).is_err(), "{text}");
        }
        assert_eq!(masters("a").unwrap().addresses(), ["a:5050"]);
    }

    #[test]
    fn pairs_require_a_name() {
        assert_eq!(pair("A=b=c"), Ok(("A".into(), "b=c".into())));
        assert_eq!(pair("A="), Ok(("A".into(), String::new())));
        assert!(pair("A").is_err());
        assert!(pair("=b").is_err());
        let twice = [
            ("A".to_owned(), "1".to_owned()),
            ("A".to_owned(), "2".to_owned()),
        ];
        assert_eq!(
            unique(&twice, "--env").unwrap_err(),
            "--env A is given twice; give it once"
        );
    }

    #[test]
    fn uris_can_name_their_output_file() {
        let plain = uri("http://h/a?x=y").unwrap();
        assert_eq!(
            (plain.value.as_str(), plain.output_file.as_str()),
            ("http://h/a?x=y", "")
        );
        let named = uri("tool=/opt/tool-1.2").unwrap();
        assert_eq!(
            (named.value.as_str(), named.output_file.as_str()),
            ("/opt/tool-1.2", "tool")
        );
        let digits = "AB".repeat(32);
        let result = uri(&format!("t=http://h/a#sha256={digits}")).unwrap();
        assert_eq!(
            (result.value.as_str(), result.sha256),
            ("http://h/a", digits.to_lowercase())
        );
        assert!(uri("ftp://h/a").is_err());
        assert!(uri("relative/path").is_err());
    }

    #[test]
    fn a_published_port_is_two_numbers_and_optionally_udp() {
        let read =
            |text| published_port(text).map(|port| (port.host_port, port.container_port, port.udp));
        assert_eq!(read("8080:80"), Ok((8080, 80, false)));
        assert_eq!(read("53:5353/udp"), Ok((53, 5353, true)));
        assert_eq!(read("1:65535/tcp"), Ok((1, 65535, false)));
        for text in [
            "", "80", "0:80", "80:0", "80:65536", "a:b", "1:2/sctp", "1:2:3",
        ] {
            assert!(read(text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_metrics_port_has_an_optional_path() {
        let plain = metrics_port("9100").unwrap();
        assert_eq!((plain.name.as_str(), plain.number), ("metrics", 9_100));
        assert!(plain.labels.is_empty() && !plain.udp);
        let with_path = metrics_port("9100/a/b").unwrap();
        assert_eq!(with_path.labels["path"], "/a/b");
        for bad in ["", "/stats", "0", "65536", "metrics"] {
            let refused = metrics_port(bad).unwrap_err();
            assert!(refused.contains("as 8080/stats"), "{refused}");
        }
    }

    #[test]
    fn an_http_check_is_a_port_and_an_optional_path() {
        let read = |text| http_check(text).map(|check| (check.port, check.path));
        assert_eq!(read("8080"), Ok((8080, String::new())));
        assert_eq!(read("80/health?deep=1"), Ok((80, "/health?deep=1".into())));
        for text in ["", "/health", "0/health", "65536", "http://:80/"] {
            assert!(read(text).unwrap_err().contains("8080/health"), "{text}");
        }
        assert!(port("0").is_err() && port("80") == Ok(80));
    }

    #[test]
    fn a_dev_cluster_has_an_odd_number_of_masters() {
        assert_eq!(
            cluster_size("3x3"),
            Ok(ClusterSize {
                masters: 3,
                agents: 3
            })
        );
        assert_eq!(
            cluster_size("1x0"),
            Ok(ClusterSize {
                masters: 1,
                agents: 0
            })
        );
        for text in ["", "3", "2x2", "0x1", "3x99", "axb"] {
            assert!(cluster_size(text).is_err(), "{text}");
        }
    }
}
