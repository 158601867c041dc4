//! Where files come from: this host's disk, and servers, which a process of its own asks. Each is copied whole, hashed on
//! the way, or not at all.

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

/// What can be brought.
pub(super) struct Origin {
    web: Downloading,
    folders: Folders,
    limit_bytes: u64,
}

/// Who speaks to servers.
pub(super) enum Downloading {
    /// A process that may do little else.
    Service(Arc<Service>),
    /// This process, as the tests of what the service does have it.
    #[cfg(test)]
    Here(Arc<Downloads>),
}

/// What a task may fetch.
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

    /// Copies what the URI names to a new file at `draft`. Nothing is left of a failure.
    pub(super) async fn bring(
        &self,
        uri: &v1::Uri,
        draft: &Path,
        task: &Rights,
        meter: &watch::Sender<Progress>,
    ) -> Result<std::fs::File, FetchError> {
        let brought = self.copy(uri, draft, task, meter).await;
        if brought.is_err() {
            // Its folder goes as a whole later.
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

/// Whether a server has it.
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
