//! The origins of files: this host's disk, and servers, through a separate process. Each file is
//! copied completely, hashed on the way, or not at all.

use std::path::Path;
use std::sync::Arc;

use argosy_proto::uri::RedactedUri;
use argosy_proto::v1;
use futures::future::BoxFuture;
use tokio::fs::File;
use tokio::sync::watch;

use super::draft;
use super::error::FetchError;
use super::local::{FetchDirs, ReadIdentity};
use super::reach::Requester;
use super::sink::{FileSink, RequestedFile};
use super::{FetchProgress, FetchSettings};

/// A process that downloads files from servers.
///
/// A trait, so that the fetcher does not depend on the content service, which contains its
/// downloads.
pub trait Downloader: Send + Sync {
    /// Downloads a file of a server to the empty file of `place`, whose path is for messages.
    ///
    /// # Errors
    /// The server's error, or that of the process.
    fn fetch<'a>(
        self: Arc<Self>,
        wanted: RequestedFile<'a>,
        requester: Requester,
        place: (&'a Path, &'a std::fs::File),
        meter: &'a watch::Sender<FetchProgress>,
    ) -> BoxFuture<'a, Result<(), FetchError>>;
}

/// The origins of files for one agent.
pub(super) struct Origin {
    downloader: Arc<dyn Downloader>,
    directories: FetchDirs,
    limit_bytes: u64,
}

/// The rights of a task that fetches.
#[derive(Debug, Clone)]
pub(super) struct FetchRights {
    pub(super) reader: ReadIdentity,
    pub(super) requester: Requester,
}

impl Origin {
    pub(super) fn new(settings: FetchSettings, downloader: Arc<dyn Downloader>) -> Self {
        Self {
            downloader,
            directories: FetchDirs(settings.directories),
            limit_bytes: settings.limit_bytes,
        }
    }

    /// Copies the file of the URI to a new file at `draft`. A failure leaves nothing behind.
    pub(super) async fn fetch(
        &self,
        uri: &v1::Uri,
        draft: &Path,
        rights: &FetchRights,
        meter: &watch::Sender<FetchProgress>,
    ) -> Result<std::fs::File, FetchError> {
        let brought = self.copy(uri, draft, rights, meter).await;
        if brought.is_err() {
            // Its directory is removed as a whole later.
            let _ = tokio::fs::remove_file(draft).await;
        }
        brought
    }

    async fn copy(
        &self,
        uri: &v1::Uri,
        draft: &Path,
        rights: &FetchRights,
        meter: &watch::Sender<FetchProgress>,
    ) -> Result<std::fs::File, FetchError> {
        let wanted = RequestedFile {
            uri: &uri.value,
            sha256: &uri.sha256,
        };
        if is_remote(wanted.uri) {
            let made = create(wanted.uri, draft).await?;
            let downloader = Arc::clone(&self.downloader);
            let place = (draft, &made);
            downloader
                .fetch(wanted, rights.requester, place, meter)
                .await?;
            return Ok(made);
        }
        let (directories, named, reader) = (
            self.directories.clone(),
            uri.value.clone(),
            rights.reader.clone(),
        );
        let opening = tokio::task::spawn_blocking(move || directories.open(&named, &reader));
        let (source, length) = opening.await.expect("opening a file never panics")?;
        let mut file = File::from_std(create(wanted.uri, draft).await?);
        let sink = FileSink::new(wanted, (draft, &mut file), self.limit_bytes, meter).await?;
        sink.set_total(length);
        sink.copy_from(File::from_std(source)).await?;
        Ok(file.into_std().await)
    }
}

/// Whether the URI names a server.
pub(super) fn is_remote(uri: &str) -> bool {
    uri.starts_with("http://") || uri.starts_with("https://")
}

async fn create(uri: &str, draft: &Path) -> Result<std::fs::File, FetchError> {
    let place = draft.to_owned();
    let made = tokio::task::spawn_blocking(move || draft::create_file(&place)).await;
    made.expect("making a file never panics")
        .map_err(|source| FetchError::Write {
            uri: RedactedUri::of(uri),
            path: draft.to_owned(),
            source,
        })
}
