//! Flags of `argosy run` by which a task is asked how it is.

use std::time::Duration;

use argosy_proto::v1;
use clap::Args;

use crate::parsers;

/// How the task is asked whether it is well.
#[derive(Debug, Args)]
#[command(next_help_heading = "Checks")]
pub(crate) struct Checks {
    /// Shell line that exits with 0 in the task's container while the task is healthy; failures end the task
    #[arg(long, value_name = "LINE", group = "health")]
    pub(crate) health_cmd: Option<String>,
    /// The same by a GET to a port of the task: healthy while the status is 200 to 399
    #[arg(long, value_name = "PORT[/PATH]", value_parser = parsers::http_check, group = "health")]
    pub(crate) health_http: Option<v1::HttpCheck>,
    /// The same by HTTPS; nobody's certificate is verified
    #[arg(long, value_name = "PORT[/PATH]", value_parser = parsers::https_check, group = "health")]
    pub(crate) health_https: Option<v1::HttpCheck>,
    /// The same by a connection to a port of the task
    #[arg(long, value_name = "PORT", value_parser = parsers::port, group = "health")]
    pub(crate) health_tcp: Option<u16>,
    /// Statuses that mean that all is well, instead of 200 to 399
    #[arg(long, value_name = "STATUS,…", value_delimiter = ',', value_parser = clap::value_parser!(u32).range(100..600), requires = "health", conflicts_with_all = ["health_cmd", "health_tcp"])]
    pub(crate) health_status: Vec<u32>,
    /// From the start to the first time
    #[arg(long, value_name = "TIME", default_value = "15s", value_parser = parsers::duration, requires = "health")]
    pub(crate) health_delay: Duration,
    /// From one answer to the next time
    #[arg(long, value_name = "TIME", default_value = "10s", value_parser = parsers::duration, requires = "health")]
    pub(crate) health_interval: Duration,
    /// How long an answer may take
    #[arg(long, value_name = "TIME", default_value = "20s", value_parser = parsers::duration, requires = "health")]
    pub(crate) health_timeout: Duration,
    /// Failures in a row that end the task
    #[arg(long, visible_alias = "health-retries", value_name = "NUMBER", default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..), requires = "health")]
    pub(crate) health_failures: u32,
    /// How long after the start failures count for nothing, until one answer was good
    #[arg(long, visible_alias = "health-start-period", value_name = "TIME", default_value = "10s", value_parser = parsers::duration, requires = "health")]
    pub(crate) health_grace: Duration,
    /// Shell line that exits with 0 while the task can take work; only shown
    #[arg(long, value_name = "LINE", group = "ready")]
    pub(crate) ready_cmd: Option<String>,
    /// The same by a GET to a port of the task
    #[arg(long, value_name = "PORT[/PATH]", value_parser = parsers::http_check, group = "ready")]
    pub(crate) ready_http: Option<v1::HttpCheck>,
    /// The same by HTTPS; nobody's certificate is verified
    #[arg(long, value_name = "PORT[/PATH]", value_parser = parsers::https_check, group = "ready")]
    pub(crate) ready_https: Option<v1::HttpCheck>,
    /// The same by a connection to a port of the task
    #[arg(long, value_name = "PORT", value_parser = parsers::port, group = "ready")]
    pub(crate) ready_tcp: Option<u16>,
    /// Statuses that mean that all is well, instead of 200 to 399
    #[arg(long, value_name = "STATUS,…", value_delimiter = ',', value_parser = clap::value_parser!(u32).range(100..600), requires = "ready", conflicts_with_all = ["ready_cmd", "ready_tcp"])]
    pub(crate) ready_status: Vec<u32>,
    /// From the start to the first time
    #[arg(long, value_name = "TIME", default_value = "15s", value_parser = parsers::duration, requires = "ready")]
    pub(crate) ready_delay: Duration,
    /// From one answer to the next time
    #[arg(long, value_name = "TIME", default_value = "10s", value_parser = parsers::duration, requires = "ready")]
    pub(crate) ready_interval: Duration,
    /// How long an answer may take
    #[arg(long, value_name = "TIME", default_value = "20s", value_parser = parsers::duration, requires = "ready")]
    pub(crate) ready_timeout: Duration,
}
