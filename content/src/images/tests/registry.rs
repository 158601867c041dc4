//! A registry on loopback that follows the distribution protocol, except for requested failures.

use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::{Request, State};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use futures::StreamExt;
use tokio::net::TcpListener;
use tokio::sync::Semaphore;

use super::Digest;
use super::fixtures::{MANIFEST, TestImage};

/// A failure in place of the right response, once.
#[derive(Clone)]
pub(super) enum InjectedFault {
    /// A status, with a header.
    Status(u16, &'static str, String),
    /// Other bytes.
    Bytes(Vec<u8>),
    /// The right bytes, but the connection ends after this many.
    BreakAfter(usize),
    /// The right bytes, but it stalls after this many.
    StallAfter(usize),
    /// The right bytes, one every ten milliseconds.
    Drip,
    /// The right bytes, when there is a permit.
    Wait(Arc<Semaphore>),
    /// Other bytes, when there is a permit.
    WaitForBytes(Arc<Semaphore>, Vec<u8>),
}

/// The access rule of the registry.
#[derive(Clone)]
pub(super) enum AccessRule {
    Open,
    /// Requests need this header; others get the `WWW-Authenticate` challenge.
    Closed {
        wanted: String,
        challenge: String,
    },
}

#[derive(Debug, Clone)]
pub(super) struct ReceivedRequest {
    pub(super) path: String,
    pub(super) query: String,
    pub(super) authorization: Option<String>,
    pub(super) range: Option<String>,
}

struct RegistryState {
    manifests: BTreeMap<String, (String, Vec<u8>)>,
    blobs: BTreeMap<String, Vec<u8>>,
    faults: BTreeMap<String, VecDeque<InjectedFault>>,
    access: AccessRule,
    /// A token for clients with the header; for all if there is none.
    token: Option<(Option<String>, String)>,
    requests: Vec<ReceivedRequest>,
    /// Responses in progress.
    in_progress: usize,
}

pub(super) struct TestRegistry {
    address: String,
    state: Arc<Mutex<RegistryState>>,
    server: tokio::task::JoinHandle<()>,
}

impl Drop for TestRegistry {
    fn drop(&mut self) {
        self.server.abort();
    }
}

impl TestRegistry {
    pub(super) async fn start() -> Self {
        let registry = Arc::new(Mutex::new(RegistryState {
            manifests: BTreeMap::new(),
            blobs: BTreeMap::new(),
            faults: BTreeMap::new(),
            access: AccessRule::Open,
            token: None,
            requests: Vec::new(),
            in_progress: 0,
        }));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let router = Router::new()
            .fallback(answer)
            .with_state(Arc::clone(&registry));
        let serving = tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
        Self {
            address,
            state: registry,
            server: serving,
        }
    }

    pub(super) fn address(&self) -> &str {
        &self.address
    }

    fn state(&self) -> std::sync::MutexGuard<'_, RegistryState> {
        self.state.lock().unwrap()
    }

    /// Offers an image as `repository:tag`, and by its digest.
    pub(super) fn offer(&self, name: &str, image: &TestImage) {
        let (repository, _) = name.split_once(':').unwrap();
        for blob in image.blobs() {
            self.put_blob(blob);
        }
        self.put_manifest(name, MANIFEST, image.manifest.clone());
        let by_digest = format!("{repository}:{}", image.digest());
        self.put_manifest(&by_digest, MANIFEST, image.manifest.clone());
    }

    pub(super) fn put_manifest(&self, name: &str, media_type: &str, bytes: Vec<u8>) {
        let (repository, tag) = name.split_once(':').unwrap();
        let path = format!("/v2/{repository}/manifests/{tag}");
        let kept = (media_type.to_owned(), bytes);
        self.state().manifests.insert(path, kept);
    }

    pub(super) fn put_blob(&self, bytes: Vec<u8>) {
        let digest = Digest::of(&bytes).to_string();
        self.state().blobs.insert(digest, bytes);
    }

    /// Plans failures for the next requests whose path has this suffix, one each.
    pub(super) fn plan(
        &self,
        suffix: impl Into<String>,
        faults: impl IntoIterator<Item = InjectedFault>,
    ) {
        let mut registry = self.state();
        registry
            .faults
            .entry(suffix.into())
            .or_default()
            .extend(faults);
    }

    pub(super) fn set_access(&self, access: AccessRule) {
        self.state().access = access;
    }

    pub(super) fn set_token(&self, wanted: Option<&str>, token: &str) {
        self.state().token = Some((wanted.map(str::to_owned), token.to_owned()));
    }

    /// Returns all requests whose path contains this part.
    pub(super) fn requests(&self, part: &str) -> Vec<ReceivedRequest> {
        let registry = self.state();
        let asked = registry
            .requests
            .iter()
            .filter(|asked| asked.path.contains(part));
        asked.cloned().collect()
    }

    pub(super) fn clear_requests(&self) {
        self.state().requests.clear();
    }

    /// Returns the number of responses in progress.
    pub(super) fn in_progress(&self) -> usize {
        self.state().in_progress
    }
}

/// Counts a response while it is in progress.
struct ResponseCounter(Arc<Mutex<RegistryState>>);

impl Drop for ResponseCounter {
    fn drop(&mut self) {
        self.0.lock().unwrap().in_progress -= 1;
    }
}

fn text(headers: &HeaderMap, name: &str) -> Option<String> {
    Some(headers.get(name)?.to_str().unwrap().to_owned())
}

async fn answer(State(registry): State<Arc<Mutex<RegistryState>>>, request: Request) -> Response {
    let (path, headers) = (request.uri().path().to_owned(), request.headers());
    let asked = ReceivedRequest {
        path: path.clone(),
        query: request.uri().query().unwrap_or_default().to_owned(),
        authorization: text(headers, "authorization"),
        range: text(headers, "range"),
    };
    let (mishap, bytes, going) = {
        let mut locked = registry.lock().unwrap();
        locked.requests.push(asked.clone());
        let mut mishaps = locked.faults.iter_mut();
        let planned = mishaps.find(|(ending, _)| path.ends_with(ending.as_str()));
        let mishap = planned.and_then(|(_, mishaps)| mishaps.pop_front());
        if path == "/token" {
            return locked.token(&asked);
        }
        // A failure with a status precedes the access check.
        if !matches!(mishap, Some(InjectedFault::Status(..)))
            && let Some(refusal) = locked.refusal(&asked)
        {
            return refusal;
        }
        locked.in_progress += 1;
        let bytes = locked.content(&path);
        (mishap, bytes, ResponseCounter(Arc::clone(&registry)))
    };
    if let Some(InjectedFault::Status(status, name, value)) = mishap {
        return (StatusCode::from_u16(status).unwrap(), [(name, value)]).into_response();
    }
    let Some((media_type, bytes)) = bytes else {
        return StatusCode::NOT_FOUND.into_response();
    };
    let range = asked.range.as_deref().and_then(|range| {
        let start = range.strip_prefix("bytes=")?.strip_suffix('-')?;
        start.parse::<usize>().ok()
    });
    let (start, whole) = (range.unwrap_or(0).min(bytes.len()), bytes.len());
    let (bytes, delivery) = apply_fault(bytes[start..].to_vec(), mishap).await;
    let mut response = Response::builder()
        .header("content-type", media_type)
        .header("content-length", bytes.len());
    if range.is_some() {
        let range = format!("bytes {start}-{}/{whole}", whole.saturating_sub(1));
        response = response.status(206).header("content-range", range);
    }
    response.body(body(bytes, delivery, going)).unwrap()
}

/// The way in which a body is sent.
enum Delivery {
    Whole,
    /// So many bytes; then the connection ends.
    Break(usize),
    /// So many bytes; then nothing.
    Stall(usize),
    /// One byte at a time.
    Drip,
}

/// Returns the bytes to send, and how.
async fn apply_fault(bytes: Vec<u8>, fault: Option<InjectedFault>) -> (Vec<u8>, Delivery) {
    match fault {
        Some(InjectedFault::Bytes(other)) => (other, Delivery::Whole),
        Some(InjectedFault::BreakAfter(count)) => (bytes, Delivery::Break(count)),
        Some(InjectedFault::StallAfter(count)) => (bytes, Delivery::Stall(count)),
        Some(InjectedFault::Drip) => (bytes, Delivery::Drip),
        Some(InjectedFault::Wait(permits)) => {
            permits.acquire().await.unwrap().forget();
            (bytes, Delivery::Whole)
        }
        Some(InjectedFault::WaitForBytes(permits, other)) => {
            permits.acquire().await.unwrap().forget();
            (other, Delivery::Whole)
        }
        Some(InjectedFault::Status(..)) | None => (bytes, Delivery::Whole),
    }
}

fn body(bytes: Vec<u8>, delivery: Delivery, going: ResponseCounter) -> Body {
    let (end, size) = match delivery {
        Delivery::Break(count) | Delivery::Stall(count) => (count.min(bytes.len()), usize::MAX),
        Delivery::Whole => (bytes.len(), usize::MAX),
        Delivery::Drip => (bytes.len(), 1),
    };
    let pieces: Vec<_> = bytes[..end]
        .chunks(size.min(end.max(1)))
        .map(Bytes::copy_from_slice)
        .collect();
    let first = futures::stream::iter(pieces).then(move |piece| async move {
        if size == 1 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        Ok(piece)
    });
    let rest = futures::stream::once(async move {
        match delivery {
            // The bytes must be sent before the connection ends.
            Delivery::Break(_) => {
                tokio::task::yield_now().await;
                Some(Err(io::Error::other("the connection breaks")))
            }
            Delivery::Stall(_) => std::future::pending().await,
            Delivery::Whole | Delivery::Drip => None,
        }
    });
    let stream = first
        .chain(rest.filter_map(std::future::ready))
        .map(move |part| {
            let _counted = &going;
            part
        });
    Body::from_stream(stream)
}

impl RegistryState {
    fn token(&self, request: &ReceivedRequest) -> Response {
        match &self.token {
            Some((wanted, token)) if wanted.is_none() || *wanted == request.authorization => {
                format!("{{\"token\": \"{token}\", \"expires_in\": 300}}").into_response()
            }
            _ => StatusCode::UNAUTHORIZED.into_response(),
        }
    }

    fn refusal(&self, request: &ReceivedRequest) -> Option<Response> {
        let AccessRule::Closed { wanted, challenge } = &self.access else {
            return None;
        };
        let header = [("www-authenticate", challenge.clone())];
        let refusal = (StatusCode::UNAUTHORIZED, header).into_response();
        (request.authorization.as_ref() != Some(wanted)).then_some(refusal)
    }

    fn content(&self, path: &str) -> Option<(String, Vec<u8>)> {
        let digest = path.rsplit('/').next().unwrap_or_default();
        let blob = || {
            let blob = self.blobs.get(digest).filter(|_| path.contains("/blobs/"));
            Some(("application/octet-stream".to_owned(), blob?.clone()))
        };
        self.manifests.get(path).cloned().or_else(blob)
    }
}
