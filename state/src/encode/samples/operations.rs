//! An acceptance of several operations, and the answer to one.

use super::tasks::{group, spec};
use super::{position, revision};
use crate::command::{Accept, Call, CallAction, Command, OfferOperation};
use crate::framework::{Answer, AnswerOutcome};
use crate::ids::FrameworkId;
use crate::task::Run;

pub(super) fn commands() -> Vec<(&'static str, Command)> {
    let task = |name: &str| spec(name, Run::Shell("true".to_owned()));
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

pub(super) fn answer() -> Answer {
    let refused = [
        (position(0, 1), 22),
        (position(1, 0), 31),
        (position(1, 1), 31),
        (position(3, 0), 23),
    ];
    Answer {
        hash: 0xabcd,
        revision: revision(30, 5),
        outcome: AnswerOutcome::Done {
            refused: refused.into(),
        },
    }
}
