//! Tickets of a group of three: those of each master are valid at the agent, before and after a
//! change of leader.

use std::slice;

use argosy_proto::ticket::{Ticket, TicketKey, TicketScope};
use argosy_proto::transport::PeerIdentity;
use argosy_proto::v1;
use argosy_proto::v1::operator_server::Operator as _;
use argosy_proto::v1::to_agent::Message;
use futures::StreamExt;
use tonic::{Code, Request, Status};

use super::hellos::hello;
use super::routes::{services, until};
use super::*;
use crate::links;

const AGENT: &str = "agent/host-1";

/// Registers an agent at a leader. Returns its id and its keys, or `None` if the leader lost
/// leadership before it answered.
async fn try_register(
    leader: &SingleMaster,
    nonce: u64,
    peer: &str,
) -> Option<(AgentId, Vec<TicketKey>)> {
    let link = leader.handle.new_link();
    let (sender, mut to_agent) = links::link::<v1::ToAgent>();
    let opened = OwnerMessage::AgentLink(link, sender);
    leader.handle.send(opened).await.unwrap();
    let hello = hello(link, nonce, peer.parse().unwrap());
    leader.handle.send(hello).await.unwrap();
    loop {
        let message = tokio::time::timeout(TIMEOUT, to_agent.next()).await;
        if let Some(Message::Registered(answer)) = message.unwrap()?.message {
            let keys = answer.ticket_keys.iter();
            let keys = keys.map(|key| TicketKey::received(key.number, &key.secret).unwrap());
            return Some((answer.agent_id.parse().unwrap(), keys.collect()));
        }
    }
}

/// Registers an agent at the leader of these masters.
async fn register(masters: &[SingleMaster], nonce: u64, peer: &str) -> (AgentId, Vec<TicketKey>) {
    loop {
        let leader = &masters[leader_of(masters).await];
        if let Some(registered) = try_register(leader, nonce, peer).await {
            return registered;
        }
    }
}

async fn leader_of(masters: &[SingleMaster]) -> usize {
    let leads = |master: &SingleMaster| master.handle.leader_status.borrow().is_local;
    let mut found = None;
    until("a master leads", || {
        found = masters.iter().position(leads);
        found.is_some()
    })
    .await;
    found.unwrap()
}

/// Requests a ticket for a task of an agent, as this caller.
async fn issue(
    master: &SingleMaster,
    agent: AgentId,
    caller: &str,
) -> Result<v1::IssuedTickets, Status> {
    let mut request = Request::new(v1::IssueTicketsRequest {
        agent_id: agent.to_string(),
        verb: v1::TicketVerb::ReadFiles.into(),
        targets: vec![v1::TicketTarget {
            framework_id: "framework-3".into(),
            task_id: "web".into(),
            path: String::new(),
        }],
        valid_ms: 0,
    });
    let peer = match caller {
        "" => PeerIdentity::unauthenticated(None),
        principal => PeerIdentity::authenticated(principal.parse().unwrap(), None),
    };
    request.extensions_mut().insert(peer);
    let issued = services(&master.handle).issue_tickets(request).await;
    issued.map(tonic::Response::into_inner)
}

/// Checks that every master issues valid tickets for the agent, once it knows it.
async fn check(masters: &[SingleMaster], agent: AgentId, keys: &[TicketKey]) {
    for master in masters {
        let issued = loop {
            match issue(master, agent, "operator/alice").await {
                Ok(issued) => break issued,
                Err(status) if status.code() == Code::NotFound => {
                    tokio::time::sleep(Duration::from_millis(5)).await;
                }
                Err(status) => panic!("{status}"),
            }
        };
        assert_eq!(issued.agent_address, "agent.example:5051");
        let end_ms = u64::try_from(issued.expires_wall_ms).unwrap();
        let text = &issued.tickets[0];
        let ticket = Ticket::open(text, agent, keys, end_ms - 1).unwrap();
        assert_eq!(ticket.holder.to_string(), "operator/alice");
        assert_eq!(ticket.expires_ms, end_ms);
        let TicketScope::Task(task) = ticket.scope else {
            panic!("{:?}", ticket.scope)
        };
        assert_eq!(task.to_string(), "framework-3/web");
        Ticket::open(text, agent, keys, end_ms).unwrap_err();
        Ticket::open(text, AgentId(agent.0 + 1), keys, end_ms - 1).unwrap_err();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tickets_of_every_master_are_valid_before_and_after_a_failover() {
    let mut masters = SingleMaster::start_three().await;
    let leader = leader_of(&masters).await;
    let (agent, keys) = register(&masters, 1, AGENT).await;
    assert_eq!(keys.len(), 3);
    let (other, others) = register(&masters, 2, "agent/host-2").await;
    assert_ne!((agent, &keys), (other, &others));
    check(&masters, agent, &keys).await;

    masters.remove(leader).end().await;
    check(&masters, agent, &keys).await;
    // The agent gets the same keys from the next leader, because tickets of the former ones may
    // still be valid. So they stay valid, also if the agent has restarted.
    assert_eq!(register(&masters, 1, AGENT).await, (agent, keys));
    for master in masters {
        master.end().await;
    }
}

#[tokio::test]
async fn only_permitted_callers_get_tickets_and_only_authenticated_agents_keys() {
    let alone = SingleMaster::start().await;
    alone.active_leader().await;
    for (nonce, peer) in [(1, "unauthenticated"), (2, "operator/alice")] {
        assert_eq!(register(slice::from_ref(&alone), nonce, peer).await.1, []);
    }
    let (agent, _) = register(slice::from_ref(&alone), 3, AGENT).await;
    for (caller, agent, code) in [
        ("operator/alice", agent, Code::Ok),
        ("operator/alice", AgentId(99), Code::NotFound),
        ("framework/web", agent, Code::PermissionDenied),
        ("agent/host-1", agent, Code::PermissionDenied),
        ("", agent, Code::PermissionDenied),
    ] {
        let issued = issue(&alone, agent, caller).await;
        let found = issued.map_or_else(|status| status.code(), |_| Code::Ok);
        assert_eq!(found, code, "{caller}");
    }
    alone.end().await;
}
