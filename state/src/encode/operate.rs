//! Stored forms of operators' changes and sweeps in the log.

use super::stored::stored;
use crate::command::{Operate, OperatorOperation, SweepTarget};

stored!(message Operate {
    1 request: MaybePart,
    2 hash: Fixed,
    3 operations: PartList,
    4 wall_ms: Number,
});

// The principal and id of a request.
stored!(message (String, String) as (principal, id) {
    1 principal: Text,
    2 id: Text,
});

stored!(message OperatorOperation as (operation) {
    1 | 2 | 3 | 4 | 5 | 6 | 7 | 40 operation: OneOf,
});

stored!(oneof OperatorOperation {
    1 SetAttribute {
        1 agent: Number,
        2 name: Text,
        3 value: Text,
    },
    2 KillTask {
        1 key: Part or "task",
        2 grace_ms: MaybeNumber,
    },
    3 Teardown(Number),
    4 SetWeight {
        1 role: Text,
        2 weight_milli: Number,
    },
    5 Deactivate(Number),
    6 Reactivate(Number),
    7 MarkGone(Number),
    40 UpdateLimits {
        1 key: Part or "task",
        2 limits: Part,
    },
});

stored!(message SweepTarget as (sweep) {
    1 | 2 | 3 | 4 sweep: OneOf,
});

stored!(oneof SweepTarget {
    1 Agent(Number),
    2 Framework(Number),
    3 PrunedAgent(Number),
    4 Layout,
});
