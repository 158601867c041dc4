//! Test hook: planted defects (mutants), which prove that the test harnesses find bugs.
//!
//! Without the feature `testing` every switch is the constant `false` and costs nothing; no shipped
//! executable has the feature. A switch applies to the whole process, so all masters of a
//! simulation have the same defect. The code queries a switch only by
//! [`planted_bug!`](crate::planted_bug), in one line next to the correct code.

use std::fmt;
use std::str::FromStr;

/// Defines the defects by name, each with a description.
macro_rules! bugs {
    ($($bug:ident $name:literal $meaning:literal;)*) => {
        /// A planted defect.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum Bug {
            $(#[doc = $meaning] $bug,)*
        }

        impl Bug {
            /// All defects, in order of declaration.
            pub const ALL: &'static [Self] = &[$(Self::$bug,)*];

            /// Returns the name for the command line.
            #[must_use]
            pub fn name(self) -> &'static str {
                match self {
                    $(Self::$bug => $name,)*
                }
            }

            /// Returns a description of one line.
            #[must_use]
            pub fn meaning(self) -> &'static str {
                match self {
                    $(Self::$bug => $meaning,)*
                }
            }
        }
    };
}

bugs! {
    VoteNotSynced "vote-not-synced" "a vote is answered before it is on disk";
    AppendNotSynced "append-not-synced" "an entry is acknowledged before it is on disk";
    SnapshotMetaEarly "snapshot-meta-early" "the metadata of a snapshot names the entry before its last one";
    QuorumLossIgnored "quorum-loss-ignored" "a leader without a quorum keeps the connections of agents and frameworks";
    ReadWithoutQuorum "read-without-quorum" "any master answers a linearizable read without asking a quorum";
    StaleEpochCommits "stale-epoch-commits" "a command of an earlier epoch is applied in a later one";
    MovedDecisionCommits "moved-decision-commits" "a decision on a record that has changed since is applied";
    UsedOfferHonoured "used-offer-honoured" "a used offer is accepted again";
    FreedAtKill "freed-at-kill" "resources are freed when a kill is requested, and again at the end";
    AnswersNotLoaded "answers-not-loaded" "answers to numbered calls are missing after a snapshot or restart";
    SharedOrder "shared-order" "two launches of one acceptance get one order number";
    LaunchAfterUnreachable "launch-after-unreachable" "a launch is delivered after its task was UNREACHABLE";
    SessionNotChecked "session-not-checked" "calls of a superseded scheduler are applied";
    CloneAccepted "clone-accepted" "a copy of an agent's disk is registered as the agent";
    KillLost "kill-lost" "a kill before the first update of its task is not delivered";
    EqualWithUnsentOrder "equal-with-unsent-order" "an agent with an equal digest is not sent the orders that it missed";
    DigestIgnored "digest-ignored" "an agent that has applied the last order is never reconciled";
    SettledBeforeCommit "settled-before-commit" "an agent may remove an update before it is committed";
    DeadlineLost "deadline-lost" "a new leader does not take over the deadlines of frameworks";
    GraceLost "grace-lost" "a new leader gives frameworks no time to return";
    FreezeExpires "freeze-expires" "a pause of a master counts as silence of agents and frameworks";
    UnknownTooEarly "unknown-too-early" "UNKNOWN is answered while an acceptance may be in flight";
    AnswerBeforeCommit "answer-before-commit" "a numbered call is answered before it is committed";
    RescindNotSent "rescind-not-sent" "a framework receives no rescind for a cancelled offer";
    UpdateForgotten "update-forgotten" "an agent loses unsettled updates when it restarts";
    EpochNotChecked "epoch-not-checked" "an agent obeys a leader whose epoch has ended";
    EpochNotSynced "epoch-not-synced" "an agent acts in an epoch before the epoch is on its disk";
    OrderNotSynced "order-not-synced" "an agent acts on an order before the order is on its disk";
    LaunchRepeated "launch-repeated" "a new leader sends launches again, and agents execute them again";
    FormerVoterCounts "former-voter-counts" "a voter that lost its disk still counts after its master has joined again";
    NodeIdReused "node-id-reused" "a master that lost its disk takes the id that its address had";
    AppliedBeforeRecords "applied-before-records" "a long batch writes its applied position before its records";
    InstallNotNoted "install-not-noted" "a snapshot replaces the registry without a marker on the disk, its position first";
    LapsedOfferKept "lapsed-offer-kept" "one expired offer in three stays in the offer book of the leader";
    SecondOfferForgotten "second-offer-forgotten" "of several offers of an agent only the first counts as offered";
    DeactivatedOffered "deactivated-offered" "free resources of a deactivated agent with tasks are offered";
    UpdatePassedOver "update-passed-over" "an update that arrives during an acknowledgement of its task counts as a repeat";
    LostHopRefused "lost-hop-refused" "a call is refused if the connection to the leader breaks after it was forwarded";
    StopAfterNotLoaded "stop-after-not-loaded" "a restarted master loses the stop_after_ms of tasks";
    CompactionLosesTask "compaction-loses-task" "a compacted journal lacks one of ten tasks";
    SignalAsCode "signal-as-code" "a signal that kills an adopted task is reported as an exit code";
    AdoptedAsFirst "adopted-as-first" "a task of a group is adopted as the first task of its group";
    RebootForgotten "reboot-forgotten" "an agent does not notice that its host was rebooted";
    GroupOutlives "group-outlives" "a group continues after its first task has failed";
    GroupUnprepared "group-unprepared" "a group is started when its last task is prepared";
    ExecutorLeft "executor-left" "an executor without a stream is not killed after its last task";
    ExecutorTwice "executor-twice" "a second executor is started while the first one ends";
    LimitsAgain "limits-again" "refused limits are applied after a restart";
    CompletionForgotten "completion-forgotten" "a restarted agent loses max_completion_ms";
    WatchResumesLate "watch-resumes-late" "a change feed that is resumed lacks the first log entry after its position";
    DenialIgnored "denial-ignored" "a follower serves one read in four whatever the rules";
    RevokedTokenHonoured "revoked-token-honoured" "a leader elected after the last change of rules honours tokens that are revoked since";
    RevokedPeerStays "revoked-peer-stays" "a connection between masters stays open when the key of its peer is revoked";
    StaleRules "stale-rules" "a leader decides by former rules while the number of rights that it has found is odd";
    TicketPathIgnored "ticket-path-ignored" "a ticket for one path opens every path";
    OutputResumesLate "output-resumes-late" "a followed output that breaks off is resumed one byte late";
    ExecCrossed "exec-crossed" "a command for one task in four is run in the oldest container of the agent";
    NetworkForgotten "network-forgotten" "a restarted agent removes the networks of the containers that it adopts";
    CgroupLeaked "cgroup-leaked" "the control group of one container in ten is not removed";
}

/// Test hook: deviates from the correct code where a defect is planted, and only there.
///
/// - `planted_bug!(KillLost)` is true if the defect is planted.
/// - `planted_bug!(KillLost, correct, wrong)` is the value of one of the two expressions.
/// - `planted_bug!(KillLost => continue)` is a statement that only the defect has.
/// - `planted_bug!(KillLost if condition => continue)` has a condition on top.
///
/// In builds without the feature `testing` the first form is the constant `false`, so that nothing
/// of the defect is compiled.
#[macro_export]
macro_rules! planted_bug {
    ($bug:ident) => {
        $crate::bugs::is_planted($crate::bugs::Bug::$bug)
    };
    ($bug:ident, $correct:expr, $wrong:expr) => {
        if $crate::planted_bug!($bug) {
            $wrong
        } else {
            $correct
        }
    };
    ($bug:ident => $wrong:expr) => {
        if $crate::planted_bug!($bug) {
            $wrong;
        }
    };
    ($bug:ident if $condition:expr => $wrong:expr) => {
        if $crate::planted_bug!($bug) && $condition {
            $wrong;
        }
    };
}

/// The environment variable that names the planted defects of an executable with the feature
/// `testing`, separated by commas. Other executables ignore it.
pub const VARIABLE: &str = "ARGOSY_PLANTED_BUGS";

impl fmt::Display for Bug {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// The error for a name that no planted defect has.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a planted bug")]
pub struct UnknownBug(String);

impl FromStr for Bug {
    type Err = UnknownBug;

    fn from_str(name: &str) -> Result<Self, UnknownBug> {
        let all = Self::ALL.iter().map(|bug| (bug.name(), *bug));
        let mut named = all.chain(FORMER_NAMES).filter(|(known, _)| *known == name);
        let bug = named.next().map(|(_, bug)| bug);
        bug.ok_or_else(|| UnknownBug(name.to_owned()))
    }
}

/// Names that older scripts use.
const FORMER_NAMES: [(&str, Bug); 2] = [
    ("stale-reign-commits", Bug::StaleEpochCommits),
    ("rescind-not-told", Bug::RescindNotSent),
];

#[cfg(feature = "testing")]
mod switches {
    use std::sync::atomic::{AtomicU64, Ordering};

    use super::{Bug, UnknownBug};

    /// One bit for each defect; there are fewer than 64.
    static ON: AtomicU64 = AtomicU64::new(0);

    /// Returns whether this defect is planted.
    #[must_use]
    pub fn is_planted(bug: Bug) -> bool {
        ON.load(Ordering::Relaxed) & bit(bug) != 0
    }

    /// Plants exactly these defects in the whole process.
    pub fn plant(bugs: &[Bug]) {
        let bits = bugs.iter().fold(0, |bits, bug| bits | bit(*bug));
        ON.store(bits, Ordering::Relaxed);
    }

    /// Plants the defects with these names, separated by commas.
    ///
    /// # Errors
    /// A name that no defect has.
    pub fn plant_named(names: &str) -> Result<(), UnknownBug> {
        let names = names.split(',').filter(|name| !name.is_empty());
        let bugs: Vec<Bug> = names.map(str::parse).collect::<Result<_, _>>()?;
        plant(&bugs);
        Ok(())
    }

    fn bit(bug: Bug) -> u64 {
        1 << (bug as u32)
    }
}

#[cfg(feature = "testing")]
pub use switches::{is_planted, plant, plant_named};

/// Returns whether this defect is planted, which is never the case without the feature `testing`.
#[cfg(not(feature = "testing"))]
#[must_use]
#[inline(always)]
pub const fn is_planted(_bug: Bug) -> bool {
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Without the feature every switch is a constant, from which the compiler removes the defect.
    #[cfg(not(feature = "testing"))]
    const _: () = assert!(!planted_bug!(KillLost) && planted_bug!(KillLost, true, false));

    #[test]
    fn every_planted_bug_is_off_and_has_a_unique_name_that_round_trips() {
        assert!((50..64).contains(&Bug::ALL.len()));
        for bug in Bug::ALL {
            assert_eq!(bug.name().parse(), Ok(*bug));
            assert!(!is_planted(*bug), "{bug}");
        }
        assert_eq!("x".parse::<Bug>(), Err(UnknownBug("x".to_owned())));
        assert_eq!(FORMER_NAMES[0].0.parse(), Ok(Bug::StaleEpochCommits));
    }

    #[test]
    fn a_planted_bug_changes_nothing_unless_it_is_on() {
        planted_bug!(KillLost => panic!("a statement of the defect"));
        planted_bug!(KillLost if true => panic!("a statement of the defect"));
        assert_eq!(planted_bug!(KillLost, 1, 2), 1);
    }
}
