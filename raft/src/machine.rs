//! The registry as openraft drives it: committed entries go to its owner, the records that it changed go to the disk.
//!
//! Knows nothing of what a record means. Entries that are not committed never reach the owner.

use std::io;
use std::sync::Arc;

use argosy_state::bugs::{self, Bug};
use futures::{Stream, StreamExt};
use openraft::storage::{ApplyResponder, EntryResponder, RaftStateMachine};
use openraft::{OptionalSend, RaftSnapshotBuilder};
use tokio::sync::{mpsc, oneshot};

use crate::disk::{self, Changes, Disk, Durability, Family, Pinned, Read};
use crate::fatal::{Fatal, FatalError};
use crate::install;
use crate::record::{self, SnapshotMetaRecord};
use crate::shelf::{Image, Shelf};
use crate::snapshot::{Encoder, ImageError};
use crate::types::{
    Committed, Entry, LogId, OwnerRequest, Payload, RecordWrite, SnapshotMeta, StoredMembership,
    TypeConfig,
};
use crate::writer::Writer;

/// Commands, and bytes of commands, that one request to the owner carries, and one entry: its turn must stay short, and one
/// entry is never split. To read and apply a launch takes about 20 µs, an update 9 (state/tests/speed.rs on a busy machine),
/// so these are 5 ms. A single command may be larger.
pub(crate) const TURN_COMMANDS: usize = 256;
pub(crate) const TURN_BYTES: usize = 256 << 10;

pub(crate) const APPLIED: &[u8] = b"applied";
const SNAPSHOT: &[u8] = b"snapshot";

/// The parts of the store that the machine works on.
#[derive(Clone)]
pub(crate) struct Parts {
    pub(crate) disk: Arc<dyn Disk>,
    pub(crate) writer: Writer,
    pub(crate) shelf: Shelf,
    pub(crate) fatal: Fatal,
}

pub(crate) struct Machine {
    parts: Parts,
    owner: mpsc::Sender<OwnerRequest>,
    applied: SnapshotMeta,
}

impl Machine {
    /// Hands the stored registry to its owner.
    pub(crate) async fn open(
        parts: Parts,
        owner: mpsc::Sender<OwnerRequest>,
    ) -> Result<Machine, MachineError> {
        let disk = Arc::clone(&parts.disk);
        let read = move || -> Result<_, MachineError> {
            let applied = applied(disk.as_ref())?;
            let mut records = Vec::new();
            disk.scan(Family::Registry, b"", &mut |key, value| {
                records.push((key.to_vec(), value.to_vec()));
                Ok(std::ops::ControlFlow::Continue(()))
            })?;
            Ok((applied, records))
        };
        let (applied, records) = disk::run(parts.disk.may_block(), read).await?;
        let machine = Machine {
            parts,
            owner,
            applied,
        };
        machine.load(records).await?;
        Ok(machine)
    }

    async fn load(&self, records: Vec<(Vec<u8>, Vec<u8>)>) -> Result<(), OwnerGone> {
        let (done, answer) = oneshot::channel();
        let last_index = self.applied.last_log_id.map_or(0, |id| id.index);
        let request = OwnerRequest::Load {
            last_index,
            records,
            done,
        };
        self.owner.send(request).await.map_err(|_| OwnerGone)?;
        answer.await.map_err(|_| OwnerGone)
    }

    /// One turn of the owner, and the one batch that keeps it: changed records and how far they go.
    async fn perform(&mut self, turn: Turn) -> io::Result<()> {
        let (done, answer) = oneshot::channel();
        let request = OwnerRequest::Apply {
            entries: turn.entries,
            done,
        };
        self.owner.send(request).await.map_err(|_| OwnerGone)?;
        let records = answer.await.map_err(|_| OwnerGone)?;
        self.applied.last_log_id = turn.last;
        if let Some(membership) = turn.membership {
            self.applied.last_membership = membership;
        }
        let mut changes = Changes::default();
        for RecordWrite { key, value } in records {
            debug_assert!(
                key.first() < Some(&0xff),
                "keys begin with the kind of a record"
            );
            match value {
                Some(value) => changes.put(Family::Registry, key, value),
                None => changes.delete(Family::Registry, key),
            }
        }
        changes.put(Family::RegistryMeta, APPLIED, seal_applied(&self.applied));
        // Not waited for: what a crash loses is applied again from the log, which is synced.
        self.parts.writer.queue(changes).await?;
        for responder in turn.responders {
            responder.send(());
        }
        Ok(())
    }
}

/// Entries for one request to the owner.
#[derive(Default)]
struct Turn {
    entries: Vec<Committed>,
    responders: Vec<ApplyResponder<TypeConfig>>,
    commands: usize,
    bytes: usize,
    last: Option<LogId>,
    membership: Option<StoredMembership>,
}

impl Turn {
    /// Whether `entry` belongs to the next turn.
    fn is_too_full_for(&self, entry: &Entry) -> bool {
        let (commands, bytes) = match &entry.payload {
            Payload::Normal(batch) => (batch.commands.len(), batch.bytes()),
            Payload::Blank | Payload::Membership(_) => (0, 0),
        };
        let full = self.commands + commands > TURN_COMMANDS || self.bytes + bytes > TURN_BYTES;
        // Entries without commands cost the owner a step each as well.
        !self.entries.is_empty() && (full || self.entries.len() >= TURN_COMMANDS)
    }

    fn push(&mut self, entry: Entry, responder: Option<ApplyResponder<TypeConfig>>) {
        let id = entry.log_id;
        let mut committed = Committed {
            index: id.index,
            term: id.leader_id.term,
            at_ms: 0,
            commands: Vec::new(),
        };
        match entry.payload {
            Payload::Blank => {}
            Payload::Normal(batch) => {
                self.commands += batch.commands.len();
                self.bytes += batch.bytes();
                committed.at_ms = batch.at_ms;
                committed.commands = batch.commands;
            }
            Payload::Membership(members) => {
                self.membership = Some(StoredMembership::new(Some(id), members));
            }
        }
        self.entries.push(committed);
        self.responders.extend(responder);
        self.last = Some(id);
    }
}

impl RaftStateMachine<TypeConfig> for Machine {
    type SnapshotData = Image;
    type SnapshotBuilder = Builder;

    async fn applied_state(&mut self) -> Result<(Option<LogId>, StoredMembership), io::Error> {
        let SnapshotMeta {
            last_log_id,
            last_membership,
        } = self.applied.clone();
        Ok((last_log_id, last_membership))
    }

    async fn apply<S>(&mut self, mut entries: S) -> Result<(), io::Error>
    where
        S: Stream<Item = Result<EntryResponder<TypeConfig>, io::Error>> + Unpin + OptionalSend,
    {
        let mut turn = Turn::default();
        while let Some(item) = entries.next().await {
            let (entry, responder) = item?;
            if turn.is_too_full_for(&entry) {
                self.perform(std::mem::take(&mut turn)).await?;
            }
            turn.push(entry, responder);
        }
        match turn.entries.is_empty() {
            true => Ok(()),
            false => self.perform(turn).await,
        }
    }

    /// The view is pinned here, before anything more is applied: registry and description are of one moment.
    async fn get_snapshot_builder(&mut self) -> Builder {
        let pinned = match self.parts.writer.drain().await {
            Ok(()) => Arc::clone(&self.parts.disk).pin().await,
            Err(error) => Err(error),
        };
        Builder {
            parts: self.parts.clone(),
            pinned: Some(pinned),
        }
    }

    async fn install_snapshot(
        &mut self,
        meta: &SnapshotMeta,
        image: Image,
    ) -> Result<(), io::Error> {
        if image.meta() != meta {
            let text = format!("the snapshot is of {} and not of {meta}", image.meta());
            return Err(io::Error::new(io::ErrorKind::InvalidData, text));
        }
        let records = install::install(&self.parts, image).await?;
        self.applied = meta.clone();
        self.load(records).await?;
        Ok(())
    }

    async fn get_current_snapshot(&mut self) -> Result<Option<Snapshot>, io::Error> {
        let snapshot = self.parts.shelf.current().map(Snapshot::from);
        Ok(snapshot)
    }
}

pub(crate) type Snapshot = openraft::alias::SnapshotOf<TypeConfig, Image>;

impl From<Image> for Snapshot {
    fn from(image: Image) -> Self {
        Snapshot {
            meta: image.meta().clone(),
            snapshot: image,
        }
    }
}

/// Writes the pinned view to the shelf while entries go on being applied.
pub(crate) struct Builder {
    parts: Parts,
    pinned: Option<io::Result<Box<dyn Pinned>>>,
}

impl RaftSnapshotBuilder<TypeConfig> for Builder {
    type SnapshotData = Image;

    async fn build_snapshot(&mut self) -> Result<Snapshot, io::Error> {
        let pinned = self.pinned.take();
        let pinned = pinned.ok_or_else(|| io::Error::other("the view was used already"))??;
        let shelf = self.parts.shelf.clone();
        let (finished, image) = oneshot::channel();
        let work = move |view: &dyn Read| -> io::Result<()> {
            let image = write_image(view, &shelf).map_err(invalid)?;
            let name = shelf.put(&image)?;
            // The receiver waits below.
            let _ = finished.send((image, name));
            Ok(())
        };
        if let Err(error) = pinned.read(Box::new(work)).await {
            // A disk that cannot take a snapshot will not take a vote either, and an fsync is never retried.
            (self.parts.fatal)(&FatalError {
                path: self.parts.disk.name(),
                what: "write a snapshot of",
                source: io::Error::new(error.kind(), error.to_string()),
            });
            return Err(error);
        }
        let (image, name) = image.await.map_err(io::Error::other)?;
        // Synced, and with it all that is applied so far: only then may the log be purged up to here.
        let mut changes = Changes::default();
        let record = record::ImageNameRecord { name };
        changes.put(Family::Meta, SNAPSHOT, record::seal(&record));
        self.parts.writer.write(changes, Durability::Synced).await?;
        Ok(image.into())
    }
}

fn write_image(view: &dyn Read, shelf: &Shelf) -> Result<Image, ImageError> {
    let mut meta = applied(view).map_err(|error| ImageError::Read(io::Error::other(error)))?;
    let members_at = meta.last_membership.log_id().map_or(0, |id| id.index);
    if let Some(last) = &mut meta.last_log_id
        && bugs::is_on(Bug::SnapshotMetaEarly)
        && last.index > members_at + 1
    {
        last.index -= 1;
    }
    let mut encoder = Encoder::new(shelf.sink()?, &meta)?;
    view.scan(Family::Registry, b"", &mut |key, value| {
        encoder.record(key, value)?;
        Ok(std::ops::ControlFlow::Continue(()))
    })?;
    encoder.finish()?.finish()
}

/// Up to where the registry on this disk is applied.
pub(crate) fn applied(disk: &dyn Read) -> Result<SnapshotMeta, MachineError> {
    match disk.get(Family::RegistryMeta, APPLIED)? {
        None => Ok(SnapshotMeta::default()),
        Some(bytes) => Ok(record::unseal::<SnapshotMetaRecord>(&bytes)?.try_into()?),
    }
}

pub(crate) fn seal_applied(applied: &SnapshotMeta) -> Vec<u8> {
    record::seal(&SnapshotMetaRecord::from(applied))
}

pub(crate) fn invalid(error: ImageError) -> io::Error {
    match error {
        ImageError::Read(error) => error,
        error => io::Error::new(io::ErrorKind::InvalidData, error),
    }
}

/// Why the registry cannot be handed to its owner.
#[derive(Debug, thiserror::Error)]
pub(crate) enum MachineError {
    #[error("the registry cannot be read")]
    Read(#[from] io::Error),
    #[error("the record of how far the registry is applied is damaged")]
    Applied(#[from] record::RecordError),
    #[error(transparent)]
    Owner(#[from] OwnerGone),
}

/// The task that owns the registry has ended: this node is stopping.
#[derive(Clone, Copy, Debug, thiserror::Error)]
#[error("the owner of the registry has ended")]
pub(crate) struct OwnerGone;

impl From<OwnerGone> for io::Error {
    fn from(gone: OwnerGone) -> Self {
        io::Error::new(io::ErrorKind::BrokenPipe, gone)
    }
}
