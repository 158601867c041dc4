//! The test hooks in the product's code: each is one line, by the macro of its kind, and each that
//! is declared is used.

use std::collections::BTreeMap;

use argosy_state::buggify::Rare;
use argosy_state::bugs::Bug;

mod tree;

use tree::{Source, sources};

/// The macros of the test hooks.
const MACROS: [&str; 4] = [
    "planted_bug!",
    "buggify!",
    "crash_point!",
    "layer_disabled!",
];
/// The functions behind the macros, which nothing else calls.
const FUNCTIONS: [&str; 4] = [
    "is_planted(",
    "::occurs(",
    "crash_points::passed(",
    "is_disabled(",
];
/// The files that define hooks, and this one.
const DEFINITIONS: [&str; 6] = [
    "state/src/bugs.rs",
    "state/src/buggify.rs",
    "state/tests/hooks.rs",
    "host/src/crash_points.rs",
    "/testing/disable_layer.rs",
    "agent/src/crash.rs",
];
/// Planted bugs and rare choices in several places, with their number: a bug that has to disable
/// more than one protection, or a choice that is made in several functions. All others have one.
const SEVERAL: [(&str, usize); 9] = [
    ("AppliedBeforeRecords", 2),
    ("CloneAccepted", 2),
    ("DeadlineLost", 2),
    ("EpochNotChecked", 2),
    ("EqualWithUnsentOrder", 2),
    ("InstallNotNoted", 2),
    ("LateReport", 3),
    ("LaunchRepeated", 2),
    ("StaleEpochCommits", 3),
];

/// A hook in the code.
struct Hook {
    place: String,
    kind: &'static str,
    /// The arguments; `None` if they continue in the next line.
    arguments: Option<String>,
}

impl Hook {
    /// The planted bug, rare choice, layer or step that it names.
    fn name(&self) -> &str {
        let arguments = self.arguments.as_deref().unwrap_or_default();
        let is_part = |letter: char| letter.is_ascii_alphanumeric();
        let end = arguments.find(|letter| !is_part(letter));
        &arguments[..end.unwrap_or(arguments.len())]
    }
}

/// Returns what is in the parentheses with which the text begins.
fn in_parentheses(text: &str) -> Option<&str> {
    let mut depth = 0_usize;
    for (at, letter) in text.char_indices() {
        match letter {
            '(' => depth += 1,
            ')' if depth == 1 => return Some(&text[1..at]),
            ')' => depth = depth.saturating_sub(1),
            _ => {}
        }
    }
    None
}

fn is_product(name: &str) -> bool {
    let is_definition = DEFINITIONS.iter().any(|file| name.ends_with(file));
    !is_definition && name.contains("/src/")
}

/// Returns the lines of code of a file, with their numbers: no comments.
fn code(file: &Source) -> impl Iterator<Item = (usize, &str)> {
    let lines = file.text.lines().enumerate();
    let lines = lines.map(|(at, line)| (at + 1, line.trim()));
    lines.filter(|(_, line)| !line.starts_with("//"))
}

fn hooks_of(file: &Source) -> Vec<Hook> {
    let mut hooks = Vec::new();
    for (number, line) in code(file) {
        for kind in MACROS {
            hooks.extend(line.match_indices(kind).map(|(at, _)| Hook {
                place: format!("{}:{number}", file.name),
                kind,
                arguments: in_parentheses(&line[at + kind.len()..]).map(str::to_owned),
            }));
        }
    }
    hooks
}

fn product() -> Vec<Source> {
    let mut files = sources();
    files.retain(|file| is_product(&file.name));
    files
}

fn hooks() -> Vec<Hook> {
    product().iter().flat_map(hooks_of).collect()
}

/// Returns how often each name is used by hooks of a kind.
fn uses(hooks: &[Hook], kind: &str) -> BTreeMap<String, usize> {
    let mut uses = BTreeMap::new();
    for hook in hooks.iter().filter(|hook| hook.kind == kind) {
        *uses.entry(hook.name().to_owned()).or_default() += 1;
    }
    uses
}

fn expected(names: impl Iterator<Item = String>) -> BTreeMap<String, usize> {
    let number = |name: &str| SEVERAL.iter().find(|(known, _)| *known == name);
    names
        .map(|name| {
            let uses = number(&name).map_or(1, |(_, uses)| *uses);
            (name, uses)
        })
        .collect()
}

#[test]
fn every_test_hook_is_one_line() {
    let hooks = hooks();
    let split = hooks.iter().filter(|hook| hook.arguments.is_none());
    let split: Vec<_> = split.map(|hook| &hook.place).collect();
    assert!(split.is_empty(), "split over lines: {split:?}");
    for (kind, least) in MACROS.into_iter().zip([55, 18, 150, 15]) {
        let found = hooks.iter().filter(|hook| hook.kind == kind).count();
        assert!(found >= least, "{kind}: {found}");
    }
}

#[test]
fn every_planted_bug_and_rare_choice_is_used_as_declared() {
    let hooks = hooks();
    let bugs = Bug::ALL.iter().map(|bug| format!("{bug:?}"));
    assert_eq!(uses(&hooks, "planted_bug!"), expected(bugs));
    let rare = Rare::ALL.iter().map(|kind| format!("{kind:?}"));
    assert_eq!(uses(&hooks, "buggify!"), expected(rare));
}

#[test]
fn only_the_macros_query_test_hooks() {
    let mut found = Vec::new();
    for file in product() {
        for (number, line) in code(&file) {
            let is_call = |function: &&str| line.contains(*function);
            // A simulation continues after a violation if any bug is planted.
            let is_allowed = file.name == "chaos/src/sim/run.rs";
            if FUNCTIONS.iter().any(is_call) && !is_allowed {
                found.push(format!("{}:{number}: {line}", file.name));
            }
        }
    }
    assert!(found.is_empty(), "{}", found.join("\n"));
}

#[test]
fn a_split_hook_is_detected() {
    let text = "// planted_bug!(A\nplanted_bug!(KillLost if is_early(a, (b)) => continue);\nlet x = buggify!(\n    LinkFull);\n";
    let file = Source {
        name: "x.rs".to_owned(),
        text: text.to_owned(),
    };
    let hooks = hooks_of(&file);
    let names: Vec<_> = hooks.iter().map(Hook::name).collect();
    assert_eq!(names, ["KillLost", ""]);
    assert!(hooks[0].arguments.is_some() && hooks[1].arguments.is_none());
    assert_eq!(hooks[1].place, "x.rs:3");
}
