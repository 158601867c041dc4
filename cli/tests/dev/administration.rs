//! Changes of agents and roles: attributes, deactivation, loss for good, weights.

use crate::cluster::{DevCluster, wait_for};

fn agent(cluster: &DevCluster, id: &str) -> serde_json::Value {
    let (code, agent, stderr) = cluster.run(&["agent", "show", id, "-o", "json"]);
    assert_eq!(code, 0, "{stderr}");
    serde_json::from_str(&agent).unwrap()
}

/// Runs a command that changes something, and returns what it reports.
fn changed(cluster: &DevCluster, words: &[&str]) -> String {
    let (code, stdout, stderr) = cluster.run(words);
    assert_eq!((code, stdout.as_str()), (0, ""), "{words:?}: {stderr}");
    stderr
}

#[test]
fn agents_are_changed_and_declared_gone() {
    let cluster = DevCluster::start(61, "1x2", &[]);
    change_attributes(&cluster);
    let id = deactivate(&cluster);
    place_by_attribute(&cluster);
    declare_gone(&cluster, &id);
}

fn change_attributes(cluster: &DevCluster) {
    let set = ["agent", "attribute", "agent-1", "rack=r7", "disk=ssd"];
    let report = changed(cluster, &[&set[..], &["--dry-run"]].concat());
    assert!(report.starts_with("would change agent-1"), "{report}");
    assert_eq!(
        agent(cluster, "agent-1")["info"]["attributes"]["rack"],
        serde_json::Value::Null
    );
    changed(cluster, &set);
    assert_eq!(
        agent(cluster, "agent-1")["info"]["attributes"]["rack"],
        "r7"
    );
    let report = changed(cluster, &["agent", "attribute", "agent-1", "rack="]);
    assert!(report.contains("without rack"), "{report}");
    let attributes = &agent(cluster, "agent-1")["info"]["attributes"];
    assert_eq!(
        (&attributes["rack"], &attributes["disk"]),
        (&serde_json::Value::Null, &"ssd".into())
    );
}

/// Launches a task on the only agent that is not deactivated, and returns its id.
fn deactivate(cluster: &DevCluster) -> String {
    let report = changed(cluster, &["agent", "deactivate", "agent-1", "--dry-run"]);
    assert!(report.contains("would stop offers of agent-1"), "{report}");
    assert_eq!(agent(cluster, "agent-1")["mode"], "AGENT_MODE_REGISTERED");
    changed(cluster, &["agent", "deactivate", "agent-1"]);
    assert_eq!(agent(cluster, "agent-1")["mode"], "AGENT_MODE_DEACTIVATED");
    let report = changed(cluster, &["agent", "deactivate", "agent-1"]);
    assert!(report.contains("was deactivated before"), "{report}");
    // The only agent that is offered.
    let (code, id, stderr) = cluster.run(&["run", "-d", "--name", "kept", "--", "sleep", "1000"]);
    assert_eq!(code, 0, "{stderr}");
    let (_, task, _) = cluster.run(&["task", "show", "kept", "-o", "json"]);
    assert!(task.contains("\"agentId\": \"agent-2\""), "{task}");
    changed(cluster, &["agent", "reactivate", "agent-1"]);
    assert_eq!(agent(cluster, "agent-1")["mode"], "AGENT_MODE_REGISTERED");
    id
}

fn place_by_attribute(cluster: &DevCluster) {
    let disk = [
        "run",
        "--attribute",
        "disk=ssd",
        "-d",
        "--name",
        "near",
        "--",
        "true",
    ];
    let (code, _, stderr) = cluster.run(&disk);
    assert_eq!(code, 0, "{stderr}");
    let (_, task, _) = cluster.run(&["task", "show", "near", "-o", "json"]);
    assert!(task.contains("\"agentId\": \"agent-1\""), "{task}");
    let rack = [
        "run",
        "--attribute",
        "rack=r7",
        "--timeout",
        "1s",
        "--",
        "true",
    ];
    let (code, _, stderr) = cluster.run(&rack);
    assert_eq!(code, 6, "{stderr}");
    assert!(stderr.contains("no agent has rack=r7"), "{stderr}");
}

/// Declares the agent of this task gone.
fn declare_gone(cluster: &DevCluster, id: &str) {
    let (code, _, stderr) = cluster.run(&["agent", "gone", "agent-2"]);
    assert_eq!(code, 2, "{stderr}");
    let parts = [
        "refuses agent-2",
        "ends its 1 task",
        "connected now",
        "--yes",
    ];
    for part in parts {
        assert!(stderr.contains(part), "{part} is not in {stderr}");
    }
    let report = changed(cluster, &["agent", "gone", "agent-2", "--dry-run"]);
    assert!(report.contains("end its 1 task"), "{report}");
    assert!(cluster.run(&["ps", "-o", "name"]).1.contains(id));
    let report = changed(cluster, &["agent", "gone", "agent-2", "--yes"]);
    assert!(report.contains("its tasks have ended"), "{report}");
    assert_eq!(agent(cluster, "agent-2")["mode"], "AGENT_MODE_GONE");
    let (_, task, _) = cluster.run(&["task", "show", "kept"]);
    assert!(task.contains("gone-by-operator"), "{task}");
    let (code, _, stderr) = cluster.run(&["agent", "reactivate", "agent-2"]);
    assert_eq!(code, 4, "{stderr}");
    // The host registers as a new agent.
    wait_for("the host to return", || {
        cluster
            .run(&["agent", "list", "-o", "name"])
            .1
            .contains("agent-3")
    });
    let (code, _, stderr) = cluster.run(&["agent", "gone", "agent-9", "--yes"]);
    assert_eq!(code, 3, "{stderr}");
}

#[test]
fn weights_are_set_and_listed() {
    let cluster = DevCluster::start(62, "1x0", &[]);
    let (code, stdout, stderr) = cluster.run(&["weight", "list"]);
    assert_eq!((code, stdout.as_str()), (0, ""), "{stderr}");
    let report = changed(&cluster, &["weight", "set", "web", "2.5", "--dry-run"]);
    assert_eq!(report, "would change weight of web: 2.5 instead of 1\n");
    changed(&cluster, &["weight", "set", "web", "2.5"]);
    changed(&cluster, &["weight", "set", "batch/nightly", "0.5"]);
    let (_, table, _) = cluster.run(&["weight", "list"]);
    let expected = "ROLE           WEIGHT\nbatch/nightly  0.5\nweb            2.5\n";
    assert_eq!(table, expected);
    let (_, page, _) = cluster.run(&["weight", "list", "-o", "json"]);
    let page: serde_json::Value = serde_json::from_str(&page).unwrap();
    assert_eq!(page["roles"][1]["weightMilli"], "2500", "{page}");
    changed(&cluster, &["weight", "set", "web", "1"]);
    assert_eq!(
        cluster.run(&["weight", "list", "-o", "name"]).1,
        "batch/nightly\n"
    );
    for bad in ["0", "-1", "nan", "0.0001", "1000001"] {
        let (code, _, stderr) = cluster.run(&["weight", "set", "web", bad]);
        assert_eq!(code, 2, "{bad}: {stderr}");
        assert!(stderr.contains("as 2.5"), "{bad}: {stderr}");
    }
}
