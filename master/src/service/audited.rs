//! Audited events that the status of an answer does not show: refusals within a stream and of parts
//! of a call, tickets, and secrets that are sent.

use std::collections::BTreeSet;
use std::pin::Pin;

use argosy_proto::server::audit::{AuditEvent, RequestAudit};
use argosy_proto::ticket::{TicketScope, TicketVerb};
use argosy_proto::v1;
use argosy_state::ids::AgentId;
use futures::{Stream, StreamExt as _};
use tonic::Status;

use crate::access::{DENIED, UNPROVEN};

type Messages<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

/// Maximum number of launch orders that one stream remembers. After more, a repeated request is
/// recorded again.
const ORDERS: usize = 10_000;

/// Returns the code of an event that ends a scheduler's stream.
pub(super) fn event_code(event: &v1::Event) -> Option<&str> {
    match &event.event {
        Some(v1::event::Event::Error(error)) => Some(&error.code),
        Some(_) | None => None,
    }
}

/// Returns the code of a message that ends an agent's stream.
pub(super) fn refusal_code(message: &v1::ToAgent) -> Option<&str> {
    match &message.message {
        Some(v1::to_agent::Message::Refused(refused)) => Some(&refused.code),
        Some(_) | None => None,
    }
}

/// Returns the same messages. A refusal of the caller among them is recorded.
pub(super) fn stream<T: Send + 'static>(
    messages: Messages<T>,
    audit: Option<RequestAudit>,
    path: &'static str,
    code: fn(&T) -> Option<&str>,
) -> Messages<T> {
    let Some(audit) = audit else {
        return messages;
    };
    Box::pin(messages.inspect(move |message| {
        let found = message.as_ref().ok().and_then(code);
        if let Some(outcome) = found.and_then(outcome) {
            audit.record(AuditEvent::CallRefused, (path, ""), outcome);
        }
    }))
}

/// Records the parts of an acceptance that its caller may not have, as one event.
pub(super) fn acceptance(audit: Option<&RequestAudit>, reply: &v1::AcceptReply) {
    let denied = |one: &&v1::Refused| outcome(&one.code).is_some();
    let positions = reply.refused.iter().filter(denied);
    let positions: Vec<_> = positions.map(|one| one.position.to_string()).collect();
    let first = reply.refused.iter().find_map(|one| outcome(&one.code));
    if let (Some(audit), Some(outcome)) = (audit, first) {
        let object = format!("tasks at the positions {}", positions.join(", "));
        let what = ("/argosy.v1.Scheduler/Accept", object.as_str());
        audit.record(AuditEvent::CallRefused, what, outcome);
    }
}

/// Records tickets that are issued.
pub(super) fn tickets(
    audit: Option<&RequestAudit>,
    (verb, agent): (TicketVerb, AgentId),
    scopes: &[TicketScope],
) {
    let Some(audit) = audit else {
        return;
    };
    let action = match verb {
        TicketVerb::ReadFiles => "read-sandbox",
        TicketVerb::Exec => "exec",
        TicketVerb::Attach => "attach",
        TicketVerb::Metrics => "view-metrics",
    };
    let names = scopes.iter().map(|scope| match scope {
        TicketScope::Agent => "the agent".to_owned(),
        TicketScope::Task(task) => task.to_string(),
        TicketScope::Path(task, path) => format!("{task}:{}", path.as_str()),
    });
    let names: Vec<_> = names.collect();
    let object = format!("{agent}: {}", names.join(", "));
    audit.record(AuditEvent::TicketIssued, (action, &object), "Ok");
}

/// The record of the secrets that are sent on one stream of an agent: one event for each launch
/// order, because an agent repeats its requests.
pub(super) struct SentSecrets {
    audit: Option<RequestAudit>,
    orders: BTreeSet<u64>,
}

impl SentSecrets {
    pub(super) fn new(audit: Option<RequestAudit>) -> Self {
        Self {
            audit,
            orders: BTreeSet::new(),
        }
    }

    /// Returns the object of the event for a message; `None` if it has no value or is a repetition.
    pub(super) fn object(&mut self, sent: &v1::TaskSecrets) -> Option<String> {
        let values = sent.secrets.iter().filter(|one| one.refusal.is_empty());
        let names: Vec<_> = values.map(|one| one.name.as_str()).collect();
        if self.audit.is_none() || names.is_empty() {
            return None;
        }
        if self.orders.len() >= ORDERS {
            self.orders.clear();
        }
        let is_new = self.orders.insert(sent.order_index);
        let (framework, task) = (&sent.framework_id, &sent.task_id);
        is_new.then(|| format!("{framework}/{task}: {}", names.join(", ")))
    }

    pub(super) fn record(&self, object: &str) {
        if let Some(audit) = &self.audit {
            audit.record(AuditEvent::SecretSent, ("use-secret", object), "Ok");
        }
    }
}

/// Returns the outcome of a refusal because of the caller.
fn outcome(code: &str) -> Option<&'static str> {
    match code {
        DENIED => Some("PermissionDenied"),
        UNPROVEN => Some("Unauthenticated"),
        _ => None,
    }
}
