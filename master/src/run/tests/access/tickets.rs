//! Tickets for tasks: only for the agent at which the task is.

use super::*;

/// Requests a ticket to exec in a task of `framework-1` at an agent.
async fn issue(cluster: &TestCluster, place: usize, agent: &str, task: &str) -> Result<(), Status> {
    let request = v1::IssueTicketsRequest {
        agent_id: agent.to_owned(),
        verb: v1::TicketVerb::Exec.into(),
        targets: vec![v1::TicketTarget {
            framework_id: "framework-1".to_owned(),
            task_id: task.to_owned(),
            path: String::new(),
        }],
        valid_ms: 0,
    };
    let mut client = OperatorClient::new(cluster.channel("operator/root", place));
    let issued = tokio::time::timeout(TIMEOUT, client.issue_tickets(request)).await;
    issued.unwrap().map(drop)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_ticket_is_issued_for_the_agent_of_the_task_and_for_no_other() {
    let (cluster, (leader, _), population) = populated().await;
    issue(&cluster, leader, "agent-1", "a").await.unwrap();
    // Its record may be gone while its sandbox is kept.
    issue(&cluster, leader, "agent-1", "forgotten")
        .await
        .unwrap();
    let elsewhere = issue(&cluster, leader, "agent-2", "a").await.unwrap_err();
    assert_eq!(elsewhere.code(), Code::NotFound);
    let text = elsewhere.message();
    assert!(text.contains("framework-1/a is not at agent-2"), "{text}");
    // Without the right, it does not show where the task is.
    set_policy(
        &cluster,
        leader,
        "group admin = operator/root\ndeny operator/root exec role:eng",
    )
    .await;
    for agent in ["agent-1", "agent-2"] {
        let denied = issue(&cluster, leader, agent, "a").await.unwrap_err();
        assert_eq!(denied.code(), Code::PermissionDenied, "{denied}");
    }
    drop(population);
    cluster.end().await;
}
