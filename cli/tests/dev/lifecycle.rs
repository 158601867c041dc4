//! Clusters that are started, used, and removed without a trace.

use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::Stdio;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::cluster::{DevCluster, executable, wait_for};
use crate::executors::leader_other_than;

/// Returns processes whose command line or environment names this directory, or that have something
/// of it mounted, as tasks have their sandboxes.
fn processes_of(directory: &Path) -> Vec<String> {
    let wanted = directory.display().to_string();
    // A mount names it from the root of its file system, which may be that of temporary files
    // alone.
    let mounted = directory.strip_prefix(std::env::temp_dir());
    let mounted = mounted.unwrap_or(directory).display().to_string();
    let mut found = Vec::new();
    for entry in std::fs::read_dir("/proc").unwrap().flatten() {
        let read = |name: &str| {
            let bytes = std::fs::read(entry.path().join(name)).unwrap_or_default();
            String::from_utf8_lossy(&bytes).replace('\0', " ")
        };
        let words = read("cmdline");
        if words.contains(&wanted)
            || read("environ").contains(&wanted)
            || read("mountinfo").contains(&mounted)
        {
            found.push(format!("{} {words}", entry.file_name().to_string_lossy()));
        }
    }
    found
}

/// Returns the `/proc` directories of the agents' launchers: their only children, or those of their
/// brokers' spawners.
fn launchers(cluster: &DevCluster) -> Vec<PathBuf> {
    let agents = cluster
        .members()
        .iter()
        .filter(|member| member["kind"] == "agent");
    let mut found = Vec::new();
    for agent in agents {
        let below = children(agent["pid"].as_i64().unwrap());
        found.extend(below.into_iter().flat_map(|(pid, process)| {
            let name = std::fs::read_to_string(process.join("comm")).unwrap_or_default();
            match name.trim() {
                "argosy-broker" => children(pid)
                    .into_iter()
                    .flat_map(|(spawner, _)| children(spawner))
                    .map(|(_, child)| child)
                    .collect(),
                _ => vec![process],
            }
        }));
    }
    found
}

/// Returns the children of a process, and their `/proc` directories.
pub(crate) fn children(pid: i64) -> Vec<(i64, PathBuf)> {
    let own = format!("\nPPid:\t{pid}\n");
    let entries = std::fs::read_dir("/proc").unwrap().flatten();
    let children = entries.filter_map(|entry| {
        let status = std::fs::read_to_string(entry.path().join("status")).ok()?;
        let pid = entry.file_name().to_str()?.parse().ok()?;
        status.contains(&own).then(|| (pid, entry.path()))
    });
    children.collect()
}

/// Returns the cgroup trees of the agents' launchers.
fn trees(cluster: &DevCluster) -> Vec<PathBuf> {
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
    let mount = mounts.lines().find(|line| line.contains(" - cgroup2 "));
    let Some(mount) = mount.and_then(|line| line.split(' ').nth(4)) else {
        return Vec::new();
    };
    let tree = |process: PathBuf| {
        let group = std::fs::read_to_string(process.join("cgroup")).unwrap_or_default();
        let group = group.lines().find_map(|line| line.strip_prefix("0::/"))?;
        Some(Path::new(mount).join(Path::new(group).parent()?))
    };
    launchers(cluster).into_iter().filter_map(tree).collect()
}

/// Returns what a cluster's launchers execute.
fn programs(cluster: &DevCluster) -> Vec<PathBuf> {
    let program = |process: PathBuf| std::fs::read_link(process.join("exe")).unwrap();
    launchers(cluster).into_iter().map(program).collect()
}

#[test]
fn a_cluster_runs_tasks_and_leaves_nothing() {
    let mut cluster = DevCluster::start(1, "1x1", &[]);
    let (code, stdout, stderr) = cluster.run(&[
        "run",
        "--mem",
        "64M",
        "--",
        "sh",
        "-c",
        "echo out; echo err >&2; exit 7",
    ]);
    assert_eq!((code, stdout.as_str()), (7, "out\n"), "{stderr}");
    assert!(
        stderr.contains("err\n") && stderr.contains("failed, exit 7"),
        "{stderr}"
    );

    let small = executable().with_file_name("argosy-launcher");
    assert_eq!(programs(&cluster), [small.canonicalize().unwrap()]);

    let (code, _, stderr) = cluster.run(&["run", "--", "no-such-command"]);
    assert_eq!(code, 125, "{stderr}");
    assert!(
        stderr.contains("never started") && stderr.contains("no-such-command"),
        "{stderr}"
    );

    let (code, id, _) = cluster.run(&[
        "run",
        "--detach",
        "--name",
        "ticker",
        "--",
        "sh",
        "-c",
        "while :; do echo tick; sleep 0.1; done",
    ]);
    assert_eq!(code, 0);
    assert!(id.ends_with("/ticker\n"), "{id}");
    wait_for("output of a detached task", || {
        cluster.run(&["logs", "ticker"]).1.contains("tick\ntick\n")
    });
    assert_eq!(cluster.run(&["ps", "-o", "name"]).1, id);
    let (_, page, _) = cluster.run(&["task", "list", "-o", "json"]);
    let page: serde_json::Value = serde_json::from_str(&page).unwrap();
    assert_eq!(page["tasks"][0]["taskId"], "ticker");
    let (code, _, stderr) = cluster.run(&["task", "kill", "tick"]);
    assert_eq!(code, 0, "{stderr}");
    assert!(stderr.contains("has ended: killed"), "{stderr}");

    // One more is left running, and is killed at the end of the cluster.
    let (code, _, stderr) = cluster.run(&["run", "--detach", "--", "sleep", "1000"]);
    assert_eq!(code, 0, "{stderr}");
    wait_for("the task to run", || {
        cluster.run(&["ps"]).1.contains("running")
    });
    let (directory, trees) = (cluster.directory(), trees(&cluster));
    let (code, text) = cluster.stop();
    assert_eq!(code, 0, "{text}");
    assert!(!directory.exists(), "{text}");
    assert_eq!(processes_of(&directory), Vec::<String>::new(), "{text}");
    for tree in trees {
        assert!(!tree.exists(), "{} is left: {text}", tree.display());
    }
}

#[test]
fn a_task_shows_its_health_and_is_killed_when_unhealthy() {
    let cluster = DevCluster::start(9, "1x1", &[]);
    let run = |words: &[&str], line: &str| {
        let quick = ["--health-delay", "0", "--health-interval", "100ms"];
        let words = [&["run"], words, &quick, &["--", "sh", "-c", line]].concat();
        cluster.run(&words)
    };
    let both = ["--health-cmd", "true", "--ready-cmd", "echo soon; exit 1"];
    let kept = [&both[..], &["--ready-delay", "0", "-d", "--name", "kept"]].concat();
    let (code, _, stderr) = run(&kept, "exec sleep 1000");
    assert_eq!(code, 0, "{stderr}");
    wait_for("both to be known", || {
        cluster
            .run(&["ps"])
            .1
            .contains("running (healthy, not ready)")
    });
    let (_, task, _) = cluster.run(&["task", "show", "kept", "-o", "json"]);
    let task: serde_json::Value = serde_json::from_str(&task).unwrap();
    assert_eq!(task["latest"]["healthy"], true, "{task}");
    assert_eq!(task["latest"]["ready"], false, "{task}");
    // The interval is the requested one, and fields that were not given are absent.
    let check = &task["spec"]["healthCheck"]["check"];
    assert_eq!(
        (&check["intervalMs"], &check["timeoutMs"]),
        (&"100".into(), &"20000".into())
    );

    let ill = ["--health-cmd", "test -e up", "--health-failures", "2"];
    let (code, _, stderr) = run(&ill, "echo x > up; sleep 2; rm up; exec sleep 1000");
    assert_eq!(code, 128 + 15, "{stderr}");
    let parts = [
        "healthy: passed",
        "health-check-failed",
        "exited with code 1",
    ];
    for part in parts {
        assert!(stderr.contains(part), "{part} is not in {stderr}");
    }
}

#[test]
fn a_teardown_requires_confirmation_and_waits_for_its_tasks_to_end() {
    let cluster = DevCluster::start(6, "1x1", &[]);
    let (code, id, stderr) =
        cluster.run(&["run", "--detach", "--name", "doomed", "--", "sleep", "1000"]);
    assert_eq!(code, 0, "{stderr}");
    let (code, _, stderr) = cluster.run(&["framework", "teardown", "doomed"]);
    assert_eq!(code, 2, "no user can be asked here: {stderr}");
    assert!(
        stderr.contains("kills 1 task") && stderr.contains("--yes"),
        "{stderr}"
    );
    assert_eq!(cluster.run(&["ps", "-o", "name"]).1, id);
    let (code, _, stderr) = cluster.run(&["framework", "teardown", "doomed", "--yes"]);
    assert_eq!(code, 0, "{stderr}");
    assert_eq!(cluster.run(&["ps", "-o", "name"]).1, "");
}

#[test]
fn an_unplaceable_task_is_explained_and_exits_with_six() {
    let cluster = DevCluster::start(2, "1x1", &["--agent-resources", "cpus:2;mem:512"]);
    let (code, stdout, stderr) =
        cluster.run(&["run", "--cpus", "64", "--timeout", "2s", "--", "true"]);
    assert_eq!((code, stdout.as_str()), (6, ""), "{stderr}");
    assert!(
        stderr.contains("no agent is large enough, now or later"),
        "{stderr}"
    );
    assert!(
        stderr.contains("requested 64 cpus; the largest agent has 2 (agent-1)"),
        "{stderr}"
    );
    assert!(stderr.contains("1 agent: 1 too small"), "{stderr}");
    let (code, _, stderr) = cluster.run(&["task", "show", "nothing-like-it"]);
    assert_eq!(code, 3, "{stderr}");
    let (code, stdout, stderr) = cluster.run(&["status"]);
    assert_eq!(code, 0, "{stderr}");
    assert!(stdout.starts_with("healthy: 1 master"), "{stdout}");
}

#[test]
fn a_run_survives_a_leader_failure_and_status_reports_missing_members() {
    let cluster = DevCluster::start(3, "3x1", &[]);
    let script = "i=0; while [ $i -lt 40 ]; do echo line $i; i=$((i+1)); sleep 0.1; done; exit 9";
    let mut running = cluster.argosy(&["run", "--", "sh", "-c", script]);
    let mut running = running
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut output = BufReader::new(running.stdout.take().unwrap());
    let mut text = String::new();
    while text.lines().count() < 5 {
        let count = output.read_line(&mut text).unwrap();
        assert_ne!(count, 0, "it has ended: {text}");
    }
    leader_other_than(&cluster, None);
    let (_, page, _) = cluster.run(&["master", "list", "-o", "json"]);
    let page: serde_json::Value = serde_json::from_str(&page).unwrap();
    let masters = page["masters"].as_array().unwrap();
    let leader = masters
        .iter()
        .find(|master| master["role"] == "leader")
        .unwrap();
    let member = cluster
        .members()
        .iter()
        .find(|member| member["api"] == leader["apiAddress"])
        .unwrap();
    kill(
        Pid::from_raw(member["pid"].as_i64().unwrap() as i32),
        Signal::SIGKILL,
    )
    .unwrap();
    output.read_to_string(&mut text).unwrap();
    let expected: String = (0..40).map(|line| format!("line {line}\n")).collect();
    assert_eq!(text, expected);
    assert_eq!(running.wait().unwrap().code(), Some(9));

    let (code, stdout, stderr) = cluster.run(&["status"]);
    assert_eq!(code, 0, "{stderr}");
    assert!(
        stdout.starts_with("degraded: 2 of 3 masters, one more loss stops changes; "),
        "{stdout}"
    );
    assert!(
        stdout.contains(leader["nodeId"].as_str().unwrap()),
        "{stdout}"
    );
    check_quorum_loss(&cluster, leader);
}

/// Kills another of the two remaining masters.
fn check_quorum_loss(cluster: &DevCluster, leader: &serde_json::Value) {
    let mut others = cluster
        .members()
        .iter()
        .filter(|one| one["kind"] == "master" && one["api"] != leader["apiAddress"]);
    let next = others.next_back().unwrap();
    kill(
        Pid::from_raw(next["pid"].as_i64().unwrap() as i32),
        Signal::SIGKILL,
    )
    .unwrap();
    let mut reported = (0, String::new(), String::new());
    wait_for("the loss of the quorum to be seen", || {
        reported = cluster.run(&["status"]);
        reported.0 == 5
    });
    assert!(
        reported.1.starts_with("no quorum: no leader for "),
        "{}",
        reported.1
    );
    assert!(
        reported.1.contains("2 of 3 masters must be up"),
        "{}",
        reported.1
    );
}

#[test]
fn ctrl_c_ends_a_running_task_with_term() {
    let cluster = DevCluster::start(4, "1x1", &[]);
    let script = "trap 'echo told to end; exit 3' TERM; echo ready; while :; do sleep 0.05; done";
    let mut running = cluster.argosy(&["run", "--", "sh", "-c", script]);
    let mut running = running
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut output = BufReader::new(running.stdout.take().unwrap());
    let mut text = String::new();
    output.read_line(&mut text).unwrap();
    assert_eq!(text, "ready\n");
    kill(Pid::from_raw(running.id() as i32), Signal::SIGINT).unwrap();
    output.read_to_string(&mut text).unwrap();
    assert_eq!(text, "ready\ntold to end\n");
    assert_eq!(running.wait().unwrap().code(), Some(3));
}

#[test]
fn a_persistent_cluster_resumes_with_the_printed_command() {
    let dir = tempfile::tempdir().unwrap();
    // A shell splits it unless it is quoted.
    let home = dir.path().join("it's;kept");
    let keep = ["--keep", home.to_str().unwrap()];
    let mut cluster = DevCluster::start(5, "1x1", &keep);
    let (code, _, stderr) = cluster.run(&[
        "run",
        "--detach",
        "--name",
        "stays",
        "--",
        "sh",
        "-c",
        "echo $$; exec sleep 1000",
    ]);
    assert_eq!(code, 0, "{stderr}");
    wait_for("the task to run", || {
        cluster.run(&["ps"]).1.contains("running")
    });
    let record = fs::read(home.join("cluster.json")).unwrap();
    let second = ["dev", keep[0], keep[1], "--base", "127.77.250.1"];
    let (code, _, stderr) = cluster.run(&second);
    assert_eq!(code, 1, "{stderr}");
    assert!(stderr.contains("is used by another argosy dev"), "{stderr}");
    assert_eq!(fs::read(home.join("cluster.json")).unwrap(), record);
    let (code, text) = cluster.stop();
    assert_eq!(code, 0, "{text}");
    assert!(
        !processes_of(&home).is_empty(),
        "the task should run on: {text}"
    );

    let (_, line) = text
        .split_once("the same command resumes the cluster: ")
        .expect("the command is printed");
    let mut again = DevCluster::start_by(line.lines().next().unwrap());
    assert_eq!(again.record["masters"], cluster.record["masters"]);
    wait_for("the task to be found again", || {
        again.run(&["ps"]).1.contains("running")
    });
    assert!(again.run(&["ps"]).1.contains("stays"));
    let (code, text) = again.stop();
    assert_eq!(code, 0, "{text}");
    let agent = again
        .members()
        .iter()
        .find(|member| member["kind"] == "agent")
        .unwrap();
    let directory = agent["directory"].as_str().unwrap();
    let (code, _, stderr) = again.run(&["agent", "stop", "--kill-tasks", "--data-dir", directory]);
    assert_eq!(code, 0, "{stderr}");
    assert!(stderr.contains("1 task ended"), "{stderr}");
    wait_for("the end of every process", || {
        processes_of(&home).is_empty()
    });
}
