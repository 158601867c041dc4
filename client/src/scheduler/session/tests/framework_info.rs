//! Tests of the description that a subscription announces while changes of it are open.

use super::*;

fn named(name: &str) -> v1::FrameworkInfo {
    v1::FrameworkInfo {
        name: name.into(),
        ..Default::default()
    }
}

/// Breaks the stream, and returns the name that the next subscription announces.
fn announced(world: &mut World) -> String {
    let effects = world.close();
    let Some(Effect::Subscribe { request, .. }) = effects.last() else {
        panic!("no subscription but {effects:?}");
    };
    let name = request.info.clone().unwrap().name;
    world.resume(&[]);
    name
}

#[test]
fn changed_framework_info_is_used_at_the_next_subscription_unless_rejected() {
    let mut world = World::subscribed();
    world.ask(|key| Command::UpdateFramework(key, named("second")));
    assert_eq!(announced(&mut world), "second", "it may have been applied");
    world.refused(1, "invalid");
    assert_eq!(announced(&mut world), "first");
}

#[test]
fn a_rejected_change_of_framework_info_leaves_other_changes_in_force() {
    for (is_first_rejected, last) in [(true, "third"), (false, "second")] {
        let mut world = World::subscribed();
        for name in ["second", "third"] {
            world.ask(|key| Command::UpdateFramework(key, named(name)));
        }
        if is_first_rejected {
            world.refused(1, "invalid");
        } else {
            world.done(1);
        }
        assert_eq!(announced(&mut world), "third", "it may have been applied");
        if is_first_rejected {
            world.done(2);
        } else {
            world.refused(2, "invalid");
        }
        assert_eq!(announced(&mut world), last);
    }
}

#[test]
fn framework_info_above_the_size_of_a_message_is_refused_and_never_announced() {
    let mut world = World::subscribed();
    // The change would wait for the answer to this call.
    world.accept("1.1");
    let effects = world.ask(|key| Command::UpdateFramework(key, named(&"x".repeat(5 << 20))));
    assert!(
        matches!(
            effects.as_slice(),
            [Effect::Notify(Notification::Answered(CallResult {
                outcome: CallOutcome::Refused(why),
                ..
            }))] if why.reason == "message-too-large"
        ),
        "{} effects",
        effects.len()
    );
    assert!(announced(&mut world) == "first");
}

#[test]
fn a_change_that_masters_refuse_at_a_subscription_ends_the_call_and_not_the_session() {
    let refuse_on_stream: fn(&mut World) -> Vec<Effect> = |world| {
        world.event(v1::event::Event::Error(v1::Error {
            code: "access-denied".into(),
            ..Default::default()
        }))
    };
    let refuse_call: fn(&mut World) -> Vec<Effect> = |world| {
        let mut refusal = local("invalid", "no such role".into());
        refusal.code = Code::InvalidArgument;
        let link = world.link;
        world.feed(Input::Refused { link, refusal })
    };
    for refuse in [refuse_on_stream, refuse_call] {
        let mut world = World::subscribed();
        world.ask(|key| Command::UpdateFramework(key, named("second")));
        world.close();
        let effects = refuse(&mut world);
        let Some(Effect::Subscribe { request, .. }) = effects.last() else {
            panic!("no subscription but {effects:?}");
        };
        assert_eq!(request.info.as_ref().unwrap().name, "first");
        world.resume(&[]);
        assert_eq!(sent(&world.unanswered(1)), [1]);
        let effects = world.refused(1, "access-denied");
        assert!(matches!(outcomes(&effects)[..], [CallOutcome::Refused(_)]));
        // Without an open change the refusal is that of the session.
        world.close();
        let effects = refuse(&mut world);
        assert!(matches!(effects.last(), Some(Effect::End(Err(_)))));
    }
}
