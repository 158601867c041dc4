//! Stored forms of numbered calls of frameworks.

use std::borrow::Cow;

use crate::codec::error::{CodecError, DecodeResult};
use crate::codec::message::StoredMessage;
use crate::codec::scalars::StoredList;
use crate::codec::stored::stored;
use crate::command::{Accept, Call, CallAction, OfferOperation, OfferTerms};
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

/// The stored form of an acceptance. A single launch of tasks is in `launches`, and every other
/// list of operations in `operations`; one of the two is always empty. So an acceptance that format
/// 2 can express has the same bytes as there.
struct AcceptFields<'a> {
    offers: BorrowedList<'a, OfferTerms>,
    launches: BorrowedList<'a, TaskSpec>,
    all_or_nothing: bool,
    wall_ms: i64,
    operations: BorrowedList<'a, OfferOperation>,
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

/// A list that is borrowed for writing and owned after reading.
struct BorrowedList<'a, T: Clone>(Cow<'a, [T]>);

impl<T: Clone> FromIterator<T> for BorrowedList<'_, T> {
    fn from_iter<I: IntoIterator<Item = T>>(items: I) -> Self {
        Self(Cow::Owned(items.into_iter().collect()))
    }
}

impl<T: Clone> StoredList for BorrowedList<'_, T> {
    type Item = T;

    fn items(&self) -> impl Iterator<Item = &T> {
        self.0.iter()
    }
}

impl StoredMessage for Accept {
    fn write(&self, out: &mut Vec<u8>) {
        let (launches, operations): (&[_], &[_]) = match self.operations.as_slice() {
            [OfferOperation::Launch(tasks)] if !tasks.is_empty() => (tasks, &[]),
            operations => (&[], operations),
        };
        let fields = AcceptFields {
            offers: BorrowedList(Cow::Borrowed(&self.offers)),
            launches: BorrowedList(Cow::Borrowed(launches)),
            all_or_nothing: self.all_or_nothing,
            wall_ms: self.wall_ms,
            operations: BorrowedList(Cow::Borrowed(operations)),
        };
        fields.write(out);
    }

    fn read(bytes: &[u8]) -> DecodeResult<Self> {
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
            (false, false) => return Err(CodecError::Invalid("operations")),
        };
        Ok(Self {
            offers: offers.0.into_owned(),
            operations,
            all_or_nothing,
            wall_ms,
        })
    }
}

stored!(message OfferTerms {
    1 id: Part or "offer id",
    2 framework: Number,
    3 session: Fixed,
    4 agent: Number,
    5 role: Text,
    6 resources: Part,
    7 offer_revision: Part or "revision",
    8 expires: Number,
});
