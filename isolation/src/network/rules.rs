//! What may pass between containers, host and world: one nft table an agent.
//!
//! The table is a function of the settings and of the published ports, and is replaced whole in one transaction when the
//! agent starts or sweeps. In between a container's ports come and go as elements of one map; nothing else changes, so
//! the number of rules does not grow with that of containers. That a source address belongs to its link is the route's to
//! say, which is there as long as the link and no longer.

use std::fmt::Write as _;
use std::io;
use std::net::SocketAddrV4;
use std::process::Command;
use std::time::Duration;

use super::{Between, NetworkError, Protocol, Subnet};
use crate::child;

/// How long nft may take: others that change rules hold it up for milliseconds.
const LIMIT: Duration = Duration::from_secs(10);

/// Begins the names of the host's ends of all agents' wires.
pub(super) const DEVICES: &str = "argo";

/// Published ports, for callers from elsewhere and for those on the host itself.
const INTO_CONTAINERS: &str = "\
  chain from_outside {
    type nat hook prerouting priority dstnat; policy accept;
    fib daddr type local dnat ip to meta l4proto . th dport map @published
  }
  chain from_host {
    type nat hook output priority -100; policy accept;
    fib daddr type local dnat ip to meta l4proto . th dport map @published
  }
";

/// A host port that leads to a container's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Mapping {
    pub(super) protocol: Protocol,
    pub(super) host_port: u16,
    pub(super) to: SocketAddrV4,
}

/// All that the table depends on.
pub(super) struct Table<'a> {
    /// Of the agent: five letters that are in the names of its table and devices.
    pub(super) tag: &'a str,
    pub(super) subnet: Subnet,
    pub(super) between: Between,
    pub(super) denied: &'a [SocketAddrV4],
    /// Devices of the host between which nothing is forwarded; see `forwarding`.
    pub(super) closed_between: &'a [String],
    pub(super) mappings: &'a [Mapping],
}

/// The table's name, with its family.
fn name(tag: &str) -> String {
    format!("inet argosy-{tag}")
}

impl Table<'_> {
    /// Puts the table in the place of whatever has its name.
    pub(super) fn script(&self) -> String {
        let name = name(self.tag);
        let (devices, subnet) = (format!("\"{DEVICES}{}*\"", self.tag), self.subnet);
        let mut text = remove(self.tag);
        let _ = writeln!(text, "table {name} {{");
        self.write_maps(&mut text);
        let _ = write!(
            text,
            r#"  chain spoofed {{
    type filter hook prerouting priority raw; policy accept;
    iifname != {devices} accept
    meta nfproto != ipv4 drop
    fib saddr . iif oif missing drop
    ip saddr 127.0.0.0/8 drop
    ip daddr {{ 127.0.0.0/8, 169.254.0.0/16, 224.0.0.0/4, 255.255.255.255 }} drop
    ip daddr . tcp dport @denied drop
  }}
{INTO_CONTAINERS}  chain to_host {{
    type filter hook input priority filter; policy accept;
    iifname != {devices} accept
    ct state established,related accept
    drop
  }}
  chain through {{
    type filter hook forward priority filter; policy accept;
    iifname {devices} ct state invalid drop
    ct state established,related accept
"#
        );
        if self.between == Between::Open {
            let _ = writeln!(text, "    iifname {devices} oifname {devices} accept");
        }
        let _ = write!(
            text,
            r#"    oifname {devices} ct status dnat accept
    oifname {devices} drop
    oifname != "{DEVICES}*" ip daddr {subnet} drop
"#
        );
        if !self.closed_between.is_empty() {
            let names = self.closed_between.iter();
            let quoted: Vec<_> = names.map(|name| format!("\"{name}\"")).collect();
            let all = format!("{{ {} }}", quoted.join(", "));
            let _ = writeln!(
                text,
                "    meta nfproto ipv4 iifname {all} oifname {all} drop"
            );
        }
        let _ = write!(
            text,
            r#"  }}
  chain out {{
    type nat hook postrouting priority srcnat; policy accept;
    oifname {devices} ip saddr 127.0.0.0/8 masquerade
    oifname {devices} ip saddr {subnet} ct status dnat masquerade
    oifname != "{DEVICES}*" ip saddr {subnet} masquerade
  }}
}}
"#
        );
        text
    }

    fn write_maps(&self, text: &mut String) {
        let published = self.mappings.iter().map(Mapping::element);
        let denied = self
            .denied
            .iter()
            .map(|service| format!("{} . {}", service.ip(), service.port()));
        let kinds = "inet_proto . inet_service : ipv4_addr . inet_service";
        let _ = writeln!(text, "  map published {{\n    type {kinds}");
        write_elements(text, published.collect());
        let kinds = "ipv4_addr . inet_service";
        let _ = writeln!(text, "  }}\n  set denied {{\n    type {kinds}");
        write_elements(text, denied.collect());
        text.push_str("  }\n");
    }
}

fn write_elements(text: &mut String, elements: Vec<String>) {
    if !elements.is_empty() {
        let _ = writeln!(text, "    elements = {{ {} }}", elements.join(", "));
    }
}

impl Mapping {
    fn element(&self) -> String {
        format!(
            "{} . {} : {} . {}",
            self.protocol,
            self.host_port,
            self.to.ip(),
            self.to.port()
        )
    }
}

fn elements(mappings: &[Mapping]) -> String {
    let elements: Vec<_> = mappings.iter().map(Mapping::element).collect();
    elements.join(", ")
}

/// Lets ports lead to a container.
pub(super) fn publish(tag: &str, mappings: &[Mapping]) -> String {
    format!(
        "add element {} published {{ {} }}\n",
        name(tag),
        elements(mappings)
    )
}

/// The reverse, whether or not they do: a crash may have come between record and rule.
pub(super) fn withdraw(tag: &str, mappings: &[Mapping]) -> String {
    let (name, elements) = (name(tag), elements(mappings));
    let add = publish(tag, mappings);
    format!("{add}delete element {name} published {{ {elements} }}\n")
}

/// Removes the table, whether or not it is there.
pub(super) fn remove(tag: &str) -> String {
    let name = name(tag);
    format!("add table {name}\ndelete table {name}\n")
}

/// Performs a script in the calling thread's namespace: all of it or nothing.
pub(super) fn apply(script: &str) -> Result<(), NetworkError> {
    let mut nft = Command::new("nft");
    nft.args(["-f", "-"]);
    apply_by(nft, script, LIMIT)
}

fn apply_by(nft: Command, script: &str, limit: Duration) -> Result<(), NetworkError> {
    match child::run(nft, script, limit) {
        Ok(ran) if ran.status.success() => Ok(()),
        Ok(ran) => Err(NetworkError::Rules {
            reason: ran.complaint.trim().to_owned(),
        }),
        Err(error) if error.kind() == io::ErrorKind::TimedOut => Err(NetworkError::Rules {
            reason: error.to_string(),
        }),
        Err(source) => Err(NetworkError::NoNft { source }),
    }
}

/// Whether nft can be run.
pub(super) fn is_installed() -> io::Result<()> {
    let mut nft = Command::new("nft");
    nft.arg("--version");
    let version = child::run(nft, "", LIMIT)?;
    if version.status.success() {
        return Ok(());
    }
    Err(io::Error::other(format!("it ends with {}", version.status)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table() -> Table<'static> {
        Table {
            tag: "0abcd",
            subnet: Subnet::USUAL,
            between: Between::Isolated,
            denied: &[],
            closed_between: &[],
            mappings: &[],
        }
    }

    fn web() -> Mapping {
        Mapping {
            protocol: Protocol::Tcp,
            host_port: 8080,
            to: "10.183.0.2:80".parse().unwrap(),
        }
    }

    #[test]
    fn the_number_of_rules_does_not_grow_with_containers() {
        let lines = |mappings: &[Mapping]| {
            Table {
                mappings,
                ..table()
            }
            .script()
            .lines()
            .count()
        };
        assert_eq!(lines(&[web()]), lines(&[web(); 100]));
    }

    #[test]
    fn a_port_is_one_element_that_comes_and_goes() {
        assert_eq!(
            publish("0abcd", &[web()]),
            "add element inet argosy-0abcd published { tcp . 8080 : 10.183.0.2 . 80 }\n"
        );
        assert_eq!(
            withdraw("0abcd", &[web()]),
            "add element inet argosy-0abcd published { tcp . 8080 : 10.183.0.2 . 80 }\n\
             delete element inet argosy-0abcd published { tcp . 8080 : 10.183.0.2 . 80 }\n"
        );
    }

    #[test]
    fn containers_are_strangers_unless_the_operator_says_otherwise() {
        let accept = "iifname \"argo0abcd*\" oifname \"argo0abcd*\" accept";
        assert!(!table().script().contains(accept));
        let open = Table {
            between: Between::Open,
            ..table()
        };
        assert!(open.script().contains(accept));
    }

    #[test]
    fn a_host_that_forwarded_nothing_does_not_begin_to_between_its_devices() {
        let drop =
            r#"meta nfproto ipv4 iifname { "eth0", "eth1" } oifname { "eth0", "eth1" } drop"#;
        assert!(!table().script().contains(drop));
        let closed = Table {
            closed_between: &["eth0".to_owned(), "eth1".to_owned()],
            ..table()
        };
        assert!(closed.script().contains(drop));
    }

    #[test]
    fn services_elsewhere_are_denied_by_address_and_port() {
        let masters = ["10.0.0.1:5050".parse().unwrap()];
        let script = Table {
            denied: &masters,
            ..table()
        }
        .script();
        assert!(
            script.contains("elements = { 10.0.0.1 . 5050 }"),
            "{script}"
        );
    }

    #[test]
    fn an_nft_that_hangs_is_an_error_that_says_so() {
        let mut hanging = Command::new("sleep");
        hanging.arg("1000");
        let error = apply_by(hanging, "table inet t", Duration::from_millis(100));
        assert_eq!(
            error.unwrap_err().to_string(),
            "the rules of containers' networks were refused: sleep has not ended within 100ms and was killed"
        );
        let missing = apply_by(Command::new("/nonexistent/nft"), "", LIMIT);
        assert!(matches!(missing, Err(NetworkError::NoNft { .. })));
    }
}
