//! Registry requests in the service: each request is separate, and sessions are kept for later
//! ones.

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::watch;

use super::credentials::AuthHeader;
use super::error::PullErrorKind;
use super::manifest::{BlobDescriptor, Platform};
use super::reference::RegistryReference;
use super::registry::{InsecureRegistry, Registries, RetryTimeouts};
use super::source::{DirectSource, ResolvedImage};
use crate::fetcher::{FetchProgress, FetchSettings};

/// The maximum number of cached sessions, each with its registry's accepted credentials. One more
/// replaces all of them.
const SESSIONS: usize = 64;

/// An image, and the credentials for it.
type RegistryKey = (RegistryReference, Option<String>);

/// The registries of the service.
pub(crate) struct RegistryPool {
    registries: Registries,
    platform: Platform,
    limit_bytes: u64,
    /// By image and credentials. A lock, because requests run concurrently; nothing is awaited
    /// under it.
    sessions: Mutex<BTreeMap<RegistryKey, Arc<DirectSource>>>,
}

impl RegistryPool {
    /// Creates it. Must precede the point at which the process can no longer open files.
    pub(crate) fn new(
        fetch: &FetchSettings,
        insecure: &[InsecureRegistry],
        limit_bytes: u64,
    ) -> io::Result<Self> {
        Ok(Self {
            registries: Registries::new(fetch, insecure, RetryTimeouts::default())?,
            platform: Platform::of_this_host(),
            limit_bytes,
            sessions: Mutex::default(),
        })
    }

    /// Returns the parts of an image, with these credentials.
    pub(crate) async fn plan(
        &self,
        reference: &RegistryReference,
        login: Option<String>,
    ) -> Result<ResolvedImage, PullErrorKind> {
        let reading = self.source(reference, login);
        reading.resolve(&self.platform, self.limit_bytes).await
    }

    /// Writes a blob to a file, whose path is for messages.
    pub(crate) async fn blob(
        &self,
        (reference, login): (&RegistryReference, Option<String>),
        blob: &BlobDescriptor,
        (path, file): (PathBuf, File),
        meter: &watch::Sender<FetchProgress>,
    ) -> Result<(), PullErrorKind> {
        let reading = self.source(reference, login);
        let (progress, mut seen) = watch::channel(0);
        let place = (path, tokio::fs::File::from_std(file));
        let mut bringing = std::pin::pin!(reading.blob(blob, place, &progress));
        loop {
            tokio::select! {
                biased;
                end = &mut bringing => return end.map(drop),
                Ok(()) = seen.changed() => {
                    let now = *seen.borrow_and_update();
                    meter.send_modify(|shown| {
                        (shown.done_bytes, shown.total_bytes) = (now, blob.size);
                    });
                }
            }
        }
    }

    fn source(&self, reference: &RegistryReference, login: Option<String>) -> Arc<DirectSource> {
        let mut sessions = self.sessions.lock().unwrap_or_else(PoisonError::into_inner);
        let key = (reference.clone(), login);
        if sessions.len() >= SESSIONS && !sessions.contains_key(&key) {
            // Sessions in use exist until they are dropped.
            sessions.clear();
        }
        let secret = key.1.as_deref().and_then(AuthHeader::new);
        let made = sessions.entry(key).or_insert_with(|| {
            Arc::new(DirectSource::Registry {
                session: Box::new(self.registries.session(reference, secret)),
                reference: reference.clone(),
            })
        });
        Arc::clone(made)
    }
}
