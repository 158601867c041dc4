//! `argosy run`: one command on the cluster.

use std::time::Duration;

use argosy_client::Masters;
use argosy_proto::v1;
use argosy_state::task::KillSignal;
use clap::builder::ArgPredicate;
use clap::{Args, ValueEnum};

use super::checks::Checks;
use super::limits::Limits;
use super::security_options::AskedOptOuts;
use super::volumes::Volumes;
use crate::parsers::{self, Milli};

/// The network of a task.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum NetworkMode {
    /// That of the agent's host.
    Host,
    /// Nothing but itself.
    None,
    /// An address of its own behind the host's.
    Bridge,
    /// What a CNI network of the agent's host, by its name, makes of it.
    Cni(String),
}

fn network(text: &str) -> Result<NetworkMode, String> {
    match (text, text.strip_prefix("cni:")) {
        ("host", _) => Ok(NetworkMode::Host),
        ("none", _) => Ok(NetworkMode::None),
        ("bridge", _) => Ok(NetworkMode::Bridge),
        (_, Some(name)) if !name.is_empty() => Ok(NetworkMode::Cni(name.to_owned())),
        _ => Err("write bridge, none, host, or cni: and the name of a network".to_owned()),
    }
}

/// When a registry is asked for an image that its agent has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum TaskPullName {
    /// Never.
    IfAbsent,
    /// Each time.
    Always,
}

impl TaskPullName {
    pub(crate) fn wire(self) -> v1::ImagePull {
        match self {
            Self::IfAbsent => v1::ImagePull::IfAbsent,
            Self::Always => v1::ImagePull::Always,
        }
    }
}

/// Run a command.
#[derive(Debug, Args)]
pub(crate) struct Run {
    /// Processors
    #[arg(long, env = "ARGOSY_RUN_CPUS", value_name = "NUMBER", default_value = "0.1", value_parser = parsers::cpus)]
    pub(crate) cpus: Milli,
    /// Memory: a bare number is MiB; 64M, 512MiB and 1G are understood
    #[arg(long, env = "ARGOSY_RUN_MEM", value_name = "SIZE", default_value = "32M", value_parser = parsers::size)]
    pub(crate) mem: Milli,
    /// Disk space for the sandbox
    #[arg(long, value_name = "SIZE", value_parser = parsers::size)]
    pub(crate) disk: Option<Milli>,
    /// Role whose share it uses
    #[arg(long, env = "ARGOSY_ROLE", value_name = "ROLE", default_value = "*")]
    pub(crate) role: String,
    /// Environment variable of the task; may be repeated
    #[arg(short, long = "env", value_name = "NAME=VALUE", value_parser = parsers::pair)]
    pub(crate) environment: Vec<(String, String)>,
    /// Something to fetch into the sandbox before the start: a URL, or a file of the agents' hosts (agents must allow its
    /// folder with --fetch-dir); may be repeated
    #[arg(long = "uri", value_name = "[FILE=]URI", value_parser = parsers::uri)]
    pub(crate) uris: Vec<v1::Uri>,
    /// The same, made executable
    #[arg(long = "executable-uri", value_name = "[FILE=]URI", value_parser = parsers::uri)]
    pub(crate) executable_uris: Vec<v1::Uri>,
    /// Archive to fetch into the sandbox, where it becomes a directory; may be repeated
    #[arg(long = "archive", value_name = "[DIR=]URI", value_parser = parsers::uri)]
    pub(crate) archives: Vec<v1::Uri>,
    #[command(flatten)]
    pub(crate) volumes: Volumes,
    /// Image whose programs it runs, as nginx:1.27, oci:/path or oci-archive:/file [default: the programs of the host]
    #[arg(long, env = "ARGOSY_RUN_IMAGE", value_name = "IMAGE")]
    pub(crate) image: Option<String>,
    /// When the image's registry is asked for one that the agent has: if-absent (never) or always (each time, and only what has
    /// changed is pulled); not for one that is named by its digest [default: as the agent does for all]
    #[arg(
        long,
        value_name = "WHEN",
        value_enum,
        hide_possible_values = true,
        requires = "image"
    )]
    pub(crate) pull: Option<TaskPullName>,
    /// What it reaches: others from an address of its own (bridge), nothing (none), what plugins on the agent's host make of
    /// it (cni:NAME), or all that the host reaches (host), which the agent must allow [default: bridge, or what the agent
    /// has instead]
    #[arg(
        long,
        value_name = "NAME",
        value_parser = network,
        default_value_if("published", ArgPredicate::IsPresent, "bridge")
    )]
    pub(crate) network: Option<NetworkMode>,
    /// Port of the agent's host that leads to one of the task's; may be repeated
    #[arg(long = "publish", short = 'p', value_name = "HOST:TASK[/udp]", value_parser = parsers::published_port)]
    pub(crate) published: Vec<v1::PublishedPort>,
    /// Port of the agent's host that it listens at by --network host; may be repeated
    #[arg(long = "port", value_name = "PORT", value_parser = clap::value_parser!(u16).range(1..))]
    pub(crate) ports: Vec<u16>,
    /// Device of an agent that names it with --device; may be repeated
    #[arg(long = "device", value_name = "NAME")]
    pub(crate) devices: Vec<String>,
    /// Have the agent keep what it fetches for other tasks
    #[arg(long)]
    pub(crate) cache: bool,
    /// Name of the task [default: two words of ours]
    #[arg(long, value_name = "NAME")]
    pub(crate) name: Option<String>,
    /// User of the image, or of the agent's host [default: the image's, else nobody, or the agent's own where it does not isolate in full]
    #[arg(long, value_name = "USER")]
    pub(crate) user: Option<String>,
    /// Label of the task; may be repeated
    #[arg(long = "label", value_name = "NAME=VALUE", value_parser = parsers::pair)]
    pub(crate) labels: Vec<(String, String)>,
    /// Signal that asks it to end: HUP, INT, QUIT, USR1, USR2, TERM or WINCH [default: what its image names, else TERM]
    #[arg(long, value_name = "SIGNAL", value_parser = KillSignal::named)]
    pub(crate) kill_signal: Option<KillSignal>,
    /// Time between that signal and KILL
    #[arg(long, value_name = "TIME", default_value = "3s", value_parser = parsers::duration)]
    pub(crate) grace: Duration,
    /// End it after this time
    #[arg(long, value_name = "TIME", value_parser = parsers::duration)]
    pub(crate) max_time: Option<Duration>,
    /// Let those who attach write to its standard input
    #[arg(short, long)]
    pub(crate) interactive: bool,
    /// Give it a terminal, for those who attach
    #[arg(short, long)]
    pub(crate) tty: bool,
    /// Print the id once it is launched, and leave it running
    #[arg(short, long)]
    pub(crate) detach: bool,
    /// Wait at most so long for an agent to take it, then end with code 6 [default: for ever]
    #[arg(long, value_name = "TIME", value_parser = parsers::duration)]
    pub(crate) timeout: Option<Duration>,
    /// Say nothing but the task's output and errors
    #[arg(short, long)]
    pub(crate) quiet: bool,
    /// Masters, any order [default: 127.0.0.1:5050, else a dev cluster at 127.77.0.1-3:5050]
    #[arg(long, env = "ARGOSY_MASTERS", value_name = "HOST:PORT,…", value_parser = parsers::masters)]
    pub(crate) masters: Option<Masters>,
    /// The command and its arguments; with an image those of its entry point, if it has one
    #[arg(last = true, required_unless_present = "image", value_name = "CMD")]
    pub(crate) command: Vec<String>,
    #[command(flatten)]
    pub(crate) checks: Checks,
    #[command(flatten)]
    pub(crate) limits: Limits,
    #[command(flatten)]
    pub(crate) opt_outs: AskedOptOuts,
}
