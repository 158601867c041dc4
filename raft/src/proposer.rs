//! Group commit: one task takes all queued commands and proposes them as one entry, with one
//! proposal in flight.
//!
//! More proposals in flight would only make smaller batches. Nothing is retried here: when
//! leadership is lost, the owner forgets the commands in flight. A repeated command is recognized
//! by its id.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use argosy_state::buggify;
use argosy_state::planted_bug;
use bytes::Bytes;
use metrics::{Histogram, histogram};
use openraft::alias::OneshotReceiverOf;
use openraft::errors::ClientWriteError;
use openraft::impls::ProgressResponder;
use openraft::raft::ClientWriteResult;
use tokio::sync::mpsc::error::TrySendError;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, TryAcquireError, mpsc};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::debug;

use crate::concurrency::{self, AtomicU64};
use crate::error::ProposeError;
use crate::log_size::LogGrowth;
use crate::state_machine::Consensus;
use crate::state_machine::{TURN_BYTES, TURN_COMMANDS, TURN_WORK};
use crate::types::{Batch, CommittedLeaderId, TypeConfig};

/// The maximum size of a command. A command that exceeds the limit of an entry is an entry by
/// itself.
pub const ENTRY_LIMIT_BYTES: usize = 1 << 20;
/// The maximum number of queued commands. When the queue is full, `try_propose` returns an error
/// and `propose` waits.
const QUEUE_COMMANDS: usize = 65_536;
/// The maximum bytes of queued commands; a full queue behaves as above.
const QUEUE_BYTES: usize = 64 << 20;
/// The maximum number of entries that may be committed but not applied before the next is proposed.
/// They are enough to overlap applying one with replicating the next, and few enough that a slow
/// owner slows its callers down.
const UNAPPLIED: usize = 8;

/// The pause before a rejected proposal is retried.
const RETRY_PAUSE: Duration = Duration::from_millis(1);

/// One command, and the time at which it was made.
#[derive(Clone, Debug)]
pub struct Proposal {
    /// Cluster time in milliseconds. The entry carries the latest of its commands.
    pub at_ms: u64,
    /// The command, opaque here. At most `ENTRY_LIMIT_BYTES`.
    pub command: Bytes,
    /// The cost of applying it: an entry holds at most [`TURN_WORK`] of it, or one command.
    pub work: u32,
}

/// A term that this node leads, and how often its owner has stopped leading in between.
#[derive(Clone, Copy, PartialEq, Eq)]
struct LeadershipPeriod {
    term: u64,
    clears: u64,
}

struct QueuedProposal {
    /// The term of leadership in which it was queued: it is not proposed in another one.
    period: LeadershipPeriod,
    queued_at: Instant,
    proposal: Proposal,
    /// Its share of the queue's bytes, released when it is proposed or dropped.
    _bytes: OwnedSemaphorePermit,
}

/// The callers' end of the queue. Cheap to clone.
#[derive(Clone)]
pub(crate) struct ProposalQueue {
    sender: mpsc::Sender<QueuedProposal>,
    bytes: Arc<Semaphore>,
    leading_term: Arc<AtomicU64>,
    clears: Arc<AtomicU64>,
}

impl ProposalQueue {
    pub(crate) fn new(leading_term: Arc<AtomicU64>) -> (ProposalQueue, Proposer) {
        let (sender, receiver) = mpsc::channel(QUEUE_COMMANDS);
        let forgotten = Arc::new(AtomicU64::new(0));
        let bytes = Arc::new(Semaphore::new(QUEUE_BYTES));
        let queue = ProposalQueue {
            sender,
            bytes,
            leading_term: leading_term.clone(),
            clears: forgotten.clone(),
        };
        (
            queue,
            Proposer {
                receiver,
                leading_term,
                clears: forgotten,
                next: None,
            },
        )
    }

    /// Drops the queued commands that are not yet proposed: their owner is no longer the active
    /// leader.
    pub(crate) fn clear(&self) {
        self.clears.fetch_add(1, Ordering::Relaxed);
    }

    fn admit(&self, proposal: &Proposal) -> Result<(LeadershipPeriod, u32), ProposeError> {
        let bytes = proposal.command.len();
        if bytes > ENTRY_LIMIT_BYTES {
            return Err(ProposeError::TooLarge {
                bytes,
                limit: ENTRY_LIMIT_BYTES,
            });
        }
        let forgotten = self.clears.load(Ordering::Relaxed);
        match self.leading_term.load(Ordering::Relaxed) {
            0 if self.sender.is_closed() => Err(ProposeError::Stopped),
            0 => Err(ProposeError::NotLeader),
            term => {
                let bytes = u32::try_from(bytes).expect("an entry is smaller than 4 GiB");
                Ok((
                    LeadershipPeriod {
                        term,
                        clears: forgotten,
                    },
                    bytes,
                ))
            }
        }
    }

    pub(crate) fn try_propose(&self, proposal: Proposal) -> Result<(), ProposeError> {
        let (epoch_record, bytes) = self.admit(&proposal)?;
        let permit = match self.bytes.clone().try_acquire_many_owned(bytes) {
            Ok(permit) => permit,
            Err(TryAcquireError::NoPermits) => return Err(ProposeError::Full),
            Err(TryAcquireError::Closed) => return Err(ProposeError::Stopped),
        };
        self.sender
            .try_send(QueuedProposal {
                period: epoch_record,
                queued_at: Instant::now(),
                proposal,
                _bytes: permit,
            })
            .map_err(|error| match error {
                TrySendError::Full(_) => ProposeError::Full,
                TrySendError::Closed(_) => ProposeError::Stopped,
            })
    }

    pub(crate) async fn propose(&self, proposal: Proposal) -> Result<(), ProposeError> {
        let (epoch_record, bytes) = self.admit(&proposal)?;
        let permit = self
            .bytes
            .clone()
            .acquire_many_owned(bytes)
            .await
            .map_err(|_closed| ProposeError::Stopped)?;
        let queued = QueuedProposal {
            period: epoch_record,
            queued_at: Instant::now(),
            proposal,
            _bytes: permit,
        };
        self.sender
            .send(queued)
            .await
            .map_err(|_closed| ProposeError::Stopped)
    }
}

enum ProposalOutcome {
    /// Committed, or its leader is gone.
    Done,
    /// Rejected before it was in the log.
    Rejected,
    /// Consensus has ended.
    Stopped,
}

type WriteResultReceiver = OneshotReceiverOf<TypeConfig, ClientWriteResult<TypeConfig>>;

/// The task's end of the queue.
pub(crate) struct Proposer {
    receiver: mpsc::Receiver<QueuedProposal>,
    leading_term: Arc<AtomicU64>,
    clears: Arc<AtomicU64>,
    /// The first command of the next entry: it did not fit into the last one.
    next: Option<QueuedProposal>,
}

/// The writer of entries: consensus, or a model of it in a test.
trait EntryWriter {
    /// Proposes one entry as the leader of this term, and waits until it is committed or rejected.
    async fn write(&mut self, term: u64, batch: Batch, queued_at: Instant) -> ProposalOutcome;
}

struct RaftEntryWriter<'a> {
    raft: &'a Consensus,
    unapplied: VecDeque<WriteResultReceiver>,
    /// Times from the queueing of the first command of an entry to its commit.
    committed: Histogram,
}

impl Proposer {
    /// Proposes until the node stops.
    pub(crate) async fn run(mut self, raft: Consensus, growth: LogGrowth, stop: CancellationToken) {
        let mut writer = RaftEntryWriter {
            raft: &raft,
            unapplied: VecDeque::new(),
            committed: histogram!("argosy_raft_proposal_duration_seconds"),
        };
        tokio::select! {
            () = stop.cancelled() => {}
            () = self.propose_all(&mut writer, &growth) => {}
        }
    }

    async fn propose_all(&mut self, writer: &mut impl EntryWriter, growth: &LogGrowth) {
        loop {
            let first = match self.next.take() {
                Some(held) => held,
                None => match self.receiver.recv().await {
                    Some(first) => first,
                    None => return,
                },
            };
            let (period, queued_at) = (first.period, first.queued_at);
            if !self.is_current(period) {
                // Leadership was lost, or won again, in between: the owner has forgotten the
                // command.
                continue;
            }
            let batch = self.batch(first);
            growth.add(1, batch.bytes() as u64);
            loop {
                let term = planted_bug!(StaleEpochCommits, period.term, self.period().term);
                match writer.write(term, batch.clone(), queued_at).await {
                    ProposalOutcome::Done => break,
                    ProposalOutcome::Stopped => return,
                    // No voter has answered a new leader yet, or a transfer is under way. If this
                    // node keeps leading, the owner has no reason to forget the commands, so they
                    // must not be lost.
                    ProposalOutcome::Rejected if self.is_current(period) => {
                        concurrency::pause(RETRY_PAUSE).await
                    }
                    ProposalOutcome::Rejected => break,
                }
            }
        }
    }

    fn period(&self) -> LeadershipPeriod {
        LeadershipPeriod {
            term: self.leading_term.load(Ordering::Relaxed),
            clears: self.clears.load(Ordering::Relaxed),
        }
    }

    /// Returns whether the owner still expects what was queued in this term of leadership.
    fn is_current(&self, period: LeadershipPeriod) -> bool {
        period == self.period() || planted_bug!(StaleEpochCommits)
    }

    /// Takes queued commands up to the limits of one request to the owner: an entry is applied in
    /// one.
    fn batch(&mut self, first: QueuedProposal) -> Batch {
        let period = first.period;
        let mut bytes = first.proposal.command.len();
        let mut work = first.proposal.work;
        let mut batch = Batch {
            at_ms: first.proposal.at_ms,
            commands: vec![first.proposal.command],
        };
        let most = buggify!(OneCommandAnEntry, TURN_COMMANDS, 1);
        while batch.commands.len() < most {
            let Ok(next) = self.receiver.try_recv() else {
                break;
            };
            bytes += next.proposal.command.len();
            work = work.saturating_add(next.proposal.work);
            if next.period != period || bytes > TURN_BYTES || work > TURN_WORK {
                self.next = Some(next);
                break;
            }
            batch.at_ms = batch.at_ms.max(next.proposal.at_ms);
            batch.commands.push(next.proposal.command);
        }
        batch
    }
}

impl EntryWriter for RaftEntryWriter<'_> {
    async fn write(&mut self, term: u64, batch: Batch, queued_at: Instant) -> ProposalOutcome {
        let (responder, committed, mut answer) = ProgressResponder::new();
        let write = self
            .raft
            .write(batch)
            .with_leader(CommittedLeaderId { term })
            .responder(responder);
        if write.await.is_err() {
            return ProposalOutcome::Stopped;
        }
        tokio::select! {
            biased;
            Ok(_log_id) = committed => {
                self.committed.record(queued_at.elapsed());
                self.unapplied.push_back(answer);
            }
            refused = &mut answer => match refused {
                Ok(Ok(_)) => {}
                Ok(Err(ClientWriteError::ForwardToLeader(_))) => return ProposalOutcome::Rejected,
                // The entry is in the log, and leadership was lost: the owner learns that from the
                // status.
                Ok(Err(error)) => debug!(%error, "it is not known whether commands were committed"),
                Err(_ended) => return ProposalOutcome::Stopped,
            },
        }
        while self.unapplied.len() > UNAPPLIED {
            let oldest = self.unapplied.front_mut().expect("it is not empty");
            // Applied, or discarded with its leader: either way it is done.
            let _ = oldest.await;
            self.unapplied.pop_front();
        }
        while let Some(oldest) = self.unapplied.front_mut() {
            match oldest.try_recv() {
                Err(tokio::sync::oneshot::error::TryRecvError::Empty) => break,
                Ok(_) | Err(tokio::sync::oneshot::error::TryRecvError::Closed) => {
                    self.unapplied.pop_front()
                }
            };
        }
        ProposalOutcome::Done
    }
}

#[cfg(all(test, feature = "shuttle"))]
mod schedules;
#[cfg(test)]
mod tests {
    use super::*;

    fn queue() -> (ProposalQueue, Proposer) {
        ProposalQueue::new(Arc::new(AtomicU64::new(1)))
    }

    fn put(queue: &ProposalQueue, bytes: usize) {
        put_work(queue, bytes, 1);
    }

    fn put_work(queue: &ProposalQueue, bytes: usize, work: u32) {
        let command = vec![7; bytes].into();
        let at_ms = 1;
        let proposal = Proposal {
            at_ms,
            command,
            work,
        };
        queue.try_propose(proposal).unwrap();
    }

    /// Returns commands and bytes of the entries that the queue becomes.
    fn entries(mut proposer: Proposer) -> Vec<(usize, usize)> {
        let mut all = Vec::new();
        while let Some(first) = proposer
            .next
            .take()
            .or_else(|| proposer.receiver.try_recv().ok())
        {
            let batch = proposer.batch(first);
            all.push((batch.commands.len(), batch.bytes()));
        }
        all
    }

    #[test]
    fn entry_is_bounded_regardless_of_queue_length() {
        let (queue, proposer) = queue();
        for _ in 0..10_000 {
            put(&queue, 100);
        }
        let entries = entries(proposer);
        assert_eq!(entries.iter().map(|one| one.0).sum::<usize>(), 10_000);
        assert!(entries.iter().all(|one| one.0 <= 256), "{entries:?}");
        assert!(entries.len() < 10_000 / 200, "{}", entries.len());
    }

    /// Ten acceptances of 256 small launches are 256 KiB and take fifty milliseconds.
    #[test]
    fn entry_is_bounded_by_work_regardless_of_bytes() {
        let (queue, proposer) = queue();
        for _ in 0..10 {
            put_work(&queue, 25_600, TURN_WORK);
        }
        for work in [TURN_WORK / 2, TURN_WORK / 2, 1, 2 * TURN_WORK, 1] {
            put_work(&queue, 100, work);
        }
        let commands: Vec<usize> = entries(proposer).iter().map(|one| one.0).collect();
        assert_eq!(commands, [1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 2, 1, 1, 1]);
    }

    #[test]
    fn large_commands_share_an_entry_up_to_a_limit_and_the_largest_is_alone() {
        let (queue, proposer) = queue();
        for bytes in [100_000, 100_000, 100_000, ENTRY_LIMIT_BYTES, 10] {
            put(&queue, bytes);
        }
        assert_eq!(
            entries(proposer),
            [(2, 200_000), (1, 100_000), (1, ENTRY_LIMIT_BYTES), (1, 10)]
        );
        let (queue, _proposer) = self::queue();
        let command = vec![7; ENTRY_LIMIT_BYTES + 1].into();
        let refused = queue.try_propose(Proposal {
            at_ms: 1,
            command,
            work: 1,
        });
        assert!(
            matches!(refused, Err(ProposeError::TooLarge { .. })),
            "{refused:?}"
        );
    }
}
