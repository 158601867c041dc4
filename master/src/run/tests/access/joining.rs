//! Hosts that join by a token: certificates at every master, the binding of names to keys, and what
//! is refused.

use std::collections::BTreeSet;

use argosy_proto::clock::WallClock;
use argosy_proto::v1::certificates_client::CertificatesClient;
use argosy_proto::v1::write_operation::Operation;
use argosy_state::access::{KeyHash, TokenId, TokenSecret};
use sha2::Digest as _;

use super::*;
use crate::certificate_issuer::{CertificateIssuer, RequestedCertificate, SignCertificate};
use crate::principal_limits::RATE_LIMITED;

/// Returns an authority whose requests are `PRINCIPAL KEY`, and `PRINCIPAL KEY HOST`.
fn issuer() -> CertificateIssuer {
    let read = |text: &str| {
        let words: Vec<&str> = text.split(' ').collect();
        let [principal, key, hosts @ ..] = &words[..] else {
            return Err("the request is not signed by its own key".to_owned());
        };
        let wanted = RequestedCertificate {
            principal: principal.parse().unwrap(),
            key: KeyHash([key.parse().unwrap(); 32]),
            hosts: hosts.iter().map(|host| (*host).to_owned()).collect(),
        };
        let certificate = format!("certificate of {text}");
        let sign: SignCertificate = Box::new(|| Ok(certificate));
        Ok((wanted, sign))
    };
    CertificateIssuer::new("test", || vec![vec![1, 2]], read)
}

fn secret(id: u64) -> TokenSecret {
    TokenSecret {
        id: TokenId(id),
        secret: [id as u8; 32],
    }
}

/// Repeats a call until there is a leader that answers it: elections are not the subject here.
async fn answered<T>(call: impl AsyncFn() -> Result<T, Status>) -> Result<T, Status> {
    let deadline = tokio::time::Instant::now() + TIMEOUT;
    loop {
        let answer = tokio::time::timeout(TIMEOUT, call()).await.unwrap();
        match answer {
            Err(status) if status.code() == Code::Unavailable => {
                assert!(tokio::time::Instant::now() < deadline, "{status}");
                tokio::task::yield_now().await;
            }
            other => return other,
        }
    }
}

/// Performs an operation as `operator/root`.
async fn operate(cluster: &TestCluster, place: usize, operation: Operation) {
    let batch = v1::WriteBatch {
        operations: vec![v1::WriteOperation {
            operation: Some(operation),
        }],
        ..Default::default()
    };
    let written = answered(async || {
        let mut client = OperatorClient::new(cluster.channel("operator/root", place));
        client.write_one(batch.clone()).await
    });
    let outcome = &written.await.unwrap().into_inner().outcomes[0];
    // A repetition after a lost answer finds no token to revoke.
    let is_done = outcome.done || outcome.code == "unknown-token";
    assert!(is_done, "{}", outcome.message);
}

fn created(id: u64, purpose: v1::create_token::Purpose, lifetime_ms: Option<u64>) -> Operation {
    let hash: [u8; 32] = sha2::Sha256::digest(secret(id).secret).into();
    Operation::CreateToken(v1::CreateToken {
        token_id: secret(id).id.to_string(),
        secret_hash: KeyHash(hash).to_string(),
        purpose: Some(purpose),
        lifetime_ms,
        description: String::new(),
    })
}

fn joining(kind: &str, uses: u32) -> v1::create_token::Purpose {
    let kind = kind.to_owned();
    v1::create_token::Purpose::Join(v1::JoinPurpose { kind, uses })
}

/// Requests a certificate over a connection without an identity.
async fn issue(
    cluster: &TestCluster,
    place: usize,
    token: &str,
    request: &str,
) -> Result<String, Status> {
    let wanted = v1::IssueCertificateRequest {
        token: token.to_owned(),
        request: request.to_owned(),
        joining_address: "10.0.0.7".to_owned(),
    };
    let issued = answered(async || {
        let mut client = CertificatesClient::new(cluster.channel("", place));
        client.issue(wanted.clone()).await
    });
    Ok(issued.await?.into_inner().certificate)
}

/// Requests a certificate with a token; returns the code of a refusal.
async fn join(
    cluster: &TestCluster,
    place: usize,
    token: u64,
    request: &str,
) -> Result<(), String> {
    let token = secret(token).to_string();
    let issued = issue(cluster, place, &token, request).await;
    let certificate = issued.map_err(|status| reason(&status))?;
    assert_eq!(certificate, format!("certificate of {request}"));
    Ok(())
}

fn reason(status: &Status) -> String {
    let info = tonic_types::StatusExt::get_details_error_info(status);
    info.map_or_else(|| format!("{:?}", status.code()), |info| info.reason)
}

fn refused(reason: &str) -> Result<(), String> {
    Err(reason.to_owned())
}

/// Returns the uses that are left of each join token.
async fn uses(cluster: &TestCluster, place: usize) -> Vec<u32> {
    let page = answered(async || {
        let mut client = OperatorClient::new(cluster.channel("operator/root", place));
        client.list_tokens(v1::ListRequest::default()).await
    });
    let tokens = page.await.unwrap().into_inner().tokens.into_iter();
    let uses = tokens.filter_map(|token| match token.purpose {
        Some(v1::token::Purpose::Join(join)) => Some(join.uses),
        Some(v1::token::Purpose::Principal(_)) | None => None,
    });
    uses.collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_token_gets_certificates_and_binds_names_to_keys() {
    let cluster = TestCluster::start_issuing(&issuer());
    let (leader, follower) = cluster.places().await;
    operate(&cluster, leader, created(1, joining("agent", 2), None)).await;
    // A repetition, as after a lost answer, consumes nothing, at any master.
    for place in [follower, leader, follower] {
        assert_eq!(join(&cluster, place, 1, "agent/a7 1").await, Ok(()));
        assert_eq!(uses(&cluster, leader).await, [1]);
    }
    let other_key = join(&cluster, follower, 1, "agent/a7 2").await;
    assert_eq!(other_key, refused("key-bound"));
    assert_eq!(join(&cluster, leader, 1, "agent/a8 2").await, Ok(()));
    assert_eq!(uses(&cluster, leader).await, [0]);
    // Used up: for new names only.
    assert_eq!(join(&cluster, leader, 1, "agent/a8 2").await, Ok(()));
    let third = join(&cluster, leader, 1, "agent/a9 3").await;
    assert_eq!(third, refused("unauthenticated"));
    // A revoked key gets nothing, and its name is free for another one.
    let key_hash = KeyHash([1; 32]).to_string();
    let revoke = Operation::RevokeKey(v1::RevokeKey { key_hash });
    operate(&cluster, leader, revoke).await;
    operate(&cluster, leader, created(2, joining("agent", 1), None)).await;
    let revoked = join(&cluster, leader, 2, "agent/a7 1").await;
    assert_eq!(revoked, refused("key-revoked"));
    assert_eq!(join(&cluster, leader, 2, "agent/a7 4").await, Ok(()));
    assert_eq!(uses(&cluster, leader).await, [0, 0]);
    cluster.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_refusal_does_not_tell_which_tokens_exist() {
    let cluster = TestCluster::start_issuing(&issuer());
    let (leader, follower) = cluster.places().await;
    operate(&cluster, leader, created(1, joining("agent", 1), None)).await;
    operate(&cluster, leader, created(2, joining("agent", 1), Some(1))).await;
    let expired = WallClock::system().now_ms() + 2;
    operate(&cluster, leader, created(3, joining("agent", 1), None)).await;
    let token_id = TokenId(3).to_string();
    let revoke = Operation::RevokeToken(v1::RevokeToken { token_id });
    operate(&cluster, leader, revoke).await;
    operate(&cluster, leader, created(4, joining("master", 1), None)).await;
    let bearer = v1::create_token::Purpose::Principal("operator/ci".to_owned());
    operate(&cluster, leader, created(5, bearer, None)).await;
    operate(&cluster, leader, created(6, joining("agent", 1), None)).await;
    assert_eq!(join(&cluster, leader, 6, "agent/used 9").await, Ok(()));
    while WallClock::system().now_ms() <= expired {
        tokio::task::yield_now().await;
    }
    let mut wrong = secret(1);
    wrong.secret[31] ^= 1;
    let tokens = [
        wrong,
        secret(2),
        secret(3),
        secret(4),
        secret(5),
        secret(6),
        secret(7),
    ];
    let tokens = tokens.map(|token| token.to_string()).into_iter();
    let mut texts = Vec::new();
    for token in tokens.chain(["".to_owned(), "argosy_1".to_owned(), "x".repeat(10_000)]) {
        for place in [leader, follower] {
            let status = issue(&cluster, place, &token, "agent/a7 1")
                .await
                .unwrap_err();
            assert_eq!(status.code(), Code::Unauthenticated, "{status}");
            texts.push(status.message().to_owned());
        }
    }
    texts.dedup();
    assert_eq!(texts.len(), 1, "{texts:?}");
    assert!(texts[0].contains("argosy token create"), "{texts:?}");
    // Nothing is bound, and nothing was used.
    assert_eq!(uses(&cluster, leader).await, [1, 1, 1, 0]);
    assert_eq!(join(&cluster, leader, 1, "agent/a7 2").await, Ok(()));
    cluster.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_repetition_at_another_leader_gets_a_certificate_without_a_second_use() {
    let cluster = TestCluster::start_issuing(&issuer());
    let (leader, _) = cluster.places().await;
    operate(&cluster, leader, created(1, joining("agent", 2), None)).await;
    // The host does not receive the answer to a request whose entry is committed.
    assert_eq!(join(&cluster, leader, 1, "agent/a7 1").await, Ok(()));
    let next = loop {
        let (next, _) = cluster.places().await;
        if next != leader {
            break next;
        }
        let mut client = OperatorClient::new(cluster.channel("operator/root", leader));
        let transfer = v1::TransferLeaderRequest::default();
        // It fails if the leader has changed by itself.
        let _ = client.transfer_leader(transfer).await;
    };
    assert_eq!(join(&cluster, next, 1, "agent/a7 1").await, Ok(()));
    let other = join(&cluster, next, 1, "agent/a7 2").await;
    assert_eq!(other, refused("key-bound"));
    assert_eq!(uses(&cluster, next).await, [1]);
    cluster.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn requests_that_are_malformed_or_too_large_consume_nothing() {
    let cluster = TestCluster::start_issuing(&issuer());
    let (leader, follower) = cluster.places().await;
    operate(&cluster, leader, created(1, joining("agent", 1), None)).await;
    let token = secret(1).to_string();
    for place in [leader, follower] {
        // The claim of an address is not believed: only a master's is.
        for request in ["", "agent/a7 1 10.0.0.7", "agent/a7 1 m1.example"] {
            let status = issue(&cluster, place, &token, request).await.unwrap_err();
            assert_eq!(status.code(), Code::InvalidArgument, "{status}");
        }
        let large = format!("agent/a7 {}", " ".repeat(64 << 10));
        let status = issue(&cluster, place, &token, &large).await.unwrap_err();
        assert_ne!(status.code(), Code::Internal, "{status}");
        let operator = join(&cluster, place, 1, "operator/root 1").await;
        assert_eq!(operator, refused("unauthenticated"));
    }
    assert_eq!(uses(&cluster, leader).await, [1]);
    assert_eq!(join(&cluster, leader, 1, "agent/a7 1").await, Ok(()));
    cluster.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn requests_of_one_address_are_limited() {
    let cluster = TestCluster::start_issuing(&issuer());
    let (leader, follower) = cluster.places().await;
    operate(&cluster, leader, created(1, joining("agent", 1), None)).await;
    let many = (0..200).map(|_| issue(&cluster, follower, "none", ""));
    let ends = futures::future::join_all(many).await;
    let refusals: BTreeSet<_> = ends
        .into_iter()
        .map(|end| reason(&end.unwrap_err()))
        .collect();
    let both = ["unauthenticated", RATE_LIMITED].map(str::to_owned);
    assert_eq!(refusals, BTreeSet::from(both));
    // What the follower has forwarded does not count at the leader.
    assert_eq!(join(&cluster, leader, 1, "agent/a7 1").await, Ok(()));
    cluster.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_name_that_joined_is_refused_to_certificates_of_other_keys() {
    let cluster = TestCluster::start_issuing(&issuer());
    let (leader, follower) = cluster.places().await;
    let call = async |place| {
        let asked = answered(async || {
            let mut client = OperatorClient::new(cluster.channel("agent/host-1", place));
            client.list_tasks(v1::ListRequest::default()).await
        });
        End::of_result(asked.await)
    };
    // No rule lets agents see tasks, but the certificate proves the agent.
    assert_eq!(call(leader).await, End::Denied);
    operate(&cluster, leader, created(1, joining("agent", 1), None)).await;
    assert_eq!(join(&cluster, leader, 1, "agent/host-1 1").await, Ok(()));
    for place in [leader, follower] {
        let deadline = tokio::time::Instant::now() + TIMEOUT;
        // A master applies the entry a moment later.
        while call(place).await != End::Unproven {
            assert!(tokio::time::Instant::now() < deadline, "it is served");
        }
    }
    let key_hash = KeyHash([1; 32]).to_string();
    let revoke = Operation::RevokeKey(v1::RevokeKey { key_hash });
    operate(&cluster, leader, revoke).await;
    for place in [leader, follower] {
        let deadline = tokio::time::Instant::now() + TIMEOUT;
        while call(place).await != End::Denied {
            assert!(
                tokio::time::Instant::now() < deadline,
                "it is still refused"
            );
        }
    }
    cluster.end().await;
}
