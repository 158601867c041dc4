//! Tickets on a real cluster: a task fetches the output of another task over TLS.

use argosy_client::{Connector, Masters, OperatorClient};
use argosy_proto::v1;

use crate::cluster::DevCluster;

/// Returns the output of a run, whose task fetches `uri` as the file `part`.
fn fetched(cluster: &DevCluster, uri: &str) -> (i32, String, String) {
    let file = format!("part={uri}");
    cluster.run(&[
        "run",
        "--timeout",
        "60s",
        "--uri",
        &file,
        "--",
        "cat",
        "part",
    ])
}

#[test]
fn a_task_fetches_the_output_of_another_by_a_ticket() {
    // Both agents are on this host, from which tasks may not fetch otherwise.
    let cluster = DevCluster::start(81, "1x2", &["--fetch-allow", "127.0.0.0/8"]);
    let script = "echo counted > part; echo other > rest";
    let (code, _, stderr) = cluster.run(&["run", "--name", "map", "--", "sh", "-c", script]);
    assert_eq!(code, 0, "{stderr}");
    let masters: Masters = cluster.record["masters"].as_str().unwrap().parse().unwrap();
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let client = {
        let _entered = runtime.enter();
        OperatorClient::new(Connector::new(masters, cluster.connector()))
    };
    let listed = client.list_tasks(v1::ListRequest {
        include_ended: true,
        ..Default::default()
    });
    let task = runtime.block_on(listed).unwrap().tasks.remove(0);
    let issue = |verb: v1::TicketVerb, path: &str| {
        let (framework_id, task_id) = (task.framework_id.clone(), task.task_id.clone());
        let issued = client.issue_tickets(v1::IssueTicketsRequest {
            agent_id: task.agent_id.clone(),
            verb: verb.into(),
            targets: vec![v1::TicketTarget {
                framework_id,
                task_id,
                path: path.to_owned(),
            }],
            valid_ms: 600_000,
        });
        let mut issued = runtime.block_on(issued).unwrap();
        (issued.tickets.remove(0), issued.agent_address)
    };
    let (ticket, address) = issue(v1::TicketVerb::ReadFiles, "part");
    let file = format!("path=tasks/{}/{}", task.framework_id, task.task_id);
    let download = format!("{address}/v1/files/download?{file}");

    let (code, stdout, stderr) = fetched(
        &cluster,
        &format!("https://{download}/part&ticket={ticket}"),
    );
    assert_eq!((code, stdout.as_str()), (0, "counted\n"), "{stderr}");
    let (exec, _) = issue(v1::TicketVerb::Exec, "");
    for (uri, expected) in [
        // Another path, another verb, a changed ticket, and none.
        (format!("https://{download}/rest&ticket={ticket}"), "403"),
        (format!("https://{download}/part&ticket={exec}"), "403"),
        (format!("https://{download}/part&ticket=x{ticket}"), "403"),
        (format!("https://{download}/part"), "certificate"),
        // A master is no agent.
        (
            format!(
                "https://{}/v1/files/download?{file}/part&ticket={ticket}",
                cluster.record["masters"].as_str().unwrap()
            ),
            "not any agent",
        ),
    ] {
        let (code, stdout, stderr) = fetched(&cluster, &uri);
        assert_ne!(code, 0, "{uri}: {stdout}");
        assert!(stderr.contains(expected), "{uri}: {stderr}");
    }
}
