//! Health and readiness check flags of `argosy run`.

use std::time::Duration;

use argosy_proto::v1;
use clap::Args;

use crate::parsers;

/// Health and readiness checks of a task.
#[derive(Debug, Args)]
#[command(next_help_heading = "Checks")]
pub(crate) struct Checks {
    /// Shell command that exits with 0 in the task's container while the task is healthy;
    /// consecutive failures end the task
    #[arg(long, value_name = "LINE", group = "health")]
    pub(crate) health_cmd: Option<String>,
    /// Like --health-cmd, with an HTTP GET of a port of the task; a status of 200 to 399 is healthy
    #[arg(long, value_name = "PORT[/PATH]", value_parser = parsers::http_check, group = "health")]
    pub(crate) health_http: Option<v1::HttpCheck>,
    /// Like --health-http, over HTTPS; the certificate is not verified
    #[arg(long, value_name = "PORT[/PATH]", value_parser = parsers::https_check, group = "health")]
    pub(crate) health_https: Option<v1::HttpCheck>,
    /// Like --health-cmd, with a TCP connection to a port of the task
    #[arg(long, value_name = "PORT", value_parser = parsers::port, group = "health")]
    pub(crate) health_tcp: Option<u16>,
    /// Statuses that count as success, instead of 200 to 399
    #[arg(long, value_name = "STATUS,…", value_delimiter = ',', value_parser = clap::value_parser!(u32).range(100..600), requires = "health", conflicts_with_all = ["health_cmd", "health_tcp"])]
    pub(crate) health_status: Vec<u32>,
    /// Time from the start to the first check
    #[arg(long, value_name = "TIME", default_value = "15s", value_parser = parsers::duration, requires = "health")]
    pub(crate) health_delay: Duration,
    /// Time from the result of one check to the next check
    #[arg(long, value_name = "TIME", default_value = "10s", value_parser = parsers::duration, requires = "health")]
    pub(crate) health_interval: Duration,
    /// Timeout of one check
    #[arg(long, value_name = "TIME", default_value = "20s", value_parser = parsers::duration, requires = "health")]
    pub(crate) health_timeout: Duration,
    /// Consecutive failures that end the task
    #[arg(long, visible_alias = "health-retries", value_name = "NUMBER", default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..), requires = "health")]
    pub(crate) health_failures: u32,
    /// Time after the start in which failures are ignored, until the first success
    #[arg(long, visible_alias = "health-start-period", value_name = "TIME", default_value = "10s", value_parser = parsers::duration, requires = "health")]
    pub(crate) health_grace: Duration,
    /// Shell command that exits with 0 while the task can take work; only displayed
    #[arg(long, value_name = "LINE", group = "ready")]
    pub(crate) ready_cmd: Option<String>,
    /// Like --ready-cmd, with an HTTP GET of a port of the task
    #[arg(long, value_name = "PORT[/PATH]", value_parser = parsers::http_check, group = "ready")]
    pub(crate) ready_http: Option<v1::HttpCheck>,
    /// Like --ready-http, over HTTPS; the certificate is not verified
    #[arg(long, value_name = "PORT[/PATH]", value_parser = parsers::https_check, group = "ready")]
    pub(crate) ready_https: Option<v1::HttpCheck>,
    /// Like --ready-cmd, with a TCP connection to a port of the task
    #[arg(long, value_name = "PORT", value_parser = parsers::port, group = "ready")]
    pub(crate) ready_tcp: Option<u16>,
    /// Statuses that count as success, instead of 200 to 399
    #[arg(long, value_name = "STATUS,…", value_delimiter = ',', value_parser = clap::value_parser!(u32).range(100..600), requires = "ready", conflicts_with_all = ["ready_cmd", "ready_tcp"])]
    pub(crate) ready_status: Vec<u32>,
    /// Time from the start to the first check
    #[arg(long, value_name = "TIME", default_value = "15s", value_parser = parsers::duration, requires = "ready")]
    pub(crate) ready_delay: Duration,
    /// Time from the result of one check to the next check
    #[arg(long, value_name = "TIME", default_value = "10s", value_parser = parsers::duration, requires = "ready")]
    pub(crate) ready_interval: Duration,
    /// Timeout of one check
    #[arg(long, value_name = "TIME", default_value = "20s", value_parser = parsers::duration, requires = "ready")]
    pub(crate) ready_timeout: Duration,
}
