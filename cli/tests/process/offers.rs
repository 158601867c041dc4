//! Offers outlive the leader that made them; invalid tokens launch nothing.

use std::time::Duration;

use argosy_client::scheduler::CallOutcome;
use argosy_proto::v1;
use argosy_proto::v1::scheduler_client::SchedulerClient;
use tonic::transport::Endpoint;

use crate::cluster::{Cluster, wait_until};
use crate::test_framework::{TestFramework, task};

const LONG: Duration = Duration::from_secs(60);

/// Sends an accept without the SDK.
async fn raw_accept(
    cluster: &Cluster,
    framework: &TestFramework,
    number: u64,
    offer: v1::Offer,
    id: &str,
) -> Result<v1::AcceptReply, tonic::Status> {
    let call = v1::CallId {
        framework_id: framework.id(),
        session: framework.config.session,
        number,
        lowest_unanswered: 0,
    };
    let launch = v1::Launch {
        tasks: vec![task(id, "true")],
    };
    let request = v1::AcceptRequest {
        call: Some(call),
        offers: vec![v1::HeldOffer { offer: Some(offer) }],
        operations: vec![v1::Operation {
            operation: Some(v1::operation::Operation::Launch(launch)),
        }],
        ..Default::default()
    };
    wait_until("a leader answers", LONG, async || {
        let leader = cluster.leader().await;
        let url = format!("http://{}", cluster.masters[leader].api());
        let channel = Endpoint::from_shared(url).unwrap().connect().await.ok()?;
        match SchedulerClient::new(channel).accept(request.clone()).await {
            // It no longer leads.
            Err(status) if status.code() == tonic::Code::Unavailable => None,
            answer => Some(answer.map(tonic::Response::into_inner)),
        }
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_held_offer_is_accepted_after_the_failover_under_its_old_id() {
    let mut cluster = Cluster::start(1).await;
    let framework = TestFramework::start(cluster.masters_list(), "holder").await;
    framework.hold_offers(true);
    let offer = framework
        .wait_for_event("an offer", LONG, |events| {
            events.offers.values().next().cloned()
        })
        .await;
    let before = framework.events.lock().unwrap().subscriptions.len();
    cluster.fail_over().await;
    framework
        .wait_for_event("it is subscribed again", LONG, |events| {
            (events.subscriptions.len() > before).then_some(())
        })
        .await;
    assert!(
        framework
            .events
            .lock()
            .unwrap()
            .offers
            .contains_key(&offer.offer_id),
        "the offer was not kept"
    );

    no_other_framework_can_use(&cluster, &framework, &offer).await;
    let answer = framework
        .driver
        .accept(&offer, vec![task("late", "exit 0")])
        .answer()
        .await;
    assert!(
        matches!(&answer.outcome, CallOutcome::Done { refused, .. } if refused.is_empty()),
        "{answer:?}"
    );
    framework
        .wait_for_event("it finished", LONG, |events| {
            events
                .states("late")
                .contains(&v1::TaskState::Finished)
                .then_some(())
        })
        .await;

    let refused = raw_accept(&cluster, &framework, 900_002, offer.clone(), "again")
        .await
        .unwrap_err();
    assert!(refused.message().contains("no longer open"), "{refused}");
    cluster.fail_over().await;
    let refused = raw_accept(&cluster, &framework, 900_003, offer, "again")
        .await
        .unwrap_err();
    assert!(refused.message().contains("no longer open"), "{refused}");
}

/// Checks that a flipped bit and another framework are rejected.
async fn no_other_framework_can_use(
    cluster: &Cluster,
    framework: &TestFramework,
    offer: &v1::Offer,
) {
    let mut forged = offer.clone();
    let mut token = forged.token.to_vec();
    *token.last_mut().unwrap() ^= 1;
    forged.token = token.into();
    let refused = raw_accept(cluster, framework, 900_001, forged, "forged")
        .await
        .unwrap_err();
    assert!(refused.message().contains("token"), "{refused}");

    let other = TestFramework::start(cluster.masters_list(), "thief").await;
    let refused = raw_accept(cluster, &other, 900_001, offer.clone(), "stolen")
        .await
        .unwrap_err();
    assert!(refused.message().contains("another framework"), "{refused}");
}
