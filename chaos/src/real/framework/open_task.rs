//! A task that is not known to have ended, and when its end is due.

use std::time::Instant;

use argosy_testbed::schedulers::WorkPhase;

/// A task that is not known to have ended.
#[derive(Debug, Clone, Default)]
pub(super) struct OpenTask {
    pub(super) running: bool,
    /// This process has requested its kill.
    pub(super) kill_requested: bool,
    /// An earlier process noted a kill, and may not have requested it.
    pub(super) must_end: bool,
    pub(super) kill_at: Option<Instant>,
}

impl OpenTask {
    /// Returns whether the task must be killed now.
    pub(super) fn is_due(&self, is_service: bool, phase: WorkPhase, now: Instant) -> bool {
        let is_over = match phase {
            WorkPhase::Work => self.kill_at.is_some_and(|at| at <= now),
            WorkPhase::Drain => false,
            WorkPhase::End => is_service,
        };
        !self.kill_requested && (is_over || self.must_end)
    }

    /// Returns whether a kill of the task was requested, or will be requested again.
    pub(super) fn is_killed(&self) -> bool {
        self.kill_requested || self.must_end
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A process that was killed or superseded may have noted a kill that no master has received.
    #[test]
    fn a_kill_of_an_earlier_process_is_requested_again_in_every_phase() {
        let now = Instant::now();
        let later = OpenTask {
            kill_at: now.checked_add(std::time::Duration::from_secs(1)),
            ..OpenTask::default()
        };
        let noted = OpenTask {
            must_end: true,
            ..later.clone()
        };
        let requested = OpenTask {
            kill_requested: true,
            ..noted.clone()
        };
        for phase in [WorkPhase::Work, WorkPhase::Drain] {
            assert!(!later.is_due(true, phase, now));
            assert!(noted.is_due(true, phase, now) && noted.is_killed());
            assert!(!requested.is_due(true, phase, now) && requested.is_killed());
        }
        assert!(later.is_due(true, WorkPhase::End, now) && !later.is_killed());
        let due = OpenTask {
            kill_at: Some(now),
            ..OpenTask::default()
        };
        assert!(due.is_due(true, WorkPhase::Work, now) && !due.is_due(true, WorkPhase::Drain, now));
    }
}
