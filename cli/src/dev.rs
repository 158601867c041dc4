//! `argosy dev`: masters and agents on this machine, as processes of this executable, until Ctrl-C.
//!
//! The parts: `plan` (members, addresses and command lines; pure), `credentials` (its CA and keys),
//! `access_flags` (what the plan opens; pure), `record` (the file for scripts), `published` (the
//! context), `members` (the processes), `ready` (waiting for the cluster).

mod access_flags;
mod credentials;
mod members;
mod plan;
mod published;
mod ready;
mod record;

use std::fs::{self, File, TryLockError};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context;
use argosy_host::remove_tree::remove_dir_all;
use argosy_isolation::cgroup;
use argosy_network::Subnet;
use nix::sys::signal::Signal;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

use crate::args::{ClientTls, Dev, Format, IsolationName};
use crate::exit::{DONE, Failure, VerbResult, chain};
use crate::operator::{ClusterClient, arguments, quote};
use crate::output::{self, StatusMode, note};
use crate::shutdown::END_TASKS;
use crate::transport::ClientTransport;
use crate::{containers, listen};

use access_flags::opening_flags;
use members::DevMembers;
use plan::{DevPlan, MemberKind};
use record::{DevRecord, RecordedTls};

/// Time between TERM and KILL for the tasks of a temporary cluster.
const TASK_GRACE: Duration = Duration::from_secs(1);
/// Time for the processes of a cgroup to exit.
const EXIT_TIMEOUT: Duration = Duration::from_secs(5);

pub(crate) async fn run(arguments: &Dev) -> VerbResult {
    let home = DevDirectory::new(arguments)?;
    let executable = std::env::current_exe().context("cannot find this very executable")?;
    let mut plan = DevPlan::new(arguments, home.path(), &executable);
    let no_networks = why_no_networks(arguments);
    if no_networks.is_some() && !arguments.allowed_security_options.host_network {
        plan.allow_host_network();
    }
    if let Err(failure) = addresses_are_free(&plan) {
        // Nothing was started, so nothing is kept: a directory that was just created is removed.
        home.discard();
        return Err(failure);
    }
    let stop = stop_at_signals()?;
    if !arguments.insecure_plaintext
        && let Err(error) = credentials::create(home.path(), &plan)
    {
        if !home.is_persistent() {
            // The directory is temporary, and has nothing but keys.
            let _ = fs::remove_dir_all(home.path());
        }
        return Err(error.into());
    }
    let mut members = DevMembers::new(&plan);
    let ended = cluster(
        arguments,
        &plan,
        no_networks.as_deref(),
        &home,
        &mut members,
        &stop,
    );
    let ended = ended.await;
    let cleared = clean_up(&plan, &home, &mut members, arguments).await;
    ended.and(cleared)
}

fn addresses_are_free(plan: &DevPlan) -> Result<(), Failure> {
    for (address, member) in plan.addresses() {
        listen::is_free(&address, "--base").map_err(|failure| Failure {
            message: format!("{member} cannot start: {}", failure.message),
            ..failure
        })?;
    }
    Ok(())
}

/// Runs the cluster, from the start of the first process to the signal that ends it.
async fn cluster(
    arguments: &Dev,
    plan: &DevPlan,
    no_networks: Option<&str>,
    home: &DevDirectory,
    members: &mut DevMembers,
    stop: &StopSignal,
) -> VerbResult {
    members.start(plan, home.is_persistent())?;
    let opened = opening_flags(plan, std::env::var_os);
    let mut record = DevRecord::new(plan, home.path(), opened);
    record.tls = (!arguments.insecure_plaintext).then(|| RecordedTls::new(home.path()));
    record.note_processes(members);
    record.write(arguments)?;
    let tls = match arguments.insecure_plaintext {
        true => ClientTls::default(),
        false => credentials::of_user(home.path()),
    };
    let transport = ClientTransport::new(&tls)?;
    let operator = ClusterClient::to(plan.masters(), Duration::from_secs(2), transport);
    let mode = StatusMode::unless(arguments.show.output.is_json());
    let found = tokio::select! {
        found = ready::wait(plan, members, &operator, (arguments.timeout, mode)) => found?,
        () = stop.first.cancelled() => return Ok(DONE),
    };
    members.find_trees();
    let published = published::publish(plan, home.path(), tls);
    record.context = published.is_ok().then(|| plan.context().to_string());
    record.ready = true;
    record.write(arguments)?;
    match arguments.show.output {
        Format::Table | Format::Wide => {
            banner(plan, no_networks, home, &found, record.opened());
            published::report(arguments, plan, home.path(), &published);
        }
        Format::Yaml => drop(output::print(&output::yaml(&record)?)?),
        Format::Json | Format::Ndjson | Format::Name => {
            output::print(&output::json(&record)?)?;
        }
    }
    loop {
        tokio::select! {
            () = stop.first.cancelled() => return Ok(DONE),
            ended = members.next_end() => note(&ended),
        }
    }
}

/// Returns why tasks cannot have a network on this host, or `None` if they can. If they cannot,
/// tasks use the host's network.
fn why_no_networks(arguments: &Dev) -> Option<String> {
    let makes = matches!(arguments.isolation, None | Some(IsolationName::Full));
    if !makes || !nix::unistd::geteuid().is_root() {
        return Some("they need root and full isolation".to_owned());
    }
    let impossible = argosy_network::check(Subnet::DEFAULT, None).err()?;
    Some(chain(&impossible))
}

fn banner(
    plan: &DevPlan,
    no_networks: Option<&str>,
    home: &DevDirectory,
    found: &ready::ReadyCluster,
    opened: &[String],
) {
    let kept = match home {
        DevDirectory::Persistent { path, .. } => format!("kept in {}", path.display()),
        DevDirectory::Temporary(_) => "removed on exit (--keep DIR keeps it)".to_owned(),
    };
    note(&format!(
        "Argosy {}, dev cluster: {}, {kept}",
        env!("CARGO_PKG_VERSION"),
        plan.size_text()
    ));
    if !found.missing_controllers.is_empty() {
        note(&format!(
            "! task limits are off: {} cannot be enforced on this host (argosy doctor)",
            found.missing_controllers.join(", ")
        ));
    }
    if let Some(why) = no_networks {
        note(&format!(
            "! tasks use this host's network: private networks are not possible ({why})"
        ));
    }
    if !opened.is_empty() {
        note(&format!("! opened: {}", opened.join(", ")));
    }
    let masters = plan.masters();
    let first = masters.addresses().first().cloned().unwrap_or_default();
    let scheme = if plan.is_plaintext() { "http" } else { "https" };
    note(&format!("  web and api  {scheme}://{first}"));
    note(&format!(
        "  record       {}",
        home.path().join(record::FILE).display()
    ));
}

/// Stops and removes everything. Continues after a failure and returns the first one.
async fn clean_up(
    plan: &DevPlan,
    home: &DevDirectory,
    members: &mut DevMembers,
    arguments: &Dev,
) -> VerbResult {
    note("stopping");
    let mut first = published::withdraw(plan, home.path()).err();
    members.find_trees();
    let signal = if home.is_persistent() {
        Signal::SIGTERM
    } else {
        END_TASKS
    };
    let stopped = members.stop(MemberKind::Agent, signal).await.err();
    first = first.or(stopped);
    if !home.is_persistent() {
        for member in plan
            .members
            .iter()
            .filter(|member| member.kind == MemberKind::Agent)
        {
            let directory = member.directory.clone();
            let ended =
                tokio::task::spawn_blocking(move || containers::end_all(&directory, TASK_GRACE))
                    .await;
            if let Err(error) = ended
                .context("the end of the tasks was interrupted")
                .and_then(|ended| ended)
            {
                first.get_or_insert_with(|| Failure::from(error));
            }
        }
    }
    if !home.is_persistent()
        && let Err(error) = remove_trees(&members.trees)
    {
        first.get_or_insert_with(|| Failure::from(error));
    }
    if let Err(failure) = members.stop(MemberKind::Master, Signal::SIGTERM).await {
        first.get_or_insert(failure);
    }
    if let Some(path) = &arguments.record {
        // The file names processes that no longer exist. If it cannot be removed, its `pid`s show
        // that.
        let _ = fs::remove_file(path);
    }
    if !home.is_persistent()
        && let Err(error) = credentials::remove(home.path(), plan)
    {
        first.get_or_insert_with(|| Failure::from(error));
    }
    if let Err(error) = home.leave(first.is_none()) {
        first.get_or_insert_with(|| Failure::from(error));
    }
    match first {
        Some(failure) => Err(failure),
        None => Ok(DONE),
    }
}

/// Kills the remaining processes in the cgroup trees of the agents, and removes the trees.
fn remove_trees(trees: &[PathBuf]) -> anyhow::Result<()> {
    for tree in trees {
        cgroup::remove_agent_tree(tree, EXIT_TIMEOUT)
            .with_context(|| format!("cannot remove the cgroup {}", tree.display()))?;
    }
    Ok(())
}

/// The directory of the cluster.
enum DevDirectory {
    /// Named by the user; it is kept, and the lock of the file excludes other clusters in it.
    Persistent { path: PathBuf, _lock: File },
    /// Temporary; it is removed with the cluster.
    Temporary(PathBuf),
}

impl DevDirectory {
    fn new(arguments: &Dev) -> Result<Self, Failure> {
        match &arguments.keep {
            Some(path) => {
                fs::create_dir_all(path)
                    .with_context(|| format!("cannot make the directory {}", path.display()))?;
                let path = path
                    .canonicalize()
                    .with_context(|| format!("cannot use the directory {}", path.display()))?;
                let lock = lock(&path)?;
                Ok(Self::Persistent { path, _lock: lock })
            }
            None => {
                // Short, because the paths of sockets below it are limited to 107 bytes.
                let template = std::env::temp_dir().join("argosy-XXXXXX");
                let path = nix::unistd::mkdtemp(&template)
                    .with_context(|| format!("cannot make {}", template.display()))?;
                // Agents without root privileges must be able to traverse it to their directories.
                fs::set_permissions(&path, fs::Permissions::from_mode(0o711))
                    .with_context(|| format!("cannot open {}", path.display()))?;
                Ok(Self::Temporary(path))
            }
        }
    }

    fn path(&self) -> &Path {
        match self {
            Self::Persistent { path, .. } | Self::Temporary(path) => path,
        }
    }

    fn is_persistent(&self) -> bool {
        matches!(self, Self::Persistent { .. })
    }

    /// Removes the directory before anything is stored in it.
    fn discard(&self) {
        if let Self::Temporary(path) = self {
            // It is empty and temporary, so a failed removal does no harm.
            let _ = fs::remove_dir(path);
        }
    }

    /// Removes a temporary directory. If not everything `is_stopped`, it is kept: a removal would
    /// not end while a task creates files in it.
    fn leave(&self, is_stopped: bool) -> anyhow::Result<()> {
        match self {
            Self::Temporary(path) if !is_stopped => {
                note(&format!(
                    "kept {}, which tasks may still use: remove it once they have ended",
                    path.display()
                ));
                Ok(())
            }
            Self::Persistent { path, .. } => {
                // The directory does not store size, host paths and the like.
                note(&format!(
                    "kept in {}; tasks keep running, and the same command resumes the cluster: {}",
                    path.display(),
                    arguments()
                        .iter()
                        .map(|word| quote(word))
                        .collect::<Vec<_>>()
                        .join(" ")
                ));
                Ok(())
            }
            Self::Temporary(path) => {
                remove_dir_all(path).with_context(|| format!("cannot remove {}", path.display()))
            }
        }
    }
}

/// Locks a directory for a cluster, whose keys another one would replace. The kernel releases the
/// lock when this process ends.
fn lock(directory: &Path) -> Result<File, Failure> {
    let path = directory.join("lock");
    let mut options = File::options();
    let opened = options.create(true).truncate(false).write(true).open(&path);
    let file = opened.with_context(|| format!("cannot open {}", path.display()))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => {
            let used = format!("{} is used by another argosy dev", directory.display());
            Err(Failure::failed(used).advise("stop that one, or name another directory by --keep"))
        }
        Err(TryLockError::Error(error)) => Err(anyhow::Error::new(error)
            .context(format!("cannot lock {}", path.display()))
            .into()),
    }
}

/// The signal that stops the cluster in order.
struct StopSignal {
    first: CancellationToken,
}

fn stop_at_signals() -> anyhow::Result<StopSignal> {
    let mut terminate = signal(SignalKind::terminate()).context("cannot listen for SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("cannot listen for SIGINT")?;
    let mut hang_up = signal(SignalKind::hangup()).context("cannot listen for SIGHUP")?;
    let first = CancellationToken::new();
    let token = first.clone();
    tokio::spawn(async move {
        loop {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
                _ = hang_up.recv() => {}
            }
            if token.is_cancelled() {
                note("still stopping; every process is killed if it takes longer than 10 s");
            }
            token.cancel();
        }
    });
    Ok(StopSignal { first })
}
