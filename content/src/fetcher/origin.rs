//! The origins of files: this host's disk, and servers, through a separate process. Each file is
//! copied completely, hashed on the way, or not at all.

use std::path::Path;
use std::sync::Arc;

use argosy_proto::uri::ShownUri;
use argosy_proto::v1;
use tokio::fs::File;
use tokio::sync::watch;

#[cfg(test)]
use super::download::Downloads;
use super::draft;
use super::error::FetchError;
use super::local::{Folders, Reader};
use super::reach::Reach;
use super::sink::{Sink, Wanted};
use super::{FetchSettings, Progress};
use crate::service::Service;

/// The origins of files for one agent.
pub(super) struct Origin {
    web: Downloading,
    folders: Folders,
    limit_bytes: u64,
}

/// The process that connects to servers.
pub(super) enum Downloading {
    /// A process with few privileges.
    Service(Arc<Service>),
    /// This process, for the tests of the service's code.
    #[cfg(test)]
    Here(Arc<Downloads>),
}

/// The rights of a task that fetches.
#[derive(Debug, Clone)]
pub(super) struct Rights {
    pub(super) reader: Reader,
    pub(super) reach: Reach,
}

impl Origin {
    pub(super) fn new(settings: FetchSettings, web: Downloading) -> Self {
        Self {
            web,
            folders: Folders(settings.folders),
            limit_bytes: settings.limit_bytes,
        }
    }

    /// Copies the file of the URI to a new file at `draft`. A failure leaves nothing behind.
    pub(super) async fn bring(
        &self,
        uri: &v1::Uri,
        draft: &Path,
        task: &Rights,
        meter: &watch::Sender<Progress>,
    ) -> Result<std::fs::File, FetchError> {
        let brought = self.copy(uri, draft, task, meter).await;
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
        task: &Rights,
        meter: &watch::Sender<Progress>,
    ) -> Result<std::fs::File, FetchError> {
        let wanted = Wanted {
            uri: &uri.value,
            sha256: &uri.sha256,
        };
        if is_of_the_web(wanted.uri) {
            let made = make(wanted.uri, draft).await?;
            return match &self.web {
                Downloading::Service(service) => {
                    service
                        .fetch(wanted, task.reach, (draft, &made), meter)
                        .await?;
                    Ok(made)
                }
                #[cfg(test)]
                Downloading::Here(downloads) => {
                    let mut file = File::from_std(made);
                    let place = (draft, &mut file);
                    downloads.bring(wanted, task.reach, place, meter).await?;
                    Ok(file.into_std().await)
                }
            };
        }
        let (folders, named, reader) =
            (self.folders.clone(), uri.value.clone(), task.reader.clone());
        let opening = tokio::task::spawn_blocking(move || folders.open(&named, &reader));
        let (source, length) = opening.await.expect("opening a file never panics")?;
        let mut file = File::from_std(make(wanted.uri, draft).await?);
        let sink = Sink::begin(wanted, (draft, &mut file), self.limit_bytes, meter).await?;
        sink.expects(length);
        sink.copy_from(File::from_std(source)).await?;
        Ok(file.into_std().await)
    }
}

/// Whether the URI names a server.
pub(super) fn is_of_the_web(uri: &str) -> bool {
    uri.starts_with("http://") || uri.starts_with("https://")
}

async fn make(uri: &str, draft: &Path) -> Result<std::fs::File, FetchError> {
    let place = draft.to_owned();
    let made = tokio::task::spawn_blocking(move || draft::file(&place)).await;
    made.expect("making a file never panics")
        .map_err(|source| FetchError::Write {
            uri: ShownUri::of(uri),
            path: draft.to_owned(),
            source,
        })
}
