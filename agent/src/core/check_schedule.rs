//! Checks of running tasks: their schedule, and the consequences of their results.
//!
//! `checks` evaluates the checks of one task; this module runs its probes, and handles results and
//! its end. Results are reported in updates; the update with the reason for a task's end is on disk
//! before the task is ended.

use argosy_state::ids::Timestamp;
use argosy_state::task::{
    Check, CheckKind, CheckResults, Explanation, HealthCheck, Reason, TaskSpec,
};

use super::Core;
use super::checks::{
    self, CheckPolicies, CheckPolicy, CheckPurpose, CheckResult, CheckSet, ProbeId,
};
use super::effect::ContainerEffect;
use super::facts::Instance;
use super::lifecycle::InstancePhase;
use super::outcome::FailureCause;

/// The checks of one running task.
#[derive(Debug)]
pub(super) struct TaskChecks {
    checks: CheckSet,
    specs: CheckSpecs,
    /// Its position in the schedule.
    due: Option<Timestamp>,
    /// The newest change, for the update that reports it.
    pub(super) change: Option<(Reason, Explanation)>,
}

impl TaskChecks {
    pub(super) fn results(&self) -> CheckResults {
        self.checks.results()
    }
}

/// The checks that a task requests.
#[derive(Debug)]
struct CheckSpecs {
    health: Option<Box<HealthCheck>>,
    readiness: Option<Box<Check>>,
}

impl CheckSpecs {
    fn of(spec: &TaskSpec) -> Self {
        Self {
            health: spec.health_check.clone(),
            readiness: spec.readiness_check.clone(),
        }
    }

    fn kind(&self, kind: CheckPurpose) -> Option<&CheckKind> {
        let check = match kind {
            CheckPurpose::Health => self.health.as_ref().map(|health| &health.check),
            CheckPurpose::Readiness => self.readiness.as_deref(),
        };
        check.map(|check| &check.kind)
    }
}

impl Core {
    /// Starts the checks of a task whose command runs since `started_at`. `previous` is its former
    /// phase.
    pub(super) fn start_checks(
        &mut self,
        instance: Instance,
        started_at: Timestamp,
        previous: InstancePhase,
    ) {
        let Some(task) = self.facts.tasks.get(&instance) else {
            return;
        };
        let specs = CheckSpecs::of(&task.launch.spec);
        let policies = CheckPolicies {
            health: specs.health.as_deref().map(CheckPolicy::from),
            readiness: specs.readiness.as_deref().map(CheckPolicy::from),
        };
        if policies == CheckPolicies::default() {
            return;
        }
        let mut checks = CheckSet::new(policies, started_at, task.check_results);
        if matches!(previous, InstancePhase::Recovering | InstancePhase::Unknown) {
            let random = &mut self.random;
            checks.spread(self.now, |bound| random.below(bound));
        }
        let watch = TaskChecks {
            checks,
            specs,
            due: None,
            change: None,
        };
        if let Some(state) = self.instances.get_mut(&instance) {
            state.checks = Some(watch);
            self.step_checks(instance, |_, _| Vec::new());
        }
    }

    /// Stops the checks of a task.
    pub(super) fn stop_checks(&mut self, instance: Instance) {
        self.step_checks(instance, |checks, _| checks.end());
    }

    /// Reports check results and limits that waited: some updates of the task are committed, so
    /// there is space for them.
    pub(super) fn report_deferred(&mut self, instance: Instance) {
        let state = self.instances.get(&instance);
        let known = state.and_then(|phase| phase.checks.as_ref());
        let reported = self
            .facts
            .tasks
            .get(&instance)
            .map(|task| task.check_results);
        let is_limited = state.is_some_and(|phase| phase.limit_update.result.is_some());
        let standing = known.map(TaskChecks::results);
        if is_limited || standing.is_some_and(|known| Some(known) != reported) {
            self.mark_dirty(instance);
        }
    }

    /// Runs every check that is due.
    pub(super) fn run_due_checks(&mut self) {
        while let Some(instance) = self.checks.pop_due(self.now) {
            self.step_checks(instance, CheckSet::tick);
        }
    }

    pub(super) fn probe_finished(
        &mut self,
        instance: Instance,
        probe: ProbeId,
        answer: CheckResult,
    ) {
        self.step_checks(instance, |checks, now| {
            checks.probe_finished(now, probe, answer)
        });
    }

    /// Runs a step of the checks of a task; they are scheduled again for their next deadline.
    fn step_checks(
        &mut self,
        instance: Instance,
        act: impl FnOnce(&mut CheckSet, Timestamp) -> Vec<checks::CheckEffect>,
    ) {
        let state = self.instances.get_mut(&instance);
        let Some(watch) = state.and_then(|phase| phase.checks.as_mut()) else {
            return;
        };
        let effects = act(&mut watch.checks, self.now);
        let next = watch.checks.deadline();
        if let Some(former) = std::mem::replace(&mut watch.due, next) {
            self.checks.remove(former, instance);
        }
        if let Some(next) = next {
            self.checks.insert(next, instance);
        }
        for effect in effects {
            self.perform_check(instance, effect);
        }
    }

    fn perform_check(&mut self, instance: Instance, effect: checks::CheckEffect) {
        let task = self.facts.tasks.get(&instance);
        let reported = task.map(|task| task.check_results).unwrap_or_default();
        let Some(state) = self.instances.get_mut(&instance) else {
            return;
        };
        let Some(watch) = &mut state.checks else {
            return;
        };
        match effect {
            checks::CheckEffect::Run { probe, timeout_ms } => {
                if let Some(kind) = watch.specs.kind(probe.kind).cloned() {
                    self.effects.push(ContainerEffect::Probe {
                        instance,
                        probe,
                        kind,
                        timeout_ms,
                    });
                }
            }
            checks::CheckEffect::Cancel(probe, cause) => {
                self.effects.push(ContainerEffect::CancelProbe {
                    instance,
                    probe,
                    cause,
                })
            }
            checks::CheckEffect::Report { kind, why, .. } => {
                let reason = match kind {
                    CheckPurpose::Health => Reason::HealthCheckStatusUpdated,
                    CheckPurpose::Readiness => Reason::ReadinessCheckStatusUpdated,
                };
                let known = watch.results();
                let is_other_reported = match kind {
                    CheckPurpose::Health => known.ready == reported.ready,
                    CheckPurpose::Readiness => known.healthy == reported.healthy,
                };
                // One update may report both: then it has the reasons of both.
                let why = match watch.change.take() {
                    Some((_, other)) if !is_other_reported => other.then(why),
                    Some(_) | None => why,
                };
                watch.change = Some((reason, why));
                self.mark_dirty(instance);
            }
            checks::CheckEffect::Kill { reason } => {
                // The task is ended when the update with the reason is on disk: the next run knows
                // the reason, and does not probe again.
                state.failure.get_or_insert(FailureCause::Unhealthy(reason));
                self.mark_dirty(instance);
            }
        }
    }
}
