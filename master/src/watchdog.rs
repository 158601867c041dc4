//! A loop that has not turned for two seconds gives up leadership, then the process.
//!
//! Watches from another runtime. Decides by its own looks, never by elapsed time: a paused process
//! or machine is nobody's fault.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use tokio::time::MissedTickBehavior;
use tracing::error;

/// Between two looks.
const LOOK: Duration = Duration::from_millis(250);
/// Looks without a turn after which leadership is given up: two seconds.
const GIVE_UP: u32 = 8;
/// Looks without a turn after which the process ends: one second for another master to take over.
const ABORT: u32 = 12;

/// What the watched loop shows.
#[derive(Debug, Default)]
pub(crate) struct Pulse {
    turns: AtomicU64,
    excused: AtomicBool,
}

impl Pulse {
    /// The loop has turned.
    pub(crate) fn beat(&self) {
        self.turns.fetch_add(1, Ordering::Relaxed);
        self.excused.store(false, Ordering::Relaxed);
    }

    /// This turn takes as long as it takes, as reading the whole registry does.
    pub(crate) fn excuse(&self) {
        self.excused.store(true, Ordering::Relaxed);
    }

    /// How often it has turned; `None` while it is excused.
    fn turns(&self) -> Option<u64> {
        let turns = self.turns.load(Ordering::Relaxed);
        (!self.excused.load(Ordering::Relaxed)).then_some(turns)
    }
}

/// What is to be done about a loop.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Verdict {
    /// Nothing.
    Well,
    /// Somebody else is to lead.
    GiveUp,
    /// The process is to end.
    Abort,
}

/// What was seen of a loop so far.
#[derive(Debug, Default)]
struct Watch {
    seen: Option<u64>,
    looks: u32,
}

impl Watch {
    /// Each verdict but the first falls once, until the loop turns again.
    fn look(&mut self, turns: Option<u64>) -> Verdict {
        if turns.is_none() || turns != self.seen {
            *self = Self {
                seen: turns,
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

/// Watches until it is dropped or the process ends; `give_up` is to return at once.
pub(crate) async fn watch(pulse: Arc<Pulse>, give_up: impl Fn()) {
    let mut watch = Watch::default();
    let mut looks = tokio::time::interval(LOOK);
    // Looks that were missed say nothing about the loop.
    looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        looks.tick().await;
        match watch.look(pulse.turns()) {
            Verdict::Well => {}
            Verdict::GiveUp => {
                error!(
                    "the loop that owns the registry has not turned for 2 s: giving up leadership"
                );
                give_up();
            }
            Verdict::Abort => {
                error!("the loop that owns the registry has not turned for 3 s: this process ends");
                std::process::abort();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_loop_that_stands_still_loses_leadership_after_two_seconds_and_then_its_process() {
        let pulse = Pulse::default();
        let mut watch = Watch::default();
        pulse.beat();
        let verdicts: Vec<_> = (0..=ABORT).map(|_| watch.look(pulse.turns())).collect();
        let told = |wanted| verdicts.iter().position(|verdict| *verdict == wanted);
        assert_eq!(told(Verdict::GiveUp), Some(GIVE_UP as usize));
        assert_eq!(told(Verdict::Abort), Some(ABORT as usize));
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
            assert_eq!(watch.look(pulse.turns()), Verdict::Well);
        }
    }

    #[test]
    fn reading_the_whole_registry_may_take_long_and_only_that() {
        let pulse = Pulse::default();
        let mut watch = Watch::default();
        pulse.excuse();
        for _ in 0..100 {
            assert_eq!(watch.look(pulse.turns()), Verdict::Well);
        }
        pulse.beat();
        let verdicts: Vec<_> = (0..=GIVE_UP).map(|_| watch.look(pulse.turns())).collect();
        assert_eq!(verdicts.last(), Some(&Verdict::GiveUp));
    }
}
