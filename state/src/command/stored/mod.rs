//! Stored forms of commands in the log.

mod agents;
mod calls;

use crate::codec::stored::stored;
use crate::command::{
    Acknowledge, Command, CompareDigest, FrameworkDecision, OpenEpoch, Operate, ProposedCommand,
    RaiseLowWater, Subscribe, SweepTarget,
};
use crate::ids::{Revision, TaskId, Ticket};

// The part of a command after its head.
stored!(message ProposedCommand as (ProposedCommand { ticket: Ticket { epoch, serial }, actor, command }) {
    2 epoch: Number,
    3 serial: Number,
    4 | 5 | 6 | 7 | 8 | 9 | 10 | 11 | 12 | 13 | 14 | 15 | 16 | 17 | 18 | 19 | 20 | 21 | 22 command: OneOf or "kind",
    // Numbers up to 99 are reserved for future commands.
    100 | 101 actor: OneOf,
});

stored!(oneof Command {
    4 OpenEpoch(Part),
    5 RegisterAgent(Part),
    6 AgentUnreachable(Part),
    7 ReconcileAgent(Part),
    8 UpdateTasks(Part),
    9 Subscribe(Part),
    10 DisconnectFramework(Part),
    11 ExpireFramework(Part),
    12 Call(Part),
    13 Acknowledge(Part),
    14 RaiseLowWater(Part),
    15 Operate(Part),
    16 Sweep(Part),
    17 Tick,
    18 PruneAgent(Part),
    19 CompareDigest(Part),
    20 TasksStopped(Part),
    21 MassLoss,
    22 RaiseLevel {
        1 level: Number,
    },
});

stored!(message OpenEpoch {
    1 node: Number,
    2 process: Fixed,
    3 term: Number,
    4 entropy: Bytes,
    5 wall_ms: Number,
    6 level: Number,
});

stored!(message FrameworkDecision {
    1 framework: Number,
    2 decided_on: Part or "revision",
});

stored!(message Subscribe {
    1 framework: MaybeNumber,
    2 session: Fixed,
    3 info: Part,
});

stored!(message Acknowledge {
    1 framework: Number,
    2 session: Fixed,
    3 updates: PartList,
});

stored!(message (TaskId, Revision) as (task, revision) {
    1 task: Text or "task id",
    2 revision: Part,
});

stored!(message RaiseLowWater {
    1 framework: Number,
    2 session: Fixed,
    3 to: Number,
});

stored!(message CompareDigest {
    1 index: Number,
    2 digest: Bytes,
});

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
