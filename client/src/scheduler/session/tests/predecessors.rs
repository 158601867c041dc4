//! Tests of the session that a new process replaces.

use super::*;

fn session_present(session: u64) -> v1::event::Event {
    v1::event::Event::Error(v1::Error {
        code: "session-present".into(),
        session,
        ..Default::default()
    })
}

#[test]
fn a_new_process_names_the_session_that_it_replaces() {
    let mut world = World::new();
    let replaced = |effects: Vec<Effect>| {
        let mut subscriptions = effects.into_iter().filter_map(|effect| match effect {
            Effect::Subscribe { request, .. } => request.replaces,
            _ => None,
        });
        let replaces = subscriptions.next();
        replaces.expect("a new subscription")
    };
    assert_eq!(replaced(world.feed(Input::Begin)), 0);
    assert_eq!(world.event(session_present(5)), []);
    assert_eq!(replaced(world.close()), 5);
    // Another process was faster.
    assert_eq!(world.event(session_present(6)), []);
    assert_eq!(replaced(world.close()), 6);
}

#[test]
fn a_registered_session_replaces_no_later_one() {
    let mut world = World::subscribed();
    world.close();
    let effects = world.event(session_present(8));
    assert!(
        effects
            .iter()
            .any(|effect| matches!(effect, Effect::End(Err(SchedulerError::Superseded(_))))),
        "{effects:?}"
    );
}
