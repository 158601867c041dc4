//! Scenario files: scripts of commands with the exact answers of the registry.
//!
//! Each `scenarios/*.txt` holds blocks: one command on each line, `----`, and the exact output up
//! to an empty line. `ARGOSY_BLESS=1` rewrites the outputs. The difference must then be reviewed
//! like any other.
#![allow(
    clippy::disallowed_methods,
    reason = "a test reads its switches from the environment"
)]

#[path = "scenarios/interpreter.rs"]
mod interpreter;
#[path = "scenarios/print.rs"]
mod print;

use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use argosy_state::level::Level;
use interpreter::Interpreter;

#[test]
fn the_registry_matches_every_scenario() {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/scenarios");
    let bless = std::env::var_os("ARGOSY_BLESS").is_some();
    let mut files: Vec<_> = fs::read_dir(&directory)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "txt"))
        .collect();
    files.sort();
    assert!(files.len() >= 10, "the scenarios are at {directory:?}");
    let mut wrong = Vec::new();
    for path in files {
        let text = fs::read_to_string(&path).unwrap();
        let output = play(&text);
        if text == output {
            continue;
        }
        if bless {
            fs::write(&path, output).unwrap();
        } else {
            wrong.push(difference(&path, &text, &output));
        }
    }
    assert!(
        wrong.is_empty(),
        "{}\nrun with ARGOSY_BLESS=1 to rewrite, and review the difference",
        wrong.join("\n")
    );
}

/// Returns the file with the actual outputs.
fn play(text: &str) -> String {
    let mut interpreter = Interpreter::new(Level::NEWEST);
    let mut played = String::new();
    for block in text.trim_end().split("\n\n") {
        let script = block.split("\n----").next().unwrap_or_default();
        let mut output = String::new();
        for line in script.lines() {
            if !line.starts_with('#') && !line.trim().is_empty() {
                output.push_str(&interpreter.play(line));
            }
        }
        writeln!(played, "{script}").unwrap();
        if script.lines().any(|line| !line.starts_with('#')) {
            writeln!(played, "----").unwrap();
            played.push_str(&output);
        }
        played.push('\n');
    }
    format!("{}\n", played.trim_end())
}

fn difference(path: &Path, wanted: &str, output: &str) -> String {
    let line = wanted
        .lines()
        .zip(output.lines())
        .position(|(a, b)| a != b)
        .unwrap_or_else(|| wanted.lines().count().min(output.lines().count()));
    format!(
        "{}:{}\n  wanted: {}\n  played: {}",
        path.display(),
        line + 1,
        wanted.lines().nth(line).unwrap_or("(end)"),
        output.lines().nth(line).unwrap_or("(end)")
    )
}
