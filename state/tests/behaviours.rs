//! Test of `docs/behaviours.md`: every row is complete, and every test that it names exists.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

/// The number of behaviours.
const ALL: u32 = 132;

/// The open rows. A row that is closed is removed from this list and does not return to it.
const OPEN: [u32; 18] = [
    30, 31, 32, 34, 92, 93, 95, 102, 103, 104, 105, 106, 107, 108, 110, 111, 112, 113,
];

#[derive(Debug, PartialEq)]
enum BehaviourStatus {
    Shown(Vec<String>),
    Differs { why: String, tests: Vec<String> },
    Open,
}

#[test]
fn every_behaviour_is_listed_once_with_a_status() {
    let found: Vec<u32> = behaviours().keys().copied().collect();
    assert_eq!(found, (1..=ALL).collect::<Vec<_>>());
}

#[test]
fn every_named_test_exists() {
    let sources = sources();
    let mut missing = Vec::new();
    for (number, status) in behaviours() {
        let tests = match status {
            BehaviourStatus::Shown(tests) | BehaviourStatus::Differs { tests, .. } => tests,
            BehaviourStatus::Open => Vec::new(),
        };
        let unknown = tests.into_iter().filter(|test| !exists(&sources, test));
        missing.extend(unknown.map(|test| format!("{number}: no test {test}")));
    }
    assert!(missing.is_empty(), "\n{}\n", missing.join("\n"));
}

#[test]
fn closed_rows_stay_closed() {
    let behaviours = behaviours().into_iter();
    let open = behaviours.filter(|(_, status)| *status == BehaviourStatus::Open);
    let open: Vec<u32> = open.map(|(number, _)| number).collect();
    assert_eq!(open, OPEN);
}

#[test]
fn a_difference_has_a_reason() {
    for (number, status) in behaviours() {
        if let BehaviourStatus::Differs { why, .. } = status {
            assert!(why.len() >= 20, "{number}: {why:?} is not a reason");
        }
    }
}

#[test]
fn a_missing_test_is_detected() {
    let sources = sources();
    assert!(!exists(&sources, "state::task::no_such_test_was_written"));
    assert!(!exists(&sources, "no-such-scenario.txt"));
    let scenario = "orders_lost_with_a_link_are_resent_from_the_floor_of_the_next";
    assert!(exists(
        &sources,
        &format!("master::leader::tests::agents::{scenario}")
    ));
    assert!(!exists(
        &sources,
        &format!("master::leader::tests::calls::{scenario}")
    ));
    // A test with the right name in the wrong crate does not count.
    assert!(exists(
        &sources,
        "state::task::a_task_being_killed_never_returns_to_running"
    ));
    assert!(!exists(
        &sources,
        "agent::task::a_task_being_killed_never_returns_to_running"
    ));
}

fn root() -> PathBuf {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR"));
    directory.parent().unwrap().to_owned()
}

/// Returns the rows of the tables: `| number | behaviour | status |`.
fn behaviours() -> BTreeMap<u32, BehaviourStatus> {
    let text = fs::read_to_string(root().join("docs/behaviours.md")).unwrap();
    let mut found = BTreeMap::new();
    for line in text.lines() {
        let cells: Vec<_> = line.split('|').map(str::trim).collect();
        let ["", number, behaviour, status, ""] = cells[..] else {
            continue;
        };
        let Ok(number) = number.parse::<u32>() else {
            continue;
        };
        assert!(behaviour.len() >= 15, "{number}: it is too short");
        let former = found.insert(number, read_status(number, status));
        assert_eq!(former, None, "{number} is listed twice");
    }
    found
}

fn read_status(number: u32, text: &str) -> BehaviourStatus {
    if text == "open" {
        return BehaviourStatus::Open;
    }
    let tests: Vec<String> = text
        .split('`')
        .skip(1)
        .step_by(2)
        .filter(|name| name.contains("::") || name.ends_with(".txt"))
        .map(str::to_owned)
        .collect();
    match text.strip_prefix("differs: ") {
        Some(why) => BehaviourStatus::Differs {
            why: why.split('`').next().unwrap_or_default().to_owned(),
            tests,
        },
        None => {
            assert!(!tests.is_empty(), "{number}: {text:?} names no test");
            let rest: String = text.split('`').step_by(2).collect();
            assert!(
                rest.chars().all(|letter| ", ".contains(letter)),
                "{number}: unexpected text {rest:?} after the tests"
            );
            BehaviourStatus::Shown(tests)
        }
    }
}

/// Returns all Rust sources and scenario files with their paths from the root.
fn sources() -> Vec<(String, String)> {
    let root = root();
    let mut waiting = vec![root.clone()];
    let mut files = Vec::new();
    while let Some(directory) = waiting.pop() {
        for entry in fs::read_dir(&directory).unwrap() {
            let path = entry.unwrap().path();
            let name = path.file_name().unwrap().to_string_lossy().into_owned();
            if path.is_symlink() || name.starts_with('.') || name == "target" {
                continue;
            }
            if path.is_dir() {
                waiting.push(path);
            } else if (name.ends_with(".rs") || name.ends_with(".txt"))
                && let Ok(text) = fs::read_to_string(&path)
            {
                let path = path.strip_prefix(&root).unwrap();
                files.push((path.to_string_lossy().into_owned(), text));
            }
        }
    }
    files
}

/// Returns whether a test exists. `crate::module::…::name` is a function of that name, a case of a
/// test program with its own list, or a scenario with that sentence as its name, in a file of the
/// crate whose path contains the modules in order. `name.txt` is a scenario file of the registry.
fn exists(sources: &[(String, String)], test: &str) -> bool {
    if test.ends_with(".txt") {
        return root().join("state/tests/scenarios").join(test).is_file();
    }
    let mut parts: Vec<&str> = test.split("::").collect();
    let name = parts.pop().unwrap_or_default();
    let (function, case) = (format!("fn {name}("), format!("\"{name}\""));
    let is_named = |line: &str| {
        let sentence = line
            .strip_prefix("# ")
            .and_then(|line| line.strip_suffix('.'));
        sentence.is_some_and(|sentence| sentence.to_lowercase().replace(' ', "_") == name)
    };
    sources.iter().any(|(path, text)| {
        let mut path = path.split(['/', '.']);
        parts.iter().all(|part| path.any(|at| at == *part))
            && (text.contains(&function) || text.contains(&case) || text.lines().any(is_named))
    })
}
