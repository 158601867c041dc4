//! The decoders of this crate, for fuzz targets. Only with the feature `fuzzing`.
//!
//! Each function decodes bytes, checks what must hold for the result, and returns whether the bytes
//! were accepted.

use std::path::{Component, Path, PathBuf};

use argosy_isolation::LaunchSpec;
use argosy_proto::file_path::FileTarget;
use argosy_proto::ticket::{SandboxPath, TicketScope};
use argosy_proto::v1;
use argosy_state::ids::TaskKey;
use axum::http::Uri;
use prost::Message;
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::broker_client::request::{BrokerReply, BrokerRequest};
use crate::paths::Paths;
use crate::{api, broker, exec, files, journal, wire};

/// A request to an agent that names a task.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TaskRequest {
    /// Files of its sandbox.
    Files,
    /// A command in its container.
    Exec,
    /// The input and output of the task's command.
    Attach,
}

/// Returns the task that a query names, if this agent accepts the query. Tickets are compared with
/// the same task.
#[must_use]
pub fn requested_task(request: TaskRequest, query: &str) -> Option<TaskKey> {
    let path = match request {
        TaskRequest::Files => "/v1/files/read",
        TaskRequest::Exec => "/v1/exec",
        TaskRequest::Attach => "/v1/attach",
    };
    let uri: Uri = format!("{path}?{query}").parse().ok()?;
    let (uri, permitted) = api::ticket_use(&uri);
    let permitted = permitted.map(|used| used.object);
    let (task, parts) = match request {
        TaskRequest::Exec | TaskRequest::Attach => {
            let query = uri.query().unwrap_or_default();
            let task = exec::requested_task(request == TaskRequest::Exec, query)?;
            (task, Vec::new())
        }
        TaskRequest::Files => match files::requested_files(&uri)? {
            FileTarget::Frameworks | FileTarget::Tasks(_) => {
                assert_eq!(permitted, None, "no ticket is for a list of tasks");
                return None;
            }
            FileTarget::Sandbox(task, parts) => (task, parts),
        },
    };
    assert!(!parts.iter().any(|part| part == ".."), "{parts:?}");
    let scope = match parts.is_empty() {
        true => Some(TicketScope::Task(task.clone())),
        false => {
            SandboxPath::new(&parts.join("/")).map(|path| TicketScope::Path(task.clone(), path))
        }
    };
    assert_eq!(permitted, scope, "a ticket is for something else");
    Some(task)
}

/// A journal: its bytes, and its records in frames with valid checksums.
#[must_use]
pub fn journal_bytes(bytes: &[u8], payloads: &[&[u8]]) -> bool {
    let place = Path::new("journal");
    let raw = journal::parse_journal(bytes, place).is_ok();
    let mut is_all_known = true;
    for payload in payloads {
        match journal::reread_record(payload) {
            Some([read, again]) => assert_eq!(read, again),
            None => is_all_known = false,
        }
    }
    let written = journal::parse_journal(&journal::journal_of(payloads), place);
    if is_all_known {
        let contents = written.expect("a journal of whole records is read");
        assert_eq!(contents.records, payloads.len() as u64);
        assert!(contents.damage.is_empty() && contents.torn_bytes == 0);
    }
    raw || (is_all_known && !payloads.is_empty())
}

/// A launch order of a master: its message. It is stored as it was received, but for its limits.
#[must_use]
pub fn launch_order(bytes: &[u8]) -> bool {
    let Ok(received) = v1::LaunchOrder::decode(bytes) else {
        return false;
    };
    let Some(read) = wire::launch_from(received.clone()) else {
        return false;
    };
    let without_limits = |mut order: v1::LaunchOrder| {
        if let Some(spec) = &mut order.spec {
            spec.limits = None;
        }
        order
    };
    let stored = wire::launch(&read);
    assert_eq!(without_limits(stored.clone()), without_limits(received));
    let again = wire::launch_from(stored).expect("a stored order is read");
    assert_eq!(again.spec, read.spec);
    true
}

/// A message of a master or an executor to an agent: the first byte selects its kind.
#[must_use]
pub fn agent_message(bytes: &[u8]) -> bool {
    match bytes.split_first() {
        Some((0, body)) => v1::ToAgent::decode(body).is_ok_and(|message| {
            let read = wire::from_master(message);
            read.cluster.is_ok()
        }),
        Some((1, body)) => v1::NumberedUpdate::decode(body).is_ok_and(|received| {
            let Some(read) = wire::update_from(received.clone()) else {
                return false;
            };
            assert_eq!(wire::update(&read), received);
            true
        }),
        Some((2, body)) => v1::ExecutorUpdate::decode(body).is_ok_and(|received| {
            let (task, serial) = (received.task_id.clone(), received.serial);
            let read = wire::executor_update(received);
            (read.task, read.serial) == (task, serial)
        }),
        _ => false,
    }
}

/// A request to the broker, a reply of it, or a launch: JSON. The first byte selects its kind.
#[must_use]
pub fn broker_message(bytes: &[u8]) -> bool {
    match bytes.split_first() {
        Some((b'q', body)) => json::<BrokerRequest>(body).is_some(),
        Some((b'r', body)) => json::<BrokerReply>(body).is_some(),
        Some((b'l', body)) => json::<LaunchSpec>(body).is_some_and(|spec| spec.check().is_ok()),
        Some((b'p', body)) => std::str::from_utf8(body).is_ok_and(accepted_path),
        _ => false,
    }
}

/// Reads a message, and checks that it is the same after it was written.
fn json<T: Serialize + DeserializeOwned>(bytes: &[u8]) -> Option<T> {
    let read: T = serde_json::from_slice(bytes).ok()?;
    let written = serde_json::to_vec(&read).ok()?;
    let again: T = serde_json::from_slice(&written).expect("a written message is read");
    assert_eq!(serde_json::to_vec(&again).ok(), Some(written));
    Some(read)
}

/// Returns whether the broker accepts a path, and checks that an accepted one is below the data
/// directory.
fn accepted_path(text: &str) -> bool {
    let root = Path::new("/var/lib/argosy");
    let path = root.join(text);
    if !broker::accepts_path(&Paths::new(root), &path) {
        return false;
    }
    let rest = path.strip_prefix(root).map(Path::to_owned);
    let rest: PathBuf = rest.expect("it is below the directory");
    let mut parts = rest.components();
    assert!(parts.all(|part| matches!(part, Component::Normal(_))));
    true
}
