//! `agent list|show`.

use crate::args::{ListArguments, ShowArguments};
use crate::exit::VerbResult as Exit;
use crate::operator::{ClusterClient, EndedObjects};
use crate::output::{self, mode_word, note, resources};

pub(crate) async fn list(arguments: &ListArguments) -> Exit {
    let page = ClusterClient::open(&arguments.reach)
        .agents(EndedObjects::Excluded)
        .await?;
    if page.agents.is_empty() && !arguments.show.output.is_json() {
        note("no agents; argosy agent start starts one");
    }
    output::list(arguments.show.output, &page, &page.agents)
}

pub(crate) async fn show(arguments: &ShowArguments) -> Exit {
    // Only the leader knows which agents are connected.
    let leader = ClusterClient::open(&arguments.reach).at_leader().await?;
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
fn allowed(opt_outs: argosy_proto::v1::OptOuts) -> String {
    let named = [
        (opt_outs.unconfined_seccomp, "unconfined seccomp"),
        (opt_outs.new_privileges, "new privileges"),
        (opt_outs.nested_user_namespaces, "nested user namespaces"),
        (opt_outs.host_network, "host network"),
    ];
    let named = named.into_iter().filter(|(is_allowed, _)| *is_allowed);
    let mut all = opt_outs.capabilities;
    all.extend(named.map(|(_, name)| name.to_owned()));
    all.join(", ")
}
