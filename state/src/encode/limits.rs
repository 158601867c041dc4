//! Limits of tasks, as stored.

use prost::Message;

use super::Wrong;
use super::names::{self, RevisionMessage};
use crate::ids::OrderIndex;
use crate::task::{DiskLimit, Limits, LimitsChange, LimitsReport};

#[derive(Clone, PartialEq, Message)]
pub(super) struct LimitsMessage {
    #[prost(uint64, optional, tag = "1")]
    cpu_millis: Option<u64>,
    #[prost(uint64, optional, tag = "2")]
    memory_bytes: Option<u64>,
    #[prost(uint64, optional, tag = "3")]
    pids: Option<u64>,
    #[prost(uint64, optional, tag = "4")]
    io_weight: Option<u64>,
    #[prost(message, repeated, tag = "5")]
    io: Vec<DiskLimitMessage>,
    #[prost(bool, tag = "6")]
    exclusive_cpus: bool,
}

#[derive(Clone, PartialEq, Message)]
struct DiskLimitMessage {
    #[prost(string, tag = "1")]
    disk: String,
    #[prost(uint64, optional, tag = "2")]
    read_bytes: Option<u64>,
    #[prost(uint64, optional, tag = "3")]
    write_bytes: Option<u64>,
    #[prost(uint64, optional, tag = "4")]
    read_operations: Option<u64>,
    #[prost(uint64, optional, tag = "5")]
    write_operations: Option<u64>,
}

impl From<&Limits> for LimitsMessage {
    fn from(limits: &Limits) -> Self {
        Self {
            cpu_millis: limits.cpu_millis,
            memory_bytes: limits.memory_bytes,
            pids: limits.pids,
            io_weight: limits.io_weight,
            io: limits.io.iter().map(Into::into).collect(),
            exclusive_cpus: limits.exclusive_cpus,
        }
    }
}

impl TryFrom<LimitsMessage> for Limits {
    type Error = Wrong;

    fn try_from(message: LimitsMessage) -> Result<Self, Wrong> {
        Ok(Self {
            cpu_millis: message.cpu_millis,
            memory_bytes: message.memory_bytes,
            pids: message.pids,
            io_weight: message.io_weight,
            io: message.io.into_iter().map(Into::into).collect(),
            exclusive_cpus: message.exclusive_cpus,
        })
    }
}

/// The limits of a record that must have some.
pub(super) fn required(message: Option<LimitsMessage>) -> Result<Limits, Wrong> {
    message.ok_or(Wrong("limits"))?.try_into()
}

fn boxed(message: Option<LimitsMessage>) -> Result<Option<Box<Limits>>, Wrong> {
    message
        .map(|limits| limits.try_into().map(Box::new))
        .transpose()
}

/// What an agent says of an order that changes limits.
#[derive(Clone, PartialEq, Message)]
pub(super) struct LimitsReportMessage {
    #[prost(uint64, tag = "1")]
    order: u64,
    #[prost(string, optional, tag = "2")]
    refusal: Option<String>,
    #[prost(message, optional, tag = "3")]
    held: Option<LimitsMessage>,
}

impl From<&LimitsReport> for LimitsReportMessage {
    fn from(report: &LimitsReport) -> Self {
        Self {
            order: report.order.0,
            refusal: report.outcome.clone().err(),
            held: report.held.as_deref().map(Into::into),
        }
    }
}

impl TryFrom<LimitsReportMessage> for LimitsReport {
    type Error = Wrong;

    fn try_from(message: LimitsReportMessage) -> Result<Self, Wrong> {
        Ok(Self {
            order: OrderIndex(message.order),
            outcome: message.refusal.map_or(Ok(()), Err),
            held: boxed(message.held)?,
        })
    }
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct LimitsChangeMessage {
    #[prost(uint64, tag = "1")]
    order: u64,
    #[prost(message, optional, tag = "2")]
    revision: Option<RevisionMessage>,
    #[prost(bool, tag = "3")]
    settled: bool,
    #[prost(string, optional, tag = "4")]
    refusal: Option<String>,
    #[prost(message, optional, tag = "5")]
    before: Option<LimitsMessage>,
}

impl From<&LimitsChange> for LimitsChangeMessage {
    fn from(change: &LimitsChange) -> Self {
        Self {
            order: change.order.0,
            revision: Some(change.revision.into()),
            settled: change.outcome.is_some(),
            refusal: change.outcome.clone().and_then(Result::err),
            before: change.before.as_deref().map(Into::into),
        }
    }
}

impl TryFrom<LimitsChangeMessage> for LimitsChange {
    type Error = Wrong;

    fn try_from(message: LimitsChangeMessage) -> Result<Self, Wrong> {
        let outcome = message.refusal.map_or(Ok(()), Err);
        Ok(Self {
            order: OrderIndex(message.order),
            revision: names::revision(message.revision)?,
            outcome: message.settled.then_some(outcome),
            before: boxed(message.before)?,
        })
    }
}

impl From<&DiskLimit> for DiskLimitMessage {
    fn from(limit: &DiskLimit) -> Self {
        Self {
            disk: limit.disk.clone(),
            read_bytes: limit.read_bytes,
            write_bytes: limit.write_bytes,
            read_operations: limit.read_operations,
            write_operations: limit.write_operations,
        }
    }
}

impl From<DiskLimitMessage> for DiskLimit {
    fn from(message: DiskLimitMessage) -> Self {
        Self {
            disk: message.disk,
            read_bytes: message.read_bytes,
            write_bytes: message.write_bytes,
            read_operations: message.read_operations,
            write_operations: message.write_operations,
        }
    }
}
