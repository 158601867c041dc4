//! Lists: filters, order, columns, formats, and lists that follow changes.

use std::io::{BufRead, BufReader};
use std::process::Stdio;

use crate::cluster::{DevCluster, wait_for};

fn list(cluster: &DevCluster, words: &[&str]) -> String {
    let words = [&["task", "list"], words].concat();
    let (code, stdout, stderr) = cluster.run(&words);
    assert_eq!(code, 0, "{words:?}: {stderr}");
    stdout
}

fn launch(cluster: &DevCluster, name: &str, more: &[&str], command: &str) {
    let words = [
        &["run", "-d", "--name", name],
        more,
        &["--", "sh", "-c", command],
    ]
    .concat();
    let (code, _, stderr) = cluster.run(&words);
    assert_eq!(code, 0, "{stderr}");
}

/// Starts two tasks that run, one of them with a hostile label, and one that fails.
fn three_tasks(cluster: &DevCluster) {
    launch(
        cluster,
        "web-9",
        &["--mem", "64M", "--label", "app=web"],
        "exec sleep 1000",
    );
    launch(
        cluster,
        "web-10",
        &["--role", "batch", "--label", "app=a\u{1b}[2Jb"],
        "exec sleep 1000",
    );
    wait_for("the tasks to run", || {
        list(cluster, &["--state", "running"]).lines().count() == 3
    });
    launch(cluster, "broken", &[], "exit 3");
    wait_for("the end of a task", || {
        list(cluster, &["--state", "failed"]).contains("broken")
    });
}

/// Explains a demand of a framework that is connected.
fn explain_a_demand(cluster: &DevCluster) {
    let waits = ["run", "--name", "large", "--cpus", "64", "-q", "--", "true"];
    let mut waiting = cluster.argosy(&waits).spawn().unwrap();
    let mut why = String::new();
    for (wanted, expected) in [
        ("cpus:4000", "no agent is large enough, now or later"),
        ("cpus:0.1;mem:32", "1 agent: 1 filtered"),
    ] {
        wait_for("the explanation of a demand", || {
            why = cluster.run(&["explain", "large", "--wanted", wanted]).1;
            why.contains(expected)
        });
    }
    assert!(
        why.contains("framework-") && why.contains("(large)"),
        "{why}"
    );
    waiting.kill().unwrap();
    waiting.wait().unwrap();
}

#[test]
fn lists_are_filtered_sorted_and_cut() {
    let cluster = DevCluster::start(63, "1x1", &[]);
    three_tasks(&cluster);
    let ids = |words: &[&str]| {
        let lines = list(&cluster, &[words, &["-o", "name"]].concat());
        let ids = lines
            .lines()
            .map(|line| line.rsplit('/').next().unwrap().to_owned());
        ids.collect::<Vec<_>>().join(" ")
    };
    assert_eq!(
        ids(&["--all"]).split(' ').next(),
        Some("broken"),
        "it changed last"
    );
    assert_eq!(ids(&["--all", "--sort", "task"]), "broken web-9 web-10");
    assert_eq!(
        ids(&["--sort", "mem", "--reverse", "--limit", "1"]),
        "web-9"
    );
    assert_eq!(ids(&["--role", "batch"]), "web-10");
    assert_eq!(ids(&["--label", "app=web"]), "web-9");
    assert_eq!(
        ids(&["--agent", "agent-1", "--state", "failed,killed"]),
        "broken"
    );
    let (_, _, stderr) = cluster.run(&["ps", "--limit", "1"]);
    assert!(stderr.contains("1 more"), "{stderr}");

    let table = list(&cluster, &["--columns", "task,label.app", "--sort", "task"]);
    let expected = "TASK    LABEL.APP\nweb-9   web\nweb-10  a\\u{1b}[2Jb\n";
    assert_eq!(table, expected, "an escape sequence is shown");
    assert!(list(&cluster, &[]).contains(" ago\n"), "times are shown");
    let yaml = list(&cluster, &["-o", "yaml", "--label", "app=web"]);
    assert!(yaml.contains("taskId: web-9\n"), "{yaml}");
    for bad in [
        &["--sort", "colour"][..],
        &["--state", "lost"],
        &["--columns", "task", "-o", "json"],
        &["--limit", "0"],
    ] {
        let words = [&["task", "list"], bad].concat();
        let (code, _, stderr) = cluster.run(&words);
        assert_eq!(code, 2, "{bad:?}: {stderr}");
    }
    assert_eq!(cluster.run(&["task", "list", "--agent", "agent-7"]).0, 3);
    let (_, agents, _) = cluster.run(&["agent", "list", "--columns", "agent,tasks"]);
    assert_eq!(agents, "AGENT    TASKS\nagent-1  2\n");
    let (_, agents, _) = cluster.run(&["agent", "list", "--state", "gone", "-o", "name"]);
    assert_eq!(agents, "");
    explain_a_demand(&cluster);
    let agent = cluster.members().iter().find(|one| one["kind"] == "agent");
    let api = agent.unwrap()["api"].as_str().unwrap();
    let (code, _, stderr) = cluster.run(&["status", "--masters", api]);
    assert_eq!(code, 5, "{stderr}");
    let expected = "argosy://dev/agent/agent-1 is there, and not any master";
    assert!(stderr.contains(expected), "{stderr}");
    let (_, frameworks, _) = cluster.run(&["framework", "list", "--role", "batch"]);
    assert_eq!(frameworks.lines().count(), 2, "{frameworks}");
}

/// A task that leaves a filtered list has a last line.
fn a_filtered_list_shows_who_leaves(cluster: &DevCluster) {
    for more in [&[][..], &["--state", "running,unreachable"]] {
        launch(cluster, "leaves", &[], "exec sleep 1000");
        wait_for("the task to run", || {
            list(cluster, &["--state", "running"]).contains("leaves")
        });
        let words = [
            "ps",
            "--watch",
            "--columns",
            "task,state",
            "--state",
            "running",
        ];
        let words = [&words[..], more].concat();
        let mut watching = cluster.argosy(&words);
        let mut watching = watching.stdout(Stdio::piped()).spawn().unwrap();
        let mut lines = BufReader::new(watching.stdout.take().unwrap()).lines();
        let mut next = || lines.next().unwrap().unwrap();
        assert_eq!(next().split_whitespace().last(), Some("STATE"));
        assert_eq!(next().split_whitespace().last(), Some("running"));
        assert_eq!(cluster.run(&["task", "kill", "leaves"]).0, 0);
        // Its updates may be acknowledged before.
        let last = std::iter::repeat_with(&mut next).find(|line| !line.contains("running"));
        let last = last.unwrap();
        assert!(last.starts_with("leaves "), "{last}");
        watching.kill().unwrap();
        watching.wait().unwrap();
    }
}

/// Returns the lines of a list that is followed, and a way to end it.
fn followed(
    cluster: &DevCluster,
    words: &[&str],
) -> (impl FnMut() -> String + use<>, impl FnOnce() + use<>) {
    let mut watching = cluster.argosy(words);
    let mut watching = watching.stdout(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(watching.stdout.take().unwrap()).lines();
    let next = move || lines.next().unwrap().unwrap();
    let end = move || {
        watching.kill().unwrap();
        watching.wait().unwrap();
    };
    (next, end)
}

/// Weights have records in the change feed, and a role without one has the weight 1.
fn weights_are_followed(cluster: &DevCluster) {
    let (mut next, end) = followed(cluster, &["weight", "list", "--watch"]);
    assert_eq!(next(), "ROLE  WEIGHT");
    for (weight, expected) in [("2.5", "batch  2.5"), ("1", "batch  1")] {
        let (code, _, stderr) = cluster.run(&["weight", "set", "batch", weight]);
        assert_eq!(code, 0, "{stderr}");
        assert_eq!(next(), expected);
    }
    end();
}

/// Groups are computed from the changes of their tasks.
fn groups_are_followed(cluster: &DevCluster) {
    let words = ["group", "list", "--watch", "--columns", "tasks"];
    let (mut next, end) = followed(cluster, &words);
    assert_eq!(next(), "TASKS");
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("site.json");
    let text = r#"{"group": "site", "tasks": [
        {"name": "first", "command": ["true"]}, {"name": "second", "command": ["true"]}]}"#;
    std::fs::write(&file, text).unwrap();
    let words = ["group", "run", "--detach", file.to_str().unwrap()];
    let (code, _, stderr) = cluster.run(&words);
    assert_eq!(code, 0, "{stderr}");
    let mut lines = std::iter::repeat_with(&mut next);
    let last = lines.find(|line| line == "first finished, second finished");
    assert!(last.is_some());
    end();
}

/// Masters and offers are read again, because the feed does not have them.
fn masters_and_offers_are_read_again(cluster: &DevCluster) {
    let (mut next, end) = followed(cluster, &["master", "list", "--watch", "-o", "name"]);
    assert_eq!(next(), "master-1");
    end();
    let (mut next, end) = followed(cluster, &["offer", "list", "--watch", "--columns", "agent"]);
    assert_eq!(next(), "AGENT");
    end();
    for object in ["master", "offer", "weight", "group"] {
        let (code, _, stderr) = cluster.run(&[object, "list", "--watch", "-o", "json"]);
        assert_eq!(code, 2, "{object}: {stderr}");
        assert!(stderr.contains("ndjson"), "{object}: {stderr}");
    }
}

#[test]
fn a_list_follows_changes() {
    let cluster = DevCluster::start(64, "1x1", &[]);
    let mut watching = cluster.argosy(&["ps", "--watch", "--columns", "task,state"]);
    let mut watching = watching.stdout(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(watching.stdout.take().unwrap()).lines();
    let mut next = || lines.next().unwrap().unwrap();
    assert_eq!(next(), "TASK  STATE");
    launch(&cluster, "short", &[], "exit 0");
    let mut states = Vec::new();
    while states.last().is_none_or(|last| last != "short  finished") {
        states.push(next());
    }
    assert!(
        states.iter().all(|line| line.starts_with("short  ")),
        "{states:?}"
    );
    watching.kill().unwrap();
    watching.wait().unwrap();
    a_filtered_list_shows_who_leaves(&cluster);
    weights_are_followed(&cluster);
    groups_are_followed(&cluster);
    masters_and_offers_are_read_again(&cluster);
    let (code, _, stderr) = cluster.run(&["ps", "--watch", "-o", "json"]);
    assert_eq!(code, 2, "{stderr}");
    assert!(stderr.contains("ndjson"), "{stderr}");
}
