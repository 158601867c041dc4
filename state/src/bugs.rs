//! Defects that are planted to be found: run-time switches for harnesses that must prove themselves.
//!
//! Without the feature `testing` every switch is the constant `false` and costs nothing; no shipped
//! executable has it. A switch is of the whole process, so all masters of a simulation have the same
//! defect. Each is asked for in one place, where the right code stands beside it.

use std::fmt;
use std::str::FromStr;

/// Defects by name, each with what it does.
macro_rules! bugs {
    ($($bug:ident $name:literal $meaning:literal;)*) => {
        /// A planted defect.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum Bug {
            $(#[doc = $meaning] $bug,)*
        }

        impl Bug {
            /// All of them.
            pub const ALL: &'static [Self] = &[$(Self::$bug,)*];

            /// Its name, as it is given on a command line.
            #[must_use]
            pub fn name(self) -> &'static str {
                match self {
                    $(Self::$bug => $name,)*
                }
            }

            /// What it does, in a line.
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
    SnapshotMetaEarly "snapshot-meta-early" "a snapshot says that it ends an entry before what it holds";
    QuorumLossIgnored "quorum-loss-ignored" "a leader without a quorum keeps its agents and frameworks";
    ReadWithoutQuorum "read-without-quorum" "a linearizable read is answered at once by any master";
    StaleReignCommits "stale-reign-commits" "a command of an earlier reign is applied in a later one";
    MovedDecisionCommits "moved-decision-commits" "a decision on a record that has moved since is applied";
    UsedOfferHonoured "used-offer-honoured" "an offer that was used is honoured again";
    FreedAtKill "freed-at-kill" "resources are free once a kill is wanted, and again at the end";
    AnswersNotLoaded "answers-not-loaded" "answers to numbered calls are no part of a snapshot or restart";
    SharedOrder "shared-order" "two launches of one acceptance get one order number";
    LaunchAfterUnreachable "launch-after-unreachable" "a launch is delivered after its task was UNREACHABLE";
    SessionNotChecked "session-not-checked" "calls of a superseded scheduler are applied";
    CloneAccepted "clone-accepted" "a copy of an agent's disk is registered as the agent";
    KillLost "kill-lost" "a kill that comes before the first word of its task is not delivered";
    EqualWithUnsentOrder "equal-with-unsent-order" "an agent with an equal digest is not sent what it missed";
    DigestIgnored "digest-ignored" "an agent at the last order is never compared";
    SettledBeforeCommit "settled-before-commit" "an agent may forget an update before it is committed";
    DeadlineLost "deadline-lost" "a new leader does not take over the deadlines of frameworks";
    GraceLost "grace-lost" "a new leader gives frameworks no time to return";
    FreezeExpires "freeze-expires" "a pause of a master counts as silence of everybody else";
    UnknownTooEarly "unknown-too-early" "UNKNOWN is answered while an acceptance may be on its way";
    AnswerBeforeCommit "answer-before-commit" "a numbered call is answered before it is committed";
    RescindNotTold "rescind-not-told" "a framework is not told that an offer is void";
    UpdateForgotten "update-forgotten" "an agent forgets unsettled updates when it restarts";
    EpochNotChecked "epoch-not-checked" "an agent obeys a leader whose reign is over";
    EpochNotSynced "epoch-not-synced" "an agent acts in a reign before the reign is on its disk";
    OrderNotSynced "order-not-synced" "an agent acts on an order before the order is on its disk";
    LaunchRepeated "launch-repeated" "a new leader sends launches again, and agents take them again";
    FormerVoterCounts "former-voter-counts" "a voter without its disk counts on when its master has joined again";
    NodeIdReused "node-id-reused" "a master that lost its disk takes the id that its address had";
    AppliedBeforeRecords "applied-before-records" "a long batch says what it covers before its records are written";
    InstallNotNoted "install-not-noted" "a snapshot replaces the registry without a note of it on the disk";
    LapsedOfferKept "lapsed-offer-kept" "one offer in three that has lapsed stays in the book of its leader";
    SecondOfferForgotten "second-offer-forgotten" "of several offers of an agent only the first counts as given";
    DeactivatedOffered "deactivated-offered" "what is free on a deactivated agent with tasks is offered";
    UpdatePassedOver "update-passed-over" "an update that comes while its task is acknowledged counts as a repeat";
    LostHopRefused "lost-hop-refused" "a call is refused whose hop to the leader broke after it was sent";
    StopAfterNotLoaded "stop-after-not-loaded" "a restarted master forgets after what silence a task stops itself";
    CompactionLosesTask "compaction-loses-task" "a compacted journal lacks one of ten tasks";
    SignalAsCode "signal-as-code" "a signal that ends an adopted task is told as an exit code";
    AdoptedAsFirst "adopted-as-first" "a task of a group is adopted as the first task of its group";
    RebootForgotten "reboot-forgotten" "an agent does not note that its host was rebooted";
    GroupOutlives "group-outlives" "a group runs on when its first task has failed";
    GroupUnprepared "group-unprepared" "a group is started when its last task is prepared";
    ExecutorLeft "executor-left" "an executor without a stream is not ended behind its last task";
    ExecutorTwice "executor-twice" "a second executor is begun while the first one ends";
    LimitsAgain "limits-again" "limits that were refused are put in force after a restart";
    CompletionForgotten "completion-forgotten" "a restarted agent forgets max_completion_ms";
    CgroupLeaked "cgroup-leaked" "the control group of one container in ten is not removed";
}

/// The environment variable that names the defects of an executable with the feature `testing`, separated by commas.
/// Other executables ignore it.
pub const VARIABLE: &str = "ARGOSY_PLANTED_BUGS";

impl fmt::Display for Bug {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A name that no planted defect has.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no planted bug")]
pub struct UnknownBug(String);

impl FromStr for Bug {
    type Err = UnknownBug;

    fn from_str(name: &str) -> Result<Self, UnknownBug> {
        let all = Self::ALL.iter().copied();
        let mut named = all.filter(|bug| bug.name() == name);
        named.next().ok_or_else(|| UnknownBug(name.to_owned()))
    }
}

#[cfg(feature = "testing")]
mod switches {
    use std::sync::atomic::{AtomicU64, Ordering};

    use super::{Bug, UnknownBug};

    /// One bit a bug; there are fewer than 64.
    static ON: AtomicU64 = AtomicU64::new(0);

    /// Whether this defect is switched on.
    #[must_use]
    pub fn is_on(bug: Bug) -> bool {
        ON.load(Ordering::Relaxed) & bit(bug) != 0
    }

    /// Switches exactly these defects on, in the whole process.
    pub fn plant(bugs: &[Bug]) {
        let bits = bugs.iter().fold(0, |bits, bug| bits | bit(*bug));
        ON.store(bits, Ordering::Relaxed);
    }

    /// Switches on the defects with these names, which a comma separates.
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
pub use switches::{is_on, plant, plant_named};

/// Whether this defect is switched on: never, in an executable without the feature `testing`.
#[cfg(not(feature = "testing"))]
#[must_use]
#[inline(always)]
pub const fn is_on(_bug: Bug) -> bool {
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_bug_has_a_name_of_its_own_that_reads_back_and_is_off() {
        assert!((50..64).contains(&Bug::ALL.len()));
        for bug in Bug::ALL {
            assert_eq!(bug.name().parse(), Ok(*bug));
            assert!(!is_on(*bug), "{bug}");
        }
        assert_eq!("x".parse::<Bug>(), Err(UnknownBug("x".to_owned())));
    }
}
