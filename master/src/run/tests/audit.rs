//! Refused calls in the audit logs of three masters.

use std::path::Path;

use argosy_proto::server::audit::{AuditEntry, AuditEvent, verify};

use super::actors::{ConnectionProof, HEADER, TestCluster, api, write};

/// Returns the refusals in the log of the master at `place`.
fn refusals(directory: &Path, place: usize) -> Vec<AuditEntry> {
    let log = directory.join(api(place)).join("audit");
    let mut found = Vec::new();
    let verified = verify(std::slice::from_ref(&log), None, |line| {
        if line.entry.event == AuditEvent::CallRefused {
            found.push(line.entry.clone());
        }
    });
    // A master that has refused no call may have no file.
    if std::fs::read_dir(&log).unwrap().next().is_some() {
        verified.unwrap();
    }
    found
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_refused_call_is_in_the_log_of_the_master_that_refused_it() {
    let cluster = TestCluster::start(ConnectionProof::Authenticated);
    let (leader, follower) = cluster.places().await;
    write(&cluster, ("operator/alice", leader), &[])
        .await
        .unwrap();
    for _ in 0..3 {
        let forged = write(
            &cluster,
            ("framework/web", leader),
            &[(HEADER, "operator/bob")],
        );
        forged.await.unwrap_err();
    }
    let directory = cluster.end().await;
    let lines = refusals(directory.path(), leader);
    let count: u64 = lines.iter().map(|line| line.count).sum();
    assert_eq!(count, 3, "{lines:?}");
    let line = &lines[0];
    assert_eq!(line.principal, "framework/web");
    // Only a master names others.
    assert_eq!(line.on_behalf_of, "");
    assert_eq!(line.action, "/argosy.v1.Operator/WriteOne");
    assert_eq!(line.outcome, "PermissionDenied");
    assert_eq!(line.request_id.len(), 32);
    assert_eq!(refusals(directory.path(), follower), []);
}
