//! Flags that many commands share.

use std::path::PathBuf;
use std::time::Duration;

use argosy_client::Masters;
use clap::{Args, ValueEnum};

use super::tls::ClientTls;
use crate::parsers::{self, ContextName};

/// The cluster that a command calls.
#[derive(Debug, Clone, Default, Args)]
pub(crate) struct ClusterArguments {
    /// Masters, in any order [default: those of the context, else 127.0.0.1:5050, else a dev
    /// cluster at 127.77.0.1-3:5050]
    #[arg(long, env = "ARGOSY_MASTERS", value_name = "HOST:PORT,…", value_parser = parsers::masters)]
    pub(crate) masters: Option<Masters>,
    /// Context with masters and files of TLS, see argosy context [default: without --masters, the
    /// current one, else that of a dev cluster]
    #[arg(long, env = "ARGOSY_CONTEXT", value_name = "NAME")]
    pub(crate) context: Option<ContextName>,
    #[command(flatten)]
    pub(crate) tls: ClientTls,
    /// File with a bearer token, the identity of this client [default: the token of the context]
    #[arg(long, env = "ARGOSY_TOKEN_FILE", value_name = "FILE")]
    pub(crate) token_file: Option<PathBuf>,
}

/// Connection to the masters.
#[derive(Debug, Clone, Args)]
pub(crate) struct ConnectionArguments {
    #[command(flatten)]
    pub(crate) cluster: ClusterArguments,
    /// Fail after this time [default: 10s, but at once if every master refuses the connection]
    #[arg(long, env = "ARGOSY_TIMEOUT", value_name = "TIME", value_parser = parsers::timeout)]
    pub(crate) timeout: Option<Duration>,
}

/// The masters to call, for a command that has the flags of TLS in another role.
#[derive(Debug, Clone, Args)]
pub(crate) struct CalledMasters {
    /// Masters, in any order
    #[arg(long, env = "ARGOSY_MASTERS", value_name = "HOST:PORT,…", value_parser = parsers::masters)]
    pub(crate) masters: Option<Masters>,
    /// Fail after this time [default: 10s, but at once if every master refuses the connection]
    #[arg(long, env = "ARGOSY_TIMEOUT", value_name = "TIME", value_parser = parsers::timeout)]
    pub(crate) timeout: Option<Duration>,
}

/// Output options for records.
#[derive(Debug, Clone, Copy, Args)]
pub(crate) struct OutputArguments {
    /// Output format: table, wide, json, ndjson, yaml or name
    #[arg(short, long, env = "ARGOSY_OUTPUT", value_enum, value_name = "FORMAT", default_value_t = Format::Table, hide_possible_values = true)]
    pub(crate) output: Format,
}

/// Output formats for records.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    /// Human-readable columns.
    Table,
    /// More columns.
    Wide,
    /// The JSON mapping of the wire format, as one value.
    Json,
    /// The JSON mapping of the wire format, one record per line.
    Ndjson,
    /// The JSON mapping of the wire format, as YAML.
    Yaml,
    /// Ids only, one per line.
    Name,
}

/// Order, number and columns of the records of a list.
#[derive(Debug, Clone, Default, Args)]
pub(crate) struct ListView {
    // `verbs` adds the names of the columns of each list to the help.
    /// Columns of the table; with + before the first, they are added to the default ones
    #[arg(long, value_name = "COLUMN,…", value_delimiter = ',')]
    pub(crate) columns: Vec<String>,
    /// Sort by this column
    #[arg(long, value_name = "COLUMN")]
    pub(crate) sort: Option<String>,
    /// Reverse the order
    #[arg(long)]
    pub(crate) reverse: bool,
    /// Maximum number of records to show
    #[arg(long, value_name = "NUMBER", value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) limit: Option<u32>,
}

impl Format {
    /// Returns whether a program reads the output as JSON. Errors then are JSON too.
    pub(crate) fn is_json(self) -> bool {
        matches!(self, Self::Json | Self::Ndjson)
    }

    /// Returns whether the output has columns.
    pub(crate) fn is_table(self) -> bool {
        matches!(self, Self::Table | Self::Wide)
    }
}

/// Identity of a change, so that it can be repeated safely.
#[derive(Debug, Clone, Args)]
pub(crate) struct WriteArguments {
    /// Id of this change; repeated within ten minutes, it has no further effect [default: random]
    #[arg(long, value_name = "ID")]
    pub(crate) request_id: Option<String>,
    /// Only show what would be done
    #[arg(long)]
    pub(crate) dry_run: bool,
}

/// Logging of a service, to standard error.
#[derive(Debug, Clone, Args)]
pub(crate) struct Logging {
    /// Log filter, as info or argosy_master=debug,info
    #[arg(
        long,
        env = "ARGOSY_LOG",
        value_name = "FILTER",
        default_value = "info,openraft=error"
    )]
    pub(crate) log: String,
    /// Log format: text or json
    #[arg(long, env = "ARGOSY_LOG_FORMAT", value_enum, value_name = "FORMAT", default_value_t = LogFormat::Text, hide_possible_values = true)]
    pub(crate) log_format: LogFormat,
}

/// Formats of log lines.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum LogFormat {
    /// Human-readable lines.
    Text,
    /// One JSON object per line.
    Json,
}
