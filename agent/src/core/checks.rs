//! Health and readiness checks of one running task: their schedule, and the evaluation of their
//! results.
//!
//! The two checks are independent, so neither hides the result of the other. A health check ends
//! its task after a number of consecutive failures; a readiness check only reports. Both restart
//! with a new run of the agent, which knows from the task's last update what was reported before,
//! and so reports nothing twice.

use argosy_state::ids::Timestamp;
use argosy_state::task::{self, CheckResults, Code, Explanation};

/// The schedule of a check, and the consequences of its failures.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CheckPolicy {
    /// From the task's start to the first probe, in milliseconds.
    pub delay_ms: u64,
    /// From the end of one probe to the next, in milliseconds; at least 1.
    pub interval_ms: u64,
    /// Timeout of a probe, in milliseconds; at least 1.
    pub timeout_ms: u64,
    /// Consecutive failures that end the task; at least 1. Unused by readiness checks.
    pub failures: u32,
    /// The time after the task's start in which failures are ignored, until one probe has
    /// succeeded; in milliseconds. Unused by readiness checks: a task that is not ready yet is not
    /// ready.
    pub grace_ms: u64,
}

impl From<&task::HealthCheck> for CheckPolicy {
    fn from(health: &task::HealthCheck) -> Self {
        Self {
            failures: health.failures,
            grace_ms: health.grace_ms,
            ..Self::from(&health.check)
        }
    }
}

/// The policy of a readiness check.
impl From<&task::Check> for CheckPolicy {
    fn from(check: &task::Check) -> Self {
        Self {
            delay_ms: check.delay_ms,
            interval_ms: check.interval_ms,
            timeout_ms: check.timeout_ms,
            failures: 1,
            grace_ms: 0,
        }
    }
}

/// The kind of a check.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum CheckPurpose {
    /// Whether the task may continue.
    Health,
    /// Whether the task can accept work.
    Readiness,
}

/// One probe of one check. Results of earlier probes are ignored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ProbeId {
    pub kind: CheckPurpose,
    /// The number of this check's probe, from 1.
    pub number: u64,
}

/// The result of a probe.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CheckResult {
    /// The task passed.
    Passed,
    /// The task failed, or could not be probed.
    Failed(Explanation),
    /// No result within the timeout.
    TimedOut,
}

/// An action that a check requests.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CheckEffect {
    /// Run a probe, and return its result under the same number. The time is a hint for the probe:
    /// the check itself enforces the timeout.
    Run { probe: ProbeId, timeout_ms: u64 },
    /// Cancel the probe: its result is no longer needed.
    Cancel(ProbeId, CancelReason),
    /// Report the result in an update of the running task.
    Report {
        /// The check whose result has changed.
        kind: CheckPurpose,
        /// All current results: both go into each update, whichever has changed.
        results: CheckResults,
        /// The result and its reason.
        why: Explanation,
    },
    /// End the task, which has failed.
    Kill { reason: Explanation },
}

/// The reason why a result is no longer needed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CancelReason {
    /// The timeout has passed, which is a failure.
    Timeout,
    /// The task ends.
    TaskEnded,
}

/// The checks of one running task.
#[derive(Debug)]
pub struct CheckSet {
    started_at: Timestamp,
    health: Option<CheckRun>,
    readiness: Option<CheckRun>,
    results: CheckResults,
}

/// The state of one check.
#[derive(Debug)]
struct CheckRun {
    policy: CheckPolicy,
    /// The number of the current or last probe.
    number: u64,
    state: CheckState,
    /// Failures since the last success.
    failures: u32,
    /// Whether it has ever succeeded.
    has_passed: bool,
}

/// The event that a check waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum CheckState {
    /// The time of its next probe.
    Waiting(Timestamp),
    /// The result of a probe, until this time.
    Probing(Timestamp),
}

/// The policies of a task's checks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct CheckPolicies {
    pub health: Option<CheckPolicy>,
    pub readiness: Option<CheckPolicy>,
}

impl CheckSet {
    /// Returns the checks of a task that began to run at `started_at`, on the boot clock. `results`
    /// are those of its last update: empty for a new task.
    #[must_use]
    pub fn new(policies: CheckPolicies, started_at: Timestamp, results: CheckResults) -> Self {
        let check = |policy: Option<CheckPolicy>, has_passed| {
            policy.map(|policy| CheckRun {
                policy,
                number: 0,
                state: CheckState::Waiting(started_at.plus_ms(policy.delay_ms)),
                failures: 0,
                has_passed,
            })
        };
        // A task that was unhealthy is past its grace period: within it nothing would have been
        // reported.
        Self {
            started_at,
            health: check(policies.health, results.healthy.is_some()),
            readiness: check(policies.readiness, results.ready.is_some()),
            results,
        }
    }

    /// Schedules the first probes of an adopted task at a random moment within one interval from
    /// now. Otherwise an agent that has just started would probe all of its tasks simultaneously.
    /// `below` returns a number below its argument, which is not 0.
    pub fn spread(&mut self, now: Timestamp, mut below: impl FnMut(u64) -> u64) {
        let checks = [&mut self.health, &mut self.readiness];
        for check in checks.into_iter().flatten() {
            let first = now.plus_ms(below(check.policy.interval_ms.max(1)));
            if let CheckState::Waiting(at) = &mut check.state {
                *at = first.max(*at);
            }
        }
    }

    /// Returns the current results.
    #[must_use]
    pub fn results(&self) -> CheckResults {
        self.results
    }

    /// Returns the time at which [`CheckSet::tick`] is due; `None` if never.
    #[must_use]
    pub fn deadline(&self) -> Option<Timestamp> {
        let checks = [&self.health, &self.readiness];
        let due = checks.into_iter().flatten().map(|check| match check.state {
            CheckState::Waiting(at) | CheckState::Probing(at) => at,
        });
        due.min()
    }

    /// Handles a deadline. Repeatable.
    pub fn tick(&mut self, now: Timestamp) -> Vec<CheckEffect> {
        let mut effects = Vec::new();
        for kind in [CheckPurpose::Health, CheckPurpose::Readiness] {
            let Some(check) = self.check(kind) else {
                continue;
            };
            match check.state {
                CheckState::Waiting(at) if at <= now => {
                    check.number += 1;
                    let timeout_ms = check.policy.timeout_ms.max(1);
                    check.state = CheckState::Probing(now.plus_ms(timeout_ms));
                    let number = check.number;
                    let probe = ProbeId { kind, number };
                    effects.push(CheckEffect::Run { probe, timeout_ms });
                }
                CheckState::Probing(until) if until <= now => {
                    let number = check.number;
                    let probe = ProbeId { kind, number };
                    effects.push(CheckEffect::Cancel(probe, CancelReason::Timeout));
                    effects.extend(self.probe_finished(now, probe, CheckResult::TimedOut));
                }
                CheckState::Waiting(_) | CheckState::Probing(_) => {}
            }
        }
        effects
    }

    /// Handles the result of a probe. A late, repeated or unrequested result changes nothing.
    pub fn probe_finished(
        &mut self,
        now: Timestamp,
        probe: ProbeId,
        answer: CheckResult,
    ) -> Vec<CheckEffect> {
        let started_at = self.started_at;
        let Some(check) = self.check(probe.kind) else {
            return Vec::new();
        };
        let is_awaited =
            check.number == probe.number && matches!(check.state, CheckState::Probing(_));
        if !is_awaited {
            return Vec::new();
        }
        let interval_ms = check.policy.interval_ms.max(1);
        check.state = CheckState::Waiting(now.plus_ms(interval_ms));
        let reason = match answer {
            CheckResult::Passed => {
                check.failures = 0;
                check.has_passed = true;
                let passed = Explanation::of(Code::CheckPassed, &[]);
                return self.update_result(probe.kind, true, passed);
            }
            CheckResult::Failed(reason) => reason,
            CheckResult::TimedOut => {
                Explanation::of(Code::CheckTimedOut, &[&check.policy.timeout_ms])
            }
        };
        match probe.kind {
            CheckPurpose::Health => self.unhealthy(now.since_ms(started_at), reason),
            CheckPurpose::Readiness => self.update_result(CheckPurpose::Readiness, false, reason),
        }
    }

    /// Cancels all probes, because the task is being ended or has ended.
    pub fn end(&mut self) -> Vec<CheckEffect> {
        let mut effects = Vec::new();
        for (kind, check) in [
            (CheckPurpose::Health, self.health.take()),
            (CheckPurpose::Readiness, self.readiness.take()),
        ] {
            if let Some(CheckRun {
                number,
                state: CheckState::Probing(_),
                ..
            }) = check
            {
                effects.push(CheckEffect::Cancel(
                    ProbeId { kind, number },
                    CancelReason::TaskEnded,
                ));
            }
        }
        effects
    }

    fn check(&mut self, kind: CheckPurpose) -> Option<&mut CheckRun> {
        match kind {
            CheckPurpose::Health => self.health.as_mut(),
            CheckPurpose::Readiness => self.readiness.as_mut(),
        }
    }

    fn unhealthy(&mut self, age_ms: u64, reason: Explanation) -> Vec<CheckEffect> {
        let Some(check) = &mut self.health else {
            return Vec::new();
        };
        if !check.has_passed && age_ms < check.policy.grace_ms {
            return Vec::new();
        }
        check.failures += 1;
        let (failed, limit) = (check.failures, check.policy.failures.max(1));
        let mut effects = self.update_result(CheckPurpose::Health, false, reason.clone());
        if failed >= limit {
            let reason = Explanation::of(Code::HealthCheckFailed, &[&failed]).then(reason);
            effects.push(CheckEffect::Kill { reason });
            // One report is enough: the task's end follows.
            effects.extend(self.end());
        }
        effects
    }

    /// Reports a result only if it is new: an idle cluster writes nothing.
    fn update_result(
        &mut self,
        kind: CheckPurpose,
        is_well: bool,
        reason: Explanation,
    ) -> Vec<CheckEffect> {
        let (known, code) = match (kind, is_well) {
            (CheckPurpose::Health, true) => (&mut self.results.healthy, Code::Healthy),
            (CheckPurpose::Health, false) => (&mut self.results.healthy, Code::Unhealthy),
            (CheckPurpose::Readiness, true) => (&mut self.results.ready, Code::Ready),
            (CheckPurpose::Readiness, false) => (&mut self.results.ready, Code::NotReady),
        };
        if known.replace(is_well) == Some(is_well) {
            return Vec::new();
        }
        let why = Explanation::of(code, &[]).then(reason);
        let results = self.results;
        vec![CheckEffect::Report { kind, results, why }]
    }
}
