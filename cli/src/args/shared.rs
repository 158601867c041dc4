//! Flags that many verbs share.

use std::time::Duration;

use argosy_client::Masters;
use clap::{Args, ValueEnum};

use crate::parsers;

/// How the masters are reached.
#[derive(Debug, Clone, Args)]
pub(crate) struct Reach {
    /// Masters to ask, any order [default: 127.0.0.1:5050, else a dev cluster at 127.77.0.1-3:5050]
    #[arg(long, env = "ARGOSY_MASTERS", value_name = "HOST:PORT,…", value_parser = parsers::masters)]
    pub(crate) masters: Option<Masters>,
    /// Give up after this time
    #[arg(long, env = "ARGOSY_TIMEOUT", value_name = "TIME", default_value = "10s", value_parser = parsers::duration)]
    pub(crate) timeout: Duration,
}

/// How records are shown.
#[derive(Debug, Clone, Copy, Args)]
pub(crate) struct Show {
    /// How to show it: table, wide, json, ndjson or name
    #[arg(short, long, env = "ARGOSY_OUTPUT", value_enum, value_name = "FORMAT", default_value_t = Format::Table, hide_possible_values = true)]
    pub(crate) output: Format,
}

/// How records are shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    /// Columns for people.
    Table,
    /// More columns.
    Wide,
    /// The wire's JSON mapping, one value.
    Json,
    /// The wire's JSON mapping, one record a line.
    Ndjson,
    /// Ids only, one a line.
    Name,
}

impl Format {
    /// Whether a program reads it.
    pub(crate) fn is_json(self) -> bool {
        matches!(self, Self::Json | Self::Ndjson)
    }
}

/// How a change is named, so that it can be repeated safely.
#[derive(Debug, Clone, Args)]
pub(crate) struct Write {
    /// Name of this change: repeated within ten minutes it changes nothing more [default: random]
    #[arg(long, value_name = "ID")]
    pub(crate) request_id: Option<String>,
    /// Only say what would be done
    #[arg(long)]
    pub(crate) dry_run: bool,
}

/// What a service writes to standard error.
#[derive(Debug, Clone, Args)]
pub(crate) struct Logging {
    /// What to log, as info or argosy_master=debug,info
    #[arg(
        long,
        env = "ARGOSY_LOG",
        value_name = "FILTER",
        default_value = "info,openraft=error"
    )]
    pub(crate) log: String,
    /// Log lines as text or json
    #[arg(long, env = "ARGOSY_LOG_FORMAT", value_enum, value_name = "FORMAT", default_value_t = LogFormat::Text, hide_possible_values = true)]
    pub(crate) log_format: LogFormat,
}

/// The shape of log lines.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum LogFormat {
    /// For people.
    Text,
    /// One object a line.
    Json,
}
