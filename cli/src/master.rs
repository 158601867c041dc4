//! `master start`: sockets, runtimes, signals and metrics. The crate `argosy_master` is the master.
//! `master rejoin` uses the same parts.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::thread::JoinHandle;

use anyhow::Context;
use argosy_host::process::hide_memory;
use argosy_master::{
    CertificateIssuer, MasterConfig, MasterError, MasterParts, SecretKeys, TurnCounter,
};
use argosy_proto::clock::WallClock;
use argosy_proto::secret_value::SecretValue;
use argosy_proto::transport::Listener;
use argosy_raft::{NodeEnvironment, StartError, Timing};
use argosy_state::actor::PrincipalKind;
use argosy_tls::application::{Application, PortKind};
use argosy_tls::credentials::read_key;
use tokio::runtime::{Builder, Handle, Runtime};
use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;

use crate::args::{MasterStart, TimingName};
use crate::exit::{DONE, Failure, VerbResult};
use crate::issuing::{self, AuthorityFiles};
use crate::pid_file::PidFile;
use crate::service_manager::ServiceManager;
use crate::shutdown::{self, StopCondition};
use crate::transport::ServiceTransport;
use crate::{listen, logging, metrics, parsers, random};

pub(crate) fn start(arguments: &MasterStart) -> VerbResult {
    logging::install(&arguments.logging)?;
    let BoundMaster {
        addresses: places,
        transport,
        api,
        raft,
        config,
        raft_runtime,
        readers,
        runtime,
    } = BoundMaster::new(arguments)?;
    let recorder = metrics::install()?;
    let stop = CancellationToken::new();
    let manager = ServiceManager::from_environment();
    let ended = runtime.block_on(async {
        let until = if arguments.stop_with_stdin { StopCondition::SignalsOrInput(&stop, &stop) } else { StopCondition::Signals(&stop) };
        shutdown::watch(until)?;
        // The master measures the disk of its store.
        tokio::spawn(metrics::run(recorder.clone(), None, stop.clone()));
        transport.begin();
        let parts = MasterParts {
            api: listen::connections(api, &transport).context("cannot use the API's socket")?,
            raft: raft_runtime.environment(raft, &transport)?,
            masters: transport.dialer(Application::Http2),
            agents: transport.dialer(Application::Http1),
            raft_runtime: raft_runtime.handle.clone(),
            readers: readers.handle().clone(),
            memory: None,
            metrics: Some(recorder),
            entropy: random::bytes()?,
            serving: Some(report(manager, &raft_runtime.handle, &stop)),
        };
        let _pid_file = arguments.pid_file.as_deref().map(PidFile::write).transpose()?;
        tracing::info!(api = places.listen, raft = places.raft_listen, directory = %arguments.data_dir.display(), "starting");
        Ok::<_, Failure>(argosy_master::run(config, parts, stop).await)
    });
    // Pending work must not delay the exit: everything that matters is synced.
    runtime.shutdown_background();
    readers.shutdown_background();
    raft_runtime.end();
    match ended? {
        Ok(()) | Err(MasterError::Start(StartError::Stopped)) => Ok(DONE),
        Err(error) => Err(Failure::of(&error)),
    }
}

/// Reports to the service manager when the returned sender is used, and from then on. The signs of
/// progress come from the thread of consensus, which is shared by the loop that they count: they
/// end if either stalls.
fn report(
    manager: ServiceManager,
    consensus: &Handle,
    stop: &CancellationToken,
) -> oneshot::Sender<Arc<TurnCounter>> {
    manager.report_status("starting; a new group waits until all masters of --peers run");
    tokio::spawn(manager.clone().report_stop(stop.clone()));
    let (serving, served) = oneshot::channel::<Arc<TurnCounter>>();
    consensus.spawn(async move {
        if let Ok(counter) = served.await {
            manager.report_ready();
            manager.report_progress(move || counter.turns()).await;
        }
    });
    serving
}

/// A master before it runs: its addresses are bound, its directory is not read.
pub(crate) struct BoundMaster {
    pub(crate) addresses: MasterAddresses,
    pub(crate) transport: ServiceTransport,
    pub(crate) api: std::net::TcpListener,
    pub(crate) raft: std::net::TcpListener,
    pub(crate) config: MasterConfig,
    pub(crate) raft_runtime: RaftRuntime,
    pub(crate) readers: Runtime,
    pub(crate) runtime: Runtime,
}

impl BoundMaster {
    /// Reads the keys of a master and binds its addresses. If it has a key, this process leaves no
    /// core dump from here on, and other processes of its user cannot read its memory.
    pub(crate) fn new(arguments: &MasterStart) -> Result<Self, Failure> {
        let places = MasterAddresses::new(arguments)?;
        if arguments.tls.tls_key.is_some() || arguments.secrets_key.is_some() {
            hide_memory().context("cannot hide the memory of this process")?;
        }
        let transport =
            ServiceTransport::new(&arguments.tls, PrincipalKind::Master, &arguments.api_users)?;
        transport.check_raft_address(&places.raft_advertise)?;
        let api = listen::bind(&places.listen, "--listen")?;
        let raft = listen::bind(&places.raft_listen, "--raft-listen")?;
        let mut config = config(arguments, &places)?;
        config.enforces_access = transport.proves_identities();
        config.certificate_issuer = certificate_issuer(arguments, &transport)?;
        crate::raise_file_limit();
        let raft_runtime = RaftRuntime::start()?;
        let runtime = Builder::new_multi_thread()
            .enable_all()
            .build()
            .context("cannot start threads")?;
        Ok(Self {
            addresses: places,
            transport,
            api,
            raft,
            config,
            raft_runtime,
            readers: readers()?,
            runtime,
        })
    }
}

/// Addresses to listen on, and addresses that are advertised.
pub(crate) struct MasterAddresses {
    pub(crate) listen: String,
    pub(crate) raft_listen: String,
    advertise: String,
    raft_advertise: String,
}

impl MasterAddresses {
    fn new(arguments: &MasterStart) -> Result<Self, Failure> {
        let listen = arguments.listen.clone();
        let host = listen
            .rsplit_once(':')
            .map_or(listen.as_str(), |(host, _)| host);
        let raft_listen = arguments
            .raft_listen
            .clone()
            .unwrap_or_else(|| format!("{host}:{}", parsers::RAFT_PORT));
        let api = listen::resolve(&listen, "--listen")?;
        let raft = listen::resolve(&raft_listen, "--raft-listen")?;
        Ok(Self {
            advertise: advertised(arguments.advertise.as_ref(), &listen, api, "--advertise")?,
            raft_advertise: advertised(
                arguments.raft_advertise.as_ref(),
                &raft_listen,
                raft,
                "--raft-advertise",
            )?,
            listen,
            raft_listen,
        })
    }
}

/// Returns the advertised address. A listener on all addresses must name one.
pub(crate) fn advertised(
    given: Option<&String>,
    listen: &str,
    resolved: SocketAddr,
    flag: &str,
) -> Result<String, Failure> {
    match given {
        Some(given) => Ok(given.clone()),
        None if resolved.ip().is_unspecified() => Err(Failure::usage(format!(
            "{resolved} is every address of this host, so the address to advertise is unknown"
        ))
        .advise(format!(
            "name it with {flag}, as {flag} 10.0.0.1:{}",
            resolved.port()
        ))),
        None => Ok(listen.to_owned()),
    }
}

fn config(arguments: &MasterStart, places: &MasterAddresses) -> Result<MasterConfig, Failure> {
    if arguments.agent_timeout.is_zero() {
        return Err(Failure::usage(
            "--agent-timeout 0: every agent would be unreachable immediately; the default is 15s",
        ));
    }
    if arguments.forget_agents_after.is_zero() {
        return Err(Failure::usage(
            "--forget-agents-after 0: an agent and its tasks would be forgotten as soon as it is unreachable; the default is 14d",
        ));
    }
    let mut config = MasterConfig::new(
        arguments.data_dir.clone(),
        places.advertise.clone(),
        places.raft_advertise.clone(),
    );
    config.peers = arguments
        .peers
        .as_ref()
        .map(|peers| peers.0.clone())
        .unwrap_or_default();
    config.bootstrap = arguments.bootstrap;
    config.access = listen::access(
        &arguments.api_users,
        arguments.allow_exec,
        arguments.allow_files,
    );
    config.audit_file_mib = arguments.audit_log_mib;
    config.host_names = listen::host_names(&places.listen, &arguments.allow_hosts);
    config.agent_timeout_ms = arguments.agent_timeout.as_millis() as u64;
    config.framework_grace_ms = arguments.framework_disconnect_timeout.as_millis() as u64;
    config.lost_agent_ms = arguments.forget_agents_after.as_millis() as u64;
    config.timing = match arguments.timing {
        TimingName::Default => Timing::lan(),
        TimingName::Testing => Timing::testing(),
        TimingName::Wan => Timing::wan(),
    };
    config.secret_keys = arguments
        .secrets_key
        .as_deref()
        .map(secret_keys)
        .transpose()?;
    config.seed = match arguments.seed {
        Some(seed) => seed,
        None => random::number()?,
    };
    Ok(config)
}

/// Reads the CA, if this master issues certificates.
fn certificate_issuer(
    arguments: &MasterStart,
    transport: &ServiceTransport,
) -> Result<Option<CertificateIssuer>, Failure> {
    let Some(key) = &arguments.ca_key else {
        return Ok(None);
    };
    let certificate = arguments.ca_cert.as_ref().or(arguments.tls.tls_ca.as_ref());
    let (Some(certificate), Some((cluster, trusted))) = (certificate, transport.authorities())
    else {
        return Err(Failure::usage(
            "--ca-key: without TLS, a host that joins could not know these masters, and its token could be read on the way",
        )
        .advise("omit --insecure-plaintext and --tls optional, or omit --ca-key"));
    };
    let files = AuthorityFiles { certificate, key };
    issuing::issuer(&files, cluster, trusted).map(Some)
}

/// Reads the keys of secrets.
fn secret_keys(path: &Path) -> Result<Arc<SecretKeys>, Failure> {
    let text = read_key(path).map_err(|error| Failure::of(&error))?;
    let text = SecretValue::new(text);
    let parsed = std::str::from_utf8(text.expose()).map(SecretKeys::parse);
    let failed = |why: String| {
        Failure::usage(format!("{}: {why}", path.display()))
            .advise("it has lines KEYID:HEX, such as k1:0123… with 64 hexadecimal digits")
    };
    match parsed {
        Ok(Ok(keys)) => Ok(Arc::new(keys)),
        Ok(Err(why)) => Err(failed(why.to_string())),
        Err(_) => Err(failed("it is not text".to_owned())),
    }
}

/// One thread for consensus, its connections and the owner of the registry. A commit passes between
/// them without waking another thread, and a flood on the API's threads cannot cost leadership.
/// Waits for disks have their own threads, and no step of the owner takes longer than a few
/// milliseconds.
pub(crate) struct RaftRuntime {
    pub(crate) handle: Handle,
    stop: CancellationToken,
    thread: JoinHandle<()>,
}

impl RaftRuntime {
    fn start() -> anyhow::Result<Self> {
        let runtime = Builder::new_current_thread()
            .thread_name("raft-blocking")
            .enable_all()
            .build()
            .context("cannot start raft's runtime")?;
        let handle = runtime.handle().clone();
        let stop = CancellationToken::new();
        let stopped = stop.clone();
        let thread = std::thread::Builder::new()
            .name("raft".to_owned())
            .spawn(move || {
                runtime.block_on(stopped.cancelled());
                runtime.shutdown_background();
            })
            .context("cannot start raft's thread")?;
        Ok(Self {
            handle,
            stop,
            thread,
        })
    }

    /// The Raft sockets belong to the threads of Raft. Handshakes run on the current runtime: their
    /// computations must not delay heartbeats.
    pub(crate) fn environment(
        &self,
        socket: std::net::TcpListener,
        transport: &ServiceTransport,
    ) -> anyhow::Result<NodeEnvironment> {
        let handshakes = Handle::current();
        let _inside = self.handle.enter();
        let listener = tokio::net::TcpListener::from_std(socket);
        let listener = Listener::tcp(listener.context("cannot use raft's socket")?);
        Ok(NodeEnvironment {
            listener: transport.listener(listener, ("raft", PortKind::Raft), handshakes),
            dialer: transport.dialer(Application::Raft),
            wall: WallClock::system(),
        })
    }

    pub(crate) fn end(self) {
        self.stop.cancel();
        // A panic of that thread has already been reported on standard error.
        let _ = self.thread.join();
    }
}

/// The nice value of the readers' thread. It gets a tenth of a processor next to a busy thread, and
/// wakes up behind it.
const NICENESS: i32 = 10;

/// Creates the thread that serves pages of lists. Readers share at most one processor, with low
/// priority: pages wait for calls that change something, not the reverse.
fn readers() -> anyhow::Result<Runtime> {
    Builder::new_multi_thread()
        .worker_threads(1)
        .thread_name("readers")
        .on_thread_start(|| {
            if let Err(error) = rustix::process::nice(NICENESS) {
                tracing::warn!(%error, "cannot lower the priority of the list readers");
            }
        })
        .enable_time()
        .build()
        .context("cannot start the thread of the readers")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unspecified_address_is_not_advertised() {
        let all: SocketAddr = "0.0.0.0:5050".parse().unwrap();
        let failure = advertised(None, "0.0.0.0:5050", all, "--advertise").unwrap_err();
        assert!(
            failure.advice[0].contains("--advertise 10.0.0.1:5050"),
            "{failure}"
        );
        let given = "10.0.0.7:5050".to_owned();
        assert_eq!(
            advertised(Some(&given), "0.0.0.0:5050", all, "--advertise").unwrap(),
            given
        );
    }

    #[test]
    fn raft_runs_in_a_thread_that_stops_on_request() {
        let runtime = RaftRuntime::start().unwrap();
        let name = runtime
            .handle
            .spawn(async { std::thread::current().name().map(str::to_owned) });
        let name = Builder::new_current_thread()
            .build()
            .unwrap()
            .block_on(name);
        assert_eq!(name.unwrap().as_deref(), Some("raft"));
        runtime.end();
    }

    #[test]
    fn the_reader_thread_has_the_lowest_priority() {
        let priority = || rustix::process::getpriority_process(None).unwrap();
        let runtime = readers().unwrap();
        let theirs = runtime.block_on(runtime.spawn(async move { priority() }));
        assert_eq!(theirs.unwrap(), (priority() + NICENESS).min(19));
    }
}
