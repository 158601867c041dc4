//! Descriptions of tasks, as frameworks request them.

use std::collections::BTreeMap;
use std::path::Path;

use super::volume::TaskVolume;
use super::{
    Check, Container, Discovery, ExecutorSpec, HealthCheck, KillSignal, Sizes, TaskGroup,
    TaskLimits,
};
use crate::codec::canonical::CanonicalWriter;
use crate::codec::stored::stored;
use crate::ids::{Level, LevelRequirement, TaskId};
use crate::resources::{Resource, Resources};

/// A file that is fetched into the sandbox before the start.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Uri {
    /// An absolute path, `file://`, `http://` or `https://`.
    pub value: String,
    /// Whether it gets the executable bit.
    pub executable: bool,
    /// The name in the sandbox; empty means the last part of `value`.
    pub output_file: String,
    /// Whether it is an archive that is extracted to a directory.
    pub extract: bool,
    /// The SHA-256 of its bytes: 64 lower-case hexadecimal digits; empty means that it is not
    /// verified.
    pub sha256: String,
    /// Whether the agent caches it for other tasks.
    pub cache: bool,
}

/// A host path that is mounted in the container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostPath {
    /// The path on the host, absolute.
    pub host_path: String,
    /// The path in the container: absolute, or relative to the sandbox.
    pub container_path: String,
    /// Whether the task may not write to it.
    pub read_only: bool,
}

impl HostPath {
    /// Returns its path in the container. A host path with a name in the sandbox is mounted at the
    /// host's path.
    pub(crate) fn mount_path(&self) -> &str {
        match self.container_path.starts_with('/') {
            true => &self.container_path,
            false => &self.host_path,
        }
    }

    /// Returns whether its path in the container is that on the host.
    pub(crate) fn has_same_path(&self) -> bool {
        Path::new(self.mount_path()) == Path::new(&self.host_path)
    }
}

/// The command of a task.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CommandSpec {
    /// The command of the image.
    Image,
    /// A command line for `/bin/sh -c`.
    Shell(String),
    /// A program and its arguments; never empty.
    Argv(Vec<String>),
}

/// The description of a task, as a framework requests it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TaskSpec {
    /// The id within the framework.
    pub task: TaskId,
    /// A name for display; may be empty.
    pub name: String,
    /// The requested resources.
    pub resources: Resources,
    /// The limits, where they differ from the resources. Boxed, because most tasks have none.
    pub limits: Option<Box<TaskLimits>>,
    /// The command to run.
    pub run: CommandSpec,
    /// The settings of the container.
    pub container: Container,
    /// The whole environment.
    pub environment: BTreeMap<String, String>,
    /// The user; empty means the agent's default.
    pub user: String,
    /// The files that are fetched before the start.
    pub uris: Vec<Uri>,
    /// The host paths that are mounted at the start.
    pub host_paths: Vec<HostPath>,
    /// The grace period: milliseconds between the first signal of a kill and SIGKILL.
    pub grace_ms: u64,
    /// The first signal; `None`: that of the image, or else TERM.
    pub kill_signal: Option<KillSignal>,
    /// Free text of the framework.
    pub labels: BTreeMap<String, String>,
    /// The milliseconds after which the task is killed; 0 means never.
    pub max_completion_ms: u64,
    /// The milliseconds without a leader after which the task stops itself; 0 means never.
    pub stop_after_ms: u64,
    /// The check that kills the task after too many failures. Boxed, like the next one, because
    /// most tasks have none.
    pub health_check: Option<Box<HealthCheck>>,
    /// The check that only reports readiness.
    pub readiness_check: Option<Box<Check>>,
    /// The volumes, in addition to root and sandbox.
    pub volumes: Vec<TaskVolume>,
    /// Whether the command has a terminal instead of pipes.
    pub tty: bool,
    /// Whether attached clients may write to its standard input, which is empty otherwise.
    pub stdin: bool,
    /// The executor that runs the task, in one container for all its tasks; `None`: the task has
    /// its own container.
    pub executor: Option<Box<ExecutorSpec>>,
    /// The position of the task in its group, if it has one.
    pub group: Option<Box<TaskGroup>>,
    /// The data by which other programs find the task, if it has any.
    pub discovery: Option<Box<Discovery>>,
}

impl TaskSpec {
    /// Returns a task that runs this command, without resources and with default settings.
    #[must_use]
    pub fn new(task: TaskId, run: CommandSpec) -> Self {
        Self {
            task,
            name: String::new(),
            resources: Resources::none(),
            limits: None,
            run,
            container: Container::default(),
            environment: BTreeMap::new(),
            user: String::new(),
            uris: Vec::new(),
            host_paths: Vec::new(),
            grace_ms: 0,
            kill_signal: None,
            labels: BTreeMap::new(),
            max_completion_ms: 0,
            stop_after_ms: 0,
            health_check: None,
            readiness_check: None,
            volumes: Vec::new(),
            tty: false,
            stdin: false,
            executor: None,
            group: None,
            discovery: None,
        }
    }

    /// Returns the milliseconds after the last answered heartbeat after which nothing of the task
    /// runs any more: `stop_after_ms`, the grace period, and 5 % for differing clocks. `None` if
    /// the task never stops itself.
    #[must_use]
    pub fn stopped_after_ms(&self) -> Option<u64> {
        if self.stop_after_ms == 0 {
            return None;
        }
        let lived = self.stop_after_ms.saturating_add(self.grace_ms);
        Some(lived.saturating_add(lived.div_ceil(20)))
    }

    /// Returns the first used field that the level does not have.
    pub(crate) fn first_above(&self, level: Level) -> Option<LevelRequirement> {
        let rules = FIELD_RULES.iter().filter(|rule| (rule.is_used)(self));
        let fields = rules.map(|rule| LevelRequirement {
            level: rule.level,
            what: rule.field,
        });
        let executor = self.executor.as_ref().map(|executor| &executor.container);
        let containers = [Some(&self.container), executor].into_iter().flatten();
        fields
            .chain(containers.flat_map(Container::level_requirements))
            .find(|need| need.level > level)
    }
}

/// A field of a description that not every task, or not every level, may use.
pub(crate) struct FieldRule {
    /// The name on the wire.
    pub(crate) field: &'static str,
    pub(crate) is_used: fn(&TaskSpec) -> bool,
    /// The lowest feature level that has the field.
    pub(crate) level: Level,
    /// The reason why a task of an executor may not use the field, if it may not.
    pub(crate) in_executor: Option<&'static str>,
    /// The reason why a task of a group may not use the field, if it may not.
    pub(crate) in_group: Option<&'static str>,
}

/// Returns the rule of a field of the oldest level that concerns the task's container.
const fn own_container(field: &'static str, is_used: fn(&TaskSpec) -> bool) -> FieldRule {
    let why = "a task of an executor has no container of its own: ask for it in executor, or have no executor";
    FieldRule {
        field,
        is_used,
        level: Level::FIRST,
        in_executor: Some(why),
        in_group: None,
    }
}

/// The fields that not every task, or not every level, may use. The first used one is reported.
pub(crate) const FIELD_RULES: &[FieldRule] = &[
    own_container("group", |spec| spec.group.is_some()),
    own_container("container", |spec| spec.container != Container::default()),
    own_container("user", |spec| !spec.user.is_empty()),
    own_container("uris", |spec| !spec.uris.is_empty()),
    FieldRule {
        in_group: Some(
            "tasks of a group see none, as they share their users; use the group's folder",
        ),
        ..own_container("host_paths", |spec| !spec.host_paths.is_empty())
    },
    own_container("volumes", |spec| !spec.volumes.is_empty()),
    own_container("limits", |spec| spec.limits.is_some()),
    FieldRule {
        level: Level::RELEASE_0_2,
        ..own_container("kill_policy.signal", |spec| spec.kill_signal.is_some())
    },
    own_container("tty", |spec| spec.tty),
    own_container("stdin", |spec| spec.stdin),
    own_container("health_check", |spec| spec.health_check.is_some()),
    own_container("readiness_check", |spec| spec.readiness_check.is_some()),
    own_container("max_completion_ms", |spec| spec.max_completion_ms > 0),
    own_container("stop_after_ms", |spec| spec.stop_after_ms > 0),
    FieldRule {
        field: "volumes.secret as ROLE/NAME",
        is_used: TaskSpec::has_registry_secrets,
        level: Level::RELEASE_0_2,
        in_executor: None,
        in_group: None,
    },
    FieldRule {
        field: "discovery",
        is_used: |spec| spec.discovery.is_some(),
        level: Level::RELEASE_0_2,
        in_executor: None,
        in_group: None,
    },
];

/// A part of a description that agents of earlier releases ignore.
pub(crate) struct CapabilityRule {
    /// The capability by which an agent announces that it applies the part.
    pub(crate) capability: &'static str,
    /// The part, as messages name it.
    pub(crate) what: &'static str,
    pub(crate) is_needed: fn(&TaskSpec) -> bool,
}

/// The parts of a description that agents of earlier releases ignore, in the order of the
/// documentation.
pub(crate) const CAPABILITIES: &[CapabilityRule] = &[
    // Kills tasks with the signal of their kill policy.
    CapabilityRule {
        capability: "kill-signal",
        what: "kill_policy.signal",
        is_needed: |spec| spec.kill_signal.is_some(),
    },
    // Queries the registry of an image when the task requests it.
    CapabilityRule {
        capability: "image-pull",
        what: "container.pull",
        is_needed: |spec| {
            let of_executor = spec.executor.as_ref().map(|executor| &executor.container);
            let mut containers = of_executor.into_iter().chain([&spec.container]);
            containers.any(|container| container.pull.is_some())
        },
    },
    // Mounts host paths at paths that differ from the host's, and read-only.
    CapabilityRule {
        capability: "host-path-places",
        what: "host_paths with another container_path than the host's, or read_only",
        is_needed: |spec| {
            let mut paths = spec.host_paths.iter();
            paths.any(|path| path.read_only || !path.has_same_path())
        },
    },
    // Asks its leader for secrets of the registry.
    CapabilityRule {
        capability: "registry-secrets",
        what: "volumes.secret as ROLE/NAME",
        is_needed: TaskSpec::has_registry_secrets,
    },
];

// Numbers 18, 19, 21, 23, 25 and 27 are unused.
stored!(message TaskSpec {
    1 task: Text or "task id",
    2 name: Text,
    3 resources: Part,
    4 | 5 | 14 run: OneOf or "command to run",
    6 environment: TextMap,
    7 user: Text,
    8 uris: PartList,
    9 host_paths: PartList,
    10 grace_ms: Number,
    11 labels: TextMap,
    12 max_completion_ms: Number,
    13 stop_after_ms: Number,
    15 container: PartOrDefault,
    16 health_check: MaybePart,
    17 readiness_check: MaybePart,
    20 volumes: PartList,
    22 group: MaybePart,
    24 executor: MaybePart,
    26 limits: MaybePart,
    28 tty: Number,
    29 stdin: Number,
    30 kill_signal: NumberOrNone or "signal of a kill",
    31 discovery: MaybePart,
});

impl TaskSpec {
    /// Removes the fields that release 0.1.0 did not read. There, a request for the host's network
    /// had no effect.
    pub(crate) fn reduce_to_0_1_0(&mut self) {
        self.kill_signal = None;
        self.discovery = None;
        let executor = self.executor.as_mut();
        let containers = std::iter::once(&mut self.container)
            .chain(executor.map(|executor| &mut executor.container));
        for container in containers {
            container.security_options.host_network = false;
            container.sizes = Sizes::default();
            container.pull = None;
        }
    }

    /// Appends the fields that the fingerprint of a request covers. The numbers belong to the
    /// fingerprint, not to the wire format.
    pub(crate) fn fingerprint(&self, out: &mut CanonicalWriter) {
        let TaskSpec {
            task,
            name,
            resources,
            limits,
            run,
            container,
            environment,
            user,
            uris,
            host_paths,
            grace_ms,
            kill_signal,
            labels,
            max_completion_ms,
            stop_after_ms,
            health_check,
            readiness_check,
            volumes,
            tty,
            stdin,
            executor,
            group,
            discovery,
        } = self;
        out.text(1, task.as_str());
        out.text(2, name);
        out.list(3, resources, |out, one: &Resource| one.fingerprint(out));
        out.part(4, |out| run.fingerprint(out));
        out.part(5, |out| container.fingerprint(out));
        out.texts(6, environment);
        out.text(7, user);
        out.list(8, uris, |out, one: &Uri| one.fingerprint(out));
        out.list(9, host_paths, |out, one: &HostPath| one.fingerprint(out));
        out.number(10, *grace_ms);
        out.texts(11, labels);
        out.number(12, *max_completion_ms);
        out.number(13, *stop_after_ms);
        out.flag(14, *tty);
        out.flag(15, *stdin);
        out.list(16, volumes, |out, one: &TaskVolume| one.fingerprint(out));
        if let Some(limits) = limits {
            out.chosen(17, |out| limits.fingerprint(out));
        }
        if let Some(health) = health_check {
            out.chosen(18, |out| health.fingerprint(out));
        }
        if let Some(readiness) = readiness_check {
            out.chosen(19, |out| readiness.fingerprint(out));
        }
        if let Some(executor) = executor {
            out.chosen(20, |out| executor.fingerprint(out));
        }
        if let Some(group) = group {
            out.chosen(21, |out| group.fingerprint(out));
        }
        out.optional(22, kill_signal.map(|signal| signal.number().into()));
        if let Some(discovery) = discovery {
            out.chosen(23, |out| discovery.fingerprint(out));
        }
    }
}

stored!(oneof CommandSpec {
    4 Shell(Text),
    5 Argv(Inner<TextList>),
    14 Image,
});

impl CommandSpec {
    /// Appends the fields that the fingerprint of a request covers. The numbers belong to the
    /// fingerprint, not to the wire format.
    pub(crate) fn fingerprint(&self, out: &mut CanonicalWriter) {
        match self {
            CommandSpec::Image => out.chosen(1, |_| ()),
            CommandSpec::Shell(line) => out.chosen(2, |out| out.text(1, line)),
            CommandSpec::Argv(words) => out.chosen(3, |out| out.words(1, words)),
        }
    }
}

stored!(message Uri {
    1 value: Text,
    2 executable: Number,
    3 output_file: Text,
    4 extract: Number,
    5 sha256: Text,
    6 cache: Number,
});

impl Uri {
    /// Appends the fields that the fingerprint of a request covers. The numbers belong to the
    /// fingerprint, not to the wire format.
    pub(crate) fn fingerprint(&self, out: &mut CanonicalWriter) {
        let Uri {
            value,
            executable,
            output_file,
            extract,
            sha256,
            cache,
        } = self;
        out.text(1, value);
        out.flag(2, *executable);
        out.text(3, output_file);
        out.flag(4, *extract);
        out.text(5, sha256);
        out.flag(6, *cache);
    }
}

stored!(message HostPath {
    1 host_path: Text,
    2 container_path: Text,
    3 read_only: Number,
});

impl HostPath {
    /// Appends the fields that the fingerprint of a request covers. The numbers belong to the
    /// fingerprint, not to the wire format.
    pub(crate) fn fingerprint(&self, out: &mut CanonicalWriter) {
        let HostPath {
            host_path,
            container_path,
            read_only,
        } = self;
        out.text(1, host_path);
        out.text(2, container_path);
        out.flag(3, *read_only);
    }
}

#[cfg(test)]
impl TaskSpec {
    /// Returns a description for each field that release 0.1.0 does not have, by the name of its
    /// golden bytes.
    pub(crate) fn samples(base: &Self) -> Vec<(&'static str, Self)> {
        let with = |change: fn(&mut Self)| {
            let mut spec = base.clone();
            change(&mut spec);
            spec
        };
        vec![
            (
                "call-accept-kill-signal",
                with(|spec| spec.kill_signal = Some(KillSignal::Quit)),
            ),
            (
                "call-accept-discovery",
                with(|spec| spec.discovery = Some(Box::new(Discovery::sample()))),
            ),
        ]
    }
}
