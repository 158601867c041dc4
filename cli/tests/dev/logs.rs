//! `argosy logs` on a real cluster: the last lines, both streams, groups and frameworks.

use std::fs;
use std::io::{BufRead as _, BufReader, Write as _};
use std::process::Stdio;

use crate::cluster::{DevCluster, split, wait_for};

/// Returns the number of bytes that a process and its descendants have read.
fn bytes_read(pid: &str) -> u64 {
    // A process that has ended reads nothing more.
    let io = fs::read_to_string(format!("/proc/{pid}/io")).unwrap_or_default();
    let own = io.lines().find_map(|line| line.strip_prefix("rchar: "));
    let own: u64 = own.map_or(0, |count| count.parse().unwrap());
    let children = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children"));
    let children = children.unwrap_or_default();
    own + children.split_whitespace().map(bytes_read).sum::<u64>()
}

#[test]
fn the_last_lines_of_a_large_file_are_found_without_reading_it() {
    let variables = [("ARGOSY_AGENT_LOG_FILE_SIZE", "256MiB")];
    let cluster = DevCluster::start_with(72, "1x1", &[], &variables);
    // Lines of 100 bytes; less in a second than the bound of a stream.
    let line = "x".repeat(99);
    let script = format!(
        "for part in 1 2 3 4; do yes {line} | head -c 26214400; sleep 1; done; echo last; printf end; echo error >&2; exec sleep 1000"
    );
    let words = ["run", "-d", "--name", "web", "--", "sh", "-c", &script];
    let (code, _, stderr) = cluster.run(&words);
    assert_eq!(code, 0, "{stderr}");
    wait_for("the last line", || {
        cluster.run(&["logs", "--tail", "1", "web"]).1 == "end"
    });
    let members = cluster.members().iter();
    let agent = members.filter(|member| member["name"] == "agent-1");
    let agent = agent
        .map(|member| member["pid"].to_string())
        .next()
        .unwrap();
    let before = bytes_read(&agent);
    let (code, stdout, stderr) = cluster.run(&["logs", "-n", "3", "web"]);
    assert_eq!(code, 0, "{stderr}");
    assert_eq!(stdout, format!("{line}\nlast\nend"));
    assert_eq!(stderr, "error\n");
    let read = bytes_read(&agent) - before;
    assert!(before > 0 && read < 2 << 20, "{read} bytes were read");

    let mut follow = cluster.argosy(&["logs", "-f", "--tail", "2", "--stdout", "web"]);
    let mut follow = follow.stdout(Stdio::piped()).spawn().unwrap();
    let mut output = BufReader::new(follow.stdout.take().unwrap());
    let mut first = String::new();
    output.read_line(&mut first).unwrap();
    assert_eq!(first, "last\n");
    assert_eq!(cluster.run(&["task", "kill", "web"]).0, 0);
    let mut rest = String::new();
    output.read_line(&mut rest).unwrap();
    assert_eq!(rest, "end");
    assert!(follow.wait().unwrap().success());
}

#[test]
fn output_has_times_and_is_shown_from_a_time_on() {
    let cluster = DevCluster::start(74, "1x1", &[]);
    let script = "echo one; echo error >&2; sleep 2; printf two; sleep 1; echo; exec sleep 1000";
    let words = ["run", "-d", "--name", "web", "--", "sh", "-c", script];
    let (code, _, stderr) = cluster.run(&words);
    assert_eq!(code, 0, "{stderr}");
    wait_for("both lines", || {
        cluster.run(&["logs", "--stdout", "web"]).1 == "one\ntwo\n"
    });
    let (code, stdout, stderr) = cluster.run(&["logs", "--timestamps", "web"]);
    assert_eq!(code, 0, "{stderr}");
    let times = |text: &str, expected: &[&str]| {
        let lines = text.lines().map(|line| line.split_once(' ').expect(line));
        let (times, lines): (Vec<_>, Vec<_>) = lines.unzip();
        assert_eq!(lines, expected, "{text}");
        for time in &times {
            assert!(time.len() == 24 && time.ends_with('Z'), "{text}");
        }
        times.into_iter().map(str::to_owned).collect::<Vec<_>>()
    };
    let both = times(&stdout, &["one", "two"]);
    times(&stderr, &["error"]);
    assert!(both[0] < both[1], "{both:?}");
    let since = |time: &str| cluster.run(&["logs", "--since", time, "web"]);
    for time in [both[0].as_str(), "1h", "2026-01-01T00:00:00+01:00"] {
        assert_eq!(since(time).1, "one\ntwo\n", "since {time}");
    }
    let (_, stdout, stderr) = since(&both[1]);
    assert_eq!((stdout.as_str(), stderr.as_str()), ("two\n", ""));
    let words = [
        "logs", "--since", &both[1], "--tail", "9", "--stdout", "web",
    ];
    assert_eq!(cluster.run(&words).1, "two\n", "the later of the two");

    let words = ["logs", "-f", "--timestamps", "--since", &both[1], "web"];
    let follow = cluster.argosy(&words).stdout(Stdio::piped()).spawn();
    let follow = follow.unwrap();
    assert_eq!(cluster.run(&["task", "kill", "web"]).0, 0);
    let (code, stdout, _) = split(follow.wait_with_output().unwrap());
    assert_eq!(code, 0);
    assert_eq!(times(&stdout, &["two"]), both[1..]);
    // The times are kept with the output of an ended task.
    assert_eq!(since(&both[1]).1, "two\n");
}

const GROUP: &str = r#"{"group": "site", "tasks": [
    {"name": "web", "command": ["sh", "-c", "echo up; echo no >&2; printf part; exec sleep 600"]},
    {"name": "reader", "command": ["sh", "-c", "echo ready; exec sleep 600"]}]}"#;

/// Returns the id of the framework.
fn run_group(cluster: &DevCluster) -> String {
    let mut run = cluster.argosy(&["group", "run", "--detach", "-"]);
    let run = run.stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut run = run.stderr(Stdio::piped()).spawn().unwrap();
    run.stdin
        .take()
        .unwrap()
        .write_all(GROUP.as_bytes())
        .unwrap();
    let (code, ids, stderr) = split(run.wait_with_output().unwrap());
    assert_eq!(code, 0, "{stderr}");
    ids.split_once('/').unwrap().0.to_owned()
}

#[test]
fn logs_show_a_group_and_a_framework_with_the_names_of_tasks() {
    let cluster = DevCluster::start(73, "1x1", &[]);
    let framework = run_group(&cluster);
    let all = "web    | up\nweb    | part\nreader | ready\n";
    wait_for("the output of both tasks", || {
        cluster.run(&["logs", "site"]).1 == all
    });
    let qualified = format!("{framework}/site");
    for words in [
        &["logs", "site"][..],
        &["logs", &qualified],
        &["logs", "--framework", &framework],
    ] {
        let (code, stdout, stderr) = cluster.run(words);
        assert_eq!(code, 0, "{words:?}: {stderr}");
        let sorted = |text: &str| {
            let mut lines: Vec<_> = text.lines().map(str::to_owned).collect();
            lines.sort();
            lines
        };
        assert_eq!(sorted(&stdout), sorted(all), "{words:?}");
        assert_eq!(stderr, "web    | no\n", "{words:?}");
    }
    let (_, stdout, _) = cluster.run(&["logs", "--stderr", "site"]);
    assert_eq!(stdout, "web    | no\n");
    let (_, stdout, _) =
        cluster.run(&["logs", "--stderr", "--timestamps", "--since", "1d", "site"]);
    let (time, line) = stdout.split_at(25);
    assert!(time.ends_with("Z ") && line == "web    | no\n", "{stdout}");
    let (_, stdout, _) = cluster.run(&["logs", "--stdout", "--tail", "1", "site"]);
    assert_eq!(stdout, "web    | part\nreader | ready\n");
    assert_eq!(cluster.run(&["logs", "--stdout", "web"]).1, "up\npart");

    let follow = cluster
        .argosy(&["logs", "-f", "site"])
        .stdout(Stdio::piped())
        .spawn();
    let follow = follow.unwrap();
    let (code, _, stderr) = cluster.run(&["group", "kill", "site"]);
    assert_eq!(code, 0, "{stderr}");
    let (code, stdout, _) = split(follow.wait_with_output().unwrap());
    assert_eq!(code, 0);
    for line in all.lines() {
        assert!(stdout.contains(line), "{line}: {stdout}");
    }
    let (code, _, stderr) = cluster.run(&["logs", "--framework", &framework]);
    assert_eq!(code, 3, "{stderr}");
    assert!(stderr.contains("no live tasks"), "{stderr}");
    let ended = ["logs", "--all", "--stderr", "--framework", &framework];
    assert_eq!(cluster.run(&ended).1, "web    | no\n");
    assert_eq!(cluster.run(&["logs", "site"]).0, 0);
}
