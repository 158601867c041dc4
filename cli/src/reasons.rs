//! The allocator's reasons as text. Pure.
//!
//! The masters define the closed set of reasons. An unknown reason is shown as it is.

use argosy_proto::v1;

/// Reasons that are shown even with a count of zero, as "0 busy".
const ALWAYS_SHOWN: [&str; 5] = ["too-small", "busy", "filtered", "draining", "declined"];

/// Returns the display text of a reason.
pub(crate) fn word(reason: &str) -> String {
    match reason {
        "declined" => "offered and declined".to_owned(),
        other => other.replace('-', " "),
    }
}

/// Returns `2 agents: 2 too small, 0 busy, …`, or an empty text without counts.
pub(crate) fn counts(counts: &[v1::ReasonCount]) -> String {
    if counts.is_empty() {
        return String::new();
    }
    let total: u32 = counts.iter().map(|count| count.agents).sum();
    let of = |reason: &str| {
        counts
            .iter()
            .filter(|count| count.reason == reason)
            .map(|count| count.agents)
            .sum::<u32>()
    };
    let mut parts: Vec<_> = ALWAYS_SHOWN
        .iter()
        .map(|reason| (of(reason), word(reason)))
        .collect();
    let others = counts
        .iter()
        .filter(|count| !ALWAYS_SHOWN.contains(&count.reason.as_str()));
    parts.extend(others.map(|count| (count.agents, word(&count.reason))));
    let parts: Vec<_> = parts
        .iter()
        .map(|(agents, reason)| format!("{agents} {reason}"))
        .collect();
    let noun = if total == 1 { "agent" } else { "agents" };
    format!("{total} {noun}: {}", parts.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn count(reason: &str, agents: u32) -> v1::ReasonCount {
        v1::ReasonCount {
            reason: reason.to_owned(),
            agents,
        }
    }

    #[test]
    fn counts_include_reasons_with_zero() {
        assert_eq!(
            counts(&[count("too-small", 2)]),
            "2 agents: 2 too small, 0 busy, 0 filtered, 0 draining, 0 offered and declined"
        );
        assert!(counts(&[count("no-link", 1)]).ends_with(", 1 no link"));
        assert_eq!(counts(&[]), "");
    }
}
