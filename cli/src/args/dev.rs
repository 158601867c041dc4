//! Arguments of `argosy dev`, which runs a whole cluster on this machine.

use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::time::Duration;

use argosy_agent::images::{InsecureRegistry, InvalidRegistry};
use argosy_agent::{FetchAllow, TaskAllow};
use clap::Args;

use super::isolation::{IsolationName, IsolationParser};
use super::security_options::AllowedSecurityOptions;
use super::service::{TimingName, host_name};
use super::shared::OutputArguments;
use crate::parsers::{self, ClusterSize};

#[derive(Debug, Args)]
pub(crate) struct Dev {
    /// Number of masters x number of agents
    #[arg(long, env = "ARGOSY_DEV_SIZE", value_name = "MxA", default_value = "3x3", value_parser = parsers::cluster_size)]
    pub(crate) size: ClusterSize,
    /// Keep all data in this directory; a restart resumes the cluster from it, and its tasks never
    /// stop
    #[arg(long, env = "ARGOSY_DEV_KEEP", value_name = "DIR")]
    pub(crate) keep: Option<PathBuf>,
    /// Address of the first member; each further member takes the next address
    #[arg(long, env = "ARGOSY_DEV_BASE", value_name = "ADDRESS", default_value = "127.77.0.1", value_parser = loopback)]
    pub(crate) base: Ipv4Addr,
    /// Resources that each agent offers
    #[arg(long, env = "ARGOSY_DEV_AGENT_RESOURCES", value_name = "RESOURCES", default_value = "cpus:2;mem:1024;disk:4096;ports:[31000-31999]", value_parser = resources)]
    pub(crate) agent_resources: String,
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
    /// Allow tasks to mount host directories below this one; may be repeated
    #[arg(long = "host-path", value_name = "DIR")]
    pub(crate) host_paths: Vec<PathBuf>,
    /// Allow tasks to fetch files of this host below this directory that their own user can read;
    /// may be repeated
    #[arg(long = "fetch-dir", value_name = "DIR")]
    pub(crate) fetch_dirs: Vec<PathBuf>,
    /// Allow tasks to fetch from this ADDRESS, network ADDRESS/BITS or HOST:PORT, also on loopback;
    /// may be repeated
    #[arg(long = "fetch-allow", value_name = "SERVER", value_parser = allowed)]
    pub(crate) fetch_allow: Vec<String>,
    /// Image registry HOST[:PORT] that is used without TLS, also on loopback; may be repeated
    #[arg(long = "insecure-registry", value_name = "SERVER", value_parser = registry)]
    pub(crate) insecure_registries: Vec<String>,
    /// Allow tasks to connect to this port of masters or agents, or to metadata services; may be
    /// repeated
    #[arg(long = "task-allow", value_name = "PORT|metadata", value_parser = task_allow)]
    pub(crate) task_allow: Vec<String>,
    /// Allow every user of this host, also the process that fetches for tasks, to read the files of
    /// tasks and the state of agents, without TLS too
    #[arg(long)]
    pub(crate) allow_files: bool,
    /// User of this host who may run commands in tasks and read their files, in addition to root
    /// and the cluster's user; may be repeated
    #[arg(long = "api-user", env = "SUDO_UID", value_delimiter = ',', value_name = "USER", value_parser = parsers::user)]
    pub(crate) api_users: Vec<u32>,
    /// Host name by which web pages may reach masters and agents, in addition to localhost and IP
    /// addresses; may be repeated
    #[arg(long = "allow-host", value_name = "NAME", value_parser = host_name)]
    pub(crate) allow_hosts: Vec<String>,
    /// Directory with secrets for tasks as ROLE/NAME, accessible only to its user [default: no
    /// secrets]
    #[arg(long, alias = "secret-folder", value_name = "DIR")]
    pub(crate) secret_dir: Option<PathBuf>,
    /// Use no TLS although other users of this host can then call the cluster
    #[arg(long)]
    pub(crate) insecure_plaintext: bool,
    #[command(flatten)]
    pub(crate) allowed_security_options: AllowedSecurityOptions,
    /// Time without a heartbeat after which an agent counts as unreachable
    #[arg(long, value_name = "TIME", default_value = "15s", value_parser = parsers::duration)]
    pub(crate) agent_timeout: Duration,
    /// Raft timing: default, testing or wan
    #[arg(long, value_enum, value_name = "PRESET", default_value_t = TimingName::Default, hide_possible_values = true)]
    pub(crate) timing: TimingName,
    /// Also write the cluster's record (addresses, processes, directories, command lines) to this
    /// file
    #[arg(long, value_name = "FILE")]
    pub(crate) record: Option<PathBuf>,
    /// Fail if the cluster is not ready after this time
    #[arg(long, value_name = "TIME", default_value = "60s", value_parser = parsers::duration)]
    pub(crate) timeout: Duration,
    #[command(flatten)]
    pub(crate) show: OutputArguments,
}

fn loopback(text: &str) -> Result<Ipv4Addr, String> {
    let address: Option<Ipv4Addr> = text.parse().ok();
    let fits = address.filter(|address| address.is_loopback() && address.octets()[3] <= 200);
    fits.ok_or_else(|| {
        "write a loopback address whose last number is at most 200, as 127.77.0.1".to_owned()
    })
}

/// Checks the text and returns it as written, for the agents' command lines.
fn allowed(text: &str) -> Result<String, String> {
    let parsed: Result<FetchAllow, _> = text.parse();
    parsed.map(|_| text.to_owned())
}

fn registry(text: &str) -> Result<String, InvalidRegistry> {
    let parsed: Result<InsecureRegistry, _> = text.parse();
    parsed.map(|_| text.to_owned())
}

fn task_allow(text: &str) -> Result<String, String> {
    let parsed: Result<TaskAllow, _> = text.parse();
    parsed.map(|_| text.to_owned())
}

fn resources(text: &str) -> Result<String, String> {
    let parsed: Result<argosy_state::resources::Resources, _> = text.parse();
    parsed
        .map(|_| text.to_owned())
        .map_err(|error| error.to_string())
}
