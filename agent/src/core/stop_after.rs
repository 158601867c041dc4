//! `stop_after_ms`: the time at which a task stops itself because no leader answers its agent.
//!
//! The supervisor of the task keeps the deadline; this module computes it. Masters rely on it: they
//! report that a task may be replaced when the deadline, the grace period and a margin have passed.

use argosy_state::ids::Timestamp;
use argosy_state::task::{Code, Explanation, Reason, TaskState};

use super::Core;
use super::effect::ContainerEffect;
use super::facts::Instance;
use super::lifecycle::InstancePhase;
use super::outcome::TaskEnd;

impl Core {
    /// Returns the time at which the task stops itself, if it does. It counts from the send time of
    /// the newest message that an active leader has answered, with or without a link now.
    pub(super) fn stop_at(&self, instance: Instance) -> Option<Timestamp> {
        let spec = &self.facts.tasks.get(&instance)?.launch.spec;
        let acked_at = self.link.acked_at().unwrap_or_default();
        (spec.stop_after_ms > 0).then(|| acked_at.plus_ms(spec.stop_after_ms))
    }

    /// Returns the end of a task whose deadline passed before it could be started.
    pub(super) fn expired_end(&self, instance: Instance) -> Option<TaskEnd> {
        let stop_at = self.stop_at(instance).filter(|at| *at <= self.now)?;
        let late_ms = self.now.since_ms(stop_at);
        let why = Explanation::of(Code::StopAfterPassed, &[&late_ms]);
        let reason = Reason::StoppedWithoutLeader;
        Some(TaskEnd::by_agent(TaskState::Failed, reason, why))
    }

    /// Makes deadlines that have passed final before a leader's answer moves those of other tasks:
    /// masters may have reported by now that the tasks can be replaced. A task that has not started
    /// ends. A start in progress keeps its deadline, so that its supervisor rejects it. Supervisors
    /// themselves end tasks that run.
    pub(super) fn expire_deadlines(&mut self) {
        if self.link.acked_at().is_none() {
            return;
        }
        let instances = self.instances.keys().copied();
        let late = instances.filter_map(|instance| Some((instance, self.expired_end(instance)?)));
        for (instance, end) in late.collect::<Vec<_>>() {
            match self.phase(instance) {
                Some(InstancePhase::Fetching) => {
                    self.effects.push(ContainerEffect::CancelFetch(instance));
                    self.end(instance, end);
                }
                Some(InstancePhase::Waiting | InstancePhase::Prepared) => self.end(instance, end),
                Some(InstancePhase::Starting) => {
                    if let Some(state) = self.instances.get_mut(&instance) {
                        state.is_expired = true;
                    }
                }
                Some(
                    InstancePhase::Running
                    | InstancePhase::Recovering
                    | InstancePhase::Unknown
                    | InstancePhase::Ended,
                )
                | None => {}
            }
        }
    }

    /// Records that an active leader has answered a message sent at this time.
    pub(super) fn lease_renewed(&mut self, acked_at: Timestamp) {
        for (instance, state) in &self.instances {
            let Some(task) = self.facts.tasks.get(instance) else {
                continue;
            };
            let stop_after_ms = task.launch.spec.stop_after_ms;
            let may_run = matches!(
                state.phase,
                InstancePhase::Starting | InstancePhase::Running
            );
            if may_run && !state.is_expired && stop_after_ms > 0 {
                self.effects.push(ContainerEffect::Renew {
                    instance: *instance,
                    stop_at: acked_at.plus_ms(stop_after_ms),
                });
            }
        }
    }

    /// Renews the lease of a task that was just adopted, with the newest answer so far. Answers
    /// before its adoption renewed nothing, since no connection to its supervisor existed.
    pub(super) fn renew_adopted(&mut self, instance: Instance) {
        let is_answered = self.link.acked_at().is_some();
        if is_answered
            && !self.is_unwanted(instance)
            && let Some(stop_at) = self.stop_at(instance)
        {
            self.effects
                .push(ContainerEffect::Renew { instance, stop_at });
        }
    }
}
