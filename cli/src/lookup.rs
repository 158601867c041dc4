//! Lookup of objects by id, unique prefix of an id, or name.
//!
//! Pure. An ambiguous word lists the candidates, an unknown word lists similar ones.

use argosy_proto::v1;

use crate::exit::{Failure, FailureCode};

/// Maximum number of names in a message.
const MAX_LISTED: usize = 8;
/// Maximum edit distance of a suggestion.
const MAX_DISTANCE: usize = 3;

/// An object that a word may name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Candidate {
    /// The unique id.
    pub(crate) id: String,
    /// The name, which may be shared with others or equal the id.
    pub(crate) name: String,
    /// The text that lists it among several.
    pub(crate) label: String,
}

/// Returns the position of the one candidate that matches. An id takes precedence over a name, a
/// name over a prefix.
pub(crate) fn find(noun: &str, wanted: &str, candidates: &[Candidate]) -> Result<usize, Failure> {
    let tests: [&dyn Fn(&Candidate) -> bool; 3] = [
        &|candidate| candidate.id == wanted,
        &|candidate| candidate.name == wanted,
        &|candidate| {
            !wanted.is_empty()
                && (candidate.id.starts_with(wanted) || candidate.name.starts_with(wanted))
        },
    ];
    for test in tests {
        let found: Vec<_> = (0..candidates.len())
            .filter(|at| test(&candidates[*at]))
            .collect();
        match found.as_slice() {
            [] => {}
            [one] => return Ok(*one),
            several => {
                return Err(ambiguous(
                    noun,
                    wanted,
                    several.iter().map(|at| &candidates[*at]),
                ));
            }
        }
    }
    Err(unknown(noun, wanted, candidates))
}

/// Returns the master that the user names.
pub(crate) fn pick_master(
    mut masters: Vec<v1::Master>,
    wanted: &str,
) -> Result<v1::Master, Failure> {
    let by = |address: fn(&v1::Master) -> &String| {
        masters.iter().position(|master| address(master) == wanted)
    };
    let at = match by(|master| &master.api_address).or_else(|| by(|master| &master.raft_address)) {
        Some(at) => at,
        None => {
            let candidates: Vec<_> = masters.iter().map(master_candidate).collect();
            find("master", wanted, &candidates)?
        }
    };
    Ok(masters.swap_remove(at))
}

/// Returns a master as an object that a word may name.
pub(crate) fn master_candidate(master: &v1::Master) -> Candidate {
    Candidate {
        id: master.node_id.clone(),
        name: master.api_address.clone(),
        label: format!("{} ({})", master.node_id, master.api_address),
    }
}

fn ambiguous<'a>(noun: &str, wanted: &str, found: impl Iterator<Item = &'a Candidate>) -> Failure {
    let all: Vec<_> = found.map(|candidate| candidate.label.as_str()).collect();
    let more = all.len().saturating_sub(MAX_LISTED);
    let mut listed = all[..all.len().min(MAX_LISTED)].join(", ");
    if more > 0 {
        listed.push_str(&format!(" and {more} more"));
    }
    Failure::usage(format!(
        "{wanted:?} matches {} {noun}s: {listed}",
        all.len()
    ))
    .advise("write more of the id, or all of it")
}

fn unknown(noun: &str, wanted: &str, candidates: &[Candidate]) -> Failure {
    let near = nearest(wanted, candidates);
    let mut message = format!("no {noun} {wanted:?}");
    if !near.is_empty() {
        message.push_str(&format!("; did you mean {}?", near.join(", ")));
    }
    let failure = Failure::new(FailureCode::NotFound, message);
    match noun {
        "task" if near.is_empty() => {
            failure.advise("argosy task list --all shows them, ended ones too")
        }
        _ if near.is_empty() => failure.advise(format!("argosy {noun} list shows them")),
        _ => failure,
    }
}

fn nearest(wanted: &str, candidates: &[Candidate]) -> Vec<String> {
    let mut near: Vec<_> = candidates
        .iter()
        .filter_map(|candidate| {
            // Another number is another object, not a misspelling.
            if same_but_number(wanted, &candidate.id) {
                return None;
            }
            let id = distance(wanted, &candidate.id);
            let name = distance(wanted, &candidate.name);
            let limit = MAX_DISTANCE.min(wanted.chars().count() / 2);
            let best = id.min(name);
            (best <= limit).then(|| (best, candidate.label.clone()))
        })
        .collect();
    near.sort();
    near.dedup();
    near.into_iter().take(3).map(|(_, shown)| shown).collect()
}

/// Returns whether both are numbered in the same way, as `agent-7` and `agent-8`.
fn same_but_number(left: &str, right: &str) -> bool {
    let kind = |text: &str| {
        text.trim_end_matches(|letter: char| letter.is_ascii_digit())
            .len()
    };
    let (left_kind, right_kind) = (kind(left), kind(right));
    left_kind < left.len()
        && right_kind < right.len()
        && left[..left_kind] == right[..right_kind]
        && left[..left_kind].ends_with('-')
}

/// Returns the number of letters to add, remove or change.
fn distance(left: &str, right: &str) -> usize {
    let right: Vec<_> = right.chars().collect();
    let mut row: Vec<usize> = (0..=right.len()).collect();
    for (at, letter) in left.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = at + 1;
        for (column, other) in right.iter().enumerate() {
            let changed = diagonal + usize::from(letter != *other);
            diagonal = row[column + 1];
            row[column + 1] = changed.min(diagonal + 1).min(row[column] + 1);
        }
    }
    row[right.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tasks(names: &[&str]) -> Vec<Candidate> {
        let candidate = |name: &&str| Candidate {
            id: (*name).to_owned(),
            name: format!("{name} name"),
            label: (*name).to_owned(),
        };
        names.iter().map(candidate).collect()
    }

    #[test]
    fn an_id_has_priority_over_a_prefix() {
        assert_eq!(find("task", "web-4", &tasks(&["web-41", "web-4"])), Ok(1));
    }

    #[test]
    fn a_unique_prefix_is_sufficient() {
        assert_eq!(
            find("task", "brave", &tasks(&["brave-otter", "calm-heron"])),
            Ok(0)
        );
    }

    #[test]
    fn ambiguity_lists_the_candidates() {
        let failure = find("task", "web", &tasks(&["web-1", "web-2", "db-1"])).unwrap_err();
        assert_eq!(failure.code, FailureCode::Usage);
        assert_eq!(failure.message, "\"web\" matches 2 tasks: web-1, web-2");
    }

    #[test]
    fn an_unknown_name_gets_the_most_similar_one_as_suggestion() {
        let failure = find("task", "web-a", &tasks(&["web-1", "web-9x", "db"])).unwrap_err();
        assert_eq!(failure.code, FailureCode::NotFound);
        assert_eq!(
            failure.message,
            "no task \"web-a\"; did you mean web-1, web-9x?"
        );
        let others = tasks(&["framework-99", "framework-19"]);
        let failure = find("framework", "framework-999", &others).unwrap_err();
        assert_eq!(failure.message, "no framework \"framework-999\"");
    }

    #[test]
    fn without_a_similar_name_the_list_is_shown() {
        let failure = find("agent", "zebra", &tasks(&["agent-1"])).unwrap_err();
        assert_eq!(
            failure.to_string(),
            "no agent \"zebra\"\n  argosy agent list shows them"
        );
    }

    #[test]
    fn an_empty_word_matches_nothing() {
        assert_eq!(
            find("task", "", &tasks(&["web-1"])).unwrap_err().code,
            FailureCode::NotFound
        );
    }

    #[test]
    fn distances_are_counted_in_letters() {
        let table = [
            ("", "", 0),
            ("abc", "abc", 0),
            ("abc", "abd", 1),
            ("kitten", "sitting", 3),
            ("", "ab", 2),
        ];
        for (left, right, expected) in table {
            assert_eq!(distance(left, right), expected, "{left} {right}");
        }
    }
}
