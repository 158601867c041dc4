//! Arguments of `argosy events`, `argosy wait` and `argosy top`, which read the change feed.

use std::time::Duration;

use clap::builder::PossibleValuesParser;
use clap::{Args, ValueEnum};

use super::shared::{ClusterArguments, ConnectionArguments, OutputArguments};
use crate::parsers;

/// The kinds of records that the feed shows.
const KINDS: [&str; 5] = ["agent", "cluster", "framework", "role", "task"];

#[derive(Debug, Args)]
pub(crate) struct Events {
    /// Keep printing changes until Ctrl-C; without --from and --tail, only new ones
    #[arg(short, long)]
    pub(crate) follow: bool,
    /// Only changes after this revision, as in the column REVISION
    #[arg(long, value_name = "REVISION")]
    pub(crate) from: Option<u64>,
    /// Only this many of the last changes
    #[arg(short = 'n', long, value_name = "NUMBER", value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) tail: Option<u32>,
    /// Only changes of these kinds of records: agent, cluster, framework, role, task
    #[arg(long = "kind", value_name = "KIND,…", value_delimiter = ',', value_parser = PossibleValuesParser::new(KINDS), hide_possible_values = true)]
    pub(crate) kinds: Vec<String>,
    /// Only changes of records with this value of a field, as agent_id=agent-2; may be repeated
    #[arg(long, value_name = "FIELD=VALUE", value_parser = parsers::pair)]
    pub(crate) filter: Vec<(String, String)>,
    #[command(flatten)]
    pub(crate) show: OutputArguments,
    #[command(flatten)]
    pub(crate) reach: ConnectionArguments,
}

/// The kinds of objects that can be waited for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum WaitKind {
    Task,
    Agent,
    Framework,
    Master,
    Cluster,
}

impl WaitKind {
    /// Returns the word of the command line, which is also that of the feed.
    pub(crate) fn word(self) -> &'static str {
        match self {
            Self::Task => "task",
            Self::Agent => "agent",
            Self::Framework => "framework",
            Self::Master => "master",
            Self::Cluster => "cluster",
        }
    }
}

#[derive(Debug, Args)]
pub(crate) struct Wait {
    /// task, agent, framework, master or cluster
    #[arg(value_name = "KIND", value_enum, hide_possible_values = true)]
    pub(crate) kind: WaitKind,
    /// Id, unique prefix of an id, or name; address of a master; none for cluster
    #[arg(required_if_eq_any = [("kind", "task"), ("kind", "agent"), ("kind", "framework"), ("kind", "master")])]
    pub(crate) name: Option<String>,
    /// State to wait for: of a task running, ended, healthy, ready or any other state; of an agent
    /// any state, idle or connected; of a framework removed; of a master leading; of the cluster
    /// healthy
    #[arg(long = "for", value_name = "CONDITION")]
    pub(crate) condition: String,
    /// Fail after this time [default: unlimited]
    #[arg(long, value_name = "TIME", value_parser = parsers::duration)]
    pub(crate) timeout: Option<Duration>,
    #[command(flatten)]
    pub(crate) cluster: ClusterArguments,
}

/// The pages of `argosy top`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum TopPage {
    Cluster,
    Agents,
    Tasks,
    Frameworks,
    Roles,
}

#[derive(Debug, Args)]
pub(crate) struct Top {
    /// The first page: cluster, agents, tasks, frameworks or roles
    #[arg(long, value_enum, value_name = "PAGE", default_value_t = TopPage::Tasks, hide_possible_values = true)]
    pub(crate) page: TopPage,
    #[command(flatten)]
    pub(crate) reach: ConnectionArguments,
}
