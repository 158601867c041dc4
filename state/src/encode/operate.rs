//! Stored forms of operators' batches and sweeps in the log.

use crate::codec::stored::stored;
use crate::command::{Operate, SweepTarget};

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

stored!(message SweepTarget as (sweep) {
    1 | 2 | 3 | 4 sweep: OneOf,
});

stored!(oneof SweepTarget {
    1 Agent(Number),
    2 Framework(Number),
    3 PrunedAgent(Number),
    4 Layout,
});
