//! Tests with masters whose lists do not end.

mod fake_master;

use std::time::Duration;

use argosy_client::Masters;
use argosy_proto::v1;

use super::*;
use fake_master::FakeMaster;

const TIMEOUT: Duration = Duration::from_secs(20);

fn client(addresses: &[&str]) -> ClusterClient {
    ClusterClient::to(Masters::new(addresses).unwrap(), TIMEOUT)
}

#[test]
fn unreachable_is_not_a_terminal_state() {
    assert!(!is_terminal(v1::TaskState::Unreachable as i32));
    assert!(is_terminal(v1::TaskState::Gone as i32));
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
