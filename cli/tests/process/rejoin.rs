//! `argosy master rejoin`: a master whose data must not be served takes it from the others.

use std::fs;
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use argosy_proto::v1;

use crate::cluster::{Cluster, argosy, until, write};

pub(crate) const LONG: Duration = Duration::from_secs(90);

/// The command on the host of the master at `place`, with that master's own flags.
fn command(cluster: &Cluster, place: usize, more: &[&str]) -> Command {
    let own = cluster.masters[place].arguments();
    assert_eq!(own[..2], ["master", "start"]);
    let mut command = Command::new(argosy());
    command.args(["master", "rejoin"]).args(&own[2..]);
    let masters: Vec<String> = cluster.masters.iter().map(|master| master.api()).collect();
    command.args(["--masters", &masters.join(","), "--yes"]);
    command.args(more).stdin(Stdio::null());
    command
}

pub(crate) async fn rejoin(cluster: &Cluster, place: usize, more: &[&str]) -> Output {
    let mut command = command(cluster, place, more);
    let output = tokio::task::spawn_blocking(move || command.output());
    let ended = tokio::time::timeout(LONG, output).await;
    ended
        .expect("it ends")
        .unwrap()
        .expect("the executable starts")
}

pub(crate) fn said(output: &Output) -> String {
    let text = [&output.stdout[..], &output.stderr[..]].concat();
    String::from_utf8_lossy(&text).into_owned()
}

pub(crate) fn folder(cluster: &Cluster, place: usize) -> PathBuf {
    let name = &cluster.masters[place].name;
    cluster.directory.path().join(name)
}

/// Every file below the data directory of a master, with its content.
fn contents(cluster: &Cluster, place: usize) -> Vec<(PathBuf, Vec<u8>)> {
    let mut waiting = vec![folder(cluster, place)];
    let mut files = Vec::new();
    while let Some(path) = waiting.pop() {
        if path.is_dir() {
            waiting.extend(
                fs::read_dir(&path)
                    .unwrap()
                    .map(|entry| entry.unwrap().path()),
            );
        } else if !path.ends_with("lock") {
            files.push((path.clone(), fs::read(&path).unwrap()));
        }
    }
    files.sort();
    files
}

async fn listed(cluster: &Cluster) -> Vec<v1::Master> {
    let operator = cluster.operator();
    until("the masters are listed", LONG, async || {
        let reply = operator.get_cluster(v1::GetClusterRequest::default()).await;
        reply.ok().map(|cluster| cluster.masters)
    })
    .await
}

/// The id of the master at `place`, as the group knows it.
async fn id(cluster: &Cluster, place: usize) -> Option<String> {
    let api = cluster.masters[place].api();
    let found = listed(cluster).await.into_iter();
    let mut found = found.filter(|master| master.api_address == api);
    let id = found.next().map(|master| master.node_id);
    assert!(found.next().is_none(), "two members have one address");
    id
}

async fn follower(cluster: &Cluster) -> usize {
    (cluster.leader().await + 1) % 3
}

/// As one that a damaged file, or another digest than the leader's, has stopped.
async fn stopped_and_forbidden(cluster: &mut Cluster) -> usize {
    for number in 0..20 {
        let reply = write(&cluster.operator(), number.to_string()).await;
        reply.expect("the write is acknowledged");
    }
    let place = follower(cluster).await;
    cluster.masters[place].kill();
    let why = "it differs: run `argosy master rejoin` on this host";
    argosy_raft::forbid_start(&folder(cluster, place), why).unwrap();
    place
}

pub(crate) async fn ends_with(cluster: &mut Cluster, place: usize, words: &str) {
    let master = &mut cluster.masters[place];
    master.start();
    until("it ends", LONG, async || master.has_ended().then_some(())).await;
    assert!(master.log().contains(words), "{}", master.log());
    master.kill();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_master_that_must_not_serve_rejoins_under_a_new_id() {
    let mut cluster = Cluster::start(0).await;
    let place = stopped_and_forbidden(&mut cluster).await;
    let former = id(&cluster, place).await.expect("it is a member");
    for _ in 0..2 {
        ends_with(&mut cluster, place, "must not be served: it differs").await;
    }
    let before = contents(&cluster, place);
    let dry = rejoin(&cluster, place, &["--dry-run"]).await;
    assert!(dry.status.success(), "{}", said(&dry));
    assert!(
        said(&dry).contains(&format!("removes {former}")),
        "{}",
        said(&dry)
    );
    assert_eq!(
        contents(&cluster, place),
        before,
        "a dry run changes nothing"
    );
    let output = rejoin(&cluster, place, &[]).await;
    assert!(output.status.success(), "{}", said(&output));
    cluster.masters[place].start();
    cluster.wait_caught_up().await;
    let present = id(&cluster, place).await.expect("it is a member");
    assert_ne!(present, former);
    // Its vote counts: with one of the others gone the group goes on.
    let other = (0..3).find(|one| *one != place).unwrap();
    cluster.masters[other].kill();
    cluster.leader().await;
    write(&cluster.operator(), "after".to_owned())
        .await
        .expect("the write is acknowledged");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_master_with_a_damaged_store_rejoins() {
    let mut cluster = Cluster::start(0).await;
    let place = follower(&cluster).await;
    cluster.masters[place].kill();
    let current = folder(&cluster, place).join("store/CURRENT");
    fs::write(current, "nothing\n").unwrap();
    ends_with(&mut cluster, place, "store").await;
    let output = rejoin(&cluster, place, &[]).await;
    assert!(output.status.success(), "{}", said(&output));
    cluster.masters[place].start();
    cluster.wait_caught_up().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_discarded_of_a_running_master_or_without_a_quorum_of_the_others() {
    let mut cluster = Cluster::start(0).await;
    let place = follower(&cluster).await;
    let running = rejoin(&cluster, place, &[]).await;
    assert!(!running.status.success());
    assert!(
        said(&running).contains("is in use by process"),
        "{}",
        said(&running)
    );
    assert!(id(&cluster, place).await.is_some(), "it is still a member");
    let other = (place + 1) % 3;
    cluster.masters[place].kill();
    cluster.masters[other].kill();
    let before = contents(&cluster, place);
    let alone = rejoin(&cluster, place, &["--timeout", "3s"]).await;
    assert!(!alone.status.success());
    assert!(
        said(&alone).contains("nothing was removed"),
        "{}",
        said(&alone)
    );
    assert_eq!(contents(&cluster, place), before);
    // So it can still be started, and make a quorum.
    cluster.masters[place].start();
    cluster.leader().await;
    write(&cluster.operator(), "after".to_owned())
        .await
        .expect("the write is acknowledged");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rejoin_that_is_killed_at_any_step_can_be_repeated() {
    let mut cluster = Cluster::start(0).await;
    let place = stopped_and_forbidden(&mut cluster).await;
    for words in ["is removed from the group", "taken into a group"] {
        let log = cluster.directory.path().join("rejoin.log");
        let mut command = command(&cluster, place, &[]);
        let file = fs::File::create(&log).unwrap();
        let mut child = command
            .stdout(file.try_clone().unwrap())
            .stderr(file)
            .spawn()
            .expect("the executable starts");
        until(words, LONG, async || {
            let has_ended = child.try_wait().unwrap().is_some();
            let text = fs::read_to_string(&log).unwrap_or_default();
            (text.contains(words) || has_ended).then_some(())
        })
        .await;
        // One that was faster has ended; then this is a repetition of a whole one.
        let _ = child.kill();
        child.wait().unwrap();
    }
    let output = rejoin(&cluster, place, &[]).await;
    assert!(output.status.success(), "{}", said(&output));
    cluster.masters[place].start();
    cluster.wait_caught_up().await;
    assert_eq!(listed(&cluster).await.len(), 3, "nothing is left behind");
}
