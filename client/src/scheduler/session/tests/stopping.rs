//! Tests of what a stop, a teardown and a revive wait for, and of messages that cannot be sent.

use super::*;

#[test]
fn a_stop_waits_for_declines_and_messages() {
    let mut world = World::subscribed();
    let decline = Command::Decline {
        offer_ids: vec!["1.1".into()],
        filter_ms: None,
        code: String::new(),
        text: String::new(),
    };
    let message = Command::Message {
        agent_id: "agent-1".into(),
        executor_id: "e".into(),
        data: b"x".to_vec(),
    };
    let effects = world.feed(Input::Command(decline));
    assert!(
        matches!(effects[..], [Effect::Decline { serial: 1, .. }]),
        "{effects:?}"
    );
    let effects = world.feed(Input::Command(message));
    assert!(matches!(effects[..], [Effect::Message(_)]), "{effects:?}");
    assert_eq!(world.feed(Input::Command(Command::Stop)), []);
    assert_eq!(world.feed(Input::DeclineSent { serial: 1 }), []);
    let effects = world.feed(Input::MessageSent);
    assert_eq!(effects, [Effect::End(Ok(()))]);
}

fn handled(index: u64) -> Input {
    let revision = v1::Revision { index, position: 0 };
    Input::Handled {
        task_id: "a".into(),
        revision,
    }
}

#[test]
fn a_teardown_waits_for_earlier_acknowledgements_and_not_for_later_ones() {
    let mut world = World::subscribed();
    world.feed(handled(1));
    assert!(sent(&world.ask(Command::Teardown)).is_empty());
    // In a busy framework, the next update arrives before each answer.
    assert!(sent(&world.feed(handled(2))).is_empty());
    assert!(sent(&world.ask(Command::Teardown)).is_empty());
    let effects = world.feed(Input::Acknowledged(Ok(())));
    assert!(
        effects
            .iter()
            .any(|effect| matches!(effect, Effect::Acknowledge { .. })),
        "{effects:?}"
    );
    assert_eq!(sent(&effects), [1]);
}

fn decline(offer: &str) -> Input {
    Input::Command(Command::Decline {
        offer_ids: vec![offer.into()],
        filter_ms: Some(600_000),
        code: String::new(),
        text: String::new(),
    })
}

/// Otherwise a decline that is repeated could hide an agent from the revived framework.
#[test]
fn a_revive_waits_for_earlier_declines_and_not_for_later_ones() {
    let mut world = World::subscribed();
    world.offer("1.2");
    world.feed(decline("1.1"));
    let effects = world.ask(|key| Command::Revive(key, Vec::new()));
    assert_eq!(sent(&effects), [] as [u64; 0]);
    world.feed(decline("1.2"));
    let effects = world.feed(Input::DeclineSent { serial: 1 });
    assert_eq!(sent(&effects), [1]);
}

#[test]
fn messages_that_cannot_be_sent_are_dropped_beyond_a_number() {
    let mut world = World::subscribed();
    let message = |bytes: usize| {
        Input::Command(Command::Message {
            agent_id: "agent-1".into(),
            executor_id: "e".into(),
            data: vec![0; bytes],
        })
    };
    assert_eq!(world.feed(message(65_537)), []);
    let sent = (0..2_000).filter(|_| !world.feed(message(65_536)).is_empty());
    assert_eq!(sent.count(), 512);
    world.feed(Input::MessageSent);
    assert_eq!(world.feed(message(1)).len(), 1);
}
