//! The allocator's reasons as text. Pure.
//!
//! The masters define the closed set of reasons. An unknown reason is shown as it is.

use argosy_proto::v1;

/// Returns the display text of a reason.
pub(crate) fn word(reason: &str) -> String {
    reason.replace('-', " ")
}

/// Returns `3 agents: 2 too small, 1 busy`, the most frequent reason first; an empty text without
/// counts.
pub(crate) fn counts(counts: &[v1::ReasonCount]) -> String {
    let mut counts: Vec<_> = counts.iter().filter(|count| count.agents > 0).collect();
    if counts.is_empty() {
        return String::new();
    }
    let total: u32 = counts.iter().map(|count| count.agents).sum();
    counts.sort_by_key(|count| std::cmp::Reverse(count.agents));
    let parts: Vec<_> = counts
        .iter()
        .map(|count| format!("{} {}", count.agents, word(&count.reason)))
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
    fn counts_are_those_of_reasons_with_agents_and_the_most_frequent_is_first() {
        assert_eq!(counts(&[count("too-small", 2)]), "2 agents: 2 too small");
        let several = [count("no-link", 1), count("busy", 0), count("too-small", 2)];
        assert_eq!(counts(&several), "3 agents: 2 too small, 1 no link");
        assert_eq!(counts(&[count("filtered", 1)]), "1 agent: 1 filtered");
        assert_eq!(counts(&[count("busy", 0)]), "");
        assert_eq!(counts(&[]), "");
    }
}
