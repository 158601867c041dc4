//! Messages of the wire protocol: their conversion, their JSON, frames of exec, and tickets.

use std::fmt::Debug;

use argosy_proto::convert::{self, InvalidMessage};
use argosy_proto::exec::{AgentFrame, ClientFrame};
use argosy_proto::ticket::{SandboxPath, Ticket, TicketError, TicketKey, TicketScope, TicketVerb};
use argosy_proto::v1;
use argosy_state::ids::{AgentId, ClusterId, FrameworkId, TaskId, TaskKey};
use bytes::Bytes;
use prost::Message;
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::input::variant;
use crate::property::{check_error, json};

/// Returns the result of a conversion, after a check of its error.
fn converted<T>(read: Result<T, InvalidMessage>) -> Option<T> {
    match read {
        Ok(value) => Some(value),
        Err(error) => {
            assert!(
                !error.field.is_empty() && !error.text.is_empty(),
                "{error:?}"
            );
            None
        }
    }
}

/// The description of a task.
pub fn task_description(bytes: &[u8]) -> bool {
    let Ok(message) = v1::TaskSpec::decode(bytes) else {
        return false;
    };
    let tolerant = convert::valid_parts_from(message.clone());
    let Some(read) = converted(convert::spec_from(message)) else {
        return false;
    };
    let (parts, defect) = tolerant.expect("a valid description has a name");
    assert_eq!((&parts, defect), (&read, None));
    let again = convert::spec_from(convert::spec(&read));
    assert_eq!(again.expect("a written description is read"), read);
    true
}

/// A message of an agent: the first byte selects its kind.
pub fn agent_facts(bytes: &[u8]) -> bool {
    let Some((kind, body)) = bytes.split_first() else {
        return false;
    };
    match kind {
        0 => v1::AgentInfo::decode(body).is_ok_and(|message| {
            let Some(read) = converted(convert::agent_info_from(message)) else {
                return false;
            };
            let again = convert::agent_info_from(convert::agent_info(&read));
            assert_eq!(again.expect("written facts are read"), read);
            true
        }),
        1 => v1::NumberedUpdate::decode(body)
            .is_ok_and(|message| converted(convert::update_from(message)).is_some()),
        2 => v1::HeldTask::decode(body)
            .is_ok_and(|message| converted(convert::held_task(&message)).is_some()),
        _ => false,
    }
}

/// A message of a framework or an operator: the first byte selects its kind.
pub fn framework_facts(bytes: &[u8]) -> bool {
    let Some((kind, body)) = bytes.split_first() else {
        return false;
    };
    match kind {
        0 => v1::FrameworkInfo::decode(body).is_ok_and(|message| {
            let Some(read) = converted(convert::framework_info_from(message)) else {
                return false;
            };
            let again = convert::framework_info_from(convert::framework_info(&read));
            assert_eq!(again.expect("written facts are read"), read);
            true
        }),
        1 => v1::HeldOffer::decode(body)
            .is_ok_and(|message| converted(convert::offer_terms(&message)).is_some()),
        2 => v1::AcceptRequest::decode(body).is_ok_and(|message| {
            let _ = convert::shape(&message.operations);
            converted(convert::operations_from(message.operations)).is_some()
        }),
        3 => v1::SetPolicy::decode(body)
            .is_ok_and(|message| converted(convert::policy_from(&message)).is_some()),
        4 => v1::CreateToken::decode(body)
            .is_ok_and(|message| converted(convert::create_token_from(message)).is_some()),
        5 => v1::SetRateLimit::decode(body)
            .is_ok_and(|message| converted(convert::set_rate_limit_from(&message)).is_some()),
        _ => false,
    }
}

/// A message as JSON: the first byte selects its type.
pub fn json_messages(bytes: &[u8]) -> bool {
    let Some((kind, body)) = bytes.split_first() else {
        return false;
    };
    match kind {
        b'a' => json_message::<v1::WriteBatch>(body),
        b'b' => json_message::<v1::IssueTicketsRequest>(body),
        b'c' => json_message::<v1::Limits>(body),
        b'd' => json_message::<v1::JoinMasterRequest>(body),
        b'e' => json_message::<v1::Task>(body),
        b'f' => json_message::<v1::Agent>(body),
        b'g' => json_message::<v1::Framework>(body),
        b'h' => json_message::<v1::WatchEvent>(body),
        b'i' => json_message::<v1::Cluster>(body),
        _ => false,
    }
}

/// Reads a message, which is also the same after it was encoded as protobuf.
fn json_message<T>(body: &[u8]) -> bool
where
    T: Message + Default + PartialEq + Debug + Serialize + DeserializeOwned,
{
    let Some(read) = json::<T>(body) else {
        return false;
    };
    let again = T::decode(read.encode_to_vec().as_slice());
    assert_eq!(again.expect("an encoded message is decoded"), read);
    true
}

/// A frame of exec or attach, in both directions.
pub fn exec_frames(bytes: &[u8]) -> bool {
    let frame = Bytes::copy_from_slice(bytes);
    let of_client = match ClientFrame::decode(frame.clone()) {
        Ok(read) => {
            assert_eq!(ClientFrame::decode(read.encode()).as_ref(), Ok(&read));
            true
        }
        Err(error) => {
            check_error(&error, bytes.len());
            false
        }
    };
    let of_agent = match AgentFrame::decode(frame) {
        Ok(read) => {
            assert_eq!(AgentFrame::decode(read.encode()).as_ref(), Ok(&read));
            true
        }
        Err(error) => {
            check_error(&error, bytes.len());
            false
        }
    };
    assert!(!(of_client && of_agent), "a frame of both directions");
    of_client || of_agent
}

const NOW_MS: u64 = 1_000_000;

fn ticket_key() -> TicketKey {
    TicketKey::derive(3, &[7; 32], ClusterId(9), AgentId(4))
}

/// Returns a ticket that `tickets` accepts, for a seed.
#[must_use]
pub fn sample_ticket() -> String {
    let ticket = Ticket {
        agent: AgentId(4),
        verb: TicketVerb::Exec,
        scope: TicketScope::Agent,
        holder: "operator/alice".parse().expect("it is an actor"),
        expires_ms: NOW_MS + 1,
        request: 5,
    };
    ticket.sign(&ticket_key())
}

/// A ticket: its text, or its parts, from which it is signed. Each has one text.
pub fn tickets(bytes: &[u8]) -> bool {
    let key = ticket_key();
    let open = |text: &str| Ticket::open(text, AgentId(4), std::slice::from_ref(&key), NOW_MS);
    let (kind, parts) = variant(bytes);
    if kind == b't' {
        let Ok(text) = std::str::from_utf8(&bytes[1..]) else {
            return false;
        };
        return match open(text) {
            Ok(ticket) => {
                assert_eq!(ticket.sign(&key), text, "a ticket with two texts");
                true
            }
            Err(error) => {
                check_error(&error, text.len());
                false
            }
        };
    }
    let texts = parts.iter().map(|part| std::str::from_utf8(part).ok());
    let texts: Option<Vec<&str>> = texts.collect();
    let Some([holder, task, path, flip]) = texts.as_deref() else {
        return false;
    };
    let Ok(holder) = holder.parse() else {
        return false;
    };
    let scope = TaskId::new(task).ok().map(|task| TaskKey {
        framework: FrameworkId(kind.into()),
        task,
    });
    let scope = scope.map_or(TicketScope::Agent, |task| match SandboxPath::new(path) {
        Some(path) => TicketScope::Path(task, path),
        None => TicketScope::Task(task),
    });
    let ticket = Ticket {
        agent: AgentId(4),
        verb: TicketVerb::ALL[usize::from(kind) % TicketVerb::ALL.len()],
        scope,
        holder,
        expires_ms: NOW_MS + 1,
        request: kind.into(),
    };
    let text = ticket.sign(&key);
    if let Err(error) = open(&text) {
        // Only a name of the longest kinds does not fit.
        assert_eq!(error, TicketError::Malformed, "{text}");
        return false;
    }
    assert_eq!(open(&text), Ok(ticket));
    if !flip.is_empty() {
        let at = flip.len() * 7 % text.len();
        let other = if text.as_bytes()[at] == b'A' {
            "B"
        } else {
            "A"
        };
        let mut forged = text;
        forged.replace_range(at..=at, other);
        assert!(open(&forged).is_err(), "a changed ticket is accepted");
    }
    true
}
