//! The comparison of the registry with the model.
//!
//! # What the model does not have
//!
//! - The words of messages: of refusals (their code and their arguments are compared), of updates
//!   that masters make, and of the reason of a framework's removal. Level 2 stores them, level 3
//!   builds them for display.
//! - How facts are stored: the layout and its progress, the place of limits in two records
//!   (`LimitsChange::is_second`), the serial before which the history has single records, marks and
//!   digests, the estimated memory of records, and copies for readers.
//! - Random numbers of the cluster: its id, the keys of offers, the secrets of tickets.
//! - Bounds that the random commands do not reach, and fields that they do not set. A run that
//!   reaches one fails: by a difference, or as "not modelled".
//! - The arithmetic of resources and the rules of a policy, which are those of the crate.
//!
//! Everything else of the registry is compared after each command. Where neither the design nor the
//! documentation defines a result, the model has the result of `apply`: the order in which
//! conditions are checked if several refuse a command, the revisions that a command skips, and a
//! second report about one change of limits.

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::sync::Arc;

use argosy_state::Registry;
use argosy_state::agent::{Agent, AgentMode};
use argosy_state::apply::AppliedProposal;
use argosy_state::command::{ApplyOutcome, CommandReply, Rejection, StoredRejection};
use argosy_state::framework::{AnswerOutcome, CallAnswer, FinishedFramework};
use argosy_state::ids::Role;
use argosy_state::level::Level;
use argosy_state::registry::{AnswerKey, ClusterRecord, OperatorAnswer};
use argosy_state::resources::{Resource, Resources, Value};
use argosy_state::task::{Task, TaskState, TaskUpdate, UpdateSource};

use super::model::{Answer, Model};

/// The differences between both, one a line.
#[derive(Default)]
pub(crate) struct Differences(Vec<String>);

impl Differences {
    /// Adds a line if the values differ.
    fn check<V: PartialEq + Debug + ?Sized>(&mut self, what: &str, registry: &V, model: &V) {
        if registry != model {
            self.0
                .push(format!("{what}:\n{}", unequal_lines(registry, model)));
        }
    }

    /// Adds a line for each key whose values differ.
    fn check_all<K: Ord + Debug, V: PartialEq + Debug>(
        &mut self,
        what: &str,
        registry: impl Iterator<Item = (K, V)>,
        model: impl Iterator<Item = (K, V)>,
    ) {
        let mut model: BTreeMap<K, V> = model.collect();
        for (key, value) in registry {
            let other = model.remove(&key);
            self.check(&format!("{what} {key:?}"), &Some(value), &other);
        }
        for (key, value) in model {
            self.check(&format!("{what} {key:?}"), &None, &Some(value));
        }
    }

    /// Returns the lines, or `None` without a difference.
    pub(crate) fn text(self) -> Option<String> {
        (!self.0.is_empty()).then(|| self.0.join("\n"))
    }
}

/// Returns the lines of two values without those with which both begin and end.
fn unequal_lines(registry: &(impl Debug + ?Sized), model: &(impl Debug + ?Sized)) -> String {
    let texts = [format!("{registry:#?}"), format!("{model:#?}")];
    let lines = texts
        .each_ref()
        .map(|text| text.lines().collect::<Vec<_>>());
    let [one, other] = &lines;
    let least = one.len().min(other.len());
    let same = |at: &usize| one[*at] != other[*at];
    let start = (0..least).find(same).unwrap_or(least);
    let same = |at: &usize| one[one.len() - at] != other[other.len() - at];
    let end = (1..=least - start).find(same).unwrap_or(least - start + 1) - 1;
    let part = |name: &str, lines: &[&str]| {
        let part = lines[start.saturating_sub(1)..lines.len() - end].join("\n  ");
        format!("  {name}:\n  {part}\n")
    };
    part("registry", one) + &part("model", other)
}

/// Compares the answers to one command.
pub(crate) fn compare_answers(found: &mut Differences, registry: &AppliedProposal, model: &Answer) {
    found.check("outcome", &outcome(&registry.outcome), &outcome(&model.0));
    found.check("events", &registry.events, &model.1);
}

/// Returns an outcome without the words of its refusals.
fn outcome(outcome: &ApplyOutcome) -> Result<CommandReply, StoredRejection> {
    let refusal = |why: &Rejection| StoredRejection::of(why, Level::NEWEST);
    let wordless = |why: &Rejection| Rejection::Repeated {
        code: why.number(),
        text: refusal(why).arguments.join(" "),
    };
    Ok(match outcome.as_ref().map_err(refusal)? {
        CommandReply::Call { revision, refused } => CommandReply::Call {
            revision: *revision,
            refused: refused
                .iter()
                .map(|(at, why)| (*at, wordless(why)))
                .collect(),
        },
        CommandReply::Operate { revision, outcomes } => CommandReply::Operate {
            revision: *revision,
            outcomes: outcomes
                .iter()
                .map(|one| one.clone().map_err(|why| wordless(&why)))
                .collect(),
        },
        CommandReply::Repeated(answer) => CommandReply::Repeated(call_answer(answer)),
        other => other.clone(),
    })
}

fn stored(why: &StoredRejection) -> StoredRejection {
    StoredRejection {
        message: String::new(),
        ..why.clone()
    }
}

fn call_answer(answer: &CallAnswer) -> CallAnswer {
    let outcome = match &answer.outcome {
        AnswerOutcome::Refused(why) => AnswerOutcome::Refused(stored(why)),
        done => done.clone(),
    };
    CallAnswer {
        outcome,
        ..answer.clone()
    }
}

fn finished_framework(framework: &FinishedFramework) -> FinishedFramework {
    let reason = framework.reason.split(';').next().unwrap_or_default();
    FinishedFramework {
        reason: reason.to_owned(),
        ..framework.clone()
    }
}

fn operator_answer(answer: &OperatorAnswer) -> OperatorAnswer {
    let outcomes = answer.outcomes.iter().map(|why| why.as_ref().map(stored));
    OperatorAnswer {
        outcomes: outcomes.collect(),
        ..answer.clone()
    }
}

/// Returns a task without the words of masters and the place of its limits.
fn task(task: &Task) -> Task {
    let mut task = task.clone();
    let updates = task.unacknowledged.iter_mut().chain([&mut task.latest]);
    updates.for_each(|update: &mut TaskUpdate| {
        if update.source == UpdateSource::Master {
            update.message.clear();
        }
    });
    if let Some(change) = &mut task.limits_change {
        change.is_second = false;
    }
    task
}

/// Compares all facts.
pub(crate) fn compare(registry: &Registry, model: &Model) -> Differences {
    let mut found = Differences::default();
    let cluster = registry.cluster();
    let modelled = ClusterRecord {
        facts: Default::default(),
        last_whole: 0,
        layout: Default::default(),
        ticket_secrets: None,
        ..cluster.clone()
    };
    found.check("cluster", &modelled, &model.cluster);
    found.check("time", &registry.time(), &model.time);
    let agents = registry.agents().map(|agent| (agent.id, agent));
    found.check_all(
        "agent",
        agents,
        model.agents.iter().map(|(id, agent)| (*id, agent)),
    );
    let frameworks = registry
        .frameworks()
        .map(|framework| (framework.id, framework));
    let others = model
        .frameworks
        .values()
        .map(|framework| (framework.id, framework));
    found.check_all("framework", frameworks, others);
    let tasks = registry.tasks().map(|one| (&one.key, task(one)));
    found.check_all(
        "task",
        tasks,
        model.tasks.values().map(|one| (&one.key, task(one))),
    );
    let finished = registry.finished_tasks_after(0);
    let finished = finished.map(|(serial, one)| (serial, task(&one.task)));
    let others = model.finished_tasks.iter();
    let others = others.map(|(serial, one)| (*serial, task(one)));
    found.check_all("finished task", finished, others);
    compare_rest(&mut found, registry, model);
    compare_sums(&mut found, registry, model);
    compare_usage(&mut found, registry, model);
    found
}

fn compare_rest(found: &mut Differences, registry: &Registry, model: &Model) {
    let ended = registry
        .finished_tasks_after(0)
        .map(|(_, ended)| &ended.task);
    let keys = registry.tasks().chain(ended).map(|task| &task.key);
    let transitions = keys.map(|key| (key, registry.transitions(key)));
    let transitions = transitions.filter(|(_, all)| !all.is_empty());
    let others = model.transitions.iter().map(|(key, all)| (key, &all[..]));
    found.check_all("transitions", transitions, others);
    let frameworks: Vec<_> = registry
        .finished_frameworks()
        .map(finished_framework)
        .collect();
    found.check(
        "finished frameworks",
        &frameworks,
        &model.finished_frameworks,
    );
    // The registry does not list its answers, only their number for each framework.
    let answers = model.answers.iter();
    let answers = answers.map(|(key, answer)| (*key, Some(call_answer(answer))));
    let known = model.answers.keys();
    let known = known.map(|key: &AnswerKey| (*key, registry.answer(*key).map(call_answer)));
    found.check_all("answer", known, answers);
    let names = model.operator_answers.keys();
    let known = names.map(|name| (name, registry.operator_answer(name).map(operator_answer)));
    let answers = model.operator_answers.iter();
    let answers = answers.map(|(name, answer)| (name, Some(operator_answer(answer))));
    found.check_all("operator's answer", known, answers);
    let usage = registry.usage();
    let records = |kind: &str| {
        usage
            .iter()
            .find(|usage| usage.kind == kind)
            .map(|one| one.records)
    };
    let count = |count: usize| Some(count as u64);
    found.check("answers", &records("answers"), &count(model.answers.len()));
    let answers = count(model.operator_answers.len());
    found.check("operators' answers", &records("operator_answers"), &answers);
    let weights = model.weights.iter().map(|(role, weight)| (role, *weight));
    found.check_all("weight", registry.weights(), weights);
    found.check_all("secret", registry.secrets(), model.secrets.iter());
    let access = registry.access();
    let policy = access.policy_revision;
    let policy = policy.map(|revision| (Arc::clone(&access.policy), revision));
    found.check("policy", &policy, &model.policy);
    found.check_all("token", (&access.tokens).into_iter(), model.tokens.iter());
    found.check_all("revoked key", access.revoked.iter(), model.revoked.iter());
    found.check_all("key", access.bindings.iter(), model.bindings.iter());
    found.check_all("limit", access.limits.iter(), model.limits.iter());
}

/// Returns the scalars of these resources.
fn scalars(resources: &Resources) -> Resources {
    let is_scalar = |part: &&Resource| matches!(part.value, Value::Scalar(_));
    let parts = resources.iter().filter(is_scalar).cloned();
    Resources::collect(parts).expect("they are a part of a valid bundle")
}

/// Compares what the registry sums up for agents and frameworks with sums over all records of the
/// model.
fn compare_sums(found: &mut Differences, registry: &Registry, model: &Model) {
    let is_counted = |agent: &&Agent| agent.mode() == AgentMode::Registered;
    let agents = model.agents.values().filter(is_counted);
    let total = agents.fold(Resources::none(), |sum, agent| {
        let sum = sum.plus(&scalars(agent.total()));
        sum.expect("scalars add up")
    });
    found.check("total", registry.total(), &total);
    let sums = registry.agents().map(|agent| {
        let index = registry.agent_index(agent.id).cloned().unwrap_or_default();
        let free = registry.free(agent.id);
        (agent.id, (free, index.used, index.live))
    });
    let others = model.agents.keys().map(|id| {
        let live = model.live_on(*id).count();
        (*id, (model.free(*id), model.used(*id), live))
    });
    found.check_all("free, used and live tasks of", sums, others);
    let counts = registry.frameworks().map(|framework| {
        let index = registry.framework_index(framework.id).cloned();
        let index = index.unwrap_or_default();
        (framework.id, (index.live, index.ended))
    });
    let others = model.frameworks.keys().map(|id| {
        let tasks: Vec<_> = model.tasks_of(*id).collect();
        let ended = tasks.iter().filter(|task| task.is_terminal()).count();
        (*id, (tasks.len() - ended, ended))
    });
    found.check_all("live and ended tasks of", counts, others);
}

/// Compares the usage of roles, and the numbers of tasks and updates.
fn compare_usage(found: &mut Differences, registry: &Registry, model: &Model) {
    let usages = registry.role_usages();
    for name in ["*", "web", "db", "web/front"] {
        let role = Role::new(name).expect("it is valid");
        let usage = usages.get(&role).cloned().unwrap_or_default();
        let own = model.used_by(|of| *of == role);
        found.check(&format!("own usage of role {name}"), &usage.own, &own);
        let tree = model.used_by(|of| role.contains(of));
        let what = format!("usage of role {name} and below");
        found.check(&what, &usage.tree(), &tree);
    }
    let mut states: BTreeMap<TaskState, usize> = BTreeMap::new();
    for task in model.tasks.values() {
        *states.entry(task.state).or_default() += 1;
    }
    let counts = states
        .keys()
        .map(|state| (state, registry.tasks_in(*state)));
    let others = states.iter().map(|(state, count)| (state, *count));
    found.check_all("number of tasks", counts, others);
    let waiting = model.tasks.values().map(|task| task.unacknowledged.len());
    let (known, waiting) = (registry.unacknowledged_updates(), waiting.sum());
    found.check("unacknowledged updates", &known, &waiting);
}

impl Model {
    /// Returns the scalars that tasks and executors of these roles use, without those on
    /// unreachable agents.
    fn used_by(&self, is_counted: impl Fn(&Role) -> bool) -> Resources {
        let mut used = Resources::none();
        let mut executors = std::collections::BTreeSet::new();
        for task in self.tasks.values() {
            let is_unreachable = task.state == TaskState::Unreachable;
            if task.is_terminal() || is_unreachable || !is_counted(&task.role) {
                continue;
            }
            let mut parts = vec![&task.spec.resources];
            if let Some(executor) = &task.spec.executor
                && executors.insert((task.agent, task.key.framework, &executor.executor))
            {
                parts.push(&executor.resources);
            }
            for part in parts {
                used = used.plus(&scalars(part)).expect("scalars add up");
            }
        }
        used
    }
}
