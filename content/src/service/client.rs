//! An agent's handle on its content service, which is started on the first request, and restarted
//! whenever it has exited or stops answering.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read, Seek};
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use argosy_isolation::service::{self, Packet, Packets};
use argosy_proto::uri::ShownUri;
use argosy_state::task::Explanation;
use tokio::sync::{mpsc, watch};

use super::message::{Answer, Ask, Begin, Login};
use crate::fetcher::{FetchError, FetchSettings, Progress, Reach, Wanted};
use crate::images::{Content, Fault, InsecureRegistry, Plan, RegistryReference, Secret};

/// The time for which a service with work may be silent.
const SILENCE_LIMIT: Duration = Duration::from_secs(15);
/// The interval of that check.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// The number of attempts for a request whose service is lost.
const TRIES: u32 = 3;
/// The maximum length of an image description, in bytes.
const PLAN_BYTES: u64 = 32 * 1024 * 1024;
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
pub struct Started {
    /// The socket to it.
    pub packets: Packets,
    /// Its process id.
    pub pid: u32,
    /// Ends it once its socket is closed, if it does not exit by itself. May block for a second.
    pub end: Box<dyn FnOnce() + Send>,
}

/// Starts a service, or returns the error as text. Blocks.
pub type Starter = Arc<dyn Fn() -> Result<Started, String> + Send + Sync>;

impl ServiceCommand {
    /// Starts it as a child of this process, in this cgroup.
    #[must_use]
    pub fn starter(self, group: Option<PathBuf>) -> Starter {
        Arc::new(move || {
            let mut executed = Command::new(&self.program);
            executed.args(&self.arguments);
            let spawned = service::spawn(&executed, NAME, &ENVIRONMENT, group.as_deref());
            let (process, packets) = spawned.map_err(|error| crate::sentence(&error))?;
            Ok(Started {
                packets,
                pid: process.id(),
                end: Box::new(move || service::end(process)),
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
}

/// The service of one agent.
pub struct Service {
    start: Starter,
    begin: Begin,
    serial: AtomicU64,
    /// A lock, because many requests share it. The service is started under it, on threads that may
    /// block.
    present: Mutex<Option<Arc<Connection>>>,
}

/// The reason for a missing answer.
enum NoAnswer {
    /// The service's error.
    Failed(Explanation),
    /// The service was lost.
    Gone,
    /// The service cannot be started, with the reason.
    NotStarted(String),
}

type Said = (Answer, Vec<OwnedFd>);

/// The connection to one process of the service.
struct Connection {
    packets: Packets,
    pid: u32,
    state: Mutex<State>,
}

struct State {
    /// By request id. `None` once it has exited.
    waiting: Option<BTreeMap<u64, mpsc::UnboundedSender<Said>>>,
    heard: Instant,
}

impl Service {
    /// Creates the handle; the service is started on the first request.
    #[must_use]
    pub fn new(start: Starter, settings: ServiceSettings) -> Arc<Self> {
        let ServiceSettings {
            fetch,
            insecure_registries,
            image_limit_bytes,
        } = settings;
        Arc::new(Self {
            start,
            begin: Begin {
                fetch,
                insecure_registries,
                image_limit_bytes,
            },
            serial: AtomicU64::new(0),
            present: Mutex::default(),
        })
    }

    /// Returns the process id of the current service, if there is one.
    #[must_use]
    pub fn pid(&self) -> Option<u32> {
        self.present().as_ref().map(|connection| connection.pid)
    }

    /// Ends the service; the next request starts another one. Requests in progress fail or are
    /// repeated.
    pub fn end(&self) {
        if let Some(connection) = self.present().take() {
            connection.packets.close();
        }
    }

    /// Downloads a file of a server to `file`, whose path is for messages.
    pub(crate) async fn fetch(
        self: &Arc<Self>,
        wanted: Wanted<'_>,
        reach: Reach,
        (path, file): (&Path, &File),
        meter: &watch::Sender<Progress>,
    ) -> Result<(), FetchError> {
        let ask = |id| Ask::Fetch {
            id,
            uri: wanted.uri.to_owned(),
            sha256: wanted.sha256.to_owned(),
            reach,
            path: path.to_owned(),
        };
        let said = self.ask(ask, Some(file), |done_bytes, total_bytes| {
            meter.send_modify(|shown| {
                (shown.done_bytes, shown.total_bytes) = (done_bytes, total_bytes);
            });
        });
        said.await.map(drop).map_err(|error| match error {
            NoAnswer::Failed(why) => FetchError::Service { why },
            lost => FetchError::Invalid {
                uri: ShownUri::of(wanted.uri),
                rule: lost.explanation().to_string(),
            },
        })
    }

    /// Returns the parts of an image.
    pub(crate) async fn plan(
        self: &Arc<Self>,
        reference: &RegistryReference,
        login: Option<&Secret>,
    ) -> Result<Plan, Fault> {
        let image = Login::of(reference, login);
        let ask = |id| Ask::Plan {
            id,
            image: image.clone(),
        };
        let said = self.ask(ask, None, |_, _| {}).await.map_err(Fault::from)?;
        let reading = tokio::task::spawn_blocking(move || described(said));
        let plan = reading.await.expect("reading a description never panics");
        plan.map_err(|error| Fault::Service {
            why: format!("the content service returned no valid image: {error}").into(),
        })
    }

    /// Downloads a blob to `file`, whose path is for messages.
    pub(crate) async fn blob(
        self: &Arc<Self>,
        (reference, login): (&RegistryReference, Option<&Secret>),
        blob: &Content,
        (path, file): (&Path, &File),
        progress: &watch::Sender<u64>,
    ) -> Result<(), Fault> {
        let image = Login::of(reference, login);
        let ask = |id| Ask::Blob {
            id,
            image: image.clone(),
            blob: blob.clone(),
            path: path.to_owned(),
        };
        let said = self.ask(ask, Some(file), |done_bytes, _| {
            progress.send_replace(done_bytes);
        });
        said.await.map(drop).map_err(Fault::from)
    }

    /// Sends a request, and repeats it where the service was lost. Dropping it cancels the request.
    async fn ask(
        self: &Arc<Self>,
        ask: impl Fn(u64) -> Ask,
        file: Option<&File>,
        told: impl Fn(u64, u64),
    ) -> Result<Vec<OwnedFd>, NoAnswer> {
        let mut tries = 1;
        loop {
            match self.ask_once(&ask, file, &told).await {
                Err(NoAnswer::Gone) if tries < TRIES => tries += 1,
                end => return end,
            }
        }
    }

    async fn ask_once(
        self: &Arc<Self>,
        ask: impl Fn(u64) -> Ask,
        file: Option<&File>,
        told: impl Fn(u64, u64),
    ) -> Result<Vec<OwnedFd>, NoAnswer> {
        let id = self.serial.fetch_add(1, Ordering::Relaxed);
        let service = Arc::clone(self);
        let connecting = tokio::task::spawn_blocking(move || service.connection());
        let connection = connecting.await.expect("connecting never panics")?;
        let mut answers = connection.wait_for(id).ok_or(NoAnswer::Gone)?;
        let asked = Asked {
            connection: Arc::clone(&connection),
            id,
        };
        let file = file
            .map(File::try_clone)
            .transpose()
            .map_err(|error| NoAnswer::Failed(format!("cannot pass a file on: {error}").into()))?;
        let (sender, message) = (Arc::clone(&connection), ask(id));
        let mut sending = tokio::task::spawn_blocking(move || {
            let files: Vec<_> = file.iter().map(AsFd::as_fd).collect();
            sender.packets.send(&message, &files)
        });
        let mut is_sent = false;
        loop {
            tokio::select! {
                biased;
                said = answers.recv() => match said {
                    Some((Answer::Progress { done_bytes, total_bytes, .. }, _)) => told(done_bytes, total_bytes),
                    Some((Answer::Done { .. }, descriptors)) => {
                        asked.is_answered();
                        return Ok(descriptors);
                    }
                    Some((Answer::Failed { why, .. }, _)) => {
                        asked.is_answered();
                        return Err(NoAnswer::Failed(why.into()));
                    }
                    Some((Answer::Alive, _)) => {}
                    None => return Err(NoAnswer::Gone),
                },
                sent = &mut sending, if !is_sent => {
                    is_sent = true;
                    if sent.expect("sending never panics").is_err() {
                        connection.break_off();
                    }
                }
                () = tokio::time::sleep(LOOK_EVERY) => connection.judge(),
            }
        }
    }

    /// Returns the current service, or starts one. Blocks.
    fn connection(&self) -> Result<Arc<Connection>, NoAnswer> {
        let mut present = self.present();
        if let Some(connection) = present.as_ref().filter(|one| one.is_there()) {
            return Ok(Arc::clone(connection));
        }
        if present.take().is_some() {
            metrics::counter!("argosy_agent_content_services_replaced_total").increment(1);
            tracing::warn!("content service lost; starting another one");
        }
        let started = (self.start)().map_err(NoAnswer::NotStarted)?;
        let connection = Connection::open(started, &self.begin);
        *present = Some(Arc::clone(&connection));
        Ok(connection)
    }

    fn present(&self) -> MutexGuard<'_, Option<Arc<Connection>>> {
        self.present.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        self.end();
    }
}

impl Connection {
    fn open(started: Started, begin: &Begin) -> Arc<Self> {
        let Started { packets, pid, end } = started;
        // If this cannot be sent, the exit is detected immediately.
        let _ = packets.send(&Ask::Begin(Box::new(begin.clone())), &[]);
        let connection = Arc::new(Self {
            packets,
            pid,
            state: Mutex::new(State {
                waiting: Some(BTreeMap::new()),
                heard: Instant::now(),
            }),
        });
        let reader = Arc::clone(&connection);
        std::thread::spawn(move || {
            while let Ok(Packet::Message(answer, descriptors)) = reader.packets.receive() {
                reader.pass_on(answer, descriptors);
            }
            reader.break_off();
            end();
        });
        connection
    }

    fn is_there(&self) -> bool {
        self.state().waiting.is_some()
    }

    /// Returns the channel for answers to a request. `None` if the service has exited.
    fn wait_for(&self, id: u64) -> Option<mpsc::UnboundedReceiver<Said>> {
        let mut state = self.state();
        let waiting = state.waiting.as_mut()?;
        let is_first = waiting.is_empty();
        // Bounded by the progress reports of one request, ten per second.
        let (sender, answers) = mpsc::unbounded_channel();
        waiting.insert(id, sender);
        if is_first {
            // Without work it sends nothing.
            state.heard = Instant::now();
        }
        Some(answers)
    }

    fn pass_on(&self, answer: Answer, descriptors: Vec<OwnedFd>) {
        let mut state = self.state();
        state.heard = Instant::now();
        let id = match &answer {
            Answer::Alive => return,
            Answer::Progress { id, .. } | Answer::Done { id } | Answer::Failed { id, .. } => *id,
        };
        if let Some(waiting) = state.waiting.as_ref().and_then(|all| all.get(&id)) {
            // A requester that no longer waits has cancelled the request.
            let _ = waiting.send((answer, descriptors));
        }
    }

    /// Disconnects a silent service.
    fn judge(&self) {
        let silent = self.state().heard.elapsed();
        if silent >= SILENCE_LIMIT {
            tracing::warn!(
                pid = self.pid,
                seconds = silent.as_secs(),
                "content service does not respond; ending it"
            );
            self.break_off();
        }
    }

    /// Fails all waiting requests. The reading thread ends the process.
    fn break_off(&self) {
        self.packets.close();
        self.state().waiting = None;
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Reads the parts of an image from the file that came with an answer. Blocks.
fn described(descriptors: Vec<OwnedFd>) -> io::Result<Plan> {
    let descriptor = descriptors.into_iter().next();
    let mut file = File::from(descriptor.ok_or(io::ErrorKind::UnexpectedEof)?);
    if !file.metadata()?.is_file() {
        // No other kind is certain to end.
        return Err(io::Error::other(
            "it passed a descriptor that is not a file",
        ));
    }
    file.rewind()?;
    let mut bytes = Vec::new();
    file.take(PLAN_BYTES).read_to_end(&mut bytes)?;
    Ok(serde_json::from_slice(&bytes)?)
}

/// A request; dropping it cancels the request unless it was answered.
struct Asked {
    connection: Arc<Connection>,
    id: u64,
}

impl Asked {
    fn is_answered(&self) {
        if let Some(waiting) = &mut self.connection.state().waiting {
            waiting.remove(&self.id);
        }
    }
}

impl Drop for Asked {
    fn drop(&mut self) {
        let waiting = &mut self.connection.state().waiting;
        let was_waited_for = waiting
            .as_mut()
            .is_some_and(|waiting| waiting.remove(&self.id).is_some());
        if was_waited_for {
            // If its queue is full, it has been silent for long, and will be ended.
            let _ = self.connection.packets.offer(&Ask::Cancel { id: self.id });
        }
    }
}

impl Login {
    pub(super) fn of(reference: &RegistryReference, login: Option<&Secret>) -> Self {
        Self {
            reference: reference.clone(),
            secret: login.map(Secret::text),
        }
    }
}

impl NoAnswer {
    fn explanation(self) -> Explanation {
        match self {
            Self::Failed(why) => why,
            Self::Gone => {
                "the content service was lost repeatedly; try again, and check what kills it".into()
            }
            Self::NotStarted(why) => format!("the content service cannot be started: {why}").into(),
        }
    }
}

impl From<NoAnswer> for Fault {
    fn from(none: NoAnswer) -> Self {
        Self::Service {
            why: none.explanation(),
        }
    }
}
