//! The text form of answers, events and facts.

use std::fmt::Write as _;

use argosy_state::Registry;
use argosy_state::access::{Token, TokenPurpose};
use argosy_state::agent::{Administration, AgentMode};
use argosy_state::apply::AppliedProposal;
use argosy_state::command::{ApplyOutcome, CommandReply, Position, Rejection};
use argosy_state::event::{AccessChange, Event};
use argosy_state::framework::{AnswerOutcome, SchedulerConnection};
use argosy_state::ids::Revision;
use argosy_state::task::{CheckResults, Task, TaskTransition, TaskUpdate};

/// The number of events that are printed. More are only counted.
const EVENTS_SHOWN: usize = 12;

pub(crate) fn applied(applied: &AppliedProposal) -> String {
    let mut text = outcome(&applied.outcome);
    for event in applied.events.iter().take(EVENTS_SHOWN) {
        writeln!(text, "  {}", self::event(event)).unwrap();
    }
    if applied.events.len() > EVENTS_SHOWN {
        writeln!(
            text,
            "  and {} more events",
            applied.events.len() - EVENTS_SHOWN
        )
        .unwrap();
    }
    text
}

fn refusal(why: &Rejection) -> String {
    format!("{why} ({})", why.code())
}

/// Prints the operation and task of a position.
fn position(position: Position) -> String {
    format!("{}.{}", position.operation, position.task)
}

fn outcome(outcome: &ApplyOutcome) -> String {
    match outcome {
        Ok(CommandReply::Done) => "ok\n".to_owned(),
        Ok(CommandReply::Epoch(epoch)) => format!("ok epoch {}\n", epoch.0),
        Ok(CommandReply::Agent(id)) => format!("ok {id}\n"),
        Ok(CommandReply::Framework(id)) => format!("ok {id}\n"),
        Ok(CommandReply::Call {
            revision: at,
            refused,
        }) => {
            let mut text = format!("called at {}\n", revision(*at));
            for (position, why) in refused {
                writeln!(
                    text,
                    "  task {} refused: {}",
                    self::position(*position),
                    refusal(why)
                )
                .unwrap();
            }
            text
        }
        Ok(CommandReply::Repeated(answer)) => {
            let at = revision(answer.revision);
            match &answer.outcome {
                AnswerOutcome::Done { refused } => {
                    let refused: Vec<_> = refused
                        .iter()
                        .map(|(position, code)| {
                            format!(
                                " {} {}",
                                self::position(*position),
                                Rejection::code_of(*code)
                            )
                        })
                        .collect();
                    format!("repeated: called at {at}{}\n", refused.concat())
                }
                AnswerOutcome::Refused(refusal) => {
                    format!(
                        "repeated: refused at {at}: {} ({})\n",
                        refusal.message_text(),
                        Rejection::code_of(refusal.code)
                    )
                }
            }
        }
        Ok(CommandReply::Operate { outcomes, .. }) => {
            let mut text = String::new();
            for outcome in outcomes {
                match outcome {
                    Ok(()) => text.push_str("operated\n"),
                    Err(why) => writeln!(text, "refused: {}", refusal(why)).unwrap(),
                }
            }
            text
        }
        Err(why) => format!("refused: {}\n", refusal(why)),
    }
}

fn event(event: &Event) -> String {
    match event {
        Event::EpochOpened(epoch) => format!("epoch {} opened", epoch.0),
        Event::AgentChanged(id) => format!("{id} changed"),
        Event::AgentGone(id) => format!("{id} gone"),
        Event::AgentForgotten(id) => format!("{id} forgotten"),
        Event::FrameworkSubscribed(id) => format!("{id} subscribed"),
        Event::FrameworkChanged(id) => format!("{id} changed"),
        Event::FrameworkRevived { framework, roles } => {
            let roles: Vec<_> = roles.iter().map(ToString::to_string).collect();
            format!("{framework} revived in {}", roles.join(" "))
        }
        Event::WeightChanged(role) => format!("weight of {role} set"),
        Event::AccessChanged(change) => format!("access changed: {}", access_change(change)),
        Event::FrameworkRemoving(id) => format!("{id} removing"),
        Event::FrameworkRemoved(id) => format!("{id} removed"),
        Event::TaskLaunched { key, agent, order } => {
            format!("order {} to {agent}: launch {key}", order.0)
        }
        Event::TaskKillRequested { key, agent, order } => {
            format!("order {} to {agent}: kill {key}", order.0)
        }
        Event::TaskLimitsRequested { key, agent, order } => {
            format!("order {} to {agent}: limits of {key}", order.0)
        }
        Event::TaskUpdated {
            key,
            agent,
            revision: at,
            state,
        } => {
            format!("{key} is {state:?} on {agent} at {}", revision(*at))
        }
        Event::UpdateReleased {
            agent,
            key,
            order,
            number,
            released,
        } => {
            let released = if *released { ", released" } else { "" };
            format!("{agent} may forget {key}@{} #{number}{released}", order.0)
        }
        Event::OrphanFound { agent, key, order } => {
            format!("{agent} holds a stray {key}@{}", order.0)
        }
        Event::AgentReconciled { agent, complete } => {
            format!(
                "{agent} compared{}",
                if *complete { ", complete" } else { "" }
            )
        }
        Event::TaskForgotten(key) => format!("{key} to history"),
        Event::AgentUsageChanged(id) => format!("{id} usage changed"),
        Event::SweepNeeded => "sweep needed".to_owned(),
        Event::LevelRaised(level) => format!("level raised to {level}"),
        Event::DigestLogged { index, digest } => format!("digest {digest:x} of {index} logged"),
    }
}

fn access_change(change: &AccessChange) -> String {
    match change {
        AccessChange::Policy => "policy".to_owned(),
        AccessChange::TokenCreated(id) => format!("token {id} created"),
        AccessChange::TokenRemoved(id) => format!("token {id} removed"),
        AccessChange::KeyRevoked(key) => format!("key {:x} revoked", key.0[0]),
        AccessChange::KeyBound(principal) => format!("{principal} bound"),
        AccessChange::Limit(subject) => format!("limit of {subject}"),
    }
}

fn revision(revision: Revision) -> String {
    format!("{}.{}", revision.index, revision.position)
}

pub(crate) fn facts(registry: &Registry, what: &str) -> String {
    match what {
        "agents" => agents(registry),
        "frameworks" => frameworks(registry),
        "tasks" => registry.tasks().map(task).collect(),
        "history" => history(registry),
        "cluster" => cluster(registry),
        "level" => format!("level {}\n", registry.level()),
        "transitions" => transitions(registry),
        "access" => access(registry),
        "secrets" => secrets(registry),
        other => panic!("cannot show {other:?}"),
    }
}

fn agents(registry: &Registry) -> String {
    let mut text = String::new();
    for agent in registry.agents() {
        let mode = if agent.mode() == AgentMode::Unreachable {
            let then = match agent.admin.administration {
                Administration::Active => "Registered".to_owned(),
                other => format!("{other:?}"),
            };
            format!("{:?} (then {then})", agent.mode())
        } else {
            format!("{:?}", agent.mode())
        };
        let attributes: Vec<_> = agent
            .attributes()
            .iter()
            .map(|(name, value)| format!(" {name}={value}"))
            .collect();
        writeln!(
            text,
            "{} {mode} at {}, offer revision {}, orders {}, free {}{}",
            agent.id,
            revision(agent.revision),
            revision(agent.offer_revision),
            agent.orders.0,
            registry.free(agent.id),
            attributes.concat()
        )
        .unwrap();
    }
    text
}

fn frameworks(registry: &Registry) -> String {
    let mut text = String::new();
    for framework in registry.frameworks() {
        let connection = match framework.connection {
            SchedulerConnection::Connected => "connected".to_owned(),
            SchedulerConnection::Disconnected { since } => format!("away since {}", since.0),
        };
        let index = registry.framework_index(framework.id).unwrap();
        writeln!(
            text,
            "{} session {} {connection} at {}, low {}, answers {}, live {}, ended {}{}{}",
            framework.id,
            framework.session,
            revision(framework.revision),
            framework.low_water,
            index.answers,
            index.live,
            index.ended,
            if framework.suppressed.is_empty() {
                ""
            } else {
                ", suppressed"
            },
            if framework.removing { ", removing" } else { "" },
        )
        .unwrap();
    }
    text
}

fn task(task: &Task) -> String {
    let waiting: Vec<_> = task.unacknowledged.iter().map(update).collect();
    let kill = task
        .kill
        .map(|kill| format!(", kill@{} in {} ms", kill.order.0, kill.grace_ms))
        .unwrap_or_default();
    format!(
        "{}@{} on {} {:?} #{}{kill}{}{}{}, waiting [{}]\n",
        task.key,
        task.order.0,
        task.agent,
        task.state,
        task.reported,
        limits(task),
        standing(task.standing),
        discovery(task),
        waiting.join(", ")
    )
}

/// Prints the ports by which other programs find a task.
fn discovery(task: &Task) -> String {
    let ports = task.spec.discovery.iter().flat_map(|found| &found.ports);
    let ports = ports.map(|port| match task.spec.host_port(port.number, port.udp) {
        Some(host) => format!(", {} at host port {host}", port.name),
        None => format!(", {} nowhere", port.name),
    });
    ports.collect()
}

/// Prints the newest change of limits and its result.
fn limits(task: &Task) -> String {
    let Some(change) = &task.limits_change else {
        return String::new();
    };
    let limits = task.spec.limits.as_deref().cloned().unwrap_or_default();
    let named = |name: &str, value: Option<u64>| {
        value.map_or_else(String::new, |value| format!(" {name}={value}"))
    };
    let outcome = match &change.outcome {
        None => "asked".to_owned(),
        Some(Ok(())) => "in force".to_owned(),
        Some(Err(why)) => format!("refused: {why}"),
    };
    format!(
        ", limits@{} of {}{}{}{} {outcome}",
        change.order.0,
        revision(change.revision),
        named("cpu", limits.cpu_millis),
        named("mem", limits.memory_bytes),
        named("pids", limits.pids),
    )
}

fn update(update: &TaskUpdate) -> String {
    format!(
        "{} {:?} {:?}/{:?}{}{}",
        revision(update.revision),
        update.state,
        update.source,
        update.reason,
        standing(update.standing),
        if update.stopped { " stopped" } else { "" }
    )
}

/// Prints the known results of checks.
fn standing(standing: CheckResults) -> String {
    let word = |name: &str, value: Option<bool>| match value {
        Some(true) => format!(" {name}"),
        Some(false) => format!(" not-{name}"),
        None => String::new(),
    };
    word("healthy", standing.healthy) + &word("ready", standing.ready)
}

fn history(registry: &Registry) -> String {
    let mut text = String::new();
    for (serial, finished) in registry.finished_tasks_after(0) {
        writeln!(
            text,
            "{serial}: {} {:?}",
            finished.task.key, finished.task.state
        )
        .unwrap();
    }
    for finished in registry.finished_frameworks() {
        writeln!(
            text,
            "{} {:?}: {}",
            finished.id, finished.info.name, finished.reason
        )
        .unwrap();
    }
    text
}

/// Prints the transitions of all tasks, live and finished.
fn transitions(registry: &Registry) -> String {
    let finished = registry.finished_tasks_after(0);
    let finished = finished.map(|(_, finished)| &finished.task);
    let mut text = String::new();
    for task in registry.tasks().chain(finished) {
        for (number, transition) in registry.transitions(&task.key) {
            let TaskTransition {
                revision: at,
                state,
                source,
                reason,
                exit,
                wall_ms: _,
            } = transition;
            let exit = exit.map_or_else(String::new, |exit| format!(" {exit:?}"));
            writeln!(
                text,
                "{} #{number} {} {state:?} {source:?}/{reason:?}{exit}",
                task.key,
                revision(*at)
            )
            .unwrap();
        }
    }
    text
}

/// Prints the secrets, whose ciphertexts are texts in scenarios.
fn secrets(registry: &Registry) -> String {
    let mut text = String::new();
    for (name, secret) in registry.secrets() {
        writeln!(
            text,
            "{name} version {} under {}: {}",
            secret.version,
            secret.key_id,
            String::from_utf8_lossy(&secret.ciphertext.0)
        )
        .unwrap();
    }
    text
}

fn cluster(registry: &Registry) -> String {
    let cluster = registry.cluster();
    let roles: Vec<_> = registry
        .weights()
        .map(|(role, weight)| format!(", {role} weighs {weight}"))
        .collect();
    let mass_loss = cluster.mass_loss;
    let mass_loss = mass_loss.map(|at| format!(", mass loss at {}", at.0));
    format!(
        "epoch {} of {} at time {}, total {}, live tasks {}, sweeps {}{}{}\n",
        cluster.epoch.0,
        cluster.leader,
        registry.time().0,
        registry.total(),
        registry.live_tasks(),
        cluster.sweeps.len(),
        roles.concat(),
        mass_loss.unwrap_or_default()
    )
}

/// Prints the facts of access.
fn access(registry: &Registry) -> String {
    let facts = registry.access();
    let mut text = match facts.policy_revision {
        Some(at) => format!("policy at {}\n", revision(at)),
        None => "initial policy\n".to_owned(),
    };
    for line in facts.policy.to_string().lines() {
        writeln!(text, "  {line}").unwrap();
    }
    for (id, token) in facts.tokens.iter() {
        let Token {
            hash,
            purpose,
            expires_wall_ms,
            created_wall_ms,
            created_by,
            description,
        } = token;
        let purpose = match purpose {
            TokenPurpose::Bearer(principal) => format!("of {principal}"),
            TokenPurpose::Join { kind, uses_left } => format!("joins {kind}, {uses_left} left"),
        };
        let expires = expires_wall_ms.map_or("never".to_owned(), |at| format!("at {at}"));
        writeln!(
            text,
            "token {id} {:x} {purpose}, expires {expires}, created at {created_wall_ms} by {created_by} {description:?}",
            hash[0]
        )
        .unwrap();
    }
    for (key, revoked) in facts.revoked.iter() {
        let (at, by) = (revoked.revoked_wall_ms, &revoked.revoked_by);
        writeln!(text, "key {:x} revoked at {at} by {by}", key.0[0]).unwrap();
    }
    for (principal, key) in facts.bindings.iter() {
        writeln!(text, "{principal} bound to key {:x}", key.0[0]).unwrap();
    }
    for (subject, limit) in facts.limits.iter() {
        writeln!(text, "{subject} limited to {limit}").unwrap();
    }
    text
}
