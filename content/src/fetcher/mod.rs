//! Fetching: brings a task's files into its sandbox and extracts archives. Reading order: `error`,
//! `progress`, `draft`, `local`, `containers`, `own_host`, `addresses`, `lookups`, `reach`,
//! `resolved_names`, `web`, `agents`, `sink`, `download`, `origin`, `cache`.
//!
//! A file gets its name only when it is complete, and so does the directory of an archive.

mod addresses;
mod agents;
mod cache;
mod containers;
mod download;
mod draft;
mod error;
mod local;
mod lookups;
mod origin;
mod own_host;
mod progress;
mod reach;
mod resolved_names;
mod sink;
mod web;

use std::fs::{File, Permissions};
use std::io::{self, Seek};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use argosy_host::crash_point;
use argosy_isolation::ContainerUser;
use argosy_proto::uri::RedactedUri;
use argosy_proto::v1;
use argosy_state::ids::FrameworkId;
use futures::future::BoxFuture;
use serde::{Deserialize, Serialize};
use tokio::sync::watch;

use crate::FairSlots;
pub(crate) use agents::names_agent;
pub use agents::{ClusterAuthorities, ClusterTls};
pub use cache::FetchCache;
pub use containers::TaskSubnets;
pub(crate) use download::{DownloadClient, client};
pub use error::FetchError;
use local::ReadIdentity;
pub(crate) use lookups::LOOKUPS_AT_ONCE;
#[cfg(test)]
pub(crate) use lookups::take_slots;
pub use origin::Downloader;
use origin::{FetchRights, Origin, is_remote};
pub use progress::{FetchProgress, ItemKind, REPORT_INTERVAL, report};
pub use reach::{AccessDenied, FetchAllow, Requester, ServerAccess};
pub(crate) use reach::{AccessPolicy, RequestPurpose};
pub use sink::RequestedFile;
pub(crate) use web::{HttpClientPool, RequestDenied, redirection};

/// An extractor of untrusted archives.
pub trait Extractor: Send + Sync {
    /// Extracts into an existing empty directory that belongs to `owner` (`None`: to the agent's
    /// user). The error is a message without a full stop. Dropping the future ends its work.
    fn extract<'a>(
        &'a self,
        archive: File,
        into: File,
        owner: Option<&'a ContainerUser>,
    ) -> BoxFuture<'a, Result<(), String>>;
}

/// The fetcher: brings the files of a task one after another.
pub struct Fetcher {
    origin: Arc<Origin>,
    cache: Option<Arc<FetchCache>>,
    extractor: Arc<dyn Extractor>,
    /// The slots for archives that are extracted; others wait.
    slots: Arc<FairSlots>,
}

/// An operator's settings for fetching.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct FetchSettings {
    /// The maximum size of a file.
    pub limit_bytes: u64,
    /// The only host directories from which tasks get files.
    pub directories: Vec<PathBuf>,
    /// Servers that tasks may fetch from regardless of the rules.
    pub allow: Vec<FetchAllow>,
    /// API addresses of masters, `host:port`.
    pub masters: Vec<String>,
    /// The API address of this agent.
    pub api: String,
    /// The port on which the API listens, if it is another one.
    pub api_port: Option<u16>,
    /// The subnets of the agent's containers; `None`: they have no separate networks.
    pub task_subnets: Option<TaskSubnets>,
}

/// The task for which files are fetched.
#[derive(Debug, Clone, Copy, Default)]
pub struct FetchContext<'a> {
    /// The framework of the task.
    pub framework: FrameworkId,
    /// The host user that owns the copies, and that must be able to read files of the host. `None`
    /// is the agent's user; if that is root, it reads as a user without rights.
    pub owner: Option<&'a ContainerUser>,
    /// The servers that it reaches.
    pub reach: ServerAccess,
}

impl Fetcher {
    /// Each archive is extracted in one of the `slots`. `cache` holds the files that tasks request
    /// to be cached; without it no file is.
    pub fn new(
        settings: FetchSettings,
        downloader: Arc<dyn Downloader>,
        extractor: Arc<dyn Extractor>,
        slots: Arc<FairSlots>,
        cache: Option<FetchCache>,
    ) -> Self {
        Self {
            origin: Arc::new(Origin::new(settings, downloader)),
            cache: cache.map(Arc::new),
            extractor,
            slots,
        }
    }

    /// Fetches these files into a sandbox, one after another, and reports the progress.
    ///
    /// # Errors
    /// The first file that cannot be fetched; the files before it stay.
    pub async fn fetch_all(
        &self,
        uris: &[v1::Uri],
        sandbox: &Path,
        context: FetchContext<'_>,
        meter: &watch::Sender<FetchProgress>,
    ) -> Result<(), FetchError> {
        for uri in uris {
            let name = output_name(uri)?;
            let shown = RedactedUri::of(&uri.value).to_string();
            meter.send_replace(FetchProgress::of(ItemKind::File(shown)));
            self.fetch(uri, sandbox, &name, context, meter).await?;
        }
        Ok(())
    }

    async fn fetch(
        &self,
        uri: &v1::Uri,
        sandbox: &Path,
        name: &str,
        context: FetchContext<'_>,
        meter: &watch::Sender<FetchProgress>,
    ) -> Result<(), FetchError> {
        let fetched = sandbox.join(format!(".fetching-{name}"));
        let rights = FetchRights {
            reader: ReadIdentity::of(context.owner),
            requester: Requester {
                framework: context.framework,
                reach: context.reach,
            },
        };
        let file = match &self.cache {
            // A task that may fetch nothing does not get what others have fetched either.
            Some(cache)
                if uri.cache
                    && is_remote(&uri.value)
                    // A copy would outlive the ticket.
                    && !names_agent(&uri.value)
                    && context.reach == ServerAccess::Default =>
            {
                cache
                    .get(&self.origin, uri, &fetched, &rights, meter)
                    .await?
            }
            _ => self.origin.fetch(uri, &fetched, &rights, meter).await?,
        };
        crash_point!("fetch.draft-written");
        if uri.extract {
            let shown = RedactedUri::of(&uri.value).to_string();
            meter.send_replace(FetchProgress::of(ItemKind::Archive(shown)));
            return self
                .extract(uri, sandbox, name, (file, &fetched), context)
                .await;
        }
        let path = sandbox.join(name);
        let finish = || -> io::Result<()> {
            let mode = if uri.executable { 0o755 } else { 0o644 };
            file.set_permissions(Permissions::from_mode(mode))?;
            if let Some(user) = context.owner {
                draft::chown(&file, user)?;
            }
            std::fs::rename(&fetched, &path)?;
            crash_point!("fetch.file-named");
            Ok(())
        };
        finish().map_err(|source| FetchError::Write {
            uri: RedactedUri::of(&uri.value),
            path,
            source,
        })
    }

    /// Extracts a fetched archive into a directory.
    async fn extract(
        &self,
        uri: &v1::Uri,
        sandbox: &Path,
        name: &str,
        (mut archive, fetched): (File, &Path),
        context: FetchContext<'_>,
    ) -> Result<(), FetchError> {
        let _slot = self.slots.acquire(context.framework).await;
        let path = sandbox.join(name);
        let extracted = sandbox.join(format!(".extracting-{name}"));
        let failed = |source| FetchError::Write {
            uri: RedactedUri::of(&uri.value),
            path: path.clone(),
            source,
        };
        let mut make = || -> io::Result<File> {
            archive.rewind()?;
            std::fs::remove_file(fetched)?;
            let directory = draft::create_dir(&extracted)?;
            if let Some(user) = context.owner {
                draft::chown(&directory, user)?;
            }
            Ok(directory)
        };
        let directory = make().map_err(failed)?;
        crash_point!("extract.directory-made");
        if let Err(rule) = self
            .extractor
            .extract(archive, directory, context.owner)
            .await
        {
            // Not by `remove_tree`, which a process of the task's user could keep busy. The sandbox
            // is removed as a whole later.
            let _ = tokio::fs::remove_dir_all(&extracted).await;
            return Err(FetchError::Archive {
                uri: RedactedUri::of(&uri.value),
                rule,
            });
        }
        crash_point!("extract.unpacked");
        std::fs::rename(&extracted, &path).map_err(failed)?;
        crash_point!("extract.named");
        Ok(())
    }
}

/// Returns the file's name in the sandbox: one plain name.
fn output_name(uri: &v1::Uri) -> Result<String, FetchError> {
    let invalid = |rule: &str| FetchError::Invalid {
        uri: RedactedUri::of(&uri.value),
        rule: rule.to_owned(),
    };
    let name = match uri.output_file.as_str() {
        "" => {
            let path = uri.value.split(['?', '#']).next().unwrap_or_default();
            let path = path.split_once("://").map_or(path, |(_, rest)| rest);
            let last = path.rsplit_once('/').map_or("", |(_, last)| last);
            match uri.extract {
                true => without_ending(last),
                false => last,
            }
        }
        given => given,
    };
    if name.is_empty() {
        return Err(invalid(
            "it has no last part to name the file after: set output_file",
        ));
    }
    if name.contains(['/', '\0']) || name == "." || name == ".." || name.len() > 200 {
        return Err(invalid(
            "output_file must be one plain file name of at most 200 bytes",
        ));
    }
    if name == "stdout" || name == "stderr" {
        return Err(invalid(
            "stdout and stderr are the task's own output: set output_file",
        ));
    }
    Ok(name.to_owned())
}

/// Returns the name of an archive without its extension.
fn without_ending(name: &str) -> &str {
    let endings = [
        ".tar.gz", ".tgz", ".tar.zst", ".tzst", ".tar.xz", ".txz", ".tar", ".zip",
    ];
    let stem = endings.iter().find_map(|ending| name.strip_suffix(ending));
    stem.filter(|stem| !stem.is_empty()).unwrap_or(name)
}

#[cfg(test)]
mod tests;
