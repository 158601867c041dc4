//! A loop that has not turned for two seconds gives up leadership, then the process.
//!
//! The loop shares its thread with consensus, so the watcher needs nothing of that thread: it is a plain thread with no runtime,
//! lock or channel of the loop. A second thread logs and asks for the hand-over, because either may wait for what the blocked
//! thread holds, such as the lock of standard error. The watcher decides by its own looks, never by elapsed time, and a late
//! look starts the count again: a stopped process or a suspended machine is not a standstill.

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

/// Between two looks.
const LOOK: Duration = Duration::from_millis(250);
/// Looks without a turn after which leadership is given up: two seconds.
const GIVE_UP: u32 = 8;
/// Looks without a turn after which the process ends: one second for another master to take over.
const ABORT: u32 = 12;
/// A look that comes so many times later than it is due says that the process, or the machine, was stopped.
const LATE: u32 = 2;
/// How long the process lives on for its last words to be logged.
const LAST_WORDS: Duration = Duration::from_millis(250);

/// What the watched loop shows.
#[derive(Debug, Default)]
pub(crate) struct Pulse {
    turns: AtomicU64,
}

impl Pulse {
    /// The loop has turned.
    pub(crate) fn beat(&self) {
        self.turns.fetch_add(1, Ordering::Relaxed);
    }

    /// How often it has turned.
    pub(crate) fn turns(&self) -> u64 {
        self.turns.load(Ordering::Relaxed)
    }
}

/// What is to be done about a loop.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Verdict {
    /// Nothing.
    Well,
    /// Another master is to lead.
    GiveUp,
    /// The process is to end.
    Abort,
}

/// Logs the verdict, and acts on it as far as it needs the rest of the process.
fn announce(verdict: Verdict, give_up: &impl Fn()) {
    match verdict {
        Verdict::Well => {}
        Verdict::GiveUp => {
            error!("the loop that owns the registry has not turned for 2 s: giving up leadership");
            give_up();
        }
        Verdict::Abort => {
            error!("the loop that owns the registry has not turned for 3 s: this process ends");
        }
    }
}

/// What was seen of a loop so far.
#[derive(Debug, Default)]
struct Watch {
    seen: Option<u64>,
    looks: u32,
}

impl Watch {
    /// Each verdict but the first is returned once, until the loop turns again. A late look starts the count again.
    fn look(&mut self, turns: u64, is_late: bool) -> Verdict {
        if is_late || Some(turns) != self.seen {
            *self = Self {
                seen: Some(turns),
                looks: 0,
            };
            return Verdict::Well;
        }
        self.looks += 1;
        match self.looks {
            GIVE_UP => Verdict::GiveUp,
            ABORT => Verdict::Abort,
            _ => Verdict::Well,
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
    /// Watches from threads of its own. `give_up` is called on one of them and returns at once.
    pub(crate) fn thread(
        pulse: Arc<Pulse>,
        give_up: impl Fn() + Send + 'static,
    ) -> io::Result<Self> {
        Self::thread_with(pulse, LOOK, give_up, || std::process::abort())
    }

    /// The same with another pace and another end.
    pub(crate) fn thread_with(
        pulse: Arc<Pulse>,
        look: Duration,
        give_up: impl Fn() + Send + 'static,
        end: impl FnOnce() + Send + 'static,
    ) -> io::Result<Self> {
        let voice = Voice::start(give_up)?;
        let (stop, stopped) = mpsc::channel();
        let watcher = thread::Builder::new().name("watchdog".to_owned());
        watcher.spawn(move || {
            if has_died(&pulse, look, &stopped, &voice) {
                end();
            }
        })?;
        Ok(Self::Thread { _stop: stop })
    }

    /// Watches from a task of the runtime around it.
    pub(crate) fn task(pulse: Arc<Pulse>, give_up: impl Fn() + Send + Sync + 'static) -> Self {
        let watching = tokio::spawn(async move {
            let mut watch = Watch::default();
            let mut looks = tokio::time::interval(LOOK);
            looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
            loop {
                looks.tick().await;
                let verdict = watch.look(pulse.turns(), false);
                announce(verdict, &give_up);
                if verdict == Verdict::Abort {
                    std::process::abort();
                }
            }
        });
        Self::Task {
            _task: AbortOnDropHandle::new(watching),
        }
    }
}

/// Looks at the loop until it is stopped (false), or the process is to end (true). Shares no lock with the loop, and allocates
/// nothing.
fn has_died(pulse: &Pulse, look: Duration, stopped: &Receiver<Infallible>, voice: &Voice) -> bool {
    let mut watch = Watch::default();
    let mut looked = Instant::now();
    while stopped.recv_timeout(look) == Err(RecvTimeoutError::Timeout) {
        let is_late = looked.elapsed() > look * LATE;
        looked = Instant::now();
        match watch.look(pulse.turns(), is_late) {
            Verdict::Well => {}
            Verdict::GiveUp => voice.say(Verdict::GiveUp),
            Verdict::Abort => {
                voice.say(Verdict::Abort);
                // Not logged in time: the process ends without a word rather than not at all.
                let _ = voice.said.recv_timeout(LAST_WORDS);
                return true;
            }
        }
    }
    false
}

/// A thread that logs and gives up leadership, so that the watcher itself waits for nothing.
struct Voice {
    /// Room for both verdicts. Full: the thread is stuck with an earlier one, and nothing more can be logged.
    verdicts: SyncSender<Verdict>,
    /// The last verdict was logged.
    said: Receiver<()>,
}

impl Voice {
    fn start(give_up: impl Fn() + Send + 'static) -> io::Result<Self> {
        let (verdicts, taken) = mpsc::sync_channel(2);
        let (saying, said) = mpsc::sync_channel(1);
        let voice = thread::Builder::new().name("watchdog-log".to_owned());
        voice.spawn(move || {
            for verdict in taken {
                announce(verdict, &give_up);
                if verdict == Verdict::Abort {
                    // The watcher waits no longer.
                    let _ = saying.try_send(());
                }
            }
        })?;
        Ok(Self { verdicts, said })
    }

    fn say(&self, verdict: Verdict) {
        let _ = self.verdicts.try_send(verdict);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Short enough for a test, and long enough for a busy machine to come in time.
    const SHORT: Duration = Duration::from_millis(50);
    const PATIENCE: Duration = Duration::from_secs(60);

    #[test]
    fn a_loop_that_stands_still_loses_leadership_after_two_seconds_and_then_its_process() {
        let pulse = Pulse::default();
        let mut watch = Watch::default();
        pulse.beat();
        let looks = (0..=ABORT).map(|_| watch.look(pulse.turns(), false));
        let verdicts: Vec<_> = looks.collect();
        let first = |wanted| verdicts.iter().position(|verdict| *verdict == wanted);
        assert_eq!(first(Verdict::GiveUp), Some(GIVE_UP as usize));
        assert_eq!(first(Verdict::Abort), Some(ABORT as usize));
        assert_eq!(LOOK * GIVE_UP, Duration::from_secs(2));
    }

    #[test]
    fn a_loop_that_turns_now_and_then_is_left_alone() {
        let pulse = Pulse::default();
        let mut watch = Watch::default();
        for look in 0..100 {
            if look % GIVE_UP == 0 {
                pulse.beat();
            }
            assert_eq!(watch.look(pulse.turns(), false), Verdict::Well);
        }
    }

    /// A process that is stopped for a second, again and again, and runs in between for too short a time for a turn.
    #[test]
    fn a_late_look_starts_the_count_again() {
        let pulse = Pulse::default();
        let mut watch = Watch::default();
        for look in 1..100 {
            let is_late = look % GIVE_UP == 0;
            assert_eq!(watch.look(pulse.turns(), is_late), Verdict::Well);
        }
    }

    /// Watches a pulse; the channel hears of the end.
    fn watched(pulse: Arc<Pulse>, give_up: impl Fn() + Send + 'static) -> (Watchdog, Receiver<()>) {
        let (ended, end) = mpsc::channel();
        let end_it = move || ended.send(()).unwrap();
        let watchdog = Watchdog::thread_with(pulse, SHORT, give_up, end_it).unwrap();
        (watchdog, end)
    }

    #[test]
    fn leadership_is_given_up_before_the_process_ends() {
        let (asked, giving_up) = mpsc::channel();
        let (_watchdog, end) = watched(Arc::default(), move || asked.send(()).unwrap());
        giving_up.recv_timeout(PATIENCE).unwrap();
        end.recv_timeout(PATIENCE).unwrap();
    }

    #[test]
    fn a_process_ends_although_nothing_can_be_logged_and_nobody_takes_leadership() {
        let stuck = || thread::sleep(PATIENCE * 10);
        let (_watchdog, end) = watched(Arc::default(), stuck);
        end.recv_timeout(PATIENCE).unwrap();
    }

    #[test]
    fn a_watchdog_that_is_dropped_ends_nothing() {
        let (watchdog, end) = watched(Arc::default(), || {});
        drop(watchdog);
        // The sender is gone with the thread, and has sent nothing.
        let ended = end.recv_timeout(PATIENCE);
        assert_eq!(ended, Err(RecvTimeoutError::Disconnected));
    }
}
