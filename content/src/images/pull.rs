//! One pull: from what a name stands for to layers in the store.

use std::sync::Arc;

use argosy_isolation::crash_points;
use futures::future::try_join_all;
use tokio::sync::{Semaphore, watch};

use super::digest::Digest;
use super::error::Fault;
use super::manifest::{Layer, Platform};
use super::source::Source;
use super::store::{Pin, Record, Store, blocking};
use super::unpacker::Unpacker;
use super::{ImageSettings, Progress};
use crate::singleflight::{Flights, Seat};

/// Layers of all images that are brought or unpacked side by side; others wait.
const LAYERS_AT_ONCE: usize = 4;

/// How a layer's flight ends.
type LayerEnd = Result<(), Arc<Fault>>;

/// Brings images. Cheap to clone.
#[derive(Clone)]
pub(super) struct Puller {
    store: Arc<Store>,
    unpacker: Arc<dyn Unpacker>,
    settings: Arc<ImageSettings>,
    host: Platform,
    /// By diff id and blob: who claims a diff id for another blob travels alone.
    layers: Arc<Flights<(Digest, Digest), LayerEnd, u64>>,
    /// The limit of [`LAYERS_AT_ONCE`].
    turns: Arc<Semaphore>,
}

/// An image that was brought, held until this is dropped.
pub(super) struct Pulled {
    pub(super) record: Record,
    /// Held as long as this lives.
    pub(super) _pin: Pin,
}

impl Puller {
    pub(super) fn new(
        store: Arc<Store>,
        unpacker: Arc<dyn Unpacker>,
        settings: Arc<ImageSettings>,
    ) -> Self {
        Self {
            store,
            unpacker,
            settings,
            host: Platform::of_this_host(),
            layers: Flights::new(),
            turns: Arc::new(Semaphore::new(LAYERS_AT_ONCE)),
        }
    }

    /// Brings what is missing of an image, and writes it down under its name.
    pub(super) async fn pull(
        self,
        source: Source,
        reference: String,
        progress: watch::Sender<Progress>,
    ) -> Result<Pulled, Arc<Fault>> {
        let source = Arc::new(source);
        let limit_bytes = self.settings.limit_bytes;
        let plan = source.plan(&self.host, limit_bytes).await?;
        let total = |layers: &[Layer]| layers.iter().map(|layer| layer.blob.size).sum::<u64>();
        let packed_bytes = total(&plan.layers);
        let diff_ids: Vec<_> = plan.layers.iter().map(|layer| layer.diff_id).collect();
        // Held before it is looked what is there.
        let pin = self.store.pin(diff_ids.clone());
        let mut missing = plan.layers;
        missing.retain(|layer| !self.store.has_layer(layer.diff_id));
        let bytes_total = total(&missing);
        progress.send_replace(Progress {
            bytes_done: 0,
            bytes_total,
        });
        self.make_room(bytes_total).await?;
        let layers = missing.into_iter();
        try_join_all(layers.map(|layer| self.layer(&source, layer, &progress))).await?;
        let record = Record::new(reference, plan.digest, plan.config, diff_ids, packed_bytes);
        let (store, kept) = (Arc::clone(&self.store), record.clone());
        blocking(move || store.add_image(kept)).await?;
        crash_points::passed("pull.image-kept");
        Ok(Pulled { record, _pin: pin })
    }

    /// Packed layers and their files are on disk side by side for a while; files are larger by some factor
    /// that nobody knows before.
    async fn make_room(&self, packed_bytes: u64) -> Result<(), Fault> {
        let (store, percent) = (Arc::clone(&self.store), self.settings.headroom_percent);
        let more_bytes = packed_bytes.saturating_mul(2);
        blocking(move || store.collect(percent, more_bytes)).await?;
        Ok(())
    }

    /// Sees to it that a layer comes. Where another image's pull was joined, its failure is no verdict on
    /// ours: that may have asked another registry. Each of those who wait fails once by itself at most, so it ends.
    async fn layer(
        &self,
        source: &Arc<Source>,
        layer: Layer,
        progress: &watch::Sender<Progress>,
    ) -> LayerEnd {
        loop {
            let seat = self.board(Arc::clone(source), layer.clone());
            let is_ours = seat.is_first;
            match watched(seat, progress).await {
                Err(fault) if !is_ours => tracing::info!(
                    layer = %layer.blob.digest,
                    why = crate::sentence(&fault),
                    "a layer that another image wants too did not come: it is asked for anew"
                ),
                end => return end,
            }
        }
    }

    /// Joins whoever brings this layer, or brings it.
    fn board(&self, source: Arc<Source>, layer: Layer) -> Seat<LayerEnd, u64> {
        let puller = self.clone();
        let key = (layer.diff_id, layer.blob.digest);
        self.layers.join(key, move |progress| async move {
            let brought = puller.bring(&source, &layer, &progress).await;
            brought.map_err(Arc::new)
        })
    }

    /// Brings and unpacks a layer that is not there yet.
    async fn bring(
        &self,
        source: &Source,
        layer: &Layer,
        progress: &watch::Sender<u64>,
    ) -> Result<(), Fault> {
        let turn = self.turns.acquire().await;
        let _turn = turn.expect("turns are given as long as there is a store");
        if self.store.has_layer(layer.diff_id) {
            // Somebody brought it packed otherwise.
            progress.send_replace(layer.blob.size);
            return Ok(());
        }
        let draft = self.store.blob_draft();
        let blob = source.blob(&layer.blob, draft, progress).await?;
        crash_points::passed("pull.blob-brought");
        let store = Arc::clone(&self.store);
        let (draft, root) = blocking(move || store.layer_draft()).await?;
        crash_points::passed("pull.layer-drafted");
        let unpacked = self.unpacker.unpack(blob, layer.packing, &root).await;
        let unpacked = unpacked.map_err(|source| Fault::Unpack {
            layer: layer.blob.digest,
            source,
        })?;
        if unpacked.diff_id != layer.diff_id {
            return Err(Fault::WrongDigest {
                what: format!("{}, unpacked,", layer.blob.what),
                wanted: layer.diff_id,
                found: unpacked.diff_id,
            });
        }
        crash_points::passed("pull.layer-unpacked");
        let store = Arc::clone(&self.store);
        blocking(move || store.add_layer(draft, unpacked)).await?;
        crash_points::passed("pull.layer-kept");
        Ok(())
    }
}

/// Awaits a layer, and adds what comes of it to the progress of its image.
async fn watched(mut seat: Seat<LayerEnd, u64>, progress: &watch::Sender<Progress>) -> LayerEnd {
    let mut known = 0;
    let mut add = |now: u64| {
        progress.send_modify(|all| {
            // A download that began anew takes back what it had.
            all.bytes_done = all.bytes_done.saturating_sub(known).saturating_add(now);
        });
        known = now;
    };
    loop {
        tokio::select! {
            biased;
            end = &mut seat.work => {
                add(*seat.progress.borrow());
                return end;
            }
            Ok(()) = seat.progress.changed() => {
                let now = *seat.progress.borrow_and_update();
                add(now);
            }
        }
    }
}
