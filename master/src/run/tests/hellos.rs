//! Tests of registrations of agents whose streams have ended before the owner reads them.

use argosy_proto::v1;
use argosy_state::actor::Actor;
use argosy_state::ids::{Epoch, OrderIndex};
use argosy_state::testing::registration;
use futures::StreamExt;

use super::*;
use crate::leader::Hello;
use crate::links::{self, LinkId};

/// Returns the first hello of an agent on a link, whose peer is `actor`.
pub(super) fn hello(link: LinkId, nonce: u64, actor: Actor) -> OwnerMessage {
    let mut register = registration(nonce, "cpus:1;mem:64");
    register.info.address = "agent.example:5051".to_owned();
    let hello = Box::new(Hello {
        cluster: None,
        follows: None,
        agent: None,
        confirmed: 0,
        tried: register.tried,
        nonce,
        boot_id: register.boot_id,
        highest_epoch: Epoch(0),
        info: register.info,
        floor: OrderIndex(0),
        digests: Default::default(),
        version: 1,
    });
    OwnerMessage::Input(Input::AgentHello { link, actor, hello })
}

#[tokio::test]
async fn a_hello_of_a_closed_stream_registers_no_agent() {
    let alone = SingleMaster::start().await;
    alone.active_leader().await;
    let (closed, open) = (alone.handle.new_link(), alone.handle.new_link());
    let (sender, mut to_agent) = links::link::<v1::ToAgent>();
    alone
        .handle
        .send(hello(closed, 1, Actor::default()))
        .await
        .unwrap();
    let opened = OwnerMessage::AgentLink(open, sender);
    alone.handle.send(opened).await.unwrap();
    alone
        .handle
        .send(hello(open, 2, Actor::default()))
        .await
        .unwrap();
    // Registrations are committed in order, so the first would be stored by now.
    let answered = tokio::time::timeout(TIMEOUT, to_agent.next()).await;
    assert!(answered.unwrap().is_some());
    let nonces = alone.handle.query(|facts| {
        let agents = facts.registry.agents();
        agents.map(|agent| agent.nonce).collect::<Vec<_>>()
    });
    assert_eq!(nonces.await.unwrap(), [2]);
    alone.end().await;
}
