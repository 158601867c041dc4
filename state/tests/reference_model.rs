//! `apply` compared with a second interpreter, command by command, over the random commands of
//! `properties`.
//!
//! The second interpreter (`reference_model/`) is written from the documented meaning of commands,
//! in the plainest form, so that a defect of `apply` is not repeated there. `ARGOSY_LONG=1`
//! compares a million commands instead of 5,000; `ARGOSY_SEED=N` repeats one run. With the feature
//! `testing`, the test plants bugs, which the comparison must find.
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

#[path = "reference_model"]
mod reference {
    mod accept;
    mod agents;
    pub(crate) mod comparison;
    mod frameworks;
    pub(crate) mod model;
    mod operate;
    mod tasks;
}

use std::collections::BTreeMap;

use actor::CommandGenerator;
use answer_counts::{AnswerCounts, name};
use argosy_state::Registry;
use argosy_state::command::{Command, LogEntry, ProposedCommand};
use argosy_state::level::Level;
use reference::comparison::{compare, compare_answers};
use reference::model::Model;
use rng::TestRng;

/// The number of commands in one run of a cluster.
const COMMANDS_PER_RUN: usize = 1_000;
/// The number of entries between two reloads of the registry.
const RELOAD: u64 = 100;
/// The number of different answers that the runs must contain to be conclusive.
#[cfg(not(feature = "testing"))]
const ANSWERS: usize = 40;

/// A change of a command before the registry applies it, so that the registry behaves as with a
/// defect.
type Alteration = fn(&Registry, &mut ProposedCommand);

/// A registry and its model, to which the same entries are applied.
struct Pair {
    registry: Registry,
    stored: BTreeMap<Vec<u8>, Vec<u8>>,
    model: Model,
    alter: Alteration,
    commands: usize,
    counts: AnswerCounts,
}

impl Pair {
    fn new(alter: Alteration) -> Self {
        let mut model = Model::default();
        model.cluster.level = Level::FIRST;
        Self {
            registry: Registry::new(),
            stored: BTreeMap::new(),
            model,
            alter,
            commands: 0,
            counts: AnswerCounts::new(),
        }
    }

    /// Applies an entry to both, and compares them after each of its commands.
    ///
    /// # Errors
    /// The first difference.
    fn apply(&mut self, entry: &LogEntry) -> Result<(), String> {
        let index = self.registry.applied() + 1;
        let former = (self.registry.clone(), self.model.clone());
        let first = entry.commands.len().min(1);
        for count in first..=entry.commands.len() {
            // An entry with only the first commands, so that each command is compared.
            (self.registry, self.model) = former.clone();
            let mut part = LogEntry {
                at: entry.at,
                commands: entry.commands[..count].to_vec(),
            };
            let answers = self.model.apply(index, &part);
            let commands = part.commands.iter_mut();
            commands.for_each(|proposed| (self.alter)(&former.0, proposed));
            let applied = self.registry.apply(index, &part);
            let mut found = compare(&self.registry, &self.model);
            if let (Some(one), Some(other)) = (applied.last(), answers.last()) {
                compare_answers(&mut found, one, other);
                let command = &entry.commands[count - 1].command;
                *self.counts.entry(name(command, &one.outcome)).or_default() += 1;
                self.commands += 1;
            }
            if let Some(found) = found.text() {
                let number = self.commands;
                let command = entry.commands[..count].last();
                return Err(format!(
                    "{found}\nat command {number} (log index {index}): {command:?}"
                ));
            }
        }
        for write in self.registry.take_changes() {
            match write.value {
                Some(value) => drop(self.stored.insert(write.key, value)),
                None => drop(self.stored.remove(&write.key)),
            }
        }
        if index.is_multiple_of(RELOAD) {
            self.registry = Registry::load(index, self.stored.clone()).unwrap();
        }
        Ok(())
    }
}

/// Runs one cluster. Returns the number of each answer.
///
/// # Errors
/// The first difference.
fn run_seed(seed: u64, alter: Alteration) -> Result<AnswerCounts, String> {
    let mut pair = Pair::new(alter);
    let mut dice = TestRng::new(seed);
    // Every second cluster is of an earlier release, until its level is raised.
    let level = match seed % 2 {
        0 => Level::NEWEST,
        _ => Level::OLDEST,
    };
    let mut actor = CommandGenerator::new(&mut dice, level);
    while pair.commands < COMMANDS_PER_RUN {
        let count = if dice.percent(70) { 1 } else { dice.below(4) };
        let mut entry = actor.entry(&mut dice, &pair.registry, count);
        let level = pair.registry.level().max(level);
        let proposed = entry.commands.into_iter();
        entry.commands = proposed
            .filter_map(|proposed| CommandGenerator::at_level(level, proposed))
            .collect();
        pair.apply(&entry)?;
        if dice.percent(10) {
            pair.apply(&entry)?;
        }
    }
    Ok(pair.counts)
}

/// Returns the first difference in the runs of these seeds.
fn first_difference(seeds: u64, alter: Alteration) -> Option<String> {
    (0..seeds).find_map(|seed| {
        let found = run_seed(seed, alter).err()?;
        Some(format!("seed {seed}: {found}"))
    })
}

#[cfg(not(feature = "testing"))]
fn assert_agreement(seed: u64) -> AnswerCounts {
    let again = format!(
        "repeat it with: ARGOSY_SEED={seed} cargo test -p argosy-state --test reference_model"
    );
    match std::panic::catch_unwind(|| run_seed(seed, |_, _| {})) {
        Ok(Ok(counts)) => counts,
        Ok(Err(found)) => panic!("{found}\nin the run of seed {seed}; {again}"),
        Err(panic) => {
            eprintln!("{again}");
            std::panic::resume_unwind(panic)
        }
    }
}

#[cfg(not(feature = "testing"))]
#[test]
fn apply_and_the_reference_model_agree() {
    if let Ok(seed) = std::env::var("ARGOSY_SEED") {
        assert_agreement(seed.parse().unwrap());
        return;
    }
    let long = std::env::var_os("ARGOSY_LONG").is_some();
    let seeds = if long { 1_000 } else { 5 };
    let mut counts = AnswerCounts::new();
    for seed in 0..seeds {
        for (name, count) in assert_agreement(seed) {
            *counts.entry(name).or_default() += count;
        }
    }
    eprintln!("answers in {seeds} runs: {counts:?}");
    assert!(counts.len() >= ANSWERS, "only {} kinds", counts.len());
}

#[cfg(not(feature = "testing"))]
#[test]
fn apply_and_the_reference_model_agree_for_a_random_seed() {
    let mut bytes = [0; 8];
    let mut random = std::fs::File::open("/dev/urandom").unwrap();
    std::io::Read::read_exact(&mut random, &mut bytes).unwrap();
    assert_agreement(u64::from_be_bytes(bytes));
}

/// Defects that alterations of commands imitate.
const ALTERATIONS: [(&str, Alteration); 4] = [
    (
        "a command of a former epoch is applied",
        |registry, proposed| {
            proposed.ticket.epoch = registry.epoch();
        },
    ),
    (
        "a decision on a changed record is applied",
        |registry, proposed| {
            if let Command::AgentUnreachable(decision) = &mut proposed.command {
                let agent = registry.agent(decision.agent);
                decision.decided_on = agent.map_or(decision.decided_on, |agent| agent.revision);
            }
        },
    ),
    (
        "a call of a former session is applied",
        |registry, proposed| {
            if let Command::Call(call) = &mut proposed.command {
                let framework = registry.framework(call.framework);
                call.session = framework.map_or(call.session, |framework| framework.session);
            }
        },
    ),
    ("a copy of an agent is registered", |registry, proposed| {
        if let Command::RegisterAgent(register) = &mut proposed.command {
            let agent = register.agent.and_then(|id| registry.agent(id));
            register.confirmed = agent.map_or(register.confirmed, |agent| agent.report.incarnation);
        }
    }),
];

#[test]
fn the_comparison_finds_altered_commands() {
    for (defect, alter) in ALTERATIONS {
        let found = first_difference(10, alter);
        assert!(found.is_some(), "not found: {defect}");
    }
}

#[cfg(feature = "testing")]
#[test]
fn the_comparison_finds_every_planted_bug_of_this_crate() {
    use argosy_state::bugs::{Bug, plant};

    for bug in [
        Bug::StaleEpochCommits,
        Bug::MovedDecisionCommits,
        Bug::UsedOfferHonoured,
        Bug::FreedAtKill,
        Bug::AnswersNotLoaded,
        Bug::SharedOrder,
        Bug::LaunchAfterUnreachable,
        Bug::SessionNotChecked,
        Bug::CloneAccepted,
        Bug::StopAfterNotLoaded,
    ] {
        plant(&[bug]);
        let found = first_difference(50, |_, _| {});
        plant(&[]);
        let found = found.unwrap_or_else(|| panic!("not found: {bug}"));
        let end = found
            .char_indices()
            .nth(500)
            .map_or(found.len(), |(at, _)| at);
        eprintln!("{bug}: {}\n", &found[..end]);
    }
}
