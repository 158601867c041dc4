//! Flags of the two services: `master start` and `agent start`.

use std::path::PathBuf;
use std::time::Duration;

use argosy_agent::images::InsecureRegistry;
use argosy_agent::{FetchAllow, TaskAllow, TaskSubnet6};
use argosy_client::Masters;
use argosy_host::audit::AuditSettings;
use argosy_network::Subnet;
use argosy_proto::server::hosts;
use argosy_proto::uri::RedactedUri;
use argosy_state::resources::Resources;
use clap::{Args, ValueEnum, value_parser};

use super::isolation::{IsolationName, IsolationParser};
use super::security_options::AllowedSecurityOptions;
use super::shared::Logging;
use super::tls::ServiceTls;
use crate::parsers::{self, Addresses};

fn api_address(text: &str) -> Result<String, String> {
    parsers::address(text, parsers::API_PORT)
}

fn raft_address(text: &str) -> Result<String, String> {
    parsers::address(text, parsers::RAFT_PORT)
}

fn agent_address(text: &str) -> Result<String, String> {
    parsers::address(text, parsers::AGENT_PORT)
}

pub(super) fn host_name(text: &str) -> Result<String, String> {
    hosts::host_name(text).map_err(|error| error.to_string())
}

fn resources(text: &str) -> Result<Resources, String> {
    let resources: Resources = text
        .parse()
        .map_err(|error: argosy_state::resources::InvalidResources| error.to_string())?;
    if resources.is_empty() {
        return Err("nothing is listed; write cpus:2;mem:1024;ports:[31000-31100]".to_owned());
    }
    Ok(resources)
}

/// Parses a size in bytes; 0 disables the cache.
fn fetch_cache_bytes(text: &str) -> Result<u64, String> {
    if text == "0" {
        return Ok(0);
    }
    let milli = parsers::size(text)?.0;
    Ok(u64::try_from(milli).unwrap_or(0).saturating_mul(1 << 20) / 1_000)
}

/// Parses a URL to pin; only downloads are cached.
fn fetch_cache_pin(text: &str) -> Result<String, String> {
    if text.starts_with("http://") || text.starts_with("https://") {
        return Ok(text.to_owned());
    }
    let shown = RedactedUri::of(text);
    Err(format!(
        "{shown:?} is never kept; write what tasks ask for, as http://… or https://…"
    ))
}

/// Parses a size in bytes.
fn bytes(text: &str) -> Result<u64, String> {
    let milli = parsers::size(text)?.0;
    Ok(u64::try_from(milli).unwrap_or(0).saturating_mul(1 << 20) / 1_000)
}

/// Parses a size in bytes, or `none` as 0.
fn default_bytes(text: &str) -> Result<u64, String> {
    match text {
        "none" => Ok(0),
        _ => bytes(text).map_err(|remedy| format!("{remedy}; or none")),
    }
}

/// Parses a size in bytes that holds what a supervisor moves in one step.
fn log_file_bytes(text: &str) -> Result<u64, String> {
    let bytes = bytes(text)?;
    if bytes < 64 * 1024 {
        return Err("give at least 64KiB".to_owned());
    }
    Ok(bytes)
}

/// Parses a timeout that is long enough for a fast executor to subscribe.
fn executor_registration_timeout(text: &str) -> Result<Duration, String> {
    let timeout = parsers::duration(text)?;
    if timeout < Duration::from_secs(1) {
        return Err("give at least 1s".to_owned());
    }
    Ok(timeout)
}

#[derive(Debug, Args)]
pub(crate) struct MasterStart {
    /// API address to listen on, for frameworks, agents and operators
    #[arg(long, env = "ARGOSY_MASTER_LISTEN", value_name = "HOST:PORT", default_value = "127.0.0.1:5050", value_parser = api_address)]
    pub(crate) listen: String,
    /// Raft address to listen on, for the other masters [default: the host of --listen, port 5052]
    #[arg(long, env = "ARGOSY_MASTER_RAFT_LISTEN", value_name = "HOST:PORT", value_parser = raft_address)]
    pub(crate) raft_listen: Option<String>,
    /// API address advertised to others [default: --listen]
    #[arg(long, env = "ARGOSY_MASTER_ADVERTISE", value_name = "HOST:PORT", value_parser = api_address)]
    pub(crate) advertise: Option<String>,
    /// Raft address advertised to others [default: --raft-listen]
    #[arg(long, env = "ARGOSY_MASTER_RAFT_ADVERTISE", value_name = "HOST:PORT", value_parser = raft_address)]
    pub(crate) raft_advertise: Option<String>,
    /// Raft addresses of all masters, including this one; the same list on each
    #[arg(long, env = "ARGOSY_MASTER_PEERS", value_name = "HOST:PORT,…", value_parser = parsers::peers)]
    pub(crate) peers: Option<Addresses>,
    /// Create a group of one master in an empty directory
    #[arg(long)]
    pub(crate) bootstrap: bool,
    /// Directory of the registry
    #[arg(
        long,
        env = "ARGOSY_MASTER_DATA_DIR",
        value_name = "DIR",
        default_value = "/var/lib/argosy/master"
    )]
    pub(crate) data_dir: PathBuf,
    /// Time without a heartbeat after which an agent counts as unreachable
    #[arg(long, env = "ARGOSY_MASTER_AGENT_TIMEOUT", value_name = "TIME", default_value = "15s", value_parser = parsers::duration)]
    pub(crate) agent_timeout: Duration,
    /// Time without a stream after which a framework counts as disconnected
    #[arg(long, alias = "framework-grace", env = "ARGOSY_MASTER_FRAMEWORK_DISCONNECT_TIMEOUT", value_name = "TIME", default_value = "10s", value_parser = parsers::duration)]
    pub(crate) framework_disconnect_timeout: Duration,
    /// Time after which an unreachable or gone agent is forgotten, together with its tasks
    #[arg(long, env = "ARGOSY_MASTER_FORGET_AGENTS_AFTER", value_name = "TIME", default_value = "14d", value_parser = parsers::duration)]
    pub(crate) forget_agents_after: Duration,
    /// Raft timing: default, testing (faster) or wan (slower); the same on all masters
    #[arg(long, env = "ARGOSY_MASTER_TIMING", value_enum, value_name = "PRESET", default_value_t = TimingName::Default, hide_possible_values = true)]
    pub(crate) timing: TimingName,
    /// Seed of all random choices [default: random]
    #[arg(long, env = "ARGOSY_SEED", value_name = "NUMBER")]
    pub(crate) seed: Option<u64>,
    /// File with the keys that seal secrets in the registry, a line KEYID:HEX each; the first one
    /// seals, all of them open; the same file on all masters [default: no secrets]
    #[arg(long, env = "ARGOSY_MASTER_SECRETS_KEY", value_name = "FILE")]
    pub(crate) secrets_key: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) tls: ServiceTls,
    /// Key of the CA: this master issues certificates to hosts that have a join token; the same on
    /// all masters [default: it issues none]
    #[arg(long, env = "ARGOSY_MASTER_CA_KEY", value_name = "FILE")]
    pub(crate) ca_key: Option<PathBuf>,
    /// Certificate of that CA, followed by those of the CAs above it [default: the file of
    /// --tls-ca]
    #[arg(
        long,
        env = "ARGOSY_MASTER_CA_CERT",
        value_name = "FILE",
        requires = "ca_key"
    )]
    pub(crate) ca_cert: Option<PathBuf>,
    /// Allow every client that reaches this address to run commands in tasks
    #[arg(long, env = "ARGOSY_MASTER_ALLOW_EXEC")]
    pub(crate) allow_exec: bool,
    /// Allow every client that reaches this address to read the files of tasks
    #[arg(long, env = "ARGOSY_MASTER_ALLOW_FILES")]
    pub(crate) allow_files: bool,
    /// User of this host who may run commands in tasks and read their files, in addition to root
    /// and the user of this process; may be repeated
    #[arg(long = "api-user", env = "ARGOSY_MASTER_API_USERS", value_delimiter = ',', value_name = "USER", value_parser = parsers::user)]
    pub(crate) api_users: Vec<u32>,
    /// Size at which a file of the audit log in the data directory is followed by the next one, in
    /// MiB; ten are kept, and 0 disables the log
    #[arg(long, env = "ARGOSY_MASTER_AUDIT_LOG_MIB", value_name = "MIB", default_value_t = AuditSettings::FILE_MIB)]
    pub(crate) audit_log_mib: u64,
    /// Host name by which web pages and other HTTP/1.1 clients may reach this address, in addition
    /// to those of --listen and --advertise, the system's, and IP addresses; may be repeated
    #[arg(
        long = "allow-host",
        env = "ARGOSY_MASTER_ALLOW_HOSTS",
        value_delimiter = ',',
        value_name = "NAME",
        value_parser = host_name
    )]
    pub(crate) allow_hosts: Vec<String>,
    /// Write the process id to this file after the start, and remove it at exit
    #[arg(long, env = "ARGOSY_MASTER_PID_FILE", value_name = "FILE")]
    pub(crate) pid_file: Option<PathBuf>,
    /// Stop when standard input is closed
    #[arg(long, hide = true)]
    pub(crate) stop_with_stdin: bool,
    #[command(flatten)]
    pub(crate) logging: Logging,
}

/// Presets of Raft timing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum TimingName {
    /// Heartbeat 60 ms, election 200 to 300 ms.
    #[value(alias = "shipped")]
    Default,
    /// Heartbeat 50 ms, election 150 to 250 ms.
    Testing,
    /// For masters with high latency between them.
    Wan,
}

#[derive(Debug, Args)]
pub(crate) struct AgentStart {
    /// Masters, in any order
    #[arg(long, env = "ARGOSY_MASTERS", value_name = "HOST:PORT,…", default_value = "127.0.0.1:5050", value_parser = parsers::masters)]
    pub(crate) masters: Masters,
    /// Address of the agent's API: files of tasks, metrics
    #[arg(long, env = "ARGOSY_AGENT_LISTEN", value_name = "HOST:PORT", default_value = "127.0.0.1:5051", value_parser = agent_address)]
    pub(crate) listen: String,
    /// API address advertised to others [default: --listen]
    #[arg(long, env = "ARGOSY_AGENT_ADVERTISE", value_name = "HOST:PORT", value_parser = agent_address)]
    pub(crate) advertise: Option<String>,
    /// Directory of tasks, sandboxes and the journal
    #[arg(
        long,
        env = "ARGOSY_AGENT_DATA_DIR",
        value_name = "DIR",
        default_value = "/var/lib/argosy/agent"
    )]
    pub(crate) data_dir: PathBuf,
    /// Name of this host [default: the system's]
    #[arg(long, env = "ARGOSY_AGENT_HOST_NAME", value_name = "NAME")]
    pub(crate) host_name: Option<String>,
    /// Address for tasks to listen on, passed to them as ARGOSY_ADDRESS
    #[arg(long, env = "ARGOSY_AGENT_TASK_ADDRESS", value_name = "HOST")]
    pub(crate) task_address: Option<String>,
    /// Resources to offer, as "cpus:2;mem:1024;ports:[31000-31100]" [default: those of the host]
    #[arg(long, env = "ARGOSY_AGENT_RESOURCES", value_name = "RESOURCES", value_parser = resources)]
    pub(crate) resources: Option<Resources>,
    /// Attribute of this host for constraints, as zone=a; may be repeated
    #[arg(long = "attribute", env = "ARGOSY_AGENT_ATTRIBUTES", value_delimiter = ',', value_name = "NAME=VALUE", value_parser = parsers::pair)]
    pub(crate) attributes: Vec<(String, String)>,
    /// Isolation of tasks: full, user-namespaces or processes [default: full as root,
    /// user-namespaces as another user]
    #[arg(
        long,
        env = "ARGOSY_AGENT_ISOLATION",
        value_parser = IsolationParser,
        value_name = "MODE",
        hide_possible_values = true
    )]
    pub(crate) isolation: Option<IsolationName>,
    /// Start even if this host cannot enforce all limits
    #[arg(long, env = "ARGOSY_AGENT_ALLOW_MISSING_CONTROLLERS")]
    pub(crate) allow_missing_controllers: bool,
    /// Allow tasks to mount host directories below this one; may be repeated
    #[arg(
        long = "host-path",
        env = "ARGOSY_AGENT_HOST_PATHS",
        value_delimiter = ',',
        value_name = "DIR"
    )]
    pub(crate) host_paths: Vec<PathBuf>,
    /// Directory with secrets for tasks as ROLE/NAME, accessible only to root (to the agent's user
    /// if it is not started as root) [default: no secrets]
    #[arg(
        long,
        alias = "secret-folder",
        env = "ARGOSY_AGENT_SECRET_DIR",
        value_name = "DIR"
    )]
    pub(crate) secret_dir: Option<PathBuf>,
    /// Percentage of the disk to keep free of ended tasks' sandboxes and of unused images
    #[arg(long, env = "ARGOSY_AGENT_DISK_HEADROOM", value_name = "NUMBER", default_value_t = 10, value_parser = value_parser!(u64).range(0..=90))]
    pub(crate) disk_headroom: u64,
    /// Free space below which the task that exceeds its disk request most is evicted; none disables
    /// eviction [default: 5 % of the disk, at most 1GiB]
    #[arg(long, env = "ARGOSY_AGENT_DISK_FLOOR", value_name = "SIZE", value_parser = default_bytes)]
    pub(crate) disk_floor: Option<u64>,
    /// Enforcement of disk limits: measured (a task that exceeds its request is killed), quota (a
    /// project quota of the directory's file system) or loop (a dedicated file system)
    #[arg(long, env = "ARGOSY_AGENT_DISK_ENFORCEMENT", value_name = "HOW", value_enum, default_value_t = DiskEnforcementName::Measured, hide_possible_values = true)]
    pub(crate) disk_enforcement: DiskEnforcementName,
    #[command(flatten)]
    pub(crate) allowed_security_options: AllowedSecurityOptions,
    /// Device that tasks may use, as an item of the resource devices; may be repeated
    #[arg(long = "device", env = "ARGOSY_AGENT_DEVICES", value_delimiter = ';', value_name = "NAME=PATH[,PATH]", value_parser = parsers::device)]
    pub(crate) devices: Vec<(String, Vec<PathBuf>)>,
    /// Memory limit of a task that requests no memory; none is unlimited
    #[arg(long, env = "ARGOSY_AGENT_DEFAULT_MEM", value_name = "SIZE", default_value = "512MiB", value_parser = default_bytes)]
    pub(crate) default_mem: u64,
    /// Disk limit of a task that requests no disk; none is unlimited
    #[arg(long, env = "ARGOSY_AGENT_DEFAULT_DISK", value_name = "SIZE", default_value = "1GiB", value_parser = default_bytes)]
    pub(crate) default_disk: u64,
    /// Maximum number of open files per process that a task may request, at most the agent's own
    /// limit
    #[arg(long, env = "ARGOSY_AGENT_MAX_OPEN_FILES", value_name = "NUMBER", default_value_t = 65_536, value_parser = value_parser!(u64).range(64..=1_048_576))]
    pub(crate) max_open_files: u64,
    /// Maximum size of /dev/shm that a task may request; its content counts as the task's memory
    #[arg(long, env = "ARGOSY_AGENT_MAX_SHM_SIZE", value_name = "SIZE", default_value = "1GiB", value_parser = bytes)]
    pub(crate) max_shm_size: u64,
    /// Maximum size of /tmp that a task may request; its content counts as the task's memory
    #[arg(long, env = "ARGOSY_AGENT_MAX_TMP_SIZE", value_name = "SIZE", default_value = "1GiB", value_parser = bytes)]
    pub(crate) max_tmp_size: u64,
    /// Size at which the files of a task's stdout and stderr are rotated
    #[arg(long, env = "ARGOSY_AGENT_LOG_FILE_SIZE", value_name = "SIZE", default_value = "10MiB", value_parser = log_file_bytes)]
    pub(crate) log_file_size: u64,
    /// Number of files kept for each of a task's stdout and stderr
    #[arg(long, env = "ARGOSY_AGENT_LOG_FILES", value_name = "NUMBER", default_value_t = 5, value_parser = value_parser!(u32).range(1..=100))]
    pub(crate) log_files: u32,
    /// Time for which the output of an ended task is kept; other files are removed after an hour
    #[arg(long, env = "ARGOSY_AGENT_LOG_RETENTION_AGE", value_name = "TIME", default_value = "7d", value_parser = parsers::duration)]
    pub(crate) log_retention_age: Duration,
    /// Maximum size of the output of ended tasks that is kept after an hour; the oldest is removed
    /// first
    #[arg(long, env = "ARGOSY_AGENT_LOG_RETENTION_BYTES", value_name = "SIZE", default_value = "1GiB", value_parser = default_bytes)]
    pub(crate) log_retention_bytes: u64,
    /// Allow tasks to fetch files of this host below this directory that their own user can read;
    /// may be repeated
    #[arg(
        long = "fetch-dir",
        env = "ARGOSY_AGENT_FETCH_DIRS",
        value_delimiter = ',',
        value_name = "DIR"
    )]
    pub(crate) fetch_dirs: Vec<PathBuf>,
    /// Allow tasks to fetch from this ADDRESS, network ADDRESS/BITS or HOST:PORT although it
    /// belongs to this host, a metadata service or the cluster, or their network is none; may be
    /// repeated
    #[arg(
        long = "fetch-allow",
        env = "ARGOSY_AGENT_FETCH_ALLOW",
        value_delimiter = ',',
        value_name = "SERVER"
    )]
    pub(crate) fetch_allow: Vec<FetchAllow>,
    /// Allow tasks to connect to this port of masters or agents, or to metadata services; may be
    /// repeated
    #[arg(
        long = "task-allow",
        env = "ARGOSY_AGENT_TASK_ALLOW",
        value_delimiter = ',',
        value_name = "PORT|metadata"
    )]
    pub(crate) task_allow: Vec<TaskAllow>,
    /// Deny tasks connections to this port too, such as a Raft port of masters other than 5052; may
    /// be repeated
    #[arg(long = "task-deny", env = "ARGOSY_AGENT_TASK_DENY", value_delimiter = ',', value_name = "PORT", value_parser = value_parser!(u16).range(1..))]
    pub(crate) task_deny: Vec<u16>,
    /// Maximum size of the shared fetch cache
    #[arg(long, env = "ARGOSY_AGENT_FETCH_CACHE", value_name = "SIZE", default_value = "2GiB", value_parser = fetch_cache_bytes)]
    pub(crate) fetch_cache: u64,
    /// Never evict cached content of this URL; may be repeated
    #[arg(long = "fetch-cache-pin", env = "ARGOSY_AGENT_FETCH_CACHE_PINS", value_delimiter = ' ', value_name = "URL", value_parser = fetch_cache_pin)]
    pub(crate) fetch_cache_pins: Vec<String>,
    /// Credentials of image registries, in the format of Docker's config.json
    #[arg(long, env = "ARGOSY_AGENT_IMAGE_CREDENTIALS", value_name = "FILE")]
    pub(crate) image_credentials: Option<PathBuf>,
    /// When to query the registry for an image that the agent already has: if-absent (never),
    /// latest (for the tag latest) or always; ignored for an image named by its digest
    #[arg(long, env = "ARGOSY_AGENT_IMAGE_PULL", value_name = "WHEN", value_enum, default_value_t = ImagePullName::IfAbsent, hide_possible_values = true)]
    pub(crate) image_pull: ImagePullName,
    /// Root file system of a container with an image: overlay (over shared layers), copy (private,
    /// counts as the task's disk) or detect (copy where the host cannot make overlays for
    /// containers)
    #[arg(long, env = "ARGOSY_AGENT_IMAGE_ROOTS", value_name = "HOW", value_enum, default_value_t = ImageRootsName::Detect, hide_possible_values = true)]
    pub(crate) image_roots: ImageRootsName,
    /// Registry that is used without TLS, also at addresses of this host and at link-local and
    /// metadata addresses, where other registries are refused; may be repeated
    #[arg(
        long = "insecure-registry",
        env = "ARGOSY_AGENT_INSECURE_REGISTRIES",
        value_delimiter = ',',
        value_name = "HOST[:PORT]"
    )]
    pub(crate) insecure_registries: Vec<InsecureRegistry>,
    /// Allow tasks to use image layouts and archives below this directory; may be repeated
    #[arg(
        long = "image-dir",
        alias = "image-folder",
        env = "ARGOSY_AGENT_IMAGE_DIRS",
        value_delimiter = ',',
        value_name = "DIR"
    )]
    pub(crate) image_dirs: Vec<PathBuf>,
    /// IPv4 subnet of the tasks' bridge network
    #[arg(long, env = "ARGOSY_AGENT_NETWORK_SUBNET", value_name = "CIDR", default_value_t = Subnet::DEFAULT)]
    pub(crate) network_subnet: Subnet,
    /// IPv6 subnet of that network: a prefix, auto (a unique local one that the agent generates
    /// once) or none
    #[arg(long, env = "ARGOSY_AGENT_NETWORK_SUBNET6", value_name = "CIDR", default_value_t = TaskSubnet6::Generated)]
    pub(crate) network_subnet6: TaskSubnet6,
    /// Let tasks of the bridge network reach each other's addresses, not only published ports
    #[arg(
        long,
        alias = "network-open",
        env = "ARGOSY_AGENT_NETWORK_INTER_CONTAINER"
    )]
    pub(crate) network_inter_container: bool,
    /// Directory of the CNI networks (files *.conflist) that tasks may name
    #[arg(
        long,
        alias = "cni-config",
        env = "ARGOSY_AGENT_CNI_CONFIG_DIR",
        value_name = "DIR"
    )]
    pub(crate) cni_config_dir: Option<PathBuf>,
    /// Directory of CNI plugins; may be repeated, the first that has a plugin is used
    #[arg(
        long,
        env = "ARGOSY_AGENT_CNI_PLUGINS",
        value_delimiter = ',',
        value_name = "DIR",
        default_value = "/opt/cni/bin,/usr/lib/cni"
    )]
    pub(crate) cni_plugins: Vec<PathBuf>,
    /// Time within which an executor must subscribe, after its start or the end of its stream
    #[arg(long, env = "ARGOSY_AGENT_EXECUTOR_REGISTRATION_TIMEOUT", value_name = "TIME", default_value = "1m", value_parser = executor_registration_timeout)]
    pub(crate) executor_registration_timeout: Duration,
    /// Seed of all random choices [default: random]
    #[arg(long, env = "ARGOSY_SEED", value_name = "NUMBER")]
    pub(crate) seed: Option<u64>,
    #[command(flatten)]
    pub(crate) tls: ServiceTls,
    /// Allow every client that reaches this address to run commands in tasks
    #[arg(long, env = "ARGOSY_AGENT_ALLOW_EXEC")]
    pub(crate) allow_exec: bool,
    /// Allow every client that reaches this address to read the files of tasks
    #[arg(long, env = "ARGOSY_AGENT_ALLOW_FILES")]
    pub(crate) allow_files: bool,
    /// User of this host who may run commands in tasks and read their files, in addition to root
    /// and the user of this process; may be repeated
    #[arg(long = "api-user", env = "ARGOSY_AGENT_API_USERS", value_delimiter = ',', value_name = "USER", value_parser = parsers::user)]
    pub(crate) api_users: Vec<u32>,
    /// Size at which a file of the audit log in the data directory is followed by the next one, in
    /// MiB; ten are kept, and 0 disables the log
    #[arg(long, env = "ARGOSY_AGENT_AUDIT_LOG_MIB", value_name = "MIB", default_value_t = AuditSettings::FILE_MIB)]
    pub(crate) audit_log_mib: u64,
    /// Host name by which web pages and other HTTP/1.1 clients may reach this address, in addition
    /// to those of --listen and --advertise, the system's, and IP addresses; may be repeated
    #[arg(
        long = "allow-host",
        env = "ARGOSY_AGENT_ALLOW_HOSTS",
        value_delimiter = ',',
        value_name = "NAME",
        value_parser = host_name
    )]
    pub(crate) allow_hosts: Vec<String>,
    /// Write the process id to this file after the start, and remove it at exit
    #[arg(long, env = "ARGOSY_AGENT_PID_FILE", value_name = "FILE")]
    pub(crate) pid_file: Option<PathBuf>,
    /// Stop when standard input is closed, with this effect on the tasks
    #[arg(long, value_enum, hide = true)]
    pub(crate) stop_with_stdin: Option<OrphanTasks>,
    #[command(flatten)]
    pub(crate) logging: Logging,
}

/// Effect of an agent's stop on its tasks when the parent process is gone.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum OrphanTasks {
    /// The tasks keep running.
    Leave,
    /// The tasks are killed.
    End,
}

/// The condition on which a registry is queried for an image that the agent already has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum ImagePullName {
    /// Never.
    IfAbsent,
    /// If its tag is `latest`.
    Latest,
    /// Each time.
    Always,
}

/// The root file system of a container with an image.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum ImageRootsName {
    /// A copy where overlays are not possible.
    Detect,
    Overlay,
    Copy,
}

/// Enforcement of disk limits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum DiskEnforcementName {
    /// The agent measures every second, and kills a task that exceeds its request.
    Measured,
    /// A project quota, which makes further writes fail.
    Quota,
    /// A dedicated file system on a loop device.
    Loop,
}
