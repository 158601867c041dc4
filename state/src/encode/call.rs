//! Numbered calls of frameworks as they stand in the log.

use super::stored::stored;
use crate::command::{Accept, Call, CallAction, Promise};

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

stored!(message Accept {
    1 offers: PartList,
    2 launches: PartList,
    3 all_or_nothing: Number,
    4 wall_ms: Number,
});

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
