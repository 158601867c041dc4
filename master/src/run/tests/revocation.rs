//! Three masters on a network that proves their keys: a master with a revoked key takes no further
//! part in the group.

use argosy_proto::transport::Connection;
use argosy_proto::v1;
use argosy_proto::v1::operator_client::OperatorClient;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::time::{Instant, timeout};
use tonic::Code;

use super::actors::{ConnectionProof, HEADER, TestCluster, key_of, write};
use super::*;

/// The first bytes of an HTTP/2 client: its preface, and empty settings.
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";
/// A number of changes after a revocation, of which a master that still receives them gets some.
const CHANGES: usize = 20;

fn revocation_of(principal: &str) -> v1::WriteBatch {
    let revoke = v1::RevokeKey {
        key_hash: key_of(principal).to_string(),
    };
    v1::WriteBatch {
        operations: vec![v1::WriteOperation {
            operation: Some(v1::write_operation::Operation::RevokeKey(revoke)),
        }],
        ..Default::default()
    }
}

/// Revokes the key of a principal through the master at `place`, or through another one if that
/// loses leadership before it answers.
async fn revoke(cluster: &TestCluster, principal: &str, mut place: usize) {
    let batch = revocation_of(principal);
    let deadline = Instant::now() + TIMEOUT;
    let reply = loop {
        let mut client = OperatorClient::new(cluster.channel("operator/root", place));
        let written = timeout(TIMEOUT, client.write_one(batch.clone())).await;
        match written.unwrap() {
            Ok(reply) => break reply.into_inner(),
            Err(why) => {
                assert_eq!(why.code(), Code::Unavailable, "{why}");
                assert!(Instant::now() < deadline, "{why}");
                place = (place + 1) % 3;
            }
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    };
    assert!(reply.outcomes[0].done, "{:?}", reply.outcomes);
}

/// Opens a connection to a raft port, and returns whether it is answered.
async fn greeted(cluster: &TestCluster, principal: &str, place: usize) -> Option<Connection> {
    let mut connection = cluster.raft_connection(principal, place).await;
    // The port may have closed it already.
    let _ = connection.write_all(PREFACE).await;
    let mut first = [0; 9];
    let read = timeout(TIMEOUT, connection.read_exact(&mut first)).await;
    read.expect("it is answered or closed").ok()?;
    Some(connection)
}

/// Waits until the other end has closed a connection.
async fn closed(mut connection: Connection) {
    let mut rest = Vec::new();
    // An error is an end, too.
    let read = timeout(TIMEOUT, connection.read_to_end(&mut rest)).await;
    let _ = read.expect("it is closed");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn connections_of_a_master_to_the_raft_port_end_when_its_key_is_revoked() {
    let cluster = TestCluster::start(ConnectionProof::Authenticated);
    let (leader, follower) = cluster.places().await;
    let held = greeted(&cluster, "master/m7", follower).await.unwrap();
    let mut other = greeted(&cluster, "master/m8", follower).await.unwrap();
    revoke(&cluster, "master/m7", leader).await;
    closed(held).await;
    assert!(greeted(&cluster, "master/m7", leader).await.is_none());
    assert!(greeted(&cluster, "master/m7", follower).await.is_none());
    // The connections of other masters stay.
    let mut buffer = [0; 64];
    while let Ok(read) = timeout(Duration::from_millis(1), other.read(&mut buffer)).await {
        assert!(read.unwrap() > 0, "it is closed");
    }
    assert!(greeted(&cluster, "master/m8", leader).await.is_some());
    cluster.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_member_with_a_revoked_key_receives_no_more_of_the_log() {
    let cluster = TestCluster::start(ConnectionProof::Authenticated);
    let (leader, follower) = cluster.places().await;
    write(&cluster, ("operator/before", leader), &[])
        .await
        .unwrap();
    revoke(&cluster, &format!("master/m{follower}"), leader).await;
    for _ in 0..CHANGES {
        write(&cluster, ("operator/after", leader), &[])
            .await
            .unwrap();
    }
    let received = cluster.asked(follower, |_| true);
    assert!(!received.contains(&"operator/after".to_owned()));
    let others = cluster.asked(leader, |_| true);
    let after = others.iter().filter(|actor| *actor == "operator/after");
    assert_eq!(after.count(), CHANGES);
    cluster.end().await;
}

/// Waits until another master than the one at `former` leads, and returns its place.
async fn next_leader(cluster: &TestCluster, former: usize) -> usize {
    let deadline = Instant::now() + TIMEOUT;
    loop {
        for place in (0..3).filter(|place| *place != former) {
            let mut client = OperatorClient::new(cluster.channel("operator/root", place));
            let consistency = v1::Consistency::Local.into();
            let asked = client.get_cluster(v1::GetClusterRequest { consistency });
            let seen = timeout(TIMEOUT, asked).await.unwrap().unwrap().into_inner();
            if seen.leader == seen.answered_by {
                return place;
            }
        }
        assert!(Instant::now() < deadline, "no other master leads");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn another_master_leads_after_the_key_of_the_leader_is_revoked() {
    let cluster = TestCluster::start(ConnectionProof::Authenticated);
    let (former, _) = cluster.places().await;
    revoke(&cluster, &format!("master/m{former}"), former).await;
    let leader = next_leader(&cluster, former).await;
    let deadline = Instant::now() + TIMEOUT;
    while let Err(why) = write(&cluster, ("operator/after", leader), &[]).await {
        assert!(Instant::now() < deadline, "{why}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let received = cluster.asked(former, |_| true);
    assert!(!received.contains(&"operator/after".to_owned()));
    cluster.end().await;
}

/// The follower that forwards these calls has not applied the revocation.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_leader_refuses_a_forwarded_call_with_a_revoked_credential() {
    const CREDENTIAL: &str = "argosy-forwarded-credential";
    let cluster = TestCluster::start(ConnectionProof::Authenticated);
    let (leader, _) = cluster.places().await;
    let bob = format!("key:{}", key_of("operator/bob"));
    let headers = [
        ("argosy-forwarded", "1"),
        (HEADER, "operator/bob"),
        (CREDENTIAL, bob.as_str()),
    ];
    let forwarded = async |principal: &str, headers: &[(&'static str, &str)]| {
        let written = write(&cluster, (principal, leader), headers).await;
        written.map(drop).map_err(|status| status.code())
    };
    assert_eq!(forwarded("master/m7", &headers).await, Ok(()));
    // Only masters name what has proved an identity to them.
    for other in ["operator/alice", "operator/bob", ""] {
        let refused = forwarded(other, &headers[2..]).await;
        assert_eq!(refused, Err(Code::PermissionDenied), "{other}");
    }
    let unknown = [
        headers[0],
        headers[1],
        (CREDENTIAL, "token:0123456789abcdef"),
    ];
    let refused = forwarded("master/m7", &unknown).await;
    assert_eq!(refused, Err(Code::Unauthenticated));
    revoke(&cluster, "operator/bob", leader).await;
    let refused = forwarded("master/m7", &headers).await;
    assert_eq!(refused, Err(Code::Unauthenticated));
    // Calls of other callers are still forwarded.
    let alice = format!("key:{}", key_of("operator/alice"));
    let headers = [headers[0], (HEADER, "operator/alice"), (CREDENTIAL, &alice)];
    assert_eq!(forwarded("master/m7", &headers).await, Ok(()));
    // UNAUTHENTICATED would tell the caller that its own key was revoked.
    revoke(&cluster, "master/m7", leader).await;
    let refused = forwarded("master/m7", &headers).await;
    assert_eq!(refused, Err(Code::Unavailable));
    assert_eq!(
        forwarded("master/m7", &[]).await,
        Err(Code::Unauthenticated)
    );
    cluster.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_operator_that_revokes_its_own_key_gets_the_answer() {
    let cluster = TestCluster::start(ConnectionProof::Authenticated);
    let (leader, follower) = cluster.places().await;
    for (principal, place) in [("operator/alice", leader), ("operator/bob", follower)] {
        let mut client = OperatorClient::new(cluster.channel(principal, place));
        let written = client.write_one(revocation_of(principal));
        let reply = timeout(TIMEOUT, written).await.unwrap().unwrap();
        assert!(reply.into_inner().outcomes[0].done, "{principal}");
        // It was the last one.
        let refused = client.write_one(revocation_of(principal)).await;
        assert_eq!(refused.unwrap_err().code(), Code::Unauthenticated);
    }
    cluster.end().await;
}
