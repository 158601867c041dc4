//! Arguments that several modules read: flags, their environment variables, and their values.
//!
//! The definition of the whole command line is in `verbs`. The arguments of a command on an object
//! are with that command, in `objects`.

mod attach;
mod checks;
mod cp;
mod dev;
mod events;
mod exec;
pub(crate) mod filters;
pub(crate) mod former_names;
mod group;
mod isolation;
mod limits;
mod objects;
mod run;
mod security_options;
mod service;
mod shared;
mod tls;
mod update;
mod volumes;

use clap::{Args, ValueEnum};

pub(crate) use attach::Attach;
pub(crate) use checks::Checks;
pub(crate) use cp::Cp;
pub(crate) use dev::Dev;
pub(crate) use events::{Events, Top, TopPage, Wait, WaitKind};
pub(crate) use exec::Exec;
pub(crate) use former_names::former as former_variable;
pub(crate) use group::GroupRun;
pub(crate) use isolation::IsolationName;
pub(crate) use objects::{
    AgentStop, Bundle, Explain, ListArguments, LogLevel, Logs, MasterRejoin, ShowArguments, Status,
};
pub(crate) use run::Run;
pub(crate) use service::{
    AgentStart, DiskEnforcementName, ImagePullName, ImageRootsName, MasterStart, OrphanTasks,
    TimingName,
};
pub(crate) use shared::{
    CalledMasters, ClusterArguments, ConnectionArguments, Format, ListView, LogFormat, Logging,
    OutputArguments, WriteArguments,
};
pub(crate) use tls::{ClientTls, ServiceTls, TlsAnonymous, TlsMode};
pub(crate) use update::Update;

/// Use of colour in the output.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Colour {
    /// Colour on a terminal only.
    Auto,
    Always,
    Never,
}

#[derive(Debug, Args)]
pub(crate) struct Doctor {
    /// Check the running cluster of these masters instead of this host
    #[arg(long, value_name = "HOST:PORT,…", value_parser = crate::parsers::masters, conflicts_with = "data_dir")]
    pub(crate) masters: Option<argosy_client::Masters>,
    /// Check the running cluster of this context instead of this host
    #[arg(long, value_name = "NAME", conflicts_with = "data_dir")]
    pub(crate) context: Option<crate::parsers::ContextName>,
    /// Check the running cluster that other commands call instead of this host
    #[arg(long, conflicts_with_all = ["data_dir", "masters", "context"])]
    pub(crate) cluster: bool,
    /// Timeout of each call to the cluster
    #[arg(long, value_name = "TIME", default_value = "5s", value_parser = crate::parsers::timeout)]
    pub(crate) timeout: std::time::Duration,
    #[command(flatten)]
    pub(crate) tls: ClientTls,
    /// File with a bearer token, the identity of this client [default: the token of the context]
    #[arg(long, env = "ARGOSY_TOKEN_FILE", value_name = "FILE")]
    pub(crate) token_file: Option<std::path::PathBuf>,
    /// Directory whose disk is measured (where a master or agent will keep its data)
    #[arg(long, env = "ARGOSY_DATA_DIR", value_name = "DIR")]
    pub(crate) data_dir: Option<std::path::PathBuf>,
    #[command(flatten)]
    pub(crate) show: OutputArguments,
}

#[derive(Debug, Args)]
pub(crate) struct Version {
    /// Also show protocol, features and platform
    #[arg(short, long)]
    pub(crate) verbose: bool,
}

#[derive(Debug, Args)]
pub(crate) struct Manual {
    /// Directory for the pages, as /usr/share/man/man1
    #[arg(value_name = "DIR")]
    pub(crate) directory: std::path::PathBuf,
}

#[derive(Debug, Args)]
pub(crate) struct Completions {
    /// The shell
    pub(crate) shell: clap_complete::Shell,
}
