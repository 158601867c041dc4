//! Encoding of records: protobuf messages of this module, with the wire's messages inside.
//!
//! Fields are added, and never get another meaning; the file's version grows with them (`frame`).

use std::sync::Arc;

use argosy_proto::convert;
use argosy_proto::v1;
use argosy_state::ids::{AgentId, ClusterId, Epoch, OrderIndex, Timestamp};
use argosy_state::task::CheckResults;
use prost::Message;

use super::executors::StoredExecutorRecord;
use super::explanation::StoredExplanation;
use crate::core::{
    AgentIdentity, CheckTimes, FailureCause, Instance, JournalRecord, OrderBody, StartedFact,
    TaskFacts,
};
use crate::wire;

#[derive(Clone, PartialEq, prost::Message)]
struct StoredRecord {
    #[prost(oneof = "RecordBody", tags = "1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 22")]
    body: Option<RecordBody>,
}

#[derive(Clone, PartialEq, prost::Oneof)]
#[allow(
    clippy::large_enum_variant,
    reason = "one exists for the duration of a call, on the stack"
)]
enum RecordBody {
    #[prost(message, tag = "1")]
    Identity(StoredIdentity),
    #[prost(message, tag = "2")]
    IdentityReset(StoredIdentity),
    #[prost(message, tag = "3")]
    OrderAccepted(StoredOrder),
    #[prost(message, tag = "4")]
    Started(StoredStarted),
    #[prost(message, tag = "5")]
    Updated(StoredUpdate),
    #[prost(message, tag = "6")]
    Committed(StoredInstanceNumber),
    #[prost(message, tag = "7")]
    Released(StoredInstance),
    #[prost(message, tag = "8")]
    Orphaned(StoredInstance),
    #[prost(message, tag = "9")]
    Retried(StoredInstanceNumber),
    #[prost(uint64, tag = "10")]
    Floor(u64),
    #[prost(message, tag = "11")]
    Task(Box<StoredTask>),
    #[prost(message, tag = "22")]
    Executor(StoredExecutorRecord),
}

#[derive(Clone, PartialEq, prost::Message)]
struct StoredIdentity {
    /// 16 bytes, big-endian; empty for none.
    #[prost(bytes = "vec", tag = "1")]
    cluster: Vec<u8>,
    #[prost(uint64, tag = "2")]
    epoch: u64,
    #[prost(uint64, optional, tag = "3")]
    agent: Option<u64>,
    #[prost(uint64, tag = "4")]
    nonce: u64,
    #[prost(uint64, tag = "5")]
    confirmed: u64,
    #[prost(uint64, repeated, tag = "6")]
    tried: Vec<u64>,
    #[prost(uint64, tag = "7")]
    run: u64,
    #[prost(string, tag = "8")]
    boot_id: String,
    #[prost(uint64, tag = "9")]
    boot_run: u64,
}

#[derive(Clone, Copy, PartialEq, prost::Message)]
pub(super) struct StoredInstance {
    #[prost(uint64, tag = "1")]
    agent: u64,
    #[prost(uint64, tag = "2")]
    order: u64,
}

#[derive(Clone, PartialEq, prost::Message)]
struct StoredOrder {
    #[prost(uint64, tag = "1")]
    order: u64,
    #[prost(message, optional, tag = "2")]
    launch: Option<v1::LaunchOrder>,
    #[prost(uint64, tag = "3")]
    run: u64,
    #[prost(message, optional, tag = "4")]
    kill: Option<StoredInstanceNumber>,
    /// The agent of a launch, since 0.2.0.
    #[prost(uint64, optional, tag = "5")]
    agent: Option<u64>,
    #[prost(message, optional, tag = "24")]
    limits: Option<StoredLimits>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct StoredLimits {
    #[prost(message, required, tag = "1")]
    instance: StoredInstance,
    #[prost(message, optional, tag = "2")]
    limits: Option<v1::Limits>,
}

/// An instance with a number: of an update, a run, or milliseconds.
#[derive(Clone, Copy, PartialEq, prost::Message)]
pub(super) struct StoredInstanceNumber {
    #[prost(message, required, tag = "1")]
    pub(super) instance: StoredInstance,
    #[prost(uint64, tag = "2")]
    pub(super) number: u64,
}

#[derive(Clone, Copy, PartialEq, prost::Message)]
struct StoredStarted {
    #[prost(message, required, tag = "1")]
    instance: StoredInstance,
    #[prost(message, required, tag = "2")]
    fact: StoredStart,
}

#[derive(Clone, Copy, PartialEq, prost::Message)]
pub(super) struct StoredStart {
    #[prost(int32, tag = "1")]
    pid: i32,
    #[prost(uint64, tag = "2")]
    at_boot_ms: u64,
}

#[derive(Clone, PartialEq, prost::Message)]
struct StoredUpdate {
    #[prost(message, required, tag = "1")]
    instance: StoredInstance,
    #[prost(message, required, tag = "2")]
    update: v1::NumberedUpdate,
}

#[derive(Clone, PartialEq, prost::Message)]
struct StoredTask {
    #[prost(message, required, tag = "1")]
    instance: StoredInstance,
    #[prost(message, required, tag = "2")]
    launch: v1::LaunchOrder,
    #[prost(uint64, tag = "3")]
    run: u64,
    #[prost(uint64, optional, tag = "4")]
    kill_grace_ms: Option<u64>,
    #[prost(message, optional, tag = "5")]
    started: Option<StoredStart>,
    #[prost(message, repeated, tag = "6")]
    updates: Vec<v1::NumberedUpdate>,
    #[prost(uint64, tag = "7")]
    made: u64,
    #[prost(uint64, tag = "8")]
    committed: u64,
    #[prost(int32, tag = "9")]
    state: i32,
    #[prost(bool, tag = "10")]
    held: bool,
    #[prost(bool, tag = "42")]
    former: bool,
    #[prost(bool, optional, tag = "11")]
    healthy: Option<bool>,
    #[prost(bool, optional, tag = "12")]
    ready: Option<bool>,
    #[prost(string, optional, tag = "13")]
    unhealthy: Option<String>,
    #[prost(message, repeated, tag = "27")]
    unhealthy_causes: Vec<v1::Cause>,
    #[prost(uint32, tag = "28")]
    unhealthy_detail_bytes: u32,
    /// The failure of a task beyond its disk limit, since 0.2.0.
    #[prost(message, optional, tag = "43")]
    disk_excess: Option<StoredExplanation>,
    #[prost(uint64, tag = "24")]
    heard: u64,
    #[prost(uint64, tag = "40")]
    limits_order: u64,
    #[prost(uint64, tag = "41")]
    limits_reported: u64,
    #[prost(int64, optional, tag = "25")]
    healthy_since_ms: Option<i64>,
    #[prost(int64, optional, tag = "26")]
    ready_since_ms: Option<i64>,
}

/// Encodes a record.
pub(super) fn encode(record: &JournalRecord) -> Vec<u8> {
    let body = match record {
        JournalRecord::Identity(identity) => RecordBody::Identity(identity.into()),
        JournalRecord::IdentityReset(identity) => RecordBody::IdentityReset(identity.into()),
        JournalRecord::OrderAccepted { order, body } => {
            RecordBody::OrderAccepted(stored_order(*order, body))
        }
        JournalRecord::Started { instance, fact } => RecordBody::Started(StoredStarted {
            instance: (*instance).into(),
            fact: (*fact).into(),
        }),
        JournalRecord::Updated { instance, update } => RecordBody::Updated(StoredUpdate {
            instance: (*instance).into(),
            update: wire::update(update),
        }),
        JournalRecord::Committed { instance, number } => {
            RecordBody::Committed(numbered(*instance, *number))
        }
        JournalRecord::Released { instance } => RecordBody::Released((*instance).into()),
        JournalRecord::Orphaned { instance } => RecordBody::Orphaned((*instance).into()),
        JournalRecord::Retried { instance, run } => RecordBody::Retried(numbered(*instance, *run)),
        JournalRecord::Floor(order) => RecordBody::Floor(order.0),
        JournalRecord::Task { instance, facts } => {
            RecordBody::Task(Box::new(stored_task(*instance, facts)))
        }
        JournalRecord::Executor(record) => RecordBody::Executor(record.into()),
    };
    StoredRecord { body: Some(body) }.encode_to_vec()
}

/// Decodes a record; `None` if the bytes are not a known record.
pub(super) fn decode(bytes: &[u8]) -> Option<JournalRecord> {
    Some(match StoredRecord::decode(bytes).ok()?.body? {
        RecordBody::Identity(identity) => JournalRecord::Identity(identity.read()?),
        RecordBody::IdentityReset(identity) => JournalRecord::IdentityReset(identity.read()?),
        RecordBody::OrderAccepted(took) => took.read()?,
        RecordBody::Started(StoredStarted { instance, fact }) => JournalRecord::Started {
            instance: instance.into(),
            fact: fact.into(),
        },
        RecordBody::Updated(StoredUpdate { instance, update }) => JournalRecord::Updated {
            instance: instance.into(),
            update: Box::new(wire::update_from(update)?),
        },
        RecordBody::Committed(StoredInstanceNumber { instance, number }) => {
            JournalRecord::Committed {
                instance: instance.into(),
                number,
            }
        }
        RecordBody::Released(instance) => JournalRecord::Released {
            instance: instance.into(),
        },
        RecordBody::Orphaned(instance) => JournalRecord::Orphaned {
            instance: instance.into(),
        },
        RecordBody::Retried(StoredInstanceNumber { instance, number }) => JournalRecord::Retried {
            instance: instance.into(),
            run: number,
        },
        RecordBody::Floor(order) => JournalRecord::Floor(OrderIndex(order)),
        RecordBody::Task(task) => {
            let instance = task.instance.into();
            JournalRecord::Task {
                instance,
                facts: Box::new(task.read()?),
            }
        }
        RecordBody::Executor(record) => JournalRecord::Executor(record.read()?),
    })
}

/// Whether undecodable bytes are a record of a kind that this release does not know.
pub(super) fn is_of_unknown_kind(bytes: &[u8]) -> bool {
    !bytes.is_empty() && StoredRecord::decode(bytes).is_ok_and(|stored| stored.body.is_none())
}

fn stored_order(order: OrderIndex, body: &OrderBody) -> StoredOrder {
    let mut took = StoredOrder {
        order: order.0,
        ..StoredOrder::default()
    };
    match body {
        OrderBody::Launch {
            agent, launch, run, ..
        } => {
            took.agent = agent.map(|id| id.0);
            took.launch = Some(wire::launch(launch));
            took.run = *run;
        }
        OrderBody::Kill { instance, grace_ms } => took.kill = Some(numbered(*instance, *grace_ms)),
        OrderBody::Limits { instance, limits } => {
            took.limits = Some(StoredLimits {
                instance: (*instance).into(),
                limits: limits.as_ref().map(convert::limits),
            });
        }
        OrderBody::Nothing => {}
    }
    took
}

impl StoredOrder {
    fn read(self) -> Option<JournalRecord> {
        let what = match (self.launch, self.kill, self.limits) {
            (Some(launch), _, _) => {
                let launch = wire::launch_from(launch)?;
                OrderBody::Launch {
                    agent: self.agent.map(AgentId),
                    key: launch.key(),
                    launch: Arc::new(launch),
                    run: self.run,
                }
            }
            (None, Some(StoredInstanceNumber { instance, number }), _) => OrderBody::Kill {
                instance: instance.into(),
                grace_ms: number,
            },
            (None, None, Some(StoredLimits { instance, limits })) => OrderBody::Limits {
                instance: instance.into(),
                limits: limits.map(convert::limits_from),
            },
            (None, None, None) => OrderBody::Nothing,
        };
        Some(JournalRecord::OrderAccepted {
            order: OrderIndex(self.order),
            body: what,
        })
    }
}

fn stored_task(instance: Instance, facts: &TaskFacts) -> StoredTask {
    let (unhealthy, disk_excess) = match facts.failure.clone() {
        Some(FailureCause::Unhealthy(why)) => (Some(StoredExplanation::from(why)), None),
        Some(FailureCause::DiskLimitExceeded(why)) => (None, Some(StoredExplanation::from(why))),
        // It follows from the start.
        Some(FailureCause::DeadlineExceeded) | None => (None, None),
    };
    let is_unhealthy = unhealthy.is_some();
    let unhealthy = unhealthy.unwrap_or_default();
    StoredTask {
        instance: instance.into(),
        launch: wire::launch(&facts.launch),
        run: facts.run,
        kill_grace_ms: facts.kill_grace_ms,
        started: facts.started.map(Into::into),
        updates: facts.updates.iter().map(wire::update).collect(),
        made: facts.newest_update,
        committed: facts.committed,
        state: wire::state_number(facts.state),
        held: facts.held,
        former: facts.former,
        healthy: facts.check_results.healthy,
        ready: facts.check_results.ready,
        unhealthy: is_unhealthy.then_some(unhealthy.text),
        unhealthy_causes: unhealthy.causes,
        unhealthy_detail_bytes: unhealthy.detail_bytes,
        disk_excess,
        heard: facts.executor_serial,
        limits_order: facts.limits_order.0,
        limits_reported: facts.limits_reported.0,
        healthy_since_ms: facts.check_times.healthy,
        ready_since_ms: facts.check_times.ready,
    }
}

impl StoredTask {
    fn read(self) -> Option<TaskFacts> {
        let launch = wire::launch_from(self.launch)?;
        let updates = self.updates.into_iter().map(wire::update_from);
        let unhealthy = self.unhealthy.map(|text| StoredExplanation {
            causes: self.unhealthy_causes,
            text,
            detail_bytes: self.unhealthy_detail_bytes,
        });
        let unhealthy = unhealthy.map(|why| FailureCause::Unhealthy(why.into()));
        let disk_excess = self.disk_excess;
        let disk_excess = disk_excess.map(|why| FailureCause::DiskLimitExceeded(why.into()));
        Some(TaskFacts {
            key: launch.key(),
            launch: Arc::new(launch),
            run: self.run,
            kill_grace_ms: self.kill_grace_ms,
            started: self.started.map(Into::into),
            updates: updates.collect::<Option<_>>()?,
            newest_update: self.made,
            committed: self.committed,
            state: wire::task_state(self.state),
            held: self.held,
            former: self.former,
            check_results: CheckResults {
                healthy: self.healthy,
                ready: self.ready,
            },
            failure: unhealthy.or(disk_excess),
            executor_serial: self.heard,
            limits_order: OrderIndex(self.limits_order),
            limits_reported: OrderIndex(self.limits_reported),
            check_times: CheckTimes {
                healthy: self.healthy_since_ms,
                ready: self.ready_since_ms,
            },
        })
    }
}

pub(super) fn numbered(instance: Instance, number: u64) -> StoredInstanceNumber {
    StoredInstanceNumber {
        instance: instance.into(),
        number,
    }
}

impl From<&AgentIdentity> for StoredIdentity {
    fn from(identity: &AgentIdentity) -> Self {
        Self {
            cluster: identity
                .cluster
                .map(|id| id.0.to_be_bytes().to_vec())
                .unwrap_or_default(),
            epoch: identity.epoch.0,
            agent: identity.agent.map(|id| id.0),
            nonce: identity.nonce,
            confirmed: identity.confirmed,
            tried: identity.unconfirmed.clone(),
            run: identity.run,
            boot_id: identity.boot_id.clone(),
            boot_run: identity.boot_run,
        }
    }
}

impl StoredIdentity {
    fn read(self) -> Option<AgentIdentity> {
        let cluster = match self.cluster.as_slice() {
            [] => None,
            bytes => Some(ClusterId(u128::from_be_bytes(bytes.try_into().ok()?))),
        };
        Some(AgentIdentity {
            cluster,
            epoch: Epoch(self.epoch),
            agent: self.agent.map(AgentId),
            nonce: self.nonce,
            confirmed: self.confirmed,
            unconfirmed: self.tried,
            run: self.run,
            boot_id: self.boot_id,
            boot_run: self.boot_run,
        })
    }
}

impl From<Instance> for StoredInstance {
    fn from(instance: Instance) -> Self {
        Self {
            agent: instance.agent.0,
            order: instance.order.0,
        }
    }
}

impl From<StoredInstance> for Instance {
    fn from(stored: StoredInstance) -> Self {
        Self {
            agent: AgentId(stored.agent),
            order: OrderIndex(stored.order),
        }
    }
}

impl From<StartedFact> for StoredStart {
    fn from(fact: StartedFact) -> Self {
        Self {
            pid: fact.pid,
            at_boot_ms: fact.at.0,
        }
    }
}

impl From<StoredStart> for StartedFact {
    fn from(stored: StoredStart) -> Self {
        Self {
            pid: stored.pid,
            at: Timestamp(stored.at_boot_ms),
        }
    }
}
