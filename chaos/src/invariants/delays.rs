//! Faults that delay the messages of a master to a process, and the time in which each was in
//! force.

use std::ops::Range;

use crate::history::{Fault, FaultKind, History};

/// The time in which a fault was in force, in nanoseconds.
struct FaultWindow<'a> {
    fault: &'a Fault,
    from_ns: u64,
    until_ns: u64,
}

/// All delays of a history.
pub(super) struct FaultWindows<'a>(Vec<FaultWindow<'a>>);

impl<'a> FaultWindows<'a> {
    pub(super) fn of(history: &'a History) -> Self {
        let mut delays: Vec<FaultWindow<'a>> = Vec::new();
        for (_, event, fault) in history.faults() {
            let now_ns = event.time_ns;
            let open = delays.iter_mut().filter(|delay| delay.until_ns == u64::MAX);
            for delay in open.filter(|delay| is_end_of(fault, delay.fault)) {
                delay.until_ns = now_ns.saturating_add(duration_ns(delay.fault));
            }
            let delaying = [
                FaultKind::Delay,
                FaultKind::SlowLink,
                FaultKind::SlowDisk,
                FaultKind::Pause,
            ];
            if delaying.contains(&fault.kind) {
                delays.push(FaultWindow {
                    fault,
                    from_ns: now_ns,
                    until_ns: u64::MAX,
                });
            }
        }
        Self(delays)
    }

    /// Returns for how much of this time the master, or a link on the way of its messages to the
    /// process, was delayed. They go directly, or through one other master, which forwards them.
    pub(super) fn delay_ns(&self, time_ns: &Range<u64>, master: &str, process: &str) -> u64 {
        let concerned = self.0.iter().filter(|delay| {
            let target = delay.fault.target.as_str();
            match target.split_once('>') {
                Some(link) => is_on_way(link, master, process),
                None => target == master || target == "*",
            }
        });
        let mut parts: Vec<(u64, u64)> = concerned
            .map(|delay| {
                let from_ns = delay.from_ns.max(time_ns.start);
                (from_ns, delay.until_ns.min(time_ns.end))
            })
            .filter(|(from_ns, until_ns)| from_ns < until_ns)
            .collect();
        parts.sort_unstable();
        let (mut sum, mut counted_ns) = (0, time_ns.start);
        for (from_ns, until_ns) in parts {
            sum += until_ns.saturating_sub(from_ns.max(counted_ns));
            counted_ns = counted_ns.max(until_ns);
        }
        sum
    }
}

/// Whether messages of the master to the process may use this link, in either direction.
fn is_on_way((from, to): (&str, &str), master: &str, process: &str) -> bool {
    let is_end = |name: &str| name == master || name == process;
    let is_between = |end, other: &str| is_end(end) && (is_end(other) || is_master(other));
    is_between(from, to) || is_between(to, from)
}

fn is_master(name: &str) -> bool {
    name.starts_with("master-")
}

/// Returns the duration of a write or a packet under a fault with a detail such as "120 ms". The
/// last one begins just before the end of the fault.
fn duration_ns(fault: &Fault) -> u64 {
    let ms = fault
        .detail
        .strip_suffix(" ms")
        .and_then(|ms| ms.parse().ok());
    ms.unwrap_or(0_u64).saturating_mul(1_000_000)
}

/// Whether one fault ends another one.
fn is_end_of(end: &Fault, fault: &Fault) -> bool {
    let is_same = end.target == fault.target;
    match end.kind {
        FaultKind::Heal => end.target == "*" || is_same && fault.kind != FaultKind::Pause,
        // A restarted process is not paused any more.
        FaultKind::Resume | FaultKind::Crash | FaultKind::PowerCut | FaultKind::WipeDisk => {
            is_same && fault.kind == FaultKind::Pause
        }
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::invariants::fixture::HistoryBuilder;

    const SECOND: u64 = 1_000_000_000;

    /// Returns the delay in the first ten seconds of messages from master 1 to `greedy`, in
    /// milliseconds.
    fn delay_ms(builder: HistoryBuilder) -> u64 {
        let history = builder.history();
        let held_up_ns =
            FaultWindows::of(&history).delay_ns(&(0..10 * SECOND), "master-1", "greedy");
        held_up_ns / 1_000_000
    }

    #[test]
    fn a_fault_delays_a_link_or_a_master_until_it_ends() {
        for (kind, target, end) in [
            (FaultKind::Delay, "greedy>master-1", FaultKind::Heal),
            (FaultKind::SlowLink, "master-1>greedy", FaultKind::Heal),
            (FaultKind::SlowDisk, "master-1", FaultKind::Heal),
            (FaultKind::Pause, "master-1", FaultKind::Resume),
        ] {
            let begun = HistoryBuilder::new().fault(kind, target).after_ms(499);
            assert_eq!(delay_ms(begun.clone().fault(end, target)), 500, "{kind}");
            let other = begun.fault(end, "master-2").after_ms(498);
            assert_eq!(delay_ms(other.fault(FaultKind::Heal, "*")), 999, "{kind}");
            assert_eq!(
                delay_ms(HistoryBuilder::new().fault(kind, target)),
                9_999,
                "{kind}"
            );
        }
    }

    #[test]
    fn another_master_may_forward_the_messages() {
        for target in ["master-1>master-2", "master-2>greedy", "greedy>master-2"] {
            let begun = HistoryBuilder::new().fault(FaultKind::Delay, target);
            let ended = begun.after_ms(499).fault(FaultKind::Heal, target);
            assert_eq!(delay_ms(ended), 500, "{target}");
        }
    }

    #[test]
    fn the_last_slow_write_outlasts_its_fault() {
        let slow = Fault::new(FaultKind::SlowDisk, "master-1").with("120 ms");
        let builder = HistoryBuilder::new().inject(slow).after_ms(499);
        assert_eq!(delay_ms(builder.fault(FaultKind::Heal, "master-1")), 620);
        let words = Fault::new(FaultKind::Delay, "greedy>master-1").with("held");
        let builder = HistoryBuilder::new().inject(words).after_ms(499);
        assert_eq!(delay_ms(builder.fault(FaultKind::Heal, "*")), 500);
    }

    #[test]
    fn faults_of_other_targets_delay_nothing() {
        for (kind, target) in [
            (FaultKind::Delay, "other>master-1"),
            (FaultKind::Delay, "greedy>other"),
            (FaultKind::Delay, "master-2>master-3"),
            (FaultKind::SlowDisk, "host-1"),
            (FaultKind::Crash, "master-1"),
        ] {
            assert_eq!(
                delay_ms(HistoryBuilder::new().fault(kind, target)),
                0,
                "{kind}"
            );
        }
        assert_eq!(delay_ms(HistoryBuilder::new()), 0);
    }

    #[test]
    fn faults_at_the_same_time_count_once() {
        let both = HistoryBuilder::new()
            .fault(FaultKind::SlowDisk, "master-1")
            .after_ms(99)
            .fault(FaultKind::Pause, "master-1")
            .after_ms(99)
            .fault(FaultKind::Heal, "master-1")
            .after_ms(99)
            .fault(FaultKind::Resume, "master-1");
        assert_eq!(delay_ms(both), 300);
    }

    #[test]
    fn a_paused_master_that_is_killed_is_not_paused_any_more() {
        let killed = HistoryBuilder::new()
            .fault(FaultKind::Pause, "master-1")
            .after_ms(99)
            .fault(FaultKind::Crash, "master-1");
        assert_eq!(delay_ms(killed), 100);
    }
}
