//! The reason why a task has no agent yet, as text. Pure: the masters' explanation, with remedies
//! in flags of the command line.
//!
//! Only what the masters do not know is judged here: the security options, sizes and attributes,
//! which they are not asked for.

use std::collections::BTreeSet;

use argosy_proto::{convert, v1};
use argosy_state::resources::Resources;
use argosy_state::task::{LinuxCapability, SecurityOptions, SizeExceeded, Sizes};

use super::shortage::{Shortage, large_enough, shortage};
use crate::args::filters::LabelFilter;
use crate::operator::quote;
use crate::reasons;

/// The reason that no agent has the requested resources, in the words of the masters.
const TOO_LARGE: &str = "no agent is large enough, now or later";

/// The facts that are known while a task waits.
pub(crate) struct PendingContext<'a> {
    pub(crate) requested: &'a Resources,
    /// Security options that the agent must allow.
    pub(crate) security_options: &'a SecurityOptions,
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
            .or_else(|| without_attributes(known, &usable)),
    };
    let (reason, mut lines) = own.unwrap_or_else(|| by_masters(known));
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
            known.security_options,
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

/// Returns a reason if no agent that gets tasks has the attributes.
fn without_attributes(
    known: &PendingContext<'_>,
    usable: &[&v1::Agent],
) -> Option<(String, Vec<String>)> {
    let has = |agent: &v1::Agent| {
        let info = agent.info.as_ref();
        info.is_some_and(|info| {
            let mut wanted = known.attributes.iter();
            wanted.all(|wanted| wanted.matches(&info.attributes))
        })
    };
    if usable.iter().any(|agent| has(agent)) {
        return None;
    }
    let names: Vec<_> = known.attributes.iter().map(ToString::to_string).collect();
    let names = names.join(" and ");
    let mut others = known
        .agents
        .iter()
        .filter(|agent| has(agent) && agent.mode() != v1::AgentMode::Gone);
    let Some(other) = others.next() else {
        let helps = "helps: argosy agent attribute; argosy agent list --columns agent,attributes lists them";
        return Some((format!("no agent has {names}"), vec![helps.to_owned()]));
    };
    let id = &other.agent_id;
    let (mode, helps) = match other.mode() {
        v1::AgentMode::Deactivated => (
            "is deactivated",
            format!("helps: argosy agent reactivate {id}"),
        ),
        _ => (
            "is away",
            format!("helps: argosy agent show {id}, and its host"),
        ),
    };
    let shown = match others.count() {
        0 => format!("{id} has it and {mode}"),
        more => format!("{id} and {more} more have it and get no tasks; {id} {mode}"),
    };
    let reason = format!("no agent that gets tasks has {names}");
    Some((reason, vec![shown, helps]))
}

/// Returns the masters' explanation: a sentence, the number of agents under each reason, a remedy.
fn by_masters(known: &PendingContext<'_>) -> (String, Vec<String>) {
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
    let requested = format!("requested {}", known.requested);
    let set_aside = counted(&["draining", "deactivated"]);
    if counted(&never) + counted(&away) + set_aside == all
        && let Some((reason, mut lines)) = without_large_agent(known, set_aside > 0)
    {
        lines.insert(1, counts);
        return (reason, lines);
    }
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

/// Returns the reason and two lines if no agent that gets tasks is large enough. The masters do not
/// compare the size of an agent that is away, or set aside by an operator.
fn without_large_agent(
    known: &PendingContext<'_>,
    some_set_aside: bool,
) -> Option<(String, Vec<String>)> {
    let agents = known.agents.iter();
    let agents = agents.filter(|agent| agent.mode() != v1::AgentMode::Gone);
    let agents: Vec<_> = agents.collect();
    let large: Vec<_> = large_enough(known.requested, &agents).collect();
    let Some(first) = large.first() else {
        let Shortage {
            requested,
            found,
            helps,
        } = (!agents.is_empty()).then(|| shortage(known.requested, &agents))?;
        let first = format!("requested {requested}; {found}");
        return Some((TOO_LARGE.to_owned(), vec![first, helps]));
    };
    let away = match large.len() {
        1 => first.agent_id.clone(),
        count => format!("{} or one of {} more", first.agent_id, count - 1),
    };
    let requested = format!("requested {}", known.requested);
    let helps = format!("helps: the return of {away}, or another agent");
    let reason = "every agent that is large enough is away".to_owned();
    (!some_set_aside).then(|| (reason, vec![requested, helps]))
}

#[cfg(test)]
mod tests;
