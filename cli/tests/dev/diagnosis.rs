//! Following a request through logs, log levels, the checks of a cluster, and reports.

use std::io::Read as _;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use flate2::read::GzDecoder;

use crate::cluster::{DevCluster, argosy, split, wait_for};

/// Parts of a task that are not in a report.
const SECRETS: [&str; 3] = ["hunter2-variable", "hunter2-argument", "hunter2-output"];

/// Returns the files of an archive, by name.
fn files(archive: &std::path::Path) -> Vec<(String, String)> {
    let packed = std::fs::File::open(archive).unwrap();
    let mut tar = tar::Archive::new(GzDecoder::new(packed));
    let entries = tar.entries().unwrap().map(|entry| {
        let mut entry = entry.unwrap();
        let name = entry.path().unwrap().display().to_string();
        let mut bytes = Vec::new();
        entry.read_to_end(&mut bytes).unwrap();
        (name, String::from_utf8_lossy(&bytes).into_owned())
    });
    entries.collect()
}

/// Returns the logs of all members of this kind.
fn logs(cluster: &DevCluster, kind: &str) -> String {
    let members = cluster.members().iter();
    let members = members.filter(|member| member["kind"] == kind);
    let texts = members.map(|member| {
        let log = member["log"].as_str().unwrap();
        std::fs::read_to_string(log).unwrap_or_default()
    });
    texts.collect()
}

fn trace_id(stderr: &str) -> &str {
    let line = stderr.lines().find(|line| line.contains("trace id"));
    let id = line.and_then(|line| line.rsplit(' ').next());
    id.unwrap_or_else(|| panic!("no trace id: {stderr}"))
}

fn log_levels_change_and_requests_are_found_in_logs(cluster: &DevCluster) {
    let masters = cluster.run(&["master", "list", "-o", "name"]).1;
    for master in masters.lines() {
        let filter = "argosy_master=debug,info";
        let (code, text, stderr) = cluster.run(&["master", "log-level", master, filter]);
        assert_eq!(code, 0, "{stderr}");
        assert!(text.contains(filter) && text.contains(master), "{text}");
    }
    let (code, text, stderr) = cluster.run(&["agent", "log-level", "agent-1", "debug"]);
    assert_eq!(code, 0, "{stderr}");
    assert!(text.contains("debug") && text.contains("before"), "{text}");
    let (_, text, _) = cluster.run(&["agent", "log-level", "agent-1", "-o", "json"]);
    let shown: serde_json::Value = serde_json::from_str(&text).unwrap();
    assert_eq!(shown["filter"], "debug");
    for of in [["agent", "agent-1"], ["master", "master-1"]] {
        let (code, _, stderr) = cluster.run(&[of[0], "log-level", of[1], "argosy=["]);
        assert_eq!(code, 2, "{stderr}");
        assert!(stderr.contains("is not a filter"), "{stderr}");
    }
    let (code, _, stderr) = cluster.run(&["agent", "show", "none-such"]);
    assert_ne!(code, 0, "{stderr}");
    let id = trace_id(&stderr);
    assert_eq!(id.len(), 32, "{stderr}");
    wait_for("the line of a request", || {
        logs(cluster, "master").contains(&format!("trace_id={id}"))
    });
}

/// The id of the request that launches a task is in lines of masters and of the agent.
fn orders_have_the_id_of_their_request(cluster: &DevCluster) {
    let (code, _, stderr) = cluster.run(&["run", "--", "true"]);
    assert_eq!(code, 0, "{stderr}");
    wait_for("the line of an order", || {
        let agent = logs(cluster, "agent");
        let orders = agent
            .lines()
            .filter(|line| line.contains("received an order"));
        let ids = orders.filter_map(|line| Some(line.split_once("trace_id=")?.1.to_owned()));
        let masters = logs(cluster, "master");
        ids.into_iter().any(|id| masters.contains(&id))
    });
}

/// The list after a transfer has the next leader, however quick the answer is.
fn a_transfer_names_the_next_leader(cluster: &DevCluster) {
    for _ in 0..3 {
        let (code, list, stderr) = cluster.run(&["master", "transfer"]);
        assert_eq!(code, 0, "{stderr}");
        let leaders = list.lines().filter(|line| line.contains(" leader "));
        assert_eq!(leaders.count(), 1, "{list}");
        assert!(stderr.contains(" leads now"), "{stderr}");
    }
}

/// Leadership leaves a master that leads, and nothing happens for one that does not.
fn leadership_leaves_one_master(cluster: &DevCluster) {
    let leader = || {
        let masters = cluster.run(&["master", "list", "-o", "json"]).1;
        let masters: serde_json::Value = serde_json::from_str(&masters).unwrap();
        let masters = masters["masters"].as_array().unwrap().iter();
        let mut leaders = masters.filter(|master| master["role"] == "leader");
        let leader = leaders.next().unwrap_or_else(|| panic!("no leader"));
        leader["apiAddress"].as_str().unwrap().to_owned()
    };
    let former = leader();
    let transfer = ["master", "transfer", "--away-from"];
    let (code, _, stderr) = cluster.run(&[&transfer[..], &[&former]].concat());
    assert_eq!(code, 0, "{stderr}");
    assert!(stderr.contains(" leads now"), "{stderr}");
    let next = leader();
    assert_ne!(next, former);
    let (code, _, stderr) = cluster.run(&[&transfer[..], &[&former]].concat());
    assert_eq!(code, 0, "{stderr}");
    assert!(stderr.contains("does not lead"), "{stderr}");
    assert_eq!(leader(), next);
    let (code, _, stderr) = cluster.run(&[&transfer[..], &["master-9"]].concat());
    assert_eq!(code, 3, "{stderr}");
    let both = ["master", "transfer", "master-1", "--away-from", "master-2"];
    assert_eq!(cluster.run(&both).0, 2);
}

/// The gate of an upgrade passes for a cluster that is up, and names the master that is not.
fn a_healthy_cluster_is_waited_for(cluster: &DevCluster) {
    let wait = ["wait", "cluster", "--for", "healthy", "--timeout"];
    let (code, _, stderr) = cluster.run(&[&wait[..], &["60s"]].concat());
    assert_eq!(code, 0, "{stderr}");
    assert!(stderr.contains("the cluster is healthy"), "{stderr}");
    let (code, _, stderr) = cluster.run(&["wait", "agent", "agent-1", "--for", "idle"]);
    assert_eq!(code, 0, "{stderr}");
    let leads = ["wait", "master", "--for", "leading", "--timeout", "1s"];
    let leading = ["1", "2", "3"].map(|number| {
        let name = format!("master-{number}");
        let (code, _, stderr) = cluster.run(&[&leads[..2], &[&name], &leads[2..]].concat());
        assert!(code == 0 || stderr.contains("does not lead"), "{stderr}");
        code
    });
    let leaders = leading.iter().filter(|code| **code == 0);
    assert_eq!(leaders.count(), 1, "{leading:?}");
    without_a_trusted_master_the_leader_is_unknown(cluster);
    let connected = ["wait", "agent", "agent-1", "--for", "connected"];
    let (code, _, stderr) = cluster.run(&[&connected[..], &["--timeout", "60s"]].concat());
    assert_eq!(code, 0, "{stderr}");
    let (code, _, stderr) = cluster.run(&["doctor", "--cluster"]);
    assert_eq!(code, 0, "{stderr}");
    for wrong in [
        &["wait", "cluster", "web", "--for", "healthy"][..],
        &["wait", "cluster", "--for", "running"],
        &["wait", "task", "--for", "running"],
        &["wait", "master", "--for", "leading"],
        &["doctor", "--cluster", "--data-dir", "/tmp"],
    ] {
        let (code, _, stderr) = cluster.run(wrong);
        assert_eq!(code, 2, "{wrong:?}: {stderr}");
    }
    a_lost_master_is_named(cluster, &leading);
}

/// Exit code 1 would mean that the master does not lead, and every master would skip its backup.
fn without_a_trusted_master_the_leader_is_unknown(cluster: &DevCluster) {
    let other = tempfile::tempdir().unwrap();
    let other = other.path().join("ca").display().to_string();
    let init = ["ca", "init", "--cluster", "other", "--ca", &other];
    let output = argosy(&init).output().unwrap();
    assert!(output.status.success(), "{output:?}");
    let masters = cluster.record["masters"].as_str().unwrap();
    let words = ["wait", "master", "master-1", "--for", "leading"];
    let reach = ["--masters", masters, "--timeout", "2s", "--tls-ca"];
    let untrusted = format!("{other}/ca.crt");
    let mut wait = argosy(&[&words[..], &reach, &[&untrusted]].concat());
    let (code, _, stderr) = split(wait.output().unwrap());
    assert_eq!(code, 5, "{stderr}");
    assert!(stderr.contains("no trusted CA has signed it"), "{stderr}");
}

fn a_lost_master_is_named(cluster: &DevCluster, leading: &[i32]) {
    let members = cluster.members().iter();
    let masters = members.filter(|member| member["kind"] == "master");
    let mut followers = masters.zip(leading).filter(|(_, code)| **code != 0);
    let (lost, _) = followers.next().unwrap_or_else(|| panic!("no follower"));
    let pid = i32::try_from(lost["pid"].as_i64().unwrap()).unwrap();
    let pid = nix::unistd::Pid::from_raw(pid);
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGSTOP).unwrap();
    let wait = ["wait", "cluster", "--for", "healthy", "--timeout", "12s"];
    let (code, _, stderr) = cluster.run(&wait);
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGCONT).unwrap();
    assert_eq!(code, 1, "{stderr}");
    let address = lost["api"].as_str().unwrap();
    let text = "the cluster is not healthy after 12 s";
    assert!(
        stderr.contains(text) && stderr.contains(address),
        "{stderr}"
    );
}

#[test]
fn leadership_is_transferred_and_health_is_waited_for() {
    let cluster = DevCluster::start(97, "3x1", &[]);
    leadership_leaves_one_master(&cluster);
    a_healthy_cluster_is_waited_for(&cluster);
}

fn metrics_have_the_end_of_each_certificate(files: &[(String, String)]) {
    const DAY: Duration = Duration::from_secs(86_400);
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    let mut seen = 0;
    for (name, metrics) in files {
        if !name.ends_with("/metrics.txt") {
            continue;
        }
        seen += 1;
        let mut values = metrics
            .lines()
            .filter_map(|line| line.strip_prefix("argosy_certificate_expiry_timestamp_seconds "));
        let value = values.next().and_then(|value| value.parse::<f64>().ok());
        let end = Duration::from_secs_f64(value.expect(name));
        // `argosy dev` makes certificates for a year.
        let left = end.saturating_sub(now);
        assert!(left > 364 * DAY && left <= 365 * DAY, "{name}: {left:?}");
    }
    assert!(seen >= 4, "three masters and an agent, not {seen}");
}

#[test]
fn requests_are_found_levels_change_and_reports_contain_no_secrets() {
    let cluster = DevCluster::start(60, "3x1", &[]);
    log_levels_change_and_requests_are_found_in_logs(&cluster);
    orders_have_the_id_of_their_request(&cluster);
    let command = format!("echo {}; sleep 600; : {}", SECRETS[2], SECRETS[1]);
    let variable = format!("PASSWORD={}", SECRETS[0]);
    let words = ["run", "--detach", "--name", "web", "--env", &variable];
    let (code, _, stderr) = cluster.run(&[&words[..], &["--", "sh", "-c", &command]].concat());
    assert_eq!(code, 0, "{stderr}");
    let tasks = cluster.run(&["task", "list", "-o", "json"]).1;
    assert!(tasks.contains(SECRETS[0]) && tasks.contains(SECRETS[1]));
    let directory = tempfile::tempdir().unwrap();
    let archive = directory.path().join("report.tar.gz");
    let file = archive.to_str().unwrap();
    let bundle = ["debug", "bundle", "--file", file];
    let (code, stdout, stderr) = cluster.run(&bundle);
    assert_eq!((code, stdout.trim()), (0, file), "{stderr}");
    let files = files(&archive);
    for expected in [
        "cluster.json",
        "tasks.json",
        "offers.json",
        "masters/master-1/metrics.txt",
        "masters/master-2/cluster.json",
        "agents/agent-1/metrics.txt",
        "host/processes.txt",
        "missing.txt",
    ] {
        let name = format!("argosy-bundle/{expected}");
        let found = files.iter().find(|(found, _)| *found == name);
        assert!(found.is_some(), "{expected}: {stderr}");
    }
    metrics_have_the_end_of_each_certificate(&files);
    for (name, content) in &files {
        for secret in SECRETS {
            assert!(!content.contains(secret), "{secret} is in {name}");
        }
    }
    let tasks = files.iter().find(|(name, _)| name.ends_with("/tasks.json"));
    assert!(tasks.unwrap().1.contains("PASSWORD"), "the name is kept");
    // It may overwrite nothing.
    let (code, _, stderr) = cluster.run(&bundle);
    assert_eq!(code, 1, "{stderr}");
    let masters = cluster.record["masters"].as_str().unwrap();
    let (code, text, stderr) = cluster.run(&["doctor", "--masters", masters]);
    assert_eq!(code, 0, "{text}{stderr}");
    for check in [
        "quorum",
        "clock skew",
        "releases",
        "disk sync",
        "disk space",
        "controllers",
    ] {
        assert!(text.contains(check), "{check}: {text}");
    }
    a_transfer_names_the_next_leader(&cluster);
}
