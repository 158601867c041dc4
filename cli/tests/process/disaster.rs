//! Clusters that continue after the loss of most or all of their masters: saved snapshots, and the
//! data of a survivor.

use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use argosy_proto::v1;

use crate::cluster::{Cluster, argosy, sleepers, sleeping, wait_until, write};
use crate::rejoin::{data_directory, ends_with, output_text};
use crate::test_framework::{TestFramework, task};

const LONG: Duration = Duration::from_secs(90);

/// Runs a command of the executable.
async fn run(arguments: &[&str]) -> Output {
    let mut command = Command::new(argosy());
    command.args(arguments).stdin(Stdio::null());
    let output = tokio::task::spawn_blocking(move || command.output());
    let ended = tokio::time::timeout(LONG, output).await;
    let output = ended.expect("it ends").expect("no panic");
    output.expect("the executable starts")
}

async fn succeeds(arguments: &[&str]) -> Output {
    let output = run(arguments).await;
    assert!(output.status.success(), "{}", output_text(&output));
    output
}

async fn fails(arguments: &[&str], words: &str) {
    let output = run(arguments).await;
    assert!(!output.status.success(), "{}", output_text(&output));
    let text = output_text(&output);
    assert!(text.contains(words), "{text}");
}

fn json(output: &Output) -> serde_json::Value {
    serde_json::from_slice(&output.stdout).expect("the output is JSON")
}

fn text(path: &Path) -> &str {
    path.to_str().expect("the path is text")
}

/// The facts that a restore must keep.
#[derive(Debug, PartialEq)]
struct Facts {
    agents: Vec<(String, String)>,
    frameworks: Vec<String>,
    tasks: Vec<(String, String, i32)>,
}

async fn facts(cluster: &Cluster) -> Facts {
    let operator = cluster.operator();
    let list = v1::ListRequest::default;
    wait_until("the lists are served", LONG, async || {
        let agents = operator.list_agents(list()).await.ok()?.agents;
        let frameworks = operator.list_frameworks(list()).await.ok()?.frameworks;
        let tasks = operator.list_tasks(list()).await.ok()?.tasks;
        let value = |agent: v1::Agent| {
            let info = agent.info.unwrap_or_default();
            let value = info.attributes.get("x").cloned().unwrap_or_default();
            (agent.agent_id, value)
        };
        Some(Facts {
            agents: agents.into_iter().map(value).collect(),
            frameworks: frameworks.into_iter().map(|one| one.framework_id).collect(),
            tasks: tasks
                .into_iter()
                .map(|task| (task.framework_id, task.task_id, task.state))
                .collect(),
        })
    })
    .await
}

async fn described(cluster: &Cluster) -> v1::Cluster {
    let operator = cluster.operator();
    wait_until("the cluster is described", LONG, async || {
        let found = operator.get_cluster(v1::GetClusterRequest::default()).await;
        found.ok().filter(|cluster| cluster.epoch > 0)
    })
    .await
}

/// Makes voters of the masters with empty directories, which join the first one.
async fn wait_for_voters(cluster: &Cluster) {
    let operator = cluster.operator();
    wait_until("all masters are voters", LONG, async || {
        let found = operator.get_cluster(v1::GetClusterRequest::default()).await;
        let masters = found.ok()?.masters;
        let is_voter = |address: &String| {
            let mut voters = masters.iter().filter(|master| master.voter);
            voters.any(|master| master.raft_address == *address)
        };
        let all = cluster.masters.iter();
        let mut all = all.map(|master| format!("{}:5052", master.address));
        let missing = all.find(|address| !is_voter(address));
        let Some(raft_address) = missing else {
            return Some(());
        };
        // Refused while the group makes another change, or the master does not answer yet.
        drop(
            operator
                .join_master(v1::JoinMasterRequest { raft_address })
                .await,
        );
        None
    })
    .await;
}

fn remove_data(cluster: &Cluster, index: usize) {
    std::fs::remove_dir_all(data_directory(cluster, index)).expect("the data is removed");
}

/// Returns the argument of `sleep` by which the processes of a test are found.
fn mark(number: u32) -> String {
    format!("91{number}{}.5", std::process::id())
}

/// Launches tasks that sleep for the time of their mark, and waits until all of them run.
async fn launch(framework: &TestFramework, names: &[&str], mark: &str) {
    let command = format!("exec sleep {mark}");
    framework.launch(names.iter().map(|name| task(name, &command)));
    for name in names {
        let running = framework.wait_for_event("it runs", LONG, |events| {
            let states = events.states(name);
            states.contains(&v1::TaskState::Running).then_some(())
        });
        running.await;
    }
}

/// Starts a cluster with the tasks `web` and `db`.
async fn with_tasks(mark: &str) -> (Cluster, TestFramework) {
    // The absence of the agent must not change records.
    let cluster = Cluster::start_with(1, &["--agent-timeout", "10m"]).await;
    let framework = TestFramework::start(cluster.masters_list(), "shop").await;
    launch(&framework, &["web", "db"], mark).await;
    (cluster, framework)
}

/// Has the agent follow the restored cluster, and waits until it is connected.
async fn adopt(cluster: &mut Cluster, id: &str) {
    let directory = cluster.directory.path().join(&cluster.agents[0].name);
    succeeds(&[
        "agent",
        "adopt",
        id,
        "--data-dir",
        text(&directory),
        "--yes",
    ])
    .await;
    cluster.agents[0].kill();
    cluster.agents[0].start();
    let operator = cluster.operator();
    wait_until("the agent follows", LONG, async || {
        let list = operator.list_agents(v1::ListRequest::default()).await;
        list.ok()?.agents.first()?.connected.then_some(())
    })
    .await;
}

/// Returns the lines by which the agent has logged that it keeps a task.
fn quarantined(cluster: &Cluster) -> Vec<String> {
    let log = cluster.agents[0].log();
    let lines = log
        .lines()
        .filter(|line| line.contains("does not have this task"));
    lines.map(str::to_owned).collect()
}

/// Saves while a client writes without a pause, from one master that does not lead.
async fn save_under_load(cluster: &Cluster, file: &Path) -> serde_json::Value {
    let follower = (cluster.leader().await + 1) % 3;
    let master = cluster.masters[follower].api();
    let operator = cluster.operator();
    let load = async {
        for number in 0.. {
            let reply = write(&operator, format!("load-{number}")).await;
            reply.expect("the write is acknowledged");
        }
    };
    let arguments = [
        "snapshot",
        "save",
        text(file),
        "--masters",
        &master,
        "-o",
        "json",
    ];
    tokio::select! {
        () = load => unreachable!("the load does not end"),
        saved = succeeds(&arguments) => json(&saved),
    }
}

fn key_file(directory: &Path) -> PathBuf {
    let path = directory.join("backup.key");
    let text = format!("k1:{}\n", "5f".repeat(32));
    std::fs::write(&path, text).expect("it can be written");
    let owner = std::os::unix::fs::PermissionsExt::from_mode(0o600);
    std::fs::set_permissions(&path, owner).expect("it is our own");
    path
}

async fn check_damaged_files(file: &Path, directory: &Path) {
    let bytes = std::fs::read(file).expect("it was saved");
    let other = directory.join("other.snapshot");
    let inspect = ["snapshot", "inspect", text(&other)];
    std::fs::write(&other, &bytes[..bytes.len() - 10]).unwrap();
    fails(&inspect, "it is damaged: it is truncated").await;
    let mut flipped = bytes.clone();
    flipped[bytes.len() / 2] ^= 4;
    std::fs::write(&other, flipped).unwrap();
    fails(&inspect, "it is damaged: the checksum of a frame is wrong").await;
    let restore = [
        "snapshot",
        "restore",
        text(&other),
        "--data-dir",
        text(directory),
    ];
    fails(&restore, "it is damaged").await;
    std::fs::write(&other, "a letter to a friend").unwrap();
    fails(&inspect, "it is not a saved snapshot").await;
}

/// Kills all masters and removes their data, and restores a file into that of the first one.
/// Returns the id of the new cluster.
async fn restore_all(cluster: &mut Cluster, file: &Path, key: &Path, former: &str) -> String {
    for master in &mut cluster.masters {
        master.kill();
    }
    let target = data_directory(cluster, 0);
    let restore = [
        "snapshot",
        "restore",
        text(file),
        "--data-dir",
        text(&target),
        "--key-file",
        text(key),
        "-o",
        "json",
    ];
    fails(&restore, "nothing was changed").await;
    (0..3).for_each(|index| remove_data(cluster, index));
    let restored = json(&succeeds(&restore).await);
    assert_eq!(restored["ancestors"][0], former);
    fails(&restore, "nothing was changed").await;
    restored["clusterId"].as_str().unwrap().to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_saved_cluster_is_restored_as_another_one_with_equal_records() {
    let (kept, late, ended) = (mark(1), mark(2), mark(5));
    let (mut cluster, framework) = with_tasks(&kept).await;
    launch(&framework, &["ended"], &ended).await;
    cluster.release_machine();
    let directory = cluster.directory.path().to_owned();
    let former = described(&cluster).await.cluster_id;
    let loaded = directory.join("loaded.snapshot");
    let saved = save_under_load(&cluster, &loaded).await;
    assert_eq!(saved["clusterId"], former);
    assert_eq!(saved["liveTasks"], 3);
    check_damaged_files(&loaded, &directory).await;
    let masters = cluster.masters_list().to_string();
    let (file, key) = (directory.join("quiet.snapshot"), key_file(&directory));
    let save = ["snapshot", "save", text(&file), "--masters", &masters];
    let save = [&save[..], &["--key-file", text(&key)]].concat();
    drop(write(&cluster.operator(), "last".to_owned()).await);
    let before = facts(&cluster).await;
    succeeds(&save).await;
    fails(&save, "exists, and is not replaced").await;
    fails(&["snapshot", "inspect", text(&file)], "is encrypted").await;
    launch(&framework, &["late"], &late).await;
    let pids = (sleeping(&kept, 2).await, sleeping(&late, 1).await);
    let id = restore_all(&mut cluster, &file, &key, &former).await;
    cluster.masters.iter_mut().for_each(|master| master.start());
    wait_for_voters(&cluster).await;
    let present = described(&cluster).await;
    assert_eq!(present.cluster_id, id);
    assert_eq!(present.ancestors[0].cluster_id, former);
    assert_eq!(facts(&cluster).await, before);
    let status = succeeds(&["status", "--masters", &masters]).await;
    assert!(output_text(&status).contains(&former));
    drop(framework);
    // The former cluster has given another order this number, and the agent has accepted that.
    succeeds(&["task", "kill", "ended", "--detach", "--masters", &masters]).await;
    adopt(&mut cluster, &id).await;
    wait_until("the unknown task is kept", LONG, async || {
        (quarantined(&cluster).len() == 1).then_some(())
    })
    .await;
    wait_until("the killed task ends", LONG, async || {
        sleepers(&ended).is_empty().then_some(())
    })
    .await;
    let present = (sleepers(&kept), sleepers(&late));
    assert_eq!(present, pids, "no task was started again");
    let others = |facts: Facts| {
        let tasks = facts.tasks.into_iter();
        tasks
            .filter(|(_, name, _)| name != "ended")
            .collect::<Vec<_>>()
    };
    assert_eq!(others(facts(&cluster).await), others(before));
}

#[tokio::test(flavor = "multi_thread")]
async fn one_survivor_of_three_masters_is_recovered() {
    let (mut cluster, framework) = with_tasks(&mark(3)).await;
    cluster.release_machine();
    let former = described(&cluster).await;
    drop(write(&cluster.operator(), "kept".to_owned()).await);
    let before = facts(&cluster).await;
    // The leader has every acknowledged change; a follower may lack the newest one.
    let survivor = cluster.leader().await;
    let directory = data_directory(&cluster, survivor);
    let recover = [
        "master",
        "recover",
        "--data-dir",
        text(&directory),
        "--yes",
        "-o",
        "json",
    ];
    fails(&recover, "in use by process").await;
    for index in 0..3 {
        cluster.masters[index].kill();
        if index != survivor {
            remove_data(&cluster, index);
        }
    }
    let dry = [&recover[..5], &["--dry-run"]].concat();
    assert!(output_text(&succeeds(&dry).await).contains("would be done"));
    let recovered = json(&succeeds(&recover).await);
    assert_ne!(recovered["clusterId"], former.cluster_id);
    assert_eq!(recovered["ancestors"][0], former.cluster_id);
    assert!(directory.join("before-recovery/store").is_dir());
    cluster.masters.iter_mut().for_each(|master| master.start());
    wait_for_voters(&cluster).await;
    let present = described(&cluster).await;
    assert_eq!(recovered["clusterId"], present.cluster_id);
    assert_eq!(facts(&cluster).await, before);
    drop(framework);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unfinished_recovery_is_not_started_on_and_is_finished_by_a_repeat() {
    let mut cluster = Cluster::start(0).await;
    cluster.release_machine();
    cluster.masters.iter_mut().for_each(|master| master.kill());
    let directory = data_directory(&cluster, 0);
    let recover = ["master", "recover", "--data-dir", text(&directory), "--yes"];
    succeeds(&recover).await;
    // The state of a recovery that was interrupted before its last step.
    let header = argosy_raft::SavedSnapshotHeader::default();
    std::fs::remove_dir_all(directory.join("before-recovery")).unwrap();
    let locked = argosy_raft::LockedDirectory::open(&directory).unwrap();
    let saved = {
        let data = locked.read().await.unwrap();
        let header = argosy_raft::SavedSnapshotHeader {
            index: data.applied.index,
            term: data.applied.term,
            ..header
        };
        (header, data.records)
    };
    locked.begin_recovery(saved.0, &saved.1).unwrap();
    drop(locked);
    ends_with(&mut cluster, 0, "argosy master recover").await;
    let shown = succeeds(&[&recover[..4], &["--dry-run"]].concat()).await;
    assert!(output_text(&shown).contains("would be done"));
    ends_with(&mut cluster, 0, "argosy master recover").await;
    let output = succeeds(&[&recover[..], &["-o", "json"]].concat()).await;
    assert!(output_text(&output).contains("continuing an interrupted recovery"));
    assert!(json(&output)["clusterId"].is_string());
    (1..3).for_each(|index| remove_data(&cluster, index));
    cluster.masters.iter_mut().for_each(|master| master.start());
    wait_for_voters(&cluster).await;
}
