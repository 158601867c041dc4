//! Health and readiness of one running task: when it is looked at, and what is made of what was found.
//!
//! Two checks that know nothing of each other, so that neither hides what the other found. A health check ends its task
//! after so many failures in a row; a readiness check only tells. Both begin anew with an agent's new life, which knows
//! from the task's last update what was told before, and so says nothing twice.

use argosy_state::ids::Timestamp;
use argosy_state::task::{self, Code, Explanation, Standing};

/// When a check looks, and what its failures mean.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Policy {
    /// From the task's start to the first look, in milliseconds.
    pub delay_ms: u64,
    /// From the end of one look to the next, in milliseconds; at least 1.
    pub interval_ms: u64,
    /// How long a look may take before it counts as failed, in milliseconds; at least 1.
    pub timeout_ms: u64,
    /// How many failures in a row end the task; at least 1. Readiness knows no such end.
    pub failures: u32,
    /// For so long after the task's start failures count for nothing, until one look has succeeded; in milliseconds.
    /// Readiness knows no grace: what is not ready yet is not ready.
    pub grace_ms: u64,
}

impl From<&task::HealthCheck> for Policy {
    fn from(health: &task::HealthCheck) -> Self {
        Self {
            failures: health.failures,
            grace_ms: health.grace_ms,
            ..Self::from(&health.check)
        }
    }
}

/// Of a readiness check.
impl From<&task::Check> for Policy {
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

/// What is asked about a task.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    /// Whether it is to go on.
    Health,
    /// Whether it can take work.
    Readiness,
}

/// One look of one check: an answer to an earlier one counts for nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Look {
    /// Of which check.
    pub kind: Kind,
    /// Counts this check's looks, from 1.
    pub number: u64,
}

/// What a look found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    /// All is well.
    Passed,
    /// It is not, or it could not be looked at.
    Failed(Explanation),
    /// There was no answer in time.
    TimedOut,
}

/// What is to be done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Effect {
    /// Look, and answer under the same number. The time is a hint for who looks: it is kept here.
    Run {
        /// Which look.
        look: Look,
        /// How long it may take, in milliseconds.
        timeout_ms: u64,
    },
    /// Stop looking: nobody waits for the answer any more.
    Cancel(Look, Cause),
    /// Tell of it in an update of the running task.
    Report {
        /// Which of it has changed.
        kind: Kind,
        /// All that is known now: both go into each update, whichever has changed.
        standing: Standing,
        /// How it is, and why.
        why: Explanation,
    },
    /// End the task, which has failed.
    Kill {
        /// Why.
        reason: Explanation,
    },
}

/// Why nobody waits for an answer any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cause {
    /// It has not come in time, which is a failure.
    Late,
    /// The task ends.
    Over,
}

/// The checks of one running task.
#[derive(Debug)]
pub struct Checks {
    started_at: Timestamp,
    health: Option<Check>,
    readiness: Option<Check>,
    standing: Standing,
}

/// One check on its way.
#[derive(Debug)]
struct Check {
    policy: Policy,
    /// Of the present look, or of the last.
    number: u64,
    state: State,
    /// Failures since the last success.
    failed: u32,
    /// Whether it has ever succeeded.
    has_passed: bool,
}

/// What a check waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// The time of its next look.
    Waiting(Timestamp),
    /// An answer, until then.
    Looking(Timestamp),
}

/// Which checks a task asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Policies {
    /// Of its health.
    pub health: Option<Policy>,
    /// Of its readiness.
    pub readiness: Option<Policy>,
}

impl Checks {
    /// Of a task that began to run at `started_at`, on the boot clock. `told` is what its last update says: nothing for
    /// a new task.
    #[must_use]
    pub fn new(policies: Policies, started_at: Timestamp, told: Standing) -> Self {
        let check = |policy: Option<Policy>, has_passed| {
            policy.map(|policy| Check {
                policy,
                number: 0,
                state: State::Waiting(started_at.plus_ms(policy.delay_ms)),
                failed: 0,
                has_passed,
            })
        };
        // One that was unhealthy had its grace, too: within it nothing would have been told.
        Self {
            started_at,
            health: check(policies.health, told.healthy.is_some()),
            readiness: check(policies.readiness, told.ready.is_some()),
            standing: told,
        }
    }

    /// The task was adopted: it is looked at first at some moment within an interval from now. An agent that has just
    /// started would else look at all of its tasks at once. `below` gives a number below another one, which is not 0.
    pub fn spread(&mut self, now: Timestamp, mut below: impl FnMut(u64) -> u64) {
        let checks = [&mut self.health, &mut self.readiness];
        for check in checks.into_iter().flatten() {
            let first = now.plus_ms(below(check.policy.interval_ms.max(1)));
            if let State::Waiting(at) = &mut check.state {
                *at = first.max(*at);
            }
        }
    }

    /// What is known now.
    #[must_use]
    pub fn standing(&self) -> Standing {
        self.standing
    }

    /// When [`Checks::tick`] is due; `None` if never.
    #[must_use]
    pub fn deadline(&self) -> Option<Timestamp> {
        let checks = [&self.health, &self.readiness];
        let due = checks.into_iter().flatten().map(|check| match check.state {
            State::Waiting(at) | State::Looking(at) => at,
        });
        due.min()
    }

    /// A deadline has come. Repeatable.
    pub fn tick(&mut self, now: Timestamp) -> Vec<Effect> {
        let mut effects = Vec::new();
        for kind in [Kind::Health, Kind::Readiness] {
            let Some(check) = self.check(kind) else {
                continue;
            };
            match check.state {
                State::Waiting(at) if at <= now => {
                    check.number += 1;
                    let timeout_ms = check.policy.timeout_ms.max(1);
                    check.state = State::Looking(now.plus_ms(timeout_ms));
                    let number = check.number;
                    let look = Look { kind, number };
                    effects.push(Effect::Run { look, timeout_ms });
                }
                State::Looking(until) if until <= now => {
                    let number = check.number;
                    let look = Look { kind, number };
                    effects.push(Effect::Cancel(look, Cause::Late));
                    effects.extend(self.answered(now, look, Answer::TimedOut));
                }
                State::Waiting(_) | State::Looking(_) => {}
            }
        }
        effects
    }

    /// A look has an answer. One that comes late, twice or for nothing changes nothing.
    pub fn answered(&mut self, now: Timestamp, look: Look, answer: Answer) -> Vec<Effect> {
        let started_at = self.started_at;
        let Some(check) = self.check(look.kind) else {
            return Vec::new();
        };
        let is_awaited = check.number == look.number && matches!(check.state, State::Looking(_));
        if !is_awaited {
            return Vec::new();
        }
        let interval_ms = check.policy.interval_ms.max(1);
        check.state = State::Waiting(now.plus_ms(interval_ms));
        let reason = match answer {
            Answer::Passed => {
                check.failed = 0;
                check.has_passed = true;
                let passed = Explanation::of(Code::CheckPassed, &[]);
                return self.found(look.kind, true, passed);
            }
            Answer::Failed(reason) => reason,
            Answer::TimedOut => Explanation::of(Code::CheckTimedOut, &[&check.policy.timeout_ms]),
        };
        match look.kind {
            Kind::Health => self.unhealthy(now.since_ms(started_at), reason),
            Kind::Readiness => self.found(Kind::Readiness, false, reason),
        }
    }

    /// The task is being ended, or has ended: what is being looked at need not be.
    pub fn end(&mut self) -> Vec<Effect> {
        let mut effects = Vec::new();
        for (kind, check) in [
            (Kind::Health, self.health.take()),
            (Kind::Readiness, self.readiness.take()),
        ] {
            if let Some(Check {
                number,
                state: State::Looking(_),
                ..
            }) = check
            {
                effects.push(Effect::Cancel(Look { kind, number }, Cause::Over));
            }
        }
        effects
    }

    fn check(&mut self, kind: Kind) -> Option<&mut Check> {
        match kind {
            Kind::Health => self.health.as_mut(),
            Kind::Readiness => self.readiness.as_mut(),
        }
    }

    fn unhealthy(&mut self, age_ms: u64, reason: Explanation) -> Vec<Effect> {
        let Some(check) = &mut self.health else {
            return Vec::new();
        };
        if !check.has_passed && age_ms < check.policy.grace_ms {
            return Vec::new();
        }
        check.failed += 1;
        let (failed, limit) = (check.failed, check.policy.failures.max(1));
        let mut effects = self.found(Kind::Health, false, reason.clone());
        if failed >= limit {
            let reason = Explanation::of(Code::HealthCheckFailed, &[&failed]).then(reason);
            effects.push(Effect::Kill { reason });
            // Once is enough: what follows is the task's end.
            effects.extend(self.end());
        }
        effects
    }

    /// Only what is new is told: an idle cluster writes nothing.
    fn found(&mut self, kind: Kind, is_well: bool, reason: Explanation) -> Vec<Effect> {
        let (known, code) = match (kind, is_well) {
            (Kind::Health, true) => (&mut self.standing.healthy, Code::Healthy),
            (Kind::Health, false) => (&mut self.standing.healthy, Code::Unhealthy),
            (Kind::Readiness, true) => (&mut self.standing.ready, Code::Ready),
            (Kind::Readiness, false) => (&mut self.standing.ready, Code::NotReady),
        };
        if known.replace(is_well) == Some(is_well) {
            return Vec::new();
        }
        let why = Explanation::of(code, &[]).then(reason);
        let standing = self.standing;
        vec![Effect::Report {
            kind,
            standing,
            why,
        }]
    }
}
