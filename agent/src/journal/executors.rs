//! Encoding of executor records.

use std::sync::Arc;

use argosy_proto::v1;
use argosy_state::ids::{AgentId, OrderIndex};

use super::explanation::StoredExplanation;
use super::record::{StoredInstance, StoredInstanceNumber, StoredStart, numbered};
use crate::core::{ExecutorInfo, ExecutorRecord, Instance};
use crate::wire;

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct StoredExecutorRecord {
    #[prost(oneof = "ExecutorRecordBody", tags = "1, 2, 3, 4, 5")]
    body: Option<ExecutorRecordBody>,
}

#[derive(Clone, PartialEq, prost::Oneof)]
#[allow(
    clippy::large_enum_variant,
    reason = "one exists for the duration of a call, on the stack"
)]
enum ExecutorRecordBody {
    #[prost(message, tag = "1")]
    Created(StoredExecutor),
    #[prost(message, tag = "2")]
    Started(StoredExecutorStart),
    #[prost(message, tag = "3")]
    Ending(StoredEnding),
    #[prost(message, tag = "4")]
    Cleared(StoredInstance),
    #[prost(message, tag = "5")]
    UpdateReceived(StoredInstanceNumber),
}

#[derive(Clone, PartialEq, prost::Message)]
struct StoredExecutor {
    #[prost(message, required, tag = "1")]
    instance: StoredInstance,
    #[prost(message, required, tag = "2")]
    launch: v1::LaunchOrder,
    #[prost(uint64, tag = "3")]
    run: u64,
    #[prost(message, optional, tag = "4")]
    started: Option<StoredStart>,
    #[prost(bool, tag = "5")]
    ending: bool,
    /// Since 0.2.0.
    #[prost(message, optional, tag = "6")]
    disk_excess: Option<StoredExplanation>,
    /// Since 0.2.0.
    #[prost(message, optional, tag = "7")]
    last_task: Option<StoredInstance>,
}

/// A [`StoredInstance`] with the reason, which releases before 0.2.0 neither write nor read.
#[derive(Clone, PartialEq, prost::Message)]
struct StoredEnding {
    #[prost(uint64, tag = "1")]
    agent: u64,
    #[prost(uint64, tag = "2")]
    order: u64,
    #[prost(message, optional, tag = "3")]
    disk_excess: Option<StoredExplanation>,
}

#[derive(Clone, Copy, PartialEq, prost::Message)]
struct StoredExecutorStart {
    #[prost(message, required, tag = "1")]
    instance: StoredInstance,
    #[prost(message, required, tag = "2")]
    fact: StoredStart,
}

impl From<&ExecutorRecord> for StoredExecutorRecord {
    fn from(record: &ExecutorRecord) -> Self {
        let body = match record {
            ExecutorRecord::Created { instance, facts } => {
                ExecutorRecordBody::Created(StoredExecutor {
                    instance: (*instance).into(),
                    launch: wire::launch(&facts.launch),
                    run: facts.run,
                    started: facts.started.map(Into::into),
                    ending: facts.ending,
                    disk_excess: facts.disk_excess.clone().map(Into::into),
                    last_task: facts.last_task.map(Into::into),
                })
            }
            ExecutorRecord::Started { instance, fact } => {
                ExecutorRecordBody::Started(StoredExecutorStart {
                    instance: (*instance).into(),
                    fact: (*fact).into(),
                })
            }
            ExecutorRecord::Ending {
                instance,
                disk_excess,
            } => ExecutorRecordBody::Ending(StoredEnding {
                agent: instance.agent.0,
                order: instance.order.0,
                disk_excess: disk_excess.clone().map(Into::into),
            }),
            ExecutorRecord::Cleared { instance } => ExecutorRecordBody::Cleared((*instance).into()),
            ExecutorRecord::UpdateReceived { instance, serial } => {
                ExecutorRecordBody::UpdateReceived(numbered(*instance, *serial))
            }
        };
        Self { body: Some(body) }
    }
}

impl StoredExecutorRecord {
    pub(super) fn read(self) -> Option<ExecutorRecord> {
        Some(match self.body? {
            ExecutorRecordBody::Created(stored) => {
                let launch = wire::launch_from(stored.launch)?;
                ExecutorRecord::Created {
                    instance: stored.instance.into(),
                    facts: Box::new(ExecutorInfo {
                        key: launch.key(),
                        launch: Arc::new(launch),
                        run: stored.run,
                        started: stored.started.map(Into::into),
                        ending: stored.ending,
                        disk_excess: stored.disk_excess.map(Into::into),
                        last_task: stored.last_task.map(Into::into),
                    }),
                }
            }
            ExecutorRecordBody::Started(StoredExecutorStart { instance, fact }) => {
                ExecutorRecord::Started {
                    instance: instance.into(),
                    fact: fact.into(),
                }
            }
            ExecutorRecordBody::Ending(stored) => ExecutorRecord::Ending {
                instance: Instance {
                    agent: AgentId(stored.agent),
                    order: OrderIndex(stored.order),
                },
                disk_excess: stored.disk_excess.map(Into::into),
            },
            ExecutorRecordBody::Cleared(instance) => ExecutorRecord::Cleared {
                instance: instance.into(),
            },
            ExecutorRecordBody::UpdateReceived(StoredInstanceNumber { instance, number }) => {
                ExecutorRecord::UpdateReceived {
                    instance: instance.into(),
                    serial: number,
                }
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use argosy_state::ids::Timestamp;

    use super::super::record::{decode, encode};
    use super::*;
    use crate::core::{JournalRecord, StartedFact};

    #[test]
    fn executor_records_round_trip() {
        let instance = Instance {
            agent: AgentId(1),
            order: OrderIndex(2),
        };
        let fact = StartedFact {
            pid: 77,
            at: Timestamp(5),
        };
        let launch = v1::LaunchOrder {
            framework_id: "framework-1".into(),
            spec: Some(v1::TaskSpec {
                task_id: "e".into(),
                ..v1::TaskSpec::default()
            }),
            ..v1::LaunchOrder::default()
        };
        let launch = wire::launch_from(launch).unwrap();
        let facts = Box::new(ExecutorInfo {
            key: launch.key(),
            launch: Arc::new(launch),
            run: 3,
            started: Some(fact),
            ending: true,
            disk_excess: Some("out of disk".into()),
            last_task: Some(instance),
        });
        for record in [
            ExecutorRecord::Created { instance, facts },
            ExecutorRecord::Started { instance, fact },
            ExecutorRecord::Ending {
                instance,
                disk_excess: None,
            },
            ExecutorRecord::Ending {
                instance,
                disk_excess: Some("out of disk".into()),
            },
            ExecutorRecord::Cleared { instance },
            ExecutorRecord::UpdateReceived {
                instance,
                serial: 9,
            },
        ] {
            let record = JournalRecord::Executor(record);
            assert_eq!(decode(&encode(&record)), Some(record));
        }
    }
}
