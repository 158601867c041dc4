//! The parts that every simulation shares: its clock, recorder, counts and result.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use argosy_state::buggify;
use argosy_state::bugs::{Bug, is_planted};
use turmoil::Sim;

use super::process::{STEP, SimProcesses};
use crate::history::{Fault, FaultKind, History, Recorder, Recording};
use crate::invariants::{self, check_history};

/// The first moment of every simulation, in seconds since 1970.
const EPOCH_S: u64 = 1_700_000_000;
/// The maximum latency of a packet in a healthy network.
pub(super) const LATENCY: Duration = Duration::from_millis(3);

/// Maximum number of recorded violations: a simulation that continues may report the same one at
/// each step.
const MAX_VIOLATIONS: usize = 200;

thread_local! {
    /// The time between two steps, in nanoseconds. Processes in separate runtimes run then.
    static BETWEEN_NS: Cell<u64> = const { Cell::new(0) };
}

/// Returns how long the simulation has lasted, for code that runs in it.
pub(super) fn elapsed() -> Duration {
    match turmoil::in_simulation() {
        true => turmoil::sim_elapsed().unwrap_or_default(),
        false => Duration::from_nanos(BETWEEN_NS.get()),
    }
}

/// Returns [`elapsed`] in milliseconds, the clock of a simulated host.
pub(super) fn now_ms() -> u64 {
    u64::try_from(elapsed().as_millis()).unwrap_or(u64::MAX)
}

/// The time of day when the simulation began.
pub(super) const BEGAN: Duration = Duration::from_secs(EPOCH_S);

/// Counts of a simulation. One that did little proves little.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SimulationCounts {
    /// Faults by kind, without repairs.
    pub faults: BTreeMap<FaultKind, u64>,
    /// Other events by name.
    pub events: BTreeMap<&'static str, u64>,
}

#[derive(Debug)]
pub struct SimulationResult {
    /// The seed that repeats it.
    pub seed: u64,
    /// Violations that were found while it ran, or in its history.
    pub violations: Vec<String>,
    /// The findings of every checker in the history.
    pub report: invariants::InvariantReport,
    /// The recorded history.
    pub history: History,
    pub counts: SimulationCounts,
    pub simulated_time: Duration,
    /// CPU time; zero if the system does not report it.
    pub cpu: Duration,
}

/// State that the hosts of one simulation and its driver share. Cheap to clone.
#[derive(Clone)]
pub(super) struct SimContext {
    pub(super) recorder: Recorder,
    // One thread runs the simulation. The lock satisfies the types of asynchronous code.
    inner: Arc<Mutex<RecordedCounts>>,
    /// Nanoseconds, between the steps. Within a step hosts have their own time.
    now_ns: Arc<AtomicU64>,
}

#[derive(Default)]
struct RecordedCounts {
    violations: Vec<String>,
    counts: SimulationCounts,
}

impl SimContext {
    fn new() -> (Self, Recording) {
        let now_ns = Arc::new(AtomicU64::new(0));
        let between = now_ns.clone();
        let clock = move || match turmoil::in_simulation().then(turmoil::sim_elapsed) {
            Some(Some(elapsed)) => u64::try_from(elapsed.as_nanos()).unwrap_or(u64::MAX),
            Some(None) | None => between.load(Ordering::Relaxed),
        };
        let (recorder, recording) = Recorder::in_memory(clock);
        let inner = Arc::default();
        let notes = Self {
            recorder,
            inner,
            now_ns,
        };
        (notes, recording)
    }

    fn inner(&self) -> std::sync::MutexGuard<'_, RecordedCounts> {
        self.inner
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    /// Records a violation.
    pub(super) fn violation(&self, message: String) {
        let at_ms = self.recorder.now_ns() / 1_000_000;
        let violations = &mut self.inner().violations;
        if violations.len() < MAX_VIOLATIONS {
            violations.push(format!("at {at_ms} ms: {message}"));
        }
    }

    pub(super) fn is_violated(&self) -> bool {
        !self.inner().violations.is_empty()
    }

    pub(super) fn count(&self, what: &'static str) {
        *self.inner().counts.events.entry(what).or_default() += 1;
    }

    /// Returns how often this was counted.
    pub(super) fn event_count(&self, what: &'static str) -> u64 {
        let inner = self.inner();
        inner.counts.events.get(what).copied().unwrap_or(0)
    }

    pub(super) fn fault(&self, fault: Fault) {
        if !fault.kind.is_repair() {
            *self.inner().counts.faults.entry(fault.kind).or_default() += 1;
        }
        self.recorder.fault(fault);
    }
}

/// A simulation and its clock.
pub(super) struct Simulation<'a> {
    /// Whether it continues after a violation: with a planted bug, each rule must have its chance
    /// to name it.
    pub(super) ignores_violations: bool,
    pub(super) sim: Sim<'a>,
    pub(super) processes: SimProcesses,
    pub(super) notes: SimContext,
}

impl Simulation<'_> {
    pub(super) fn now(&self) -> Duration {
        self.sim.elapsed()
    }

    /// Runs one step. Returns false if a host ended or the simulation is over.
    pub(super) fn step(&mut self) -> bool {
        let stepped = self.sim.step();
        let now_ns = u64::try_from(self.sim.elapsed().as_nanos()).unwrap_or(u64::MAX);
        self.notes.now_ns.store(now_ns, Ordering::Relaxed);
        BETWEEN_NS.set(now_ns);
        if let Err(error) = stepped {
            self.notes
                .violation(format!("a process ended by itself: {error}"));
            return false;
        }
        self.processes.step();
        self.continues()
    }

    /// Whether there is no violation, or the simulation continues despite one.
    pub(super) fn continues(&self) -> bool {
        self.ignores_violations || !self.notes.is_violated()
    }

    /// Makes rare choices frequent in masters and agents, by seed.
    pub(super) fn enable_buggify(&self, seed: u64) {
        let kinds = buggify::begin(seed);
        if !kinds.is_empty() {
            let fault = Fault::new(FaultKind::Buggify, "*");
            self.notes.fault(fault.with(format!("{kinds:?}")));
        }
    }

    /// Stops all software on this host immediately.
    pub(super) fn crash(&mut self, host: &str) {
        self.sim.crash(host);
        self.processes.kill(host);
    }

    /// Starts the software on this host. If it runs already, it is restarted.
    pub(super) fn restart_host(&mut self, host: &str) {
        self.processes.kill(host);
        self.sim.bounce(host);
    }
}

/// Returns the CPU time of this thread.
fn cpu() -> Duration {
    let text = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap_or_default();
    let ns = text.split(' ').next().and_then(|word| word.parse().ok());
    Duration::from_nanos(ns.unwrap_or(0))
}

/// Runs one simulation from its seed to its result. A panic of any process in it is a violation.
pub(super) fn simulate(seed: u64, play: impl FnOnce(&mut Simulation<'_>)) -> SimulationResult {
    let began = cpu();
    buggify::end();
    let (notes, recording) = SimContext::new();
    let mut builder = turmoil::Builder::new();
    builder
        .rng_seed(seed)
        .epoch(SystemTime::UNIX_EPOCH + Duration::from_secs(EPOCH_S))
        .tick_duration(STEP)
        .simulation_duration(Duration::from_secs(1_000_000))
        .min_message_latency(Duration::ZERO)
        .max_message_latency(LATENCY)
        .ephemeral_ports(10_000..=65_000)
        .tcp_capacity(4_096);
    let mut simulated = Duration::ZERO;
    let played = catch_unwind(AssertUnwindSafe(|| {
        let mut simulation = Simulation {
            ignores_violations: Bug::ALL.iter().any(|bug| is_planted(*bug)),
            sim: builder.build(),
            processes: SimProcesses::default(),
            notes: notes.clone(),
        };
        play(&mut simulation);
        simulated = simulation.now();
    }));
    if let Err(panic) = played {
        let words = panic
            .downcast_ref::<String>()
            .map(String::as_str)
            .or_else(|| panic.downcast_ref::<&str>().copied())
            .unwrap_or("no words");
        notes.violation(format!("a process panicked: {words}"));
    }
    let history = recording
        .finish()
        .expect("a history in memory has no file to fail");
    let RecordedCounts {
        mut violations,
        counts,
    } = std::mem::take(&mut *notes.inner());
    let report = check_history(&history);
    for violation in &report.violations {
        violations.push(format!("{}: {}", violation.rule, violation.what));
    }
    SimulationResult {
        seed,
        violations,
        report,
        history,
        counts,
        simulated_time: simulated,
        cpu: cpu().saturating_sub(began),
    }
}
