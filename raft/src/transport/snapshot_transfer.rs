//! Transfer of snapshots between masters: block by block, with an answer before the next block is
//! sent. The whole snapshot is verified before any part of it is installed. Either end needs one
//! block of memory.

use std::time::Duration;

use argosy_state::buggify;
use futures::Stream;
use futures::stream;
use openraft::async_runtime::WatchReceiver as _;
use tokio::sync::{OwnedSemaphorePermit, mpsc};
use tokio::time::error::Elapsed;
use tokio::time::{Instant, timeout};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Status, Streaming};
use tracing::{info, warn};

use super::connections::{self, PeerClient};
use super::transfer_counts::CountedTransfer;
use super::wire::proto::snapshot_part::Part;
use super::wire::{self, proto};
use crate::metrics;
use crate::settings::Timing;
use crate::state_machine::Consensus;
use crate::state_machine::Snapshot;
use crate::storage::snapshot_store::{SnapshotFile, SnapshotWriter};
use crate::storage::store::Store;
use crate::types::Vote;

/// The size of one block.
const BLOCK_BYTES: usize = 256 << 10;

/// The maximum size of an incoming snapshot: far more than any registry that fits into memory.
const LENGTH_LIMIT_BYTES: u64 = 64 << 30;

/// The time for which a receiver waits for the next block. The sender reads it from its own disk.
const NEXT_BLOCK_TIMEOUT: Duration = Duration::from_secs(60);

/// The maximum time for a receiver to verify and install a snapshot.
const INSTALL_TIMEOUT: Duration = Duration::from_secs(300);

fn block_timeout(timing: Timing) -> Duration {
    // A receiver's disk may stall for longer than an append may take, and nothing waits behind a
    // snapshot.
    Duration::from_millis(10 * timing.append_deadline_ms)
}

fn silent(_elapsed: Elapsed) -> Status {
    Status::deadline_exceeded("no answer to a block of a snapshot")
}

fn ended() -> Status {
    Status::unavailable("the receiver ended the transfer")
}

/// Sends a snapshot, and returns the receiver's vote once the snapshot is installed there.
pub(crate) async fn send(
    mut client: PeerClient,
    header: proto::Header,
    vote: Vote,
    snapshot: Snapshot,
    timing: Timing,
    mut counted: CountedTransfer,
) -> Result<Vote, Status> {
    let to = header.to;
    // No snapshot file is written for an unreachable receiver.
    let present = timeout(
        block_timeout(timing),
        client.ask(connections::ask_request()),
    )
    .await;
    present.map_err(silent)??;
    counted.begin_writing();
    let image = snapshot.snapshot.file().await;
    let image = image
        .map_err(|error| Status::internal(format!("the snapshot cannot be written: {error}")))?;
    counted.begin_sending();
    // One part is in flight: the second slot is never used, and a full channel would only wait.
    let (parts, outgoing) = mpsc::channel(2);
    let head = proto::SnapshotHead {
        header: Some(header),
        vote: Some(wire::vote(&vote)),
        length_bytes: image.len(),
    };
    give(&parts, Part::Head(head)).await?;
    let opened = timeout(
        block_timeout(timing),
        client.snapshot(ReceiverStream::new(outgoing)),
    )
    .await;
    let answers = opened.map_err(silent)??.into_inner();
    info!(to, bytes = image.len(), "sending a snapshot");
    let began = Instant::now();
    let answer = send_blocks(&image, &parts, answers, timing, &mut counted).await?;
    info!(to, "the snapshot is installed");
    metrics::snapshot("send", began.elapsed(), Some(image.len()));
    counted.succeed();
    wire::vote_from(answer.vote)
}

/// Sends the blocks of a snapshot, and returns the answer to the last one.
async fn send_blocks(
    image: &SnapshotFile,
    parts: &mpsc::Sender<proto::SnapshotPart>,
    mut answers: Streaming<proto::SnapshotProgress>,
    timing: Timing,
    counted: &mut CountedTransfer,
) -> Result<proto::SnapshotProgress, Status> {
    let mut sent = 0;
    loop {
        let most = buggify!(SmallBlocks, BLOCK_BYTES, 300);
        let block = image.read(sent, most).await;
        let block = block
            .map_err(|error| Status::internal(format!("the snapshot cannot be read: {error}")))?;
        sent += block.len() as u64;
        let last = sent >= image.len();
        let limit = if last {
            counted.begin_install();
            INSTALL_TIMEOUT
        } else {
            block_timeout(timing)
        };
        give(parts, Part::Block(block)).await?;
        let answer = timeout(limit, answers.message()).await.map_err(silent)??;
        let answer = answer.ok_or_else(ended)?;
        if last {
            return Ok(answer);
        }
        counted.block_answered();
    }
}

async fn give(parts: &mpsc::Sender<proto::SnapshotPart>, part: Part) -> Result<(), Status> {
    let sent = parts.send(proto::SnapshotPart { part: Some(part) }).await;
    sent.map_err(|_closed| ended())
}

/// Reads the first part of a transfer.
pub(crate) async fn head(
    parts: &mut Streaming<proto::SnapshotPart>,
) -> Result<proto::SnapshotHead, Status> {
    match parts.message().await?.and_then(|part| part.part) {
        Some(Part::Head(head)) => Ok(head),
        _ => Err(Status::invalid_argument("a snapshot begins with its head")),
    }
}

fn check_length(bytes: u64) -> Result<(), Status> {
    if bytes <= LENGTH_LIMIT_BYTES {
        return Ok(());
    }
    Err(Status::invalid_argument(format!(
        "a snapshot of {bytes} bytes is longer than the limit of {LENGTH_LIMIT_BYTES} bytes"
    )))
}

pub(crate) struct SnapshotReceiver {
    raft: Consensus,
    vote: Vote,
    writer: Option<SnapshotWriter>,
    received: u64,
    length: u64,
    began: Instant,
    /// The slot of this transfer, released when it is completed or aborted.
    _permit: OwnedSemaphorePermit,
}

impl SnapshotReceiver {
    pub(crate) fn new(
        raft: Consensus,
        store: &Store,
        head: &proto::SnapshotHead,
        place: OwnedSemaphorePermit,
    ) -> Result<SnapshotReceiver, Status> {
        check_length(head.length_bytes)?;
        let vote = wire::vote_from(head.vote)?;
        let writer = store.receive_image(head.length_bytes).map_err(|error| {
            warn!(%error, "a snapshot of the leader cannot be stored");
            // The sender waits longer after each of these.
            Status::failed_precondition(format!("a snapshot cannot be stored: {error}"))
        })?;
        Ok(SnapshotReceiver {
            raft,
            vote,
            writer: Some(writer),
            received: 0,
            length: head.length_bytes,
            began: Instant::now(),
            _permit: place,
        })
    }

    /// Returns one answer for each block; the last carries this node's vote.
    pub(crate) fn receive(
        self,
        parts: Streaming<proto::SnapshotPart>,
    ) -> impl Stream<Item = Result<proto::SnapshotProgress, Status>> + Send + 'static {
        stream::unfold(Some((self, parts)), async |state| {
            let (mut receiver, mut parts) = state?;
            let answer = match timeout(NEXT_BLOCK_TIMEOUT, parts.message()).await {
                Ok(Ok(Some(part))) => receiver.take(part).await,
                // The sender has closed the stream; received blocks are deleted with the receiver.
                Ok(Ok(None)) => return None,
                Ok(Err(status)) => Err(status),
                Err(_elapsed) => Err(Status::deadline_exceeded("timed out waiting for a block")),
            };
            let more = answer.as_ref().is_ok_and(|answer| answer.vote.is_none());
            Some((answer, more.then_some((receiver, parts))))
        })
    }

    async fn take(&mut self, part: proto::SnapshotPart) -> Result<proto::SnapshotProgress, Status> {
        let Some(Part::Block(block)) = part.part else {
            return Err(Status::invalid_argument(
                "a snapshot has one head, and then blocks",
            ));
        };
        let mut writer = self
            .writer
            .take()
            .ok_or_else(|| Status::invalid_argument("the snapshot is complete"))?;
        self.received += block.len() as u64;
        if block.is_empty() || self.received > self.length {
            return Err(Status::invalid_argument(
                "the blocks of a snapshot do not add up to its length",
            ));
        }
        writer
            .write(block)
            .await
            .map_err(|error| Status::internal(format!("a block cannot be written: {error}")))?;
        if self.received < self.length {
            self.writer = Some(writer);
            return Ok(proto::SnapshotProgress {
                received_bytes: self.received,
                vote: None,
            });
        }
        let image = writer
            .finish()
            .await
            .map_err(|error| Status::data_loss(error.to_string()))?;
        metrics::snapshot("receive", self.began.elapsed(), Some(self.length));
        let vote = self.install(image).await?;
        Ok(proto::SnapshotProgress {
            received_bytes: self.received,
            vote: Some(wire::vote(&vote)),
        })
    }

    async fn install(&self, image: SnapshotFile) -> Result<Vote, Status> {
        let last = image.meta().last_log_id;
        let members = image.meta().last_membership.log_id();
        for id in last.iter().chain(members) {
            wire::check_position(id)?;
        }
        // openraft would end the process over a snapshot that contradicts the vote or the committed
        // entries of this node.
        let committed = self.raft.data_metrics().borrow_watched().local_committed;
        let contradicts = last.is_some_and(|last| {
            let beyond_vote = last.leader_id.term > self.vote.leader_id.term;
            beyond_vote || committed.is_some_and(|held| last > held && last.index <= held.index)
        });
        if contradicts {
            return Err(Status::failed_precondition(
                "the snapshot contradicts what is committed here",
            ));
        }
        let installed = self
            .raft
            .install_full_snapshot(self.vote, Snapshot::from(image))
            .await;
        let answer = installed
            .map_err(|error| Status::unavailable(format!("consensus has ended: {error}")))?;
        Ok(answer.vote)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_snapshot_that_announces_more_than_the_limit_is_refused() {
        assert!(check_length(LENGTH_LIMIT_BYTES).is_ok());
        let refused = check_length(LENGTH_LIMIT_BYTES + 1).unwrap_err();
        assert_eq!(refused.code(), tonic::Code::InvalidArgument);
    }
}
