//! Bearer tokens at every master: the identity that they prove, and their end; and the end of the
//! keys of certificates.

use argosy_proto::transport::ExpectedPeer;
use argosy_state::access::{KeyHash, TokenId, TokenSecret};
use axum::body::Body;
use axum::http::{Request, Response, StatusCode};
use sha2::Digest as _;
use tokio::time::Instant;

use super::*;
use crate::run::tests::actors::key_of;

const SECRET: TokenSecret = TokenSecret {
    id: TokenId(0xf0),
    secret: [9; 32],
};

async fn create(cluster: &TestCluster, place: usize, lifetime_ms: Option<u64>) {
    create_for("framework/web", cluster, place, lifetime_ms).await;
}

async fn create_for(
    principal: &str,
    cluster: &TestCluster,
    place: usize,
    lifetime_ms: Option<u64>,
) {
    let hash: [u8; 32] = sha2::Sha256::digest(SECRET.secret).into();
    let create = v1::CreateToken {
        token_id: SECRET.id.to_string(),
        secret_hash: KeyHash(hash).to_string(),
        purpose: Some(v1::create_token::Purpose::Principal(principal.to_owned())),
        lifetime_ms,
        description: String::new(),
    };
    let create = v1::write_operation::Operation::CreateToken(create);
    write(cluster, ("operator/root", place), create)
        .await
        .unwrap();
}

async fn revoke(cluster: &TestCluster, place: usize) {
    let token_id = SECRET.id.to_string();
    let revoke = v1::write_operation::Operation::RevokeToken(v1::RevokeToken { token_id });
    write(cluster, ("operator/root", place), revoke)
        .await
        .unwrap();
}

/// Requests a path over a connection without an identity.
async fn get(
    cluster: &TestCluster,
    place: usize,
    path: &str,
    authorization: &str,
) -> Response<Body> {
    let request = Request::get(path).header("authorization", authorization);
    send(cluster, place, request.body(Body::empty()).unwrap()).await
}

async fn send(cluster: &TestCluster, place: usize, request: Request<Body>) -> Response<Body> {
    let (client, address) = cluster.http("", place);
    let expected = ExpectedPeer::MASTER;
    let asked = client.send(&address, &expected, request);
    tokio::time::timeout(TIMEOUT, asked).await.unwrap().unwrap()
}

/// Returns a call with the token.
fn with_token<T>(message: T) -> tonic::Request<T> {
    let mut request = tonic::Request::new(message);
    let value = format!("Bearer {SECRET}").parse().unwrap();
    request.metadata_mut().insert("authorization", value);
    request
}

/// A master that is cut off does not know whether the token was created elsewhere.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_unknown_token_is_refused_only_if_a_majority_confirms_that() {
    let (cluster, (leader, follower), _) = populated().await;
    let bearer = format!("Bearer {SECRET}");
    let unknown = get(&cluster, follower, "/v1/tasks", &bearer).await;
    assert_eq!(unknown.status(), StatusCode::UNAUTHORIZED);
    // Without the other two, the follower reaches no majority.
    let third = (0..3).find(|place| ![leader, follower].contains(place));
    for master in [third.unwrap(), leader] {
        let key_hash = key_of(&format!("master/m{master}")).to_string();
        let revoke = v1::write_operation::Operation::RevokeKey(v1::RevokeKey { key_hash });
        write(&cluster, ("operator/root", leader), revoke)
            .await
            .unwrap();
    }
    let deadline = Instant::now() + TIMEOUT;
    while get(&cluster, follower, "/v1/tasks", &bearer).await.status()
        != StatusCode::SERVICE_UNAVAILABLE
    {
        assert!(Instant::now() < deadline, "it is still refused");
    }
    // The caller learns that the call had no effect, and may try another master (simulation seed
    // 18: an operator's client called only a removed master).
    let request = v1::RemoveMasterRequest {
        node_id: "master-99".to_owned(),
    };
    let mut client = OperatorClient::new(cluster.channel("", follower));
    let why = client.remove_master(with_token(request)).await.unwrap_err();
    assert_eq!(why.code(), Code::Unavailable, "{why}");
    let reason = tonic_types::StatusExt::get_details_error_info(&why).unwrap();
    assert_eq!(reason.reason, "no-leader");
    cluster.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_token_proves_its_principal_at_every_master_as_soon_as_it_is_created() {
    let (cluster, (leader, follower), population) = populated().await;
    create(&cluster, leader, None).await;
    let bearer = format!("Bearer {SECRET}");
    for place in [follower, leader] {
        let tasks = get(&cluster, place, "/v1/tasks/framework-1/a", &bearer).await;
        assert_eq!(tasks.status(), StatusCode::OK);
        let denied = get(&cluster, place, "/v1/cluster", &bearer).await;
        assert_eq!(denied.status(), StatusCode::FORBIDDEN);
        // The principal of a call that is forwarded is that of the token.
        let request = v1::KillRequest {
            call: Some(call_id("framework-1", 999)),
            task_id: "a".to_owned(),
            grace_ms: None,
        };
        let mut client = SchedulerClient::new(cluster.channel("", place));
        let killed = client.kill(with_token(request.clone())).await.unwrap_err();
        assert_eq!(killed.code(), Code::FailedPrecondition, "{killed}");
        let killed = client.kill(request).await.unwrap_err();
        assert_eq!(End::of_result::<()>(Err(killed)), End::Unproven);
        let mut wrong = SECRET;
        wrong.secret[0] ^= 1;
        for other in [
            format!("Bearer {wrong}"),
            "Bearer argosy_x".to_owned(),
            "Basic abc".to_owned(),
            String::new(),
        ] {
            let refused = get(&cluster, place, "/v1/tasks", &other).await;
            assert_eq!(refused.status(), StatusCode::UNAUTHORIZED, "{other}");
        }
    }
    drop(population);
    cluster.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_caller_that_revokes_its_own_token_gets_the_whole_answer() {
    let (cluster, (leader, _), _) = populated().await;
    create_for("operator/root", &cluster, leader, None).await;
    let request = Request::delete(format!("/v1/tokens/{}", SECRET.id));
    let request = request.header("authorization", format!("Bearer {SECRET}"));
    let response = send(&cluster, leader, request.body(Body::empty()).unwrap()).await;
    assert_eq!(response.status(), StatusCode::OK);
    let body = axum::body::to_bytes(response.into_body(), 1 << 20).await;
    assert!(!body.unwrap().is_empty());
    cluster.end().await;
}

/// Waits until a stream ends with a status, and returns how it ended.
async fn end_of<T>(stream: &mut Streaming<T>) -> End {
    loop {
        match tokio::time::timeout(TIMEOUT, stream.message())
            .await
            .unwrap()
        {
            Ok(message) => assert!(message.is_some(), "it ended without a reason"),
            Err(status) => return End::of_result::<()>(Err(status)),
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn streams_of_a_token_end_when_it_is_revoked() {
    let (cluster, (leader, follower), population) = populated().await;
    for place in [leader, follower] {
        create(&cluster, leader, None).await;
        let bearer = format!("Bearer {SECRET}");
        let events = get(&cluster, place, "/v1/events?kinds=task", &bearer).await;
        assert_eq!(events.status(), StatusCode::OK);
        let mut client = OperatorClient::new(cluster.channel("", place));
        let request = v1::WatchRequest {
            kinds: vec!["task".to_owned()],
            ..Default::default()
        };
        let watched = client.watch(with_token(request)).await.unwrap();
        let mut watched = watched.into_inner();
        watched.message().await.unwrap();
        let mut info = convert::framework_info(&framework_info("by token"));
        info.roles = vec!["eng".to_owned()];
        let request = v1::SubscribeRequest {
            protocol: protocol(),
            session: 300 + place as u64,
            info: Some(info),
            ..Default::default()
        };
        let mut client = SchedulerClient::new(cluster.channel("", place));
        let mut stream = client
            .subscribe(with_token(request))
            .await
            .unwrap()
            .into_inner();
        let first = next_event(&mut stream).await;
        assert!(
            matches!(first, v1::event::Event::Subscribed(_)),
            "{first:?}"
        );
        revoke(&cluster, leader).await;
        // The connection is cut off: it has no other end.
        let all = axum::body::to_bytes(events.into_body(), usize::MAX);
        tokio::time::timeout(TIMEOUT, all)
            .await
            .unwrap()
            .unwrap_err();
        assert_eq!(end_of(&mut watched).await, End::Unproven);
        assert_eq!(end_of(&mut stream).await, End::Unproven);
        let refused = get(&cluster, place, "/v1/tasks", &bearer).await;
        assert_eq!(refused.status(), StatusCode::UNAUTHORIZED);
    }
    drop(population);
    cluster.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn streams_of_a_key_end_when_it_is_revoked() {
    let (cluster, (leader, follower), population) = populated().await;
    // The first one takes over the link of `agent-1`.
    for (agent, place) in [("agent/host-1", leader), ("agent/host-3", follower)] {
        let (_messages, mut answers) = link(&cluster, agent, place).await;
        let other = cluster.channel("operator/vera", place);
        let key_hash = key_of(agent).to_string();
        let revoke = v1::write_operation::Operation::RevokeKey(v1::RevokeKey { key_hash });
        write(&cluster, ("operator/root", leader), revoke)
            .await
            .unwrap();
        assert_eq!(end_of(&mut answers).await, End::Unproven);
        // The leader has no link of the agent any more, although the agent has not ended it.
        let mut client = OperatorClient::new(other);
        loop {
            match client.list_agents(v1::ListRequest::default()).await {
                Ok(agents) if agents.get_ref().agents.iter().all(|one| !one.connected) => break,
                Ok(_) => {}
                Err(why) => assert_eq!(why.code(), Code::Unavailable, "{why}"),
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        // A follower may apply the revocation later than the leader, which ended the stream.
        let mut client = OperatorClient::new(cluster.channel(agent, place));
        let refused = async {
            while End::of_result(client.get_cluster(v1::GetClusterRequest::default()).await)
                != End::Unproven
            {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        let refused = tokio::time::timeout(TIMEOUT, refused).await;
        refused.expect("the follower refuses the key");
    }
    drop(population);
    cluster.end().await;
}
