//! Random commands, and the properties that hold whatever is proposed, in any order.
//!
//! `ARGOSY_LONG=1` runs a million commands instead of 20,000; `ARGOSY_SEED=N` repeats one run.
#![allow(
    clippy::disallowed_methods,
    reason = "a test reads its switches from the environment"
)]

#[path = "properties/actor.rs"]
mod actor;
#[path = "properties/agents.rs"]
mod agents;
#[path = "properties/answer_counts.rs"]
mod answer_counts;
#[path = "properties/rng.rs"]
mod rng;
#[path = "properties/witness.rs"]
mod witness;

use std::collections::BTreeMap;
use std::io::Read as _;

use actor::CommandGenerator;
use answer_counts::{AnswerCounts, name};
use argosy_state::Registry;
use argosy_state::apply::AppliedProposal;
use argosy_state::command::{Command, LogEntry, OperatorOperation, ProposedCommand};
use argosy_state::encode;
use argosy_state::level::Level;
use argosy_state::registry::RecordWrite;
use rng::TestRng;
use witness::HistoryChecker;

/// The number of registrations that did not change unusual administrative state.
const ADMIN_UNCHANGED: &str = "agreed facts kept";
/// The number of commands in one run of a cluster.
const COMMANDS_PER_RUN: usize = 1_000;
/// The number of steps between two reloads.
const RELOAD: usize = 100;

/// One cluster on two masters. The second one decodes every entry from its stored bytes.
struct ReplicatedRun {
    first: Registry,
    second: Registry,
    stored: BTreeMap<Vec<u8>, Vec<u8>>,
    history: HistoryChecker,
    counts: AnswerCounts,
}

impl ReplicatedRun {
    fn new() -> Self {
        Self {
            first: Registry::new(),
            second: Registry::new(),
            stored: BTreeMap::new(),
            history: HistoryChecker::default(),
            counts: AnswerCounts::new(),
        }
    }

    /// Applies an entry to both masters. Returns the writes for storage, and whether all commands
    /// were refused.
    fn apply_entry(&mut self, entry: &LogEntry) -> (Vec<RecordWrite>, bool) {
        let read = LogEntry {
            at: entry.at,
            commands: entry.commands.iter().map(through_bytes).collect(),
        };
        assert_eq!(&read, entry, "a command is decoded as it was encoded");
        let index = self.first.applied() + 1;
        let applied = self.first.apply(index, entry);
        let mut second = self.second.apply(index, &without_actors(read));
        // Only the actor itself, the facts of access and the owner of an agent depend on the actor.
        for (one, other) in applied.iter().zip(&mut second) {
            other.actor.clone_from(&one.actor);
        }
        assert_eq!(applied, second);
        assert_eq!(applied.len(), entry.commands.len());
        let writes = self.first.take_changes();
        assert_eq!(writes, self.second.take_changes());
        assert_eq!(self.first.digest(), self.second.digest());
        for write in &writes {
            match &write.value {
                Some(value) => drop(self.stored.insert(write.key.clone(), value.clone())),
                None => drop(self.stored.remove(&write.key)),
            }
        }
        if let Err(broken) = self.first.check() {
            panic!("{broken}");
        }
        self.history.check(&self.first);
        self.history
            .check_administration(&self.first, entry, &writes);
        for (ProposedCommand { command, .. }, AppliedProposal { outcome, .. }) in
            entry.commands.iter().zip(&applied)
        {
            *self.counts.entry(name(command, outcome)).or_default() += 1;
        }
        let refused = applied.iter().all(|applied| applied.outcome.is_err());
        (writes, refused)
    }

    fn reload(&mut self) {
        let loaded = Registry::load(self.first.applied(), self.stored.clone()).unwrap();
        assert!(
            loaded == self.first,
            "a loaded registry equals the stored one"
        );
        // From here on the second registry is that of a restarted master.
        self.second = loaded;
    }
}

/// The answers that a run must contain to be conclusive.
const REQUIRED_ANSWERS: [&str; 43] = [
    "Accept",
    "Acknowledge",
    "Compare",
    "Disconnect",
    "Expire",
    "Kill",
    "MassLoss",
    "Open",
    "Operate",
    "Prune",
    "Raise",
    "RaiseLevel",
    "Reconcile",
    "Register",
    "Revive",
    "Stopped",
    "Subscribe",
    "Suppress",
    "Sweep",
    "Teardown",
    "Tick",
    "Unreachable",
    "Update",
    "UpdateTasks",
    "agent-gone",
    "agent-not-active",
    "call-reused",
    "clone",
    "framework-removed",
    "invalid",
    "late",
    "moved",
    "no-offers",
    "offer-expired",
    "offer-foreign",
    "offer-mixed",
    "offer-outdated",
    "offer-used",
    "repeated",
    "stale-epoch",
    "superseded",
    "unknown-framework",
    "unknown-task",
];

/// Returns the entry as a cluster below level 3 would store it, except for changes of access, which
/// need level 3.
fn without_actors(mut entry: LogEntry) -> LogEntry {
    for proposed in &mut entry.commands {
        if !depends_on_actor(&proposed.command) {
            proposed.actor = argosy_state::actor::Actor::default();
        }
    }
    entry
}

fn depends_on_actor(command: &Command) -> bool {
    match command {
        // Its id belongs to the principal of its first certificate.
        Command::RegisterAgent(_) => true,
        Command::Operate(operate) => {
            let mut operations = operate.operations.iter();
            operations.any(|operation| matches!(operation, OperatorOperation::Access(_)))
        }
        _ => false,
    }
}

fn through_bytes(proposed: &ProposedCommand) -> ProposedCommand {
    encode::read_command(&encode::command(proposed, Level::NEWEST)).unwrap()
}

/// Returns the kinds of the written records, by the first byte of their keys, without cluster time.
fn kinds(writes: &[RecordWrite]) -> Vec<u8> {
    const TIME: u8 = 1;
    writes
        .iter()
        .map(|write| write.key[0])
        .filter(|kind| *kind != TIME)
        .collect()
}

fn run_seed(seed: u64) -> AnswerCounts {
    let mut life = ReplicatedRun::new();
    let mut dice = TestRng::new(seed);
    // Every second cluster is of an earlier release, until its level is raised.
    let level = match seed % 2 {
        0 => Level::NEWEST,
        _ => Level::OLDEST,
    };
    let mut actor = CommandGenerator::new(&mut dice, level);
    let mut commands = 0;
    while commands < COMMANDS_PER_RUN {
        let count = if dice.percent(70) { 1 } else { dice.below(4) };
        let mut entry = actor.entry(&mut dice, &life.first, count);
        let level = life.first.level().max(level);
        let proposed = entry.commands.into_iter();
        entry.commands = proposed
            .filter_map(|proposed| CommandGenerator::at_level(level, proposed))
            .collect();
        commands += entry.commands.len().max(1);
        let (writes, refused) = life.apply_entry(&entry);
        if let [only] = &entry.commands[..] {
            if refused {
                assert_refusal_is_clean(&only.command, &kinds(&writes));
            }
            if dice.percent(25) && may_be_repeated(&only.command) {
                let (writes, _) = life.apply_entry(&entry);
                assert_eq!(
                    kinds(&writes),
                    [0; 0],
                    "a repeat changed something: {entry:?}"
                );
            }
        }
        if commands % RELOAD == 0 {
            life.reload();
        }
    }
    life.reload();
    life.history.assert_busy(level);
    *life.counts.entry(ADMIN_UNCHANGED).or_default() += life.history.replaced();
    life.counts
}

/// Asserts that a refusal changes nothing, except for the answer of a numbered call and the low
/// water.
fn assert_refusal_is_clean(command: &Command, kinds: &[u8]) {
    const FRAMEWORK: u8 = 5;
    const ANSWER: u8 = 7;
    let allowed: &[u8] = match command {
        Command::Call(_) => &[FRAMEWORK, ANSWER],
        _ => &[],
    };
    assert!(
        kinds.iter().all(|kind| allowed.contains(kind)),
        "refused, but changed records {kinds:?}: {command:?}"
    );
}

/// Returns whether a repeat of the same command must change nothing. An epoch is new each time,
/// each sweep is the next batch, and a batch without an id may revert its own changes.
fn may_be_repeated(command: &Command) -> bool {
    match command {
        Command::OpenEpoch(_) | Command::Sweep(_) => false,
        Command::Operate(operate) => operate.request.is_some() || operate.operations.len() == 1,
        _ => true,
    }
}

fn run(seed: u64) -> AnswerCounts {
    let result = std::panic::catch_unwind(|| run_seed(seed));
    result.unwrap_or_else(|panic| {
        eprintln!("repeat it with ARGOSY_SEED={seed}");
        std::panic::resume_unwind(panic)
    })
}

fn commands(tally: &AnswerCounts) -> usize {
    let counted = tally.iter().filter(|(name, _)| **name != ADMIN_UNCHANGED);
    counted.map(|(_, count)| count).sum()
}

#[test]
fn invariants_hold_for_all_proposals() {
    if let Ok(seed) = std::env::var("ARGOSY_SEED") {
        run(seed.parse().unwrap());
        return;
    }
    let long = std::env::var_os("ARGOSY_LONG").is_some();
    let wanted = if long { 1_000_000 } else { 20_000 };
    let mut tally = AnswerCounts::new();
    let mut seed = 0;
    while commands(&tally) < wanted {
        for (name, count) in run(seed) {
            *tally.entry(name).or_default() += count;
        }
        seed += 1;
    }
    let commands = commands(&tally);
    eprintln!("{commands} commands in {seed} runs, seeds 0 and up: {tally:?}");
    for name in REQUIRED_ANSWERS {
        assert!(tally.contains_key(name), "no answer was {name}");
    }
    assert!(
        tally[ADMIN_UNCHANGED] > 0,
        "no registration kept agreed facts"
    );
}

#[test]
fn invariants_hold_for_a_random_seed() {
    let mut bytes = [0; 8];
    let mut random = std::fs::File::open("/dev/urandom").unwrap();
    random.read_exact(&mut bytes).unwrap();
    let seed = u64::from_be_bytes(bytes);
    eprintln!(
        "random run, repeat it with: ARGOSY_SEED={seed} cargo test -p argosy-state --test properties"
    );
    run(seed);
}
