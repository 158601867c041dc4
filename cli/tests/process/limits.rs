//! A framework in Rust that changes the limits of a running task, through a change of leader.

use std::time::Duration;

use argosy_client::scheduler::{CallOutcome, CallResult};
use argosy_proto::v1;

use crate::cluster::Cluster;
use crate::test_framework::{TestFramework, task};

const LONG: Duration = Duration::from_secs(60);

fn pids(most: u64) -> v1::Limits {
    v1::Limits {
        pids: Some(most),
        ..v1::Limits::default()
    }
}

fn revision(answer: &CallResult) -> v1::Revision {
    match &answer.outcome {
        CallOutcome::Done { revision, .. } => *revision,
        other => panic!("{other:?}"),
    }
}

/// Returns the status of the newest change, once it is settled.
async fn settled(framework: &TestFramework, revision: v1::Revision) -> v1::LimitsStatus {
    framework
        .wait_for_event("its limits are settled", LONG, |events| {
            let mut reported = events.updates.iter().filter_map(|update| {
                assert_ne!(update.state(), v1::TaskState::Failed, "{update:?}");
                update.limits.clone()
            });
            reported.find(|limits| {
                limits.revision == Some(revision) && (limits.in_force || !limits.refusal.is_empty())
            })
        })
        .await
}

/// Returns whether this host has this controller of cgroups v2, which agents find wherever it is
/// mounted.
fn has_controller(name: &str) -> bool {
    let mounts = std::fs::read_to_string("/proc/mounts").unwrap();
    let mut mounts = mounts.lines().map(|line| line.split(' '));
    let found = mounts.find_map(|mut mount| {
        let index = mount.nth(1)?;
        (mount.next()? == "cgroup2").then(|| format!("{index}/cgroup.controllers"))
    });
    let found = found.and_then(|file| std::fs::read_to_string(file).ok());
    found.is_some_and(|found| {
        found
            .split_whitespace()
            .any(|controller| controller == name)
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn limit_changes_are_reported_under_every_leader() {
    let mut cluster = Cluster::start_tls(1).await;
    let framework = TestFramework::start_on(&cluster, "limiter").await;
    framework.launch([task("web", "sleep 600")]);
    framework
        .wait_for_event("it runs", LONG, |events| {
            let states = events.states("web");
            states.contains(&v1::TaskState::Running).then_some(())
        })
        .await;
    // A change without a named limit is possible on every host.
    let answer = framework
        .driver
        .update_limits("web", pids(30))
        .answer()
        .await;
    let first = settled(&framework, revision(&answer)).await;
    if has_controller("pids") {
        assert!(first.in_force, "{first:?}");
    } else {
        assert!(first.refusal.contains("controllers pids"), "{first:?}");
    }
    cluster.fail_over().await;
    let disk = v1::DiskLimit {
        disk: "/dev/null".into(),
        read_bytes: Some(1),
        ..v1::DiskLimit::default()
    };
    let wrong = v1::Limits {
        io: vec![disk],
        ..pids(20)
    };
    let answer = framework.driver.update_limits("web", wrong).answer().await;
    let second = settled(&framework, revision(&answer)).await;
    assert!(
        second.refusal.contains("limits.io: /dev/null"),
        "{second:?}"
    );
    // The masters reject what no agent could enforce, and an unknown task.
    for (name, most, code) in [("web", 0, "invalid"), ("other", 9, "unknown-task")] {
        let answer = framework
            .driver
            .update_limits(name, pids(most))
            .answer()
            .await;
        let CallOutcome::Refused(refusal) = &answer.outcome else {
            panic!("{answer:?}");
        };
        assert_eq!(refusal.reason, code, "{refusal:?}");
    }
}
