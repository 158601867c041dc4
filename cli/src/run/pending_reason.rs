//! The reason why a task has no agent yet, as text. Pure: the masters' explanation, with remedies
//! in flags of the command line.
//!
//! Only what the masters do not know is judged here: the security options, sizes and attributes,
//! which they are not asked for.

use std::collections::BTreeSet;

use argosy_proto::{convert, v1};
use argosy_state::resources::Resources;
use argosy_state::task::{LinuxCapability, SecurityOptions, SizeExceeded, Sizes};

use super::shortage::{Shortage, shortage};
use crate::args::filters::LabelFilter;
use crate::operator::quote;
use crate::reasons;

/// The facts that are known while a task waits.
pub(crate) struct PendingContext<'a> {
    pub(crate) requested: &'a Resources,
    /// Security options that the agent must allow.
    pub(crate) opt_outs: &'a SecurityOptions,
    /// The largest sizes of the containers.
    pub(crate) sizes: Sizes,
    /// Attributes that the agent must have.
    pub(crate) attributes: &'a [LabelFilter],
    pub(crate) agents: &'a [v1::Agent],
    /// The masters' explanation for these resources.
    pub(crate) explanation: &'a v1::Explanation,
    /// The framework that waits.
    pub(crate) framework_id: &'a str,
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

/// Returns the reason.
pub(crate) fn explain(known: &PendingContext<'_>) -> PendingReason {
    let usable: Vec<_> = known
        .agents
        .iter()
        .filter(|agent| is_usable(agent))
        .collect();
    let own = match usable.is_empty() {
        true => None,
        false => not_allowed(known, &usable)
            .or_else(|| too_large(known.sizes, &usable))
            .or_else(|| without_attributes(known.attributes, &usable)),
    };
    let (reason, mut lines) = own.unwrap_or_else(|| by_masters(known, &usable));
    if let Some(refused) = known.last_refusal {
        lines.insert(0, format!("the last launch was rejected: {refused}"));
    }
    PendingReason { reason, lines }
}

fn is_usable(agent: &v1::Agent) -> bool {
    agent.mode == v1::AgentMode::Registered as i32
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

/// Returns a reason if no agent has the attributes.
fn without_attributes(
    wanted: &[LabelFilter],
    agents: &[&v1::Agent],
) -> Option<(String, Vec<String>)> {
    let has = |agent: &&v1::Agent| {
        let info = agent.info.as_ref();
        info.is_some_and(|info| wanted.iter().all(|wanted| wanted.matches(&info.attributes)))
    };
    if agents.iter().any(has) {
        return None;
    }
    let names: Vec<_> = wanted.iter().map(ToString::to_string).collect();
    let helps =
        "helps: argosy agent attribute; argosy agent list --columns agent,attributes lists them";
    let reason = format!("no agent has {}", names.join(" and "));
    Some((reason, vec![helps.to_owned()]))
}

/// Returns the masters' explanation: a sentence, the number of agents under each reason, a remedy.
fn by_masters(known: &PendingContext<'_>, agents: &[&v1::Agent]) -> (String, Vec<String>) {
    let explanation = known.explanation;
    let reason = explanation.summary.clone();
    let counted = |reasons: &[&str]| -> u32 {
        let counts = explanation.counts.iter();
        let named = counts.filter(|count| reasons.contains(&count.reason.as_str()));
        named.map(|count| count.agents).sum()
    };
    let all: u32 = explanation.counts.iter().map(|count| count.agents).sum();
    let (never, busy) = (
        ["too-small", "gone"],
        ["busy", "below-minimum", "offered-elsewhere"],
    );
    let away = ["unreachable", "no-link"];
    let counts = reasons::counts(&explanation.counts);
    if all == 0 || counted(&away) + counted(&never[1..]) == all {
        let helps = "helps: argosy agent start on a host".to_owned();
        let lines = [counts, helps].into_iter().filter(|line| !line.is_empty());
        return (reason, lines.collect());
    }
    if counted(&never) == all {
        let Shortage {
            requested,
            found,
            helps,
        } = shortage(known.requested, agents);
        let first = format!("requested {requested}; {found}");
        return (reason, vec![first, counts, helps]);
    }
    let requested = format!("requested {}", known.requested);
    let helps = match counted(&busy) + counted(&never) + counted(&away) == all {
        true => "helps: waiting for a task to end, or another agent".to_owned(),
        false => format!(
            "helps: argosy explain {} --wanted {} shows why each agent was skipped",
            known.framework_id,
            quote(&known.requested.to_string())
        ),
    };
    (reason, vec![requested, counts, helps])
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

    fn explanation(summary: &str, counts: &[(&str, u32)]) -> v1::Explanation {
        let count = |(reason, agents): &(&str, u32)| v1::ReasonCount {
            reason: (*reason).to_owned(),
            agents: *agents,
        };
        v1::Explanation {
            summary: summary.to_owned(),
            counts: counts.iter().map(count).collect(),
            ..v1::Explanation::default()
        }
    }

    const TOO_LARGE: &str = "no agent is large enough, now or later";

    fn reason_lines(wanted: &str, agents: &[v1::Agent], explanation: &v1::Explanation) -> String {
        let wanted = wanted.parse().unwrap();
        let known = PendingContext {
            requested: &wanted,
            opt_outs: &SecurityOptions::default(),
            sizes: Sizes::default(),
            attributes: &[],
            agents,
            explanation,
            framework_id: "framework-7",
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
        let explanation = explanation(TOO_LARGE, &[("too-small", 2)]);
        assert_eq!(
            reason_lines("cpus:64;mem:32", &agents, &explanation),
            "no agent is large enough, now or later\n\
             requested 64 cpus; the largest agent has 2 (agent-1)\n\
             2 agents: 2 too small, 0 busy, 0 filtered, 0 draining, 0 offered and declined\n\
             helps: --cpus 2, or a larger agent"
        );
        let text = reason_lines("cpus:1;mem:4096", &agents, &explanation);
        assert!(
            text.contains("requested 4096 MiB of mem; the largest agent has 1024 (agent-"),
            "{text}"
        );
        assert!(text.contains("--mem 1024M"), "{text}");
    }

    #[test]
    fn ports_and_devices_that_no_agent_offers_are_named() {
        let agents = [agent("agent-1", "cpus:2;mem:1024;ports:[31000-31999]", "")];
        let explanation = explanation(TOO_LARGE, &[("too-small", 1)]);
        let text = reason_lines("cpus:1;ports:[80-80]", &agents, &explanation);
        assert!(
            text.contains(
                "requested ports:[80-80]; no agent offers that; agent-1 offers ports:[31000-31999]"
            ),
            "{text}"
        );
        assert!(text.contains("helps: a port that is offered"), "{text}");
        let text = reason_lines("cpus:1;devices:{gpu0}", &agents, &explanation);
        assert!(text.contains("no agent offers any devices"), "{text}");
        assert!(
            text.contains("helps: argosy agent start --device"),
            "{text}"
        );
    }

    #[test]
    fn the_masters_say_what_a_waiting_task_waits_for() {
        let agents = [agent("agent-1", "cpus:2;mem:1024", "cpus:1.5")];
        let busy = "every agent that is large enough is busy or away";
        let text = reason_lines("cpus:1", &agents, &explanation(busy, &[("busy", 1)]));
        assert!(text.starts_with(busy), "{text}");
        assert!(text.contains("1 agent: 0 too small, 1 busy"), "{text}");
        assert!(
            text.ends_with("helps: waiting for a task to end, or another agent"),
            "{text}"
        );
        let declined = "it was offered, and the framework declined";
        let counts = [("filtered", 1), ("busy", 1)];
        let text = reason_lines("cpus:1;mem:32", &agents, &explanation(declined, &counts));
        let command = "argosy explain framework-7 --wanted 'cpus:1;mem:32'";
        assert!(
            text.starts_with(declined) && text.contains(command),
            "{text}"
        );
    }

    #[test]
    fn missing_agents_are_reported_with_the_remedy() {
        let none = explanation("there are no agents", &[]);
        let expected = "there are no agents\nhelps: argosy agent start on a host";
        assert_eq!(reason_lines("cpus:1", &[], &none), expected);
        let mut away = agent("agent-1", "cpus:2", "");
        away.mode = v1::AgentMode::Unreachable.into();
        let known = explanation("every agent is away", &[("unreachable", 1)]);
        let text = reason_lines("cpus:1", &[away], &known);
        assert!(
            text.ends_with("helps: argosy agent start on a host"),
            "{text}"
        );
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
                attributes: &[],
                agents,
                explanation: &explanation("it is about to be offered", &[("ready", 2)]),
                framework_id: "framework-7",
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
        assert_eq!(reason(&agents).reason, "it is about to be offered");
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
                attributes: &[],
                agents,
                explanation: &explanation("it is about to be offered", &[("ready", 2)]),
                framework_id: "framework-7",
                last_refusal: None,
            };
            explain(&known)
        };
        let why = reason(&agents);
        assert_eq!(why.reason, "no agent allows shm_bytes of 2097152");
        let helps = "helps: argosy agent start --max-shm-size 2M";
        assert_eq!(why.lines, [helps]);
        agents[0].info.as_mut().unwrap().largest_sizes = convert::sizes(sizes);
        assert_eq!(reason(&agents).reason, "it is about to be offered");
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
    fn attributes_that_no_agent_has_are_named() {
        let wanted = ["rack=r7", "ssd"].map(|text| LabelFilter::parse(text).unwrap());
        let mut agents = [
            agent("agent-1", "cpus:2", ""),
            agent("agent-2", "cpus:2", ""),
        ];
        let missing = |agents: &[v1::Agent]| {
            let agents: Vec<_> = agents.iter().collect();
            without_attributes(&wanted, &agents).map(|(reason, _)| reason)
        };
        assert_eq!(missing(&agents).unwrap(), "no agent has rack=r7 and ssd");
        let pairs = [("rack", "r7"), ("ssd", "")];
        let pairs = pairs.map(|(name, value)| (name.to_owned(), value.to_owned()));
        agents[1].info.as_mut().unwrap().attributes = pairs.into();
        assert_eq!(missing(&agents), None);
    }

    #[test]
    fn the_last_refusal_is_shown() {
        let wanted = "cpus:1".parse().unwrap();
        let known = PendingContext {
            requested: &wanted,
            opt_outs: &SecurityOptions::default(),
            sizes: Sizes::default(),
            attributes: &[],
            agents: &[],
            explanation: &explanation("there are no agents", &[]),
            framework_id: "framework-7",
            last_refusal: Some("offer 1.2 is used"),
        };
        assert_eq!(
            explain(&known).lines[0],
            "the last launch was rejected: offer 1.2 is used"
        );
    }
}
