//! The faults by name, and the weight of each in a random choice.
//!
//! Names only. Their effects are in `inject`.

use std::fmt;
use std::str::FromStr;

use crate::faults::choice::WeightedFault;

/// A requirement of a fault, in addition to root, ip and nft.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum FaultRequirement {
    Nothing,
    /// A program of the host.
    Program(&'static str),
    /// The library libfaketime.
    FakeClock,
    /// A minimum number of voters.
    Voters(usize),
    /// A cluster with TLS.
    Tls,
    /// A small disk for each agent.
    AgentDisks,
    /// The executable of another release.
    OtherRelease,
}

macro_rules! faults {
    ($($variant:ident $name:literal $weight:literal $need:expr, $text:literal;)*) => {
        /// A fault that `run` can inject.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
        pub(crate) enum FaultName {
            $(#[doc = $text] $variant,)*
        }

        impl FaultName {
            pub(crate) const ALL: &[Self] = &[$(Self::$variant,)*];

            /// Returns the name on the command line.
            pub(crate) fn name(self) -> &'static str {
                match self { $(Self::$variant => $name,)* }
            }

            /// Returns a description.
            pub(crate) fn text(self) -> &'static str {
                match self { $(Self::$variant => $text,)* }
            }

            /// Returns the fault with its weight in a random choice.
            pub(crate) fn weighted(self) -> WeightedFault<Self> {
                let weight = match self { $(Self::$variant => $weight,)* };
                (self, weight)
            }

            pub(crate) fn need(self) -> FaultRequirement {
                match self { $(Self::$variant => $need,)* }
            }
        }
    };
}

faults! {
    KillLeader "kill-leader" 20 FaultRequirement::Nothing, "kill -9 of the leader, restarted later";
    KillFollower "kill-follower" 6 FaultRequirement::Voters(3), "kill -9 of a follower, restarted later";
    KillMinority "kill-minority" 4 FaultRequirement::Nothing, "kill -9 of the leader and as many others as the group can spare";
    KillAllMasters "kill-all-masters" 4 FaultRequirement::Nothing, "kill -9 of every master at once";
    KillAgent "kill-agent" 8 FaultRequirement::Nothing, "kill -9 of an agent; its tasks continue";
    KillAgentInLaunch "kill-agent-in-launch" 6 FaultRequirement::Nothing, "repeated kill -9 of one agent while tasks start on it";
    KillAgentInDestroy "kill-agent-in-destroy" 4 FaultRequirement::Nothing, "kill -9 of an agent while services are ended on it";
    RebootHost "reboot-host" 3 FaultRequirement::Nothing, "the host of an agent is rebooted: all its processes end, and it has another boot id";
    KillFramework "kill-framework" 8 FaultRequirement::Nothing, "kill -9 of a scheduler; it returns as the same framework";
    SecondScheduler "second-scheduler" 3 FaultRequirement::Nothing, "a second process of a scheduler takes its framework over, and is killed later";
    PauseLeader "pause-leader" 10 FaultRequirement::Nothing, "SIGSTOP of the leader, SIGCONT later";
    PauseFollower "pause-follower" 4 FaultRequirement::Voters(3), "SIGSTOP of a follower, SIGCONT later";
    PauseAgent "pause-agent" 5 FaultRequirement::Nothing, "SIGSTOP of an agent, sometimes beyond its timeout";
    PauseFramework "pause-framework" 3 FaultRequirement::Nothing, "SIGSTOP of a scheduler, SIGCONT later";
    FreezeAllMasters "freeze-all-masters" 3 FaultRequirement::Nothing, "SIGSTOP of every master at once";
    RollingRestart "rolling-restart" 3 FaultRequirement::Nothing, "each master in turn is stopped in order and restarted";
    TransferLeader "transfer-leader" 8 FaultRequirement::Voters(3), "leadership is transferred";
    PartitionLeader "partition-leader" 8 FaultRequirement::Nothing, "the leader's host is cut off in both directions";
    PartitionOneWay "partition-one-way" 6 FaultRequirement::Voters(3), "a master's incoming or outgoing packets are lost, but not both";
    PartitionPartial "partition-partial" 6 FaultRequirement::Voters(3), "a random connectivity graph of the masters";
    CutLeaderFromMasters "cut-leader-from-masters" 6 FaultRequirement::Voters(3), "only the other masters lose the leader; agents and schedulers do not";
    PartitionAgent "partition-agent" 6 FaultRequirement::Nothing, "an agent's host is cut off, sometimes beyond its timeout";
    PartitionFramework "partition-framework" 3 FaultRequirement::Nothing, "a scheduler's host is cut off";
    PacketLoss "packet-loss" 5 FaultRequirement::Nothing, "masters' hosts lose packets";
    SlowLink "slow-link" 3 FaultRequirement::Program("tc"), "the leader's host can send a few hundred kilobits a second";
    DelayLink "delay-link" 4 FaultRequirement::Voters(3), "raft connections between masters go through a slow proxy";
    HalfClose "half-close" 3 FaultRequirement::Voters(3), "raft connections stay open but carry nothing more";
    ResetConnections "reset-connections" 3 FaultRequirement::Voters(3), "raft connections are reset repeatedly";
    DamageLink "damage-link" 3 FaultRequirement::Voters(3), "raft connections sometimes flip a bit of their data";
    FullDisk "full-disk" 3 FaultRequirement::Nothing, "the disk of a master fills up";
    FailingSync "failing-sync" 3 FaultRequirement::Program("strace"), "fdatasync fails on a master";
    StalledDisk "stalled-disk" 3 FaultRequirement::Program("strace"), "fdatasync of the leader takes seconds";
    FullAgentDisk "full-agent-disk" 4 FaultRequirement::AgentDisks, "the disk of an agent fills up, and is freed later";
    FailingAgentSync "failing-agent-sync" 3 FaultRequirement::Program("strace"), "fdatasync fails on an agent";
    StalledAgentDisk "stalled-agent-disk" 3 FaultRequirement::Program("strace"), "fdatasync of an agent takes seconds";
    MemoryLimit "memory-limit" 2 FaultRequirement::Program("prlimit"), "a master cannot allocate more memory";
    DescriptorLimit "descriptor-limit" 3 FaultRequirement::Program("prlimit"), "a master cannot open more descriptors";
    ClockJump "clock-jump" 3 FaultRequirement::FakeClock, "the wall clock of a master jumps by an hour, there and back";
    ReplaceMaster "replace-master" 3 FaultRequirement::Voters(3), "a master loses its disk, leaves the group and joins it again";
    OtherRelease "other-release" 6 FaultRequirement::OtherRelease, "kill -9 of a master or an agent, restarted later with the executable of the other release";
    ReconnectStorm "reconnect-storm" 2 FaultRequirement::Nothing, "1,000 agents connect together while the leader is killed";
    CertificateRenewal "certificate-renewal" 2 FaultRequirement::Tls, "three members get new certificates while they run, one of them a wrong file first";
    RuleChange "rule-change" 2 FaultRequirement::Tls, "a rule denies a call to the holder of a token for a while, and the token is revoked";
    KeyRevocation "key-revocation" 2 FaultRequirement::Tls, "an operator gets a new key, and its former one is revoked while it has connections";
}

impl FaultName {
    /// Whether it waits until the cluster is healthy, or until a master has done what a healthy one
    /// does. While another fault holds, that may never happen, and the other fault would hold for
    /// the whole wait.
    pub(crate) fn waits_for_health(self) -> bool {
        matches!(
            self,
            Self::RollingRestart
                | Self::FullDisk
                | Self::FailingSync
                | Self::ClockJump
                | Self::ReplaceMaster
                | Self::CertificateRenewal
                | Self::KeyRevocation
                | Self::ReconnectStorm
        )
    }

    /// Returns whether its end waits for a leader, or for a line in the log of a healthy member.
    pub(crate) fn end_waits_for_health(self) -> bool {
        matches!(
            self,
            Self::ReplaceMaster | Self::CertificateRenewal | Self::ReconnectStorm
        )
    }
}

/// A name that is not a fault.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("unknown fault {word:?}; {advice}")]
pub(crate) struct UnknownFault {
    word: String,
    advice: String,
}

impl FromStr for FaultName {
    type Err = UnknownFault;

    fn from_str(word: &str) -> Result<Self, UnknownFault> {
        let found = Self::ALL.iter().find(|fault| fault.name() == word);
        found.copied().ok_or_else(|| UnknownFault {
            word: word.to_owned(),
            advice: advice(word),
        })
    }
}

fn advice(word: &str) -> String {
    let names = FaultName::ALL.iter().map(|fault| fault.name());
    let near = names.map(|name| (distance(word, name), name)).min();
    match near {
        Some((edits, near)) if edits <= near.len() / 2 => {
            format!("did you mean {near}? `argosy-chaos faults` lists them all")
        }
        Some(_) | None => "`argosy-chaos faults` lists them all".to_owned(),
    }
}

/// Returns the number of letters to insert, remove or replace.
fn distance(one: &str, other: &str) -> usize {
    let other: Vec<char> = other.chars().collect();
    let mut row: Vec<usize> = (0..=other.len()).collect();
    for (position, letter) in one.chars().take(64).enumerate() {
        let mut diagonal = row[0];
        row[0] = position + 1;
        for (place, known) in other.iter().enumerate() {
            let exchanged = diagonal + usize::from(letter != *known);
            diagonal = row[place + 1];
            row[place + 1] = exchanged.min(row[place] + 1).min(diagonal + 1);
        }
    }
    row[other.len()]
}

impl fmt::Display for FaultName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::faults::choice::FaultMix;
    use crate::rng::Rng;

    #[test]
    fn fault_names_round_trip_and_a_typo_gets_a_suggestion() {
        for fault in FaultName::ALL {
            assert_eq!(fault.name().parse(), Ok(*fault));
            assert!(!fault.text().is_empty() && fault.weighted().1 > 0);
        }
        let error = "kill-leaders".parse::<FaultName>().unwrap_err().to_string();
        assert!(
            error.contains("kill-leaders") && error.contains("did you mean kill-"),
            "{error}"
        );
        let error = "rain".parse::<FaultName>().unwrap_err().to_string();
        assert!(error.contains("argosy-chaos faults"), "{error}");
    }

    /// A new fault changes these values. Recorded seeds then replay at their own commits only.
    #[test]
    fn a_seed_makes_the_same_choices_as_ever() {
        let mut rng = Rng::new(3);
        let all = FaultName::ALL.iter().map(|fault| fault.weighted());
        let mut mix = FaultMix::new(all.collect(), &mut rng);
        let mut next = |count: usize| -> Vec<&str> {
            let faults = (0..count).map(|_| mix.next(&mut rng).unwrap());
            faults.map(FaultName::name).collect()
        };
        let first = [
            "half-close",
            "failing-sync",
            "replace-master",
            "partition-leader",
            "transfer-leader",
            "full-agent-disk",
        ];
        assert_eq!(next(6), first);
        let mut rest = next(FaultName::ALL.len() - 6);
        rest.extend(first);
        rest.sort_unstable();
        let mut all: Vec<&str> = FaultName::ALL.iter().map(|fault| fault.name()).collect();
        all.sort_unstable();
        assert_eq!(rest, all);
        let repeated = [
            "pause-leader",
            "packet-loss",
            "kill-agent-in-destroy",
            "slow-link",
            "kill-follower",
        ];
        assert_eq!(next(5), repeated);
    }
}
