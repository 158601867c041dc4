//! The resource that every agent lacks, even if it were empty, and the flag that helps. Pure.

use argosy_client::resources::from_wire;
use argosy_proto::v1;
use argosy_state::resources::{Resource, Resources, Value};

use crate::output::milli;

/// A resource that no agent has enough of.
pub(super) struct Shortage {
    pub(super) requested: String,
    /// The values that agents have instead.
    pub(super) found: String,
    pub(super) helps: String,
}

/// Returns the agents that have all of these resources in total.
pub(super) fn large_enough<'a>(
    wanted: &Resources,
    agents: &[&'a v1::Agent],
) -> impl Iterator<Item = &'a v1::Agent> {
    let agents = agents.iter().copied();
    agents.filter(|agent| total(agent).contains(wanted))
}

/// Returns the first resource that no agent has enough of.
pub(super) fn shortage(wanted: &Resources, agents: &[&v1::Agent]) -> Shortage {
    let found = wanted.iter().find_map(|part| {
        let name = &*part.identity.name;
        match &part.value {
            Value::Scalar(asked) => scalar_shortage(name, *asked, agents),
            Value::Ranges(_) | Value::Set(_) => item_shortage(part, agents),
        }
    });
    // Each amount exists on some agent, but all of them on none.
    found.unwrap_or_else(|| {
        let agent = agents
            .iter()
            .max_by_key(|agent| total(agent).scalar_milli("cpus"));
        let has = agent.map(|agent| format!("{} ({})", total(agent), agent.agent_id));
        Shortage {
            requested: wanted.to_string(),
            found: format!("the largest agent has {}", has.unwrap_or_default()),
            helps: "helps: requesting less, or a larger agent".to_owned(),
        }
    })
}

fn scalar_shortage(name: &str, asked: i64, agents: &[&v1::Agent]) -> Option<Shortage> {
    let most = agents
        .iter()
        .max_by_key(|agent| total(agent).scalar_milli(name))?;
    let has = total(most).scalar_milli(name);
    let flag = match name {
        "mem" | "disk" => format!("--{name} {}M", milli(has)),
        _ => format!("--{name} {}", milli(has)),
    };
    (has < asked).then(|| Shortage {
        requested: amount(name, asked),
        found: format!("the largest agent has {} ({})", milli(has), most.agent_id),
        helps: format!("helps: {flag}, or a larger agent"),
    })
}

/// Returns ports or devices that no agent offers.
fn item_shortage(part: &Resource, agents: &[&v1::Agent]) -> Option<Shortage> {
    let name = &*part.identity.name;
    let single = Resources::collect([part.clone()])?;
    if agents.iter().any(|agent| total(agent).contains(&single)) {
        return None;
    }
    let of_kind = |agent: &&v1::Agent| {
        let total = total(agent);
        let mut parts = total.iter();
        let own = parts.find(|own| *own.identity.name == *name)?.clone();
        Some((
            Resources::collect([own])?.to_string(),
            agent.agent_id.clone(),
        ))
    };
    let offered = agents.iter().find_map(of_kind);
    let found = match &offered {
        Some((has, agent)) => format!("no agent offers that; {agent} offers {has}"),
        None => format!("no agent offers any {name}"),
    };
    let helps = match name {
        "ports" => {
            "helps: a port that is offered, or argosy agent start --resources with this port"
        }
        "devices" => "helps: argosy agent start --device",
        _ => "helps: argosy agent start --resources",
    };
    Some(Shortage {
        requested: single.to_string(),
        found,
        helps: helps.to_owned(),
    })
}

fn amount(name: &str, value: i64) -> String {
    match name {
        "mem" | "disk" => format!("{} MiB of {name}", milli(value)),
        _ => format!("{} {name}", milli(value)),
    }
}

fn total(agent: &v1::Agent) -> Resources {
    let resources = agent.info.as_ref().map(|info| info.resources.as_slice());
    resources.and_then(from_wire).unwrap_or_default()
}
