//! The service process: confines itself, serves requests concurrently, and exits with the agent's
//! socket.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use argosy_isolation::service::{self, Packet, PacketSocket};
use argosy_state::ids::FrameworkId;
use argosy_state::task::Explanation;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep_until};

use super::message::{RegistryLogin, ServiceConfig, ServiceReply, ServiceRequest};
use crate::fetcher::{
    ClusterAuthorities, ClusterTls, DownloadClient, FetchProgress, LOOKUPS_AT_ONCE, RequestedFile,
    Requester,
};
use crate::images::{RegistryPool, ResolvedImage, SessionKey};

/// The paths that it may read in addition to those of the environment: resolver settings and
/// certificate authorities.
const READABLE: [&str; 6] = [
    "/etc",
    "/usr",
    "/lib",
    "/lib64",
    "/run/systemd/resolve",
    "/run/resolvconf",
];
/// Variables with locations of certificate authorities.
const AUTHORITIES: [&str; 2] = ["SSL_CERT_FILE", "SSL_CERT_DIR"];
/// The interval of its signs of life.
const HEARTBEAT_INTERVAL: Duration = Duration::from_secs(2);
/// The interval of progress reports.
const PROGRESS_INTERVAL: Duration = Duration::from_millis(100);
/// Threads for blocking work: name resolution and file writes.
const BLOCKING_THREADS: usize = 32;
const _: () = assert!(
    LOOKUPS_AT_ONCE < BLOCKING_THREADS,
    "look-ups leave no thread to file writes"
);

/// An error that prevents the service from working.
#[derive(Debug, thiserror::Error)]
pub enum ServiceError {
    /// It was not started by an agent, or the host refuses what it needs.
    #[error("cannot serve an agent")]
    Begin { source: io::Error },
    /// An isolation layer cannot be applied: it serves no requests.
    #[error("cannot apply its confinement: {why}")]
    Confine {
        /// The reason, as text.
        why: String,
    },
}

/// Serves the agent on standard input until the agent closes the socket. `tls` connects to other
/// agents.
///
/// Call it from `main` before anything else; it needs a process without threads.
///
/// # Errors
/// If it cannot start. It does not return otherwise.
pub fn run_from_fd(tls: ClusterTls) -> Result<(), ServiceError> {
    let failed = |source| ServiceError::Begin { source };
    let packets = service::connection().map_err(failed)?;
    let begin = match packets.receive().map_err(failed)? {
        Packet::Message(ServiceRequest::Begin(begin), _) => *begin,
        Packet::Message(..) => {
            return Err(failed(io::Error::other("it received no configuration")));
        }
        Packet::Closed => return Ok(()),
    };
    let named = AUTHORITIES.iter().filter_map(std::env::var_os);
    let readable = READABLE.map(PathBuf::from).into_iter();
    let readable: Vec<_> = readable.chain(named.map(PathBuf::from)).collect();
    let downloads = DownloadClient::new(&begin.fetch, tls).map_err(failed)?;
    let ServiceConfig {
        fetch,
        insecure_registries: insecure,
        image_limit_bytes,
    } = &begin;
    let registry = RegistryPool::new(fetch, insecure, *image_limit_bytes).map_err(failed)?;
    let largest = begin.fetch.limit_bytes.max(begin.image_limit_bytes);
    service::confine(&readable, largest).map_err(|why| ServiceError::Confine { why })?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .max_blocking_threads(BLOCKING_THREADS)
        .enable_all()
        .build();
    runtime
        .map_err(failed)?
        .block_on(serve(packets, downloads, registry));
    Ok(())
}

async fn serve(packets: PacketSocket, downloads: DownloadClient, registry: RegistryPool) {
    let packets = Arc::new(packets);
    let (sender, mut asked) = mpsc::unbounded_channel();
    let reader = Arc::clone(&packets);
    // Bounded by the agent's concurrent requests.
    std::thread::spawn(move || {
        while let Ok(Packet::Message(ask, descriptors)) = reader.receive() {
            if sender.send((ask, descriptors)).is_err() {
                return;
            }
        }
        // No requester waits any more.
        std::process::exit(0);
    });
    let work = Arc::new(ServiceState {
        downloads,
        registry,
        packets,
        requests: Mutex::default(),
    });
    let mut alive = interval(HEARTBEAT_INTERVAL);
    alive.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            Some((ask, descriptors)) = asked.recv() => work.accept(ask, descriptors),
            _ = alive.tick() => {
                if !work.requests().is_empty() {
                    // An agent that does not read it has enough unread messages.
                    let _ = work.packets.try_send(&ServiceReply::Heartbeat);
                }
            }
        }
    }
}

struct ServiceState {
    downloads: DownloadClient,
    registry: RegistryPool,
    packets: Arc<PacketSocket>,
    /// Requests in progress. A lock, because each removes itself.
    requests: Mutex<BTreeMap<u64, JoinHandle<()>>>,
}

impl ServiceState {
    fn accept(self: &Arc<Self>, message: ServiceRequest, descriptors: Vec<OwnedFd>) {
        if let ServiceRequest::Cancel { id } = message {
            if let Some(going) = self.requests().remove(&id) {
                going.abort();
            }
            return;
        }
        let file = descriptors.into_iter().next();
        let Some((id, request)) = AcceptedRequest::of(message, file) else {
            return;
        };
        let work = Arc::clone(self);
        let mut going = self.requests();
        let serving = tokio::spawn(async move {
            work.serve(id, request).await;
            work.requests().remove(&id);
        });
        going.insert(id, serving);
    }

    async fn serve(&self, id: u64, request: AcceptedRequest) {
        let (meter, mut seen) = watch::channel(FetchProgress::default());
        let mut performing = Box::pin(self.perform(request, &meter));
        let done = loop {
            tokio::select! {
                biased;
                done = &mut performing => break done,
                Ok(()) = seen.changed() => {
                    let (done_bytes, total_bytes) = {
                        let now = seen.borrow_and_update();
                        (now.done_bytes, now.total_bytes)
                    };
                    // If it is not read in time, the next one reports more.
                    let _ = self.packets.try_send(&ServiceReply::Progress { id, done_bytes, total_bytes });
                    tokio::select! {
                        biased;
                        done = &mut performing => break done,
                        () = sleep_until(Instant::now() + PROGRESS_INTERVAL) => {}
                    }
                }
            }
        };
        let packets = Arc::clone(&self.packets);
        // Waits until the queue has space, which it has as soon as the agent reads.
        let telling = tokio::task::spawn_blocking(move || {
            let fail = |why: Explanation| {
                let why = why.into();
                packets.send(&ServiceReply::Failed { id, why }, &[])
            };
            match done {
                Ok(Some(file)) => packets.send(&ServiceReply::Done { id }, &[file.as_fd()]),
                Ok(None) => packets.send(&ServiceReply::Done { id }, &[]),
                // Escapes make a text up to six times as long.
                Err(why) => fail(why).or_else(|_| fail("the error is too long".into())),
            }
        });
        // Without the agent this process exits.
        let _ = telling.await;
    }

    async fn perform(
        &self,
        request: AcceptedRequest,
        meter: &watch::Sender<FetchProgress>,
    ) -> Result<Option<File>, Explanation> {
        match request {
            AcceptedRequest::Fetch {
                uri,
                sha256,
                requester,
                authorities,
                path,
                file,
            } => {
                let wanted = RequestedFile {
                    uri: &uri,
                    sha256: &sha256,
                };
                let mut file = tokio::fs::File::from_std(file);
                let place = (path.as_path(), &mut file);
                let server = (requester, authorities.as_ref());
                let brought = self.downloads.fetch(wanted, server, place, meter).await;
                brought.map(|()| None).map_err(|error| error.explanation())
            }
            AcceptedRequest::Plan(image) => {
                let plan = self.registry.plan(image.into()).await;
                let plan = plan.map_err(|fault| fault.explanation())?;
                let written = write_plan(&plan);
                written.map(Some).map_err(|error| {
                    format!("cannot determine the parts of the image: {error}").into()
                })
            }
            AcceptedRequest::Blob {
                image,
                blob,
                path,
                file,
            } => {
                let place = (path, file);
                let brought = self.registry.blob(image.into(), &blob, place, meter).await;
                brought.map(|()| None).map_err(|fault| fault.explanation())
            }
        }
    }

    fn requests(&self) -> MutexGuard<'_, BTreeMap<u64, JoinHandle<()>>> {
        self.requests.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A request with its descriptors.
enum AcceptedRequest {
    Fetch {
        uri: String,
        sha256: String,
        requester: Requester,
        authorities: Option<ClusterAuthorities>,
        path: PathBuf,
        file: File,
    },
    Plan(RegistryLogin),
    Blob {
        image: RegistryLogin,
        blob: crate::images::BlobDescriptor,
        path: PathBuf,
        file: File,
    },
}

impl AcceptedRequest {
    /// Returns a request and its id. `None` for a message that an agent of this build does not
    /// send.
    fn of(message: ServiceRequest, file: Option<OwnedFd>) -> Option<(u64, Self)> {
        match (message, file) {
            (
                ServiceRequest::Fetch {
                    id,
                    uri,
                    sha256,
                    framework,
                    reach,
                    authorities,
                    path,
                },
                Some(file),
            ) => {
                let request = Self::Fetch {
                    uri,
                    sha256,
                    requester: Requester {
                        framework: FrameworkId(framework),
                        reach,
                    },
                    authorities,
                    path,
                    file: file.into(),
                };
                Some((id, request))
            }
            (
                ServiceRequest::Blob {
                    id,
                    image,
                    blob,
                    path,
                },
                Some(file),
            ) => {
                let file = file.into();
                let request = Self::Blob {
                    image,
                    blob,
                    path,
                    file,
                };
                Some((id, request))
            }
            (ServiceRequest::Plan { id, image }, _) => Some((id, Self::Plan(image))),
            (
                ServiceRequest::Begin(_)
                | ServiceRequest::Cancel { .. }
                | ServiceRequest::Fetch { .. }
                | ServiceRequest::Blob { .. },
                _,
            ) => None,
        }
    }
}

impl From<RegistryLogin> for SessionKey {
    fn from(image: RegistryLogin) -> Self {
        Self {
            reference: image.reference,
            login: image.secret,
            framework: FrameworkId(image.framework),
        }
    }
}

/// Writes the description to an unlinked file, because it may be longer than a message.
fn write_plan(plan: &ResolvedImage) -> io::Result<File> {
    let flags = rustix::fs::MemfdFlags::CLOEXEC;
    let mut file: File = rustix::fs::memfd_create("argosy-plan", flags)?.into();
    file.write_all(&serde_json::to_vec(plan)?)?;
    Ok(file)
}
