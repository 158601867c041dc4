//! What the explorations rely on: names of the code, a small model, and steps that end.

use std::collections::HashMap;

use stateright::Model;

use super::ONE_TASK;
use crate::{Bounds, System};

/// The files of the model without the tests.
const FILES: [&str; 5] = [
    include_str!("../lib.rs"),
    include_str!("../registry.rs"),
    include_str!("../agent.rs"),
    include_str!("../leader.rs"),
    include_str!("../system.rs"),
];
/// The most lines of the model, without comments, attributes and blank lines.
const MOST_LINES: usize = 500;

/// Returns the names of the variants of an enum in a source file.
fn variants(source: &str, name: &str) -> Vec<String> {
    let lines =
        source.lines().skip_while(|line| !line.trim().ends_with(&format!("enum {name} {{")));
    let inside = lines.skip(1).map(str::trim).take_while(|line| *line != "}");
    let names = inside.filter(|line| line.starts_with(|first: char| first.is_ascii_uppercase()));
    let word = |line: &str| line.split(|c: char| !c.is_alphanumeric()).next().map(str::to_owned);
    names.filter_map(word).collect()
}

#[test]
fn commands_have_the_names_of_the_code() {
    let code = include_str!("../../../state/src/command/mod.rs");
    let known = [variants(code, "Command"), variants(code, "CallAction")].concat();
    let named = variants(FILES[0], "Command");
    assert_eq!(named.len(), 8, "{named:?}");
    assert!(known.len() > 20, "{known:?}");
    for name in named {
        assert!(known.contains(&name), "state/src/command has no {name}");
    }
}

#[test]
fn the_model_is_small() {
    let is_code = |line: &&str| {
        let line = line.trim_start();
        !(line.is_empty() || ["//", "#[", "#!["].iter().any(|mark| line.starts_with(mark)))
    };
    let lines = FILES.iter().flat_map(|file| file.lines()).filter(is_code).count();
    assert!(lines <= MOST_LINES, "{lines} lines");
}

/// Returns whether a state can be reached from itself. States that are being visited map to true.
fn has_cycle(bounds: &Bounds, state: System, visited: &mut HashMap<System, bool>) -> bool {
    if let Some(is_open) = visited.get(&state) {
        return *is_open;
    }
    visited.insert(state.clone(), true);
    let mut next = bounds.next_states(&state).into_iter();
    let is_found = next.any(|next| has_cycle(bounds, next, visited));
    visited.insert(state, false);
    is_found
}

/// Without a cycle, each sequence of steps ends. So the law that a system comes to rest, which
/// judges states in which nothing must happen any more, shows that each sequence leads there.
#[test]
fn no_state_comes_twice() {
    for budget in [[1, 1, 1, 0, 1, 0], [0, 1, 1, 1, 0, 1], [0, 1, 2, 1, 0, 0]] {
        let bounds = Bounds { budget, ..ONE_TASK };
        let mut visited = HashMap::new();
        for state in bounds.init_states() {
            assert!(!has_cycle(&bounds, state, &mut visited), "{budget:?}");
        }
        assert!(visited.len() > 1_000, "{budget:?}: only {} states", visited.len());
    }
}
