//! The decoders of this crate, for fuzz targets. Only with the feature `fuzzing`.
//!
//! Each function decodes bytes, checks what must hold for the result, and returns whether the bytes
//! were accepted.

use argosy_proto::v1;
use argosy_state::access::Action;
use argosy_state::ids::TaskKey;
use prost::Message;

use crate::http;
use crate::service::task_access::AgentRequest;
use crate::service::{operate, read_actor, read_credential};

/// The query of a request for JSON: the first byte selects the request.
#[must_use]
pub fn http_query(bytes: &[u8]) -> bool {
    let Some((kind, query)) = bytes.split_first() else {
        return false;
    };
    let query = std::str::from_utf8(query);
    query.is_ok_and(|query| http::fuzzing::is_request(*kind, query))
}

/// A batch of changes: the first byte selects protobuf or JSON.
#[must_use]
pub fn write_batch(bytes: &[u8]) -> bool {
    let batch = match bytes.split_first() {
        Some((0, body)) => v1::WriteBatch::decode(body).ok(),
        Some((1, body)) => serde_json::from_slice(body).ok(),
        _ => None,
    };
    let Some(batch) = batch else {
        return false;
    };
    match operate(batch.clone()) {
        Ok(read) => {
            assert_eq!(operate(batch).as_ref(), Ok(&read), "two meanings");
            true
        }
        Err(why) => {
            assert!(!why.field.is_empty() && !why.text.is_empty(), "{why:?}");
            false
        }
    }
}

/// The headers by which a master names the caller of a forwarded call: the first byte selects one.
#[must_use]
pub fn forwarded_headers(bytes: &[u8]) -> bool {
    match bytes.split_first() {
        Some((0, value)) => read_actor(value).is_ok_and(|actor| {
            let again = read_actor(actor.to_string().as_bytes());
            again.is_ok_and(|again| again == actor)
        }),
        Some((1, value)) => {
            let text = std::str::from_utf8(value);
            text.is_ok_and(|text| read_credential(text).is_ok())
        }
        _ => false,
    }
}

/// Returns the task for which this master checks the rules before it forwards a query to an agent.
#[must_use]
pub fn checked_task(is_file: bool, query: &str) -> Option<TaskKey> {
    let request = match is_file {
        true => AgentRequest::of_file(query),
        false => AgentRequest::of_task(query, &[Action::Exec]),
    };
    request.task().cloned()
}
