//! The owner's lag: how late it processes the messages of its links.
//!
//! A probe passes through the inbox as a heartbeat does: a task of the same runtime sends it, and
//! it waits behind all messages of the links. It is therefore late for the same reasons.

use std::time::Duration;

use metrics::{Histogram, histogram};
use tokio::sync::mpsc;
use tokio::time::Instant;

use crate::inbox::OwnerMessage;

const PROBE_INTERVAL: Duration = Duration::from_millis(500);
/// Lag at which a leader steps down: agents drop a link after three seconds of silence.
pub(crate) const MAX_LAG: Duration = Duration::from_secs(3);
/// Ticks of the owner that must pass after the last timely probe. After a pause of the process, the
/// probe is late once although nothing is wrong.
const MIN_TICKS: u32 = 15;
/// Minimum interval of leadership transfers for this reason: the load may follow the leader.
const TRANSFER_INTERVAL: Duration = Duration::from_secs(60);

/// Sends probes until the owner ends.
pub(crate) async fn probe(inbox: mpsc::Sender<OwnerMessage>) {
    let mut due = tokio::time::interval(PROBE_INTERVAL);
    due.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        // The moment at which the probe was due, not the one at which this task was scheduled.
        let due = due.tick().await;
        if inbox.send(OwnerMessage::Probe(due)).await.is_err() {
            return;
        }
    }
}

/// The lag of the owner, as its probes show it.
pub(crate) struct OwnerLag {
    /// Time at which the last timely probe was due. Messages sent later are not known to have
    /// arrived.
    last_timely_probe: Instant,
    /// Ticks since the last timely probe.
    ticks: u32,
    transferred_at: Option<Instant>,
    lag_seconds: Histogram,
}

impl OwnerLag {
    pub(crate) fn new(now: Instant) -> Self {
        Self {
            last_timely_probe: now,
            ticks: 0,
            transferred_at: None,
            lag_seconds: histogram!("argosy_master_inbox_lag_seconds"),
        }
    }

    /// Records the arrival of a probe. A late one does not reset the lag.
    pub(crate) fn record_probe(&mut self, now: Instant, due: Instant) {
        self.lag_seconds.record(now.saturating_duration_since(due));
        if now.saturating_duration_since(due) < MAX_LAG {
            self.last_timely_probe = due;
            self.ticks = 0;
        }
    }

    /// Returns the lag if the leader must transfer leadership now.
    pub(crate) fn tick(&mut self, now: Instant) -> Option<Duration> {
        self.ticks = self.ticks.saturating_add(1);
        let late = now.saturating_duration_since(self.last_timely_probe);
        let lately = |at: Instant| now.saturating_duration_since(at) < TRANSFER_INTERVAL;
        if late < MAX_LAG + PROBE_INTERVAL
            || self.ticks < MIN_TICKS
            || self.transferred_at.is_some_and(lately)
        {
            return None;
        }
        self.transferred_at = Some(now);
        Some(late)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TICK: Duration = Duration::from_millis(100);

    /// Ticks for `length`, with a probe each half second that takes `late` to arrive. Returns the
    /// times of the leadership transfers.
    fn run(lag: &mut OwnerLag, begun: Instant, length: Duration, late: Duration) -> Vec<Duration> {
        let mut handed_over = Vec::new();
        for at in 1..=length.as_millis() as u32 / 100 {
            let now = begun + TICK * at;
            if at % 5 == 0 {
                lag.record_probe(now, now - late);
            }
            if lag.tick(now).is_some() {
                handed_over.push(now - begun);
            }
        }
        handed_over
    }

    #[test]
    fn leader_with_tolerable_lag_keeps_leadership() {
        let begun = Instant::now();
        let mut lag = OwnerLag::new(begun);
        let late = Duration::from_millis(2_500);
        let minutes = Duration::from_secs(600);
        assert_eq!(run(&mut lag, begun, minutes, late), []);
    }

    #[test]
    fn lagging_leader_transfers_leadership_once_a_minute() {
        let begun = Instant::now();
        let mut lag = OwnerLag::new(begun);
        let late = Duration::from_secs(4);
        let handed_over = run(&mut lag, begun, Duration::from_secs(90), late);
        assert_eq!(handed_over.len(), 2);
        assert!(handed_over[0] <= Duration::from_secs(4), "{handed_over:?}");
    }

    #[test]
    fn paused_process_transfers_no_leadership() {
        let begun = Instant::now();
        let mut lag = OwnerLag::new(begun);
        let back = begun + Duration::from_secs(20);
        // Probe and tick coincide; the result does not depend on their order.
        assert_eq!(lag.tick(back), None);
        lag.record_probe(back, begun + PROBE_INTERVAL);
        let minute = Duration::from_secs(60);
        assert_eq!(run(&mut lag, back, minute, Duration::ZERO), []);
    }
}
