//! Tests of calls whose caller is refused.

use super::*;

#[test]
fn an_accept_that_is_denied_after_an_attempt_without_an_answer_has_an_unknown_outcome() {
    for is_repeat in [false, true] {
        let mut world = World::subscribed();
        world.accept("1.1");
        if is_repeat {
            assert_eq!(sent(&world.unanswered(1)), [1]);
        }
        let mut refusal = local("access-denied", "the rules have changed".into());
        refusal.code = Code::PermissionDenied;
        let result = Err(CallError::Refused(refusal));
        let effects = world.feed(Input::Answered { number: 1, result });
        let outcomes = outcomes(&effects);
        let is_lost = matches!(outcomes[..], [CallOutcome::Lost(_)]);
        let is_refused = matches!(outcomes[..], [CallOutcome::Refused(_)]);
        assert_eq!(
            (is_lost, is_refused),
            (is_repeat, !is_repeat),
            "{outcomes:?}"
        );
    }
}

fn acknowledged(effects: &[Effect]) -> (u64, usize) {
    match effects {
        [Effect::Acknowledge { after_ms, request }] => (*after_ms, request.acknowledgements.len()),
        other => panic!("no acknowledgement but {other:?}"),
    }
}

fn handled(task: &str) -> Input {
    Input::Handled {
        task_id: task.into(),
        revision: v1::Revision {
            index: 3,
            position: 0,
        },
    }
}

#[test]
fn acknowledgements_that_the_present_rules_deny_are_repeated() {
    let mut world = World::subscribed();
    assert_eq!(acknowledged(&world.feed(handled("a"))), (0, 1));
    let mut refusal = local("access-denied", "the rules have changed".into());
    refusal.code = Code::PermissionDenied;
    for after_ms in [20, 40, 80] {
        let result = Err(CallError::Refused(refusal.clone()));
        let effects = world.feed(Input::Acknowledged(result));
        assert_eq!(acknowledged(&effects), (after_ms, 1));
    }
    assert_eq!(world.feed(Input::Command(Command::Stop)), []);
    let effects = world.feed(Input::Acknowledged(Ok(())));
    assert_eq!(effects, [Effect::End(Ok(()))]);
}

#[test]
fn acknowledgements_that_can_never_be_accepted_are_dropped() {
    let mut world = World::subscribed();
    world.feed(handled("not a task"));
    let mut refusal = local("invalid", "no task has this id".into());
    refusal.code = Code::InvalidArgument;
    let result = Err(CallError::Refused(refusal));
    assert_eq!(world.feed(Input::Acknowledged(result)), []);
}
