//! Numbered calls of frameworks as they stand in the log.

use std::borrow::Cow;

use super::codec::{Fault, Read, Stored};
use super::scalars::Items;
use super::stored::stored;
use crate::command::{Accept, Call, CallAction, OfferOperation, Promise};
use crate::task::TaskSpec;

stored!(message Call {
    1 framework: Number,
    2 session: Fixed,
    3 number: Number,
    4 lowest_unanswered: Number,
    5 hash: Fixed,
    6 | 7 | 8 | 9 | 10 | 11 | 40 action: OneOf,
});

stored!(oneof CallAction {
    6 Accept(Part),
    7 Kill {
        1 task: Text or "task id",
        2 grace_ms: MaybeNumber,
    },
    8 Suppress(Inner<TextList>) or "role",
    9 Revive(Inner<TextList>) or "role",
    10 Update(Part),
    11 Teardown,
    40 UpdateLimits {
        1 task: Text or "task id",
        2 limits: Part,
    },
});

/// An acceptance as it is stored. One launch of tasks is in `launches`, all else in `operations`, and never anything in both:
/// so what format 2 can say has the bytes that it had there.
struct AcceptFields<'a> {
    offers: List<'a, Promise>,
    launches: List<'a, TaskSpec>,
    all_or_nothing: bool,
    wall_ms: i64,
    operations: List<'a, OfferOperation>,
}

stored!(message AcceptFields<'_> as (AcceptFields { offers, launches, all_or_nothing, wall_ms, operations }) {
    1 offers: PartList,
    2 launches: PartList,
    3 all_or_nothing: Number,
    4 wall_ms: Number,
    5 operations: PartList,
});

stored!(message OfferOperation as (operation) {
    1 | 2 operation: OneOf,
});

stored!(oneof OfferOperation {
    1 Launch(Inner<PartList>),
    2 LaunchGroup(Inner<PartList>),
});

/// A list that is borrowed to be written, and owned once it is read.
struct List<'a, T: Clone>(Cow<'a, [T]>);

impl<T: Clone> FromIterator<T> for List<'_, T> {
    fn from_iter<I: IntoIterator<Item = T>>(items: I) -> Self {
        Self(Cow::Owned(items.into_iter().collect()))
    }
}

impl<T: Clone> Items for List<'_, T> {
    type Item = T;

    fn items(&self) -> impl Iterator<Item = &T> {
        self.0.iter()
    }
}

impl Stored for Accept {
    fn write(&self, out: &mut Vec<u8>) {
        let (launches, operations): (&[_], &[_]) = match self.operations.as_slice() {
            [OfferOperation::Launch(tasks)] if !tasks.is_empty() => (tasks, &[]),
            operations => (&[], operations),
        };
        let fields = AcceptFields {
            offers: List(Cow::Borrowed(&self.offers)),
            launches: List(Cow::Borrowed(launches)),
            all_or_nothing: self.all_or_nothing,
            wall_ms: self.wall_ms,
            operations: List(Cow::Borrowed(operations)),
        };
        fields.write(out);
    }

    fn read(bytes: &[u8]) -> Read<Self> {
        let AcceptFields {
            offers,
            launches,
            all_or_nothing,
            wall_ms,
            operations,
        } = AcceptFields::read(bytes)?;
        let (launches, operations) = (launches.0.into_owned(), operations.0.into_owned());
        let operations = match (launches.is_empty(), operations.is_empty()) {
            (true, _) => operations,
            (false, true) => vec![OfferOperation::Launch(launches)],
            (false, false) => return Err(Fault::Wrong("operations")),
        };
        Ok(Self {
            offers: offers.0.into_owned(),
            operations,
            all_or_nothing,
            wall_ms,
        })
    }
}

stored!(message Promise {
    1 id: Part or "offer id",
    2 framework: Number,
    3 session: Fixed,
    4 agent: Number,
    5 role: Text,
    6 resources: Part,
    7 promise: Part or "revision",
    8 expires: Number,
});

/// A call as a cluster below level 3 has it, if that differs: an acceptance is one launch.
pub(super) fn in_one_launch(call: &Call) -> Option<Call> {
    let CallAction::Accept(accept) = &call.action else {
        return None;
    };
    let is_the_same = match accept.operations.as_slice() {
        [] => true,
        [OfferOperation::Launch(tasks)] => !tasks.is_empty(),
        _ => false,
    };
    if is_the_same {
        return None;
    }
    let action = CallAction::Accept(accept.clone().in_one_launch());
    Some(Call {
        action,
        ..call.clone()
    })
}
