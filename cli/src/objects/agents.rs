//! `agent start|stop|adopt|list|show|attribute|deactivate|reactivate|gone|log-level`.

mod administration;
mod listing;

use argosy_proto::v1;
use clap::Subcommand;

use administration::{AgentAttribute, AgentChange, AgentGone};
use listing::AgentList;

use super::{ObjectCommand, calls};
use crate::adoption::{AgentAdopt, adopt};
use crate::agent;
use crate::args::{AgentStart, AgentStop, Format, LogLevel, OutputArguments, ShowArguments};
use crate::exit::VerbResult;
use crate::operator::ClusterClient;
use crate::output::{self, mode_word, resources};

#[derive(Debug, Subcommand)]
pub(crate) enum AgentCommand {
    /// Start the agent of this host
    #[command(after_help = "Examples:
  argosy agent start --masters 10.0.0.1,10.0.0.2 --listen 10.0.1.7 --tls-cert a7.crt --tls-key a7.key --tls-ca ca.crt
  argosy agent start --insecure-plaintext --resources 'cpus:2;mem:1024;ports:[31000-31100]' --attribute zone=a

Without a certificate, --insecure-plaintext is needed. `argosy ca` creates certificates.")]
    Start(Box<AgentStart>),
    /// Stop the agent of this host; its tasks keep running
    #[command(after_help = "Examples:
  argosy agent stop                          tasks keep running, and the next start recovers them
  argosy agent stop --kill-tasks             its tasks are killed and cleaned up")]
    Stop(AgentStop),
    /// Confirm that the agent of this host follows a cluster that was restored from its own
    #[command(
        long_about = "Confirm that the agent of this host follows a cluster that was restored from its own

After the loss of a cluster. The agent follows when it is started again, if the cluster names the agent's former one as
its ancestor and has a record of the agent. Its tasks keep running with the same processes. Tasks that the restored
cluster does not have are quarantined: they keep running, are not reported, and are marked in the agent's list of
containers. Run the command again with --end-quarantined, and restart the agent, to end them.",
        after_help = "Examples:
  argosy agent adopt 0f1e2d3c4b5a69788796a5b4c3d2e1f0
  argosy agent adopt 0f1e2d3c4b5a69788796a5b4c3d2e1f0 --end-quarantined --yes"
    )]
    Adopt(AgentAdopt),
    /// List the agents
    #[command(after_help = "Examples:
  argosy agent list --state unreachable,deactivated
  argosy agent list --attribute rack=r7 --sort mem --columns +attribute.rack

CPUS, MEM and DISK are what tasks use, of the total. With -o wide, NOT ENFORCED has what the host
lacks: cgroup controllers, whose limits are not enforced, and second isolation layers.")]
    List(AgentList),
    /// Show one agent
    #[command(after_help = "Examples:
  argosy agent show agent-2
  argosy agent show node7.example -o json")]
    Show(ShowArguments),
    /// Set or remove attributes of an agent
    #[command(
        long_about = "Set or remove attributes of an agent

They are added to the attributes that the agent was started with, and take precedence over them. The offers of the agent
are withdrawn and made again with the new attributes.",
        after_help = "Examples:
  argosy agent attribute agent-2 rack=r7 disk=ssd
  argosy agent attribute node7.example disk= --dry-run"
    )]
    Attribute(AgentAttribute),
    /// Stop offers of an agent's resources; its tasks continue
    #[command(after_help = "Examples:
  argosy agent deactivate agent-2
  argosy agent deactivate node7.example --dry-run")]
    Deactivate(AgentChange),
    /// Resume the offers of a deactivated agent
    #[command(after_help = "Examples:
  argosy agent reactivate agent-2
  argosy agent reactivate node7.example --dry-run")]
    Reactivate(AgentChange),
    /// Declare that an agent never returns: its tasks end, and its id is refused permanently
    #[command(
        long_about = "Declare that an agent never returns: its tasks end, and its id is refused permanently

For a host that is lost. Its tasks end as gone-by-operator, also those that may still run there, and their frameworks can
replace them. If the host is connected, or connects later, the agent kills its tasks and registers as a new agent.",
        after_help = "Examples:
  argosy agent gone agent-2
  argosy agent gone node7.example --yes --detach"
    )]
    Gone(AgentGone),
    /// Show or change the log level of an agent
    #[command(
        name = "log-level",
        after_help = "Examples:
  argosy agent log-level agent-2 argosy_agent=debug,info
  argosy agent log-level agent-2             the present one

The change ends with the process. An agent that has dropped root logs in two processes; the one with
root keeps its level."
    )]
    LogLevel(LogLevel),
}

impl ObjectCommand for AgentCommand {
    const ABOUT: &str = "Agents: start, stop, adopt, list, show, change, log level";
    const EXAMPLES: &str = "Examples:
  argosy agent list
  argosy agent start --masters 10.0.0.1,10.0.0.2,10.0.0.3 --listen 10.0.1.7 --insecure-plaintext";

    fn run(&self) -> VerbResult {
        match self {
            Self::Start(arguments) => agent::start(arguments),
            Self::Stop(arguments) => agent::stop(arguments),
            Self::Adopt(arguments) => adopt(arguments),
            Self::List(arguments) => calls(listing::list(arguments)),
            Self::Show(arguments) => calls(show(arguments)),
            Self::Attribute(arguments) => calls(administration::attribute(arguments)),
            Self::Deactivate(arguments) => calls(administration::deactivate(arguments)),
            Self::Reactivate(arguments) => calls(administration::reactivate(arguments)),
            Self::Gone(arguments) => calls(administration::gone(arguments)),
            Self::LogLevel(arguments) => calls(log_level(arguments)),
        }
    }

    fn output(&self) -> Option<OutputArguments> {
        match self {
            Self::Start(_)
            | Self::Stop(_)
            | Self::Adopt(_)
            | Self::Attribute(_)
            | Self::Deactivate(_)
            | Self::Reactivate(_)
            | Self::Gone(_) => None,
            Self::List(arguments) => Some(arguments.show),
            Self::Show(arguments) => Some(arguments.show),
            Self::LogLevel(arguments) => Some(arguments.show),
        }
    }
}

async fn log_level(arguments: &LogLevel) -> VerbResult {
    let operator = ClusterClient::open(&arguments.reach)?;
    let agent = operator.find_agent(&arguments.id).await?;
    let filter = arguments.filter.clone();
    let changed = operator.set_log_filter(agent.agent_id, filter).await?;
    show_filter(arguments.show.output, &changed)
}

/// Prints a log filter, and the one before it.
pub(super) fn show_filter(format: Format, changed: &v1::LogFilter) -> VerbResult {
    let is_changed = changed.former != changed.filter;
    let former = changed.former.clone();
    let text = match format {
        Format::Table | Format::Wide => output::plain(&[
            ("of", changed.id.clone()),
            ("log level", changed.filter.clone()),
            ("before", if is_changed { former } else { String::new() }),
        ]),
        Format::Json => output::json(changed)?,
        Format::Ndjson => output::line(changed)?,
        Format::Yaml => output::yaml(changed)?,
        Format::Name => changed.id.clone() + "\n",
    };
    output::print(&text)
}

pub(crate) async fn show(arguments: &ShowArguments) -> VerbResult {
    // Only the leader knows which agents are connected.
    let leader = ClusterClient::open(&arguments.reach)?.at_leader().await?;
    let agent = leader.find_agent(&arguments.id).await?;
    let info = agent.info.clone().unwrap_or_default();
    let mut attributes: Vec<_> = info
        .attributes
        .iter()
        .map(|(name, value)| format!("{name}={value}"))
        .collect();
    attributes.sort();
    let details = [
        ("agent", agent.agent_id.clone()),
        ("host", info.host_name),
        ("state", mode_word(agent.mode)),
        (
            "connected",
            if agent.connected { "yes" } else { "no" }.to_owned(),
        ),
        ("api", info.address),
        ("version", info.version),
        ("isolation", info.isolation),
        ("not enforced", info.missing_controllers.join(", ")),
        ("allows", allowed(info.allowed_opt_outs.unwrap_or_default())),
        ("largest sizes", sizes(info.largest_sizes)),
        ("capabilities", info.capabilities.join(", ")),
        ("has", resources(&info.resources)),
        ("used", resources(&agent.used)),
        ("live tasks", agent.live_tasks.to_string()),
        ("attributes", attributes.join(", ")),
    ];
    output::one(arguments.show.output, &agent, &details)
}

/// Returns the largest sizes that its tasks may request.
fn sizes(largest: Option<argosy_proto::v1::ContainerSizes>) -> String {
    let largest = largest.unwrap_or_default();
    let named = [
        ("open files", largest.open_files),
        ("bytes of /dev/shm", largest.shm_bytes),
        ("bytes of /tmp", largest.tmp_bytes),
    ];
    let named = named
        .into_iter()
        .filter_map(|(name, most)| Some(format!("{} {name}", most?)));
    named.collect::<Vec<_>>().join(", ")
}

/// Returns the security options that it allows its tasks.
fn allowed(options: argosy_proto::v1::OptOuts) -> String {
    let named = [
        (options.unconfined_seccomp, "unconfined seccomp"),
        (options.new_privileges, "new privileges"),
        (options.nested_user_namespaces, "nested user namespaces"),
        (options.host_network, "host network"),
    ];
    let named = named.into_iter().filter(|(is_allowed, _)| *is_allowed);
    let mut all = options.capabilities;
    all.extend(named.map(|(_, name)| name.to_owned()));
    all.join(", ")
}
