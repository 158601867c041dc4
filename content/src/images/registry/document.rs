//! Documents of registries in memory: manifests, configurations and tokens.

use std::ops::Deref;
use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// The maximum size of a document that takes no slot, in bytes. Hardly any image has a larger one.
pub(in crate::images) const SMALL_BYTES: usize = 512 * 1024;
/// The number of larger documents in memory at a time; others wait. So what registries send cannot
/// exhaust the memory of the service, and small documents never wait for large ones.
pub(in crate::images) const LARGE_AT_ONCE: usize = 4;

/// A document that is received, or complete.
#[derive(Default)]
pub(in crate::images) struct RegistryDocument {
    bytes: Vec<u8>,
    /// Only of a large document.
    slot: Option<OwnedSemaphorePermit>,
}

impl RegistryDocument {
    /// Appends received bytes. A large document waits for one of these slots.
    pub(super) async fn extend(&mut self, bytes: &[u8], slots: &Arc<Semaphore>) {
        if self.slot.is_none() && self.bytes.len() + bytes.len() > SMALL_BYTES {
            let slot = Arc::clone(slots).acquire_owned().await;
            self.slot = Some(slot.expect("the slots are never closed"));
        }
        self.bytes.extend_from_slice(bytes);
    }
}

impl From<Vec<u8>> for RegistryDocument {
    fn from(bytes: Vec<u8>) -> Self {
        Self { bytes, slot: None }
    }
}

impl Deref for RegistryDocument {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.bytes
    }
}
