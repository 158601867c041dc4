//! Tests of health and readiness checks: each of their rules, with a simulated time.

use argosy_state::ids::Timestamp;
use argosy_state::task::{Check, CheckKind, CheckResults, HealthCheck};

use crate::core::checks::{
    CancelReason, CheckEffect, CheckPolicies, CheckPolicy, CheckPurpose, CheckResult, CheckSet,
    ProbeId,
};

/// The start time of the tasks, in milliseconds.
const START: u64 = 100_000;

/// One task's checks, and the time since its start.
struct CheckFixture {
    checks: CheckSet,
    age_ms: u64,
}

impl CheckFixture {
    fn with(
        health: Option<CheckPolicy>,
        readiness: Option<CheckPolicy>,
        reported: CheckResults,
    ) -> Self {
        let policies = CheckPolicies { health, readiness };
        Self {
            checks: CheckSet::new(policies, Timestamp(START), reported),
            age_ms: 0,
        }
    }

    fn healthy(policy: CheckPolicy) -> Self {
        Self::with(Some(policy), None, CheckResults::default())
    }

    fn now(&self) -> Timestamp {
        Timestamp(START + self.age_ms)
    }

    /// Returns the effects at this age, each as a line.
    fn at(&mut self, age_ms: u64) -> Vec<String> {
        self.age_ms = age_ms;
        format_effects(self.checks.tick(self.now()))
    }

    fn answer(&mut self, kind: CheckPurpose, number: u64, answer: CheckResult) -> Vec<String> {
        let probe = ProbeId { kind, number };
        format_effects(self.checks.probe_finished(self.now(), probe, answer))
    }

    fn due(&self) -> Option<u64> {
        self.checks
            .deadline()
            .map(|at| at.since_ms(Timestamp(START)))
    }

    /// Waits for the next probe, and delivers this result immediately.
    fn next(&mut self, answer: CheckResult) -> Vec<String> {
        let due = self.due().expect("it is checked");
        assert_eq!(self.at(due - 1), [""; 0], "not before its time");
        let run = self.at(due);
        let number = self.number(&run);
        self.answer(CheckPurpose::Health, number, answer)
    }

    fn number(&self, run: &[String]) -> u64 {
        let [line] = run else { panic!("{run:?}") };
        let words: Vec<_> = line.split(' ').collect();
        words[2].parse().unwrap()
    }
}

fn format_effects(effects: Vec<CheckEffect>) -> Vec<String> {
    let name = |probe: &ProbeId| format!("{:?} {}", probe.kind, probe.number).to_lowercase();
    let each = effects.iter().map(|effect| match effect {
        CheckEffect::Run { probe, timeout_ms } => format!("run {} {timeout_ms}", name(probe)),
        CheckEffect::Cancel(probe, CancelReason::Timeout) => format!("give up {}", name(probe)),
        CheckEffect::Cancel(probe, CancelReason::TaskEnded) => format!("cancel {}", name(probe)),
        CheckEffect::Report { results, why, .. } => {
            let word =
                |value: Option<bool>| value.map_or("?", |value| if value { "yes" } else { "no" });
            let (healthy, ready) = (word(results.healthy), word(results.ready));
            format!("report healthy {healthy} ready {ready}, {why}")
        }
        CheckEffect::Kill { reason } => format!("kill, {reason}"),
    });
    each.collect()
}

fn failed() -> CheckResult {
    CheckResult::Failed("refused".into())
}

/// Returns a fast policy without a grace period.
fn strict() -> CheckPolicy {
    CheckPolicy {
        delay_ms: 0,
        interval_ms: 10,
        timeout_ms: 5,
        failures: 3,
        grace_ms: 0,
    }
}

const NOTHING: [&str; 0] = [];

#[test]
fn omitted_check_fields_have_the_mesos_defaults() {
    let check = Check::of(CheckKind::Tcp { port: 80 });
    let policy = CheckPolicy::from(&HealthCheck::of(check));
    let mut task = CheckFixture::healthy(policy);
    assert_eq!(task.due(), Some(15_000), "the delay");
    assert_eq!(task.at(14_999), NOTHING);
    assert_eq!(task.at(15_000), ["run health 1 20000"]);
    assert_eq!(task.due(), Some(35_000), "the timeout");
    task.age_ms = 16_000;
    let first = task.answer(CheckPurpose::Health, 1, CheckResult::Passed);
    assert_eq!(first, ["report healthy yes ready ?, healthy: passed"]);
    assert_eq!(task.due(), Some(26_000), "the interval, from the answer");
    assert_eq!((policy.failures, policy.grace_ms), (3, 10_000));
}

#[test]
fn consecutive_failures_kill_the_task_and_a_success_resets_the_count() {
    let mut task = CheckFixture::healthy(strict());
    assert_eq!(task.at(0), ["run health 1 5"], "no grace, not even at once");
    let first = task.answer(CheckPurpose::Health, 1, failed());
    assert_eq!(first, ["report healthy no ready ?, unhealthy: refused"]);
    assert_eq!(task.next(failed()), NOTHING, "it is known");
    let well = task.next(CheckResult::Passed);
    assert_eq!(well, ["report healthy yes ready ?, healthy: passed"]);
    assert_eq!(task.next(CheckResult::Passed), NOTHING);
    assert_eq!(task.next(failed()).len(), 1);
    assert_eq!(task.next(failed()), NOTHING);
    let killed = task.next(failed());
    let words = "kill, its health check failed 3 times in a row, at last: refused";
    assert_eq!(killed, [words]);
    assert_eq!(task.due(), None, "it is not looked at any more");
}

#[test]
fn a_timeout_is_a_failure_and_a_late_result_is_ignored() {
    let mut task = CheckFixture::healthy(CheckPolicy {
        failures: 1,
        ..strict()
    });
    assert_eq!(task.at(1), ["run health 1 5"]);
    assert_eq!(task.at(5), NOTHING);
    let expected = [
        "give up health 1",
        "report healthy no ready ?, unhealthy: no answer within 5 ms",
        "kill, its health check failed 1 times in a row, at last: no answer within 5 ms",
    ];
    assert_eq!(task.at(6), expected);
    assert_eq!(
        task.answer(CheckPurpose::Health, 1, CheckResult::Passed),
        NOTHING
    );
}

#[test]
fn failures_during_the_grace_period_do_not_count_before_the_first_success() {
    let policy = CheckPolicy {
        grace_ms: 100,
        failures: 2,
        ..strict()
    };
    let mut task = CheckFixture::healthy(policy);
    assert_eq!(task.at(0), ["run health 1 5"]);
    assert_eq!(task.answer(CheckPurpose::Health, 1, failed()), NOTHING);
    for _ in 0..5 {
        assert_eq!(task.next(failed()), NOTHING, "no update reports it");
    }
    assert_eq!(task.next(CheckResult::Passed).len(), 1);
    assert!(task.age_ms < 100);
    let unwell = task.next(failed());
    assert_eq!(unwell, ["report healthy no ready ?, unhealthy: refused"]);
    assert!(task.next(failed())[0].starts_with("kill"));
}

#[test]
fn failures_count_after_the_grace_period_without_a_success() {
    let policy = CheckPolicy {
        grace_ms: 100,
        failures: 2,
        ..strict()
    };
    let mut task = CheckFixture::healthy(policy);
    assert_eq!(task.at(99), ["run health 1 5"]);
    assert_eq!(
        task.answer(CheckPurpose::Health, 1, failed()),
        NOTHING,
        "its last moment"
    );
    assert_eq!(
        task.next(failed()).len(),
        1,
        "what failed in it is not counted"
    );
    assert!(task.next(failed())[0].starts_with("kill"));
}

#[test]
fn results_of_both_checks_are_reported() {
    let mut task = CheckFixture::with(Some(strict()), Some(strict()), CheckResults::default());
    assert_eq!(task.at(1), ["run health 1 5", "run readiness 1 5"]);
    let ready = task.answer(CheckPurpose::Readiness, 1, failed());
    assert_eq!(ready, ["report healthy ? ready no, not ready: refused"]);
    let healthy = task.answer(CheckPurpose::Health, 1, CheckResult::Passed);
    assert_eq!(healthy, ["report healthy yes ready no, healthy: passed"]);
    assert_eq!(task.at(11), ["run health 2 5", "run readiness 2 5"]);
    let unwell = task.answer(CheckPurpose::Health, 2, failed());
    assert_eq!(unwell, ["report healthy no ready no, unhealthy: refused"]);
    let ready = task.answer(CheckPurpose::Readiness, 2, CheckResult::Passed);
    assert_eq!(ready, ["report healthy no ready yes, ready: passed"]);
}

#[test]
fn readiness_checks_never_kill_and_have_no_grace_period() {
    let policy = CheckPolicy {
        grace_ms: 1_000,
        failures: 1,
        ..strict()
    };
    let mut task = CheckFixture::with(None, Some(policy), CheckResults::default());
    assert_eq!(task.at(0), ["run readiness 1 5"]);
    let first = task.answer(CheckPurpose::Readiness, 1, failed());
    assert_eq!(first, ["report healthy ? ready no, not ready: refused"]);
    for number in 2..20 {
        let due = task.due().unwrap();
        assert_eq!(task.at(due), [format!("run readiness {number} 5")]);
        assert_eq!(
            task.answer(CheckPurpose::Readiness, number, failed()),
            NOTHING
        );
    }
}

#[test]
fn repeated_late_and_unrequested_results_are_ignored() {
    let mut task = CheckFixture::healthy(strict());
    assert_eq!(
        task.answer(CheckPurpose::Health, 0, failed()),
        NOTHING,
        "none was asked for"
    );
    assert_eq!(task.at(1), ["run health 1 5"]);
    assert_eq!(task.at(1), NOTHING, "one probe at a time");
    assert_eq!(task.answer(CheckPurpose::Readiness, 1, failed()), NOTHING);
    assert_eq!(task.answer(CheckPurpose::Health, 2, failed()), NOTHING);
    assert_eq!(
        task.answer(CheckPurpose::Health, 1, CheckResult::Passed)
            .len(),
        1
    );
    assert_eq!(task.answer(CheckPurpose::Health, 1, failed()), NOTHING);
    assert_eq!(task.at(11), ["run health 2 5"]);
    assert_eq!(task.answer(CheckPurpose::Health, 1, failed()), NOTHING);
}

#[test]
fn tasks_being_killed_are_not_probed() {
    let mut task = CheckFixture::with(Some(strict()), Some(strict()), CheckResults::default());
    task.at(1);
    task.answer(CheckPurpose::Readiness, 1, CheckResult::Passed);
    assert_eq!(format_effects(task.checks.end()), ["cancel health 1"]);
    assert_eq!(task.answer(CheckPurpose::Health, 1, failed()), NOTHING);
    assert_eq!((task.due(), task.at(100)), (None, vec![]));
    assert_eq!(format_effects(task.checks.end()), NOTHING);
}

#[test]
fn a_health_kill_cancels_the_other_probe() {
    let policy = CheckPolicy {
        failures: 1,
        ..strict()
    };
    let mut task = CheckFixture::with(Some(policy), Some(strict()), CheckResults::default());
    task.at(1);
    let effects = task.answer(CheckPurpose::Health, 1, failed());
    assert_eq!(effects.len(), 3, "{effects:?}");
    assert!(effects[1].starts_with("kill"), "{effects:?}");
    assert_eq!(effects[2], "cancel readiness 1");
}

#[test]
fn restarts_repeat_no_result_and_no_grace_period() {
    let reported = CheckResults {
        healthy: Some(true),
        ready: Some(false),
    };
    let policy = CheckPolicy {
        grace_ms: 1_000_000,
        ..strict()
    };
    let mut task = CheckFixture::with(Some(policy), Some(strict()), reported);
    assert_eq!(task.checks.results(), reported);
    assert_eq!(
        task.at(500),
        ["run health 1 5", "run readiness 1 5"],
        "overdue"
    );
    assert_eq!(
        task.answer(CheckPurpose::Health, 1, CheckResult::Passed),
        NOTHING
    );
    assert_eq!(task.answer(CheckPurpose::Readiness, 1, failed()), NOTHING);
    assert_eq!(task.at(510), ["run health 2 5", "run readiness 2 5"]);
    let unwell = task.answer(CheckPurpose::Health, 2, failed());
    assert_eq!(unwell, ["report healthy no ready no, unhealthy: refused"]);
}

#[test]
fn probes_of_adopted_tasks_are_spread() {
    let policy = CheckPolicy {
        interval_ms: 100,
        ..strict()
    };
    let mut task = CheckFixture::with(Some(policy), Some(strict()), CheckResults::default());
    let mut bounds = Vec::new();
    task.checks.spread(Timestamp(START + 50), |bound| {
        bounds.push(bound);
        bound - 1
    });
    assert_eq!(bounds, [100, 10], "each within its interval");
    assert_eq!(task.at(58), NOTHING);
    assert_eq!(task.at(59), ["run readiness 1 5"]);
    assert_eq!(
        task.answer(CheckPurpose::Readiness, 1, CheckResult::Passed)
            .len(),
        1
    );
    assert_eq!(task.at(149), ["run health 1 5", "run readiness 2 5"]);
    // A check with a later first probe anyway keeps it.
    let policy = CheckPolicy {
        delay_ms: 1_000,
        ..strict()
    };
    let mut young = CheckFixture::healthy(policy);
    young.checks.spread(Timestamp(START + 50), |_| 0);
    assert_eq!(young.due(), Some(1_000));
}

#[test]
fn without_checks_there_is_no_deadline() {
    let mut task = CheckFixture::with(None, None, CheckResults::default());
    assert_eq!((task.due(), task.at(1_000_000)), (None, vec![]));
    assert_eq!(task.checks.results(), CheckResults::default());
}
