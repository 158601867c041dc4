//! Turns of the owner: their duration, the cost of a command, and the share of queries.
//!
//! A turn is bounded by work, never by a stopwatch alone: remaining entries, orders and queries
//! continue in the next one. `slow` reports turns that take too long.

mod proposed;
mod slow;

use std::time::Duration;

use argosy_raft::RecordWrite;
use argosy_state::command::{CallAction, Command, Operate, OperatorOperation};
use bytes::Bytes;
use metrics::{Histogram, histogram};
use tokio::time::Instant;

use crate::leader::Input;
pub(crate) use proposed::proposed_work;
use slow::{SlowTurns, TurnParts};
pub(crate) use slow::{command_kind, message_kind};

/// Number of changed records in a turn after which the remaining entries wait for the next one. A
/// launched task has two or three.
pub(crate) const TURN_RECORDS: usize = 1_024;
/// The same limit in bytes of records.
pub(crate) const TURN_BYTES: usize = 256 << 10;

/// Time for which a turn accepts inputs and entries: the rest waits for the next one, so that ticks
/// and raft are served. A single input is bounded by itself.
const TURN: Duration = Duration::from_millis(2);
/// Total cost of the entries of one turn, as [`work`] returns it, unless a single one costs more:
/// the last one begins within [`TURN`].
const SHARED_WORK: u32 = argosy_raft::TURN_WORK / 2;
/// Maximum cost of a turn in which offers and orders still follow: these take up to 3.6 ms.
const LITTLE_WORK: u32 = argosy_raft::TURN_WORK / 4;
/// Maximum duration of such a turn.
const LITTLE_TIME: Duration = Duration::from_millis(1);

/// Work that one turn has applied so far.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct TurnWork {
    work: u32,
    records: usize,
    bytes: usize,
}

impl TurnWork {
    /// Adds an entry of this work that has changed these records.
    pub(crate) fn add(&mut self, work: u32, writes: &[RecordWrite]) {
        let bytes = |write: &RecordWrite| write.value.as_ref().map_or(0, Bytes::len);
        self.work = self.work.saturating_add(work);
        self.records += writes.len();
        self.bytes += writes.iter().map(bytes).sum::<usize>();
    }

    /// Returns whether the next entry waits for the next turn, regardless of its cost.
    fn is_enough(self) -> bool {
        self.records >= TURN_RECORDS || self.bytes >= TURN_BYTES
    }

    /// Returns whether an entry of this work may still be applied. The first one always may.
    fn has_time_for(self, work: u32) -> bool {
        self.work == 0 || self.work.saturating_add(work) <= SHARED_WORK
    }

    /// Returns whether so little was applied that offers and orders still follow.
    fn is_little(self) -> bool {
        self.work <= LITTLE_WORK && self.records <= TURN_RECORDS / 4 && self.bytes <= TURN_BYTES / 4
    }
}

/// Returns the cost of applying a command, in units of about 1.2 µs: an entry takes
/// [`argosy_raft::TURN_WORK`] of them. A launch takes about 20 µs, an update or an acknowledged end
/// 9, an operator's change 1 (`state/tests/speed.rs` on a busy machine).
pub(crate) fn work(command: &Command) -> u32 {
    let work = match command {
        Command::Call(call) => call_work(&call.action),
        Command::UpdateTasks(report) => UPDATE * report.updates.len(),
        Command::ReconcileAgent(list) => UPDATE * list.held.len(),
        Command::Acknowledge(acknowledge) => UPDATE * acknowledge.updates.len(),
        Command::Operate(operate) => operate_work(operate),
        Command::Sweep(_)
        | Command::AgentUnreachable(_)
        | Command::PruneAgent(_)
        | Command::TasksStopped(_)
        | Command::ExpireFramework(_)
        // Without a failover timeout, the framework is removed.
        | Command::DisconnectFramework(_) => SWEEP,
        Command::OpenEpoch(_)
        | Command::Tick
        | Command::MassLoss
        | Command::RaiseLevel { .. }
        | Command::CompareDigest(_)
        | Command::RegisterAgent(_)
        | Command::Subscribe(_)
        | Command::RaiseLowWater(_) => UPDATE,
    };
    u32::try_from(work).unwrap_or(u32::MAX).max(1)
}

const LAUNCH: usize = 16;
const UPDATE: usize = 8;
/// One piece of a sweep.
const SWEEP: usize = UPDATE * argosy_state::limits::TASKS_PER_SWEEP;

fn call_work(action: &CallAction) -> usize {
    match action {
        CallAction::Accept(accept) => LAUNCH * accept.tasks().count() + accept.operations.len(),
        CallAction::Kill { .. }
        | CallAction::UpdateLimits { .. }
        | CallAction::Suppress(_)
        | CallAction::Revive(_)
        | CallAction::Update(_) => UPDATE,
        CallAction::Teardown => SWEEP,
    }
}

/// Returns the cost of a batch. All sweeps that it begins share the budget of one piece.
fn operate_work(operate: &Operate) -> usize {
    let begins_sweep = |operation: &OperatorOperation| match operation {
        OperatorOperation::MarkGone(_) | OperatorOperation::Teardown(_) => true,
        OperatorOperation::SetAttribute { .. }
        | OperatorOperation::KillTask { .. }
        | OperatorOperation::UpdateLimits { .. }
        | OperatorOperation::SetWeight { .. }
        | OperatorOperation::Deactivate(_)
        | OperatorOperation::Reactivate(_)
        | OperatorOperation::Access(_)
        | OperatorOperation::SetSecret { .. }
        | OperatorOperation::ResealSecret { .. }
        | OperatorOperation::RemoveSecret(_) => false,
    };
    let operations = operate.operations.len();
    match operate.operations.iter().any(begins_sweep) {
        true => operations + SWEEP,
        false => operations,
    }
}

/// Returns the cost of a caller's input, in the unit of [`work`]: what it costs to process it, and
/// to apply its command.
pub(crate) fn input_work(input: &Input) -> u32 {
    let work = match input {
        Input::Call { call, .. } => call_work(&call.action),
        Input::Operate { operate, .. } => operate_work(operate),
        Input::Acknowledge { acknowledge, .. } => UPDATE * acknowledge.updates.len(),
        Input::Decline { decline, .. } => decline.offers.len(),
        // An empty list means all tasks of a framework, in pages.
        Input::Reconcile { reconcile, .. } => match reconcile.tasks.len() {
            0 => argosy_state::limits::RECORDS_PER_COMMAND,
            tasks => tasks,
        },
        Input::Subscribe { .. }
        | Input::FrameworkHeartbeat { .. }
        | Input::FrameworkClosed { .. }
        | Input::FrameworkBehind { .. }
        | Input::Message { .. }
        | Input::RaiseLevel { .. }
        | Input::AgentHello { .. }
        | Input::AgentReport { .. }
        | Input::AgentList { .. }
        | Input::AgentPing { .. }
        | Input::AgentMessage { .. }
        | Input::AgentClosed { .. }
        | Input::Applied(_)
        | Input::BeyondLevel { .. }
        | Input::TooLarge { .. }
        | Input::Unreadable { .. }
        | Input::Tick => UPDATE,
    };
    u32::try_from(work.max(UPDATE)).unwrap_or(u32::MAX)
}

/// The reciprocal of the share of the owner's time that queries may use while other work waits: one
/// in four.
const QUERY_SHARE: u32 = 4;

/// Time from which the next query may run although other work waits.
#[derive(Debug, Clone, Copy)]
pub(crate) struct QueryShare {
    open_from: Instant,
}

impl QueryShare {
    pub(crate) fn new(now: Instant) -> Self {
        Self { open_from: now }
    }

    /// Returns whether a query may run before other work.
    pub(crate) fn is_open(self, now: Instant) -> bool {
        now >= self.open_from
    }

    /// Records the duration of a query.
    pub(crate) fn took(&mut self, now: Instant, took: Duration) {
        self.open_from = now + took * (QUERY_SHARE - 1);
    }
}

/// The current turn: the work done, the budget left, and the duration of turns.
pub(crate) struct OwnerTurn {
    began: Instant,
    spent: TurnWork,
    /// Whether the last turn left offers and orders to the next one.
    owes_offers: bool,
    took: Histogram,
    cpu_began: Option<Duration>,
    cpu_took: Histogram,
    /// Duration of the turns since other tasks had the thread.
    since_yield: Duration,
    parts: TurnParts,
    slow: SlowTurns,
}

/// Duration of turns after which other tasks get the thread, regardless of waiting work.
const YIELD_AFTER: Duration = Duration::from_millis(1);

/// Returns the CPU time of this thread. A turn does not await, so it stays on its thread.
fn cpu() -> Option<Duration> {
    let now = nix::time::ClockId::CLOCK_THREAD_CPUTIME_ID.now().ok()?;
    Some(now.into())
}

impl OwnerTurn {
    pub(crate) fn new() -> Self {
        Self {
            began: Instant::now(),
            spent: TurnWork::default(),
            owes_offers: false,
            took: histogram!("argosy_master_turn_seconds"),
            cpu_began: None,
            cpu_took: histogram!("argosy_master_turn_cpu_seconds"),
            since_yield: Duration::ZERO,
            parts: TurnParts::new(Instant::now()),
            slow: SlowTurns::default(),
        }
    }

    pub(crate) fn begin(&mut self) {
        self.began = Instant::now();
        self.cpu_began = cpu();
        self.spent = TurnWork::default();
        self.parts.begin(self.began);
    }

    /// Begins a part of the turn, of this kind of work.
    pub(crate) fn mark(&mut self, kind: &'static str) {
        self.parts.mark(Instant::now(), kind);
    }

    /// Records that an entry of this work was applied and has changed these records.
    pub(crate) fn spend(&mut self, work: u32, writes: &[RecordWrite]) {
        self.spent.add(work, writes);
    }

    /// Returns whether the next input or entry waits for the next turn.
    pub(crate) fn is_spent(&self) -> bool {
        self.spent.is_enough() || self.began.elapsed() >= TURN
    }

    /// Returns whether an entry of this work may still be applied.
    pub(crate) fn has_time_for(&self, work: u32) -> bool {
        self.spent.has_time_for(work)
    }

    /// Returns whether offers and orders follow in this turn. If not, they are owed: the next turn
    /// makes them before it accepts anything that takes long.
    pub(crate) fn has_time_for_offers(&mut self) -> bool {
        self.owes_offers = !self.spent.is_little() || self.began.elapsed() >= LITTLE_TIME;
        !self.owes_offers
    }

    /// Returns whether the last turn had no time for offers and orders.
    pub(crate) fn owes_offers(&self) -> bool {
        self.owes_offers
    }

    /// Ends the turn. Returns true if other tasks of this thread should run.
    pub(crate) fn end(&mut self) -> bool {
        let now = Instant::now();
        let took = now.duration_since(self.began);
        self.took.record(took);
        let used = self.cpu_began.zip(cpu());
        let used = used.map(|(began, now)| now.saturating_sub(began));
        if let Some(used) = used {
            self.cpu_took.record(used);
        }
        self.slow.check(now, (took, used), &mut self.parts);
        self.since_yield += took;
        let yields = self.since_yield >= YIELD_AFTER;
        if yields {
            self.since_yield = Duration::ZERO;
        }
        yields
    }
}

#[cfg(test)]
mod tests {
    use argosy_state::actor::Actor;
    use argosy_state::command::{Acknowledge, LogEntry, ProposedCommand};
    use argosy_state::ids::{AgentId, FrameworkId};
    use argosy_state::limits;
    use argosy_state::task::TaskState;
    use argosy_state::testing::{World, spec};

    use super::*;

    fn world() -> (World, AgentId, FrameworkId) {
        let mut world = World::new();
        let agent = world.register("cpus:64;mem:65536");
        let framework = world.subscribe("load");
        (world, agent, framework)
    }

    fn write(bytes: usize) -> RecordWrite {
        RecordWrite {
            key: vec![1].into(),
            value: Some(vec![0; bytes].into()),
        }
    }

    /// Launches `count` tasks in one call.
    fn launch(world: &mut World, agent: AgentId, framework: FrameworkId, count: usize) {
        let offer = world.offer(framework, agent, "cpus:10;mem:1000");
        let specs = (0..count).map(|at| spec(&format!("task-{at:04}"), "cpus:0.01;mem:1"));
        world.accept(framework, vec![offer], specs.collect());
    }

    /// Counts the records that a command changes, against the whole budget of a turn.
    #[test]
    fn the_largest_calls_of_frameworks_take_one_turn() {
        let (mut world, agent, framework) = world();
        let stored = world.stored.len();
        launch(&mut world, agent, framework, limits::TASKS_PER_CALL);
        let changed = world.stored.len() - stored;
        assert!(
            (limits::TASKS_PER_CALL..=TURN_RECORDS).contains(&changed),
            "{changed}"
        );
        let tasks: Vec<_> = world
            .registry
            .tasks()
            .map(|task| task.key.clone())
            .collect();
        for key in &tasks {
            world.update(key, TaskState::Finished);
        }
        let ended = world
            .registry
            .tasks()
            .take(limits::ACKNOWLEDGEMENTS_PER_COMMAND);
        let updates = ended.map(|task| (task.key.task.clone(), task.revision));
        let command = Command::Acknowledge(Acknowledge {
            framework,
            session: world.registry.framework(framework).unwrap().session,
            updates: updates.collect(),
        });
        assert!(work(&command) <= argosy_raft::TURN_WORK);
        let commands = vec![ProposedCommand {
            ticket: world.ticket(),
            actor: Actor::default(),
            command,
        }];
        let at = world.now;
        let (_, writes) = world.apply_entry(&LogEntry { at, commands });
        assert!(
            writes.len() <= limits::RECORDS_PER_COMMAND,
            "{}",
            writes.len()
        );
        assert_eq!(
            world.registry.tasks().len(),
            limits::TASKS_PER_CALL - limits::ACKNOWLEDGEMENTS_PER_COMMAND
        );
    }

    #[test]
    fn a_batch_that_begins_sweeps_costs_one_piece() {
        let cost = |operations: Vec<OperatorOperation>| {
            work(&Command::Operate(Operate {
                request: None,
                hash: 0,
                operations,
                wall_ms: 0,
            }))
        };
        let agent = AgentId(1);
        assert_eq!(cost(vec![OperatorOperation::Deactivate(agent)]), 1);
        let (gone, teardown) = (
            OperatorOperation::MarkGone(agent),
            OperatorOperation::Teardown(FrameworkId(1)),
        );
        assert_eq!(cost(vec![gone.clone()]), 2_001);
        assert_eq!(cost(vec![teardown.clone()]), 2_001);
        let both = std::iter::repeat_n([gone, teardown], limits::OPERATIONS_PER_BATCH / 2);
        let most = cost(both.flatten().collect());
        assert_eq!(most, 2_256);
        assert!(most <= argosy_raft::TURN_WORK);
    }

    #[test]
    fn large_entries_wait_for_the_next_turn() {
        let mut spent = TurnWork::default();
        spent.add(1, &[write(100), write(100)]);
        assert!(!spent.is_enough());
        spent.add(1, &vec![write(1); TURN_RECORDS]);
        assert!(spent.is_enough());
        let mut spent = TurnWork::default();
        spent.add(1, &[write(TURN_BYTES)]);
        assert!(spent.is_enough());
    }

    /// Applies the work and records of a launch `launches` times; returns the part that one turn
    /// accepted.
    fn applied(launches: u32) -> TurnWork {
        let mut spent = TurnWork::default();
        for _ in 0..launches {
            spent.add(16, &[write(200), write(20)]);
        }
        spent
    }

    #[test]
    fn a_large_entry_has_its_own_turn() {
        let largest = 16 * u32::try_from(limits::TASKS_PER_CALL).unwrap();
        assert!(TurnWork::default().has_time_for(largest));
        assert!(!applied(1).has_time_for(largest));
        assert!(applied(64).has_time_for(1_024));
        assert!(!applied(64).has_time_for(1_025));
    }

    #[tokio::test(start_paused = true)]
    async fn offers_follow_in_the_next_turn_after_a_long_one() {
        let mut turns = OwnerTurn::new();
        let launches = applied(63);
        turns.begin();
        turns.spent = launches;
        assert!(turns.has_time_for_offers());
        turns.spend(16, &[write(200), write(20)]);
        turns.spend(16, &[write(200), write(20)]);
        assert!(!turns.has_time_for_offers());
        assert!(turns.owes_offers());
        // Entries wait while they are owed, so the next turn has spent nothing when it makes them.
        turns.begin();
        assert!(turns.has_time_for_offers());
        assert!(!turns.owes_offers());
        turns.begin();
        tokio::time::advance(LITTLE_TIME).await;
        assert!(!turns.has_time_for_offers());
    }

    #[tokio::test(start_paused = true)]
    async fn turns_yield_after_each_millisecond() {
        let mut turns = OwnerTurn::new();
        let mut shared = Vec::new();
        for turn in 1..=9 {
            turns.begin();
            tokio::time::advance(Duration::from_micros(400)).await;
            if turns.end() {
                shared.push(turn);
            }
        }
        assert_eq!(shared, [3, 6, 9]);
    }

    #[test]
    fn queries_get_a_quarter_of_the_time_under_load() {
        let begun = Instant::now();
        let mut share = QueryShare::new(begun);
        let (mut now, mut total) = (begun, Duration::ZERO);
        let spent = Duration::from_micros(800);
        // Other work takes turns of a tenth of a millisecond, and always waits.
        while now < begun + Duration::from_secs(1) {
            if share.is_open(now) {
                now += spent;
                total += spent;
                share.took(now, spent);
            }
            now += Duration::from_micros(100);
        }
        let part = total.as_secs_f64();
        assert!((0.2..=0.26).contains(&part), "{part}");
    }
}
