//! One pull: from an image name to layers in the store.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError, Weak};

use argosy_host::crash_point;
use argosy_state::ids::FrameworkId;
use futures::future::try_join_all;
use tokio::sync::watch;

use super::digest::Digest;
use super::error::PullErrorKind;
use super::manifest::{LayerDescriptor, Platform};
use super::source::ImageSource;
use super::store::{ImageRecord, ImageStore, LayerPin, blocking};
use super::unpacker::Unpacker;
use super::{ImageSettings, PullProgress};
use crate::FairSlots;
use crate::singleflight::{Singleflight, Waiter};

/// The number of layers that are downloaded concurrently from one registry, half of them at most
/// for one framework; others wait. Each registry has its own share, so that one that sends a byte a
/// minute does not take all.
const DOWNLOADS_AT_ONCE: usize = 8;

/// Registry, diff id and blob: a layer of a slow registry, or one that claims a diff id for another
/// blob, is not shared.
type LayerKey = (String, Digest, Digest);

/// The result of a layer's download.
type LayerResult = Result<(), Arc<PullErrorKind>>;

/// The puller of images. Cheap to clone.
#[derive(Clone)]
pub(super) struct Puller {
    store: Arc<ImageStore>,
    unpacker: Arc<dyn Unpacker>,
    settings: Arc<ImageSettings>,
    platform: Platform,
    layers: Arc<Singleflight<LayerKey, LayerResult, u64, FrameworkId>>,
    /// By registry: its [`DOWNLOADS_AT_ONCE`] slots, as long as a download uses one or waits. A
    /// lock, because all pulls share them.
    downloads: Arc<Mutex<BTreeMap<String, Weak<FairSlots>>>>,
    /// The slots for layers that are unpacked; others wait.
    slots: Arc<FairSlots>,
}

/// A pulled image, pinned until this is dropped.
pub(super) struct PinnedImage {
    pub(super) record: ImageRecord,
    /// Pins the layers until it is dropped.
    pub(super) _pin: LayerPin,
}

impl Puller {
    pub(super) fn new(
        store: Arc<ImageStore>,
        unpacker: Arc<dyn Unpacker>,
        slots: Arc<FairSlots>,
        settings: Arc<ImageSettings>,
    ) -> Self {
        Self {
            store,
            unpacker,
            settings,
            platform: Platform::of_this_host(),
            layers: Singleflight::new(),
            downloads: Arc::default(),
            slots,
        }
    }

    /// Pulls the missing parts of an image for a framework, and records it under its name.
    pub(super) async fn pull(
        self,
        source: ImageSource,
        reference: String,
        framework: FrameworkId,
        progress: watch::Sender<PullProgress>,
    ) -> Result<PinnedImage, Arc<PullErrorKind>> {
        let source = Arc::new(source);
        let limit_bytes = self.settings.limit_bytes;
        let plan = source.plan(&self.platform, limit_bytes).await?;
        let total =
            |layers: &[LayerDescriptor]| layers.iter().map(|layer| layer.blob.size).sum::<u64>();
        let packed_bytes = total(&plan.layers);
        let diff_ids: Vec<_> = plan.layers.iter().map(|layer| layer.diff_id).collect();
        // Pinned before the check for existing layers.
        let pin = self.store.pin(diff_ids.clone());
        let mut missing = plan.layers;
        missing.retain(|layer| !self.store.has_layer(layer.diff_id));
        let bytes_total = total(&missing);
        progress.send_replace(PullProgress {
            bytes_done: 0,
            bytes_total,
        });
        let (store, percent) = (Arc::clone(&self.store), self.settings.headroom_percent);
        blocking(move || store.make_space(percent, bytes_total)).await?;
        let layers = missing.into_iter();
        try_join_all(layers.map(|layer| self.layer(&source, layer, framework, &progress))).await?;
        let record = ImageRecord::new(reference, plan.digest, plan.config, diff_ids, packed_bytes);
        let (store, kept) = (Arc::clone(&self.store), record.clone());
        blocking(move || store.add_image(kept)).await?;
        crash_point!("pull.image-kept");
        Ok(PinnedImage { record, _pin: pin })
    }

    /// Obtains a layer. If the joined pull of another image fails, this one tries itself, because
    /// the other may have used another repository or other credentials. Each waiter fails by itself
    /// at most once, so this ends.
    async fn layer(
        &self,
        source: &Arc<ImageSource>,
        layer: LayerDescriptor,
        framework: FrameworkId,
        progress: &watch::Sender<PullProgress>,
    ) -> LayerResult {
        loop {
            let seat = self.join_download(Arc::clone(source), layer.clone(), framework);
            let is_ours = seat.is_first;
            match await_layer(seat, progress).await {
                Err(fault) if !is_ours => tracing::info!(
                    layer = %layer.blob.digest,
                    why = crate::error_chain(&fault),
                    "a layer shared with another image's pull failed; it is requested again"
                ),
                end => return end,
            }
        }
    }

    /// Joins the download of this layer, or starts it.
    fn join_download(
        &self,
        source: Arc<ImageSource>,
        layer: LayerDescriptor,
        framework: FrameworkId,
    ) -> Waiter<LayerResult, u64> {
        let puller = self.clone();
        let registry = source.registry().to_owned();
        let key = (registry, layer.diff_id, layer.blob.digest);
        self.layers
            .join(key, framework, move |progress, frameworks| async move {
                let brought = puller
                    .download_layer(&source, &layer, frameworks, &progress)
                    .await;
                brought.map_err(Arc::new)
            })
    }

    /// Returns the slots for downloads from a registry.
    fn downloads_from(&self, registry: &str) -> Arc<FairSlots> {
        let mut all = self
            .downloads
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        if let Some(used) = all.get(registry).and_then(Weak::upgrade) {
            return used;
        }
        all.retain(|_, slots| slots.strong_count() > 0);
        let slots = FairSlots::new(DOWNLOADS_AT_ONCE);
        all.insert(registry.to_owned(), Arc::downgrade(&slots));
        slots
    }

    /// Downloads and unpacks a missing layer, both in the turn of any of the frameworks that need
    /// it, so that none waits for other layers of another one.
    async fn download_layer(
        &self,
        source: &ImageSource,
        layer: &LayerDescriptor,
        frameworks: watch::Receiver<BTreeSet<FrameworkId>>,
        progress: &watch::Sender<u64>,
    ) -> Result<(), PullErrorKind> {
        let downloads = self.downloads_from(source.registry());
        let downloading = downloads.acquire_for_any(frameworks.clone()).await;
        if self.store.has_layer(layer.diff_id) {
            // It was downloaded with another compression, or from another registry.
            progress.send_replace(layer.blob.size);
            return Ok(());
        }
        let draft = self.store.blob_draft();
        let blob = source.blob(&layer.blob, draft, progress).await?;
        crash_point!("pull.blob-brought");
        drop(downloading);
        let _unpacking = self.slots.acquire_for_any(frameworks).await;
        let store = Arc::clone(&self.store);
        let (draft, root) = blocking(move || store.layer_draft()).await?;
        crash_point!("pull.layer-drafted");
        let unpacked = self.unpacker.unpack(blob, layer.packing, &root).await;
        let unpacked = unpacked.map_err(|source| PullErrorKind::Unpack {
            layer: layer.blob.digest,
            source,
        })?;
        if unpacked.diff_id != layer.diff_id {
            return Err(PullErrorKind::WrongDigest {
                what: format!("{}, unpacked,", layer.blob.what),
                wanted: layer.diff_id,
                found: unpacked.diff_id,
            });
        }
        crash_point!("pull.layer-unpacked");
        let store = Arc::clone(&self.store);
        blocking(move || store.add_layer(draft, unpacked)).await?;
        crash_point!("pull.layer-kept");
        Ok(())
    }
}

/// Waits for a layer, and adds its progress to that of its image.
async fn await_layer(
    mut waiter: Waiter<LayerResult, u64>,
    progress: &watch::Sender<PullProgress>,
) -> LayerResult {
    let mut known = 0;
    let mut add = |now: u64| {
        progress.send_modify(|all| {
            // A download that restarted subtracts what it had.
            all.bytes_done = all.bytes_done.saturating_sub(known).saturating_add(now);
        });
        known = now;
    };
    loop {
        tokio::select! {
            biased;
            end = &mut waiter.work => {
                add(*waiter.progress.borrow());
                return end;
            }
            Ok(()) = waiter.progress.changed() => {
                let now = *waiter.progress.borrow_and_update();
                add(now);
            }
        }
    }
}
