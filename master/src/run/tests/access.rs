//! Three masters that enforce access, and callers of all kinds: who may make which call, and what
//! they see.

mod agents;
mod audit;
mod calls;
mod facts;
mod joining;
mod lag;
mod paths;
mod proof;
mod tickets;
mod tokens;
mod views;

use std::sync::atomic::{AtomicU64, Ordering};

use argosy_proto::v1::operator_client::OperatorClient;
use argosy_proto::v1::scheduler_client::SchedulerClient;
use argosy_proto::{convert, v1};
use argosy_state::testing::{framework_info, spec};
use tokio::time::Instant;
use tonic::{Code, Status, Streaming};

use super::actors::{AgentEnds, TestCluster, link, link_agent, protocol};
use super::*;

/// Every kind of caller, in the order of the columns of the tables.
const CALLERS: [&str; 8] = [
    "",
    "operator/vera",
    "operator/olga",
    "operator/root",
    "framework/web",
    "framework/other",
    "agent/host-1",
    "master/m7",
];

const POLICY: &str = "group admin = operator/root
group operator = operator/olga
group viewer = operator/vera
group framework:eng = framework/web
group framework:ops = framework/other
allow agent/* connect-agent *";

const SESSION: u64 = 71;

/// How a call ended for its caller.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    /// Whatever the answer, it was not about rights.
    Served,
    /// No leader was there to decide: the call has to be repeated.
    Undecided,
    /// The object looks like one that does not exist.
    Hidden,
    Denied,
    /// The caller must prove an identity.
    Unproven,
}

impl End {
    /// Returns the end that a letter of a table stands for.
    fn of(letter: char) -> Self {
        match letter {
            'S' => Self::Served,
            'H' => Self::Hidden,
            'D' => Self::Denied,
            'U' => Self::Unproven,
            other => panic!("{other:?} is none of S, H, D and U"),
        }
    }

    fn of_result<T>(result: Result<T, Status>) -> Self {
        let Err(status) = result else {
            return Self::Served;
        };
        let reason = tonic_types::StatusExt::get_details_error_info(&status);
        let reason = reason.map(|info| info.reason).unwrap_or_default();
        match status.code() {
            Code::Unauthenticated => {
                assert_eq!(reason, "unauthenticated", "{status}");
                Self::Unproven
            }
            Code::PermissionDenied => {
                assert_eq!(reason, "access-denied", "{status}");
                Self::Denied
            }
            Code::Unavailable => Self::Undecided,
            _ => Self::Served,
        }
    }
}

/// Makes a call until its end is decided: a busy host may change leaders. A call that may be made
/// is also served if no agent answers it.
async fn decided(expected: End, mut call: impl AsyncFnMut() -> End) -> End {
    let deadline = Instant::now() + TIMEOUT;
    loop {
        match tokio::time::timeout(TIMEOUT, call()).await.unwrap() {
            End::Undecided if expected == End::Served => return End::Served,
            End::Undecided => {}
            end => return end,
        }
        assert!(Instant::now() < deadline, "no leader decides");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// Streams that keep the cluster as it is.
struct Population {
    _agent: AgentEnds,
    _frameworks: Vec<Streaming<v1::Event>>,
}

/// Replaces the rules and groups, as `operator/root`; returns the log index after that.
async fn set_policy(cluster: &TestCluster, place: usize, policy: &str) -> u64 {
    let lines = policy.lines().map(str::to_owned);
    let (groups, rules) = lines.partition(|line| line.starts_with("group "));
    let set = v1::SetPolicy {
        rules,
        groups,
        replaces: None,
    };
    let operation = v1::write_operation::Operation::SetPolicy(set);
    write(cluster, ("operator/root", place), operation)
        .await
        .unwrap()
}

/// Performs one operation; returns the log index after it. It is repeated, with one id, if the
/// outcome is unknown because leaders have changed.
async fn write(
    cluster: &TestCluster,
    (principal, place): (&str, usize),
    operation: v1::write_operation::Operation,
) -> Result<u64, Status> {
    static REQUESTS: AtomicU64 = AtomicU64::new(0);
    let request_id = REQUESTS.fetch_add(1, Ordering::Relaxed).to_string();
    let batch = v1::WriteBatch {
        operations: vec![v1::WriteOperation {
            operation: Some(operation),
        }],
        request_id,
        ..Default::default()
    };
    let mut client = OperatorClient::new(cluster.channel(principal, place));
    let deadline = Instant::now() + TIMEOUT;
    let reply = loop {
        let written = tokio::time::timeout(TIMEOUT, client.write_one(batch.clone())).await;
        match written.unwrap() {
            Err(why) if why.code() == Code::Unavailable && Instant::now() < deadline => {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
            written => break written?.into_inner(),
        }
    };
    let outcome = &reply.outcomes[0];
    assert!(outcome.done, "{}", outcome.message);
    Ok(reply.revision.unwrap().index)
}

async fn subscribe(
    cluster: &TestCluster,
    (principal, place): (&str, usize),
    role: &str,
    session: u64,
) -> Streaming<v1::Event> {
    let mut info = convert::framework_info(&framework_info(principal));
    info.roles = vec![role.to_owned()];
    let request = v1::SubscribeRequest {
        protocol: protocol(),
        session,
        info: Some(info),
        ..Default::default()
    };
    let mut client = SchedulerClient::new(cluster.channel(principal, place));
    client.subscribe(request).await.unwrap().into_inner()
}

async fn next_event(events: &mut Streaming<v1::Event>) -> v1::event::Event {
    let next = tokio::time::timeout(TIMEOUT, events.message()).await;
    next.unwrap().unwrap().unwrap().event.unwrap()
}

/// Starts masters with the policy of these tests, `agent-1`, and `framework-1` of `framework/web`
/// with the task `a` on it. `framework-2` is of `framework/other`.
async fn populated() -> (TestCluster, (usize, usize), Population) {
    let cluster = TestCluster::start_enforcing();
    let (leader, follower) = cluster.places().await;
    set_policy(&cluster, leader, POLICY).await;
    let mut web = subscribe(&cluster, ("framework/web", leader), "eng", SESSION).await;
    let agent = link(&cluster, "agent/host-1", leader).await;
    let offers = loop {
        if let v1::event::Event::Offers(offers) = next_event(&mut web).await {
            break offers.offers;
        }
    };
    let held = offers
        .into_iter()
        .map(|offer| v1::HeldOffer { offer: Some(offer) });
    let launch = v1::Launch {
        tasks: vec![convert::spec(&spec("a", "cpus:1"))],
    };
    let request = v1::AcceptRequest {
        call: Some(call_id("framework-1", SESSION)),
        offers: held.collect(),
        operations: vec![v1::Operation {
            operation: Some(v1::operation::Operation::Launch(launch)),
        }],
        ..Default::default()
    };
    let mut client = SchedulerClient::new(cluster.channel("framework/web", leader));
    let accepted = client.accept(request).await.unwrap().into_inner();
    assert_eq!(accepted.refused, []);
    let other = subscribe(&cluster, ("framework/other", leader), "ops", SESSION).await;
    let population = Population {
        _agent: agent,
        _frameworks: vec![web, other],
    };
    (cluster, (leader, follower), population)
}

/// Returns the id of a call that was not made before; a session that is not the present one has no
/// effect.
fn call_id(framework: &str, session: u64) -> v1::CallId {
    v1::CallId {
        framework_id: framework.to_owned(),
        session,
        number: 1,
        lowest_unanswered: 1,
    }
}
