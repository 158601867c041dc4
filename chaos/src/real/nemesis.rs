//! The nemesis: injects one fault after the other, by seed or by script, until its time is over.
//!
//! Faults may overlap. Between most rounds it waits until the cluster is healthy again. That this
//! happens is checked, too.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::Result;
use argosy_testbed::cluster::Cluster;
use argosy_testbed::members::MemberKind;
use argosy_testbed::partitions::HostIndex;
use argosy_testbed::processes::describe;
use argosy_testbed::progress::ProgressDisplay;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::arguments::FaultTiming;
use super::faults::FaultName;
use super::inject::{InjectedFault, Injector, LEADER_TIMEOUT, name_of};
use super::report::{FaultLine, ReportedViolation};
use super::script::ScriptStep;
use crate::faults::choice::FaultMix;
use crate::history::{Expectation, Recorder};
use crate::rng::Rng;

/// Timeout for the cluster to become healthy after a fault.
const RECOVERY_TIMEOUT: Duration = Duration::from_secs(60);
/// Timeout for the next commit after a majority is connected.
const COMMIT_TIMEOUT: Duration = Duration::from_secs(15);
/// Interval of checks of the members.
const POLL_INTERVAL: Duration = Duration::from_millis(50);
/// Percentage of rounds in which a second fault overlaps the first.
const OVERLAP_PERCENT: u64 = 25;
/// Number of attempts of a fault that is not possible at the moment.
const MAX_ATTEMPTS: usize = 3;
/// A member that has ended by itself this often is not started again.
const MAX_ENDS: u32 = 3;
/// Percentage of rounds after which the next fault does not wait for a healthy cluster.
const HASTE_PERCENT: u64 = 20;

/// The source of the next fault.
pub(crate) enum FaultSource {
    /// Random faults until the deadline, or for a number of rounds.
    Random {
        mix: FaultMix<FaultName>,
        rounds: Option<u64>,
        duration: Duration,
    },
    /// A timeline.
    Script(Vec<ScriptStep>),
}

/// The driver of the faults.
pub(crate) struct Nemesis<'a> {
    pub(crate) cluster: &'a mut Cluster,
    pub(crate) rng: Rng,
    pub(crate) timing: FaultTiming,
    pub(crate) recorder: &'a Recorder,
    pub(crate) display: &'a ProgressDisplay,
    pub(crate) stop: &'a CancellationToken,
    pub(crate) faults: Vec<FaultLine>,
    pub(crate) violations: Vec<ReportedViolation>,
    /// Further text of the live line.
    pub(crate) status: &'a dyn Fn() -> String,
    /// How often each member has ended by itself.
    pub(crate) ends: BTreeMap<HostIndex, u32>,
    /// Set when the cluster has not recovered from a fault, or a member ends again and again.
    pub(crate) is_over: bool,
}

/// One part of a round, after its first fault has begun.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum RoundStep {
    Wait(Duration),
    /// The second fault, and the timeout for finding a leader if it needs one.
    Begin {
        fault: FaultName,
        leader_timeout: Duration,
    },
    EndFirst,
    /// The second fault is ended after half of its time, if it has begun.
    EndSecond,
}

/// Returns the parts of a round. The first fault lasts for the given time, and a second one may
/// begin in it. No fault holds longer because the other one waits: a second one that waits begins
/// after the first one, and a first one whose end waits ends after the second one.
fn round_steps(
    first: FaultName,
    lasts: Duration,
    second: Option<(FaultName, Duration)>,
) -> Vec<RoundStep> {
    let begin = |fault, leader_timeout| RoundStep::Begin {
        fault,
        leader_timeout,
    };
    match second {
        None => vec![RoundStep::Wait(lasts), RoundStep::EndFirst],
        Some((fault, _)) if fault.waits_for_health() => vec![
            RoundStep::Wait(lasts),
            RoundStep::EndFirst,
            begin(fault, LEADER_TIMEOUT),
            RoundStep::EndSecond,
        ],
        Some((fault, after)) => {
            let rest = lasts.saturating_sub(after);
            let mut steps = vec![
                RoundStep::Wait(after),
                begin(fault, LEADER_TIMEOUT.min(rest)),
                RoundStep::Wait(rest),
            ];
            steps.extend(match first.end_waits_for_health() {
                true => [RoundStep::EndSecond, RoundStep::EndFirst],
                false => [RoundStep::EndFirst, RoundStep::EndSecond],
            });
            steps
        }
    }
}

impl Nemesis<'_> {
    /// Runs until the plan is over or is cancelled. Then it ends all faults.
    pub(crate) async fn run(&mut self, plan: FaultSource) -> Result<()> {
        match plan {
            FaultSource::Random {
                mix,
                rounds,
                duration: lasts,
            } => self.by_chance(mix, rounds, lasts).await,
            FaultSource::Script(steps) => self.by_script(&steps).await,
        }
    }

    async fn by_chance(
        &mut self,
        mut mix: FaultMix<FaultName>,
        rounds: Option<u64>,
        lasts: Duration,
    ) -> Result<()> {
        let begun = Instant::now();
        let mut done = 0;
        let mut failed = Vec::new();
        loop {
            let is_over = match rounds {
                Some(rounds) => done >= rounds,
                None => begun.elapsed() >= lasts,
            };
            if is_over || self.is_over || self.stop.is_cancelled() {
                return Ok(());
            }
            let pause = Duration::from_millis(self.rng.between(100, 1_200));
            self.wait(self.timing.of(pause)).await?;
            let Some(fault) = mix.next(&mut self.rng) else {
                return Ok(());
            };
            // With a number of rounds, faults do not overlap.
            let second = (rounds.is_none() && self.rng.percent(OVERLAP_PERCENT))
                .then(|| mix.next(&mut self.rng))
                .flatten();
            if self.round(fault, second, None).await? {
                done += 1;
                continue;
            }
            // For example, a leader was needed while there was none.
            failed.push(fault);
            if failed.iter().filter(|other| **other == fault).count() < MAX_ATTEMPTS {
                mix.put_back(fault);
            } else {
                done += 1;
            }
        }
    }

    async fn by_script(&mut self, steps: &[ScriptStep]) -> Result<()> {
        let begun = Instant::now();
        for step in steps {
            let left = step.at.saturating_sub(begun.elapsed());
            self.wait(left).await?;
            if self.is_over || self.stop.is_cancelled() {
                return Ok(());
            }
            self.round(step.fault, None, step.duration).await?;
        }
        Ok(())
    }

    /// Returns whether the first fault was possible.
    async fn round(
        &mut self,
        fault: FaultName,
        second: Option<FaultName>,
        lasts: Option<Duration>,
    ) -> Result<bool> {
        let Some(held) = self.begin(fault, LEADER_TIMEOUT).await else {
            self.recover().await?;
            return Ok(false);
        };
        let lasts = lasts.unwrap_or_else(|| self.timing.of(held.duration));
        let second = second.map(|second| {
            let whole = u64::try_from(lasts.as_millis()).unwrap_or(u64::MAX);
            (second, Duration::from_millis(self.rng.below(whole)))
        });
        let (mut held, mut over) = (Some(held), None);
        for part in round_steps(fault, lasts, second) {
            match part {
                RoundStep::Wait(time) => self.wait(time).await?,
                RoundStep::Begin {
                    fault,
                    leader_timeout: finding,
                } => over = self.begin(fault, finding).await,
                RoundStep::EndFirst => {
                    if let Some(held) = held.take() {
                        self.end(held).await?;
                    }
                }
                RoundStep::EndSecond => {
                    if let Some(over) = over.take() {
                        let more = self.timing.of(over.duration / 2);
                        self.wait(more).await?;
                        self.end(over).await?;
                    }
                }
            }
        }
        let within_ns = u64::try_from(COMMIT_TIMEOUT.as_nanos()).unwrap_or(u64::MAX);
        self.recorder
            .observe("nemesis", Expectation::Commit { within_ns });
        if !self.rng.percent(HASTE_PERCENT) {
            self.recover().await?;
        }
        Ok(true)
    }

    async fn begin(&mut self, fault: FaultName, finding: Duration) -> Option<InjectedFault> {
        let at = self.recorder.now_ns();
        let hand = Injector::new(self.cluster, &mut self.rng, self.recorder, finding);
        match hand.begin(fault).await {
            Ok(held) => {
                self.display.print(&format!("{fault}: {}", held.target));
                self.faults.push(FaultLine {
                    fault: fault.name().to_owned(),
                    target: held.target.clone(),
                    begun_ns: at,
                    ended_ns: None,
                    failure: None,
                });
                Some(held)
            }
            Err(error) => {
                let failure = format!("{error:#}");
                self.display.print(&failure);
                self.faults.push(FaultLine {
                    fault: fault.name().to_owned(),
                    target: String::new(),
                    begun_ns: at,
                    ended_ns: Some(at),
                    failure: Some(failure),
                });
                None
            }
        }
    }

    async fn end(&mut self, fault_in_force: InjectedFault) -> Result<()> {
        let (fault, target) = (fault_in_force.fault, fault_in_force.target.clone());
        if let Err(error) = fault_in_force.end(self.cluster, self.recorder).await {
            self.violation("Liveness", format!("{error:#}"));
        }
        let now = self.recorder.now_ns();
        let open = self.faults.iter_mut().rev().find(|line| {
            line.ended_ns.is_none() && line.fault == fault.name() && line.target == target
        });
        if let Some(line) = open {
            line.ended_ns = Some(now);
        }
        Ok(())
    }

    /// Waits until the cluster is healthy, or records that it does not recover. Then no further
    /// fault is injected: each would wait as long.
    pub(crate) async fn recover(&mut self) -> Result<()> {
        let begun = Instant::now();
        loop {
            self.check_members()?;
            let Some(missing) = self.cluster.unhealthy_reason().await else {
                return Ok(());
            };
            if self.stop.is_cancelled() {
                return Ok(());
            }
            if begun.elapsed() > RECOVERY_TIMEOUT {
                self.violation(
                    "Liveness",
                    format!("not in health {RECOVERY_TIMEOUT:?} after the last fault: {missing}"),
                );
                self.is_over = true;
                return Ok(());
            }
            self.display
                .show(&format!("recovering: {missing}; {}", (self.status)()));
            tokio::time::sleep(POLL_INTERVAL).await;
        }
    }

    /// Waits and watches the members.
    async fn wait(&mut self, time: Duration) -> Result<()> {
        let end = Instant::now() + time;
        loop {
            self.check_members()?;
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() || self.stop.is_cancelled() {
                return Ok(());
            }
            let open = self.faults.iter().filter(|line| line.ended_ns.is_none());
            let open: Vec<&str> = open.map(|line| line.fault.as_str()).collect();
            self.display
                .show(&format!("{}; {}", open.join(" + "), (self.status)()));
            tokio::time::sleep(left.min(POLL_INTERVAL)).await;
        }
    }

    /// Reports a member that ended without a fault that explains it, and starts it again, unless it
    /// has often ended.
    fn check_members(&mut self) -> Result<()> {
        for place in 0..self.cluster.members.len() {
            let member = &mut self.cluster.members[place];
            if member.may_exit() {
                continue;
            }
            let Some(status) = member.poll() else {
                continue;
            };
            let words = member.log_tail(6);
            let name = name_of(self.cluster, place);
            let what = format!("{name} ended by itself ({}):\n{words}", describe(status));
            let checker = match self.cluster.kind(place) {
                MemberKind::Master | MemberKind::Agent => rule_of_end(&words),
                MemberKind::Framework => "framework-ended",
            };
            self.violation(checker, what);
            let ends = self.ends.entry(place).or_default();
            *ends += 1;
            if *ends == MAX_ENDS {
                self.cluster.members[place].allow_exit();
                self.is_over = true;
                continue;
            }
            self.cluster.restart(place)?;
        }
        Ok(())
    }

    fn violation(&mut self, checker: &str, what: String) {
        self.display.print(&format!("VIOLATION {checker}: {what}"));
        self.violations.push(ReportedViolation {
            checker: checker.to_owned(),
            what,
            time_ns: Some(self.recorder.now_ns()),
        });
    }
}

/// Returns the rule that the end of a member violates, by the end of its log. A master ends rather
/// than serve a registry that differs from the leader's.
fn rule_of_end(log: &str) -> &'static str {
    match log.contains("the registry of this master differs from that of the leader") {
        true => "StateMachineSafety",
        false => "member-ended",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_master_that_diverges_violates_the_safety_of_the_state_machine() {
        let error = argosy_master::Divergence {
            index: 299,
            logged: 1,
            own: 2,
        };
        let log = format!("error: the data in /d must not be served: {error}");
        assert_eq!(rule_of_end(&log), "StateMachineSafety");
        assert_eq!(rule_of_end("error: the disk is full"), "member-ended");
    }

    /// As in the run of seed 292792766: a rolling restart was chosen while all masters were frozen.
    /// It waited 40 s for a healthy cluster, and they stayed frozen for that time.
    #[test]
    fn a_second_fault_does_not_prolong_the_first() {
        let (first, lasts) = (FaultName::FreezeAllMasters, Duration::from_secs(7));
        for fault in FaultName::ALL.iter().copied() {
            for after in [0, 3, 6].map(Duration::from_secs) {
                let mut held = Duration::ZERO;
                for part in round_steps(first, lasts, Some((fault, after))) {
                    match part {
                        RoundStep::Wait(time) => held += time,
                        RoundStep::Begin {
                            leader_timeout: finding,
                            ..
                        } => {
                            assert!(!fault.waits_for_health(), "{fault} waits");
                            assert!(finding <= lasts - after, "{fault}");
                        }
                        RoundStep::EndFirst => break,
                        RoundStep::EndSecond => panic!("{fault} ends first"),
                    }
                }
                assert_eq!(held, lasts, "{fault}");
            }
        }
        let second = Some((FaultName::RollingRestart, Duration::ZERO));
        let waits = round_steps(first, lasts, second);
        assert!(
            matches!(waits[2..], [RoundStep::Begin { .. }, RoundStep::EndSecond]),
            "it comes"
        );
    }

    /// As in the run of seed 460529292595: a master with an empty disk joined its group again while
    /// the leader was cut off. It waited 60 s for a leader, and the partition lasted for that time.
    #[test]
    fn a_first_fault_whose_end_waits_does_not_prolong_the_second() {
        let lasts = Duration::from_secs(7);
        let second = Some((FaultName::PartitionLeader, Duration::from_secs(3)));
        for first in FaultName::ALL.iter().copied() {
            let steps = round_steps(first, lasts, second);
            let place = |wanted| steps.iter().position(|step| *step == wanted).unwrap();
            let (first_end, second_end) = (place(RoundStep::EndFirst), place(RoundStep::EndSecond));
            assert_eq!(
                second_end < first_end,
                first.end_waits_for_health(),
                "{first}"
            );
        }
        assert!(FaultName::ReplaceMaster.end_waits_for_health());
    }
}
