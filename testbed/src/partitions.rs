//! The state of all partitions between hosts, and the nft rules that implement them.
//!
//! Pure. The loss of direction `a` to `b` is a rule at `b`, which drops packets from `a`.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::net::Ipv4Addr;

/// A host, by its index in the network.
pub type HostIndex = usize;

/// All current disturbances of the network.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct NetworkDisturbances {
    /// `(from, to)`: `to` receives nothing from `from`.
    cut_links: BTreeSet<(HostIndex, HostIndex)>,
    /// The percentage of incoming packets that a host loses.
    loss_percent: BTreeMap<HostIndex, u8>,
    /// Connections of `from` to the Raft port of `to` go to a proxy at this port.
    detours: BTreeMap<(HostIndex, HostIndex), u16>,
}

impl NetworkDisturbances {
    /// Drops all packets from `from` at `to`.
    pub fn cut(&mut self, from: HostIndex, to: HostIndex) {
        if from != to {
            self.cut_links.insert((from, to));
        }
    }

    /// Drops all packets in both directions.
    pub fn cut_both(&mut self, one: HostIndex, other: HostIndex) {
        self.cut(one, other);
        self.cut(other, one);
    }

    /// Lets a host lose this percentage of packets.
    pub fn set_loss(&mut self, host: HostIndex, percent: u8) {
        self.loss_percent.insert(host, percent.min(99));
    }

    /// Redirects new Raft connections of `from` to `to` through the proxy at `port`.
    pub fn detour(&mut self, from: HostIndex, to: HostIndex, port: u16) {
        self.detours.insert((from, to), port);
    }

    /// Adds the disturbances of `other`.
    pub fn add(&mut self, other: &Self) {
        self.cut_links.extend(&other.cut_links);
        for (host, percent) in &other.loss_percent {
            let own = self.loss_percent.entry(*host).or_default();
            *own = (*own).max(*percent);
        }
        self.detours.extend(&other.detours);
    }

    /// Returns the hosts whose rules differ between two states.
    pub fn changed(&self, other: &Self, addresses: &[Ipv4Addr], proxy: Ipv4Addr) -> Vec<HostIndex> {
        (0..addresses.len())
            .filter(|host| {
                self.rules(*host, addresses, proxy) != other.rules(*host, addresses, proxy)
            })
            .collect()
    }

    /// Returns the whole rule set of one host for nft. It replaces all existing rules.
    pub fn rules(&self, host: HostIndex, addresses: &[Ipv4Addr], proxy: Ipv4Addr) -> String {
        let mut text = String::from(
            "table ip chaos {}\nflush table ip chaos\ntable ip chaos {\n chain in {\n  type filter hook input priority 0; policy accept;\n",
        );
        let silent: Vec<String> = self
            .cut_links
            .iter()
            .filter(|(_, to)| *to == host)
            .filter_map(|(from, _)| addresses.get(*from).map(ToString::to_string))
            .collect();
        if !silent.is_empty() {
            let _ = writeln!(text, "  ip saddr {{ {} }} drop", silent.join(", "));
        }
        if let Some(percent) = self.loss_percent.get(&host) {
            let _ = writeln!(
                text,
                "  iifname \"eth0\" numgen random mod 100 < {percent} drop"
            );
        }
        for (from, to) in self.detours.keys() {
            if let (true, Some(address)) = (*to == host, addresses.get(*from)) {
                // Connections from before the redirection end. New ones come from the proxy.
                let _ = writeln!(
                    text,
                    "  ip saddr {address} tcp dport 5052 reject with tcp reset"
                );
            }
        }
        text.push_str(" }\n chain out {\n  type nat hook output priority -100; policy accept;\n");
        for ((from, to), port) in &self.detours {
            if let (true, Some(address)) = (*from == host, addresses.get(*to)) {
                let _ = writeln!(
                    text,
                    "  ip daddr {address} tcp dport 5052 dnat to {proxy}:{port}"
                );
            }
        }
        text.push_str(" }\n}\n");
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn addresses() -> Vec<Ipv4Addr> {
        (1..=3).map(|host| Ipv4Addr::new(10, 99, 0, host)).collect()
    }

    const PROXY: Ipv4Addr = Ipv4Addr::new(10, 99, 0, 254);

    #[test]
    fn a_one_way_cut_is_a_rule_only_at_the_receiver() {
        let mut cuts = NetworkDisturbances::default();
        cuts.cut(0, 1);
        assert!(
            cuts.rules(1, &addresses(), PROXY)
                .contains("ip saddr { 10.99.0.1 } drop")
        );
        assert!(!cuts.rules(0, &addresses(), PROXY).contains("drop"));
        assert_eq!(
            cuts.changed(&NetworkDisturbances::default(), &addresses(), PROXY),
            [1]
        );
    }

    #[test]
    fn disturbances_are_combined_and_none_results_in_empty_rules() {
        let mut cuts = NetworkDisturbances::default();
        cuts.cut_both(0, 2);
        let mut more = NetworkDisturbances::default();
        more.set_loss(1, 30);
        more.detour(0, 1, 7_000);
        cuts.add(&more);
        assert!(cuts.rules(2, &addresses(), PROXY).contains("10.99.0.1"));
        assert!(
            cuts.rules(1, &addresses(), PROXY)
                .contains("mod 100 < 30 drop")
        );
        assert!(
            cuts.rules(0, &addresses(), PROXY)
                .contains("ip daddr 10.99.0.2 tcp dport 5052 dnat to 10.99.0.254:7000")
        );
        for host in 0..3 {
            let rules = NetworkDisturbances::default().rules(host, &addresses(), PROXY);
            assert!(
                !rules.contains("drop") && !rules.contains("dnat"),
                "{rules}"
            );
        }
    }
}
