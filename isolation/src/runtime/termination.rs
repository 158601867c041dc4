//! The termination of a container, by order or by deadline: decisions only.

use std::time::Duration;

use argosy_host::BootTime;

use crate::runtime::messages::SupervisorRequest;
use crate::spec::StopAfter;
use crate::state_dir::StopReason;

/// The interval after a KILL before it is repeated, if the first was not enough.
const KILL_RETRY: Duration = Duration::from_secs(1);

/// The next action on the container.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum TerminationAction {
    /// Sends this signal to the command's process group.
    Signal(i32),
    /// Kills everything in the container.
    KillAll,
}

/// The progress of a container's termination.
#[derive(Debug)]
pub(crate) struct Termination {
    stop_after: Option<StopAfter>,
    /// The stop signal.
    signal: i32,
    stop: Option<StopReason>,
    kill_at: Option<BootTime>,
}

impl Termination {
    pub(crate) fn new(stop_after: Option<StopAfter>, signal: Option<i32>) -> Self {
        Self {
            stop_after,
            signal: signal.unwrap_or(libc::SIGTERM),
            stop: None,
            kill_at: None,
        }
    }

    /// Returns the reason why the container is being ended, if it is.
    pub(crate) fn stop(&self) -> Option<StopReason> {
        self.stop
    }

    /// Returns when to call [`Termination::tick`] next.
    pub(crate) fn next(&self) -> Option<BootTime> {
        match self.stop {
            Some(_) => self.kill_at.into_iter().chain(self.hard_deadline()).min(),
            None => self.stop_after.map(|stop_after| stop_after.deadline),
        }
    }

    /// Returns the time after which nothing may run, regardless of any ordered grace period: other
    /// nodes rely on it.
    fn hard_deadline(&self) -> Option<BootTime> {
        let stop_after = self.stop_after?;
        Some(stop_after.deadline + Duration::from_millis(stop_after.grace_ms))
    }

    pub(crate) fn request(
        &mut self,
        now: BootTime,
        order: SupervisorRequest,
    ) -> Option<TerminationAction> {
        match order {
            SupervisorRequest::Signal { signal } => Some(TerminationAction::Signal(signal)),
            SupervisorRequest::Kill { grace_ms } => self.begin(now, StopReason::Ordered, grace_ms),
            SupervisorRequest::Renew { deadline } => {
                // One that arrives after the deadline is too late, also if the supervisor has not
                // acted yet: masters may have reported that the task can be replaced.
                let open = self.stop_after.as_mut();
                if let Some(stop_after) = open.filter(|open| now < open.deadline) {
                    // A late or reordered renewal must not take back a newer one.
                    stop_after.deadline = stop_after.deadline.max(deadline);
                }
                None
            }
            // For init and its streams: neither delays the end of a container.
            SupervisorRequest::Exec | SupervisorRequest::Attach { .. } => None,
        }
    }

    pub(crate) fn tick(&mut self, now: BootTime) -> Option<TerminationAction> {
        if self.next().is_none_or(|next| now < next) {
            return None;
        }
        if let (None, Some(stop_after)) = (self.stop, self.stop_after) {
            // The grace period counts from the deadline: a supervisor that wakes late grants less.
            let late = Duration::from_millis(now.0.saturating_sub(stop_after.deadline.0));
            let grace = Duration::from_millis(stop_after.grace_ms).saturating_sub(late);
            let grace_ms = u64::try_from(grace.as_millis()).unwrap_or(u64::MAX);
            return self.begin(now, StopReason::StopAfter, grace_ms);
        }
        // From here on it is killed repeatedly; renewals have no effect.
        self.stop_after = None;
        self.kill_at = Some(now + KILL_RETRY);
        Some(TerminationAction::KillAll)
    }

    /// Handles an order to end. The first one sends the stop signal and its reason stands; a later
    /// one can only shorten the grace period.
    fn begin(
        &mut self,
        now: BootTime,
        stop: StopReason,
        grace_ms: u64,
    ) -> Option<TerminationAction> {
        let kill_at = now + Duration::from_millis(grace_ms);
        let first = self.stop.is_none();
        self.stop.get_or_insert(stop);
        self.kill_at = Some(self.kill_at.map_or(kill_at, |earlier| earlier.min(kill_at)));
        if grace_ms == 0 {
            return self.tick(now);
        }
        first.then_some(TerminationAction::Signal(self.signal))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(milliseconds: u64) -> BootTime {
        BootTime(milliseconds)
    }

    fn kill(grace_ms: u64) -> SupervisorRequest {
        SupervisorRequest::Kill { grace_ms }
    }

    const TERM: Option<TerminationAction> = Some(TerminationAction::Signal(libc::SIGTERM));

    #[test]
    fn a_kill_sends_the_configured_stop_signal() {
        let mut termination = Termination::new(None, Some(libc::SIGQUIT));
        let asked = termination.request(at(0), kill(1_000));
        assert_eq!(asked, Some(TerminationAction::Signal(libc::SIGQUIT)));
        assert_eq!(
            termination.tick(at(1_000)),
            Some(TerminationAction::KillAll)
        );
    }

    #[test]
    fn a_kill_sends_term_and_then_kill_after_the_grace_period() {
        let mut termination = Termination::new(None, None);
        assert_eq!(termination.next(), None);
        assert_eq!(termination.request(at(100), kill(50)), TERM);
        assert_eq!(termination.next(), Some(at(150)));
        assert_eq!(termination.tick(at(149)), None);
        assert_eq!(termination.tick(at(150)), Some(TerminationAction::KillAll));
        assert_eq!(termination.tick(at(151)), None);
        assert_eq!(
            termination.tick(at(1150)),
            Some(TerminationAction::KillAll),
            "until it works"
        );
        assert_eq!(termination.stop(), Some(StopReason::Ordered));
    }

    #[test]
    fn without_a_grace_period_no_term_is_sent() {
        let mut termination = Termination::new(None, None);
        assert_eq!(
            termination.request(at(100), kill(0)),
            Some(TerminationAction::KillAll)
        );
    }

    #[test]
    fn a_repeated_kill_only_shortens_the_grace_period() {
        let mut termination = Termination::new(None, None);
        assert_eq!(termination.request(at(0), kill(1000)), TERM);
        assert_eq!(termination.request(at(10), kill(5000)), None);
        assert_eq!(termination.next(), Some(at(1000)));
        assert_eq!(termination.request(at(20), kill(100)), None);
        assert_eq!(termination.next(), Some(at(120)));
        assert_eq!(
            termination.request(at(30), kill(0)),
            Some(TerminationAction::KillAll)
        );
    }

    #[test]
    fn stop_after_expires_and_renewals_are_monotonic() {
        let stop_after = StopAfter {
            deadline: at(100),
            grace_ms: 10,
        };
        let mut termination = Termination::new(Some(stop_after), None);
        assert_eq!(
            termination.request(at(50), SupervisorRequest::Renew { deadline: at(200) }),
            None
        );
        assert_eq!(
            termination.request(at(60), SupervisorRequest::Renew { deadline: at(150) }),
            None
        );
        assert_eq!(termination.tick(at(199)), None);
        // The supervisor reads it before it acts on the deadline.
        assert_eq!(
            termination.request(at(200), SupervisorRequest::Renew { deadline: at(900) }),
            None
        );
        assert_eq!(termination.tick(at(200)), TERM);
        assert_eq!(
            termination.request(at(201), SupervisorRequest::Renew { deadline: at(900) }),
            None
        );
        assert_eq!(termination.tick(at(210)), Some(TerminationAction::KillAll));
        assert_eq!(termination.stop(), Some(StopReason::StopAfter));
    }

    #[test]
    fn a_long_grace_period_does_not_exceed_stop_after() {
        let stop_after = StopAfter {
            deadline: at(100),
            grace_ms: 10,
        };
        let mut termination = Termination::new(Some(stop_after), None);
        assert_eq!(termination.request(at(50), kill(60_000)), TERM);
        // After the renewal, its grace period may last longer.
        termination.request(at(60), SupervisorRequest::Renew { deadline: at(200) });
        assert_eq!(termination.next(), Some(at(210)));
        assert_eq!(termination.tick(at(209)), None);
        assert_eq!(termination.tick(at(210)), Some(TerminationAction::KillAll));
        assert_eq!(termination.stop(), Some(StopReason::Ordered));
        assert_eq!(termination.next(), Some(at(1210)), "until it works");
    }

    #[test]
    fn the_grace_period_of_stop_after_counts_from_its_deadline() {
        let stop_after = StopAfter {
            deadline: at(100),
            grace_ms: 50,
        };
        let mut termination = Termination::new(Some(stop_after), None);
        assert_eq!(termination.tick(at(120)), TERM);
        assert_eq!(termination.next(), Some(at(150)));
        let mut termination = Termination::new(Some(stop_after), None);
        assert_eq!(
            termination.tick(at(150)),
            Some(TerminationAction::KillAll),
            "too late for a grace"
        );
    }

    #[test]
    fn a_renewal_without_a_deadline_has_no_effect() {
        let mut termination = Termination::new(None, None);
        assert_eq!(
            termination.request(at(0), SupervisorRequest::Renew { deadline: at(1) }),
            None
        );
        assert_eq!(termination.next(), None);
    }
}
