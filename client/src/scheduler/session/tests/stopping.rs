//! Tests of what a stop waits for.

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
