//! Masters of release 0.1.0 and of this one in one group: a rolling upgrade under load, and the
//! rollback.
//!
//! The former release is built from its commit (`releases.txt`). Digests that masters report are
//! compared with those that both releases compute from the log of one of them, after each entry.

#[path = "../../../state/tests/release/former.rs"]
mod former;
#[path = "upgrade/history.rs"]
mod history;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use argosy_client::{Connector, ConnectorConfig, OperatorClient};
use argosy_proto::v1;
use argosy_state::level::Level;
use nix::sys::signal::Signal;
use tokio_util::sync::CancellationToken;

use crate::cluster::{Cluster, wait_until};
use crate::test_framework::{TestFramework, task};

const LONG: Duration = Duration::from_secs(120);
/// Number of tasks that run together.
const TASKS: usize = 60;

/// Digests that masters have reported, by log index.
type ReportedDigests = Arc<Mutex<BTreeMap<u64, Vec<u8>>>>;

/// Returns the executable. `None` in short runs, since it takes minutes to build, and without a Git
/// history.
fn argosy_0_1_0() -> Option<PathBuf> {
    if std::env::var_os("ARGOSY_LONG").is_none() {
        eprintln!("set ARGOSY_LONG=1: release 0.1.0 is built first");
        return None;
    }
    let release = former::release()?;
    match release.executable("argosy-cli", "argosy", None) {
        Ok(executable) => Some(executable),
        Err(error) => panic!("{error}"),
    }
}

/// Returns the local state of one master.
async fn local(api: &str) -> Option<v1::Cluster> {
    let one = OperatorClient::new(Connector::new(
        api.parse().ok()?,
        ConnectorConfig::default(),
    ));
    let request = v1::GetClusterRequest {
        consistency: v1::Consistency::Local.into(),
    };
    let asked = tokio::time::timeout(Duration::from_secs(2), one.get_cluster(request));
    asked.await.ok()?.ok()
}

/// Records what all masters report until it is cancelled. No two may report different digests of
/// one index.
async fn watch(apis: Vec<String>, reported: ReportedDigests, stop: CancellationToken) {
    while !stop.is_cancelled() {
        for api in &apis {
            let Some(cluster) = local(api).await else {
                continue;
            };
            let mut reported = reported.lock().unwrap();
            let known = reported
                .entry(cluster.applied_index)
                .or_insert_with(|| cluster.digest.clone());
            assert_eq!(*known, cluster.digest, "at index {}", cluster.applied_index);
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// Writes until it is cancelled, and returns how many writes were acknowledged. The role has no
/// frameworks, so no offer changes.
async fn load(operator: OperatorClient, stop: CancellationToken) -> usize {
    let mut written = 0;
    while !stop.is_cancelled() {
        let weight = v1::SetWeight {
            role: "load".to_owned(),
            weight_milli: 1_001 + written as u64 % 1_000,
        };
        let operation = v1::WriteOperation {
            operation: Some(v1::write_operation::Operation::SetWeight(weight)),
        };
        let batch = v1::WriteBatch {
            operations: vec![operation],
            ..Default::default()
        };
        if operator.write(batch).await.is_ok() {
            written += 1;
        }
        // Few enough that no master purges its log.
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    written
}

/// Stops a master gracefully, and starts it with another release.
async fn replace(cluster: &mut Cluster, index: usize, executable: Option<&Path>) {
    let master = &mut cluster.masters[index];
    master.signal(Signal::SIGTERM);
    wait_until("it stops", LONG, async || master.has_ended().then_some(())).await;
    master.kill();
    master.run_by(executable);
    master.start();
    cluster.wait_caught_up().await;
}

/// Makes this master lead.
async fn lead(cluster: &Cluster, index: usize) {
    let api = cluster.masters[index].api();
    wait_until("it leads", LONG, async || {
        let known = cluster.operator();
        let listed = known.get_cluster(v1::GetClusterRequest::default()).await;
        let masters = listed.ok()?.masters;
        let node_id = masters.iter().find(|one| one.api_address == api)?;
        let request = v1::TransferLeaderRequest {
            node_id: node_id.node_id.clone(),
        };
        // Rejected while the group makes another change.
        let _ = known.transfer_leader(request).await;
        (cluster.leader().await == index).then_some(())
    })
    .await;
}

/// Makes this master lead, and kills it while it does.
async fn kill_leading(cluster: &mut Cluster, index: usize) {
    lead(cluster, index).await;
    cluster.masters[index].kill();
    let next = cluster.leader().await;
    assert_ne!(next, index, "a dead master leads");
    cluster.masters[index].start();
    cluster.wait_caught_up().await;
}

async fn level(cluster: &Cluster) -> u32 {
    wait_until("the level is known", LONG, async || {
        let request = v1::GetClusterRequest::default();
        let found = cluster.operator().get_cluster(request).await;
        found.ok().map(|cluster| cluster.feature_level)
    })
    .await
}

/// Runs tasks, ends some, and waits until the framework has received all updates.
async fn run_tasks(framework: &TestFramework, name: &str) {
    let before = framework.events.lock().unwrap().ended();
    let ended = || framework.events.lock().unwrap().ended() - before;
    for round in 0.. {
        assert!(round < 8, "{} of {TASKS} tasks have ended", ended());
        // Offers of a former leader may be rejected, and the tasks with them.
        let missing = TASKS.saturating_sub(ended());
        framework.launch((0..missing).map(|at| task(&format!("{name}-{round}-{at}"), "true")));
        let deadline = Instant::now() + Duration::from_secs(20);
        while Instant::now() < deadline && ended() < TASKS {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        if ended() >= TASKS {
            return;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn masters_of_two_releases_keep_equal_records_until_the_level_is_raised() {
    let Some(executable) = argosy_0_1_0() else {
        return;
    };
    let mut cluster = Cluster::start_by(2, &executable).await;
    let watched = DigestWatch::begin(&cluster);
    let framework = TestFramework::start(cluster.masters_list(), "steady").await;
    run_tasks(&framework, "before").await;

    replace(&mut cluster, 0, None).await;
    for (round, place) in [0, 1, 0, 2].into_iter().enumerate() {
        kill_leading(&mut cluster, place).await;
        run_tasks(&framework, &format!("mixed-{round}")).await;
    }
    assert_refused(&cluster, 0, "knows the feature levels 1-2, not 3").await;
    replace(&mut cluster, 1, None).await;
    // Facts that level 2 does not have are rejected with a message.
    assert_needs_level(&framework).await;
    kill_leading(&mut cluster, 2).await;
    run_tasks(&framework, "two-new").await;
    replace(&mut cluster, 2, None).await;
    for agent in &mut cluster.agents {
        agent.kill();
        agent.run_by(None);
        agent.start();
    }
    cluster.wait_registered().await;
    assert_eq!(level(&cluster).await, 2);

    let raised = raise(&cluster).await;
    assert_eq!((raised.former_level, raised.level), (2, 3));
    assert_eq!(raise(&cluster).await.former_level, 3, "a repeat");
    assert_eq!(level(&cluster).await, 3);
    run_tasks(&framework, "after").await;
    kill_leading(&mut cluster, 1).await;
    run_tasks(&framework, "last").await;
    let reported = watched.end().await;

    refuses_the_directory(&mut cluster, &executable).await;
    assert_same_history(&mut cluster, &reported, Level(3));
}

/// Stops the masters. The log of each must lead both releases to the digests that the masters have
/// reported, at each index.
fn assert_same_history(cluster: &mut Cluster, reported: &ReportedDigests, level: Level) {
    for master in &mut cluster.masters {
        master.kill();
    }
    let reported = reported.lock().unwrap();
    for number in 1..=3 {
        let directory = cluster.directory.path().join(format!("master-{number}"));
        let replayed = history::replay(&directory.join("store"));
        assert_eq!(replayed.level, level);
        let digests = replayed.digests;
        let known = reported.iter().filter_map(|(index, digest)| {
            let computed = digests.get(index)?;
            Some((index, digest, computed.to_be_bytes()))
        });
        let mut compared = 0;
        for (index, digest, computed) in known {
            assert_eq!(digest[..], computed, "master-{number} at index {index}");
            compared += 1;
        }
        let entries = digests.len();
        eprintln!("master-{number}: {entries} entries, {compared} digests of processes");
        // The log of a new group is short; a rolling upgrade has a thousand entries.
        assert!(entries > 50 && compared > 20, "{entries}, {compared}");
    }
}

/// Watches all masters, and writes, until it is ended.
struct DigestWatch {
    stop: CancellationToken,
    reported: ReportedDigests,
    watching: tokio::task::JoinHandle<()>,
    loading: tokio::task::JoinHandle<usize>,
}

impl DigestWatch {
    fn begin(cluster: &Cluster) -> Self {
        let (stop, reported) = (CancellationToken::new(), ReportedDigests::default());
        let apis = cluster.masters.iter().map(|master| master.api()).collect();
        Self {
            watching: tokio::spawn(watch(apis, Arc::clone(&reported), stop.clone())),
            loading: tokio::spawn(load(cluster.operator(), stop.clone())),
            stop,
            reported,
        }
    }

    /// Checks that no two masters have reported different digests of one index.
    async fn end(self) -> ReportedDigests {
        self.stop.cancel();
        self.watching.await.expect("no two masters differ");
        let written = self.loading.await.unwrap();
        assert!(written > 20, "{written} writes");
        self.reported
    }
}

async fn raise(cluster: &Cluster) -> v1::RaiseLevelReply {
    wait_until("the level is raised", LONG, async || {
        let request = v1::RaiseLevelRequest { level: 3 };
        cluster.operator().raise_level(request).await.ok()
    })
    .await
}

/// Checks a rejection by this master, which must lead: one of the former release does not know the
/// call.
async fn assert_refused(cluster: &Cluster, index: usize, words: &str) {
    let only = cluster.masters[index].api();
    let refused = wait_until("the raise is refused", LONG, async || {
        lead(cluster, index).await;
        let masters = only.parse().expect("it is an address");
        let operator = OperatorClient::new(Connector::new(masters, ConnectorConfig::default()));
        let request = v1::RaiseLevelRequest { level: 3 };
        let refused = operator.raise_level(request).await.unwrap_err().to_string();
        // It may have lost leadership in between.
        (refused.contains("level")).then_some(refused)
    })
    .await;
    assert!(refused.contains(words), "{refused}");
}

async fn assert_needs_level(framework: &TestFramework) {
    framework.hold_offers(true);
    let offer = framework
        .wait_for_event("an offer", LONG, |events| {
            events.offers.values().next().cloned()
        })
        .await;
    let mut signalled = task("signalled", "sleep 600");
    signalled.kill_policy = Some(v1::KillPolicy {
        signal: v1::KillSignal::Int.into(),
        ..Default::default()
    });
    let answer = framework
        .driver
        .accept(&offer, vec![signalled])
        .answer()
        .await;
    let text = format!("{answer:?}");
    // A leader of the former release does not know the field, and ignores it.
    assert!(
        text.contains("feature level 3") || answer.is_done(),
        "{text}"
    );
    framework.hold_offers(false);
}

/// Checks that a master of the former release exits without a change, and that this one continues
/// from there.
async fn refuses_the_directory(cluster: &mut Cluster, executable: &Path) {
    let index = (cluster.leader().await + 1) % 3;
    let master = &mut cluster.masters[index];
    master.signal(Signal::SIGTERM);
    wait_until("it stops", LONG, async || master.has_ended().then_some(())).await;
    master.kill();
    master.run_by(Some(executable));
    master.start();
    wait_until("it refuses", LONG, async || {
        master.has_ended().then_some(())
    })
    .await;
    let words = "written in format 3; this release reads up to 2";
    assert!(master.log().contains(words), "{}", master.log());
    master.kill();
    master.run_by(None);
    master.start();
    cluster.wait_caught_up().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn all_masters_can_be_downgraded_before_the_level_is_raised() {
    let Some(executable) = argosy_0_1_0() else {
        return;
    };
    let mut cluster = Cluster::start_by(1, &executable).await;
    let watched = DigestWatch::begin(&cluster);
    let framework = TestFramework::start(cluster.masters_list(), "steady").await;
    run_tasks(&framework, "before").await;
    for index in 0..3 {
        replace(&mut cluster, index, None).await;
    }
    kill_leading(&mut cluster, 1).await;
    run_tasks(&framework, "upgraded").await;
    assert_eq!(level(&cluster).await, 2);
    for index in 0..3 {
        replace(&mut cluster, index, Some(&executable)).await;
        run_tasks(&framework, &format!("returning-{index}")).await;
    }
    run_tasks(&framework, "returned").await;
    kill_leading(&mut cluster, 0).await;
    run_tasks(&framework, "last").await;
    let reported = watched.end().await;
    assert_same_history(&mut cluster, &reported, Level(2));
}

#[tokio::test(flavor = "multi_thread")]
async fn masters_of_two_releases_form_a_cluster_at_level_2_under_either_leader() {
    let Some(executable) = argosy_0_1_0() else {
        return;
    };
    // The first master of the list forms the group.
    for former in [&[2, 3][..], &[1], &[3]] {
        let mut cluster = Cluster::start_mixed(1, &executable, former).await;
        let watched = DigestWatch::begin(&cluster);
        let framework = TestFramework::start(cluster.masters_list(), "steady").await;
        run_tasks(&framework, "founded").await;
        for index in 0..3 {
            kill_leading(&mut cluster, index).await;
            run_tasks(&framework, &format!("led-{index}")).await;
        }
        let reported = watched.end().await;
        assert_same_history(&mut cluster, &reported, Level(2));
    }
}
