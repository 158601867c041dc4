//! Samples of an acceptance of several operations, and of answers to calls.

use super::limits::refusal;
use super::tasks::{group, spec};
use super::{position, revision};
use crate::Registry;
use crate::command::{Accept, Call, CallAction, Command, OfferOperation};
use crate::framework::{AnswerOutcome, CallAnswer};
use crate::ids::FrameworkId;
use crate::task::CommandSpec;

pub(super) fn commands() -> Vec<(&'static str, Command)> {
    let task = |name: &str| spec(name, CommandSpec::Shell("true".to_owned()));
    let accept = Accept {
        offers: Vec::new(),
        operations: vec![
            OfferOperation::Launch(vec![task("web-20"), task("web-21")]),
            OfferOperation::LaunchGroup(group().into()),
            OfferOperation::Launch(Vec::new()),
            OfferOperation::Launch(vec![task("web-22")]),
        ],
        all_or_nothing: false,
        wall_ms: 71,
    };
    let call = Call {
        framework: FrameworkId(4),
        session: 77,
        number: 16,
        lowest_unanswered: 10,
        hash: 0xfeed,
        action: CallAction::Accept(accept),
    };
    vec![("call-accept-operations", Command::Call(call))]
}

/// Adds answers to calls of each kind.
pub(super) fn add_answers(registry: &mut Registry) {
    let done = AnswerOutcome::Done {
        refused: vec![(position(0, 1), 22), (position(0, 300), 23)],
    };
    let refused = AnswerOutcome::Refused(refusal(14, "no offer was given", &[]));
    let by_code = AnswerOutcome::Refused(refusal(26, "", &["framework-4", "web-9"]));
    for (number, outcome) in [(8, done), (9, refused), (10, by_code)] {
        let answer = CallAnswer {
            hash: 0xabcd,
            revision: revision(30, 4),
            outcome,
        };
        registry
            .answers
            .insert((FrameworkId(4), 77, number), answer);
    }
    let key = (FrameworkId(4), 77, 11);
    registry.answers.insert(key, answer());
}

fn answer() -> CallAnswer {
    let refused = [
        (position(0, 1), 22),
        (position(1, 0), 31),
        (position(1, 1), 31),
        (position(3, 0), 23),
    ];
    CallAnswer {
        hash: 0xabcd,
        revision: revision(30, 5),
        outcome: AnswerOutcome::Done {
            refused: refused.into(),
        },
    }
}
