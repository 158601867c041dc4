//! The planted bugs, each with the rules that must find it. A harness that misses one has not
//! proved that it works.
//!
//! The switches are in `argosy_state::bugs`, behind its feature `testing`.

use argosy_state::bugs::Bug;

use crate::invariants::Rule;

/// The harness in which a bug is found first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Place {
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
pub struct Planted {
    pub bug: Bug,
    pub place: Place,
    /// Any of these rules must name it. A timeout or another check does not count.
    pub rules: &'static [Rule],
    /// A description of the faults that expose it.
    pub needs: &'static str,
}

/// Returns the bugs that simulations find, in the order of `Bug::ALL`.
#[must_use]
pub fn simulated() -> Vec<Planted> {
    let found = Bug::ALL.iter().filter_map(|bug| found_by(*bug));
    found.collect()
}

/// Bug, its rules, faults of `run`, and a description of what exposes it.
const REAL: &[(Bug, &[Rule], &str, &str)] = &[
    (
        Bug::AnswersNotLoaded,
        &[Rule::R4, Rule::R7],
        "kill-follower,kill-leader",
        "masters that are restarted",
    ),
    (
        Bug::AnswerBeforeCommit,
        &[Rule::R6, Rule::R7, Rule::O3],
        "kill-leader,pause-leader,partition-leader",
        "a leader that crashes with a call in flight",
    ),
    (
        Bug::ReadWithoutQuorum,
        &[Rule::R5],
        "partition-leader,pause-leader",
        "a replaced leader that answers",
    ),
    (
        Bug::FreedAtKill,
        &[Rule::O1, Rule::O2],
        "kill-leader,kill-agent-in-destroy",
        "kills with a long grace period",
    ),
    (
        Bug::SharedOrder,
        &[Rule::F2, Rule::R7, Rule::T4],
        "kill-leader,kill-agent",
        "two launches in one acceptance",
    ),
    (
        Bug::KillLost,
        &[Rule::T6],
        "kill-leader,kill-agent",
        "a kill right after its launch",
    ),
    (
        Bug::DigestIgnored,
        &[Rule::T4, Rule::T10],
        "partition-agent,kill-leader",
        "an agent that becomes unreachable at rest",
    ),
    (
        Bug::SettledBeforeCommit,
        &[Rule::T3, Rule::T4],
        "kill-leader,kill-minority",
        "a leader that crashes with a report in flight",
    ),
    (
        Bug::GraceLost,
        &[Rule::T7],
        "kill-leader",
        "a failover with a scheduler without failover timeout",
    ),
    (
        Bug::UpdateForgotten,
        &[Rule::T3, Rule::T4],
        "kill-agent,kill-agent-in-launch",
        "an agent that crashes before its update is acknowledged",
    ),
    (
        Bug::OrderNotSynced,
        &[Rule::T1, Rule::F2],
        "kill-agent-in-launch,kill-agent",
        "an agent that crashes after a launch",
    ),
    (
        Bug::QuorumLossIgnored,
        &[Rule::R9, Rule::O5, Rule::T6],
        "partition-leader,cut-leader-from-masters",
        "masters that lose each other",
    ),
    (
        Bug::SessionNotChecked,
        &[Rule::F3],
        "pause-framework,kill-framework",
        "a scheduler that is superseded during a call",
    ),
    (
        Bug::LaunchRepeated,
        &[Rule::T1, Rule::F2],
        "kill-leader,kill-agent",
        "a change of leader with tasks running",
    ),
    (
        Bug::CgroupLeaked,
        &[Rule::C1],
        "kill-leader,kill-follower",
        "tasks that end",
    ),
];

/// Returns the bugs that are found under real processes. Simulations find most of them, too.
#[must_use]
pub fn real() -> Vec<Planted> {
    let planted = REAL.iter().map(|(bug, rules, faults, needs)| Planted {
        bug: *bug,
        place: Place::RealProcesses {
            faults,
            rounds: REAL_ROUNDS,
        },
        rules,
        needs,
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
    Bug::FormerVoterCounts,
    Bug::InstallNotNoted,
    Bug::DeactivatedOffered,
    Bug::LostHopRefused,
    Bug::CompactionLosesTask,
    Bug::AdoptedAsFirst,
    Bug::GroupOutlives,
    Bug::LimitsAgain,
    Bug::CompletionForgotten,
];

/// Whether a random choice leaves this bug out.
#[must_use]
pub fn is_slow(bug: Bug) -> bool {
    SLOW.contains(&bug)
}

/// Rounds of faults for each bug under real processes.
const REAL_ROUNDS: u64 = 8;

#[allow(clippy::too_many_lines, reason = "a table: one line a bug")]
fn found_by(bug: Bug) -> Option<Planted> {
    use Place::{RaftSimulation as Raft, SystemSimulation as System};
    use Rule::*;
    let (place, rules, needs): (Place, &'static [Rule], &'static str) = match bug {
        // Simulated machines have no control groups.
        Bug::CgroupLeaked => return None,
        Bug::VoteNotSynced => (Raft, &[R1, R8], "a power cut right after an election"),
        Bug::AppendNotSynced => (Raft, &[R3, R2, R5, R6, R8], "a power cut of a quorum"),
        Bug::SnapshotMetaEarly => (Raft, &[R4, R7], "a follower that needs a snapshot"),
        Bug::QuorumLossIgnored => (System, &[R9, O5, T6], "masters that lose each other"),
        Bug::ReadWithoutQuorum => (Raft, &[R5], "a partition, or a follower that lags"),
        Bug::StaleReignCommits => (System, &[R7, O3, T10, F2], "a leader that is elected again"),
        Bug::MovedDecisionCommits => (
            System,
            &[T7, T10],
            "an agent that becomes unreachable as it reconnects",
        ),
        Bug::UsedOfferHonoured => (System, &[O3], "a change of leader between two acceptances"),
        Bug::FreedAtKill => (System, &[O1, O2], "kills with a long grace period"),
        Bug::AnswersNotLoaded => (System, &[R4, R7], "a restart while calls are repeated"),
        Bug::SharedOrder => (System, &[F2, R7, T4], "two launches in one acceptance"),
        Bug::LaunchAfterUnreachable => (System, &[T10], "an agent away while a launch waits"),
        Bug::SessionNotChecked => (
            System,
            &[F3],
            "a scheduler that is superseded during a call",
        ),
        Bug::CloneAccepted => (System, &[F3], "a copy of an agent's disk"),
        Bug::KillLost => (System, &[T6], "a kill right after its launch"),
        Bug::EqualWithUnsentOrder => (System, &[T4, T6, T10], "orders made while an agent is away"),
        Bug::DigestIgnored => (
            System,
            &[T4, T10],
            "an agent that becomes unreachable at rest",
        ),
        Bug::SettledBeforeCommit => (
            System,
            &[T3, T4],
            "a leader that crashes with a report in flight",
        ),
        // Its tasks do not end. O5 applies only to frameworks that are present.
        Bug::DeadlineLost => (
            System,
            &[T6],
            "a scheduler that stays disconnected over a failover",
        ),
        Bug::GraceLost => (
            System,
            &[T7],
            "a failover with a scheduler without failover timeout",
        ),
        Bug::FreezeExpires => (System, &[T7, T10], "a leader that outlives a freeze"),
        Bug::UnknownTooEarly => (
            System,
            &[T6],
            "a reconciliation that overtakes an acceptance",
        ),
        Bug::AnswerBeforeCommit => (
            System,
            &[R6, R7, O3],
            "a leader that crashes with a call in flight",
        ),
        Bug::RescindNotTold => (System, &[O3], "an agent lost while it is offered"),
        Bug::UpdateForgotten => (
            System,
            &[T3, T4],
            "an agent that crashes before its update is acknowledged",
        ),
        Bug::EpochNotChecked => (System, &[F1], "a deposed leader that continues to send"),
        Bug::EpochNotSynced => (
            System,
            &[F1],
            "a power cut of an agent after a change of leader",
        ),
        Bug::OrderNotSynced => (System, &[T1, F2], "a power cut of an agent after a launch"),
        Bug::LaunchRepeated => (System, &[T1, F2], "a change of leader with tasks running"),
        Bug::FormerVoterCounts => (System, &[R9], "two masters that lose their disks"),
        Bug::NodeIdReused => (System, &[R1, R8], "an election after a disk was lost"),
        Bug::AppliedBeforeRecords => (System, &[R4], "a power cut right after a long batch"),
        Bug::InstallNotNoted => (System, &[R4], "a crash or a slow disk during an install"),
        Bug::LapsedOfferKept => (System, &[O5], "offers that expire, and a leader that stays"),
        Bug::SecondOfferForgotten => (System, &[O2], "several offers of one agent"),
        Bug::DeactivatedOffered => (
            System,
            &[O4],
            "an agent that is deactivated for a long time",
        ),
        Bug::UpdatePassedOver => (System, &[T3], "an end right after a start"),
        Bug::LostHopRefused => (
            System,
            &[O3, R5],
            "a leader that crashes with a forwarded call in flight",
        ),
        Bug::StopAfterNotLoaded => (System, &[R4], "a restart while such a task runs"),
        Bug::CompactionLosesTask => (System, &[T3, T8], "a restart after a compaction"),
        Bug::SignalAsCode => (System, &[T8], "a task that is killed after a restart"),
        Bug::AdoptedAsFirst => (System, &[T8], "a restart while a group runs"),
        Bug::RebootForgotten => (System, &[T9, T4, T1], "a reboot while tasks run"),
        Bug::GroupOutlives => (
            System,
            &[T11],
            "a group whose first task fails before the others",
        ),
        Bug::GroupUnprepared => (
            System,
            &[T11],
            "a group whose files come one after the other",
        ),
        Bug::ExecutorLeft => (System, &[T12], "a last task that ends between two streams"),
        Bug::ExecutorTwice => (
            System,
            &[T12],
            "a launch while the executor of its name ends",
        ),
        Bug::LimitsAgain => (System, &[L1], "a restart after limits were rejected"),
        Bug::CompletionForgotten => (
            System,
            &[T6],
            "a restart before max_completion_ms has passed",
        ),
    };
    Some(Planted {
        bug,
        place,
        rules,
        needs,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_planted_bug_has_a_place_where_it_is_found() {
        let all: Vec<Planted> = simulated().into_iter().chain(real()).collect();
        for bug in Bug::ALL {
            assert!(all.iter().any(|planted| planted.bug == *bug), "{bug}");
        }
        for planted in all {
            assert!(
                !planted.rules.is_empty() && !planted.needs.is_empty(),
                "{}",
                planted.bug
            );
        }
    }
}
