//! The store: the layers and images on disk, and their holders.
//!
//! The disk is the source of truth; memory follows it. A crash leaves only complete entries, or
//! leftovers that the next start removes, or the first sweep after it. The functions block, unless
//! they state otherwise.

mod collection;
mod directories;
mod disk;
mod gc;
mod local_layers;
mod record;
mod recovery;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::fs::{self, File, Permissions};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use argosy_host::atomic_file::sync_directory;

use super::digest::Digest;
use super::error::PullErrorKind;
use super::image::LeasedImage;
use super::layer_directories::LayerDirs;
use super::unpacker::UnpackedLayer;
use directories::StoreDirs;
use record::{LayerRecord, LeaseRecord, VERSION};

pub use disk::{DRAFT, space};
pub use local_layers::LocalLayerDirs;
pub(super) use record::ImageRecord;

/// The directory of a layer's files, and the file with its metadata, in the layer's directory.
const ROOT: &str = "root";
const LAYER_FILE: &str = "layer.json";
/// The mode of each directory of the store.
const PRIVATE: u32 = 0o700;

/// The store of one agent.
pub(super) struct ImageStore {
    dirs: StoreDirs,
    /// Changes the directory of layers.
    layer_dirs: Arc<dyn LayerDirs>,
    /// Numbers the drafts.
    serial: AtomicU64,
    /// A lock, because pulls run concurrently; nothing is awaited under it.
    state: Mutex<ImageStoreState>,
}

#[derive(Debug, Default)]
struct ImageStoreState {
    /// By full name.
    images: BTreeMap<String, (ImageRecord, SystemTime)>,
    /// With the disk usage of each.
    layers: BTreeMap<Digest, u64>,
    /// By container. `None` is a lease that cannot be read: it may hold anything.
    leases: BTreeMap<String, Option<BTreeSet<Digest>>>,
    /// The number of pulls or starts that need a layer now.
    pins: BTreeMap<Digest, usize>,
    /// Paths that are being created or removed.
    drafts: BTreeSet<PathBuf>,
}

/// Protects layers from garbage collection while it exists, whether they are stored already or not.
#[derive(Debug)]
pub(super) struct LayerPin {
    store: Arc<ImageStore>,
    layers: Vec<Digest>,
}

/// A name for something incomplete; its content is removed on drop.
#[derive(Debug)]
pub(super) struct StagedPath {
    store: Arc<ImageStore>,
    path: PathBuf,
}

impl fmt::Debug for ImageStore {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_tuple("Store").field(&self.dirs).finish()
    }
}

impl ImageStore {
    /// Opens the store of an agent that holds its lock, and removes what a crash left.
    pub(super) fn open(
        directory: &Path,
        changes: Arc<dyn LayerDirs>,
    ) -> Result<Arc<Self>, PullErrorKind> {
        let directories = StoreDirs::new(directory);
        for path in [
            directories.root(),
            &directories.layers(),
            &directories.blobs(),
            &directories.records(),
            &directories.leases(),
        ] {
            // Set-user-id files of layers keep that bit, and on disk they belong to host users: no
            // other user may reach them, regardless of who created the directory.
            let made = disk::create_dir(path, PRIVATE);
            made.and_then(|()| close(path))
                .map_err(PullErrorKind::write(path))?;
        }
        let state = ImageStoreState {
            images: recovery::images(&directories.records())?,
            layers: recovery::layers(&directories.layers(), &*changes)?,
            leases: recovery::leases(&directories.leases())?,
            ..ImageStoreState::default()
        };
        recovery::clear_blobs(&directories.blobs())?;
        state.publish_bytes();
        // Starts at the current time, so that no name of an earlier run is reused.
        let begun = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
        let begun = begun.map_or(1, |since| since.as_micros() as u64);
        Ok(Arc::new(Self {
            dirs: directories,
            layer_dirs: changes,
            serial: AtomicU64::new(begun),
            state: Mutex::new(state),
        }))
    }

    /// Returns the directory of a layer's files.
    fn layer_root(&self, layer: Digest) -> PathBuf {
        self.dirs.layers().join(layer.hex()).join(ROOT)
    }

    /// Returns the image in the launcher's form.
    pub(super) fn image(&self, record: &ImageRecord) -> LeasedImage {
        let layers = record.layers.iter();
        LeasedImage {
            digest: record.digest,
            layers: layers.map(|layer| self.layer_root(*layer)).collect(),
            config: record.config.clone(),
        }
    }

    /// Returns the image of this name if it is complete, and pins it. Does not block.
    pub(super) fn find(self: &Arc<Self>, reference: &str) -> Option<(ImageRecord, LayerPin)> {
        let mut state = self.state();
        let (record, _) = state.images.get(reference)?;
        let record = record.clone();
        let is_whole = record
            .layers
            .iter()
            .all(|layer| state.layers.contains_key(layer));
        let pin = is_whole.then(|| self.pinned(&mut state, record.layers.clone()))?;
        Some((record, pin))
    }

    /// Pins these layers. Does not block.
    pub(super) fn pin(self: &Arc<Self>, layers: Vec<Digest>) -> LayerPin {
        let mut state = self.state();
        self.pinned(&mut state, layers)
    }

    fn pinned(self: &Arc<Self>, state: &mut ImageStoreState, layers: Vec<Digest>) -> LayerPin {
        for layer in &layers {
            *state.pins.entry(*layer).or_default() += 1;
        }
        LayerPin {
            store: Arc::clone(self),
            layers,
        }
    }

    /// Whether the layer is stored. Does not block.
    pub(super) fn has_layer(&self, layer: Digest) -> bool {
        self.state().layers.contains_key(&layer)
    }

    /// Returns a draft path for a blob. Does not block.
    pub(super) fn blob_draft(self: &Arc<Self>) -> StagedPath {
        self.draft(&self.dirs.blobs())
    }

    /// Creates a draft for a layer: its directory, and in it an empty one for its files.
    pub(super) fn layer_draft(self: &Arc<Self>) -> Result<(StagedPath, PathBuf), PullErrorKind> {
        let draft = self.draft(&self.dirs.layers());
        let root = draft.path.join(ROOT);
        let made = self.layer_dirs.make(&draft.path);
        made.map_err(PullErrorKind::write(&root))?;
        Ok((draft, root))
    }

    fn draft(self: &Arc<Self>, directory: &Path) -> StagedPath {
        let path = disk::draft(directory, self.serial.fetch_add(1, Ordering::Relaxed));
        // Registered before it is created, so that no sweep takes it for a leftover.
        self.state().drafts.insert(path.clone());
        StagedPath {
            store: Arc::clone(self),
            path,
        }
    }

    /// Adds an unpacked layer. An existing one stays.
    pub(super) fn add_layer(
        &self,
        draft: StagedPath,
        layer: UnpackedLayer,
    ) -> Result<(), PullErrorKind> {
        let failed = PullErrorKind::write(draft.path());
        let record = LayerRecord {
            version: VERSION,
            diff_id: layer.diff_id,
            bytes: layer.bytes,
        };
        let bytes = serde_json::to_vec(&record).expect("a record can be written as JSON");
        let described = self.layer_dirs.describe(draft.path(), bytes);
        described.map_err(&failed)?;
        let directory = self.dirs.layers();
        // The layer itself may belong to another user.
        disk::sync_all_below(&directory).map_err(&failed)?;
        {
            let mut state = self.state();
            if state.layers.contains_key(&layer.diff_id) {
                return Ok(());
            }
            // Under the lock, so that disk and memory change together; a rename is short.
            let path = directory.join(layer.diff_id.hex());
            self.layer_dirs
                .rename(draft.path(), &path)
                .map_err(&failed)?;
            state.layers.insert(layer.diff_id, layer.bytes);
            state.publish_bytes();
        }
        sync_directory(&directory).map_err(failed)
    }

    /// Adds an image, or replaces the one of that name.
    pub(super) fn add_image(self: &Arc<Self>, record: ImageRecord) -> Result<(), PullErrorKind> {
        let directory = self.dirs.records();
        let path = directory.join(ImageRecord::file_name(&record.reference));
        let failed = PullErrorKind::write(&path);
        let bytes = serde_json::to_vec_pretty(&record).expect("a record can be written as JSON");
        let draft = self.draft(&directory);
        disk::write_draft(draft.path(), &bytes).map_err(&failed)?;
        {
            let mut state = self.state();
            // As for a layer: a collection removes the file of each image that it removes from
            // memory.
            fs::rename(draft.path(), &path).map_err(&failed)?;
            let entry = (record.reference.clone(), (record, SystemTime::now()));
            state.images.extend([entry]);
        }
        sync_directory(&directory).map_err(failed)
    }

    /// Leases an image to a container until it is released, across restarts of the agent.
    pub(super) fn lease(
        self: &Arc<Self>,
        container: &str,
        image: &ImageRecord,
    ) -> Result<(), PullErrorKind> {
        let record = LeaseRecord {
            version: VERSION,
            reference: image.reference.clone(),
            layers: image.layers.iter().copied().collect(),
        };
        let bytes = serde_json::to_vec(&record).expect("a record can be written as JSON");
        // It is about a container, which ends with the boot.
        self.write(&self.lease_path(container), &bytes)?;
        let layers = Some(record.layers);
        self.state().leases.insert(container.to_owned(), layers);
        self.touch(&record.reference);
        Ok(())
    }

    /// Ends a container's lease; succeeds if there is none.
    pub(super) fn release(&self, container: &str) -> Result<(), PullErrorKind> {
        // Most containers have none, and this runs for each that ends.
        if !self.state().leases.contains_key(container) {
            return Ok(());
        }
        let path = self.lease_path(container);
        let bytes = std::fs::read(&path).unwrap_or_default();
        disk::remove(&path).map_err(PullErrorKind::write(&path))?;
        self.state().leases.remove(container);
        if let Ok(record) = serde_json::from_slice::<LeaseRecord>(&bytes) {
            self.touch(&record.reference);
        }
        Ok(())
    }

    /// Returns all containers with a lease. Does not block.
    pub(super) fn leases(&self) -> Vec<String> {
        self.state().leases.keys().cloned().collect()
    }

    fn lease_path(&self, container: &str) -> PathBuf {
        self.dirs.leases().join(format!("{container}.json"))
    }

    /// Sets the time of the image's file, which is that of its last use.
    fn touch(&self, reference: &str) {
        let now = SystemTime::now();
        if let Some((_, last_used)) = self.state().images.get_mut(reference) {
            *last_used = now;
        }
        let directory = self.dirs.records();
        let file = File::options()
            .append(true)
            .open(directory.join(ImageRecord::file_name(reference)));
        // An older time only leads to an earlier removal of an unused image.
        let _ = file.and_then(|file| file.set_modified(now));
    }

    fn write(self: &Arc<Self>, path: &Path, bytes: &[u8]) -> Result<(), PullErrorKind> {
        let draft = self.draft(path.parent().unwrap_or(path));
        let written = disk::write_atomically(path, draft.path(), bytes);
        written.map_err(PullErrorKind::write(path))
    }

    /// Removes a path of a layer or a blob.
    fn remove(&self, path: &Path) -> std::io::Result<()> {
        match path.parent() == Some(&*self.dirs.layers()) {
            true => self.layer_dirs.remove(path),
            false => disk::remove(path),
        }
    }

    /// The same; what cannot be removed now is left to a later sweep.
    fn clear(&self, path: &Path) {
        recovery::warn_if_left(path, self.remove(path));
    }

    fn state(&self) -> MutexGuard<'_, ImageStoreState> {
        // Every change under the lock is one step, so that a panic leaves nothing half-done.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl ImageStoreState {
    #[allow(clippy::cast_precision_loss, reason = "gauges are floating point")]
    fn publish_bytes(&self) {
        let bytes: u64 = self.layers.values().sum();
        metrics::gauge!("argosy_agent_image_bytes").set(bytes as f64);
    }
}

impl Drop for LayerPin {
    fn drop(&mut self) {
        let mut state = self.store.state();
        for layer in &self.layers {
            let count = state.pins.get_mut(layer).expect("a pin counts its layers");
            *count -= 1;
            if *count == 0 {
                state.pins.remove(layer);
            }
        }
    }
}

impl StagedPath {
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Removes the draft in the calling thread.
    fn remove(self) -> Result<(), PullErrorKind> {
        let removed = self.store.remove(&self.path);
        removed.map_err(PullErrorKind::write(&self.path))
    }
}

impl Drop for StagedPath {
    fn drop(&mut self) {
        let store = Arc::clone(&self.store);
        let path = std::mem::take(&mut self.path);
        let clearing = move || {
            store.clear(&path);
            store.state().drafts.remove(&path);
        };
        // Pulls are cancelled on threads that must not block on a disk.
        match tokio::runtime::Handle::try_current() {
            Ok(runtime) => drop(runtime.spawn_blocking(clearing)),
            Err(_) => clearing(),
        }
    }
}

/// Removes access for others. For a directory of another user, that user decides.
fn close(path: &Path) -> std::io::Result<()> {
    match fs::metadata(path)?.uid() == nix::unistd::geteuid().as_raw() {
        true => fs::set_permissions(path, Permissions::from_mode(PRIVATE)),
        false => Ok(()),
    }
}

/// Runs blocking work on a separate thread. Once started it continues to its end.
pub(super) async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    let done = tokio::task::spawn_blocking(work).await;
    done.expect("work on the store never panics")
}
