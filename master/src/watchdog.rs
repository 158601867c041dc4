//! The watchdog of the owner's loop: a loop without a turn for two seconds gives up leadership,
//! then the process aborts.
//!
//! The loop shares its thread with consensus, so the watcher needs nothing of that thread: it is a
//! plain thread with no runtime, lock or channel of the loop. A second thread logs and requests the
//! leadership transfer. Either may wait for something that the blocked thread holds, such as the
//! lock of standard error. The watcher decides by the number of its checks, never by elapsed time,
//! and a late check restarts the count: a stopped process or a suspended machine is not a stall.

use std::convert::Infallible;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, SyncSender};
use std::thread;
use std::time::{Duration, Instant};

use tokio::time::MissedTickBehavior;
use tokio_util::task::AbortOnDropHandle;
use tracing::error;

/// Interval of checks.
const INTERVAL: Duration = Duration::from_millis(250);
/// Checks without a turn after which leadership is given up: two seconds.
const STEP_DOWN_CHECKS: u32 = 8;
/// Checks without a turn after which the process ends: this leaves one second for another master to
/// take over.
const ABORT_CHECKS: u32 = 12;
/// A check that is late by this factor of its interval shows that the process, or the machine, was
/// stopped.
const LATE_FACTOR: u32 = 2;
/// Time that the process waits before its end, so that the last message can be logged.
const LOG_TIMEOUT: Duration = Duration::from_millis(250);

/// The watched loop's turn counter. An idle loop turns, too: once in each tick.
#[derive(Debug, Default)]
pub struct TurnCounter {
    turns: AtomicU64,
}

impl TurnCounter {
    /// Records a turn of the loop.
    pub(crate) fn record_turn(&self) {
        self.turns.fetch_add(1, Ordering::Relaxed);
    }

    /// Returns the number of turns so far.
    #[must_use]
    pub fn turns(&self) -> u64 {
        self.turns.load(Ordering::Relaxed)
    }
}

/// The action that a check requires.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum WatchdogAction {
    /// None: the loop turns.
    None,
    /// Leadership is given up.
    StepDown,
    /// The process ends.
    Abort,
}

/// Logs the action, and performs the part of it that needs the rest of the process.
fn perform_action(action: WatchdogAction, step_down: &impl Fn()) {
    match action {
        WatchdogAction::None => {}
        WatchdogAction::StepDown => {
            error!("the loop that owns the registry has not turned for 2 s: giving up leadership");
            step_down();
        }
        WatchdogAction::Abort => {
            error!("the loop that owns the registry has not turned for 3 s: this process ends");
        }
    }
}

/// Observations of a loop so far.
#[derive(Debug, Default)]
struct LoopWatch {
    last_turns: Option<u64>,
    checks: u32,
}

impl LoopWatch {
    /// Checks the loop. Each action but the first is returned once, until the loop turns again. A
    /// late check restarts the count.
    fn check(&mut self, turns: u64, is_late: bool) -> WatchdogAction {
        if is_late || Some(turns) != self.last_turns {
            *self = Self {
                last_turns: Some(turns),
                checks: 0,
            };
            return WatchdogAction::None;
        }
        self.checks += 1;
        match self.checks {
            STEP_DOWN_CHECKS => WatchdogAction::StepDown,
            ABORT_CHECKS => WatchdogAction::Abort,
            _ => WatchdogAction::None,
        }
    }
}

/// Watches a loop until it is dropped.
pub(crate) enum Watchdog {
    /// Nothing is ever sent: the watcher's thread ends when this is dropped.
    Thread { _stop: mpsc::Sender<Infallible> },
    /// For simulations, which have no threads.
    Task { _task: AbortOnDropHandle<()> },
}

impl Watchdog {
    /// Watches from separate threads. `give_up` is called on one of them and must return
    /// immediately.
    pub(crate) fn thread(
        pulse: Arc<TurnCounter>,
        give_up: impl Fn() + Send + 'static,
    ) -> io::Result<Self> {
        Self::thread_with(pulse, INTERVAL, give_up, || std::process::abort())
    }

    /// Watches like [`Self::thread`], with another interval and another end.
    pub(crate) fn thread_with(
        pulse: Arc<TurnCounter>,
        interval: Duration,
        step_down: impl Fn() + Send + 'static,
        end: impl FnOnce() + Send + 'static,
    ) -> io::Result<Self> {
        let voice = StepDownThread::start(step_down)?;
        let (stop, stopped) = mpsc::channel();
        let watcher = thread::Builder::new().name("watchdog".to_owned());
        watcher.spawn(move || {
            if must_abort(&pulse, interval, &stopped, &voice) {
                end();
            }
        })?;
        Ok(Self::Thread { _stop: stop })
    }

    /// Watches from a task of the current runtime.
    pub(crate) fn task(
        pulse: Arc<TurnCounter>,
        step_down: impl Fn() + Send + Sync + 'static,
    ) -> Self {
        let watching = tokio::spawn(async move {
            let mut watch = LoopWatch::default();
            let mut ticks = tokio::time::interval(INTERVAL);
            ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
            loop {
                ticks.tick().await;
                let action = watch.check(pulse.turns(), false);
                perform_action(action, &step_down);
                if action == WatchdogAction::Abort {
                    std::process::abort();
                }
            }
        });
        Self::Task {
            _task: AbortOnDropHandle::new(watching),
        }
    }
}

/// Checks the loop until the watchdog is stopped (false), or the process must end (true). Shares no
/// lock with the loop, and allocates nothing.
fn must_abort(
    pulse: &TurnCounter,
    interval: Duration,
    stopped: &Receiver<Infallible>,
    voice: &StepDownThread,
) -> bool {
    let mut watch = LoopWatch::default();
    let mut looked = Instant::now();
    while stopped.recv_timeout(interval) == Err(RecvTimeoutError::Timeout) {
        let is_late = looked.elapsed() > interval * LATE_FACTOR;
        looked = Instant::now();
        match watch.check(pulse.turns(), is_late) {
            WatchdogAction::None => {}
            WatchdogAction::StepDown => voice.send(WatchdogAction::StepDown),
            WatchdogAction::Abort => {
                voice.send(WatchdogAction::Abort);
                // If it is not logged in time, the process ends without a message rather than not
                // at all.
                let _ = voice.logged.recv_timeout(LOG_TIMEOUT);
                return true;
            }
        }
    }
    false
}

/// A thread that logs and gives up leadership, so that the watcher itself waits for nothing.
struct StepDownThread {
    /// Capacity for both actions. A full channel means that the thread is stuck with an earlier
    /// one, and nothing more can be logged.
    actions: SyncSender<WatchdogAction>,
    /// Reports that the last action was logged.
    logged: Receiver<()>,
}

impl StepDownThread {
    fn start(step_down: impl Fn() + Send + 'static) -> io::Result<Self> {
        let (actions, received) = mpsc::sync_channel(2);
        let (done, logged) = mpsc::sync_channel(1);
        let thread = thread::Builder::new().name("watchdog-log".to_owned());
        thread.spawn(move || {
            for action in received {
                perform_action(action, &step_down);
                if action == WatchdogAction::Abort {
                    // The watcher waits no longer.
                    let _ = done.try_send(());
                }
            }
        })?;
        Ok(Self { actions, logged })
    }

    fn send(&self, action: WatchdogAction) {
        let _ = self.actions.try_send(action);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Short enough for a test, and long enough for a busy machine to check in time.
    const SHORT: Duration = Duration::from_millis(50);
    const TIMEOUT: Duration = Duration::from_secs(60);

    #[test]
    fn blocked_loop_steps_down_then_aborts() {
        let pulse = TurnCounter::default();
        let mut watch = LoopWatch::default();
        pulse.record_turn();
        let actions = (0..=ABORT_CHECKS).map(|_| watch.check(pulse.turns(), false));
        let actions: Vec<_> = actions.collect();
        let first = |wanted| actions.iter().position(|action| *action == wanted);
        assert_eq!(
            first(WatchdogAction::StepDown),
            Some(STEP_DOWN_CHECKS as usize)
        );
        assert_eq!(first(WatchdogAction::Abort), Some(ABORT_CHECKS as usize));
        assert_eq!(INTERVAL * STEP_DOWN_CHECKS, Duration::from_secs(2));
    }

    #[test]
    fn slow_loop_triggers_no_action() {
        let pulse = TurnCounter::default();
        let mut watch = LoopWatch::default();
        for check in 0..100 {
            if check % STEP_DOWN_CHECKS == 0 {
                pulse.record_turn();
            }
            assert_eq!(watch.check(pulse.turns(), false), WatchdogAction::None);
        }
    }

    /// Simulates a process that is stopped for a second, again and again, and runs in between for
    /// too short a time for a turn.
    #[test]
    fn late_check_restarts_the_count() {
        let pulse = TurnCounter::default();
        let mut watch = LoopWatch::default();
        for check in 1..100 {
            let is_late = check % STEP_DOWN_CHECKS == 0;
            assert_eq!(watch.check(pulse.turns(), is_late), WatchdogAction::None);
        }
    }

    /// Watches the loop of a turn counter; the channel receives the end.
    fn watched(
        pulse: Arc<TurnCounter>,
        give_up: impl Fn() + Send + 'static,
    ) -> (Watchdog, Receiver<()>) {
        let (ended, end) = mpsc::channel();
        let end_it = move || ended.send(()).unwrap();
        let watchdog = Watchdog::thread_with(pulse, SHORT, give_up, end_it).unwrap();
        (watchdog, end)
    }

    #[test]
    fn leader_steps_down_before_the_process_aborts() {
        let (asked, giving_up) = mpsc::channel();
        let (_watchdog, end) = watched(Arc::default(), move || asked.send(()).unwrap());
        giving_up.recv_timeout(TIMEOUT).unwrap();
        end.recv_timeout(TIMEOUT).unwrap();
    }

    #[test]
    fn process_aborts_although_logging_is_blocked() {
        let stuck = || thread::sleep(TIMEOUT * 10);
        let (_watchdog, end) = watched(Arc::default(), stuck);
        end.recv_timeout(TIMEOUT).unwrap();
    }

    #[test]
    fn dropped_watchdog_aborts_nothing() {
        let (watchdog, end) = watched(Arc::default(), || {});
        drop(watchdog);
        // The sender was dropped with the thread, and has sent nothing.
        let ended = end.recv_timeout(TIMEOUT);
        assert_eq!(ended, Err(RecvTimeoutError::Disconnected));
    }
}
