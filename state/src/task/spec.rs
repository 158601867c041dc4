//! What frameworks ask for: a task's description.

use std::collections::{BTreeMap, BTreeSet};

use super::ExecutorSpec;
use super::KillSignal;
use super::TaskGroup;
use super::volume::TaskVolume;
use super::{Limits, OptOuts, Sizes};
use crate::encode::stored::stored;
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

/// What a container is made of beside the agent's default.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Container {
    /// Name of the image that is its root; empty means the programs of the agent's host.
    pub image: String,
    /// What it reaches, and by what it is reached.
    pub network: Network,
    /// What it is let off of its agent's profile.
    pub opt_outs: OptOuts,
    /// Sizes that differ from its agent's usual ones.
    pub sizes: Sizes,
    /// When the image's registry is asked; `None`: as its agent does for all.
    pub pull: Option<ImagePull>,
}

/// When a registry is asked for an image that its agent has already. It is never asked for one that is named by its digest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ImagePull {
    /// Never: a tag means what it meant when it was pulled.
    IfAbsent,
    /// At each start; what has not changed is not pulled again.
    Always,
}

/// The network of a container.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Network {
    /// What its agent gives tasks: one of its own, or the host's if it is let into that.
    #[default]
    Unnamed,
    /// Nothing but itself.
    None,
    /// An address of its own behind the host's; these ports of the host lead to it.
    Bridge(Vec<PublishedPort>),
    /// What a CNI network of the agent's host makes of it.
    Cni(CniNetwork),
}

/// A network that plugins of the agent's host make.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CniNetwork {
    /// As the operator of the host has named it.
    pub name: String,
    /// Ports of the host that lead to it, where its plugins can do that.
    pub published: Vec<PublishedPort>,
}

/// A port of the host that leads into a container.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PublishedPort {
    /// The host's; one of the task's `ports`.
    pub host: u16,
    /// The container's.
    pub container: u16,
    /// UDP, not TCP.
    pub udp: bool,
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

/// What is asked of a running task, again and again, from inside its namespaces.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Check {
    /// What is asked.
    pub kind: CheckKind,
    /// From the task's start to the first time, in milliseconds.
    pub delay_ms: u64,
    /// From one answer to the next time, in milliseconds; at least [`crate::limits::CHECK_INTERVAL_MS`].
    pub interval_ms: u64,
    /// How long an answer may take before it counts as a failure, in milliseconds; at least 1.
    pub timeout_ms: u64,
}

impl Check {
    /// With the times that Mesos gives to one that names none.
    #[must_use]
    pub fn of(kind: CheckKind) -> Self {
        Self {
            kind,
            delay_ms: 15_000,
            interval_ms: 10_000,
            timeout_ms: 20_000,
        }
    }
}

/// What is asked of a task.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CheckKind {
    /// That `/bin/sh -c` with this line exits with 0, beside the task's own command and as that runs.
    Shell(String),
    /// The same for a program and its arguments; never empty.
    Argv(Vec<String>),
    /// That a port of the task's loopback address answers a GET by HTTP.
    Http {
        /// Plainly, or over TLS.
        scheme: Scheme,
        /// Which port.
        port: u16,
        /// For what; begins with `/`.
        path: String,
        /// Which statuses mean that all is well; empty means 200 to 399.
        statuses: BTreeSet<u16>,
    },
    /// That a port of the task's loopback address takes a connection.
    Tcp {
        /// Which port.
        port: u16,
    },
}

/// How HTTP is spoken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scheme {
    /// As it is.
    Http,
    /// Over TLS, whoever the other side says that it is.
    Https,
}

/// A check that ends its task when it fails too often.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HealthCheck {
    /// What is asked, and when.
    pub check: Check,
    /// For so long after the task's start failures count for nothing, until one answer was good; in milliseconds.
    pub grace_ms: u64,
    /// How many failures in a row end the task; at least 1.
    pub failures: u32,
}

impl HealthCheck {
    /// With Mesos' patience.
    #[must_use]
    pub fn of(check: Check) -> Self {
        Self {
            check,
            grace_ms: 10_000,
            failures: 3,
        }
    }
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

stored!(oneof Run {
    4 Shell(Text),
    5 Argv(Inner<TextList>),
    14 Image,
});

stored!(message Uri {
    1 value: Text,
    2 executable: Number,
    3 output_file: Text,
    4 extract: Number,
    5 sha256: Text,
    6 cache: Number,
});

stored!(message HostPath {
    1 host_path: Text,
    2 container_path: Text,
    3 read_only: Number,
});

stored!(message Container {
    1 image: Text,
    2 | 3 | 20 network: OneOf,
    10 opt_outs: PartOrDefault,
    11 sizes: PartOrDefault,
    12 pull: NumberOrNone or "pull of an image",
});

stored!(oneof Network else Unnamed {
    2 None,
    3 Bridge(Inner<PartList>),
    20 Cni(Part),
});

stored!(message CniNetwork {
    1 name: Text,
    2 published: PartList,
});

stored!(message PublishedPort {
    1 host: Number or "published port",
    2 container: Number or "published port",
    3 udp: Number,
});

stored!(message Check {
    1 | 2 | 3 | 4 kind: OneOf or "kind of a check",
    5 delay_ms: Number,
    6 interval_ms: Number,
    7 timeout_ms: Number,
});

stored!(oneof CheckKind {
    1 Shell(Text),
    2 Argv(Inner<TextList>),
    3 Http {
        1 port: Number or "port of a check",
        2 path: Text,
        3 statuses: NumberList or "status of a check",
        4 scheme: Number,
    },
    4 Tcp { port } as Number or "port of a check",
});

stored!(message HealthCheck {
    1 check: Part or "health check",
    2 grace_ms: Number,
    3 failures: Number,
});
