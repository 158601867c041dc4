//! Rows that call a master without the SDK: acceptances and tasks that are rejected.

use std::time::Duration;

use argosy_proto::v1;
use argosy_proto::v1::scheduler_client::SchedulerClient;
use futures::FutureExt as _;
use futures::future::LocalBoxFuture;
use tonic::transport::{Channel, Endpoint};

use super::environment::BadInputCluster;
use super::row::{Row, RowAction, RowEnd, RowOutcome, Unchanged};
use super::table::ROWS;
use crate::cluster::wait_until;
use crate::test_framework::{ReceivedEvents, TestFramework, task};

const LONG: Duration = Duration::from_secs(60);

/// Offers for invalid calls.
pub(crate) struct OfferSet {
    pub(crate) own: v1::Offer,
    pub(crate) other_agent: v1::Offer,
    pub(crate) foreign: v1::Offer,
    pub(crate) used: v1::Offer,
}

/// Returns the task of an invalid call, changed.
pub(super) fn changed(change: impl FnOnce(&mut v1::TaskSpec)) -> Vec<v1::TaskSpec> {
    let mut spec = task("bad", "true");
    change(&mut spec);
    vec![spec]
}

pub(super) fn cpus(milli: i64) -> Vec<v1::Resource> {
    vec![v1::Resource {
        name: "cpus".into(),
        value: Some(v1::resource::Value::ScalarMilli(milli)),
        ..Default::default()
    }]
}

/// Runs all rows that are calls, in the table's order: first those that are rejected as a whole.
pub(super) async fn all(fixture: &BadInputCluster) -> Vec<(&'static Row, RowOutcome)> {
    let masters = fixture.cluster.masters_list();
    let sender = TestFramework::start(masters.clone(), "sender").await;
    let (stock, thief) = OfferSet::of(fixture, &sender).await;
    let mut outcomes = Vec::new();
    for (number, row) in (1_000..).zip(ROWS) {
        if let RowAction::Accept(offers, tasks) = row.action {
            let request = request(&sender, number, offers(&stock), tasks());
            let (ended, message) = accept(fixture, request).await;
            outcomes.push(outcome(fixture, row, ended, message));
        }
    }
    // The resources of these frameworks are offered to others again.
    drop((sender.driver.teardown(), thief.driver.teardown()));
    let launcher = TestFramework::start(masters.clone(), "launcher").await;
    launcher.hold_offers(true);
    for (number, row) in (1_000..).zip(ROWS) {
        if let RowAction::Launch(tasks) = row.action {
            let offer = used_offer(&launcher).await;
            let request = request(&launcher, number, vec![offer], tasks());
            let (ended, message) = accept(fixture, request).await;
            outcomes.push(outcome(fixture, row, ended, message));
        }
    }
    drop(launcher.driver.teardown());
    outcomes.extend(tasks(fixture).await);
    outcomes
}

/// Runs all rows that are tasks: they are launched, and end.
async fn tasks(fixture: &BadInputCluster) -> Vec<(&'static Row, RowOutcome)> {
    let runner = TestFramework::start(fixture.cluster.masters_list(), "runner").await;
    let mut outcomes = Vec::new();
    for row in ROWS {
        let RowAction::Task(spec) = row.action else {
            continue;
        };
        let spec = spec();
        runner.launch([spec.clone()]);
        let end = runner
            .wait_for_event(row.name, LONG, |events| {
                let mut updates = events.updates.iter();
                let ended = |one: &&v1::TaskStatus| {
                    one.task_id == spec.task_id
                        && argosy_client::scheduler::is_terminal(one.state())
                };
                updates.find(ended).cloned()
            })
            .await;
        let ended = RowEnd::State(end.state());
        outcomes.push(outcome(fixture, row, ended, end.message));
    }
    drop(runner.driver.teardown());
    outcomes
}

fn outcome(
    fixture: &BadInputCluster,
    row: &'static Row,
    ended: RowEnd,
    output: String,
) -> (&'static Row, RowOutcome) {
    let place = fixture.addresses();
    (
        row,
        RowOutcome {
            end: ended,
            message: output,
            addresses: place,
        },
    )
}

impl OfferSet {
    /// Gets two offers and a used one of the sender, and one of another framework.
    async fn of(fixture: &BadInputCluster, sender: &TestFramework) -> (Self, TestFramework) {
        sender.hold_offers(true);
        let (own, other_agent) = (used_offer(sender).await, used_offer(sender).await);
        let used = used_offer(sender).await;
        // The resources that it returns are for the other framework.
        let answer = sender.driver.suppress(Vec::new()).answer().await;
        assert!(answer.is_done(), "{answer:?}");
        let spent = request(sender, 999, vec![used.clone()], vec![task("spent", "true")]);
        let (ended, message) = accept(fixture, spent).await;
        assert_eq!(ended, RowEnd::Code(tonic::Code::Ok), "{message}");
        let thief = TestFramework::start(fixture.cluster.masters_list(), "thief").await;
        thief.hold_offers(true);
        let stock = Self {
            own,
            other_agent,
            foreign: used_offer(&thief).await,
            used,
        };
        (stock, thief)
    }
}

/// Takes an open offer from the framework.
async fn used_offer(framework: &TestFramework) -> v1::Offer {
    wait_until("an open offer", LONG, async || {
        let mut events = framework.events.lock().unwrap();
        events.offers.pop_first().map(|(_, offer)| offer)
    })
    .await
}

fn request(
    framework: &TestFramework,
    number: u64,
    offers: Vec<v1::Offer>,
    tasks: Vec<v1::TaskSpec>,
) -> v1::AcceptRequest {
    v1::AcceptRequest {
        call: Some(v1::CallId {
            framework_id: framework.id(),
            session: framework.config.session,
            number,
            lowest_unanswered: 0,
        }),
        offers: offers
            .into_iter()
            .map(|offer| v1::HeldOffer { offer: Some(offer) })
            .collect(),
        operations: vec![v1::Operation {
            operation: Some(v1::operation::Operation::Launch(v1::Launch { tasks })),
        }],
        filter_ms: Some(0),
        ..Default::default()
    }
}

pub(super) const LIMIT_OF_NOTHING: Row = Row {
    name: "a limit of no processes",
    action: RowAction::Steps(limits_of_nothing),
    end: RowEnd::Code(tonic::Code::InvalidArgument),
    message: [
        "limits.pids",
        "a task is at least one process",
        "give at least 1",
    ],
    unchanged: Unchanged::Cluster,
};

/// Sets a limit below the number of processes of a running task.
fn limits_of_nothing(fixture: &BadInputCluster) -> LocalBoxFuture<'_, RowOutcome> {
    async move {
        let masters = fixture.cluster.masters_list();
        let framework = TestFramework::start(masters, "limiter").await;
        framework.launch([task("limited", "sleep 600")]);
        let runs = |events: &ReceivedEvents| {
            let states = events.states("limited");
            states.contains(&v1::TaskState::Running).then_some(())
        };
        framework.wait_for_event("it runs", LONG, runs).await;
        let request = v1::UpdateLimitsRequest {
            call: Some(v1::CallId {
                framework_id: framework.id(),
                session: framework.config.session,
                number: 1_000,
                lowest_unanswered: 0,
            }),
            task_id: "limited".into(),
            limits: Some(v1::Limits {
                pids: Some(0),
                ..v1::Limits::default()
            }),
        };
        let (ended, output) = call(fixture, async |mut stub| {
            let reply = stub.update_limits(request.clone()).await;
            reply.map(|_| (RowEnd::Code(tonic::Code::Ok), String::new()))
        })
        .await;
        drop(framework.driver.teardown());
        let place = fixture.addresses();
        RowOutcome {
            end: ended,
            message: output,
            addresses: place,
        }
    }
    .boxed_local()
}

async fn accept(fixture: &BadInputCluster, request: v1::AcceptRequest) -> (RowEnd, String) {
    call(fixture, async |mut stub| {
        let mut reply = stub.accept(request.clone()).await?.into_inner();
        Ok(match reply.refused.pop() {
            Some(refused) => (RowEnd::Refused, refused.message),
            None => (RowEnd::Code(tonic::Code::Ok), String::new()),
        })
    })
    .await
}

/// Calls a master until it answers: on a busy machine, an election is possible at any moment.
async fn call(
    fixture: &BadInputCluster,
    call: impl AsyncFn(SchedulerClient<Channel>) -> Result<(RowEnd, String), tonic::Status>,
) -> (RowEnd, String) {
    wait_until("the call is answered", LONG, async || {
        let leader = fixture.cluster.leader().await;
        let endpoint = format!("http://{}", fixture.cluster.masters[leader].api());
        let channel = Endpoint::from_shared(endpoint).ok()?.connect().await.ok()?;
        match call(SchedulerClient::new(channel)).await {
            Ok(ended) => Some(ended),
            Err(status) if status.code() == tonic::Code::Unavailable => None,
            Err(status) => Some((RowEnd::Code(status.code()), status.message().to_owned())),
        }
    })
    .await
}
