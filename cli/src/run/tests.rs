//! Runs against fake masters.

use argosy_client::test_masters::{CallFault, FakeCluster, ReceivedInput};

use super::*;

#[tokio::test]
async fn a_run_with_an_unanswered_launch_does_not_report_that_nothing_was_started() {
    let cluster = FakeCluster::start(1).await;
    let job = job::tests::job(&["--name", "web", "--detach", "--", "true"]).unwrap();
    let options = RunOptions {
        detach: true,
        quiet: true,
        timeout: Some(Duration::from_secs(2)),
        grace: Duration::ZERO,
        interactive: false,
        tty: false,
    };
    let chosen = ChosenCluster {
        masters: cluster.masters(),
        transport: ClientTransport::plaintext(),
    };
    let offer = async {
        let is_subscription =
            |received: &ReceivedInput| matches!(received, ReceivedInput::Subscribed { .. });
        cluster
            .wait("the subscription", |all| all.iter().any(is_subscription))
            .await;
        cluster.fault(CallFault::LostReply, 100_000);
        cluster.offer("agent-1", "cpus:4;mem:1000");
    };
    let (ended, ()) = tokio::join!(perform(job, options, "*", chosen), offer);
    let failure = ended.unwrap_err();
    assert_eq!(failure.code, FailureCode::Unavailable, "{failure}");
    assert!(failure.to_string().contains("framework-1"), "{failure}");
    assert_eq!(cluster.launches(), [("web".to_owned(), 1)]);
}
