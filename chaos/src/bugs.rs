//! The planted bugs, each with the rules that must find it. A harness that misses one has not
//! proved that it works.
//!
//! The switches are in `argosy_state::bugs`, behind its feature `testing`.

use argosy_state::bugs::Bug;

use crate::invariants::Rule;

/// The harness in which a bug is found first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Harness {
    /// The simulation of Raft alone.
    RaftSimulation,
    /// The simulation of the whole system.
    SystemSimulation,
    /// Real processes, after the given rounds of these faults of `run`.
    RealProcesses {
        /// The value of `--faults`.
        faults: &'static str,
        /// The value of `--rounds`.
        rounds: u64,
    },
}

/// A planted bug and the rules that find it.
#[derive(Debug, Clone, Copy)]
pub struct PlantedBug {
    pub bug: Bug,
    pub harness: Harness,
    /// Any of these rules must name it. A timeout or another check does not count.
    pub rules: &'static [Rule],
    /// A description of the faults that expose it.
    pub trigger: &'static str,
}

/// Returns the bugs that simulations find, in the order of `Bug::ALL`.
#[must_use]
pub fn simulated() -> Vec<PlantedBug> {
    let found = Bug::ALL.iter().filter_map(|bug| found_by(*bug));
    found.collect()
}

/// Bugs with their rules, the faults of `run`, and a description of the trigger. docs/chaos.md
/// lists others, which were searched in vain or not yet.
const REAL: &[(Bug, &[Rule], &str, &str)] = &[
    (
        Bug::AnswersNotLoaded,
        &[Rule::StateMachineSafety, Rule::AtMostOnce],
        "kill-follower,kill-leader",
        "masters that are restarted",
    ),
    (
        Bug::AnswerBeforeCommit,
        &[
            Rule::AcknowledgedWrites,
            Rule::AtMostOnce,
            Rule::OfferSingleUse,
        ],
        "cut-leader-from-masters",
        "a leader that accepts calls and cannot commit them",
    ),
    (
        Bug::ReadWithoutQuorum,
        &[Rule::Linearizability],
        "partition-leader,pause-leader",
        "a replaced leader that answers",
    ),
    (
        Bug::KillLost,
        &[Rule::Kills],
        "kill-leader,kill-agent",
        "a kill right after its launch",
    ),
    (
        Bug::SettledBeforeCommit,
        &[Rule::UpdateDelivery, Rule::Agreement],
        "cut-leader-from-masters,kill-leader",
        "a leader that receives reports and cannot commit them",
    ),
    (
        Bug::UpdateForgotten,
        &[Rule::UpdateDelivery, Rule::Agreement],
        "kill-agent,kill-agent-in-launch",
        "an agent that crashes before its update is acknowledged",
    ),
    (
        Bug::LaunchRepeated,
        &[Rule::SingleStart, Rule::StaleLeaderFencing],
        "kill-leader,kill-agent",
        "a change of leader with tasks running",
    ),
    (
        Bug::CgroupLeaked,
        &[Rule::NoLeftovers],
        "kill-leader,kill-follower",
        "tasks that end",
    ),
    (
        Bug::OutputResumesLate,
        &[Rule::OutputContinuity],
        "kill-leader,kill-agent",
        "an output that breaks off while it is followed",
    ),
    (
        Bug::ExecCrossed,
        &[Rule::ExecSession],
        "kill-leader,kill-follower",
        "commands in several tasks of one agent",
    ),
    (
        Bug::NetworkForgotten,
        &[Rule::PublishedPorts],
        "kill-agent,kill-agent-in-launch",
        "a restart while tasks have published ports",
    ),
    (
        Bug::StaleRules,
        &[Rule::AccessEnforcement],
        "rule-change",
        "a change of rules, and calls before and after it",
    ),
    (
        Bug::LostHopRefused,
        &[Rule::OfferSingleUse, Rule::Linearizability],
        "kill-leader,kill-follower",
        "a leader that crashes with a forwarded call in flight",
    ),
];

/// Returns the bugs that are found under real processes. Simulations find most of them, too.
#[must_use]
pub fn real() -> Vec<PlantedBug> {
    let planted = REAL.iter().map(|(bug, rules, faults, needs)| PlantedBug {
        bug: *bug,
        harness: Harness::RealProcesses {
            faults,
            rounds: REAL_ROUNDS,
        },
        rules,
        trigger: needs,
    });
    planted.collect()
}

/// Bugs that need many seeds until a rule names them, or that no rule has named in the time that
/// was given. A random choice leaves them out, so that the gate ends in time. docs/chaos.md lists
/// how long each took.
const SLOW: &[Bug] = &[
    Bug::MovedDecisionCommits,
    Bug::CloneAccepted,
    Bug::DigestIgnored,
    Bug::DeadlineLost,
    Bug::EpochNotChecked,
    Bug::FormerVoterCounts,
    Bug::DeactivatedOffered,
    Bug::LostHopRefused,
    Bug::CompactionLosesTask,
    Bug::AdoptedAsFirst,
    Bug::GroupOutlives,
    Bug::LimitsAgain,
    Bug::WatchResumesLate,
    Bug::RevokedPeerStays,
    Bug::StaleRules,
    Bug::TicketPathIgnored,
    Bug::RebootForgotten,
];

/// Whether a random choice leaves this bug out.
#[must_use]
pub fn is_slow(bug: Bug) -> bool {
    SLOW.contains(&bug)
}

/// Rounds of faults for each bug under real processes.
const REAL_ROUNDS: u64 = 8;

#[allow(clippy::too_many_lines, reason = "a table: one line a bug")]
fn found_by(bug: Bug) -> Option<PlantedBug> {
    use Harness::{RaftSimulation as Raft, SystemSimulation as System};
    use Rule::*;
    let (harness, rules, trigger): (Harness, &'static [Rule], &'static str) = match bug {
        // Simulated machines have no control groups, networks or commands in containers, and no
        // operator reads outputs there.
        Bug::CgroupLeaked | Bug::ExecCrossed | Bug::NetworkForgotten | Bug::OutputResumesLate => {
            return None;
        }
        Bug::VoteNotSynced => (
            Raft,
            &[ElectionSafety, Amnesia],
            "a power cut right after an election",
        ),
        Bug::AppendNotSynced => (
            Raft,
            &[
                Durability,
                LogMatching,
                Linearizability,
                AcknowledgedWrites,
                Amnesia,
            ],
            "a power cut of a quorum",
        ),
        Bug::SnapshotMetaEarly => (
            Raft,
            &[StateMachineSafety, AtMostOnce],
            "a follower that needs a snapshot",
        ),
        Bug::QuorumLossIgnored => (
            System,
            &[Liveness, Fairness, Kills],
            "masters that lose each other",
        ),
        Bug::ReadWithoutQuorum => (
            Raft,
            &[Linearizability],
            "a partition, or a follower that lags",
        ),
        Bug::StaleEpochCommits => (
            System,
            &[AtMostOnce, OfferSingleUse, AgentReturns, StaleLeaderFencing],
            "a leader that is elected again",
        ),
        Bug::MovedDecisionCommits => (
            System,
            &[TaskSurvival, AgentReturns],
            "an agent that becomes unreachable as it reconnects",
        ),
        Bug::UsedOfferHonoured => (
            System,
            &[OfferSingleUse],
            "a change of leader between two acceptances",
        ),
        Bug::FreedAtKill => (
            System,
            &[ResourceConservation, NoDoubleBooking],
            "kills with a long grace period",
        ),
        Bug::AnswersNotLoaded => (
            System,
            &[StateMachineSafety, AtMostOnce],
            "a restart while calls are repeated",
        ),
        Bug::SharedOrder => (
            System,
            &[StaleLeaderFencing, AtMostOnce, Agreement],
            "two launches in one acceptance",
        ),
        Bug::LaunchAfterUnreachable => (
            System,
            &[AgentReturns],
            "an agent away while a launch waits",
        ),
        Bug::SessionNotChecked => (
            System,
            &[UniqueIdentity],
            "a scheduler that is superseded during a call",
        ),
        Bug::CloneAccepted => (System, &[UniqueIdentity], "a copy of an agent's disk"),
        Bug::KillLost => (System, &[Kills], "a kill right after its launch"),
        Bug::EqualWithUnsentOrder => (
            System,
            &[Agreement, Kills, AgentReturns],
            "orders made while an agent is away",
        ),
        Bug::DigestIgnored => (
            System,
            &[Agreement, AgentReturns],
            "an agent that becomes unreachable at rest",
        ),
        Bug::SettledBeforeCommit => (
            System,
            &[UpdateDelivery, Agreement],
            "a leader that crashes with a report in flight",
        ),
        // Its tasks do not end. Fairness applies only to frameworks that are present.
        Bug::DeadlineLost => (
            System,
            &[Kills],
            "a scheduler that stays disconnected over a failover",
        ),
        Bug::GraceLost => (
            System,
            &[TaskSurvival],
            "a failover with a scheduler without failover timeout",
        ),
        Bug::FreezeExpires => (
            System,
            &[TaskSurvival, AgentReturns],
            "a leader that outlives a freeze",
        ),
        Bug::UnknownTooEarly => (
            System,
            &[Kills],
            "a reconciliation that overtakes an acceptance",
        ),
        Bug::AnswerBeforeCommit => (
            System,
            &[AcknowledgedWrites, AtMostOnce, OfferSingleUse],
            "a leader that crashes with a call in flight",
        ),
        Bug::RescindNotSent => (
            System,
            &[OfferSingleUse],
            "an agent lost while it is offered",
        ),
        Bug::UpdateForgotten => (
            System,
            &[UpdateDelivery, Agreement],
            "an agent that crashes before its update is acknowledged",
        ),
        Bug::EpochNotChecked => (
            System,
            &[EpochMonotonicity],
            "a deposed leader that continues to send",
        ),
        Bug::EpochNotSynced => (
            System,
            &[EpochMonotonicity],
            "a power cut of an agent after a change of leader",
        ),
        Bug::OrderNotSynced => (
            System,
            &[SingleStart, StaleLeaderFencing],
            "a power cut of an agent after a launch",
        ),
        Bug::LaunchRepeated => (
            System,
            &[SingleStart, StaleLeaderFencing],
            "a change of leader with tasks running",
        ),
        Bug::FormerVoterCounts => (System, &[Liveness], "two masters that lose their disks"),
        Bug::NodeIdReused => (
            System,
            &[ElectionSafety, Amnesia],
            "an election after a disk was lost",
        ),
        Bug::AppliedBeforeRecords => (
            System,
            &[StateMachineSafety],
            "a power cut right after a long batch",
        ),
        Bug::InstallNotNoted => (
            Raft,
            &[StateMachineSafety],
            "a crash or a slow disk during an install",
        ),
        Bug::LapsedOfferKept => (
            System,
            &[Fairness],
            "offers that expire, and a leader that stays",
        ),
        Bug::SecondOfferForgotten => (System, &[NoDoubleBooking], "several offers of one agent"),
        Bug::DeactivatedOffered => (
            System,
            &[OfferLimits],
            "an agent that is deactivated for a long time",
        ),
        Bug::UpdatePassedOver => (System, &[UpdateDelivery], "an end right after a start"),
        Bug::LostHopRefused => (
            System,
            &[OfferSingleUse, Linearizability],
            "a leader that crashes with a forwarded call in flight",
        ),
        Bug::StopAfterNotLoaded => (
            System,
            &[StateMachineSafety],
            "a restart while such a task runs",
        ),
        Bug::CompactionLosesTask => (
            System,
            &[UpdateDelivery, Adoption],
            "a restart after a compaction",
        ),
        Bug::SignalAsCode => (System, &[Adoption], "a task that is killed after a restart"),
        Bug::AdoptedAsFirst => (System, &[Adoption], "a restart while a group runs"),
        Bug::RebootForgotten => (
            System,
            &[Reboots, Agreement, SingleStart],
            "a reboot while tasks run",
        ),
        Bug::GroupOutlives => (
            System,
            &[GroupAtomicity],
            "a group whose first task fails before the others",
        ),
        Bug::GroupUnprepared => (
            System,
            &[GroupAtomicity],
            "a group whose files come one after the other",
        ),
        Bug::ExecutorLeft => (
            System,
            &[ExecutorLifetime],
            "a last task that ends between two streams",
        ),
        Bug::ExecutorTwice => (
            System,
            &[ExecutorLifetime],
            "a launch while the executor of its name ends",
        ),
        Bug::LimitsAgain => (
            System,
            &[LimitEnforcement],
            "a restart after limits were rejected",
        ),
        Bug::CompletionForgotten => (
            System,
            &[Kills],
            "a restart before max_completion_ms has passed",
        ),
        Bug::DenialIgnored => (
            System,
            &[AccessEnforcement],
            "a denial, and reads at followers",
        ),
        Bug::RevokedTokenHonoured => (
            System,
            &[AccessEnforcement],
            "a revocation under another leader than the last change of rules",
        ),
        Bug::RevokedPeerStays => (
            System,
            &[AccessEnforcement],
            "a revocation of the former keys of all masters",
        ),
        Bug::StaleRules => (
            System,
            &[AccessEnforcement],
            "a denial under a leader that has decided about its caller before",
        ),
        Bug::TicketPathIgnored => (
            System,
            &[AccessEnforcement],
            "a ticket that is used for another path",
        ),
        Bug::WatchResumesLate => (
            System,
            &[ChangeFeed],
            "a reader that resumes at another master",
        ),
    };
    Some(PlantedBug {
        bug,
        harness,
        rules,
        trigger,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_planted_bug_has_a_harness() {
        let all: Vec<PlantedBug> = simulated().into_iter().chain(real()).collect();
        for bug in Bug::ALL {
            assert!(all.iter().any(|planted| planted.bug == *bug), "{bug}");
        }
        for planted in all {
            assert!(
                !planted.rules.is_empty() && !planted.trigger.is_empty(),
                "{}",
                planted.bug
            );
        }
    }
}
