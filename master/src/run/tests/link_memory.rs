//! The memory of agents' messages that wait for an owner that is behind.

use argosy_proto::v1;
use futures::stream;

use super::routes::services;
use super::*;
use crate::links;
use crate::service::MESSAGE_BYTES;

#[tokio::test]
async fn messages_of_an_agent_wait_outside_the_inbox_while_it_holds_too_many_bytes() {
    let alone = SingleMaster::start().await;
    let mut handle = alone.handle.clone();
    let (inbox, mut messages) = mpsc::channel(INBOX);
    handle.inbox = inbox;
    let link = handle.new_link();
    let long = v1::ExecutorMessage {
        data: vec![7; MESSAGE_BYTES - 1_024],
        ..Default::default()
    };
    let message = Some(v1::from_agent::Message::ExecutorMessage(long));
    let long = v1::FromAgent { message };
    let flood = stream::iter(vec![Ok(long); 3]);
    let services = services(&handle);
    let (sender, _receiver) = links::link();
    let answers = sender.weak();
    let reading = services.read_agent(link, Actor::default(), flood, (&answers, None));
    let received = async {
        let first = messages.recv().await.unwrap();
        let second = messages.recv().await.unwrap();
        // The third has no room until the owner has processed one of them.
        let third = tokio::time::timeout(Duration::from_millis(200), messages.recv()).await;
        assert!(third.is_err(), "a third message of 4 MiB waits");
        drop(first);
        let third = tokio::time::timeout(TIMEOUT, messages.recv()).await;
        assert!(third.unwrap().is_some());
        drop(second);
    };
    let (read, ()) = tokio::join!(reading, received);
    read.unwrap();
    alone.end().await;
}
