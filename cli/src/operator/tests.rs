//! Tests with masters that name lost leaders, or whose lists do not end.

mod fake_master;

use std::net::TcpListener;
use std::time::Duration;

use argosy_client::Masters;
use argosy_proto::v1;

use super::*;
use fake_master::FakeMaster;

const TIMEOUT: Duration = Duration::from_secs(20);

fn client(addresses: &[&str]) -> ClusterClient {
    let masters = Masters::new(addresses).unwrap();
    ClusterClient::to(masters, TIMEOUT, ClientTransport::plaintext())
}

/// Returns a cluster as a master reports it that knows this leader.
fn led_by(address: &str) -> v1::Cluster {
    let leader = v1::Master {
        node_id: "master-2".to_owned(),
        api_address: address.to_owned(),
        role: "leader".to_owned(),
        ..v1::Master::default()
    };
    v1::Cluster {
        leader: leader.node_id.clone(),
        masters: vec![leader],
        ..v1::Cluster::default()
    }
}

/// Returns an address at which no process listens.
fn lost_address() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    listener.local_addr().unwrap().to_string()
}

#[test]
fn unreachable_is_not_a_terminal_state() {
    assert!(!is_terminal(v1::TaskState::Unreachable as i32));
    assert!(is_terminal(v1::TaskState::Gone as i32));
}

#[tokio::test]
async fn after_the_loss_of_a_leader_the_next_one_is_called() {
    let (follower, next) = (FakeMaster::start().await, FakeMaster::start().await);
    let lost = lost_address();
    next.report([led_by(next.address())]);
    // The follower knows only after some time that the leader is lost.
    let lost_then_next = [led_by(&lost), led_by(&lost), led_by(next.address())];
    follower.report(lost_then_next);
    let leader = client(&[follower.address()]).at_leader().await.unwrap();
    assert_eq!(leader.masters().addresses(), [next.address()]);
    assert!(leader.agents(EndedObjects::Excluded).await.is_ok());
}

#[tokio::test]
async fn a_former_leader_that_still_answers_is_not_called() {
    let (follower, former) = (FakeMaster::start().await, FakeMaster::start().await);
    let next = FakeMaster::start().await;
    next.report([led_by(next.address())]);
    former.report([led_by(next.address())]);
    follower.report([led_by(former.address()), led_by(next.address())]);
    let leader = client(&[follower.address()]).at_leader().await.unwrap();
    assert_eq!(leader.masters().addresses(), [next.address()]);
}

#[tokio::test]
async fn a_list_whose_tokens_repeat_is_an_error() {
    let master = FakeMaster::start().await;
    let operator = client(&[master.address()]);
    let agents = async || operator.agents(EndedObjects::Excluded).await;
    master.send_pages(&["agent-1", "agent-2", ""]);
    let page = agents().await.unwrap();
    assert_eq!(page.agents.len(), 3);
    assert_eq!(page.revision.unwrap().index, 1, "that of the first page");
    // The last token is sent again and again.
    for tokens in [&["agent-1"][..], &["agent-1", "agent-2", "agent-1"]] {
        master.send_pages(tokens);
        let failure = agents().await.unwrap_err();
        assert_eq!(failure.code, crate::exit::FailureCode::Failed);
        assert!(failure.message.contains("does not end"), "{failure}");
        assert!(failure.advice[0].contains("--masters"), "{failure}");
    }
}
