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
