//! `argosy master rejoin`: a master whose data must not be served copies it from the others.

use std::fs;
use std::os::unix::process::ExitStatusExt as _;
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use argosy_proto::v1;

use self::RemainingFiles::{ADirectory, AForbiddenDirectory, Everything};
use crate::cluster::{Cluster, argosy, wait_until, write};

pub(crate) const LONG: Duration = Duration::from_secs(90);

/// Returns the command on the host of the master at `index`, with that master's own flags.
fn command(cluster: &Cluster, index: usize, more: &[&str]) -> Command {
    let own = cluster.masters[index].arguments();
    assert_eq!(own[..2], ["master", "start"]);
    let mut command = Command::new(argosy());
    command.args(["master", "rejoin"]).args(&own[2..]);
    let masters: Vec<String> = cluster.masters.iter().map(|master| master.api()).collect();
    command.args(["--masters", &masters.join(","), "--yes"]);
    command.args(more).stdin(Stdio::null());
    command
}

pub(crate) async fn rejoin(cluster: &Cluster, index: usize, more: &[&str]) -> Output {
    let mut command = command(cluster, index, more);
    let output = tokio::task::spawn_blocking(move || command.output());
    let ended = tokio::time::timeout(LONG, output).await;
    ended
        .expect("it ends")
        .unwrap()
        .expect("the executable starts")
}

pub(crate) fn output_text(output: &Output) -> String {
    let text = [&output.stdout[..], &output.stderr[..]].concat();
    String::from_utf8_lossy(&text).into_owned()
}

pub(crate) fn data_directory(cluster: &Cluster, index: usize) -> PathBuf {
    let name = &cluster.masters[index].name;
    cluster.directory.path().join(name)
}

/// Returns every file below the data directory of a master, with its content.
fn contents(cluster: &Cluster, index: usize) -> Vec<(PathBuf, Vec<u8>)> {
    let mut waiting = vec![data_directory(cluster, index)];
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

async fn list_masters(cluster: &Cluster) -> Vec<v1::Master> {
    let operator = cluster.operator();
    wait_until("the masters are listed", LONG, async || {
        let reply = operator.get_cluster(v1::GetClusterRequest::default()).await;
        reply.ok().map(|cluster| cluster.masters)
    })
    .await
}

/// Returns the id of the master at `index` in the group.
pub(crate) async fn id(cluster: &Cluster, index: usize) -> Option<String> {
    let api = cluster.masters[index].api();
    let found = list_masters(cluster).await.into_iter();
    let mut found = found.filter(|master| master.api_address == api);
    let id = found.next().map(|master| master.node_id);
    assert!(found.next().is_none(), "two members have one address");
    id
}

async fn follower(cluster: &Cluster) -> usize {
    (cluster.leader().await + 1) % 3
}

/// Kills a follower that has data, and returns its position.
async fn kill_follower(cluster: &mut Cluster) -> usize {
    for number in 0..20 {
        let reply = write(&cluster.operator(), number.to_string()).await;
        reply.expect("the write is acknowledged");
    }
    let index = follower(cluster).await;
    cluster.masters[index].kill();
    index
}

/// The same, with a directory as a damaged file or a digest mismatch leaves it.
async fn forbid_follower(cluster: &mut Cluster) -> usize {
    let index = kill_follower(cluster).await;
    let why = "it differs: run `argosy master rejoin` on this host";
    argosy_raft::forbid_start(&data_directory(cluster, index), why).unwrap();
    index
}

pub(crate) async fn ends_with(cluster: &mut Cluster, index: usize, words: &str) {
    let master = &mut cluster.masters[index];
    master.start();
    wait_until("it ends", LONG, async || master.has_ended().then_some(())).await;
    assert!(master.log().contains(words), "{}", master.log());
    master.kill();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_master_that_must_not_serve_rejoins_under_a_new_id() {
    let mut cluster = Cluster::start(0).await;
    let index = forbid_follower(&mut cluster).await;
    let former = id(&cluster, index).await.expect("it is a member");
    for _ in 0..2 {
        ends_with(&mut cluster, index, "must not be served: it differs").await;
    }
    let before = contents(&cluster, index);
    let dry = rejoin(&cluster, index, &["--dry-run"]).await;
    assert!(dry.status.success(), "{}", output_text(&dry));
    assert!(
        output_text(&dry).contains(&format!("removes {former}")),
        "{}",
        output_text(&dry)
    );
    assert_eq!(
        contents(&cluster, index),
        before,
        "a dry run changes nothing"
    );
    let output = rejoin(&cluster, index, &[]).await;
    assert!(output.status.success(), "{}", output_text(&output));
    cluster.masters[index].start();
    cluster.wait_caught_up().await;
    let present = id(&cluster, index).await.expect("it is a member");
    assert_ne!(present, former);
    // Its vote counts: the group keeps working without one of the others.
    let other = (0..3).find(|one| *one != index).unwrap();
    cluster.masters[other].kill();
    cluster.leader().await;
    write(&cluster.operator(), "after".to_owned())
        .await
        .expect("the write is acknowledged");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_master_with_a_damaged_store_rejoins() {
    let mut cluster = Cluster::start(0).await;
    let index = follower(&cluster).await;
    cluster.masters[index].kill();
    let current = data_directory(&cluster, index).join("store/CURRENT");
    fs::write(current, "nothing\n").unwrap();
    ends_with(&mut cluster, index, "store").await;
    let output = rejoin(&cluster, index, &[]).await;
    assert!(output.status.success(), "{}", output_text(&output));
    cluster.masters[index].start();
    cluster.wait_caught_up().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn no_data_is_discarded_while_a_master_runs_or_without_a_quorum() {
    let mut cluster = Cluster::start(0).await;
    let index = follower(&cluster).await;
    let running = rejoin(&cluster, index, &[]).await;
    assert!(!running.status.success());
    assert!(
        output_text(&running).contains("is in use by process"),
        "{}",
        output_text(&running)
    );
    assert!(id(&cluster, index).await.is_some(), "it is still a member");
    let other = (index + 1) % 3;
    cluster.masters[index].kill();
    cluster.masters[other].kill();
    let before = contents(&cluster, index);
    let alone = rejoin(&cluster, index, &["--timeout", "3s"]).await;
    assert!(!alone.status.success());
    assert!(
        output_text(&alone).contains("nothing was removed"),
        "{}",
        output_text(&alone)
    );
    assert_eq!(contents(&cluster, index), before);
    // It can still be started, and make a quorum.
    cluster.masters[index].start();
    cluster.leader().await;
    write(&cluster.operator(), "after".to_owned())
        .await
        .expect("the write is acknowledged");
}

/// A step of the command, and the system call after it at which the process is killed.
struct KillPoint {
    step: &'static str,
    call: &'static str,
    /// Only calls that name this file count.
    file: Option<&'static str>,
    at: CallIndex,
    remaining: RemainingFiles,
}

/// The index of the call, among those of one thread.
enum CallIndex {
    Call(usize),
    /// The first after the notes of all former members, which are two calls each.
    AfterNotes,
}

enum RemainingFiles {
    /// Nothing is changed: the master is still a member, and could be started.
    Everything,
    /// Data of which a part may be missing: no master starts on it.
    AForbiddenDirectory,
    /// A directory that a master may be started on.
    ADirectory,
}

impl KillPoint {
    const fn new(
        done: &'static str,
        call: &'static str,
        at: usize,
        leaves: RemainingFiles,
    ) -> Self {
        Self {
            step: done,
            call,
            file: None,
            at: CallIndex::Call(at),
            remaining: leaves,
        }
    }

    const fn of(mut self, name: &'static str) -> Self {
        self.file = Some(name);
        self
    }

    const fn behind_notes(mut self) -> Self {
        self.at = CallIndex::AfterNotes;
        self
    }
}

const REMOVE: &str = "unlink,unlinkat,rmdir";
const OUTPUT: &str = "rejoin.log";

/// The steps of the command, in order. The numbers are those of docs/operate/recovery.md.
const STEPS: [KillPoint; 10] = [
    KillPoint::new("1: the directory is locked", "listen", 1, Everything),
    KillPoint::new("1: the addresses are taken", "connect", 1, Everything),
    KillPoint::new("4: the member is removed", "write", 1, ADirectory).of(OUTPUT),
    KillPoint::new("5: a start is forbidden", REMOVE, 1, AForbiddenDirectory),
    KillPoint::new("5: some files are gone", REMOVE, 3, AForbiddenDirectory),
    KillPoint::new("5: all files are gone", "unlink", 1, AForbiddenDirectory).of("MUST-REJOIN"),
    KillPoint::new("5: a start is allowed", "listen", 3, ADirectory),
    KillPoint::new("6: a store is made", "mkdir", 1, ADirectory).of("snapshots"),
    KillPoint::new("6: the group takes it in", "write", 1, ADirectory).of(OUTPUT),
    KillPoint::new("7: it is a voter", "write", 1, ADirectory)
        .of(OUTPUT)
        .behind_notes(),
];

/// Runs the command until this step is done, and kills it there.
async fn kill_after(cluster: &Cluster, index: usize, step: &KillPoint) {
    let raft = format!("{}:5052", cluster.masters[index].address);
    let own = |master: &v1::Master| master.raft_address == raft;
    let formers = list_masters(cluster).await.into_iter().filter(own).count();
    let (at, log_filter) = match step.at {
        // One line is logged when the group has added the member.
        CallIndex::Call(at) => (at, "off,argosy_raft::bootstrap::run=info"),
        CallIndex::AfterNotes => (1 + 2 * formers, "off"),
    };
    let own = command(cluster, index, &[]);
    let log = cluster.directory.path().join(OUTPUT);
    let mut command = Command::new("strace");
    command.args(["-f", "-qq", "-o", "/dev/null", "-e"]);
    command.arg(format!("trace={}", step.call));
    let inject = format!("inject={}:signal=KILL:when={at}", step.call);
    command.args(["-e", &inject]);
    match step.file {
        None => {}
        Some(OUTPUT) => drop(command.arg("-P").arg(&log)),
        Some(name) => drop(
            command
                .arg("-P")
                .arg(data_directory(cluster, index).join(name)),
        ),
    }
    command.arg(own.get_program()).args(own.get_args());
    let output = fs::File::create(&log).unwrap();
    let child = command
        .env("ARGOSY_LOG", log_filter)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(output)
        .spawn();
    let mut child = child.expect("strace is installed");
    let ended = wait_until(step.step, LONG, async || child.try_wait().unwrap()).await;
    let reported = fs::read_to_string(&log).unwrap();
    // strace exits as the process that it traces.
    assert_eq!(
        ended.signal(),
        Some(9),
        "{}: {ended}: {reported}",
        step.step
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rejoin_can_be_repeated_after_a_kill_at_any_step() {
    let mut cluster = Cluster::start(0).await;
    cluster.release_machine();
    let index = kill_follower(&mut cluster).await;
    let before = contents(&cluster, index);
    for step in &STEPS {
        kill_after(&cluster, index, step).await;
        match step.remaining {
            Everything => {
                assert!(id(&cluster, index).await.is_some(), "{}", step.step);
                assert!(contents(&cluster, index) == before, "{}", step.step);
            }
            AForbiddenDirectory => {
                ends_with(&mut cluster, index, "run `argosy master rejoin`").await;
            }
            ADirectory => {}
        }
    }
    let output = rejoin(&cluster, index, &[]).await;
    assert!(output.status.success(), "{}", output_text(&output));
    cluster.masters[index].start();
    cluster.wait_caught_up().await;
    assert_eq!(
        list_masters(&cluster).await.len(),
        3,
        "nothing is left behind"
    );
}
