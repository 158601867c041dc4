//! Singletons, counters, weights and answers to operators as stored.

use prost::Message;

use super::framework::{RefusalMessage, code};
use super::names::{RevisionMessage, TaskKeyMessage};
use super::operate::SweepMessage;
use super::{Read, Wrong};
use crate::command::ClusterFacts;
use crate::ids::{ClusterId, Epoch, NodeId, Revision, Timestamp};
use crate::level::Level;
use crate::registry::{Cluster, OperatorAnswer, SweepMark};

#[derive(Clone, PartialEq, Message)]
pub(super) struct TimeRecord {
    #[prost(uint64, tag = "1")]
    time: u64,
}

impl From<Timestamp> for TimeRecord {
    fn from(time: Timestamp) -> Self {
        Self { time: time.0 }
    }
}

impl TryFrom<TimeRecord> for Timestamp {
    type Error = Wrong;

    fn try_from(record: TimeRecord) -> Read<Self> {
        Ok(Self(record.time))
    }
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct WeightRecord {
    #[prost(uint64, tag = "1")]
    weight_milli: u64,
}

impl From<u64> for WeightRecord {
    fn from(weight_milli: u64) -> Self {
        Self { weight_milli }
    }
}

impl TryFrom<WeightRecord> for u64 {
    type Error = Wrong;

    fn try_from(record: WeightRecord) -> Read<Self> {
        Ok(record.weight_milli)
    }
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct ClusterRecord {
    #[prost(uint32, tag = "1")]
    pub(super) format: u32,
    /// 16 bytes, big-endian.
    #[prost(bytes = "vec", tag = "2")]
    id: Vec<u8>,
    #[prost(bytes = "vec", tag = "3")]
    offer_key: Vec<u8>,
    #[prost(bytes = "vec", optional, tag = "4")]
    former_offer_key: Option<Vec<u8>>,
    #[prost(uint64, tag = "5")]
    epoch: u64,
    #[prost(uint64, tag = "6")]
    leader: u64,
    #[prost(fixed64, tag = "7")]
    process: u64,
    #[prost(uint64, tag = "8")]
    term: u64,
    #[prost(uint64, tag = "9")]
    last_agent: u64,
    #[prost(uint64, tag = "10")]
    last_framework: u64,
    #[prost(uint64, tag = "11")]
    last_finished: u64,
    #[prost(message, repeated, tag = "12")]
    sweeps: Vec<SweepMarkMessage>,
    #[prost(uint64, optional, tag = "13")]
    mass_loss: Option<u64>,
}

#[derive(Clone, PartialEq, Message)]
struct SweepMarkMessage {
    #[prost(message, optional, tag = "1")]
    target: Option<SweepMessage>,
    #[prost(message, optional, tag = "2")]
    after: Option<TaskKeyMessage>,
    #[prost(int64, tag = "3")]
    wall_ms: i64,
}

impl From<&Cluster> for ClusterRecord {
    fn from(cluster: &Cluster) -> Self {
        let facts = &cluster.facts;
        Self {
            format: cluster.level.0,
            id: facts.id.0.to_be_bytes().to_vec(),
            offer_key: facts.offer_key.to_vec(),
            former_offer_key: facts.former_offer_key.map(|key| key.to_vec()),
            epoch: cluster.epoch.0,
            leader: cluster.leader.0,
            process: cluster.process,
            term: cluster.term,
            last_agent: cluster.last_agent,
            last_framework: cluster.last_framework,
            last_finished: cluster.last_finished,
            sweeps: cluster
                .sweeps
                .iter()
                .map(|(target, mark)| SweepMarkMessage {
                    target: Some((*target).into()),
                    after: mark.after.as_ref().map(Into::into),
                    wall_ms: mark.wall_ms,
                })
                .collect(),
            mass_loss: cluster.mass_loss.map(|at| at.0),
        }
    }
}

impl TryFrom<ClusterRecord> for Cluster {
    type Error = Wrong;

    fn try_from(record: ClusterRecord) -> Read<Self> {
        let offer_key = |bytes: Vec<u8>| <[u8; 32]>::try_from(bytes).map_err(|_| Wrong("key"));
        let id = <[u8; 16]>::try_from(record.id).map_err(|_| Wrong("cluster id"))?;
        let sweeps: Read<_> = record
            .sweeps
            .into_iter()
            .map(|mark| {
                let target = mark.target.ok_or(Wrong("sweep"))?.try_into()?;
                let after = mark.after.map(TryInto::try_into).transpose()?;
                let wall_ms = mark.wall_ms;
                Ok((target, SweepMark { after, wall_ms }))
            })
            .collect();
        Ok(Self {
            facts: ClusterFacts {
                id: ClusterId(u128::from_be_bytes(id)),
                offer_key: offer_key(record.offer_key)?,
                former_offer_key: record.former_offer_key.map(offer_key).transpose()?,
            },
            level: Level(record.format),
            epoch: Epoch(record.epoch),
            leader: NodeId(record.leader),
            process: record.process,
            term: record.term,
            last_agent: record.last_agent,
            last_framework: record.last_framework,
            last_finished: record.last_finished,
            sweeps: sweeps?,
            mass_loss: record.mass_loss.map(Timestamp),
        })
    }
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct OperatorAnswerRecord {
    #[prost(fixed64, tag = "1")]
    hash: u64,
    #[prost(uint64, tag = "2")]
    at: u64,
    #[prost(message, repeated, tag = "3")]
    outcomes: Vec<OperatorOutcome>,
    #[prost(message, optional, tag = "20")]
    revision: Option<RevisionMessage>,
}

#[derive(Clone, PartialEq, Message)]
struct OperatorOutcome {
    /// Absent for done.
    #[prost(message, optional, tag = "1")]
    refusal: Option<RefusalMessage>,
}

impl From<&OperatorAnswer> for OperatorAnswerRecord {
    fn from(answer: &OperatorAnswer) -> Self {
        let outcome = |outcome: &Option<(u8, String)>| OperatorOutcome {
            refusal: outcome.as_ref().map(|(code, message)| RefusalMessage {
                code: u32::from(*code),
                message: message.clone(),
            }),
        };
        Self {
            hash: answer.hash,
            at: answer.at.0,
            outcomes: answer.outcomes.iter().map(outcome).collect(),
            revision: (answer.revision.index > 0).then(|| answer.revision.into()),
        }
    }
}

impl TryFrom<OperatorAnswerRecord> for OperatorAnswer {
    type Error = Wrong;

    fn try_from(record: OperatorAnswerRecord) -> Read<Self> {
        let outcomes: Read<Vec<_>> = record
            .outcomes
            .into_iter()
            .map(|outcome| match outcome.refusal {
                None => Ok(None),
                Some(refusal) => Ok(Some((code(refusal.code)?, refusal.message))),
            })
            .collect();
        Ok(Self {
            hash: record.hash,
            at: Timestamp(record.at),
            revision: match record.revision {
                Some(revision) => revision.into(),
                None => Revision::default(),
            },
            outcomes: outcomes?,
        })
    }
}
