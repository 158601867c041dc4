//! Tests of what a stop and a teardown wait for.

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
    assert!(matches!(effects[..], [Effect::Decline(_)]), "{effects:?}");
    let effects = world.feed(Input::Command(message));
    assert!(matches!(effects[..], [Effect::Message(_)]), "{effects:?}");
    assert_eq!(world.feed(Input::Command(Command::Stop)), []);
    assert_eq!(world.feed(Input::UnnumberedSent), []);
    let effects = world.feed(Input::UnnumberedSent);
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
            .any(|effect| matches!(effect, Effect::Acknowledge(_))),
        "{effects:?}"
    );
    assert_eq!(sent(&effects), [1]);
}
