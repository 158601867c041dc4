//! `agent start` and `agent stop`: sockets, runtime, signals and metrics. The crate `argosy_agent`
//! is the agent.

use std::fs;
use std::os::fd::AsFd;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::Context;
use argosy_agent::images::{ImageSettings, PullPolicy};
use argosy_agent::{
    AgentDependencies, Config, DiskEnforcement, Environment, HelperCommands, ImageRoots,
    IsolationMode, NetworkSettings,
};
use argosy_host::ProcessId;
use argosy_network::InterContainerTraffic;
use argosy_proto::server::callers::{self, AllowedCallers, ApiAccess};
use argosy_state::actor::PrincipalKind;
use argosy_state::resources::{Resource, ResourceIdentity, Resources, Value};
use argosy_state::task::Sizes;
use nix::sys::signal::Signal;
use tokio::runtime::Builder;
use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;

use crate::args::{
    AgentStart, AgentStop, DiskEnforcementName, ImagePullName, ImageRootsName, IsolationName,
    OrphanTasks,
};
use crate::exit::{DONE, Failure, FailureCode, VerbResult};
use crate::launcher::LauncherProgram;
use crate::master::advertised;
use crate::output::{StatusLine, StatusMode, note};
use crate::pid_file::{self, PidFile};
use crate::service_manager::ServiceManager;
use crate::shutdown::{self, END_TASKS, StopCondition};
use crate::transport::ServiceTransport;
use crate::{adoption, containers, launcher, listen, logging, metrics, parsers, random};

/// Interval at which process exits are polled.
const POLL_INTERVAL: Duration = Duration::from_millis(20);

pub(crate) fn start(arguments: &AgentStart) -> VerbResult {
    logging::install(&arguments.logging)?;
    let resolved = listen::resolve(&arguments.listen, "--listen")?;
    let transport =
        ServiceTransport::new(&arguments.tls, PrincipalKind::Agent, &arguments.api_users)?;
    let address = advertised(
        arguments.advertise.as_ref(),
        &arguments.listen,
        resolved,
        "--advertise",
    )?;
    let api = listen::bind(&arguments.listen, "--listen")?;
    let mut config = config(arguments, address)?;
    config.access = access(arguments, &transport);
    config.cluster = transport.cluster();
    config.host_names = listen::host_names(&arguments.listen, &arguments.allow_hosts);
    config.api_port = Some(resolved.port());
    crate::raise_file_limit();
    let recorder = metrics::install()?;
    let launcher = launcher::choose();
    let pid_file = arguments
        .pid_file
        .as_deref()
        .map(PidFile::write)
        .transpose()?;
    let (env, _pid_file) = environment(&config, &launcher, pid_file)?;
    let (stop, end_tasks) = (CancellationToken::new(), CancellationToken::new());
    let runtime = Builder::new_multi_thread()
        .enable_all()
        .build()
        .context("cannot start threads")?;
    let ended = runtime.block_on(async {
        let until = match arguments.stop_with_stdin {
            None => StopCondition::Signals(&stop),
            Some(OrphanTasks::Leave) => StopCondition::SignalsOrInput(&stop, &stop),
            Some(OrphanTasks::End) => StopCondition::SignalsOrInput(&stop, &end_tasks),
        };
        shutdown::watch(until)?;
        shutdown::watch_for_end_of_tasks(end_tasks.clone())?;
        transport.begin();
        let directory = Some(arguments.data_dir.clone());
        tokio::spawn(metrics::run(recorder.clone(), directory, stop.clone()));
        let parts = AgentDependencies {
            api: listen::connections(api, &transport).context("cannot use the API's socket")?,
            environment: env,
            connector: transport.client().connector(),
            metrics: Some(recorder),
            end_tasks,
            serving: Some(report(&stop)),
        };
        tracing::info!(api = arguments.listen, directory = %arguments.data_dir.display(), "starting");
        Ok::<_, Failure>(argosy_agent::run(config, parts, stop).await)
    });
    runtime.shutdown_timeout(Duration::from_secs(2));
    ended?.map_err(|error| Failure::of(&error))?;
    Ok(DONE)
}

/// Reports to the service manager when the returned sender is used, and from then on.
fn report(stop: &CancellationToken) -> oneshot::Sender<Arc<AtomicU64>> {
    let manager = ServiceManager::from_environment();
    tokio::spawn(manager.clone().report_stop(stop.clone()));
    let (serving, served) = oneshot::channel::<Arc<AtomicU64>>();
    tokio::spawn(async move {
        if let Ok(turns) = served.await {
            manager.report_ready();
            let turns = move || turns.load(Ordering::Relaxed);
            manager.report_progress(turns).await;
        }
    });
    serving
}

/// Returns the callers of each part of the API.
fn access(arguments: &AgentStart, transport: &ServiceTransport) -> ApiAccess {
    let users = &arguments.api_users;
    let mut access = listen::access(users, arguments.allow_exec, arguments.allow_files);
    if transport.is_required() {
        access.status = AllowedCallers::users(users.iter().copied());
    }
    access
}

/// Returns the agent's environment. The process is divided if it is root and isolates in full,
/// before it has threads.
fn environment(
    config: &Config,
    launcher: &LauncherProgram,
    pid_file: Option<PidFile>,
) -> Result<(Environment, Option<PidFile>), Failure> {
    let commands = HelperCommands {
        launcher: launcher.command.clone(),
        content: launcher::content(),
    };
    callers::keep_caller_sources();
    let inherited = launcher.file();
    let inherited: Vec<_> = inherited.iter().map(AsFd::as_fd).collect();
    let mut pid_file = pid_file;
    let link =
        argosy_agent::separate_privileges(config, &commands, &inherited, || drop(pid_file.take()));
    match link.map_err(|error| Failure::of(&error))? {
        Some(link) => Ok((Environment::Brokered(link), None)),
        None => Ok((Environment::Machine(commands), pid_file)),
    }
}

fn config(arguments: &AgentStart, address: String) -> Result<Config, Failure> {
    let directory = &arguments.data_dir;
    fs::create_dir_all(directory)
        .with_context(|| format!("cannot make the directory {}", directory.display()))?;
    let masters = arguments.masters.addresses().to_vec();
    let mut config = Config::new(directory.clone(), masters, address);
    if let Some(name) = &arguments.host_name {
        config.host_name.clone_from(name);
    }
    config.adoption = adoption::read(directory)?;
    config.task_address.clone_from(&arguments.task_address);
    config.resources = match &arguments.resources {
        Some(resources) => resources.clone(),
        None => argosy_agent::inventory::detect(directory).map_err(|error| Failure::of(&error))?,
    };
    devices(arguments, &mut config)?;
    config.attributes =
        parsers::unique(&arguments.attributes, "--attribute").map_err(Failure::usage)?;
    config.isolation = match arguments.isolation {
        None => IsolationMode::Detect,
        Some(IsolationName::Full) => IsolationMode::Full,
        Some(IsolationName::UserNamespaces) => IsolationMode::UserNamespaces,
        Some(IsolationName::Processes) => IsolationMode::Processes,
    };
    config.allow_missing_controllers = arguments.allow_missing_controllers;
    logs(arguments, &mut config);
    config.default_memory_bytes = arguments.default_mem;
    config.default_disk_bytes = arguments.default_disk;
    fetching(arguments, &mut config);
    check_directories(arguments)?;
    let subscribes = arguments.executor_registration_timeout;
    config.executor_registration_timeout_ms = subscribes.as_millis() as u64;
    config.host_paths.clone_from(&arguments.host_paths);
    config.secret_dir.clone_from(&arguments.secret_dir);
    config.sandbox_headroom_percent = arguments.disk_headroom;
    config.disk_floor_bytes = arguments.disk_floor;
    config.disk_enforcement = match arguments.disk_enforcement {
        DiskEnforcementName::Measured => DiskEnforcement::Measured,
        DiskEnforcementName::Quota => DiskEnforcement::Quota,
        DiskEnforcementName::Loop => DiskEnforcement::Loop,
    };
    config.allowed_security_options = arguments.allowed_security_options.options();
    config.largest_sizes = Sizes {
        open_files: Some(arguments.max_open_files),
        shm_bytes: Some(arguments.max_shm_size),
        tmp_bytes: Some(arguments.max_tmp_size),
    };
    images(arguments, &mut config.images);
    config.image_roots = match arguments.image_roots {
        ImageRootsName::Detect => ImageRoots::Detect,
        ImageRootsName::Overlay => ImageRoots::Overlay,
        ImageRootsName::Copy => ImageRoots::Copy,
    };
    networks(arguments, &mut config.networks);
    config.seed = match arguments.seed {
        Some(seed) => seed,
        None => random::number()?,
    };
    Ok(config)
}

fn images(arguments: &AgentStart, images: &mut ImageSettings) {
    images.headroom_percent = arguments.disk_headroom;
    images.credentials.clone_from(&arguments.image_credentials);
    images
        .insecure_registries
        .clone_from(&arguments.insecure_registries);
    images.directories.clone_from(&arguments.image_dirs);
    images.pull = match arguments.image_pull {
        ImagePullName::IfAbsent => PullPolicy::IfAbsent,
        ImagePullName::Latest => PullPolicy::Latest,
        ImagePullName::Always => PullPolicy::Always,
    };
}

fn logs(arguments: &AgentStart, config: &mut Config) {
    config.audit_file_mib = arguments.audit_log_mib;
    config.log_file_bytes = arguments.log_file_size;
    config.log_files = arguments.log_files;
    config.log_retention = arguments.log_retention_age;
    config.log_retention_bytes = arguments.log_retention_bytes;
}

fn fetching(arguments: &AgentStart, config: &mut Config) {
    config.fetch_dirs.clone_from(&arguments.fetch_dirs);
    config.fetch_allow.clone_from(&arguments.fetch_allow);
    config.task_allow.clone_from(&arguments.task_allow);
    config.task_deny.clone_from(&arguments.task_deny);
    config.fetch_cache_bytes = arguments.fetch_cache;
    let pins = &arguments.fetch_cache_pins;
    config.fetch_cache_pins.clone_from(pins);
}

/// Rejects relative host directories, which have no meaning to a service.
fn check_directories(arguments: &AgentStart) -> Result<(), Failure> {
    let paths = arguments
        .host_paths
        .iter()
        .map(|path| ("--host-path", path));
    let directories = arguments
        .image_dirs
        .iter()
        .map(|path| ("--image-dir", path));
    let secrets = arguments
        .secret_dir
        .iter()
        .map(|path| ("--secret-dir", path));
    let fetched = arguments
        .fetch_dirs
        .iter()
        .map(|path| ("--fetch-dir", path));
    let mut all = paths.chain(directories).chain(secrets).chain(fetched);
    if let Some((flag, path)) = all.find(|(_, path)| !path.is_absolute()) {
        return Err(Failure::usage(format!(
            "{flag} {} is not an absolute path; begin it with /",
            path.display()
        )));
    }
    Ok(())
}

/// Adds each device as an item of a resource, in addition to the resources offered otherwise.
fn devices(arguments: &AgentStart, config: &mut Config) -> Result<(), Failure> {
    for (name, paths) in &arguments.devices {
        if config.devices.insert(name.clone(), paths.clone()).is_some() {
            return Err(Failure::usage(format!("--device {name} is given twice")));
        }
    }
    if config.devices.is_empty() {
        return Ok(());
    }
    let names = config.devices.keys().map(|name| name.as_str().into());
    let devices = Resource {
        identity: ResourceIdentity::plain("devices"),
        value: Value::Set(names.collect()),
    };
    let devices = Resources::collect([devices]);
    let all = devices.and_then(|devices| config.resources.plus(&devices));
    config.resources = all.ok_or_else(|| {
        Failure::usage("--device: --resources has devices, too; name each in one place")
    })?;
    Ok(())
}

fn networks(arguments: &AgentStart, settings: &mut NetworkSettings) {
    settings.subnet = arguments.network_subnet;
    settings.subnet6 = arguments.network_subnet6;
    if arguments.network_inter_container {
        settings.inter_container = InterContainerTraffic::Open;
    }
    settings.cni.conf_dir.clone_from(&arguments.cni_config_dir);
    settings.cni.plugins.clone_from(&arguments.cni_plugins);
}

/// Stops the agent that holds this directory. Its tasks keep running unless `--kill-tasks` is
/// given.
pub(crate) fn stop(arguments: &AgentStop) -> VerbResult {
    let directory = &arguments.data_dir;
    if !directory.is_dir() {
        return Err(Failure::new(
            FailureCode::NotFound,
            format!("there is no directory {}", directory.display()),
        )
        .advise("name the agent's directory with --data-dir"));
    }
    let holder = match is_of_agent(directory)? {
        true => holder(directory)?,
        false => None,
    };
    match holder {
        None => note(&format!("no agent runs on {}", directory.display())),
        Some(process) => {
            let signal = if arguments.kill_tasks {
                END_TASKS
            } else {
                Signal::SIGTERM
            };
            end(process, signal, arguments.timeout, directory)?;
            note(&format!("agent {} has stopped", process.pid));
        }
    }
    if arguments.kill_tasks {
        // Containers that an agent which was not running, or did not wait, has left.
        let count = containers::end_all(directory, arguments.grace)?;
        match (count, holder) {
            (0, None) => note("no task of it was running"),
            // The agent itself has ended its tasks.
            (0, Some(_)) => {}
            (1, _) => note("1 task ended; the next agent here reports its result"),
            (_, _) => note(&format!(
                "{count} tasks ended; the next agent here reports their results"
            )),
        }
    }
    Ok(DONE)
}

/// Whether an agent has used this directory; false if it is empty. Another directory is refused:
/// tasks would keep running that were to be ended.
fn is_of_agent(directory: &Path) -> Result<bool, Failure> {
    let (mut is_empty, mut has_others) = (true, false);
    let failed = || format!("cannot read {}", directory.display());
    for entry in fs::read_dir(directory).with_context(failed)? {
        let name = entry.with_context(failed)?.file_name();
        if name == "journal" || name == "containers" {
            return Ok(true);
        }
        is_empty = false;
        // An agent that is starting has only this; earlier releases left it in any directory.
        has_others |= name != "lock";
    }
    if has_others {
        let text = format!("{} is not the directory of an agent", directory.display());
        return Err(Failure::new(FailureCode::NotFound, text)
            .advise("name the directory that the agent was started with in --data-dir"));
    }
    Ok(!is_empty)
}

/// Returns the process that holds the agent's lock, if any.
fn holder(directory: &Path) -> Result<Option<ProcessId>, Failure> {
    if containers::lock(directory)?.is_some() {
        return Ok(None);
    }
    let path = containers::lock_path(directory);
    let text =
        fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
    let pid: i32 = text
        .split_ascii_whitespace()
        .next()
        .and_then(|word| word.parse().ok())
        .with_context(|| format!("{} names no process", path.display()))?;
    let process = ProcessId::of(pid).with_context(|| {
        format!(
            "cannot inspect process {pid}, which holds {}",
            path.display()
        )
    })?;
    Ok(Some(process))
}

fn end(
    process: ProcessId,
    signal: Signal,
    timeout: Duration,
    directory: &Path,
) -> Result<(), Failure> {
    let failed = |error: std::io::Error| {
        Failure::failed(format!("cannot stop process {}: {error}", process.pid))
    };
    pid_file::signal(process, signal).map_err(failed)?;
    let deadline = Instant::now() + timeout;
    let mut line = StatusLine::new(StatusMode::Shown);
    while pid_file::is_alive(process) || containers::lock(directory)?.is_none() {
        if Instant::now() >= deadline {
            let waited = crate::output::span_ms(timeout.as_millis() as u64);
            return Err(Failure::failed(format!(
                "agent {} has not stopped after {waited}",
                process.pid
            ))
            .advise("its tasks would survive kill -9 too"));
        }
        line.show(|_| format!("waiting for agent {} to stop", process.pid));
        std::thread::sleep(POLL_INTERVAL);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stopping_without_an_agent_is_reported_and_succeeds() {
        let directory = tempfile::tempdir().unwrap();
        assert_eq!(holder(directory.path()).unwrap(), None);
    }

    #[test]
    fn a_directory_that_no_agent_has_used_is_refused_and_stays_unchanged() {
        let directory = tempfile::tempdir().unwrap();
        assert!(!is_of_agent(directory.path()).unwrap());
        fs::create_dir(directory.path().join("agent-1")).unwrap();
        let refused = is_of_agent(directory.path()).unwrap_err();
        assert_eq!(refused.code, FailureCode::NotFound);
        assert!(refused.message.contains("not the directory of an agent"));
        assert!(!containers::lock_path(directory.path()).exists());
        fs::write(containers::lock_path(directory.path()), "").unwrap();
        is_of_agent(directory.path()).unwrap_err();
        fs::create_dir(directory.path().join("containers")).unwrap();
        assert!(is_of_agent(directory.path()).unwrap());
    }

    #[test]
    fn the_process_that_holds_the_lock_is_found() {
        let directory = tempfile::tempdir().unwrap();
        let held = containers::lock(directory.path()).unwrap().unwrap();
        fs::write(
            containers::lock_path(directory.path()),
            format!("{}", std::process::id()),
        )
        .unwrap();
        assert_eq!(
            holder(directory.path()).unwrap().unwrap().pid,
            std::process::id() as i32
        );
        drop(held);
        assert_eq!(holder(directory.path()).unwrap(), None);
    }
}
