//! Garbage collection of the store: removes unused images to make space. The functions block.

use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::gc::{StoreContents, StoredImage, select};
use super::{ImageRecord, ImageStore, ImageStoreState, StagedPath, disk, recovery};
use crate::images::error::PullErrorKind;

impl ImageStore {
    /// Makes space for a pull. Packed layers and their files are on disk together for a while;
    /// files are larger by an unknown factor.
    ///
    /// # Errors
    /// If not even the packed layers would fit after the removal of all unused images. Then none is
    /// removed: an image that only claims to be large must not cost other images their place.
    pub(in crate::images) fn make_space(
        self: &Arc<Self>,
        headroom_percent: u64,
        packed_bytes: u64,
    ) -> Result<(), PullErrorKind> {
        let root = self.dirs.root();
        let (free, _) = disk::space(root).map_err(PullErrorKind::read(root))?;
        let removable = self.state().removable_bytes();
        if packed_bytes > free.saturating_add(removable) {
            let problem = format!(
                "no space left on device for {packed_bytes} bytes of packed layers: {free} bytes are free, and unused images have {removable}"
            );
            let source = io::Error::new(io::ErrorKind::StorageFull, problem);
            return Err(PullErrorKind::write(root)(source));
        }
        self.collect(headroom_percent, packed_bytes.saturating_mul(2))?;
        Ok(())
    }

    /// Removes unused images until this share of the disk is free, plus this many bytes. Returns
    /// the numbers of removed images and layers.
    pub(in crate::images) fn collect(
        self: &Arc<Self>,
        headroom_percent: u64,
        more_bytes: u64,
    ) -> Result<(usize, usize), PullErrorKind> {
        self.sweep()?;
        let root = self.dirs.root();
        let (free, total) = disk::space(root).map_err(PullErrorKind::read(root))?;
        let headroom = (u128::from(total) * u128::from(headroom_percent.min(100)) / 100) as u64;
        let wanted = headroom.saturating_add(more_bytes).saturating_sub(free);
        let went = self.unlink(wanted)?;
        let (images, layers) = (went.0, went.1.len());
        metrics::counter!("argosy_agent_images_removed_total").increment(images as u64);
        for draft in went.1 {
            draft.remove()?;
        }
        Ok((images, layers))
    }

    /// Removes images from the store; their layers get draft names and are removed later.
    fn unlink(
        self: &Arc<Self>,
        wanted_bytes: u64,
    ) -> Result<(usize, Vec<StagedPath>), PullErrorKind> {
        if wanted_bytes == 0 {
            return Ok((0, Vec::new()));
        }
        let mut state = self.state();
        if state.has_unreadable_lease() {
            tracing::warn!(
                "the disk is filling up, but a lease cannot be read: no image is removed while its container exists"
            );
            return Ok((0, Vec::new()));
        }
        let leaving = select(state.contents(), wanted_bytes);
        let (records, layers) = (self.dirs.records(), self.dirs.layers());
        // Images first: an incomplete one may remain after a crash, but this avoids it where
        // possible.
        for reference in &leaving.images {
            let path = records.join(ImageRecord::file_name(reference));
            disk::remove(&path).map_err(PullErrorKind::write(&path))?;
            state.images.remove(reference);
        }
        let mut drafts = Vec::with_capacity(leaving.layers.len());
        for layer in leaving.layers {
            let path = layers.join(layer.hex());
            let serial = self.serial.fetch_add(1, Ordering::Relaxed);
            let draft = StagedPath {
                store: Arc::clone(self),
                path: disk::draft(&layers, serial),
            };
            state.drafts.insert(draft.path.clone());
            drafts.push(draft);
            match self
                .layer_dirs
                .rename(&path, &drafts[drafts.len() - 1].path)
            {
                Err(source) if path.exists() => {
                    // Dropping a draft takes the lock.
                    drop(state);
                    return Err(PullErrorKind::Write { path, source });
                }
                // A file that another process removed counts as removed.
                Ok(()) | Err(_) => {}
            }
            state.layers.remove(&layer);
            state.publish_bytes();
        }
        Ok((leaving.images.len(), drafts))
    }

    /// Removes unknown drafts: those of a cancelled pull whose unpacker was still writing.
    fn sweep(&self) -> Result<(), PullErrorKind> {
        for directory in [self.dirs.layers(), self.dirs.blobs()] {
            for path in recovery::drafts(&directory)? {
                if !self.state().drafts.contains(&path) {
                    self.clear(&path);
                }
            }
        }
        Ok(())
    }
}

impl ImageStoreState {
    /// Returns the disk usage of all layers that garbage collection could remove, in bytes.
    fn removable_bytes(&self) -> u64 {
        if self.has_unreadable_lease() {
            return 0;
        }
        let removals = select(self.contents(), u64::MAX);
        let sizes = removals.layers.iter().map(|layer| self.layers[layer]);
        sizes.sum()
    }

    /// Returns whether the lease of a container cannot be read. It may hold any layer, so none may
    /// be removed.
    fn has_unreadable_lease(&self) -> bool {
        self.leases.values().any(Option::is_none)
    }

    fn contents(&self) -> StoreContents<'_> {
        let leased = self.leases.values().flatten().flatten();
        let images = self.images.iter().map(|(reference, entry)| StoredImage {
            reference,
            last_used: entry.1,
            layers: &entry.0.layers,
        });
        StoreContents {
            layers: self.layers.clone(),
            images: images.collect(),
            in_use: leased.chain(self.pins.keys()).copied().collect(),
        }
    }
}
