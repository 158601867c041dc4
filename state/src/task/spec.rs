//! What frameworks ask for: a task's description.

use std::collections::BTreeMap;
use std::path::Path;

use super::volume::TaskVolume;
use super::{Check, Container, ExecutorSpec, HealthCheck, KillSignal, Limits, Sizes, TaskGroup};
use crate::encode::stored::stored;
use crate::fingerprint::Writer;
use crate::ids::TaskId;
use crate::resources::Resources;

/// A file to bring into the sandbox before the start.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Uri {
    /// An absolute path, `file://`, `http://` or `https://`.
    pub value: String,
    /// Whether it gets the executable bit.
    pub executable: bool,
    /// Its name in the sandbox; empty means the last part of `value`.
    pub output_file: String,
    /// Whether it is an archive that becomes a folder.
    pub extract: bool,
    /// What its bytes must be: 64 lower-case hexadecimal digits; empty means whatever they are.
    pub sha256: String,
    /// Whether the agent keeps it for other tasks.
    pub cache: bool,
}

/// A host path made visible to the task.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostPath {
    /// On the host, absolute.
    pub host_path: String,
    /// In the container: absolute, or relative to the sandbox.
    pub container_path: String,
    /// Whether the task may not write to it.
    pub read_only: bool,
}

impl HostPath {
    /// Where a container has it. By a name in the sandbox it is reached at the host's path.
    pub(crate) fn place(&self) -> &str {
        match self.container_path.starts_with('/') {
            true => &self.container_path,
            false => &self.host_path,
        }
    }

    /// Whether it is where the host has it.
    pub(crate) fn is_at_home(&self) -> bool {
        Path::new(self.place()) == Path::new(&self.host_path)
    }
}

/// What to run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Run {
    /// What the image says.
    Image,
    /// A command line for `/bin/sh -c`.
    Shell(String),
    /// A program and its arguments; never empty.
    Argv(Vec<String>),
}

/// What a framework asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TaskSpec {
    /// Its id within the framework.
    pub task: TaskId,
    /// For people; may be empty.
    pub name: String,
    /// What it uses.
    pub resources: Resources,
    /// The most that it may use, where that is something else. Boxed: most tasks have none.
    pub limits: Option<Box<Limits>>,
    /// What to run.
    pub run: Run,
    /// What its container is made of.
    pub container: Container,
    /// Its whole environment.
    pub environment: BTreeMap<String, String>,
    /// Empty means the agent's default.
    pub user: String,
    /// Brought before the start.
    pub uris: Vec<Uri>,
    /// Mounted at the start.
    pub host_paths: Vec<HostPath>,
    /// Milliseconds from the signal that asks it to end to KILL.
    pub grace_ms: u64,
    /// That signal; `None`: the one that its image names, else TERM.
    pub kill_signal: Option<KillSignal>,
    /// Free text of the framework.
    pub labels: BTreeMap<String, String>,
    /// Milliseconds until it is killed; 0 means never.
    pub max_completion_ms: u64,
    /// Milliseconds without a leader until it stops itself; 0 means never.
    pub stop_after_ms: u64,
    /// Asked while it runs; ends it when it fails too often. Boxed, like the next: most tasks have none.
    pub health_check: Option<Box<HealthCheck>>,
    /// Asked while it runs; only tells.
    pub readiness_check: Option<Box<Check>>,
    /// What it sees beside its root and its sandbox.
    pub volumes: Vec<TaskVolume>,
    /// Its command has a terminal instead of pipes.
    pub tty: bool,
    /// Whoever attaches to it may write to its standard input, which is empty otherwise.
    pub stdin: bool,
    /// Runs it, in a container of its own for all tasks of that executor; `None`: the task has a container itself.
    pub executor: Option<Box<ExecutorSpec>>,
    /// Its place among the tasks that it was launched with, if they are a group.
    pub group: Option<Box<TaskGroup>>,
}

impl TaskSpec {
    /// A task that runs this with no resources, and with nothing else that it could ask for.
    #[must_use]
    pub fn new(task: TaskId, run: Run) -> Self {
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
        }
    }

    /// How long after the last heartbeat that a leader has answered nothing of the task runs any more, in
    /// milliseconds: `stop_after_ms`, the grace, and 5 % for clocks that differ. `None` if it never stops itself.
    #[must_use]
    pub fn stopped_after_ms(&self) -> Option<u64> {
        if self.stop_after_ms == 0 {
            return None;
        }
        let lived = self.stop_after_ms.saturating_add(self.grace_ms);
        Some(lived.saturating_add(lived.div_ceil(20)))
    }
}

/// A field of a description that not every task may use.
pub(crate) struct Restriction {
    /// Its name on the wire.
    pub(crate) field: &'static str,
    pub(crate) is_used: fn(&TaskSpec) -> bool,
    /// Why a task of an executor may not, if it may not.
    pub(crate) in_executor: Option<&'static str>,
    /// Why a task of a group may not, if it may not.
    pub(crate) in_group: Option<&'static str>,
}

const fn own_container(field: &'static str, is_used: fn(&TaskSpec) -> bool) -> Restriction {
    let why = "a task of an executor has no container of its own: ask for it in executor, or have no executor";
    Restriction {
        field,
        is_used,
        in_executor: Some(why),
        in_group: None,
    }
}

/// The fields that not every task may use. The first one that is used is named.
pub(crate) const RESTRICTIONS: &[Restriction] = &[
    own_container("group", |spec| spec.group.is_some()),
    own_container("container", |spec| spec.container != Container::default()),
    own_container("user", |spec| !spec.user.is_empty()),
    own_container("uris", |spec| !spec.uris.is_empty()),
    Restriction {
        in_group: Some(
            "tasks of a group see none, as they share their users; use the group's folder",
        ),
        ..own_container("host_paths", |spec| !spec.host_paths.is_empty())
    },
    own_container("volumes", |spec| !spec.volumes.is_empty()),
    own_container("limits", |spec| spec.limits.is_some()),
    own_container("kill_policy.signal", |spec| spec.kill_signal.is_some()),
    own_container("tty", |spec| spec.tty),
    own_container("stdin", |spec| spec.stdin),
    own_container("health_check", |spec| spec.health_check.is_some()),
    own_container("readiness_check", |spec| spec.readiness_check.is_some()),
    own_container("max_completion_ms", |spec| spec.max_completion_ms > 0),
    own_container("stop_after_ms", |spec| spec.stop_after_ms > 0),
];

// Numbers 18, 19, 21, 23, 25 and 27 are free.
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
});

impl TaskSpec {
    /// Removes the fields that release 0.1.0 did not read. To ask for the host's network was then to ask for nothing.
    pub(crate) fn reduce_to_0_1_0(&mut self) {
        self.kill_signal = None;
        let executor = self.executor.as_mut();
        let containers = std::iter::once(&mut self.container)
            .chain(executor.map(|executor| &mut executor.container));
        for container in containers {
            container.opt_outs.host_network = false;
            container.sizes = Sizes::default();
            container.pull = None;
        }
    }

    /// Appends what the fingerprint of a request covers. The field numbers are its own.
    pub(crate) fn fingerprint(&self, out: &mut Writer) {
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
        } = self;
        out.text(1, task.as_str());
        out.text(2, name);
        out.resources(3, resources);
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
    }
}

stored!(oneof Run {
    4 Shell(Text),
    5 Argv(Inner<TextList>),
    14 Image,
});

impl Run {
    /// Appends what the fingerprint of a request covers. The field numbers are its own.
    pub(crate) fn fingerprint(&self, out: &mut Writer) {
        match self {
            Run::Image => out.chosen(1, |_| ()),
            Run::Shell(line) => out.chosen(2, |out| out.text(1, line)),
            Run::Argv(words) => out.chosen(3, |out| out.words(1, words)),
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
    /// Appends what the fingerprint of a request covers. The field numbers are its own.
    pub(crate) fn fingerprint(&self, out: &mut Writer) {
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
    /// Appends what the fingerprint of a request covers. The field numbers are its own.
    pub(crate) fn fingerprint(&self, out: &mut Writer) {
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
    /// A description for each field that release 0.1.0 does not have, by the name of its golden bytes.
    pub(crate) fn samples(base: &Self) -> Vec<(&'static str, Self)> {
        let with = |change: fn(&mut Self)| {
            let mut spec = base.clone();
            change(&mut spec);
            spec
        };
        vec![(
            "call-accept-kill-signal",
            with(|spec| spec.kill_signal = Some(KillSignal::Quit)),
        )]
    }
}
