//! `argosy attach` on a real cluster: the input and output of a task's own command, through any
//! master.

use std::io::Write;
use std::process::Stdio;

use crate::cluster::{DevCluster, wait_for};
use crate::terminal::{TestTerminal, resize};

/// Answers each line, until it reads the word to exit.
const READS: &str = "echo begun; while read word; do case $word in \
                     size) stty size;; exit) exit 7;; *) echo got $word;; esac; done";

fn run(cluster: &DevCluster, flags: &[&str], line: &str) {
    let words = [&["run", "--detach"], flags, &["--", "sh", "-c", line]].concat();
    let (code, _, stderr) = cluster.run(&words);
    assert_eq!(code, 0, "{stderr}");
}

fn wait_until_running(cluster: &DevCluster, task: &str) {
    wait_for("the task to run", || {
        cluster.run(&["logs", task]).1.contains("begun")
    });
}

#[test]
fn a_terminal_is_detached_and_attached_again_through_any_master() {
    let mut cluster = DevCluster::start(30, "3x1", &[]);
    run(&cluster, &["-it", "--name", "web"], READS);
    wait_until_running(&cluster, "web");
    let words = ["attach", "-it", "--tail", "5", "web"];
    let mut terminal = TestTerminal::start(&cluster, 40, 100, &words);
    terminal.wait_for_output("begun");
    terminal.press("size\r");
    terminal.wait_for_output("40 100\r\n");
    for rows in 41..=80 {
        resize(&terminal.pty, rows, 132);
        terminal.press("size\r");
        terminal.wait_for_output(&format!("{rows} 132\r\n"));
    }
    terminal.press("\x10\x11");
    assert_eq!(terminal.end(), Some(0));
    assert_eq!(terminal.mode(), terminal.initial_mode);

    let masters = cluster.record["masters"].as_str().unwrap().to_owned();
    for master in masters.split(',') {
        let words = ["attach", "-it", "--masters", master, "web"];
        let mut terminal = TestTerminal::start(&cluster, 40, 100, &words);
        terminal.press("through\r");
        terminal.wait_for_output("got through\r\n");
        terminal.press("\x10\x11");
        terminal.wait_for_output("keeps running");
        assert_eq!(terminal.end(), Some(0));
    }
    let mut first = TestTerminal::start(&cluster, 40, 100, &["attach", "-it", "web"]);
    // Includes earlier output, because the time of the attachment is not known.
    let words = ["attach", "--tail", "5", "web"];
    let mut second = TestTerminal::start(&cluster, 40, 100, &words);
    first.press("both\r");
    first.wait_for_output("got both\r\n");
    first.press("again\r");
    second.wait_for_output("got again");
    first.press("exit\r");
    for terminal in [&mut first, &mut second] {
        assert_eq!(terminal.end(), Some(7));
    }
    let (_, log, _) = cluster.run(&["logs", "web"]);
    assert!(log.contains("got through\r\n"), "{log:?}");
    let (code, _, stderr) = cluster.run(&["attach", "web"]);
    assert_eq!(code, 4, "{stderr}");
    let (code, text) = cluster.stop();
    assert_eq!(code, 0, "{text}");
}

#[test]
fn a_task_without_a_terminal_accepts_input_only_if_requested() {
    let cluster = DevCluster::start(31, "1x1", &[]);
    run(
        &cluster,
        &["-i", "--name", "counts"],
        "echo begun; wc -c; exit 3",
    );
    run(&cluster, &["--name", "deaf"], "echo begun; exec sleep 1000");
    wait_until_running(&cluster, "counts");
    wait_until_running(&cluster, "deaf");
    let (code, _, stderr) = cluster.run(&["attach", "-i", "deaf"]);
    assert_eq!(code, 4, "{stderr}");
    assert!(stderr.contains("takes no input"), "{stderr}");
    let (code, _, stderr) = cluster.run(&["attach", "-t", "counts"]);
    assert_eq!(code, 2, "{stderr}");
    let attach = cluster
        .argosy(&["attach", "-i", "counts"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn();
    let mut attach = attach.unwrap();
    let mut stdin = attach.stdin.take().unwrap();
    stdin.write_all(&vec![b'x'; 300_000]).unwrap();
    drop(stdin);
    let ended = attach.wait_with_output().unwrap();
    assert_eq!(ended.status.code(), Some(3));
    assert_eq!(String::from_utf8_lossy(&ended.stdout), "300000\n");
    assert_eq!(cluster.run(&["task", "kill", "deaf"]).0, 0);
}

#[test]
fn an_interactive_run_is_attached_from_the_start() {
    let cluster = DevCluster::start(32, "1x1", &[]);
    let words = ["run", "-it", "--quiet", "--name", "shell", "--", "sh", "-c"];
    let words = [
        &words[..],
        &["stty size; read word; echo got $word; exit 5"],
    ]
    .concat();
    let mut terminal = TestTerminal::start(&cluster, 40, 100, &words);
    terminal.press("word\r");
    terminal.wait_for_output("got word\r\n");
    assert_eq!(terminal.end(), Some(5));

    let words = [
        "run",
        "-i",
        "--quiet",
        "--",
        "sh",
        "-c",
        "cat; echo err >&2; exit 6",
    ];
    let run = cluster
        .argosy(&words)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn();
    let mut run = run.unwrap();
    let mut stdin = run.stdin.take().unwrap();
    stdin.write_all(b"one\ntwo\n").unwrap();
    drop(stdin);
    let ended = run.wait_with_output().unwrap();
    assert_eq!(ended.status.code(), Some(6));
    assert_eq!(String::from_utf8_lossy(&ended.stdout), "one\ntwo\n");
    assert_eq!(String::from_utf8_lossy(&ended.stderr), "err\n");
}
