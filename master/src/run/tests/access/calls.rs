//! Every call of the protocol for every kind of caller, at the leader and at another master.

use argosy_proto::v1::agents_client::AgentsClient;
use argosy_proto::v1::certificates_client::CertificatesClient;
use argosy_proto::v1::leadership_client::LeadershipClient;
use argosy_proto::v1::reigns_client::ReignsClient;
use argosy_state::testing::registration;
use futures::StreamExt as _;
use tonic::transport::Channel;

use super::*;
use crate::access::{CALLS, Check};

/// How each call ends for each caller of [`CALLERS`]; its objects are those of `framework/web`, and
/// `agent-1`. The calls of schedulers have another session than the present one, so that those that
/// are permitted change nothing.
///
/// To `framework/other`, calls of schedulers are answered as on an unknown framework.
const EXPECTED: &[(&str, &str)] = &[
    ("Agents/Connect", "UDDDDDSD"),
    ("Certificates/ListAuthorities", "SSSSSSSS"),
    ("Certificates/Issue", "SSSSSSSS"),
    ("Leadership/Watch", "USSSSSSS"),
    ("Reigns/Watch", "USSSSSSS"),
    ("Operator/Write", "UDSSDDDS"),
    ("Operator/WriteOne", "UDSSDDDS"),
    ("Operator/GetCluster", "USSSDDDS"),
    ("Operator/ListAgents", "USSSHHDS"),
    ("Operator/GetAgent", "USSSHHDS"),
    ("Operator/ListFrameworks", "USSSSHDS"),
    ("Operator/GetFramework", "USSSSHDS"),
    ("Operator/ListTasks", "USSSSHDS"),
    ("Operator/GetTask", "USSSSHDS"),
    ("Operator/ListOffers", "USSSSSDS"),
    ("Operator/Explain", "USSSSHDS"),
    ("Operator/JoinMaster", "UDDSDDDS"),
    ("Operator/RemoveMaster", "UDDSDDDS"),
    ("Operator/TransferLeader", "UDSSDDDS"),
    ("Operator/RaiseLevel", "UDDSDDDS"),
    ("Operator/SetLogFilter", "UDSSDDDS"),
    ("Operator/Watch", "USSSSSDS"),
    ("Operator/GetPolicy", "USSSDDDS"),
    ("Operator/ListTokens", "USSSDDDS"),
    ("Operator/ListRevokedKeys", "USSSDDDS"),
    ("Operator/ListRateLimits", "USSSDDDS"),
    ("Operator/ListSecrets", "USSSSSDS"),
    ("Operator/IssueTickets", "USSSSDDS"),
    ("Operator/SaveSnapshot", "UDSSDDDS"),
    ("Scheduler/Subscribe", "UDSSSDDS"),
    ("Scheduler/Accept", "UDSSSSDS"),
    ("Scheduler/Decline", "UDSSSSDS"),
    ("Scheduler/Kill", "UDSSSSDS"),
    ("Scheduler/UpdateLimits", "UDSSSSDS"),
    ("Scheduler/Acknowledge", "UDSSSSDS"),
    ("Scheduler/Reconcile", "UDSSSSDS"),
    ("Scheduler/Message", "UDSSSSDS"),
    ("Scheduler/Heartbeat", "UDSSSSDS"),
    ("Scheduler/Suppress", "UDSSSSDS"),
    ("Scheduler/Revive", "UDSSSSDS"),
    ("Scheduler/UpdateFramework", "UDSSSSDS"),
    ("Scheduler/Teardown", "UDSSSSDS"),
];

/// A session that no framework has.
const OTHER: u64 = 999;

fn seen(is_there: bool) -> End {
    match is_there {
        true => End::Served,
        false => End::Hidden,
    }
}

/// Returns the end of a read: an unknown object is a hidden one.
fn of_read<T>(result: Result<T, Status>) -> End {
    match result {
        Err(status) if status.code() == Code::NotFound => End::Hidden,
        other => End::of_result(other),
    }
}

/// Returns the end that the code in a message of a stream stands for.
fn of_code(code: &str) -> End {
    match code {
        "access-denied" => End::Denied,
        "unauthenticated" => End::Unproven,
        _ => End::Served,
    }
}

fn weight() -> v1::WriteBatch {
    let operation = v1::write_operation::Operation::SetWeight(v1::SetWeight {
        role: "eng".to_owned(),
        weight_milli: 1_500,
    });
    v1::WriteBatch {
        operations: vec![v1::WriteOperation {
            operation: Some(operation),
        }],
        ..Default::default()
    }
}

/// Requests a ticket for the output of `framework-1/a`.
fn tickets() -> v1::IssueTicketsRequest {
    v1::IssueTicketsRequest {
        agent_id: "agent-1".to_owned(),
        verb: v1::TicketVerb::ReadFiles.into(),
        targets: vec![v1::TicketTarget {
            framework_id: "framework-1".to_owned(),
            task_id: "a".to_owned(),
            path: "stdout".to_owned(),
        }],
        valid_ms: 0,
    }
}

fn get(framework: &str, id: &str) -> v1::GetRequest {
    v1::GetRequest {
        framework_id: framework.to_owned(),
        id: id.to_owned(),
        ..Default::default()
    }
}

async fn connect(channel: Channel) -> End {
    let registration = registration(55, "cpus:1");
    let hello = v1::Hello {
        protocol: protocol(),
        tried_incarnations: registration.tried,
        nonce: registration.nonce,
        boot_id: registration.boot_id,
        info: Some(convert::agent_info(&registration.info)),
        ..Default::default()
    };
    let hello = v1::FromAgent {
        message: Some(v1::from_agent::Message::Hello(hello)),
    };
    let messages = futures::stream::iter([hello]);
    let messages = messages.chain(futures::stream::pending());
    let opened = AgentsClient::new(channel).connect(messages).await;
    match opened
        .unwrap()
        .into_inner()
        .message()
        .await
        .unwrap()
        .unwrap()
        .message
    {
        Some(v1::to_agent::Message::Refused(refused)) => of_code(&refused.code),
        _ => End::Served,
    }
}

async fn certificates(channel: Channel, call: &str) -> Option<End> {
    let mut client = CertificatesClient::new(channel);
    Some(match call {
        "ListAuthorities" => {
            let request = v1::ListAuthoritiesRequest {};
            End::of_result(client.list_authorities(request).await)
        }
        "Issue" => {
            let request = v1::IssueCertificateRequest::default();
            End::of_result(client.issue(request).await)
        }
        _ => return None,
    })
}

#[expect(clippy::too_many_lines, reason = "a table of the calls")]
async fn operator(channel: Channel, call: &str) -> Option<End> {
    let mut client = OperatorClient::new(channel);
    let list = v1::ListRequest::default;
    Some(match call {
        "Write" => {
            let batches = futures::stream::iter([weight()]);
            match client.write(batches).await {
                Ok(replies) => End::of_result(replies.into_inner().message().await),
                Err(status) => End::of_result::<()>(Err(status)),
            }
        }
        "WriteOne" => End::of_result(client.write_one(weight()).await),
        "GetCluster" => End::of_result(client.get_cluster(v1::GetClusterRequest::default()).await),
        "ListAgents" => match client.list_agents(list()).await {
            Ok(page) => seen(
                page.get_ref()
                    .agents
                    .iter()
                    .any(|one| one.agent_id == "agent-1"),
            ),
            Err(status) => End::of_result::<()>(Err(status)),
        },
        "GetAgent" => of_read(client.get_agent(get("", "agent-1")).await),
        "ListFrameworks" => match client.list_frameworks(list()).await {
            Ok(page) => {
                let mut all = page.get_ref().frameworks.iter();
                seen(all.any(|one| one.framework_id == "framework-1"))
            }
            Err(status) => End::of_result::<()>(Err(status)),
        },
        "GetFramework" => of_read(client.get_framework(get("", "framework-1")).await),
        "ListTasks" => match client.list_tasks(list()).await {
            Ok(page) => seen(page.get_ref().tasks.iter().any(|one| one.task_id == "a")),
            Err(status) => End::of_result::<()>(Err(status)),
        },
        "GetTask" => of_read(client.get_task(get("framework-1", "a")).await),
        "ListOffers" => End::of_result(client.list_offers(list()).await),
        "Explain" => {
            let framework_id = "framework-1".to_owned();
            let question = v1::ExplainRequest {
                framework_id,
                ..Default::default()
            };
            of_read(client.explain(question).await)
        }
        "JoinMaster" => {
            let raft_address = "no address".to_owned();
            End::of_result(
                client
                    .join_master(v1::JoinMasterRequest { raft_address })
                    .await,
            )
        }
        "RemoveMaster" => {
            let node_id = "master-99".to_owned();
            End::of_result(
                client
                    .remove_master(v1::RemoveMasterRequest { node_id })
                    .await,
            )
        }
        "TransferLeader" => {
            let node_id = "master-99".to_owned();
            End::of_result(
                client
                    .transfer_leader(v1::TransferLeaderRequest { node_id })
                    .await,
            )
        }
        "RaiseLevel" => {
            let level = Level::NEWEST.0;
            End::of_result(client.raise_level(v1::RaiseLevelRequest { level }).await)
        }
        "SetLogFilter" => {
            let request = v1::SetLogFilterRequest::default();
            End::of_result(client.set_log_filter(request).await)
        }
        "Watch" => match client.watch(v1::WatchRequest::default()).await {
            Ok(events) => End::of_result(events.into_inner().message().await),
            Err(status) => End::of_result::<()>(Err(status)),
        },
        "SaveSnapshot" => {
            let request = v1::SaveSnapshotRequest::default();
            match client.save_snapshot(request).await {
                Ok(blocks) => End::of_result(blocks.into_inner().message().await),
                Err(status) => End::of_result::<()>(Err(status)),
            }
        }
        "GetPolicy" => End::of_result(client.get_policy(v1::GetPolicyRequest::default()).await),
        "ListTokens" => End::of_result(client.list_tokens(list()).await),
        "ListRevokedKeys" => End::of_result(client.list_revoked_keys(list()).await),
        "ListSecrets" => {
            let request = v1::ListSecretsRequest::default();
            End::of_result(client.list_secrets(request).await)
        }
        "IssueTickets" => End::of_result(client.issue_tickets(tickets()).await),
        "ListRateLimits" => End::of_result(client.list_rate_limits(list()).await),
        _ => return None,
    })
}

#[expect(clippy::too_many_lines, reason = "a table of the calls")]
async fn scheduler(channel: Channel, call: &str) -> Option<End> {
    let mut client = SchedulerClient::new(channel);
    let framework_id = "framework-1".to_owned();
    let session = OTHER;
    let id = Some(call_id("framework-1", OTHER));
    let task_id = "a".to_owned();
    let mut info = convert::framework_info(&framework_info("new"));
    info.roles = vec!["eng".to_owned()];
    Some(match call {
        "Subscribe" => {
            let request = v1::SubscribeRequest {
                protocol: protocol(),
                session: 5,
                info: Some(info),
                ..Default::default()
            };
            let mut events = client.subscribe(request).await.unwrap().into_inner();
            match next_event(&mut events).await {
                v1::event::Event::Error(error) => of_code(&error.code),
                _ => End::Served,
            }
        }
        "Accept" => {
            let call = id;
            let request = v1::AcceptRequest {
                call,
                ..Default::default()
            };
            End::of_result(client.accept(request).await)
        }
        "Decline" => {
            let request = v1::DeclineRequest {
                framework_id,
                session,
                ..Default::default()
            };
            End::of_result(client.decline(request).await)
        }
        "Kill" => {
            let request = v1::KillRequest {
                call: id,
                task_id,
                grace_ms: None,
            };
            End::of_result(client.kill(request).await)
        }
        "UpdateLimits" => {
            let request = v1::UpdateLimitsRequest {
                call: id,
                task_id,
                limits: None,
            };
            End::of_result(client.update_limits(request).await)
        }
        "Acknowledge" => {
            let request = v1::AcknowledgeRequest {
                framework_id,
                session,
                acknowledgements: Vec::new(),
            };
            End::of_result(client.acknowledge(request).await)
        }
        "Reconcile" => {
            let request = v1::ReconcileRequest {
                framework_id,
                session,
                next_number: 1,
                ..Default::default()
            };
            End::of_result(client.reconcile(request).await)
        }
        "Message" => {
            let request = v1::MessageRequest {
                framework_id,
                session,
                agent_id: "agent-1".to_owned(),
                executor_id: "e".to_owned(),
                data: Vec::new(),
            };
            End::of_result(client.message(request).await)
        }
        "Heartbeat" => {
            let request = v1::HeartbeatRequest {
                framework_id,
                session,
            };
            End::of_result(client.heartbeat(request).await)
        }
        "Suppress" => {
            let roles = Vec::new();
            let request = v1::SuppressRequest { call: id, roles };
            End::of_result(client.suppress(request).await)
        }
        "Revive" => {
            let roles = Vec::new();
            let request = v1::ReviveRequest { call: id, roles };
            End::of_result(client.revive(request).await)
        }
        "UpdateFramework" => {
            let info = Some(info);
            let request = v1::UpdateFrameworkRequest { call: id, info };
            End::of_result(client.update_framework(request).await)
        }
        "Teardown" => End::of_result(client.teardown(v1::TeardownRequest { call: id }).await),
        _ => return None,
    })
}

async fn ended(channel: Channel, call: &str) -> Option<End> {
    let (service, name) = call.split_once('/')?;
    match service {
        "Agents" => Some(connect(channel).await),
        "Leadership" => {
            let opened = LeadershipClient::new(channel)
                .watch(v1::WatchReigns {})
                .await;
            Some(End::of_result(opened))
        }
        "Reigns" => {
            let opened = ReignsClient::new(channel).watch(v1::WatchReigns {}).await;
            Some(End::of_result(opened))
        }
        "Certificates" => certificates(channel, name).await,
        "Operator" => operator(channel, name).await,
        "Scheduler" => scheduler(channel, name).await,
        _ => None,
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_call_is_served_to_the_callers_that_may_make_it_and_to_no_other() {
    let (cluster, (leader, follower), population) = populated().await;
    let served = CALLS.iter().filter(|(_, check)| *check != Check::Elsewhere);
    let served: Vec<&str> = served.map(|(call, _)| *call).collect();
    let expected: Vec<&str> = EXPECTED.iter().map(|(call, _)| *call).collect();
    let sorted = |calls: Vec<&str>| {
        let mut calls: Vec<String> = calls.into_iter().map(str::to_owned).collect();
        calls.sort();
        calls
    };
    assert_eq!(
        sorted(expected),
        sorted(served),
        "a call has no expectation"
    );
    let mut wrong = Vec::new();
    for (call, letters) in EXPECTED {
        for (caller, letter) in CALLERS.into_iter().zip(letters.chars()) {
            for place in [leader, follower] {
                let found = decided(End::of(letter), async || {
                    let found = ended(cluster.channel(caller, place), call).await;
                    found.unwrap_or_else(|| panic!("{call} is not made here"))
                });
                let found = found.await;
                if found != End::of(letter) {
                    let master = if place == leader {
                        "leader"
                    } else {
                        "follower"
                    };
                    wrong.push(format!("{call} by {caller:?} at the {master}: {found:?}"));
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    drop(population);
    cluster.end().await;
}
