//! Runs against fake masters.

use argosy_fakes::{CallFault, FakeCluster, ReceivedInput};
use argosy_proto::v1;

use super::*;

/// Runs a job `web` on a cluster of one master, with the timeout of the whole run.
async fn run(cluster: &FakeCluster, timeout: Duration, detach: bool) -> VerbResult {
    let job = job::tests::job(&["--name", "web", "--", "true"]).unwrap();
    let options = RunOptions {
        detach,
        quiet: true,
        timeout: Some(timeout),
        grace: Duration::ZERO,
        interactive: false,
        tty: false,
    };
    let chosen = ChosenCluster {
        masters: Masters::new(cluster.addresses()).unwrap(),
        transport: ClientTransport::plaintext(),
    };
    perform(job, options, "*", chosen).await
}

fn is_call(received: &ReceivedInput) -> bool {
    matches!(received, ReceivedInput::Called { .. })
}

/// Offers resources to the run, whose calls then fail.
async fn offer_once(cluster: &FakeCluster, fault: CallFault) {
    let is_subscription =
        |received: &ReceivedInput| matches!(received, ReceivedInput::Subscribed { .. });
    cluster
        .wait("the subscription", |all| all.iter().any(is_subscription))
        .await;
    cluster.fault(fault, 100_000);
    cluster.offer("agent-1", "cpus:4;mem:1000");
}

#[tokio::test]
async fn a_run_with_an_unanswered_launch_does_not_report_that_nothing_was_started() {
    let cluster = FakeCluster::start(1).await;
    let run = run(&cluster, Duration::from_secs(2), true);
    let (ended, ()) = tokio::join!(run, offer_once(&cluster, CallFault::LostReply));
    let failure = ended.unwrap_err();
    assert_eq!(failure.code, FailureCode::Unavailable, "{failure}");
    assert!(failure.to_string().contains("framework-1"), "{failure}");
    assert_eq!(cluster.launches(), [("web".to_owned(), 1)]);
}

#[tokio::test]
async fn a_run_whose_launch_was_lost_does_not_report_that_it_keeps_running() {
    let cluster = FakeCluster::start(1).await;
    let run = run(&cluster, Duration::from_secs(60), true);
    let take_over = async {
        offer_once(&cluster, CallFault::LostReply).await;
        cluster
            .wait("the launch", |all| all.iter().any(is_call))
            .await;
        cluster.supersede();
    };
    let (ended, ()) = tokio::join!(run, take_over);
    let failure = ended.unwrap_err();
    assert_eq!(failure.code, FailureCode::Unavailable, "{failure}");
    let text = failure.to_string();
    assert!(text.contains("web may have been started"), "{text}");
    assert!(text.contains("another scheduler"), "{text}");
}

/// Its first attempt has no answer and no effect, and its repeats are denied for a while.
#[tokio::test]
async fn a_launch_of_unknown_outcome_that_did_not_happen_is_repeated() {
    let cluster = FakeCluster::start(1).await;
    cluster.script(&[v1::TaskState::Finished]);
    let run = run(&cluster, Duration::from_secs(60), false);
    let recovery = async {
        let is_subscription =
            |received: &ReceivedInput| matches!(received, ReceivedInput::Subscribed { .. });
        cluster
            .wait("the subscription", |all| all.iter().any(is_subscription))
            .await;
        cluster.fault(CallFault::Unavailable, 1);
        cluster.fault(CallFault::Denied, 2);
        cluster.offer("agent-1", "cpus:4;mem:1000");
        let is_revive = |received: &ReceivedInput| matches!(received, ReceivedInput::Called { kind, .. } if *kind == "revive");
        cluster
            .wait("the revive", |all| all.iter().any(is_revive))
            .await;
        cluster.offer("agent-2", "cpus:4;mem:1000");
    };
    let (ended, ()) = tokio::join!(run, recovery);
    assert!(ended.is_ok(), "{ended:?}");
    assert_eq!(cluster.launches(), [("web".to_owned(), 1)]);
}

#[tokio::test]
async fn a_launch_that_is_answered_after_the_time_limit_is_not_reported_as_never_placed() {
    let cluster = FakeCluster::start(1).await;
    let limit = Duration::from_secs(1);
    let run = run(&cluster, limit, false);
    let recovery = async {
        offer_once(&cluster, CallFault::LostReply).await;
        cluster
            .wait("the launch", |all| all.iter().any(is_call))
            .await;
        // The run removes its framework from its limit on, and waits five seconds for that.
        tokio::time::sleep(limit + Duration::from_secs(2)).await;
        cluster.end_faults();
    };
    let (ended, ()) = tokio::join!(run, recovery);
    let failure = ended.unwrap_err();
    assert_eq!(failure.code, FailureCode::Unavailable, "{failure}");
    assert!(failure.to_string().contains("may have run"), "{failure}");
    assert_eq!(cluster.launches(), [("web".to_owned(), 1)]);
}
