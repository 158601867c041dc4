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

/// Returns the command on the host of the master at `place`, with that master's own flags.
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

pub(crate) fn output_text(output: &Output) -> String {
    let text = [&output.stdout[..], &output.stderr[..]].concat();
    String::from_utf8_lossy(&text).into_owned()
}

pub(crate) fn folder(cluster: &Cluster, place: usize) -> PathBuf {
    let name = &cluster.masters[place].name;
    cluster.directory.path().join(name)
}

/// Returns every file below the data directory of a master, with its content.
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
    wait_until("the masters are listed", LONG, async || {
        let reply = operator.get_cluster(v1::GetClusterRequest::default()).await;
        reply.ok().map(|cluster| cluster.masters)
    })
    .await
}

/// Returns the id of the master at `place` in the group.
pub(crate) async fn id(cluster: &Cluster, place: usize) -> Option<String> {
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

/// Kills a follower that has data, and returns its position.
async fn stopped(cluster: &mut Cluster) -> usize {
    for number in 0..20 {
        let reply = write(&cluster.operator(), number.to_string()).await;
        reply.expect("the write is acknowledged");
    }
    let place = follower(cluster).await;
    cluster.masters[place].kill();
    place
}

/// The same, with a directory as a damaged file or a digest mismatch leaves it.
async fn stopped_and_forbidden(cluster: &mut Cluster) -> usize {
    let place = stopped(cluster).await;
    let why = "it differs: run `argosy master rejoin` on this host";
    argosy_raft::forbid_start(&folder(cluster, place), why).unwrap();
    place
}

pub(crate) async fn ends_with(cluster: &mut Cluster, place: usize, words: &str) {
    let master = &mut cluster.masters[place];
    master.start();
    wait_until("it ends", LONG, async || master.has_ended().then_some(())).await;
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
    assert!(dry.status.success(), "{}", output_text(&dry));
    assert!(
        output_text(&dry).contains(&format!("removes {former}")),
        "{}",
        output_text(&dry)
    );
    assert_eq!(
        contents(&cluster, place),
        before,
        "a dry run changes nothing"
    );
    let output = rejoin(&cluster, place, &[]).await;
    assert!(output.status.success(), "{}", output_text(&output));
    cluster.masters[place].start();
    cluster.wait_caught_up().await;
    let present = id(&cluster, place).await.expect("it is a member");
    assert_ne!(present, former);
    // Its vote counts: the group keeps working without one of the others.
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
    assert!(output.status.success(), "{}", output_text(&output));
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
        output_text(&running).contains("is in use by process"),
        "{}",
        output_text(&running)
    );
    assert!(id(&cluster, place).await.is_some(), "it is still a member");
    let other = (place + 1) % 3;
    cluster.masters[place].kill();
    cluster.masters[other].kill();
    let before = contents(&cluster, place);
    let alone = rejoin(&cluster, place, &["--timeout", "3s"]).await;
    assert!(!alone.status.success());
    assert!(
        output_text(&alone).contains("nothing was removed"),
        "{}",
        output_text(&alone)
    );
    assert_eq!(contents(&cluster, place), before);
    // It can still be started, and make a quorum.
    cluster.masters[place].start();
    cluster.leader().await;
    write(&cluster.operator(), "after".to_owned())
        .await
        .expect("the write is acknowledged");
}

/// A step of the command, and the system call after it at which the process is killed.
struct KillPoint {
    done: &'static str,
    call: &'static str,
    /// Only calls that name this file count.
    of: Option<&'static str>,
    at: CallIndex,
    leaves: RemainingFiles,
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
            done,
            call,
            of: None,
            at: CallIndex::Call(at),
            leaves,
        }
    }

    const fn of(mut self, name: &'static str) -> Self {
        self.of = Some(name);
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
async fn killed_after(cluster: &Cluster, place: usize, step: &KillPoint) {
    let raft = format!("{}:5052", cluster.masters[place].address);
    let own = |master: &v1::Master| master.raft_address == raft;
    let formers = listed(cluster).await.into_iter().filter(own).count();
    let (at, log_filter) = match step.at {
        // One line is logged when the group has added the member.
        CallIndex::Call(at) => (at, "off,argosy_raft::bootstrap::run=info"),
        CallIndex::AfterNotes => (1 + 2 * formers, "off"),
    };
    let own = command(cluster, place, &[]);
    let log = cluster.directory.path().join(OUTPUT);
    let mut command = Command::new("strace");
    command.args(["-f", "-qq", "-o", "/dev/null", "-e"]);
    command.arg(format!("trace={}", step.call));
    let inject = format!("inject={}:signal=KILL:when={at}", step.call);
    command.args(["-e", &inject]);
    match step.of {
        None => {}
        Some(OUTPUT) => drop(command.arg("-P").arg(&log)),
        Some(name) => drop(command.arg("-P").arg(folder(cluster, place).join(name))),
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
    let ended = wait_until(step.done, LONG, async || child.try_wait().unwrap()).await;
    let said = fs::read_to_string(&log).unwrap();
    // strace exits as the process that it traces.
    assert_eq!(ended.signal(), Some(9), "{}: {ended}: {said}", step.done);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rejoin_that_is_killed_after_any_of_its_steps_can_be_repeated() {
    let mut cluster = Cluster::start(0).await;
    cluster.share();
    let place = stopped(&mut cluster).await;
    let before = contents(&cluster, place);
    for step in &STEPS {
        killed_after(&cluster, place, step).await;
        match step.leaves {
            Everything => {
                assert!(id(&cluster, place).await.is_some(), "{}", step.done);
                assert!(contents(&cluster, place) == before, "{}", step.done);
            }
            AForbiddenDirectory => {
                ends_with(&mut cluster, place, "run `argosy master rejoin`").await;
            }
            ADirectory => {}
        }
    }
    let output = rejoin(&cluster, place, &[]).await;
    assert!(output.status.success(), "{}", output_text(&output));
    cluster.masters[place].start();
    cluster.wait_caught_up().await;
    assert_eq!(listed(&cluster).await.len(), 3, "nothing is left behind");
}
