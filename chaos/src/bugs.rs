//! The planted bugs, each with the rules that are to find it. A harness that does not find one has not
//! proved itself.
//!
//! The switches themselves stand in `argosy_state::bugs`, behind its feature `testing`.

use argosy_state::bugs::Bug;

use crate::invariants::Rule;

/// Where a bug is found at the earliest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Place {
    /// In the simulation of raft alone.
    RaftSimulation,
    /// In the simulation of the whole system.
    SystemSimulation,
    /// Under real processes, by so many rounds of these faults of `run`.
    RealProcesses {
        /// As after `--faults`.
        faults: &'static str,
        /// As after `--rounds`.
        rounds: u64,
    },
}

/// A planted bug and who finds it.
#[derive(Debug, Clone, Copy)]
pub struct Planted {
    /// Which.
    pub bug: Bug,
    /// Where.
    pub place: Place,
    /// Any of these rules must name it; a timeout or another check does not count.
    pub rules: &'static [Rule],
    /// The faults that bring it out, in words.
    pub needs: &'static str,
}

/// The bugs that simulations find, in the order of `Bug::ALL`.
#[must_use]
pub fn simulated() -> Vec<Planted> {
    let found = Bug::ALL.iter().filter_map(|bug| found_by(*bug));
    found.collect()
}

/// Bug, its rules, faults of `run`, and what it needs in words.
const REAL: &[(Bug, &[Rule], &str, &str)] = &[
    (
        Bug::AnswersNotLoaded,
        &[Rule::R4, Rule::R7],
        "kill-follower,kill-leader",
        "masters that are started again",
    ),
    (
        Bug::AnswerBeforeCommit,
        &[Rule::R6, Rule::R7, Rule::O3],
        "kill-leader,pause-leader,partition-leader",
        "a leader that dies with a call",
    ),
    (
        Bug::ReadWithoutQuorum,
        &[Rule::R5],
        "partition-leader,pause-leader",
        "a leader that was replaced and answers",
    ),
    (
        Bug::FreedAtKill,
        &[Rule::O1, Rule::O2],
        "kill-leader,kill-agent-in-destroy",
        "kills with a long grace",
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
        "a kill right behind its launch",
    ),
    (
        Bug::DigestIgnored,
        &[Rule::T4, Rule::T10],
        "partition-agent,kill-leader",
        "an agent given up at rest",
    ),
    (
        Bug::SettledBeforeCommit,
        &[Rule::T3, Rule::T4],
        "kill-leader,kill-minority",
        "a leader that dies with a report",
    ),
    (
        Bug::GraceLost,
        &[Rule::T7],
        "kill-leader",
        "a failover with a scheduler of no timeout",
    ),
    (
        Bug::UpdateForgotten,
        &[Rule::T3, Rule::T4],
        "kill-agent,kill-agent-in-launch",
        "an agent that dies before its update settles",
    ),
    (
        Bug::OrderNotSynced,
        &[Rule::T1, Rule::F2],
        "kill-agent-in-launch,kill-agent",
        "an agent that dies after a launch",
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
        "a scheduler taken over while it calls",
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

/// The bugs that are found under real processes, most of which simulations find, too.
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

/// Bugs that need many seeds until a rule names them, or that none has named in the time that was given: a choice by
/// chance leaves them out, so that the gate ends in time. docs/chaos.md shows what each took.
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

/// Whether a choice by chance leaves this bug out.
#[must_use]
pub fn is_slow(bug: Bug) -> bool {
    SLOW.contains(&bug)
}

/// How many faults a bug gets under real processes.
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
        Bug::MovedDecisionCommits => (System, &[T7, T10], "an agent given up as it moves"),
        Bug::UsedOfferHonoured => (System, &[O3], "a change of leader between two acceptances"),
        Bug::FreedAtKill => (System, &[O1, O2], "kills with a long grace"),
        Bug::AnswersNotLoaded => (System, &[R4, R7], "a restart while calls are repeated"),
        Bug::SharedOrder => (System, &[F2, R7, T4], "two launches in one acceptance"),
        Bug::LaunchAfterUnreachable => (System, &[T10], "an agent away while a launch waits"),
        Bug::SessionNotChecked => (System, &[F3], "a scheduler taken over while it calls"),
        Bug::CloneAccepted => (System, &[F3], "a copy of an agent's disk"),
        Bug::KillLost => (System, &[T6], "a kill right behind its launch"),
        Bug::EqualWithUnsentOrder => (System, &[T4, T6, T10], "orders made while an agent is away"),
        Bug::DigestIgnored => (System, &[T4, T10], "an agent given up at rest"),
        Bug::SettledBeforeCommit => (System, &[T3, T4], "a leader that dies with a report"),
        // What it runs does not end. O5 is asked of frameworks that are there.
        Bug::DeadlineLost => (System, &[T6], "a scheduler that stays away over a failover"),
        Bug::GraceLost => (System, &[T7], "a failover with a scheduler of no timeout"),
        Bug::FreezeExpires => (System, &[T7, T10], "a leader that outlives a freeze"),
        Bug::UnknownTooEarly => (System, &[T6], "a question that overtakes"),
        Bug::AnswerBeforeCommit => (System, &[R6, R7, O3], "a leader that dies with a call"),
        Bug::RescindNotTold => (System, &[O3], "an agent lost while it is on offer"),
        Bug::UpdateForgotten => (
            System,
            &[T3, T4],
            "an agent that dies before its update settles",
        ),
        Bug::EpochNotChecked => (System, &[F1], "a deposed leader that goes on speaking"),
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
        Bug::LapsedOfferKept => (System, &[O5], "offers that lapse, and a leader that stays"),
        Bug::SecondOfferForgotten => (System, &[O2], "several offers of one agent"),
        Bug::DeactivatedOffered => (System, &[O4], "an agent that is deactivated for long"),
        Bug::UpdatePassedOver => (System, &[T3], "an end right behind a start"),
        Bug::LostHopRefused => (
            System,
            &[O3, R5],
            "a leader that dies with a forwarded call",
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
        Bug::LimitsAgain => (System, &[L1], "a restart after limits were refused"),
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
