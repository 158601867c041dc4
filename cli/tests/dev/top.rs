//! `argosy top` at a terminal, on a real cluster.

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::cluster::{DevCluster, wait_for};
use crate::terminal::{TestTerminal, resize};

/// Enter and leave the alternate screen.
const ENTER: &str = "\u{1b}[?1049h";
const LEAVE: &str = "\u{1b}[?1049l";
const ROWS: u16 = 30;
const COLUMNS: u16 = 120;

/// Returns what a terminal shows after this output. Only cells that change are written, so that a
/// word may arrive in parts.
fn shown(output: &str) -> String {
    let mut cells = vec![vec![' '; COLUMNS.into()]; ROWS.into()];
    let (mut row, mut column) = (0, 0);
    let mut letters = output.chars();
    while let Some(letter) = letters.next() {
        if letter != '\u{1b}' {
            if let Some(cell) = cells.get_mut(row).and_then(|line| line.get_mut(column)) {
                *cell = letter;
            }
            column += 1;
            continue;
        }
        if letters.next() != Some('[') {
            continue;
        }
        let mut parameters = String::new();
        let end = letters.by_ref().find(|letter| {
            parameters.push(*letter);
            letter.is_ascii_alphabetic()
        });
        let mut numbers = parameters.trim_end_matches(char::is_alphabetic).split(';');
        let mut number = || {
            numbers
                .next()
                .and_then(|number| number.parse().ok())
                .unwrap_or(1)
        };
        match end {
            Some('H') => {
                let (to_row, to_column): (usize, usize) = (number(), number());
                (row, column) = (to_row.saturating_sub(1), to_column.saturating_sub(1));
            }
            Some('J') => cells.iter_mut().for_each(|line| line.fill(' ')),
            _ => {}
        }
    }
    let lines = cells.into_iter();
    lines
        .map(|line| line.into_iter().collect::<String>() + "\n")
        .collect()
}

fn wait_to_show(terminal: &mut TestTerminal, text: &str) {
    terminal.wait_until(text, |output| shown(output).contains(text));
}

fn launch(cluster: &DevCluster, name: &str) {
    let words = ["run", "-d", "--name", name, "--", "sleep", "1000"];
    let (code, _, stderr) = cluster.run(&words);
    assert_eq!(code, 0, "{stderr}");
}

#[test]
fn a_started_task_appears_and_the_terminal_is_restored() {
    let cluster = DevCluster::start(67, "1x1", &[]);
    launch(&cluster, "first-task");
    let mut terminal = TestTerminal::start(&cluster, ROWS, COLUMNS, &["top"]);
    terminal.wait_for_output(ENTER);
    wait_to_show(&mut terminal, "first-task");
    assert_ne!(terminal.mode(), terminal.initial_mode, "it is raw");
    launch(&cluster, "second-task");
    wait_to_show(&mut terminal, "second-task");
    assert_eq!(cluster.run(&["task", "kill", "first-task"]).0, 0);
    terminal.wait_until("the end of first-task", |output| {
        !shown(output).contains("first-task")
    });

    // Each page shows what calls and feed have.
    terminal.press("1");
    wait_to_show(&mut terminal, "feature level");
    wait_to_show(&mut terminal, "leader");
    terminal.press("2");
    wait_to_show(&mut terminal, "registered");
    terminal.press("4");
    wait_to_show(&mut terminal, "DEMAND");
    terminal.press("3/second\r");
    wait_to_show(&mut terminal, "filter \"second\"");
    resize(&terminal.pty, 12, 40);
    wait_to_show(&mut terminal, "Tab: next page");
    terminal.press("q");
    terminal.wait_for_output(LEAVE);
    assert_eq!(terminal.end(), Some(0));
    assert_eq!(terminal.mode(), terminal.initial_mode);
}

#[test]
fn top_continues_at_another_master_and_ends_at_signals() {
    let cluster = DevCluster::start(68, "3x1", &[]);
    launch(&cluster, "before");
    let mut terminal = TestTerminal::start(&cluster, ROWS, COLUMNS, &["top"]);
    wait_to_show(&mut terminal, "before");
    // The first line names the master of the stream.
    let source = |output: &str| {
        let screen = shown(output);
        let (_, source) = screen.lines().next()?.split_once("from master-")?;
        let (number, _) = source.split_once(',')?;
        Some(format!("master-{number}"))
    };
    terminal.wait_until("the master of the stream", |output| {
        source(output).is_some()
    });
    let source = source(terminal.output()).unwrap();
    let (_, page, _) = cluster.run(&["master", "list", "-o", "json"]);
    let page: serde_json::Value = serde_json::from_str(&page).unwrap();
    let mut masters = page["masters"].as_array().unwrap().iter();
    let lost = masters.find(|master| master["nodeId"] == *source).unwrap();
    let mut members = cluster.members().iter();
    let lost = members
        .find(|member| member["api"] == lost["apiAddress"])
        .unwrap();
    let pid = i32::try_from(lost["pid"].as_i64().unwrap()).unwrap();
    kill(Pid::from_raw(pid), Signal::SIGKILL).unwrap();

    launch(&cluster, "afterwards");
    wait_to_show(&mut terminal, "afterwards");
    assert!(shown(terminal.output()).contains("before"));
    kill(terminal.foreground(), Signal::SIGTERM).unwrap();
    terminal.wait_for_output(LEAVE);
    assert_eq!(terminal.end(), Some(143));
    assert_eq!(terminal.mode(), terminal.initial_mode);
}

#[test]
fn names_of_the_cluster_are_completed() {
    let cluster = DevCluster::start(69, "1x1", &[]);
    launch(&cluster, "brave-otter");
    let completed = |words: &[&str]| {
        let mut command = cluster.argosy(&[&["--", "argosy"], words].concat());
        command.env("ARGOSY_COMPLETE", "bash");
        command.env("_CLAP_COMPLETE_INDEX", words.len().to_string());
        let output = command.output().unwrap();
        assert!(output.status.success() && output.stderr.is_empty());
        String::from_utf8(output.stdout).unwrap()
    };
    // The first call of a new cluster may take longer than names may.
    wait_for("the name of a task", || {
        completed(&["task", "show", "brave"]) == "brave-otter"
    });
    assert_eq!(completed(&["agent", "show", "agent-"]), "agent-1");
    assert_eq!(completed(&["wait", "agent", "agent-"]), "agent-1");
    assert!(completed(&["explain", "framework-1"]).contains("framework-1"));
    assert!(
        completed(&["exec", "framework-"]).is_empty(),
        "no task has this name"
    );
    assert!(completed(&["logs", "framework-1/"]).contains("/brave-otter"));
}
