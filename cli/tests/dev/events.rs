//! The change feed on the command line: `events` and `wait`.

use std::io::{BufRead, BufReader};
use std::process::Stdio;
use std::sync::mpsc;
use std::time::Duration;

use crate::cluster::{DevCluster, wait_for};

fn launch(cluster: &DevCluster, name: &str, more: &[&str], command: &str) -> String {
    let words = [
        &["run", "-d", "--name", name],
        more,
        &["--", "sh", "-c", command],
    ]
    .concat();
    let (code, id, stderr) = cluster.run(&words);
    assert_eq!(code, 0, "{stderr}");
    id.trim().to_owned()
}

/// The history has each state of a task, not only the last one.
fn the_history_has_each_state_of(cluster: &DevCluster, task: &str) {
    let (code, table, stderr) = cluster.run(&["events"]);
    assert_eq!(code, 0, "{stderr}");
    assert!(table.starts_with("REVISION"), "{table}");
    for part in [" agent ", " cluster ", " framework ", "agent-1", "exit 0"] {
        assert!(table.contains(part), "{part} is not in {table}");
    }
    // A follower may answer, which has the end a little later than the leader.
    wait_for("the end of the task at every master", || {
        let (_, table, _) = cluster.run(&["events", "--kind", "task"]);
        let mut lines = table.lines();
        lines.any(|line| line.contains(task) && line.contains("finished"))
    });
    let (code, table, stderr) = cluster.run(&["events", "--kind", "task"]);
    assert_eq!(code, 0, "{stderr}");
    let lines: Vec<_> = table.lines().filter(|line| line.contains(task)).collect();
    let line_of = |state: &str| {
        let mut lines = lines.iter();
        lines.position(|line| line.split_whitespace().any(|word| word == state))
    };
    // A task that ends at once need not be reported as running.
    let states = ["staging", "finished"].map(line_of);
    assert!(states.iter().all(Option::is_some), "{table}");
    assert!(states.is_sorted(), "{table}");
    let (_, tail, _) = cluster.run(&["events", "--kind", "task", "--tail", "2"]);
    assert_eq!(tail.lines().count(), 3, "{tail}");
}

#[test]
fn events_are_printed_from_a_revision_and_followed() {
    let cluster = DevCluster::start(65, "3x1", &[]);
    let mut following = cluster.argosy(&["events", "-f", "--kind", "task", "-o", "ndjson"]);
    let mut following = following.stdout(Stdio::piped()).spawn().unwrap();
    let lines = BufReader::new(following.stdout.take().unwrap()).lines();
    let (sender, seen) = mpsc::channel();
    let reader = std::thread::spawn(move || {
        lines
            .map_while(Result::ok)
            .try_for_each(|line| sender.send(line))
    });
    // The stream begins with the next change, so tasks are launched until one is seen.
    let mut last = String::new();
    let line = (0..).find_map(|number| {
        last = launch(&cluster, &format!("seen-{number}"), &[], "exit 0");
        wait_for("the task to end", || {
            cluster.run(&["task", "show", &last]).1.contains("finished")
        });
        seen.recv_timeout(Duration::from_secs(1)).ok()
    });
    let line: serde_json::Value = serde_json::from_str(&line.unwrap()).unwrap();
    assert_eq!(line["record"]["kind"], "task", "{line}");
    let first: u64 = line["revision"]["index"].as_str().unwrap().parse().unwrap();
    following.kill().unwrap();
    following.wait().unwrap();
    let _ = reader.join();

    // Any master knows the changes, and the command ends by itself.
    let from = (first - 1).to_string();
    let words = ["events", "--kind", "task", "-o", "name", "--from", &from];
    for member in cluster
        .members()
        .iter()
        .filter(|one| one["kind"] == "master")
    {
        let masters = ["--masters", member["api"].as_str().unwrap()];
        let (code, stdout, stderr) = cluster.run(&[&words[..], &masters].concat());
        assert_eq!(code, 0, "{stderr}");
        assert!(stdout.contains(&format!("task/{last}\n")), "{stdout}");
    }
    the_history_has_each_state_of(&cluster, &last);
    let filtered = ["events", "--filter", "agent_id=agent-1", "-o", "name"];
    let (_, names, _) = cluster.run(&filtered);
    assert!(
        names
            .lines()
            .all(|name| name.starts_with("task/") || name == "agent/agent-1")
    );
    let future = ["events", "--from", "999999999999", "--timeout", "2s"];
    let bad: [&[&str]; 4] = [
        &["events", "--kind", "node"],
        &["events", "--filter", "colour=red"],
        &["events", "-o", "json"],
        &future,
    ];
    for words in bad {
        let (code, _, stderr) = cluster.run(words);
        assert_eq!(code, 2, "{words:?}: {stderr}");
    }
}

#[test]
fn wait_ends_with_the_condition_or_when_it_cannot_hold() {
    let cluster = DevCluster::start(66, "1x1", &[]);
    let wait = |words: &[&str]| {
        let (code, _, stderr) = cluster.run(&[&["wait"], words].concat());
        (code, stderr)
    };
    launch(&cluster, "web", &[], "exec sleep 1000");
    let (code, report) = wait(&["task", "web", "--for", "running", "--timeout", "60s"]);
    assert_eq!(code, 0, "{report}");
    assert!(report.contains("/web is running, after "), "{report}");
    let (code, report) = wait(&["task", "web", "--for", "ended", "--timeout", "200ms"]);
    assert_eq!(code, 1, "{report}");
    assert!(
        report.contains("task web is not ended after 200 ms"),
        "{report}"
    );

    let waiting = cluster
        .argosy(&["wait", "task", "web", "--for", "ended"])
        .spawn();
    let mut waiting = waiting.unwrap();
    assert_eq!(cluster.run(&["task", "kill", "web"]).0, 0);
    assert_eq!(waiting.wait().unwrap().code(), Some(0));
    let (code, report) = wait(&["task", "web", "--for", "running"]);
    assert_eq!(code, 1, "{report}");
    assert!(report.contains("has ended as killed"), "{report}");

    let waiting = cluster
        .argosy(&["wait", "agent", "agent-1", "--for", "deactivated"])
        .spawn();
    let mut waiting = waiting.unwrap();
    assert_eq!(cluster.run(&["agent", "deactivate", "agent-1"]).0, 0);
    assert_eq!(waiting.wait().unwrap().code(), Some(0));
    assert_eq!(wait(&["task", "nothing", "--for", "running"]).0, 3);
    assert_eq!(wait(&["task", "web", "--for", "up"]).0, 2);
}
