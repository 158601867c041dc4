//! The reason why a task has no agent yet, as text. Pure: computed from the agents and the masters'
//! explanation.
//!
//! It separates what can never be placed from what cannot be placed now.

use std::collections::BTreeSet;

use argosy_client::resources::from_wire;
use argosy_proto::{convert, v1};
use argosy_state::resources::{Resources, Value};
use argosy_state::task::{LinuxCapability, SecurityOptions, SizeExceeded, Sizes};

use crate::output::milli;
use crate::reasons;

/// The facts that are known while a task waits.
pub(crate) struct PendingContext<'a> {
    pub(crate) requested: &'a Resources,
    /// Security options that the agent must allow.
    pub(crate) opt_outs: &'a SecurityOptions,
    /// The largest sizes of the containers.
    pub(crate) sizes: Sizes,
    pub(crate) agents: &'a [v1::Agent],
    /// The masters' own counts, if available.
    pub(crate) counts: &'a [v1::ReasonCount],
    /// The last rejection of a launch.
    pub(crate) last_refusal: Option<&'a str>,
}

/// The reason why a task waits.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct PendingReason {
    /// The reason in a few words.
    pub(crate) reason: String,
    /// Numbers, names and remedies, one per line.
    pub(crate) lines: Vec<String>,
}

/// Computes the reason.
pub(crate) fn explain(known: &PendingContext<'_>) -> PendingReason {
    let reachable: Vec<_> = known
        .agents
        .iter()
        .filter(|agent| is_usable(agent))
        .collect();
    let (reason, mut lines) = if reachable.is_empty() {
        (
            no_agents(known.agents),
            vec!["helps: argosy agent start on a host".to_owned()],
        )
    } else if let Some(refused) = not_allowed(known, &reachable) {
        refused
    } else if let Some(refused) = too_large(known.sizes, &reachable) {
        refused
    } else {
        compare(known, &reachable)
    };
    if let Some(refused) = known.last_refusal {
        lines.insert(0, format!("the last launch was rejected: {refused}"));
    }
    PendingReason { reason, lines }
}

fn is_usable(agent: &v1::Agent) -> bool {
    agent.mode == v1::AgentMode::Registered as i32
}

fn no_agents(all: &[v1::Agent]) -> String {
    match all.len() {
        0 => "there is no agent".to_owned(),
        count => format!("none of {count} agents can be used now"),
    }
}

fn total(agent: &v1::Agent) -> Resources {
    let resources = agent.info.as_ref().map(|info| info.resources.as_slice());
    resources.and_then(from_wire).unwrap_or_default()
}

fn free(agent: &v1::Agent) -> Resources {
    let used = from_wire(&agent.used).unwrap_or_default();
    total(agent).minus_saturating(&used)
}

/// Returns all of `asked` that is not in `allowed`, and the flags that would allow it.
pub(crate) fn allows(
    allowed: Option<&v1::OptOuts>,
    requested: &SecurityOptions,
) -> Option<(String, String)> {
    // This release does not request options that it does not know.
    let allowed = convert::opt_outs_from(allowed.cloned()).unwrap_or_default();
    let beyond = &requested.capabilities - &allowed.capabilities;
    // If the capabilities are part of a named set, the whole set is suggested.
    let server = BTreeSet::from(LinuxCapability::SERVER);
    let is_set =
        beyond.len() > 1 && beyond.is_subset(&server) && server.is_subset(&requested.capabilities);
    let names = LinuxCapability::list(if is_set { &server } else { &beyond });
    let capabilities = (!beyond.is_empty()).then(|| {
        let what = match beyond.len() {
            1 => format!("capability {names}"),
            _ => format!("the capabilities {}", names.replace(',', ", ")),
        };
        (what, format!("--allow-capabilities {names}"))
    });
    let nothing = SecurityOptions::default;
    let others = [
        SecurityOptions {
            unconfined_seccomp: requested.unconfined_seccomp,
            ..nothing()
        },
        SecurityOptions {
            new_privileges: requested.new_privileges,
            ..nothing()
        },
        SecurityOptions {
            nested_user_namespaces: requested.nested_user_namespaces,
            ..nothing()
        },
        SecurityOptions {
            host_network: requested.host_network,
            ..nothing()
        },
    ];
    let others = others
        .iter()
        .filter_map(|other| other.first_not_allowed(&allowed));
    let (what, flags): (Vec<_>, Vec<_>) = capabilities.into_iter().chain(others).unzip();
    (!what.is_empty()).then(|| (what.join(", "), flags.join(" ")))
}

/// Returns a reason if no agent allows the security options of the task.
fn not_allowed(known: &PendingContext<'_>, agents: &[&v1::Agent]) -> Option<(String, Vec<String>)> {
    let allowed = |agent: &&v1::Agent| {
        let info = agent.info.as_ref();
        allows(
            info.and_then(|info| info.allowed_opt_outs.as_ref()),
            known.opt_outs,
        )
    };
    let beyond: Option<Vec<_>> = agents.iter().map(allowed).collect();
    let (what, flag) = beyond?.into_iter().next()?;
    let reason = format!("no agent allows {what}");
    Some((reason, vec![format!("helps: argosy agent start {flag}")]))
}

/// Returns a reason if no agent allows the requested sizes.
fn too_large(requested: Sizes, agents: &[&v1::Agent]) -> Option<(String, Vec<String>)> {
    let beyond = |agent: &&v1::Agent| {
        let info = agent.info.as_ref();
        let largest = info.and_then(|info| info.largest_sizes);
        requested.first_exceeding(&convert::sizes_from(largest))
    };
    let beyond: Option<Vec<_>> = agents.iter().map(beyond).collect();
    let SizeExceeded {
        field, asked, flag, ..
    } = beyond?.into_iter().next()?;
    let reason = format!("no agent allows {field} of {asked}");
    Some((reason, vec![format!("helps: argosy agent start {flag}")]))
}

fn compare(known: &PendingContext<'_>, agents: &[&v1::Agent]) -> (String, Vec<String>) {
    let large: Vec<_> = agents
        .iter()
        .filter(|agent| total(agent).contains(known.requested))
        .collect();
    let busy = large
        .iter()
        .filter(|agent| !free(agent).contains(known.requested))
        .count();
    let small = agents.len() - large.len();
    let counted = [("too-small", small), ("busy", busy)].map(|(reason, count)| v1::ReasonCount {
        reason: reason.to_owned(),
        agents: count as u32,
    });
    let others = (agents.len() - small - busy) as u32;
    // The masters count filters and declines; what is publicly visible is counted here.
    let mut all: Vec<_> = counted.into_iter().collect();
    let more = known.counts.iter().filter(|count| {
        !["too-small", "busy"].contains(&count.reason.as_str()) && count.agents <= others
    });
    all.extend(more.cloned());
    let unexplained = others.saturating_sub(all.iter().skip(2).map(|count| count.agents).sum());
    if unexplained > 0 {
        all.push(v1::ReasonCount {
            reason: "about-to-be-offered".to_owned(),
            agents: unexplained,
        });
    }
    let counts = reasons::counts(&all);
    if large.is_empty() {
        let (requested, has, helps) = shortage(known.requested, agents);
        let first = format!("requested {requested}; the largest agent has {has}");
        return (
            "no agent is large enough, now or later".to_owned(),
            vec![first, counts, helps],
        );
    }
    let requested = format!("requested {}", known.requested);
    if busy == large.len() {
        let helps = "helps: waiting for a task to end, or another agent".to_owned();
        return (
            "every agent that is large enough is busy".to_owned(),
            vec![requested, counts, helps],
        );
    }
    let role = "helps: argosy explain with this name shows why each agent was skipped".to_owned();
    (
        "nothing is offered yet".to_owned(),
        vec![requested, counts, role],
    )
}

/// Returns the first resource that no agent has enough of: the request, the largest amount of an
/// agent, and a remedy.
fn shortage(wanted: &Resources, agents: &[&v1::Agent]) -> (String, String, String) {
    for part in wanted.iter() {
        let name = &*part.identity.name;
        let Value::Scalar(asked) = part.value else {
            continue;
        };
        let most = agents
            .iter()
            .max_by_key(|agent| total(agent).scalar_milli(name));
        let Some((agent, has)) = most.map(|agent| (agent, total(agent).scalar_milli(name))) else {
            continue;
        };
        if has < asked {
            let flag = if name == "mem" || name == "disk" {
                format!("--{name} {}M", milli(has))
            } else {
                format!("--{name} {}", milli(has))
            };
            return (
                amount(name, asked),
                format!("{} ({})", milli(has), agent.agent_id),
                format!("helps: {flag}, or a larger agent"),
            );
        }
    }
    // Each amount exists on some agent, but all of them on none.
    let agent = agents
        .iter()
        .max_by_key(|agent| total(agent).scalar_milli("cpus"));
    let has = agent
        .map(|agent| format!("{} ({})", total(agent), agent.agent_id))
        .unwrap_or_default();
    (
        wanted.to_string(),
        has,
        "helps: requesting less, or a larger agent".to_owned(),
    )
}

fn amount(name: &str, value: i64) -> String {
    match name {
        "mem" | "disk" => format!("{} MiB of {name}", milli(value)),
        _ => format!("{} {name}", milli(value)),
    }
}

#[cfg(test)]
mod tests {
    use argosy_client::resources::resources;

    use super::*;

    fn agent(id: &str, has: &str, used: &str) -> v1::Agent {
        v1::Agent {
            agent_id: id.to_owned(),
            info: Some(v1::AgentInfo {
                resources: resources(has).unwrap(),
                ..v1::AgentInfo::default()
            }),
            mode: v1::AgentMode::Registered.into(),
            used: resources(used).unwrap(),
            ..v1::Agent::default()
        }
    }

    fn reason_lines(wanted: &str, agents: &[v1::Agent]) -> String {
        let wanted = wanted.parse().unwrap();
        let known = PendingContext {
            requested: &wanted,
            opt_outs: &SecurityOptions::default(),
            sizes: Sizes::default(),
            agents,
            counts: &[],
            last_refusal: None,
        };
        let why = explain(&known);
        format!("{}\n{}", why.reason, why.lines.join("\n"))
    }

    #[test]
    fn a_task_larger_than_every_agent_is_reported() {
        let agents = [
            agent("agent-1", "cpus:2;mem:1024", ""),
            agent("agent-2", "cpus:1;mem:1024", ""),
        ];
        assert_eq!(
            reason_lines("cpus:64;mem:32", &agents),
            "no agent is large enough, now or later\n\
             requested 64 cpus; the largest agent has 2 (agent-1)\n\
             2 agents: 2 too small, 0 busy, 0 filtered, 0 draining, 0 offered and declined\n\
             helps: --cpus 2, or a larger agent"
        );
    }

    #[test]
    fn memory_is_named_with_its_unit() {
        let text = reason_lines(
            "cpus:1;mem:4096",
            &[agent("agent-1", "cpus:2;mem:1024", "")],
        );
        assert!(
            text.contains("requested 4096 MiB of mem; the largest agent has 1024 (agent-1)"),
            "{text}"
        );
        assert!(text.contains("--mem 1024M"), "{text}");
    }

    #[test]
    fn a_busy_agent_is_not_reported_as_too_small() {
        let text = reason_lines(
            "cpus:1;mem:32",
            &[agent("agent-1", "cpus:2;mem:1024", "cpus:1.5")],
        );
        assert!(
            text.starts_with("every agent that is large enough is busy"),
            "{text}"
        );
        assert!(text.contains("1 agent: 0 too small, 1 busy"), "{text}");
    }

    #[test]
    fn missing_agents_are_reported_first() {
        assert!(reason_lines("cpus:1", &[]).starts_with("there is no agent"));
        let mut away = agent("agent-1", "cpus:2", "");
        away.mode = v1::AgentMode::Unreachable.into();
        assert!(reason_lines("cpus:1", &[away]).starts_with("none of 1 agents can be used now"));
    }

    #[test]
    fn an_option_that_no_agent_allows_is_named_with_its_flag() {
        let wanted = "cpus:1".parse().unwrap();
        let requested = SecurityOptions {
            capabilities: [LinuxCapability::Chown].into(),
            ..SecurityOptions::default()
        };
        let mut agents = [
            agent("agent-1", "cpus:2", ""),
            agent("agent-2", "cpus:2", ""),
        ];
        let reason = |agents: &[v1::Agent]| {
            let known = PendingContext {
                requested: &wanted,
                opt_outs: &requested,
                sizes: Sizes::default(),
                agents,
                counts: &[],
                last_refusal: None,
            };
            explain(&known)
        };
        let why = reason(&agents);
        assert_eq!(why.reason, "no agent allows capability CHOWN");
        assert_eq!(
            why.lines,
            ["helps: argosy agent start --allow-capabilities CHOWN"]
        );
        agents[1].info.as_mut().unwrap().allowed_opt_outs = convert::opt_outs(&requested);
        assert_eq!(reason(&agents).reason, "nothing is offered yet");
    }

    #[test]
    fn a_size_that_no_agent_allows_is_named_with_its_flag() {
        let wanted = "cpus:1".parse().unwrap();
        let sizes = Sizes {
            shm_bytes: Some(2 << 20),
            ..Sizes::default()
        };
        let mut agents = [agent("agent-1", "cpus:2", "")];
        let reason = |agents: &[v1::Agent]| {
            let known = PendingContext {
                requested: &wanted,
                opt_outs: &SecurityOptions::default(),
                sizes,
                agents,
                counts: &[],
                last_refusal: None,
            };
            explain(&known)
        };
        let why = reason(&agents);
        assert_eq!(why.reason, "no agent allows shm_bytes of 2097152");
        let helps = "helps: argosy agent start --max-shm-size 2M";
        assert_eq!(why.lines, [helps]);
        agents[0].info.as_mut().unwrap().largest_sizes = convert::sizes(sizes);
        assert_eq!(reason(&agents).reason, "nothing is offered yet");
    }

    #[test]
    fn all_missing_permissions_of_an_agent_are_named_together() {
        let requested = SecurityOptions {
            capabilities: [
                LinuxCapability::Chown,
                LinuxCapability::Setgid,
                LinuxCapability::Setuid,
            ]
            .into(),
            new_privileges: true,
            ..SecurityOptions::default()
        };
        let allowed = SecurityOptions {
            capabilities: [LinuxCapability::Setgid].into(),
            ..SecurityOptions::default()
        };
        let of =
            |allowed: &SecurityOptions| allows(convert::opt_outs(allowed).as_ref(), &requested);
        let (what, flags) = of(&allowed).unwrap();
        assert_eq!(what, "the capabilities CHOWN, SETUID, new_privileges");
        assert_eq!(
            flags,
            "--allow-capabilities CHOWN,SETUID --allow-new-privileges"
        );
        assert_eq!(of(&requested), None);
        let server = SecurityOptions {
            capabilities: LinuxCapability::SERVER.into(),
            ..SecurityOptions::default()
        };
        let of = |allowed: &SecurityOptions| allows(convert::opt_outs(allowed).as_ref(), &server);
        let named = Some((
            "the capabilities SERVER".to_owned(),
            "--allow-capabilities SERVER".to_owned(),
        ));
        assert_eq!(of(&SecurityOptions::default()), named);
        assert_eq!(of(&allowed), named, "as a whole");
    }

    #[test]
    fn the_last_refusal_is_shown() {
        let wanted = "cpus:1".parse().unwrap();
        let known = PendingContext {
            requested: &wanted,
            opt_outs: &SecurityOptions::default(),
            sizes: Sizes::default(),
            agents: &[],
            counts: &[],
            last_refusal: Some("offer 1.2 is used"),
        };
        assert_eq!(
            explain(&known).lines[0],
            "the last launch was rejected: offer 1.2 is used"
        );
    }
}
