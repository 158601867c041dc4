//! Linearizable reads: the log index that a read has to wait for, confirmed by a quorum, never by a
//! lease.
//!
//! One confirmation serves all reads that were queued before it began. Later reads share the next
//! one.

use std::time::Duration;

use argosy_state::planted_bug;
use openraft::ReadPolicy;
use openraft::errors::{LinearizableReadError, RaftError};
use tokio::sync::{mpsc, oneshot, watch};
use tokio_util::sync::CancellationToken;

use crate::error::ReadError;
use crate::group::GroupHandle;
use crate::liveness::Liveness;
use crate::settings::Timing;
use crate::state_machine::Consensus;
use crate::status::RaftStatus;
use crate::transport::connections::{self, Peers};
use crate::transport::network::CallerIdentity;
use crate::transport::wire::proto;
use crate::types::TypeConfig;

/// The maximum number of reads that wait for one confirmation; further reads wait to be queued.
const QUEUE: usize = 4_096;

type ReadResponder = oneshot::Sender<Result<ReadConfirmation, ReadError>>;

/// The confirmation of a quorum.
#[derive(Debug, Clone, Copy)]
pub(crate) struct ReadConfirmation {
    /// The index that a read has to wait for.
    pub(crate) index: u64,
    /// The term that this node leads; `None` if another one leads.
    pub(crate) own_term: Option<u64>,
}

/// The callers' end of the queue of reads.
#[derive(Clone)]
pub(crate) struct ReadIndexQueue(mpsc::Sender<ReadResponder>);

impl ReadIndexQueue {
    pub(crate) fn new() -> (ReadIndexQueue, mpsc::Receiver<ReadResponder>) {
        let (sender, receiver) = mpsc::channel(QUEUE);
        (ReadIndexQueue(sender), receiver)
    }

    pub(crate) async fn confirm(&self) -> Result<ReadConfirmation, ReadError> {
        let (answer, answered) = oneshot::channel();
        self.0
            .send(answer)
            .await
            .map_err(|_closed| ReadError::Stopped)?;
        answered.await.unwrap_or(Err(ReadError::Stopped))
    }
}

/// The task that confirms reads.
pub(crate) struct ReadIndexTask {
    raft: Consensus,
    caller: CallerIdentity,
    peers: Peers,
    timing: Timing,
    status: watch::Receiver<RaftStatus>,
    liveness: Liveness,
}

impl ReadIndexTask {
    pub(crate) fn new(group: GroupHandle) -> ReadIndexTask {
        let GroupHandle {
            raft,
            caller,
            peers,
            timing,
            status,
            liveness,
        } = group;
        ReadIndexTask {
            raft,
            caller,
            peers,
            timing,
            status,
            liveness,
        }
    }

    /// Confirms reads until the node stops.
    pub(crate) async fn run(
        self,
        mut requests: mpsc::Receiver<ReadResponder>,
        stop: CancellationToken,
    ) {
        let mut waiting = Vec::new();
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                taken = requests.recv_many(&mut waiting, QUEUE) => if taken == 0 { return },
            }
            let result = tokio::select! {
                () = stop.cancelled() => Err(ReadError::Stopped),
                result = self.confirm() => result,
            };
            for answer in waiting.drain(..) {
                // The caller may have been dropped.
                let _ = answer.send(result.clone());
            }
        }
    }

    /// Implements the planted bug `ReadWithoutQuorum`.
    fn unconfirmed(&self) -> ReadConfirmation {
        let status = self.status.borrow();
        let own_term = status.is_leader.then_some(status.term);
        ReadConfirmation { index: 0, own_term }
    }

    async fn confirm(&self) -> Result<ReadConfirmation, ReadError> {
        planted_bug!(ReadWithoutQuorum => return Ok(self.unconfirmed()));
        let leader = self.status.borrow().leader.clone();
        let (id, member) = leader.ok_or(ReadError::NoLeader)?;
        if id == self.caller.id {
            return read_index(&self.raft, &self.liveness, self.timing).await;
        }
        let not_confirmed = |status: tonic::Status| ReadError::NotConfirmed {
            reason: status.message().to_owned(),
        };
        let connections = self.peers.to(&member.raft_address).map_err(not_confirmed)?;
        let mut client = connections::client(connections.control.clone());
        let request = proto::ReadIndexRequest {
            header: Some(self.caller.header(id, &connections)),
        };
        let deadline = Duration::from_millis(self.timing.append_deadline_ms);
        match tokio::time::timeout(deadline, client.read_index(request)).await {
            Ok(Ok(answer)) => Ok(ReadConfirmation {
                index: answer.into_inner().index,
                own_term: None,
            }),
            Ok(Err(status)) => Err(not_confirmed(status)),
            Err(_elapsed) => Err(ReadError::NotConfirmed {
                reason: "it did not answer in time".to_owned(),
            }),
        }
    }
}

/// Returns the read index of this node, if it leads and a quorum confirms that in time. The index
/// is never below the leader's first entry: the named entry is of the leader's term.
pub(crate) async fn read_index(
    raft: &Consensus,
    liveness: &Liveness,
    timing: Timing,
) -> Result<ReadConfirmation, ReadError> {
    type Failure = RaftError<TypeConfig, LinearizableReadError<TypeConfig>>;
    // A read sends heartbeats, and these would keep the others from electing a leader that they can
    // answer.
    if liveness.is_silent() {
        return Err(ReadError::NotConfirmed {
            reason: "no quorum has answered it in time".to_owned(),
        });
    }
    // Consensus answers nothing while it waits for a stalled disk.
    let deadline = Duration::from_millis(timing.append_deadline_ms);
    let confirmed = raft.get_read_log_id(ReadPolicy::ReadIndex);
    let Ok(confirmed) = tokio::time::timeout(deadline, confirmed).await else {
        return Err(ReadError::NotConfirmed {
            reason: "no quorum has confirmed it in time".to_owned(),
        });
    };
    match confirmed {
        Ok((read, _applied)) => Ok(ReadConfirmation {
            index: read.index(),
            own_term: Some(read.committed_leader_id().term),
        }),
        Err(Failure::APIError(LinearizableReadError::ForwardToLeader(_))) => {
            Err(ReadError::NoLeader)
        }
        Err(Failure::APIError(LinearizableReadError::QuorumNotEnough(_))) => {
            Err(ReadError::NotConfirmed {
                reason: "too few masters answer it".to_owned(),
            })
        }
        Err(Failure::Fatal(_)) => Err(ReadError::Stopped),
    }
}
