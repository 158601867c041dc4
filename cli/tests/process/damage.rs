//! Files of a real master that its device has damaged while it was down. The master refuses to
//! start and names the file, or serves everything that was acknowledged.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use argosy_proto::v1;

use crate::cluster::{Cluster, wait_until};
use crate::rejoin::{LONG, data_directory, ends_with, output_text, rejoin};

const WRITES: usize = 25;

fn name(number: usize) -> String {
    format!("kept-{number:02}")
}

/// Sets one attribute of the first agent for each number, and waits for each acknowledgement.
async fn keep(cluster: &Cluster) {
    let operator = cluster.operator();
    for number in 0..WRITES {
        let set = v1::SetAttribute {
            agent_id: "agent-1".to_owned(),
            name: name(number),
            value: "acknowledged".to_owned(),
        };
        let operation = v1::WriteOperation {
            operation: Some(v1::write_operation::Operation::SetAttribute(set)),
        };
        let reply = operator.write(v1::WriteBatch {
            operations: vec![operation],
            ..Default::default()
        });
        let reply = reply.await.expect("the write is acknowledged");
        assert!(reply.outcomes[0].done, "{reply:?}");
    }
}

/// Returns what the cluster serves as attributes of the first agent, if it serves.
async fn served_attributes(cluster: &Cluster) -> Option<BTreeSet<String>> {
    let request = v1::GetRequest {
        id: "agent-1".to_owned(),
        ..Default::default()
    };
    let agent = cluster.operator().get_agent(request).await.ok()?;
    let attributes = agent.info.expect("an agent has a description").attributes;
    Some(attributes.into_keys().collect())
}

/// Fails unless these are all attributes that [`keep`] has set.
fn check_attributes(found: &BTreeSet<String>) {
    let missing: Vec<String> = (0..WRITES)
        .map(name)
        .filter(|name| !found.contains(name))
        .collect();
    assert!(missing.is_empty(), "missing: {missing:?}");
}

/// Fails unless the cluster serves all attributes that [`keep`] has set.
async fn serves_all(cluster: &Cluster) {
    let found = wait_until("the agent is shown", LONG, async || {
        served_attributes(cluster).await
    })
    .await;
    check_attributes(&found);
}

/// Returns the files of a master's store whose names end with `suffix`.
fn files(cluster: &Cluster, index: usize, suffix: &str) -> Vec<PathBuf> {
    let store = data_directory(cluster, index).join("store");
    let entries = fs::read_dir(store).unwrap();
    let mut files: Vec<PathBuf> = entries.map(|entry| entry.unwrap().path()).collect();
    files.retain(|path| path.to_string_lossy().ends_with(suffix));
    files.sort();
    files
}

fn flip_a_bit(path: &Path, at: usize) {
    let mut bytes = fs::read(path).unwrap();
    bytes[at] ^= 1;
    fs::write(path, bytes).unwrap();
}

/// Returns where the files have these bytes.
fn find_bytes(files: &[PathBuf], wanted: &[u8]) -> Option<(PathBuf, usize)> {
    files.iter().find_map(|path| {
        let bytes = fs::read(path).unwrap();
        let at = bytes.windows(wanted.len()).position(|part| part == wanted);
        at.map(|at| (path.clone(), at))
    })
}

/// Three masters, an agent, and writes that only the leader and one follower have. All masters are
/// down.
struct DivergedCluster {
    cluster: Cluster,
    leader: usize,
    follower: usize,
    lagging: usize,
}

async fn lost_leader() -> DivergedCluster {
    let mut cluster = Cluster::start(1).await;
    let leader = cluster.leader().await;
    let (follower, behind) = ((leader + 1) % 3, (leader + 2) % 3);
    cluster.masters[behind].kill();
    keep(&cluster).await;
    cluster.masters[follower].kill();
    cluster.masters[leader].kill();
    DivergedCluster {
        cluster,
        leader,
        follower,
        lagging: behind,
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_follower_with_a_flipped_bit_in_its_log_does_not_vote_and_rejoins() {
    let DivergedCluster {
        mut cluster,
        leader,
        follower,
        lagging,
    } = lost_leader().await;
    let logs = files(&cluster, follower, ".log");
    let (path, at) = find_bytes(&logs, name(3).as_bytes()).expect("the log has the write");
    flip_a_bit(&path, at);

    // It and the one without the writes would be a quorum that has lost them.
    cluster.masters[lagging].start();
    let file = path.file_name().unwrap().to_string_lossy().into_owned();
    for _ in 0..2 {
        ends_with(&mut cluster, follower, &file).await;
    }
    cluster.masters[leader].start();
    cluster.leader().await;
    serves_all(&cluster).await;

    let output = rejoin(&cluster, follower, &[]).await;
    assert!(output.status.success(), "{}", output_text(&output));
    cluster.masters[follower].start();
    cluster.wait_caught_up().await;
    // Its current data is enough without the former leader.
    cluster.masters[leader].kill();
    cluster.leader().await;
    serves_all(&cluster).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn damaged_tables_and_records_are_detected_or_lose_nothing() {
    let DivergedCluster {
        mut cluster,
        leader,
        follower,
        lagging,
    } = lost_leader().await;
    // A start writes tables from the content of logs.
    for index in [leader, follower, lagging] {
        cluster.masters[index].start();
    }
    cluster.wait_caught_up().await;
    cluster.masters[follower].kill();
    let data = data_directory(&cluster, follower);
    let whole = cluster.directory.path().join("whole");
    copy(&data, &whole);
    let mut damaged = files(&cluster, follower, ".sst");
    assert!(!damaged.is_empty(), "the store has tables");
    damaged.push(data.join("high-water"));
    let mut refused = 0;
    for path in damaged {
        flip_a_bit(&path, fs::metadata(&path).unwrap().len() as usize / 2);
        cluster.masters[follower].start();
        if !refuses(&mut cluster, follower, leader).await {
            cluster.wait_caught_up().await;
        } else {
            refused += 1;
            let log = cluster.masters[follower].log();
            let file = path.file_name().unwrap().to_string_lossy();
            assert!(log.contains(&*file), "no word of {file}: {log}");
        }
        cluster.masters[follower].kill();
        fs::remove_dir_all(&data).unwrap();
        copy(&whole, &data);
    }
    assert!(refused > 0, "at least the high-water record is judged");
    cluster.masters[follower].start();
    cluster.wait_caught_up().await;
    serves_all(&cluster).await;
}

/// Returns whether the damaged `follower`, just started, exits by itself: immediately, or when it
/// must read the damaged data because the `leader` is gone. If it does not, the cluster serves
/// everything with it. The leader is restarted afterwards.
async fn refuses(cluster: &mut Cluster, follower: usize, leader: usize) -> bool {
    // The leader may count it as caught up for a moment after it has exited.
    let at_once = wait_until("it has ended or follows", LONG, async || {
        if cluster.masters[follower].has_ended() {
            return Some(true);
        }
        follows(cluster, follower).await.then_some(false)
    });
    if at_once.await {
        return true;
    }
    cluster.masters[leader].kill();
    let found = wait_until("it has ended or serves", LONG, async || {
        if cluster.masters[follower].has_ended() {
            return Some(None);
        }
        served_attributes(cluster).await.map(Some)
    });
    let found = found.await;
    cluster.masters[leader].start();
    if let Some(found) = &found {
        check_attributes(found);
    }
    found.is_none()
}

/// Returns whether the master at `index` is a voter that the leader has contact to.
async fn follows(cluster: &Cluster, index: usize) -> bool {
    let operator = cluster.operator();
    let reply = operator.get_cluster(v1::GetClusterRequest::default());
    let Ok(found) = reply.await else { return false };
    let api = cluster.masters[index].api();
    let mut masters = found.masters.into_iter();
    masters.any(|master| master.api_address == api && master.voter && master.lag == Some(0))
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let path = entry.unwrap().path();
        let index = to.join(path.file_name().unwrap());
        match path.is_dir() {
            true => copy(&path, &index),
            false => drop(fs::copy(&path, &index).unwrap()),
        }
    }
}
