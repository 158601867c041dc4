//! Registry requests in the service: each request is separate, and sessions are kept for later
//! ones.

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use argosy_state::ids::FrameworkId;
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

/// The key of a session.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct SessionKey {
    pub(crate) reference: RegistryReference,
    /// The value of an `Authorization` header.
    pub(crate) login: Option<String>,
    /// The framework in whose turn names are looked up.
    pub(crate) framework: FrameworkId,
}

/// The registries of the service.
pub(crate) struct RegistryPool {
    registries: Registries,
    platform: Platform,
    limit_bytes: u64,
    /// A lock, because requests run concurrently; nothing is awaited under it.
    sessions: Mutex<BTreeMap<SessionKey, Arc<DirectSource>>>,
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

    /// Returns the parts of an image.
    pub(crate) async fn plan(&self, key: SessionKey) -> Result<ResolvedImage, PullErrorKind> {
        let reading = self.source(key);
        reading.resolve(&self.platform, self.limit_bytes).await
    }

    /// Writes a blob to a file, whose path is for messages.
    pub(crate) async fn blob(
        &self,
        key: SessionKey,
        blob: &BlobDescriptor,
        (path, file): (PathBuf, File),
        meter: &watch::Sender<FetchProgress>,
    ) -> Result<(), PullErrorKind> {
        let reading = self.source(key);
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

    fn source(&self, key: SessionKey) -> Arc<DirectSource> {
        let mut sessions = self.sessions.lock().unwrap_or_else(PoisonError::into_inner);
        if sessions.len() >= SESSIONS && !sessions.contains_key(&key) {
            // Sessions in use exist until they are dropped.
            sessions.clear();
        }
        let secret = key.login.as_deref().and_then(AuthHeader::new);
        let (reference, framework) = (key.reference.clone(), key.framework);
        let made = sessions.entry(key).or_insert_with(|| {
            let session = self.registries.session(&reference, secret, framework);
            Arc::new(DirectSource::Registry {
                session: Box::new(session),
                reference,
            })
        });
        Arc::clone(made)
    }
}
