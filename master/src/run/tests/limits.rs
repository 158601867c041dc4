//! The limits of principals on the real loop: they follow a principal to any scheduler and leader.

use argosy_proto::server::hosts::AllowedHosts;
use argosy_proto::v1;
use argosy_proto::v1::operator_client::OperatorClient;
use argosy_proto::v1::scheduler_client::SchedulerClient;
use argosy_state::access::{AccessFacts, RateLimit, Subject};
use argosy_state::actor::Actor;
use axum::body::Body;
use axum::extract::Request;
use axum::http::{StatusCode, header};
use tokio::time::Instant;
use tonic::Code;
use tonic::codegen::Service as _;
use tonic::transport::Channel;
use tonic_types::StatusExt as _;

use super::actors::{ConnectionProof, TestCluster};
use super::*;
use crate::principal_limits::{Account, RATE_LIMITED, within};

/// Calls a second of the limited principal. Its burst is so large that no bucket is ever full here.
const PER_SECOND: u32 = 20;
const BURST: u32 = 100_000;
/// Calls of one attempt: many more than the rate admits in that time.
const CALLS: usize = 300;

/// A scheduler on its own connection.
fn scheduler(cluster: &TestCluster, principal: &str, place: usize) -> Calls {
    Calls(SchedulerClient::new(cluster.channel(principal, place)))
}

struct Calls(SchedulerClient<Channel>);

impl Calls {
    /// Calls once. Returns whether the call was admitted.
    async fn call(&mut self) -> bool {
        let heartbeat = v1::HeartbeatRequest {
            framework_id: "framework-1".to_owned(),
            session: 7,
        };
        let answered = tokio::time::timeout(TIMEOUT, self.0.heartbeat(heartbeat)).await;
        match answered.unwrap() {
            Ok(_) => true,
            Err(status) if status.code() == Code::ResourceExhausted => {
                let details = status.get_details_error_info().unwrap();
                assert_eq!(details.reason, RATE_LIMITED);
                let pause = status.get_details_retry_info().unwrap().retry_delay;
                assert!(pause.is_some_and(|pause| pause <= Duration::from_millis(50)));
                false
            }
            // The leader has just changed.
            Err(status) if status.code() == Code::Unavailable => false,
            Err(status) => panic!("{status}"),
        }
    }

    /// Calls many times. Returns the number of calls that were admitted.
    async fn admitted(&mut self) -> u64 {
        let mut admitted = 0;
        for _ in 0..CALLS {
            admitted += u64::from(self.call().await);
        }
        admitted
    }
}

/// The time from which at most the rate is admitted, because the bucket was empty then.
struct Drained(Instant);

impl Drained {
    /// Calls until a call is refused.
    async fn by(calls: &mut Calls) -> Self {
        let deadline = Instant::now() + TIMEOUT;
        loop {
            let began = Instant::now();
            if !calls.call().await {
                return Self(began);
            }
            assert!(began < deadline, "no call is refused");
        }
    }

    fn check(&self, admitted: u64, what: &str) {
        let most = 1.0 + self.0.elapsed().as_secs_f64() * f64::from(PER_SECOND);
        assert!(admitted as f64 <= most, "{what}: {admitted} of {most}");
    }
}

/// Sets the limit of a principal, as an operator does.
async fn limit(cluster: &TestCluster, principal: &str, leader: usize) {
    let limit = v1::SetRateLimit {
        subject: principal.to_owned(),
        limit: Some(v1::RateLimit {
            calls_per_second: PER_SECOND,
            burst: BURST,
        }),
    };
    let batch = v1::WriteBatch {
        operations: vec![v1::WriteOperation {
            operation: Some(v1::write_operation::Operation::SetRateLimit(limit)),
        }],
        ..Default::default()
    };
    let mut operator = OperatorClient::new(cluster.channel("operator/alice", leader));
    let written = operator.write_one(batch).await.unwrap().into_inner();
    assert!(written.outcomes[0].done, "{written:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_limit_follows_its_principal_to_another_scheduler_and_another_leader() {
    let cluster = TestCluster::start(ConnectionProof::Authenticated);
    let (leader, follower) = cluster.places().await;
    limit(&cluster, "framework/web", leader).await;
    let mut first = scheduler(&cluster, "framework/web", leader);
    let drained = Drained::by(&mut first).await;
    let mut second = scheduler(&cluster, "framework/web", leader);
    drained.check(second.admitted().await, "another scheduler");
    let drained = Drained::by(&mut first).await;
    let mut forwarded = scheduler(&cluster, "framework/web", follower);
    drained.check(forwarded.admitted().await, "by way of another master");
    // Another principal has its own account.
    let mut other = scheduler(&cluster, "framework/db", leader);
    assert_eq!(other.admitted().await, CALLS as u64);

    let drained = Drained::by(&mut first).await;
    let mut operator = OperatorClient::new(cluster.channel("operator/alice", leader));
    let request = v1::TransferLeaderRequest::default();
    operator.transfer_leader(request).await.unwrap();
    let deadline = Instant::now() + TIMEOUT;
    let next = loop {
        let (next, _) = cluster.places().await;
        if next != leader {
            break next;
        }
        assert!(Instant::now() < deadline, "the leader does not change");
    };
    let mut third = scheduler(&cluster, "framework/web", next);
    drained.check(third.admitted().await, "another leader");
    // It is not locked out.
    let deadline = Instant::now() + TIMEOUT;
    while !third.call().await {
        assert!(Instant::now() < deadline, "no call is admitted");
    }
    cluster.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn requests_beyond_a_limit_are_refused_in_their_protocol() {
    let alone = SingleMaster::start().await;
    alone.active_leader().await;
    let mut handle = alone.handle.clone();
    let limit = RateLimit {
        calls_per_second: 1,
        burst: 1,
    };
    handle.calls = OwnerCalls::new();
    let mut facts = AccessFacts::default();
    facts.limits.insert(Subject::Anonymous, limit);
    handle.calls.set_limits(&facts);
    let pages = Router::new()
        .route("/read", get(|| async { "read" }))
        .route("/healthz", get(|| async { "ok" }));
    let mut front = ApiRouter::new(pages, handle, AllowedHosts::default(), 1);
    let mut ask = async |path: &str| {
        let request = match path.starts_with("/argosy") {
            true => Request::post(path).header(header::CONTENT_TYPE, "application/grpc"),
            false => Request::get(path),
        };
        let request = request.header(header::HOST, "127.0.0.1:5050");
        front
            .call(request.body(Body::empty()).unwrap())
            .await
            .unwrap()
    };
    let deadline = Instant::now() + TIMEOUT;
    loop {
        let status = ask("/read").await.status();
        if status == StatusCode::TOO_MANY_REQUESTS {
            break;
        }
        assert_eq!(status, StatusCode::OK);
        assert!(Instant::now() < deadline, "nothing is refused");
    }
    let refused = ask("/read").await;
    assert_eq!(refused.status(), StatusCode::TOO_MANY_REQUESTS);
    assert_eq!(refused.headers()[header::RETRY_AFTER], "1");
    let refused = ask("/argosy.v1.Operator/GetCluster").await;
    assert_eq!(refused.headers()["grpc-status"], "8");
    assert!(refused.headers().contains_key("grpc-status-details-bin"));
    // Health is answered in any case.
    for _ in 0..10 {
        assert_eq!(ask("/healthz").await.status(), StatusCode::OK);
    }
    alone.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn calls_of_a_principal_that_floods_wait_for_no_other_and_the_leader_stays() {
    let alone = SingleMaster::start().await;
    let epoch = alone.active_leader().await.epoch;
    let account = |name: &str| Account::Principal(name.parse().unwrap());
    let flood = join_all((0..20_000).map(|_| {
        let asked = alone.handle.ask(heartbeat);
        within(account("framework/flood"), asked)
    }));
    let others = join_all((0..100).map(|number| {
        let asked = alone.handle.ask(heartbeat);
        within(account(&format!("framework/{number}")), asked)
    }));
    let (flood, others) = tokio::time::timeout(TIMEOUT, async { tokio::join!(flood, others) })
        .await
        .unwrap();
    for answer in others {
        assert_eq!(answer.unwrap(), LeaderReply::HeartbeatRecorded);
    }
    let refused = flood.into_iter().filter_map(Result::err);
    for status in refused {
        assert_eq!(status.code(), Code::ResourceExhausted, "{status}");
    }
    assert_eq!(alone.active_leader().await.epoch, epoch);
    alone.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn calls_that_name_more_roles_than_a_framework_has_are_refused_with_the_bound() {
    let cluster = TestCluster::start(ConnectionProof::Unauthenticated);
    let (leader, follower) = cluster.places().await;
    for place in [leader, follower] {
        let Calls(mut client) = scheduler(&cluster, "framework/web", place);
        for count in [64, 65] {
            let roles = vec!["*".to_owned(); count];
            let call = Some(v1::CallId {
                framework_id: "framework-1".to_owned(),
                session: 7,
                number: 1,
                lowest_unanswered: 1,
            });
            let suppress = v1::SuppressRequest {
                call: call.clone(),
                roles: roles.clone(),
            };
            let revive = v1::ReviveRequest { call, roles };
            for answer in [
                client.suppress(suppress).await.map(drop),
                client.revive(revive).await.map(drop),
            ] {
                let status = answer.unwrap_err();
                if count == 64 {
                    assert_eq!(status.code(), Code::NotFound, "{status}");
                    continue;
                }
                assert_eq!(status.code(), Code::InvalidArgument, "{status}");
                let details = status.get_details_bad_request().unwrap();
                let violation = &details.field_violations[0];
                assert_eq!(violation.field, "roles");
                assert_eq!(violation.description, "65 names; at most 64");
            }
        }
    }
    cluster.end().await;
}

fn heartbeat(request: crate::links::RequestId) -> Input {
    Input::FrameworkHeartbeat {
        request,
        actor: Actor::Unauthenticated,
        framework: FrameworkId(1),
        session: 7,
    }
}
