//! The change feed as server-sent events.
//!
//! The id of an event is the position from which its reader resumes, at any master: `INDEX@CLUSTER`
//! after a whole log entry, or `INDEX.POSITION@CLUSTER` after one change of it. The cluster may be
//! left out, as in a plain log index.

use std::sync::Arc;

use argosy_proto::v1;
use axum::body::Body;
use axum::extract::State;
use axum::http::{HeaderMap, header};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use futures::StreamExt as _;
use tonic::Status;

use super::caller::RequestPeer;
use super::parameters::QueryParameters;
use super::{Http, problem};
use crate::service::{filter_values, watch_stream};

const LAST_EVENT_ID: &str = "last-event-id";
/// Maximum length of an id: two numbers and the id of a cluster.
const ID_BYTES: usize = 64;
/// The first bytes of the stream. Clients reconnect after a second.
const PREAMBLE: &str = ": change feed of argosy.v1; each event has a WatchEvent\nretry: 1000\n\n";

/// `GET /v1/events`
pub(super) async fn events(
    State(http): State<Http>,
    caller: RequestPeer,
    headers: HeaderMap,
    parameters: QueryParameters,
) -> Response {
    let request = match request(&headers, parameters) {
        Ok(request) => caller.request(request),
        Err(status) => return problem(&status),
    };
    let subscription = match http.services.subscribe(request).await {
        Ok(subscription) => subscription,
        Err(status) => return problem(&status),
    };
    let cluster = Arc::clone(subscription.cluster());
    let items = watch_stream(subscription).map(move |item| match item {
        Ok(item) => item.text(&cluster),
        Err(status) => error(&status),
    });
    let preamble = futures::stream::iter([Bytes::from_static(PREAMBLE.as_bytes())]);
    let text = preamble.chain(items).map(Ok::<_, std::convert::Infallible>);
    let headers = [
        (header::CONTENT_TYPE, "text/event-stream"),
        (header::CACHE_CONTROL, "no-store"),
    ];
    (headers, Body::from_stream(text)).into_response()
}

/// Returns the last event of a stream that fails.
fn error(status: &Status) -> Bytes {
    let body = serde_json::json!({
        "code": format!("{:?}", status.code()),
        "message": status.message(),
    });
    format!("event: error\ndata: {body}\n\n").into()
}

/// Builds the request. Parameters that do not control the stream are fields to filter by.
pub(super) fn request(
    headers: &HeaderMap,
    parameters: QueryParameters,
) -> Result<v1::WatchRequest, Status> {
    let mut request = v1::WatchRequest {
        min_revision: parameters.number("min_revision")?.unwrap_or_default(),
        ..Default::default()
    };
    let mut from = None;
    for (name, value) in parameters.0 {
        match name.as_str() {
            "min_revision" => {}
            "from" => from = Some(("from", value)),
            "kinds" => request.kinds = value.split(',').map(str::to_owned).collect(),
            "snapshot" => request.no_snapshot = !filter_values::flag(&name, &value)?,
            _ => drop(request.filter.insert(name, value)),
        }
    }
    // A client that reconnects repeats its URL.
    if let Some(last) = last_event_id(headers)? {
        from = Some((LAST_EVENT_ID, last));
    }
    if let Some((name, id)) = from {
        let id = EventId::read(&id).ok_or_else(|| {
            let start: String = id.chars().take(ID_BYTES).collect();
            Status::invalid_argument(format!(
                "{name}: {start:?} is no revision: write INDEX, or the id of an event"
            ))
        })?;
        request.from_revision = Some(id.index);
        request.from_position = id.position;
        request.cluster_id = id.cluster;
        if name == LAST_EVENT_ID && id.index > 0 {
            // It has been reached before, maybe in a former cluster.
            request.min_revision = 0;
        }
    }
    Ok(request)
}

/// Returns the id that a reconnecting client has. Before its first event, a client may send an
/// empty one.
fn last_event_id(headers: &HeaderMap) -> Result<Option<String>, Status> {
    let mut ids = headers.get_all(LAST_EVENT_ID).iter();
    let (id, other) = (ids.next(), ids.next());
    if other.is_some() {
        let text = format!("{LAST_EVENT_ID}: send it once");
        return Err(Status::invalid_argument(text));
    }
    let id = id.map(|id| String::from_utf8_lossy(id.as_bytes()).into_owned());
    Ok(id.filter(|id| !id.is_empty()))
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct EventId {
    index: u64,
    position: Option<u32>,
    /// Empty if the cluster is not named.
    cluster: String,
}

impl EventId {
    fn read(text: &str) -> Option<Self> {
        if text.len() > ID_BYTES {
            return None;
        }
        let (text, cluster) = match text.split_once('@') {
            Some((_, cluster)) if !is_hex(cluster) => return None,
            Some((text, cluster)) => (text, cluster),
            None => (text, ""),
        };
        let (index, position) = match text.split_once('.') {
            Some((index, position)) => (index, Some(position)),
            None => (text, None),
        };
        Some(Self {
            index: number(index)?,
            position: position.map_or(Some(None), |position| number(position).map(Some))?,
            cluster: cluster.to_owned(),
        })
    }
}

fn is_hex(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_hexdigit())
}

/// Parses digits only: a sign is no part of an id.
fn number<T: std::str::FromStr>(text: &str) -> Option<T> {
    let is_number = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    is_number.then(|| text.parse().ok()).flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(last: &[u8], query: &[(&str, &str)]) -> Result<v1::WatchRequest, Status> {
        let mut headers = HeaderMap::new();
        if !last.is_empty() {
            headers.insert(LAST_EVENT_ID, last.try_into().unwrap());
        }
        let query = query.iter();
        let query = query.map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
        request(&headers, QueryParameters(query.collect()))
    }

    #[test]
    fn ids_of_events_and_plain_revisions_are_read() {
        let resumed = |last: &str, query: &[(&str, &str)]| {
            let request = read(last.as_bytes(), query).unwrap();
            let cluster = request.cluster_id;
            (request.from_revision, request.from_position, cluster)
        };
        let unnamed = |index, position| (index, position, String::new());
        assert_eq!(resumed("", &[]), unnamed(None, None));
        assert_eq!(resumed("12", &[]), unnamed(Some(12), None));
        assert_eq!(resumed("12.3", &[]), unnamed(Some(12), Some(3)));
        assert_eq!(resumed("", &[("from", "7.0")]), unnamed(Some(7), Some(0)));
        // A client that reconnects repeats its URL.
        assert_eq!(resumed("9", &[("from", "7")]), unnamed(Some(9), None));
        let cluster = "0123456789abcdef0123456789abcdef";
        let longest = format!("{}.{}@{cluster}", u64::MAX, u32::MAX);
        let expected = (Some(u64::MAX), Some(u32::MAX), cluster.to_owned());
        assert_eq!(resumed(&longest, &[]), expected);
        let url = [("from", "7"), ("min_revision", "8")];
        assert_eq!(read(b"", &url).unwrap().min_revision, 8);
        assert_eq!(read(b"0", &url).unwrap().min_revision, 8);
        assert_eq!(read(b"9", &url).unwrap().min_revision, 0);
        let whole = format!("9@{cluster}");
        assert_eq!(resumed(&whole, &[]), (Some(9), None, cluster.to_owned()));
    }

    #[test]
    fn hostile_ids_are_rejected_without_repeating_all_of_them() {
        let long = "9".repeat(100_000);
        for id in [
            "x",
            "-1",
            "+1",
            "1.",
            ".1",
            "1.2.3",
            "1-",
            "1-2-3",
            "1@",
            "@ab",
            "1@ab.2",
            "1@cluster",
            "1.2-x",
            " 1",
            "1\t",
            "99999999999999999999",
            "1.4294967296",
            "\u{1b}[2J",
            &long,
        ] {
            let refused = read(b"", &[("from", id)]).unwrap_err();
            assert_eq!(refused.code(), tonic::Code::InvalidArgument, "{id}");
            assert!(refused.message().len() < 300, "{refused}");
            assert!(!refused.message().contains('\u{1b}'), "{refused}");
        }
        let refused = read(b"\xff\xfe", &[]).unwrap_err();
        assert!(refused.message().starts_with("last-event-id"), "{refused}");
    }

    #[test]
    fn other_parameters_are_a_filter() {
        let query = [
            ("kinds", "agent,task"),
            ("snapshot", "false"),
            ("state", "running"),
        ];
        let request = read(b"", &query).unwrap();
        assert_eq!(request.kinds, ["agent", "task"]);
        assert!(request.no_snapshot);
        assert_eq!(request.filter["state"], "running");
        assert!(read(b"", &[("snapshot", "maybe")]).is_err());
    }
}
