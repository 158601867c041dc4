//! Stored forms of commands that carry reports of agents.

use crate::codec::stored::stored;
use crate::command::{
    AgentDecision, AgentUpdate, FormerCluster, HeldTask, ReconcileAgent, RegisterAgent,
    TasksStopped, UpdateTasks,
};

stored!(message RegisterAgent {
    1 agent: MaybeNumber,
    2 nonce: Fixed,
    3 confirmed: Fixed,
    4 tried: FixedList,
    5 boot_id: Text,
    6 info: Part,
    7 follows: MaybePart,
});

stored!(message FormerCluster {
    1 id: Bytes or "cluster id",
    2 floor: Number,
});

stored!(message AgentDecision {
    1 agent: Number,
    2 decided_on: Part or "revision",
    3 wall_ms: Number,
});

stored!(message TasksStopped {
    1 agent: Number,
    2 decided_on: Part or "revision",
    3 silent_ms: Number,
    4 wall_ms: Number,
});

stored!(message ReconcileAgent {
    1 agent: Number,
    2 incarnation: Fixed,
    3 floor: Number,
    4 after: MaybePart,
    5 through: MaybePart,
    6 held: PartList,
    7 wall_ms: Number,
});

stored!(message HeldTask {
    1 key: Part or "task",
    2 order: Number,
});

stored!(message UpdateTasks {
    1 agent: Number,
    2 updates: PartList,
});

stored!(message AgentUpdate {
    1 key: Part or "task",
    2 order: Number,
    3 number: Number,
    4 state: Number or "task state",
    5 source: Number,
    6 reason: Number,
    7 message: Text,
    8 exit: MaybePart,
    9 wall_ms: Number,
    10 standing: PartOrDefault,
    40 limits: MaybePart,
    50 causes: PartList,
});
