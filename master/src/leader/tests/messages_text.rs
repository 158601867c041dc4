//! Effects as text, one line for each.

use crate::leader_reply::LeaderReply;
use argosy_proto::{convert, v1};
use argosy_state::command::Position;
use argosy_state::ids::Revision;

/// Formats a message to an agent; heartbeats and empty orders are included.
pub(super) fn to_agent(message: &v1::to_agent::Message) -> String {
    use v1::to_agent::Message;
    match message {
        Message::Registered(registered) => format!(
            "registered {}, {}",
            registered.agent_id,
            if registered.equal {
                "equal"
            } else {
                "different"
            }
        ),
        Message::Refused(refused) => format!("refused {}: {}", refused.code, refused.text),
        Message::Order(order) => format!("order {} {}", order.index, self::order(order)),
        Message::Committed(committed) => {
            let updates = committed.updates.iter().map(|update| {
                let released = if update.released { " released" } else { "" };
                format!(
                    " {}/{}@{} #{}{released}",
                    update.framework_id, update.task_id, update.order_index, update.number
                )
            });
            format!("committed{}", updates.collect::<String>())
        }
        Message::Pong(pong) => format!("pong {}", pong.serial),
        Message::Shutdown(shutdown) => format!("shutdown: {}", shutdown.reason),
        Message::ListTasks(_) => "list your tasks".to_owned(),
        Message::ExecutorMessage(message) => format!("message to {}", message.executor_id),
        Message::TaskSecrets(secrets) => format!("secrets of {}", secrets.task_id),
        Message::RevokedKeys(keys) => {
            let first = |key: &Vec<u8>| key.first().copied().unwrap_or_default();
            let firsts: Vec<_> = keys.key_hashes.iter().map(first).collect();
            format!("revoked keys {firsts:?}")
        }
        Message::KillStray(stray) => format!(
            "kill stray {}/{}@{}",
            stray.framework_id, stray.task_id, stray.order_index
        ),
    }
}

fn order(order: &v1::Order) -> String {
    match order.order.as_ref().expect("an order has a body") {
        v1::order::Order::Launch(launch) => {
            let spec = launch.spec.as_ref().expect("a launch has a description");
            let never = if launch.never_start {
                ", never start"
            } else {
                ""
            };
            let limits = pids(spec.limits.as_ref());
            format!(
                "launch {}/{}{limits}{never}",
                launch.framework_id, spec.task_id
            )
        }
        v1::order::Order::Kill(kill) => format!(
            "kill {}/{} in {} ms",
            kill.framework_id, kill.task_id, kill.grace_ms
        ),
        v1::order::Order::Limits(order) => format!(
            "limits of {}/{}{}",
            order.framework_id,
            order.task_id,
            pids(order.limits.as_ref())
        ),
        v1::order::Order::Void(_) => "void".to_owned(),
    }
}

/// Formats the process limit; empty for a task without one.
fn pids(limits: Option<&v1::Limits>) -> String {
    let most = limits.and_then(|limits| limits.pids);
    most.map_or_else(String::new, |most| format!(", {most} pids"))
}

/// Formats an event for a framework.
pub(super) fn event(event: &v1::event::Event) -> String {
    use v1::event::Event;
    match event {
        Event::Subscribed(subscribed) => subscription(subscribed),
        Event::Offers(offers) => {
            let offers = offers.offers.iter().map(|offer| {
                format!(
                    " {} {} {} {}",
                    offer.offer_id,
                    offer.role,
                    offer.agent_id,
                    amounts(&offer.resources)
                )
            });
            format!("offers{}", offers.collect::<String>())
        }
        Event::Rescind(rescind) => format!("rescind {}: {}", rescind.offer_id, rescind.reason),
        Event::Update(status) => format!("update {}", self::status(status)),
        Event::Failure(failure) => format!("{} is {}", failure.agent_id, failure.reason),
        Event::DemandUnmet(unmet) => {
            let counts = unmet
                .counts
                .iter()
                .map(|count| format!(" {} {}", count.agents, count.reason));
            format!("unmet in {}:{}", unmet.role, counts.collect::<String>())
        }
        Event::Heartbeat(_) => "heartbeat".to_owned(),
        Event::Message(message) => {
            format!("message of {} on {}", message.executor_id, message.agent_id)
        }
        Event::Error(error) => format!("error {}: {}", error.code, error.message),
    }
}

fn subscription(subscribed: &v1::Subscribed) -> String {
    let list = |name: &str, ids: &[String]| {
        if ids.is_empty() {
            String::new()
        } else {
            format!(", {name} {}", ids.join(" "))
        }
    };
    format!(
        "subscribed {} session {} epoch {}{}{}",
        subscribed.framework_id,
        subscribed.session,
        subscribed.epoch,
        list("kept", &subscribed.kept_offers),
        list("rescinded", &subscribed.rescinded_offers)
    )
}

/// Formats a task's state, its revision if it must be acknowledged, the reason, and the check
/// results.
pub(super) fn status(status: &v1::TaskStatus) -> String {
    let state = status.state().as_str_name();
    let reason = status.reason().as_str_name();
    let at = status.revision.as_ref().map_or(String::new(), |at| {
        format!(" at {}.{}", at.index, at.position)
    });
    let found = |name: &str, value: Option<bool>| match value {
        Some(true) => format!(" {name}"),
        Some(false) => format!(" not-{name}"),
        None => String::new(),
    };
    format!(
        "{} {}{at} ({}){}{}{}{}",
        status.task_id,
        state.trim_start_matches("TASK_STATE_"),
        reason.trim_start_matches("REASON_"),
        if status.stopped { " stopped" } else { "" },
        found("healthy", status.healthy),
        found("ready", status.ready),
        status.limits.as_ref().map(limits).unwrap_or_default(),
    )
}

fn limits(status: &v1::LimitsStatus) -> String {
    let at = at(convert::revision_from(status.revision));
    match (status.in_force, status.refusal.as_str()) {
        (true, _) => format!(", limits of {at} in force"),
        (false, "") => format!(", limits of {at} asked"),
        (false, why) => format!(", limits of {at} refused: {why}"),
    }
}

/// Formats an answer to a caller.
pub(super) fn answer(answer: &LeaderReply) -> String {
    match answer {
        LeaderReply::Called { revision, refused } => {
            let refused = refused.iter().map(|one| {
                let Position { operation, task } = one.position;
                format!(", task {operation}.{task} refused {}", one.code)
            });
            format!("called at {}{}", at(*revision), refused.collect::<String>())
        }
        LeaderReply::Acknowledged => "acknowledged".to_owned(),
        LeaderReply::HeartbeatRecorded => "heard".to_owned(),
        LeaderReply::Declined => "declined".to_owned(),
        LeaderReply::Forwarded => "passed".to_owned(),
        LeaderReply::Reconciled { reply, more } => {
            let statuses: Vec<_> = reply.statuses.iter().map(status).collect();
            let more = more
                .as_ref()
                .map_or(String::new(), |task| format!(", more behind {task}"));
            format!("reconciled [{}]{more}", statuses.join(", "))
        }
        LeaderReply::Operated { outcomes, .. } => {
            let outcomes = outcomes.iter().map(|outcome| match outcome {
                Ok(()) => " done".to_owned(),
                Err((code, _)) => format!(" {code}"),
            });
            format!("operated:{}", outcomes.collect::<String>())
        }
        LeaderReply::Refused { code, message } => format!("refused {code}: {message}"),
    }
}

fn at(revision: Revision) -> String {
    format!("{}.{}", revision.index, revision.position)
}

fn amounts(resources: &[v1::Resource]) -> String {
    convert::resources_from("resources", resources)
        .expect("a leader offers valid resources")
        .to_string()
}
