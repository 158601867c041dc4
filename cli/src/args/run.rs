//! Arguments of `argosy run`, which runs one command on the cluster, and the task that they
//! describe in wire form.

use std::time::Duration;

use argosy_proto::v1;
use argosy_proto::v1::network::Mode;
use argosy_state::task::{KillSignal, SecurityOptions};
use clap::builder::ArgPredicate;
use clap::{Args, ValueEnum};

use super::checks::Checks;
use super::filters::LabelFilter;
use super::limits::Limits;
use super::security_options::RequestedSecurityOptions;
use super::shared::ClusterArguments;
use super::volumes::Volumes;
use crate::parsers::{self, Milli};

/// The network mode of a task.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum NetworkMode {
    /// The network of the agent's host.
    Host,
    /// No network beyond the task itself.
    None,
    /// A private address behind the host's.
    Bridge,
    /// A CNI network of the agent's host, by its name.
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

/// The condition on which an agent queries the registry for an image that it already has.
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

#[derive(Debug, Args)]
pub(crate) struct Run {
    /// Number of processors
    #[arg(long, env = "ARGOSY_RUN_CPUS", value_name = "NUMBER", default_value = "0.1", value_parser = parsers::cpus)]
    pub(crate) cpus: Milli,
    /// Memory: a plain number is MiB; 64M, 512MiB and 1G are accepted
    #[arg(long, env = "ARGOSY_RUN_MEM", value_name = "SIZE", default_value = "32M", value_parser = parsers::memory)]
    pub(crate) mem: Milli,
    /// Disk space for the sandbox
    #[arg(long, value_name = "SIZE", value_parser = parsers::size)]
    pub(crate) disk: Option<Milli>,
    /// Role whose share is used
    #[arg(long, env = "ARGOSY_ROLE", value_name = "ROLE", default_value = "*")]
    pub(crate) role: String,
    /// Only agents with this attribute, as rack=r7; may be repeated
    #[arg(long = "attribute", value_name = "NAME[=VALUE]", value_parser = LabelFilter::parse)]
    pub(crate) attributes: Vec<LabelFilter>,
    /// Environment variable of the task; may be repeated
    #[arg(short, long = "env", value_name = "NAME=VALUE", value_parser = parsers::pair)]
    pub(crate) environment: Vec<(String, String)>,
    /// File to fetch into the sandbox before the start: a URL, or a path on the agents' hosts
    /// (agents must allow its directory with --fetch-dir); may be repeated
    #[arg(long = "uri", value_name = "[FILE=]URI", value_parser = parsers::uri)]
    pub(crate) uris: Vec<v1::Uri>,
    /// Like --uri, made executable
    #[arg(long = "executable-uri", value_name = "[FILE=]URI", value_parser = parsers::uri)]
    pub(crate) executable_uris: Vec<v1::Uri>,
    /// Archive to fetch into the sandbox and extract to a directory; may be repeated
    #[arg(long = "archive", value_name = "[DIR=]URI", value_parser = parsers::uri)]
    pub(crate) archives: Vec<v1::Uri>,
    #[command(flatten)]
    pub(crate) volumes: Volumes,
    /// Container image, as nginx:1.27, oci:/path or oci-archive:/file [default: the programs of the
    /// host]
    #[arg(long, env = "ARGOSY_RUN_IMAGE", value_name = "IMAGE")]
    pub(crate) image: Option<String>,
    /// When to query the registry for an image that the agent already has: if-absent (never) or
    /// always (each time; only changes are pulled); ignored for an image named by its digest
    /// [default: the agent's setting]
    #[arg(
        long,
        value_name = "WHEN",
        value_enum,
        hide_possible_values = true,
        requires = "image"
    )]
    pub(crate) pull: Option<TaskPullName>,
    /// Network of the task: bridge (a private address), none, cni:NAME (a CNI network of the
    /// agent's host) or host (the host's own, which the agent must allow) [default: bridge, or what
    /// the agent provides instead]
    #[arg(
        long,
        value_name = "NAME",
        value_parser = network,
        default_value_if("published", ArgPredicate::IsPresent, "bridge")
    )]
    pub(crate) network: Option<NetworkMode>,
    /// Port of the agent's host that is forwarded to a port of the task; may be repeated
    #[arg(long = "publish", short = 'p', value_name = "HOST:TASK[/udp]", value_parser = parsers::published_port)]
    pub(crate) published: Vec<v1::PublishedPort>,
    /// Port of the agent's host that the task listens on with --network host; may be repeated
    #[arg(long = "port", value_name = "PORT", value_parser = clap::value_parser!(u16).range(1..))]
    pub(crate) ports: Vec<u16>,
    /// TCP port of the task at which Prometheus reads metrics, by default at /metrics; published,
    /// or one of --port
    #[arg(long, value_name = "PORT[/PATH]", value_parser = parsers::metrics_port)]
    pub(crate) metrics_port: Option<v1::DiscoveryPort>,
    /// Device that an agent offers with its --device flag; may be repeated
    #[arg(long = "device", value_name = "NAME")]
    pub(crate) devices: Vec<String>,
    /// Keep what is fetched in the agent's cache for other tasks
    #[arg(long)]
    pub(crate) cache: bool,
    /// Name of the task [default: two random words]
    #[arg(long, value_name = "NAME")]
    pub(crate) name: Option<String>,
    /// User of the image, or of the agent's host [default: the image's user, else nobody, or the
    /// agent's user where isolation is not full]
    #[arg(long, value_name = "USER")]
    pub(crate) user: Option<String>,
    /// Label of the task; may be repeated
    #[arg(long = "label", value_name = "NAME=VALUE", value_parser = parsers::pair)]
    pub(crate) labels: Vec<(String, String)>,
    /// Signal that asks the task to end: HUP, INT, QUIT, USR1, USR2, TERM or WINCH [default: that
    /// of the image, else TERM]
    #[arg(long, value_name = "SIGNAL", value_parser = KillSignal::named)]
    pub(crate) kill_signal: Option<KillSignal>,
    /// Grace period between that signal and KILL
    #[arg(long, value_name = "TIME", default_value = "3s", value_parser = parsers::duration)]
    pub(crate) grace: Duration,
    /// End the task after this time
    #[arg(long, value_name = "TIME", value_parser = parsers::duration)]
    pub(crate) max_time: Option<Duration>,
    /// Let attached clients write to the standard input of the task
    #[arg(short, long)]
    pub(crate) interactive: bool,
    /// Allocate a terminal for attached clients
    #[arg(short, long)]
    pub(crate) tty: bool,
    /// Print the id after the launch, and leave the task running
    #[arg(short, long)]
    pub(crate) detach: bool,
    /// Maximum time to wait for an agent; exits with code 6 after it [default: unlimited]
    #[arg(long, value_name = "TIME", value_parser = parsers::duration)]
    pub(crate) timeout: Option<Duration>,
    /// Print only the task's output and errors
    #[arg(short, long)]
    pub(crate) quiet: bool,
    #[command(flatten)]
    pub(crate) cluster: ClusterArguments,
    /// Command and arguments; with an image, those of its entry point, if it has one
    #[arg(last = true, required_unless_present = "image", value_name = "CMD")]
    pub(crate) command: Vec<String>,
    #[command(flatten)]
    pub(crate) checks: Checks,
    #[command(flatten)]
    pub(crate) limits: Limits,
    #[command(flatten)]
    pub(crate) security_options: RequestedSecurityOptions,
}

impl Run {
    /// Returns the task that the flags describe, without its id, resources and checks.
    pub(crate) fn spec(&self) -> Result<v1::TaskSpec, String> {
        let environment = parsers::unique(&self.environment, "--env")?;
        let labels = parsers::unique(&self.labels, "--label")?;
        Ok(v1::TaskSpec {
            limits: self.limits.wire(),
            argv: self.command.clone(),
            environment: environment.into_iter().collect(),
            user: self.user.clone().unwrap_or_default(),
            uris: self.uris(),
            host_paths: self.volumes.host_paths(),
            volumes: self.volumes.volumes(),
            kill_policy: Some(v1::KillPolicy {
                grace_ms: self.grace.as_millis() as u64,
                signal: argosy_proto::convert::kill_signal(self.kill_signal).into(),
            }),
            labels: labels.into_iter().collect(),
            container: self.container()?,
            tty: self.tty,
            stdin: self.interactive,
            max_completion_ms: self.max_time.map_or(0, |time| time.as_millis() as u64),
            discovery: self.discovery()?,
            ..v1::TaskSpec::default()
        })
    }

    /// Returns the security options that the agent must allow.
    pub(crate) fn security_options(&self) -> SecurityOptions {
        SecurityOptions {
            host_network: self.network == Some(NetworkMode::Host),
            ..self.security_options.options()
        }
    }

    /// Returns the URIs to fetch, in the order of their kinds.
    fn uris(&self) -> Vec<v1::Uri> {
        let mut uris = self.uris.clone();
        let executable = |uri: &v1::Uri| v1::Uri {
            executable: true,
            ..uri.clone()
        };
        uris.extend(self.executable_uris.iter().map(executable));
        let extracted = |uri: &v1::Uri| v1::Uri {
            extract: true,
            ..uri.clone()
        };
        uris.extend(self.archives.iter().map(extracted));
        uris.iter_mut().for_each(|uri| uri.cache = self.cache);
        uris
    }

    /// Returns the port of metrics, by which Prometheus finds the task.
    fn discovery(&self) -> Result<Option<v1::Discovery>, String> {
        let Some(port) = &self.metrics_port else {
            return Ok(None);
        };
        let number = port.number;
        let mut published = self.published.iter();
        let is_published = published.any(|port| port.container_port == number && !port.udp);
        if !is_published && !self.ports.iter().any(|own| u32::from(*own) == number) {
            return Err(format!(
                "--metrics-port: no port of the host leads to TCP port {number} of the task: add --publish HOST:{number}, or --port {number} with --network host"
            ));
        }
        Ok(Some(v1::Discovery {
            ports: vec![port.clone()],
            ..v1::Discovery::default()
        }))
    }

    fn container(&self) -> Result<Option<v1::ContainerSpec>, String> {
        let published = self.published.clone();
        if !self.ports.is_empty() && self.network != Some(NetworkMode::Host) {
            return Err(
                "--port: only a task in the host's network listens at ports of the host: add --network host, or publish the port with --publish"
                    .to_owned(),
            );
        }
        let mode = match &self.network {
            Some(NetworkMode::Host | NetworkMode::None) if !published.is_empty() => {
                return Err(
                    "--publish: ports are published by --network bridge or cni:NAME; a task in the host's network listens at those of --port"
                        .to_owned(),
                );
            }
            None => None,
            Some(NetworkMode::Host) => Some(Mode::Host(v1::HostNetwork {})),
            Some(NetworkMode::None) => Some(Mode::None(v1::NoNetwork {})),
            Some(NetworkMode::Bridge) => Some(Mode::Bridge(v1::BridgeNetwork { published })),
            Some(NetworkMode::Cni(name)) => Some(Mode::Cni(v1::CniNetwork {
                name: name.clone(),
                published,
            })),
        };
        let spec = v1::ContainerSpec {
            image: self.image.clone().unwrap_or_default(),
            network: mode.map(|mode| v1::Network { mode: Some(mode) }),
            opt_outs: argosy_proto::convert::opt_outs(&self.security_options()),
            sizes: argosy_proto::convert::sizes(self.limits.sizes()),
            pull: self.pull.map_or(0, |pull| pull.wire().into()),
        };
        Ok((spec != v1::ContainerSpec::default()).then_some(spec))
    }
}
