//! `Operator.SaveSnapshot`: a copy of the registry of this master as a stream of blocks.
//!
//! The records come from a view of the store at one moment, so the owner of the registry is not
//! involved. A reader that is slow stops the reading of the store; no more than a few blocks wait.

use std::io::{self, Write};
use std::pin::Pin;
use std::time::Duration;

use argosy_proto::clock::WallClock;
use argosy_proto::server::audit::{AuditEvent, RequestAudit};
use argosy_proto::v1;
use argosy_raft::{RegistryView, SavedSnapshotEncoder, SavedSnapshotHeader};
use argosy_state::access::Action;
use argosy_state::encode::{self, DecodeError};
use argosy_state::ids::{NodeId, Timestamp};
use argosy_state::registry::{ClusterRecord, RecordKey};
use futures::{Stream, StreamExt as _};
use tokio::runtime::Handle;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Status};

use super::operator::is_local;
use super::permits::confirmed;
use super::{Services, refused};
use crate::owner_handle::unavailable;

/// Maximum number of snapshots that a master sends at the same time.
pub(crate) const SAVES: usize = 2;
/// The size of a block in bytes.
const BLOCK_BYTES: usize = 256 << 10;
/// Blocks that wait for the reader.
const BLOCKS: usize = 4;
/// The time for which a reader may take no block. The view keeps the store from removing records
/// that are overwritten.
const READER_TIMEOUT: Duration = Duration::from_secs(60);

pub(crate) type SnapshotBlocks =
    Pin<Box<dyn Stream<Item = Result<v1::SnapshotBlock, Status>> + Send>>;
type BlockSender = mpsc::Sender<Result<v1::SnapshotBlock, Status>>;
/// The place of an error in the channel: a stream without one would end as if it were complete.
type EndPlace = mpsc::OwnedPermit<Result<v1::SnapshotBlock, Status>>;

impl Services {
    /// Begins to send a copy of the registry.
    pub(crate) async fn begin_save(
        &self,
        request: Request<v1::SaveSnapshotRequest>,
    ) -> Result<SnapshotBlocks, Status> {
        let audit = RequestAudit::of(request.extensions());
        let least = match is_local(request.get_ref().consistency) {
            true => 0,
            // The copy may be newer than the rules that admitted the call.
            false => {
                let caller = (request.metadata(), request.extensions());
                confirmed(&self.owner, caller, Action::SaveSnapshot).await?
            }
        };
        let Ok(place) = self.saves.clone().try_acquire_owned() else {
            let text = format!("this master sends {SAVES} snapshots already; retry later");
            return Err(refused("too-many-requests", &text));
        };
        let node = self.owner.node.clone();
        // A store in memory is read in the thread of this call, which must not wait.
        let most = match node.is_in_memory() {
            true => Semaphore::MAX_PERMITS,
            false => BLOCKS + 1,
        };
        let (sender, blocks) = mpsc::channel(most);
        let end = sender.clone().try_reserve_owned();
        let end = end.expect("the channel is empty");
        let source = SnapshotSource {
            saved_by: NodeId(node.id()),
            wall: node.wall_clock().clone(),
        };
        self.tasks.spawn(async move {
            let out = BlockWriter::new(sender);
            let read = move |view: &RegistryView<'_>| source.write(view, out);
            let outcome = node.read_registry(least, read).await;
            finish(outcome, end, place, audit.as_ref());
        });
        Ok(ReceiverStream::new(blocks).boxed())
    }
}

/// Ends a stream: a snapshot without its last block is rejected by its reader.
fn finish(
    outcome: io::Result<()>,
    end: EndPlace,
    _place: OwnedSemaphorePermit,
    audit: Option<&RequestAudit>,
) {
    let code = match outcome {
        Ok(()) => "Ok",
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => "client-gone",
        Err(error) => {
            let status = unavailable(&format!("the registry cannot be copied: {error}"));
            end.send(Err(status));
            "Unavailable"
        }
    };
    if let Some(audit) = audit {
        audit.record(AuditEvent::SnapshotSaved, ("save-snapshot", ""), code);
    }
}

/// The master that sends a snapshot.
struct SnapshotSource {
    saved_by: NodeId,
    wall: WallClock,
}

impl SnapshotSource {
    fn write(&self, view: &RegistryView<'_>, out: BlockWriter) -> io::Result<()> {
        let cluster_key = encode::key(&RecordKey::Cluster);
        let cluster = view.get(&cluster_key)?;
        let cluster = cluster.ok_or_else(|| io::Error::other("the cluster has no leader yet"))?;
        let cluster = encode::read_cluster(&cluster).map_err(unreadable)?;
        let time = match view.get(&encode::key(&RecordKey::Time))? {
            Some(time) => encode::read_time(&time).map_err(unreadable)?,
            None => Timestamp::default(),
        };
        let header = self.header(view, &cluster, time);
        // Agents accept commands with tickets, whose keys are derived from these secrets.
        let without_keys = encode::cluster(&cluster.without_keys());
        let mut encoder = SavedSnapshotEncoder::new(out, header)?;
        view.visit(|key, value| match key == cluster_key {
            true => encoder.record(key, &without_keys),
            false => encoder.record(key, value),
        })?;
        encoder.finish().map(drop)
    }

    fn header(
        &self,
        view: &RegistryView<'_>,
        cluster: &ClusterRecord,
        time: Timestamp,
    ) -> SavedSnapshotHeader {
        SavedSnapshotHeader {
            cluster_id: cluster.facts.id.to_string(),
            feature_level: cluster.level.0,
            index: view.index(),
            term: view.term(),
            epoch: cluster.epoch.0,
            cluster_time_ms: time.0,
            saved_at_ms: self.wall.now_ms(),
            release: env!("CARGO_PKG_VERSION").to_owned(),
            saved_by: self.saved_by.to_string(),
            ..SavedSnapshotHeader::default()
        }
    }
}

fn unreadable(why: DecodeError) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, why)
}

/// A writer that sends blocks. It waits for the reader, so it runs where waiting is allowed.
struct BlockWriter {
    sender: BlockSender,
    block: Vec<u8>,
    runtime: Handle,
}

impl BlockWriter {
    fn new(sender: BlockSender) -> Self {
        Self {
            sender,
            block: Vec::new(),
            runtime: Handle::current(),
        }
    }

    fn send(&mut self) -> io::Result<()> {
        let data = std::mem::take(&mut self.block);
        match self.sender.try_send(Ok(v1::SnapshotBlock { data })) {
            Ok(()) => Ok(()),
            Err(mpsc::error::TrySendError::Closed(_)) => Err(io::ErrorKind::BrokenPipe.into()),
            Err(mpsc::error::TrySendError::Full(block)) => {
                let sent = tokio::time::timeout(READER_TIMEOUT, self.sender.send(block));
                match self.runtime.block_on(sent) {
                    Ok(Ok(())) => Ok(()),
                    Ok(Err(_)) => Err(io::ErrorKind::BrokenPipe.into()),
                    Err(_) => {
                        let text = "the caller does not read it";
                        Err(io::Error::new(io::ErrorKind::TimedOut, text))
                    }
                }
            }
        }
    }
}

impl Write for BlockWriter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let room = BLOCK_BYTES - self.block.len();
        let taken = bytes.len().min(room);
        self.block.extend_from_slice(&bytes[..taken]);
        if self.block.len() == BLOCK_BYTES {
            self.send()?;
        }
        Ok(taken)
    }

    /// The end of the snapshot.
    fn flush(&mut self) -> io::Result<()> {
        match self.block.is_empty() {
            true => Ok(()),
            false => self.send(),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    #[tokio::test]
    async fn the_reader_of_a_snapshot_that_fails_gets_the_error_after_the_last_block() {
        let (sender, mut blocks) = mpsc::channel(2);
        let end = sender.clone().try_reserve_owned().unwrap();
        let block = v1::SnapshotBlock::default();
        sender.try_send(Ok(block)).unwrap();
        assert_eq!(sender.capacity(), 0);
        let place = Arc::new(Semaphore::new(1)).acquire_owned().await.unwrap();
        let failed = Err(io::Error::other("the disk fails"));
        finish(failed, end, place, None);
        drop(sender);
        let (block, end) = (blocks.recv().await, blocks.recv().await);
        assert!(matches!(block, Some(Ok(_))), "{block:?}");
        assert!(matches!(end, Some(Err(_))), "{end:?}");
    }
}
