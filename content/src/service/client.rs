//! An agent's handle on its content service, which is started on the first request, and restarted
//! whenever it has exited or stops answering.

use std::collections::BTreeMap;
use std::fmt;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;
use std::process::Command;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use argosy_host::packets::is_too_long;
use argosy_isolation::service::{self, Packet, PacketSocket};
use argosy_state::task::Explanation;
use tokio::sync::mpsc;

use super::message::{ServiceConfig, ServiceReply, ServiceRequest};
use crate::fetcher::{ClusterAuthorities, FetchSettings, names_agent};
use crate::images::InsecureRegistry;

/// The time for which a service with work may be silent.
const SILENCE_TIMEOUT: Duration = Duration::from_secs(15);
/// The interval of that check.
const CHECK_INTERVAL: Duration = Duration::from_secs(1);
/// The number of attempts for a request whose service is lost.
const MAX_ATTEMPTS: u32 = 3;
/// The error of a request that cannot be sent.
const TOO_LONG: &str =
    "the request is longer than a message to the content service: use a shorter URI or reference";
/// The variables that it inherits: locations of certificate authorities, and resolver settings.
pub const ENVIRONMENT: [&str; 4] = [
    "SSL_CERT_FILE",
    "SSL_CERT_DIR",
    "RES_OPTIONS",
    "LOCALDOMAIN",
];

/// Its name in process lists, whatever its program is.
pub const NAME: Option<&str> = Some("argosy-content");

/// The command of the service: a program that calls [`super::run_from_fd`] before anything else.
#[derive(Debug, Clone)]
pub struct ServiceCommand {
    pub program: PathBuf,
    pub arguments: Vec<String>,
}

/// A service that was started.
pub struct StartedService {
    /// The socket to it.
    pub packets: PacketSocket,
    /// Its process id.
    pub pid: u32,
    /// Ends it once its socket is closed, if it does not exit by itself. May block for a second.
    pub stop: Box<dyn FnOnce() + Send>,
}

/// Starts a service, or returns the error as text. Blocks.
pub type ServiceStarter = Arc<dyn Fn() -> Result<StartedService, String> + Send + Sync>;

impl ServiceCommand {
    /// Starts it as a child of this process, in this cgroup.
    #[must_use]
    pub fn starter(self, group: Option<PathBuf>) -> ServiceStarter {
        Arc::new(move || {
            let mut executed = Command::new(&self.program);
            executed.args(&self.arguments);
            let spawned = service::spawn(&executed, NAME, &ENVIRONMENT, group.as_deref());
            let (process, packets) = spawned.map_err(|error| crate::error_chain(&error))?;
            Ok(StartedService {
                packets,
                pid: process.id(),
                stop: Box::new(move || service::stop(process)),
            })
        })
    }
}

/// The operator's settings for the service.
#[derive(Debug, Clone)]
pub struct ServiceSettings {
    /// For files.
    pub fetch: FetchSettings,
    /// Registries that are contacted without TLS.
    pub insecure_registries: Vec<InsecureRegistry>,
    /// The maximum size of the packed layers of one image, in bytes.
    pub image_limit_bytes: u64,
    /// What proves that a server is an agent of this cluster.
    pub cluster: ClusterAuthoritySource,
}

/// Returns the newest authorities of the cluster; none without TLS. Cheap to clone.
#[derive(Clone)]
pub struct ClusterAuthoritySource(Arc<dyn Fn() -> Option<ClusterAuthorities> + Send + Sync>);

impl ClusterAuthoritySource {
    /// Returns a source of the results of `newest`.
    pub fn new(newest: impl Fn() -> Option<ClusterAuthorities> + Send + Sync + 'static) -> Self {
        Self(Arc::new(newest))
    }

    /// Returns a source of nothing, for a cluster without TLS.
    #[must_use]
    pub fn none() -> Self {
        Self::new(|| None)
    }
}

impl fmt::Debug for ClusterAuthoritySource {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("ClusterAuthoritySource")
    }
}

/// The service of one agent.
pub struct ContentService {
    start: ServiceStarter,
    config: ServiceConfig,
    cluster: ClusterAuthoritySource,
    serial: AtomicU64,
    /// A lock, because many requests share it. The service is started under it, on threads that may
    /// block.
    current: Mutex<Option<RunningService>>,
}

/// A started process of the service.
struct RunningService {
    connection: Arc<ServiceConnection>,
    /// The thread that reads from it, and ends the process once the connection is closed.
    reader: JoinHandle<()>,
}

/// The reason for a missing answer.
pub(super) enum RequestError {
    /// The service's error.
    Failed(Explanation),
    /// The service was lost.
    Lost,
    /// The service cannot be started, with the reason.
    NotStarted(String),
}

type ReceivedReply = (ServiceReply, Vec<OwnedFd>);

/// The connection to one process of the service.
struct ServiceConnection {
    packets: PacketSocket,
    pid: u32,
    state: Mutex<ConnectionState>,
}

struct ConnectionState {
    /// By request id. `None` once it has exited.
    pending: Option<BTreeMap<u64, RequestState>>,
    last_received: Instant,
}

/// The state of a request that is neither answered nor cancelled.
struct RequestState {
    replies: mpsc::UnboundedSender<ReceivedReply>,
    is_sent: bool,
}

impl ContentService {
    /// Creates the handle; the service is started on the first request.
    #[must_use]
    pub fn new(start: ServiceStarter, settings: ServiceSettings) -> Arc<Self> {
        let ServiceSettings {
            fetch,
            insecure_registries,
            image_limit_bytes,
            cluster,
        } = settings;
        Arc::new(Self {
            start,
            config: ServiceConfig {
                fetch,
                insecure_registries,
                image_limit_bytes,
            },
            cluster,
            serial: AtomicU64::new(0),
            current: Mutex::default(),
        })
    }

    /// Returns the process id of the current service, if there is one.
    #[must_use]
    pub fn pid(&self) -> Option<u32> {
        let current = self.current();
        current.as_ref().map(|running| running.connection.pid)
    }

    /// Ends the service; the next request starts another one. Requests in progress fail or are
    /// repeated.
    pub fn stop(&self) {
        if let Some(running) = self.current().take() {
            running.connection.packets.close();
        }
    }

    /// Returns what a download of this URI needs to recognize another agent.
    pub(super) fn authorities_for(&self, uri: &str) -> Option<ClusterAuthorities> {
        names_agent(uri).then(|| (self.cluster.0)()).flatten()
    }

    /// Sends a request, and repeats it where the service was lost. Dropping it cancels the request.
    pub(super) async fn request(
        self: &Arc<Self>,
        build: impl Fn(u64) -> ServiceRequest,
        file: Option<&File>,
        on_progress: impl Fn(u64, u64),
    ) -> Result<Vec<OwnedFd>, RequestError> {
        let mut tries = 1;
        loop {
            match self.request_once(&build, file, &on_progress).await {
                Err(RequestError::Lost) if tries < MAX_ATTEMPTS => tries += 1,
                end => return end,
            }
        }
    }

    async fn request_once(
        self: &Arc<Self>,
        build: impl Fn(u64) -> ServiceRequest,
        file: Option<&File>,
        on_progress: impl Fn(u64, u64),
    ) -> Result<Vec<OwnedFd>, RequestError> {
        let id = self.serial.fetch_add(1, Ordering::Relaxed);
        let service = Arc::clone(self);
        let connecting = tokio::task::spawn_blocking(move || service.connection());
        let connection = connecting.await.expect("connecting never panics")?;
        let mut answers = connection.register(id).ok_or(RequestError::Lost)?;
        let asked = PendingRequest {
            connection: Arc::clone(&connection),
            id,
        };
        let file = file.map(File::try_clone).transpose().map_err(|error| {
            RequestError::Failed(format!("cannot pass a file on: {error}").into())
        })?;
        let (sender, message) = (Arc::clone(&connection), build(id));
        let mut sending = tokio::task::spawn_blocking(move || {
            let files: Vec<_> = file.iter().map(AsFd::as_fd).collect();
            sender.send_request(id, &message, &files)
        });
        let mut is_sent = false;
        loop {
            tokio::select! {
                biased;
                output = answers.recv() => match output {
                    Some((ServiceReply::Progress { done_bytes, total_bytes, .. }, _)) => on_progress(done_bytes, total_bytes),
                    Some((ServiceReply::Done { .. }, descriptors)) => {
                        asked.mark_answered();
                        return Ok(descriptors);
                    }
                    Some((ServiceReply::Failed { why, .. }, _)) => {
                        asked.mark_answered();
                        return Err(RequestError::Failed(why.into()));
                    }
                    Some((ServiceReply::Heartbeat, _)) => {}
                    None => return Err(RequestError::Lost),
                },
                sent = &mut sending, if !is_sent => {
                    is_sent = true;
                    match sent.expect("sending never panics") {
                        Ok(()) => {}
                        Err(error) if is_too_long(&error) => {
                            asked.mark_answered();
                            return Err(RequestError::Failed(TOO_LONG.into()));
                        }
                        Err(_) => connection.disconnect(),
                    }
                }
                () = tokio::time::sleep(CHECK_INTERVAL) => connection.check_reply(),
            }
        }
    }

    /// Returns the current service, or starts one. Blocks.
    fn connection(&self) -> Result<Arc<ServiceConnection>, RequestError> {
        let mut current = self.current();
        if let Some(running) = current.as_ref().filter(|one| one.connection.is_alive()) {
            return Ok(Arc::clone(&running.connection));
        }
        if let Some(lost) = current.take() {
            metrics::counter!("argosy_agent_content_services_replaced_total").increment(1);
            tracing::warn!("content service lost; starting another one");
            // Until its end it may write to the files of its requests, which the next one writes
            // again. A panic of the thread is logged, and leaves nothing to wait for.
            let _ = lost.reader.join();
        }
        let started = (self.start)().map_err(RequestError::NotStarted)?;
        let running = ServiceConnection::open(started, &self.config);
        let connection = Arc::clone(&running.connection);
        *current = Some(running);
        Ok(connection)
    }

    fn current(&self) -> MutexGuard<'_, Option<RunningService>> {
        self.current.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for ContentService {
    fn drop(&mut self) {
        self.stop();
    }
}

impl ServiceConnection {
    fn open(started: StartedService, config: &ServiceConfig) -> RunningService {
        let StartedService {
            packets,
            pid,
            stop: end,
        } = started;
        // If this cannot be sent, the exit is detected immediately.
        let _ = packets.send(&ServiceRequest::Begin(Box::new(config.clone())), &[]);
        let connection = Arc::new(Self {
            packets,
            pid,
            state: Mutex::new(ConnectionState {
                pending: Some(BTreeMap::new()),
                last_received: Instant::now(),
            }),
        });
        let read = Arc::clone(&connection);
        let reader = std::thread::spawn(move || {
            while let Ok(Packet::Message(answer, descriptors)) = read.packets.receive() {
                read.dispatch(answer, descriptors);
            }
            read.disconnect();
            end();
        });
        RunningService { connection, reader }
    }

    fn is_alive(&self) -> bool {
        self.state().pending.is_some()
    }

    /// Returns the channel for answers to a request. `None` if the service has exited.
    fn register(&self, id: u64) -> Option<mpsc::UnboundedReceiver<ReceivedReply>> {
        let mut state = self.state();
        let waiting = state.pending.as_mut()?;
        let is_first = waiting.is_empty();
        // Bounded by the progress reports of one request, ten per second.
        let (replies, answers) = mpsc::unbounded_channel();
        let request = RequestState {
            replies,
            is_sent: false,
        };
        waiting.insert(id, request);
        if is_first {
            // Without work it sends nothing.
            state.last_received = Instant::now();
        }
        Some(answers)
    }

    /// Sends a request, and then its cancellation if the request was dropped before it was sent.
    /// Blocks.
    fn send_request(
        &self,
        id: u64,
        message: &ServiceRequest,
        files: &[BorrowedFd<'_>],
    ) -> io::Result<()> {
        self.packets.send(message, files)?;
        let mut state = self.state();
        let Some(pending) = &mut state.pending else {
            return Ok(()); // The service was lost, and the request with it.
        };
        if let Some(request) = pending.get_mut(&id) {
            request.is_sent = true;
            return Ok(());
        }
        // Not under the lock, because a full socket blocks, and the reader needs the lock.
        drop(state);
        // The request may also be missing because it is answered already. The service ignores the
        // cancellation of such a request, and ids are never reused.
        self.packets.send(&ServiceRequest::Cancel { id }, &[])
    }

    fn dispatch(&self, answer: ServiceReply, descriptors: Vec<OwnedFd>) {
        let mut state = self.state();
        state.last_received = Instant::now();
        let id = match &answer {
            ServiceReply::Heartbeat => return,
            ServiceReply::Progress { id, .. }
            | ServiceReply::Done { id }
            | ServiceReply::Failed { id, .. } => *id,
        };
        if let Some(request) = state.pending.as_ref().and_then(|all| all.get(&id)) {
            // A requester that no longer waits has cancelled the request.
            let _ = request.replies.send((answer, descriptors));
        }
    }

    /// Disconnects a silent service.
    fn check_reply(&self) {
        let silent = self.state().last_received.elapsed();
        if silent >= SILENCE_TIMEOUT {
            tracing::warn!(
                pid = self.pid,
                seconds = silent.as_secs(),
                "content service does not respond; ending it"
            );
            self.disconnect();
        }
    }

    /// Fails all waiting requests. The reading thread ends the process.
    fn disconnect(&self) {
        self.packets.close();
        self.state().pending = None;
    }

    fn state(&self) -> MutexGuard<'_, ConnectionState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A request; dropping it cancels the request unless it was answered.
struct PendingRequest {
    connection: Arc<ServiceConnection>,
    id: u64,
}

impl PendingRequest {
    fn mark_answered(&self) {
        if let Some(waiting) = &mut self.connection.state().pending {
            waiting.remove(&self.id);
        }
    }
}

impl Drop for PendingRequest {
    fn drop(&mut self) {
        let pending = &mut self.connection.state().pending;
        let removed = pending.as_mut().and_then(|all| all.remove(&self.id));
        // If the request is not sent yet, `send_request` cancels it: a cancellation from here could
        // precede the request, and the service would ignore it.
        if removed.is_some_and(|request| request.is_sent) {
            // If its queue is full, it has been silent for long, and will be ended.
            let _ = self
                .connection
                .packets
                .try_send(&ServiceRequest::Cancel { id: self.id });
        }
    }
}

impl RequestError {
    pub(super) fn explanation(self) -> Explanation {
        match self {
            Self::Failed(why) => why,
            Self::Lost => {
                "the content service was lost repeatedly; try again, and check what kills it".into()
            }
            Self::NotStarted(why) => format!("the content service cannot be started: {why}").into(),
        }
    }
}
