//! From a launch order to a container: folders, environment, user, limits.

use std::fs::DirBuilder;
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use argosy_isolation::profile::{COMMAND_ID, Walls};
use argosy_isolation::view::SANDBOX;
use argosy_isolation::{
    BootTime, ContainerId, Isolation, Limits, MissingPolicy, Namespaces, Profile, Program, Root,
    Spec, StopAfter, User, View,
};
use argosy_proto::v1;

use super::Shared;
use crate::core::{Refusal, Start};
use crate::sandbox;

/// Where commands are looked up unless a task says otherwise.
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
/// `cpu.weight` of one cpu: the kernel's default.
const WEIGHT_OF_A_CPU: u64 = 100;
const MIB: u64 = 1024 * 1024;
/// What `/tmp` and `/dev/shm` of a task may hold each; it counts as its memory.
const SCRATCH_BYTES: u64 = 64 * MIB;

/// Another host would refuse it too.
fn invalid(text: impl Into<String>) -> Refusal {
    Refusal {
        reason: v1::Reason::TaskInvalid,
        text: text.into(),
    }
}

fn failed(text: impl Into<String>) -> Refusal {
    Refusal {
        reason: v1::Reason::ContainerLaunchFailed,
        text: text.into(),
    }
}

/// Makes the folders of a container, and what the launcher needs to know.
pub(super) fn spec(shared: &Shared, start: &Start) -> Result<Spec, Refusal> {
    let task = start
        .launch
        .spec
        .as_ref()
        .ok_or_else(|| invalid("spec: it is missing"))?;
    let folder = shared.paths.container(start.name);
    let sandbox = shared.paths.sandbox(&start.key, start.name);
    let user =
        user(&task.user, shared.settings.profile).map_err(|error| failed(error.to_string()))?;
    let owner = shared.owner(start.name, user.as_ref()).map_err(failed)?;
    let made = DirBuilder::new()
        .mode(0o700)
        .recursive(true)
        .create(&folder);
    let refused = |error| {
        format!(
            "cannot make {}: {error}; mend the disk or make room",
            folder.display()
        )
    };
    made.map_err(|error: io::Error| failed(refused(error)))?;
    sandbox::make(&sandbox, owner.as_ref()).map_err(|error| failed(error.to_string()))?;
    let host_paths =
        sandbox::link_host_paths(&sandbox, &task.host_paths, &shared.settings.host_paths)
            .map_err(|error| invalid(error.to_string()))?;
    let id = ContainerId::new(start.name.to_string()).expect("digits and dashes make a name");
    let mut spec = Spec::new(id, &folder, &sandbox, program(task)?);
    spec.nonce = shared.settings.nonce(start.name);
    let inside = match shared.settings.profile {
        true => Path::new(SANDBOX),
        false => &sandbox,
    };
    spec.environment = environment(shared, start, task, inside);
    spec.isolation = shared.settings.isolation;
    if spec.isolation == Isolation::Processes {
        spec.namespaces = Namespaces::NONE;
    }
    spec.profile = profile(shared, start, host_paths)?;
    spec.user = match spec.profile {
        Some(_) => Some(command_user(user.as_ref())),
        None => user,
    };
    spec.cgroup = shared
        .group(start.name)
        .map(|group| group.path().to_owned());
    if spec.cgroup.is_some() {
        spec.limits = limits(task, shared.settings.pids_max);
    }
    spec.missing = if shared.settings.allow_missing_controllers {
        MissingPolicy::AllowMissing
    } else {
        MissingPolicy::RequireAll
    };
    spec.stop_after = start.stop_at.map(|at| StopAfter {
        deadline: BootTime(at.0),
        grace_ms: task.kill_policy.map_or(0, |policy| policy.grace_ms),
    });
    Ok(spec)
}

/// What its tasks get from an agent that confines them.
fn profile(
    shared: &Shared,
    start: &Start,
    host_paths: Vec<PathBuf>,
) -> Result<Option<Profile>, Refusal> {
    let Some(host_ids) = &shared.host_ids else {
        return Ok(None);
    };
    let first_host_id = host_ids
        .take(start.name)
        .map_err(|error| failed(error.to_string()))?;
    Ok(Some(Profile {
        first_host_id,
        view: View {
            root: Root::Host,
            host_paths,
            scratch_bytes: SCRATCH_BYTES,
        },
        walls: Walls::ALL,
    }))
}

fn program(task: &v1::TaskSpec) -> Result<Program, Refusal> {
    match (task.shell.is_empty(), task.argv.is_empty()) {
        (false, true) => Ok(Program::Shell(task.shell.clone())),
        (true, false) => Ok(Program::Arguments(task.argv.clone())),
        (true, true) => Err(invalid("shell, argv: give one of them")),
        (false, false) => Err(invalid("shell, argv: give only one of them")),
    }
}

/// The task's own variables win over defaults, and lose against what names the task.
fn environment(
    shared: &Shared,
    start: &Start,
    task: &v1::TaskSpec,
    sandbox: &Path,
) -> Vec<(String, String)> {
    let settings = &shared.settings;
    let sandbox = sandbox.to_string_lossy().into_owned();
    let defaults = [("PATH", PATH.to_owned()), ("HOME", sandbox.clone())];
    let names = [
        ("ARGOSY_TASK_ID", start.key.task.to_string()),
        ("ARGOSY_FRAMEWORK_ID", start.key.framework.to_string()),
        ("ARGOSY_AGENT_ID", start.name.instance.agent.to_string()),
        ("ARGOSY_ORDER", start.name.instance.order.0.to_string()),
        ("ARGOSY_SANDBOX", sandbox),
        ("ARGOSY_ADDRESS", settings.task_address.clone()),
        ("ARGOSY_AGENT_API", settings.address.clone()),
    ];
    let mut all: std::collections::BTreeMap<String, String> = defaults
        .into_iter()
        .map(|(name, value)| (name.to_owned(), value))
        .collect();
    all.extend(
        task.environment
            .iter()
            .map(|(name, value)| (name.clone(), value.clone())),
    );
    all.extend(
        names
            .into_iter()
            .map(|(name, value)| (name.to_owned(), value)),
    );
    all.into_iter().collect()
}

fn limits(task: &v1::TaskSpec, pids_max: u64) -> Limits {
    let milli = |name: &str| -> u64 {
        let named = task
            .resources
            .iter()
            .filter(|resource| resource.name == name);
        named
            .filter_map(|resource| match resource.value {
                Some(v1::resource::Value::ScalarMilli(milli)) => u64::try_from(milli).ok(),
                Some(v1::resource::Value::Ranges(_) | v1::resource::Value::Set(_)) | None => None,
            })
            .sum()
    };
    let some = |amount: u64| (amount > 0).then_some(amount);
    Limits {
        cpu_max_millis: None,
        cpu_weight: some(milli("cpus"))
            .map(|cpus| (cpus * WEIGHT_OF_A_CPU / 1000).clamp(1, 10_000)),
        memory_max_bytes: some(milli("mem")).map(|mem| mem.saturating_mul(MIB) / 1000),
        pids_max: some(pids_max),
    }
}

/// Whether a container that was found gone had certainly never started: its folder was never made, or
/// its handle says that somebody voided the start.
pub(super) fn never_started(folder: &Path) -> bool {
    match std::fs::read(folder.join("handle.json")) {
        Ok(bytes) => serde_json::from_slice::<String>(&bytes).is_ok_and(|claim| claim == "void"),
        Err(_) => !folder.exists(),
    }
}

/// Who a task is among the users of its container.
pub(super) fn command_user(named: Option<&User>) -> User {
    named.cloned().unwrap_or(User {
        uid: COMMAND_ID,
        gid: COMMAND_ID,
        groups: Vec::new(),
    })
}

/// Whom a task that names this user runs as; `None` if nobody was named, or the agent's own user.
pub(super) fn user(name: &str, profile: bool) -> Result<Option<User>, argosy_isolation::SpecError> {
    match name {
        "" => Ok(None),
        name => {
            let own = nix::unistd::geteuid();
            let user = User::named(name)?;
            // Naming the agent's own user asks for nothing, and is allowed in every isolation; with the profile it is
            // the container's user of that number.
            Ok((profile || user.uid != own.as_raw()).then_some(user))
        }
    }
}
