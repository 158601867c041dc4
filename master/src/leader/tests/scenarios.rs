//! Scenario files: the inputs of a leader, each with its exact effects.
//!
//! A scenario in `scenarios/*.txt` begins with its name, a comment, and with the world in which it
//! starts. Each further line is a step, followed by its effects, which are indented; `quiet` before
//! a step drops them, for effects that another scenario covers. An empty line ends the scenario.
//! `UPDATE_EXPECT=1` rewrites the effects.

mod step;

use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};

use argosy_state::testing::ScenarioLine;

use super::fixture::World;

macro_rules! scenario_files {
    ($($file:ident)*) => {
        const FILES: &[&str] = &[$(stringify!($file)),*];

        $(#[test]
        fn $file() {
            check(stringify!($file));
        })*
    };
}

scenario_files! { agents calls deadlines epochs frameworks offers silent_schedulers updates }

#[test]
fn every_scenario_file_is_tested() {
    let entries = fs::read_dir(directory()).unwrap();
    let paths = entries.map(|entry| entry.unwrap().path());
    let files = paths.filter(|path| path.extension().is_some_and(|kind| kind == "txt"));
    let names = files.map(|path| path.file_stem().unwrap().to_str().unwrap().to_owned());
    let mut names: Vec<String> = names.collect();
    names.sort();
    assert_eq!(names, FILES);
}

fn directory() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("src/leader/tests/scenarios")
}

/// Plays the scenarios of a file. Each one that differs is named with its line.
fn check(file: &str) {
    let path = directory().join(file).with_extension("txt");
    let text = fs::read_to_string(&path).unwrap();
    let (mut all, mut wrong, mut before) = (Vec::new(), Vec::new(), 0);
    for scenario in text.trim_end().split("\n\n") {
        let mut step = "";
        let played = catch_unwind(AssertUnwindSafe(|| play(scenario, &mut step)));
        let (same, changes) = match &played {
            Ok(played) => difference(scenario, played),
            Err(_) => (0, format!("\n  {step}\n  panicked")),
        };
        if !changes.is_empty() {
            let header = scenario.lines().take_while(|line| line.starts_with('#'));
            let (name, line) = (header.last().unwrap_or_default(), before + same + 1);
            wrong.push(format!("{}:{line}: {name}{changes}\n", path.display()));
        }
        all.push(played.unwrap_or_else(|_| scenario.to_owned()));
        before += scenario.lines().count() + 1;
    }
    if std::env::var_os("UPDATE_EXPECT").is_some() {
        fs::write(&path, all.join("\n\n") + "\n").unwrap();
    } else {
        assert!(wrong.is_empty(), "\n{}", wrong.concat());
    }
}

/// Returns the scenario with the actual effects. `step` is the step that runs.
fn play<'a>(scenario: &'a str, step: &mut &'a str) -> String {
    let mut played: Vec<String> = Vec::new();
    let mut world = None;
    for text in scenario.lines().filter(|line| !line.starts_with(' ')) {
        played.push(text.to_owned());
        if text.starts_with('#') {
            continue;
        }
        *step = text;
        let line = ScenarioLine::new(text.trim_start_matches("quiet "));
        let Some((world, entries)) = &mut world else {
            let start = World::given(line.word(1));
            let entries = start.entries();
            world = Some((start, entries));
            continue;
        };
        let shown = world.step(&line, entries);
        let effects = world.take_lines().into_iter().chain(shown);
        if !text.starts_with("quiet ") {
            played.extend(effects.map(|effect| format!("  {effect}")));
        }
    }
    played.join("\n")
}

/// Returns the number of lines before the first difference, and all lines from there to the last
/// difference, after their step; nothing if there is none.
fn difference(wanted: &str, played: &str) -> (usize, String) {
    let (wanted, played): (Vec<_>, Vec<_>) = (wanted.lines().collect(), played.lines().collect());
    if wanted == played {
        return (0, String::new());
    }
    let pairs = wanted.iter().zip(&played);
    let same = pairs.take_while(|(a, b)| a == b).count();
    let step = wanted[..same].iter().rfind(|line| !line.starts_with(' '));
    let (wanted, played) = (&wanted[same..], &played[same..]);
    let ends = wanted.iter().rev().zip(played.iter().rev());
    let end = ends.take_while(|(a, b)| a == b).count();
    let marked = |mark: char, lines: &[&str]| -> String {
        let lines = &lines[..lines.len() - end];
        lines
            .iter()
            .map(|line| format!("\n{mark} {line}"))
            .collect()
    };
    let (lost, new) = (marked('-', wanted), marked('+', played));
    (same, format!("\n  {}{lost}{new}", step.unwrap_or(&"")))
}
