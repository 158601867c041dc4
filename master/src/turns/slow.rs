//! Slow turns of the owner, and their causes: the kinds of inputs and commands that took the time.

use std::fmt::Write as _;
use std::time::Duration;

use argosy_state::command::{CallAction, Command};
use tokio::time::Instant;
use tracing::warn;

use crate::inbox::OwnerMessage;
use crate::leader::Input;

/// Duration from which a turn is slow: five times its bound.
const SLOW: Duration = Duration::from_millis(25);
/// The minimum interval between two log lines about slow turns.
const REPORT_EVERY: Duration = Duration::from_secs(10);
/// Maximum number of kinds of work that one turn distinguishes; the others count as [`OTHER`].
const KINDS: usize = 32;
/// Number of kinds in a log line.
const SHOWN: usize = 3;

const OTHER: &str = "other";

/// The work of one turn, by kind.
#[derive(Debug)]
pub(super) struct TurnParts {
    present: &'static str,
    since: Instant,
    parts: Vec<Part>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Part {
    kind: &'static str,
    took: Duration,
    count: u32,
}

impl TurnParts {
    pub(super) fn new(now: Instant) -> Self {
        Self {
            present: OTHER,
            since: now,
            parts: Vec::with_capacity(KINDS),
        }
    }

    pub(super) fn begin(&mut self, now: Instant) {
        self.parts.clear();
        self.present = OTHER;
        self.since = now;
    }

    /// Ends the present part of the turn, and begins one of this kind.
    pub(super) fn mark(&mut self, now: Instant, kind: &'static str) {
        let took = now.duration_since(self.since);
        self.since = now;
        let former = std::mem::replace(&mut self.present, kind);
        let is_full = self.parts.len() >= KINDS - 1;
        let is_known = |part: &&mut Part| part.kind == former;
        if let Some(part) = self.parts.iter_mut().find(is_known) {
            part.took += took;
            part.count += 1;
        } else if is_full && former != OTHER {
            self.add_to_others(took);
        } else {
            let kind = former;
            let count = 1;
            self.parts.push(Part { kind, took, count });
        }
    }

    fn add_to_others(&mut self, took: Duration) {
        match self.parts.iter_mut().find(|part| part.kind == OTHER) {
            Some(part) => {
                part.took += took;
                part.count += 1;
            }
            None => self.parts.push(Part {
                kind: OTHER,
                took,
                count: 1,
            }),
        }
    }

    /// Returns the kinds that took longest, as text.
    fn causes(&mut self) -> String {
        self.parts.sort_by_key(|part| std::cmp::Reverse(part.took));
        let mut text = String::new();
        for Part { kind, took, count } in self.parts.iter().take(SHOWN) {
            let separator = if text.is_empty() { "" } else { ", " };
            let ms = took.as_secs_f64() * 1_000.0;
            // Writing to a string cannot fail.
            let _ = write!(text, "{separator}{kind} {ms:.1} ms ({count} times)");
        }
        text
    }
}

/// Rate-limited log lines about slow turns.
#[derive(Debug, Default)]
pub(super) struct SlowTurns {
    last: Option<Instant>,
    unreported: u64,
}

impl SlowTurns {
    /// Logs a turn that was slow, with its causes, unless another one was logged just before.
    pub(super) fn check(
        &mut self,
        now: Instant,
        (took, cpu): (Duration, Option<Duration>),
        parts: &mut TurnParts,
    ) {
        if took < SLOW {
            return;
        }
        parts.mark(now, OTHER);
        let Some(unreported) = self.admit(now) else {
            return;
        };
        let waited = cpu.map_or(0, |cpu| took.saturating_sub(cpu).as_millis());
        warn!(
            took_ms = took.as_millis(),
            // A thread that waits for a processor, or for a page of memory, is not slow itself.
            waited_ms = waited,
            causes = parts.causes(),
            unreported,
            "a turn of the owner of the registry was slow: heartbeats and calls waited for it"
        );
    }

    /// Returns the number of slow turns that were not logged, if one may be logged now.
    fn admit(&mut self, now: Instant) -> Option<u64> {
        let is_recent = |last: Instant| now.duration_since(last) < REPORT_EVERY;
        if self.last.is_some_and(is_recent) {
            self.unreported += 1;
            return None;
        }
        self.last = Some(now);
        Some(std::mem::take(&mut self.unreported))
    }
}

/// Returns the kind of a message to the owner.
pub(crate) fn message_kind(message: &OwnerMessage) -> &'static str {
    match message {
        OwnerMessage::Input(input)
        | OwnerMessage::AgentInput(input, _)
        | OwnerMessage::TracedInput(input, _) => input_kind(input),
        OwnerMessage::Ask(..) => "call",
        OwnerMessage::AgentLink(..) => "agent link",
        OwnerMessage::FrameworkLink(..) => "subscription",
        OwnerMessage::Probe(_) => "probe",
    }
}

fn input_kind(input: &Input) -> &'static str {
    match input {
        Input::AgentHello { .. } => "hello of an agent",
        Input::AgentReport { .. } => "report of an agent",
        Input::AgentList { .. } => "task list of an agent",
        Input::AgentPing { .. } => "ping of an agent",
        Input::AgentMessage { .. } => "message of an executor",
        Input::AgentClosed { .. } => "end of an agent's link",
        Input::Subscribe { .. } => "subscription",
        Input::FrameworkClosed { .. } => "end of a framework's link",
        Input::FrameworkHeartbeat { .. } => "heartbeat",
        Input::FrameworkBehind { .. } => "backlog of a framework",
        Input::Call { .. } => "numbered call",
        Input::Decline { .. } => "decline",
        Input::Message { .. } => "message of a framework",
        Input::Acknowledge { .. } => "acknowledgement",
        Input::Reconcile { .. } => "reconciliation",
        Input::Operate { .. } => "batch of an operator",
        Input::RaiseLevel { .. } => "raising the level",
        Input::Applied(_) => "applied command",
        Input::BeyondLevel { .. } | Input::TooLarge { .. } | Input::Unreadable { .. } => {
            "refused proposal"
        }
        Input::Tick => "timers",
    }
}

/// Returns the kind of a command that is applied.
pub(crate) fn command_kind(command: &Command) -> &'static str {
    match command {
        Command::OpenEpoch(_) => "apply: open an epoch",
        Command::RegisterAgent(_) => "apply: register an agent",
        Command::AgentUnreachable(_) => "apply: agent unreachable",
        Command::PruneAgent(_) => "apply: remove an agent",
        Command::TasksStopped(_) => "apply: tasks stopped",
        Command::ReconcileAgent(_) => "apply: reconcile an agent",
        Command::UpdateTasks(_) => "apply: update tasks",
        Command::Subscribe(_) => "apply: subscribe",
        Command::DisconnectFramework(_) => "apply: disconnect a framework",
        Command::ExpireFramework(_) => "apply: expire a framework",
        Command::Call(call) => match &call.action {
            CallAction::Accept(_) => "apply: accept",
            CallAction::Teardown => "apply: teardown",
            CallAction::Kill { .. }
            | CallAction::UpdateLimits { .. }
            | CallAction::Suppress(_)
            | CallAction::Revive(_)
            | CallAction::Update(_) => "apply: call",
        },
        Command::Acknowledge(_) => "apply: acknowledge",
        Command::RaiseLowWater(_) => "apply: raise low water",
        Command::Operate(_) => "apply: operate",
        Command::Sweep(_) => "apply: sweep",
        Command::Tick => "apply: tick",
        Command::MassLoss => "apply: mass loss",
        Command::CompareDigest(_) => "apply: compare digests",
        Command::RaiseLevel { .. } => "apply: raise the level",
    }
}

#[cfg(test)]
mod tests {
    use argosy_testing::Log;

    use super::*;

    const MS: Duration = Duration::from_millis(1);

    /// Runs a turn of these kinds of work and durations.
    fn turn(slow: &mut SlowTurns, begin: Instant, work: &[(&'static str, u32)]) -> Instant {
        let mut parts = TurnParts::new(begin);
        parts.begin(begin);
        let mut now = begin;
        for (kind, ms) in work {
            parts.mark(now, kind);
            now += MS * *ms;
        }
        let took = now.duration_since(begin);
        slow.check(now, (took, Some(took / 2)), &mut parts);
        now
    }

    #[test]
    fn a_slow_turn_is_logged_with_the_kinds_that_took_longest() {
        let log = Log::default();
        let (lines, begin) = (log.0.clone(), Instant::now());
        tracing::subscriber::with_default(log, || {
            let mut slow = SlowTurns::default();
            turn(&mut slow, begin, &[("quick", 24)]);
            assert_eq!(lines.lock().unwrap().len(), 0);
            let work = [("a", 3), ("b", 20), ("a", 4), ("c", 2), ("d", 1)];
            turn(&mut slow, begin, &work);
        });
        let lines = lines.lock().unwrap();
        assert_eq!(lines.len(), 1, "{lines:?}");
        let text = "b 20.0 ms (1 times), a 7.0 ms (2 times), c 2.0 ms (1 times)";
        for expected in [text, "took_ms=30", "waited_ms=15", "unreported=0", "WARN"] {
            assert!(lines[0].contains(expected), "{expected}: {lines:?}");
        }
    }

    #[test]
    fn slow_turns_are_logged_every_ten_seconds_with_the_number_of_others() {
        let log = Log::default();
        let (lines, begin) = (log.0.clone(), Instant::now());
        tracing::subscriber::with_default(log, || {
            let mut slow = SlowTurns::default();
            let mut now = begin;
            for _ in 0..300 {
                now = turn(&mut slow, now, &[("a", 50)]);
            }
        });
        let lines = lines.lock().unwrap();
        assert_eq!(lines.len(), 2, "{lines:?}");
        assert!(lines[1].contains("unreported=199"), "{lines:?}");
    }

    #[test]
    fn kinds_are_bounded() {
        let begin = Instant::now();
        let mut parts = TurnParts::new(begin);
        for number in 0..100 {
            let kind: &'static str = Box::leak(format!("kind {number}").into_boxed_str());
            parts.mark(begin + MS * number, kind);
        }
        assert_eq!(parts.parts.len(), KINDS - 1);
        let total: Duration = parts.parts.iter().map(|part| part.took).sum();
        assert_eq!(total, MS * 99);
    }
}
