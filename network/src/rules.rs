//! Packet filter rules between containers, host and world: one nft table per agent.
//!
//! The table is a function of the settings and of the published ports. It is replaced as a whole in
//! one transaction when the agent starts or sweeps, and when other software has removed it. In
//! between, a container's ports are added and removed as elements of one map; nothing else changes,
//! so the number of rules does not grow with the number of containers. The route binds a source
//! address to its link, and exists exactly as long as the link.

use std::fmt::Write as _;
use std::io;
use std::net::{SocketAddr, SocketAddrV4, SocketAddrV6};
use std::process::Command;
use std::time::Duration;

use argosy_host::child;

use super::closed_addresses::{CLOSED_6, DISCOVERY, METADATA, METADATA_6, metadata_rules};
use super::{InterContainerTraffic, NetworkError, Protocol, Subnet, Subnet6};

/// The timeout of nft: other processes that change rules delay it by milliseconds.
const NFT_TIMEOUT: Duration = Duration::from_secs(10);

/// The name prefix of the host ends of all agents' veth pairs.
pub const DEVICES: &str = "argo";

/// Published ports, for clients from elsewhere and for clients on the host itself.
const INTO_CONTAINERS: &str = "\
  chain from_outside {
    type nat hook prerouting priority dstnat; policy accept;
    fib daddr type local dnat ip to meta l4proto . th dport map @published
    fib daddr type local dnat ip6 to meta l4proto . th dport map @published6
  }
  chain from_host {
    type nat hook output priority -100; policy accept;
    fib daddr type local dnat ip to meta l4proto . th dport map @published
    ip6 daddr != ::1 fib daddr type local dnat ip6 to meta l4proto . th dport map @published6
  }
";

/// A host port that leads to a container's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct PortMapping {
    pub(super) protocol: Protocol,
    pub(super) host_port: u16,
    pub(super) to: SocketAddrV4,
}

/// The devices between which the host must not forward: those that it had when it forwarded
/// nothing.
#[derive(Debug, Default)]
pub(super) struct ForwardingDenied {
    pub(super) ipv4: Vec<String>,
    pub(super) ipv6: Vec<String>,
}

/// The inputs of the table.
pub(super) struct NftTable<'a> {
    /// The agent's tag: five letters in the names of its table and devices.
    pub(super) tag: &'a str,
    pub(super) subnet: Subnet,
    pub(super) subnet6: Option<Subnet6>,
    pub(super) traffic: InterContainerTraffic,
    pub(super) blocks_metadata: bool,
    pub(super) denied: &'a [SocketAddr],
    /// Devices of the host between which nothing is forwarded; see `forwarding`.
    pub(super) forwarding_denied: &'a ForwardingDenied,
    pub(super) mappings: &'a [PortMapping],
}

/// Returns the name of the table, which is of the family `inet`.
pub(super) fn table_name(tag: &str) -> String {
    format!("argosy-{tag}")
}

/// Returns the table's name, with its family.
fn name(tag: &str) -> String {
    format!("inet {}", table_name(tag))
}

impl NftTable<'_> {
    /// Returns the script that replaces the table.
    pub(super) fn script(&self) -> String {
        let name = name(self.tag);
        let (devices, subnet) = (format!("\"{DEVICES}{}*\"", self.tag), self.subnet);
        let six = self.ipv6_rules(&devices);
        let mut text = remove(self.tag);
        let _ = writeln!(text, "table {name} {{");
        self.write_maps(&mut text);
        let _ = write!(
            text,
            r#"  chain spoofed {{
    type filter hook prerouting priority raw; policy accept;
    iifname != {devices} accept
    fib saddr . iif oif missing drop
    ip saddr 127.0.0.0/8 drop
    ip daddr {{ 127.0.0.0/8, 224.0.0.0/4, 255.255.255.255 }} drop
{metadata}    ip daddr . tcp dport @denied drop
{from_containers}  }}
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
"#,
            metadata = metadata_rules(self.blocks_metadata, "ip", METADATA),
            from_containers = six.from_containers,
        );
        if self.traffic == InterContainerTraffic::Open {
            let _ = writeln!(text, "    iifname {devices} oifname {devices} accept");
        }
        let _ = write!(
            text,
            r#"    oifname {devices} ct status dnat accept
    oifname {devices} drop
    oifname != "{DEVICES}*" ip daddr {subnet} drop
{to_containers}"#,
            to_containers = six.to_containers,
        );
        write_denied(&mut text, "ipv4", &self.forwarding_denied.ipv4);
        write_denied(&mut text, "ipv6", &self.forwarding_denied.ipv6);
        let _ = write!(
            text,
            r#"  }}
  chain out {{
    type nat hook postrouting priority srcnat; policy accept;
    oifname {devices} ip saddr 127.0.0.0/8 masquerade
    oifname {devices} ip saddr {subnet} ct status dnat masquerade
    oifname != "{DEVICES}*" ip saddr {subnet} masquerade
{out}  }}
}}
"#,
            out = six.out,
        );
        text
    }

    /// Returns the IPv6 rules: no IPv6 at all, or the equivalent of the IPv4 rules.
    fn ipv6_rules(&self, devices: &str) -> NftRules6 {
        let Some(subnet) = self.subnet6 else {
            return NftRules6 {
                from_containers: "    meta nfproto ipv6 drop\n".to_owned(),
                to_containers: String::new(),
                out: String::new(),
            };
        };
        NftRules6 {
            from_containers: format!(
                "    ip6 saddr != {subnet} drop\n    \
                 ip6 daddr {{ {CLOSED_6} }} drop\n\
                 {metadata}    \
                 icmpv6 type {{ {DISCOVERY} }} drop\n    \
                 ip6 daddr . tcp dport @denied6 drop\n",
                metadata = metadata_rules(self.blocks_metadata, "ip6", METADATA_6),
            ),
            to_containers: format!("    oifname != \"{DEVICES}*\" ip6 daddr {subnet} drop\n"),
            out: format!(
                "    oifname {devices} ip6 saddr {subnet} ct status dnat masquerade\n    \
                 oifname != \"{DEVICES}*\" ip6 saddr {subnet} masquerade\n"
            ),
        }
    }

    fn write_maps(&self, text: &mut String) {
        let [published, published6] = elements(self.mappings, self.subnet6);
        let denied = |wanted: fn(&SocketAddr) -> bool| {
            let chosen = self.denied.iter().filter(|service| wanted(service));
            let denied = chosen.map(|service| format!("{} . {}", service.ip(), service.port()));
            denied.collect::<Vec<_>>()
        };
        let port = "inet_proto . inet_service";
        for (what, name, kinds, all) in [
            (
                "map",
                "published",
                format!("{port} : ipv4_addr . inet_service"),
                published,
            ),
            (
                "map",
                "published6",
                format!("{port} : ipv6_addr . inet_service"),
                published6,
            ),
            (
                "set",
                "denied",
                "ipv4_addr . inet_service".to_owned(),
                denied(SocketAddr::is_ipv4),
            ),
            (
                "set",
                "denied6",
                "ipv6_addr . inet_service".to_owned(),
                denied(SocketAddr::is_ipv6),
            ),
        ] {
            let _ = writeln!(text, "  {what} {name} {{\n    type {kinds}");
            if !all.is_empty() {
                let _ = writeln!(text, "    elements = {{ {} }}", all.join(", "));
            }
            text.push_str("  }\n");
        }
    }
}

/// The IPv6 lines of three chains.
struct NftRules6 {
    from_containers: String,
    to_containers: String,
    out: String,
}

fn write_denied(text: &mut String, family: &str, devices: &[String]) {
    if !devices.is_empty() {
        let quoted: Vec<_> = devices.iter().map(|name| format!("\"{name}\"")).collect();
        let all = format!("{{ {} }}", quoted.join(", "));
        let _ = writeln!(
            text,
            "    meta nfproto {family} iifname {all} oifname {all} drop"
        );
    }
}

impl PortMapping {
    fn element(&self, to: SocketAddr) -> String {
        format!(
            "{} . {} : {} . {}",
            self.protocol,
            self.host_port,
            to.ip(),
            to.port()
        )
    }
}

/// Returns the elements of both maps of published ports.
fn elements(mappings: &[PortMapping], subnet6: Option<Subnet6>) -> [Vec<String>; 2] {
    let four = mappings
        .iter()
        .map(|mapping| mapping.element(mapping.to.into()));
    let six = subnet6.into_iter().flat_map(|subnet6| {
        mappings.iter().map(move |mapping| {
            let address = subnet6.address(*mapping.to.ip());
            mapping.element(SocketAddrV6::new(address, mapping.to.port(), 0, 0).into())
        })
    });
    [four.collect(), six.collect()]
}

/// Returns the same line for the elements of each map.
fn port_command(
    line: &str,
    tag: &str,
    mappings: &[PortMapping],
    subnet6: Option<Subnet6>,
) -> String {
    let name = name(tag);
    let all = elements(mappings, subnet6);
    let mut text = String::new();
    for (map, elements) in ["published", "published6"].into_iter().zip(all) {
        if !elements.is_empty() {
            let _ = writeln!(text, "{line} {name} {map} {{ {} }}", elements.join(", "));
        }
    }
    text
}

/// Returns the script that publishes ports of a container.
pub(super) fn publish(tag: &str, mappings: &[PortMapping], subnet6: Option<Subnet6>) -> String {
    port_command("add element", tag, mappings, subnet6)
}

/// Returns the script that withdraws ports, whether or not they are published: a crash may have
/// come between record and rule.
pub(super) fn withdraw(tag: &str, mappings: &[PortMapping], subnet6: Option<Subnet6>) -> String {
    let add = publish(tag, mappings, subnet6);
    add + &port_command("delete element", tag, mappings, subnet6)
}

/// Returns the script that removes the table, whether or not it exists.
pub(super) fn remove(tag: &str) -> String {
    let name = name(tag);
    format!("add table {name}\ndelete table {name}\n")
}

/// Runs a script in the calling thread's namespace, as one transaction.
pub(super) fn apply(script: &str) -> Result<(), NetworkError> {
    let mut nft = Command::new("nft");
    nft.args(["-f", "-"]);
    apply_with(&nft, script, NFT_TIMEOUT)
}

fn apply_with(nft: &Command, script: &str, limit: Duration) -> Result<(), NetworkError> {
    match child::run(nft, script, limit) {
        Ok(ran) if ran.status.success() => Ok(()),
        Ok(ran) => Err(NetworkError::Rules {
            reason: ran.stderr.trim().to_owned(),
        }),
        Err(error) if error.kind() == io::ErrorKind::TimedOut => Err(NetworkError::Rules {
            reason: error.to_string(),
        }),
        Err(source) => Err(NetworkError::NoNft { source }),
    }
}

/// Checks that nft can be run.
pub(super) fn is_installed() -> io::Result<()> {
    let mut nft = Command::new("nft");
    nft.arg("--version");
    let version = child::run(&nft, "", NFT_TIMEOUT)?;
    if version.status.success() {
        return Ok(());
    }
    Err(io::Error::other(format!("it ends with {}", version.status)))
}

#[cfg(test)]
mod tests {
    use super::*;

    static NONE_DENIED: ForwardingDenied = ForwardingDenied {
        ipv4: Vec::new(),
        ipv6: Vec::new(),
    };

    fn with_ipv6() -> NftTable<'static> {
        NftTable {
            subnet6: Some("fd12:3456:789a::/64".parse().unwrap()),
            ..table()
        }
    }

    fn table() -> NftTable<'static> {
        NftTable {
            tag: "0abcd",
            subnet: Subnet::DEFAULT,
            subnet6: None,
            traffic: InterContainerTraffic::Isolated,
            blocks_metadata: true,
            denied: &[],
            forwarding_denied: &NONE_DENIED,
            mappings: &[],
        }
    }

    fn web() -> PortMapping {
        PortMapping {
            protocol: Protocol::Tcp,
            host_port: 8080,
            to: "10.183.0.2:80".parse().unwrap(),
        }
    }

    #[test]
    fn the_number_of_rules_does_not_grow_with_containers() {
        let lines = |mappings: &[PortMapping]| {
            NftTable {
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
    fn publishing_a_port_changes_one_map_element() {
        assert_eq!(
            publish("0abcd", &[web()], None),
            "add element inet argosy-0abcd published { tcp . 8080 : 10.183.0.2 . 80 }\n"
        );
        assert_eq!(
            withdraw("0abcd", &[web()], None),
            "add element inet argosy-0abcd published { tcp . 8080 : 10.183.0.2 . 80 }\n\
             delete element inet argosy-0abcd published { tcp . 8080 : 10.183.0.2 . 80 }\n"
        );
    }

    #[test]
    fn a_published_port_maps_to_the_same_container_over_ipv6() {
        let subnet6 = with_ipv6().subnet6;
        assert_eq!(
            publish("0abcd", &[web()], subnet6),
            "add element inet argosy-0abcd published { tcp . 8080 : 10.183.0.2 . 80 }\n\
             add element inet argosy-0abcd published6 { tcp . 8080 : fd12:3456:789a::ab7:2 . 80 }\n"
        );
        let withdrawn = withdraw("0abcd", &[web()], subnet6);
        let deleted: Vec<_> = withdrawn
            .lines()
            .filter(|line| line.starts_with("delete element inet argosy-0abcd published"))
            .collect();
        assert_eq!(deleted.len(), 2, "{withdrawn}");
    }

    #[test]
    fn without_a_prefix_ipv6_packets_from_containers_are_dropped() {
        let drop = "meta nfproto ipv6 drop";
        assert!(table().script().contains(drop));
        let script = with_ipv6().script();
        assert!(!script.contains(drop), "{script}");
        for refusal in [
            "ip6 saddr != fd12:3456:789a::/64 drop",
            "fe80::/10, ff00::/8",
            "nd-router-advert",
            "ip6 daddr . tcp dport @denied6 drop",
        ] {
            assert!(script.contains(refusal), "{refusal} in {script}");
        }
    }

    #[test]
    fn containers_are_isolated_unless_the_operator_allows_traffic() {
        let accept = "iifname \"argo0abcd*\" oifname \"argo0abcd*\" accept";
        assert!(!table().script().contains(accept));
        let open = NftTable {
            traffic: InterContainerTraffic::Open,
            ..table()
        };
        assert!(open.script().contains(accept));
    }

    #[test]
    fn metadata_services_answer_only_dns_unless_the_operator_opens_them() {
        let open = NftTable {
            blocks_metadata: false,
            ..with_ipv6()
        };
        for (address, family) in [("169.254.0.0/16", "ip"), ("fd00:ec2::254", "ip6")] {
            let script = with_ipv6().script();
            let rules: Vec<_> = (script.lines().map(str::trim))
                .filter(|rule| rule.contains(address))
                .collect();
            assert_eq!(rules.len(), 2, "{script}");
            assert!(rules.iter().all(|rule| rule.starts_with(family)));
            assert!(rules[0].ends_with("meta l4proto != { tcp, udp } drop"));
            assert!(rules[1].ends_with("th dport != 53 drop"));
            assert!(!open.script().contains(address));
        }
    }

    #[test]
    fn forwarding_between_host_devices_stays_denied() {
        let drop =
            r#"meta nfproto ipv4 iifname { "eth0", "eth1" } oifname { "eth0", "eth1" } drop"#;
        assert!(!table().script().contains(drop));
        let devices = vec!["eth0".to_owned(), "eth1".to_owned()];
        let ipv4_only = ForwardingDenied {
            ipv4: devices.clone(),
            ipv6: Vec::new(),
        };
        let both = ForwardingDenied {
            ipv4: devices.clone(),
            ipv6: devices,
        };
        for (closed_between, times) in [(&ipv4_only, 1), (&both, 2)] {
            let script = NftTable {
                forwarding_denied: closed_between,
                ..table()
            }
            .script();
            assert!(script.contains(drop));
            let rules = script.matches(r#"oifname { "eth0", "eth1" } drop"#);
            assert_eq!(rules.count(), times, "{script}");
        }
    }

    #[test]
    fn remote_services_are_denied_by_address_and_port() {
        let masters = ["10.0.0.1:5050", "[2001:db8::1]:5050"].map(|text| text.parse().unwrap());
        let script = NftTable {
            denied: &masters,
            ..table()
        }
        .script();
        for elements in ["{ 10.0.0.1 . 5050 }", "{ 2001:db8::1 . 5050 }"] {
            let elements = format!("elements = {elements}");
            assert!(script.contains(&elements), "{script}");
        }
    }

    #[test]
    fn a_hung_nft_is_reported_as_a_timeout() {
        let mut hanging = Command::new("sleep");
        hanging.arg("1000");
        let error = apply_with(&hanging, "table inet t", Duration::from_millis(100));
        assert_eq!(
            error.unwrap_err().to_string(),
            "nft rejected the rules of containers' networks: sleep has not ended within 100ms and was killed"
        );
        let missing = apply_with(&Command::new("/nonexistent/nft"), "", NFT_TIMEOUT);
        assert!(matches!(missing, Err(NetworkError::NoNft { .. })));
    }
}
