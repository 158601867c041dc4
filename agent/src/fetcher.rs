//! Brings a task's files into its sandbox: local paths, HTTP and HTTPS.
//!
//! A file appears under its name only when it is whole. Nothing is cached; nothing is extracted.

use std::fs::Permissions;
use std::io;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use argosy_isolation::User;
use argosy_proto::v1;
use nix::unistd::{Gid, Uid};
use tokio::fs::{File, OpenOptions};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};

/// How long a server that cannot be reached, or breaks off, is tried again.
const RETRY_FOR: Duration = Duration::from_secs(30);
/// The first pause between tries; doubled up to the longest.
const RETRY_FIRST: Duration = Duration::from_millis(50);
const RETRY_LONGEST: Duration = Duration::from_secs(2);
/// How long a server may stay silent in the middle of a file.
const STALL_LIMIT: Duration = Duration::from_secs(60);
/// How long a connection may take.
const CONNECT_LIMIT: Duration = Duration::from_secs(10);
/// Bytes copied at a time.
const CHUNK_BYTES: usize = 256 * 1024;

/// Why a file could not be brought. Every message names the URI.
#[derive(Debug, thiserror::Error)]
pub(crate) enum FetchError {
    #[error("cannot fetch {uri:?}: {rule}")]
    Invalid { uri: String, rule: String },
    #[error("cannot fetch {uri:?}")]
    Open { uri: String, source: io::Error },
    #[error("cannot fetch {uri:?}")]
    Get { uri: String, source: reqwest::Error },
    #[error("cannot fetch {uri:?}: the server answered {status}")]
    Status { uri: String, status: u16 },
    #[error("cannot fetch {uri:?}: nothing came for {} s", STALL_LIMIT.as_secs())]
    Stalled { uri: String },
    #[error("cannot fetch {uri:?}: it is larger than the limit of {limit_bytes} bytes")]
    TooLarge { uri: String, limit_bytes: u64 },
    #[error("cannot fetch {uri:?} to {path}")]
    Write {
        uri: String,
        path: PathBuf,
        source: io::Error,
    },
}

impl FetchError {
    /// Whether the same may go well a little later.
    fn may_pass(&self) -> bool {
        match self {
            Self::Get { source, .. } => !source.is_builder() && !source.is_redirect(),
            Self::Status { status, .. } => *status >= 500,
            Self::Stalled { .. } => true,
            Self::Invalid { .. }
            | Self::Open { .. }
            | Self::TooLarge { .. }
            | Self::Write { .. } => false,
        }
    }
}

/// Brings files, one after the other for one task.
#[derive(Debug, Clone)]
pub(crate) struct Fetcher {
    client: reqwest::Client,
    /// Whether the host has certificates of authorities, without which no https server can be trusted.
    has_authorities: bool,
    limit_bytes: u64,
    retry_for: Duration,
}

fn client() -> reqwest::ClientBuilder {
    reqwest::Client::builder()
        .connect_timeout(CONNECT_LIMIT)
        .no_proxy()
}

/// On whose behalf files are brought; `None` is the agent's own user.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Whose<'a> {
    /// Who must be able to read a file of this host.
    pub(crate) reader: Option<&'a User>,
    /// Whose the copy is.
    pub(crate) owner: Option<&'a User>,
}

impl Fetcher {
    pub(crate) fn new(limit_bytes: u64) -> Self {
        Self::with(client().build(), limit_bytes)
    }

    /// A host without certificates of authorities is fit for everything but https.
    fn with(trusting: reqwest::Result<reqwest::Client>, limit_bytes: u64) -> Self {
        let has_authorities = trusting.is_ok();
        let client = trusting.unwrap_or_else(|why| {
            let why = crate::error::sentence(&why);
            tracing::warn!(
                why,
                "https:// cannot be fetched on this host: install ca-certificates"
            );
            let plain = client().tls_certs_only([]).build();
            plain.expect("a client that loads no certificates can be made")
        });
        Self {
            client,
            has_authorities,
            limit_bytes,
            retry_for: RETRY_FOR,
        }
    }

    pub(crate) async fn fetch_all(
        &self,
        uris: &[v1::Uri],
        sandbox: &Path,
        whose: Whose<'_>,
    ) -> Result<(), FetchError> {
        for uri in uris {
            let name = output_name(uri)?;
            self.fetch(uri, sandbox, &name, whose).await?;
        }
        Ok(())
    }

    async fn fetch(
        &self,
        uri: &v1::Uri,
        sandbox: &Path,
        name: &str,
        whose: Whose<'_>,
    ) -> Result<(), FetchError> {
        let draft = sandbox.join(format!(".fetching-{name}"));
        let begun = Instant::now();
        let mut pause = RETRY_FIRST;
        loop {
            match self.copy(&uri.value, &draft, whose.reader).await {
                Ok(()) => break,
                Err(error) if error.may_pass() && begun.elapsed() + pause < self.retry_for => {
                    tokio::time::sleep(pause).await;
                    pause = (pause * 2).min(RETRY_LONGEST);
                }
                Err(error) => {
                    // The sandbox goes as a whole later.
                    let _ = tokio::fs::remove_file(&draft).await;
                    return Err(error);
                }
            }
        }
        let path = sandbox.join(name);
        let finish = || -> io::Result<()> {
            let mode = if uri.executable { 0o755 } else { 0o644 };
            std::fs::set_permissions(&draft, Permissions::from_mode(mode))?;
            if let Some(user) = whose.owner {
                nix::unistd::chown(
                    &draft,
                    Some(Uid::from_raw(user.uid)),
                    Some(Gid::from_raw(user.gid)),
                )?;
            }
            std::fs::rename(&draft, &path)
        };
        finish().map_err(|source| FetchError::Write {
            uri: uri.value.clone(),
            path,
            source,
        })
    }

    async fn copy(&self, uri: &str, draft: &Path, reader: Option<&User>) -> Result<(), FetchError> {
        if uri.starts_with("https://") && !self.has_authorities {
            return Err(FetchError::Invalid {
                uri: uri.to_owned(),
                rule:
                    "this host has no certificates of authorities: install ca-certificates, then \
                       start the agent again"
                        .to_owned(),
            });
        }
        if uri.starts_with("http://") || uri.starts_with("https://") {
            return self.download(uri, draft).await;
        }
        let source = local_path(uri)?;
        let open = |source| FetchError::Open {
            uri: uri.to_owned(),
            source,
        };
        if let Some(user) = reader
            && !may_read(&source, user).map_err(open)?
        {
            return Err(FetchError::Invalid {
                uri: uri.to_owned(),
                rule: "the task's user may not read it".to_owned(),
            });
        }
        let file = File::open(&source).await.map_err(open)?;
        let metadata = file.metadata().await.map_err(open)?;
        if !metadata.is_file() {
            return Err(FetchError::Invalid {
                uri: uri.to_owned(),
                rule: "it is not a regular file".to_owned(),
            });
        }
        Sink::create(uri, draft, self.limit_bytes)
            .await?
            .copy_from(file)
            .await
    }

    async fn download(&self, uri: &str, draft: &Path) -> Result<(), FetchError> {
        let get = |source: reqwest::Error| FetchError::Get {
            uri: uri.to_owned(),
            source: source.without_url(),
        };
        let stalled = |_| FetchError::Stalled {
            uri: uri.to_owned(),
        };
        let answer = tokio::time::timeout(STALL_LIMIT, self.client.get(uri).send()).await;
        let mut answer = answer.map_err(stalled)?.map_err(get)?;
        if !answer.status().is_success() {
            return Err(FetchError::Status {
                uri: uri.to_owned(),
                status: answer.status().as_u16(),
            });
        }
        let mut sink = Sink::create(uri, draft, self.limit_bytes).await?;
        loop {
            let chunk = tokio::time::timeout(STALL_LIMIT, answer.chunk()).await;
            match chunk.map_err(stalled)?.map_err(get)? {
                Some(bytes) => sink.put(&bytes).await?,
                None => return sink.finish().await,
            }
        }
    }
}

/// A draft being written, up to the limit.
struct Sink<'a> {
    uri: &'a str,
    path: &'a Path,
    file: File,
    written: u64,
    limit_bytes: u64,
}

impl<'a> Sink<'a> {
    async fn create(uri: &'a str, path: &'a Path, limit_bytes: u64) -> Result<Self, FetchError> {
        let mut options = std::fs::OpenOptions::new();
        options.write(true).create(true).truncate(true).mode(0o600);
        options.custom_flags(nix::libc::O_NOFOLLOW);
        match OpenOptions::from(options).open(path).await {
            Ok(file) => Ok(Self {
                uri,
                path,
                file,
                written: 0,
                limit_bytes,
            }),
            Err(source) => Err(FetchError::Write {
                uri: uri.to_owned(),
                path: path.to_owned(),
                source,
            }),
        }
    }

    async fn put(&mut self, bytes: &[u8]) -> Result<(), FetchError> {
        self.written += bytes.len() as u64;
        if self.written > self.limit_bytes {
            return Err(FetchError::TooLarge {
                uri: self.uri.to_owned(),
                limit_bytes: self.limit_bytes,
            });
        }
        let written = self.file.write_all(bytes).await;
        written.map_err(|source| self.failed(source))
    }

    async fn copy_from(mut self, mut source: impl AsyncRead + Unpin) -> Result<(), FetchError> {
        let mut buffer = vec![0; CHUNK_BYTES];
        loop {
            let length = source
                .read(&mut buffer)
                .await
                .map_err(|source| FetchError::Open {
                    uri: self.uri.to_owned(),
                    source,
                })?;
            if length == 0 {
                return self.finish().await;
            }
            self.put(&buffer[..length]).await?;
        }
    }

    async fn finish(mut self) -> Result<(), FetchError> {
        let flushed = self.file.flush().await;
        flushed.map_err(|source| self.failed(source))
    }

    fn failed(&self, source: io::Error) -> FetchError {
        FetchError::Write {
            uri: self.uri.to_owned(),
            path: self.path.to_owned(),
            source,
        }
    }
}

/// The file's name in the sandbox: one plain name.
fn output_name(uri: &v1::Uri) -> Result<String, FetchError> {
    let invalid = |rule: &str| FetchError::Invalid {
        uri: uri.value.clone(),
        rule: rule.to_owned(),
    };
    let name = match uri.output_file.as_str() {
        "" => {
            let path = uri.value.split(['?', '#']).next().unwrap_or_default();
            let path = path.split_once("://").map_or(path, |(_, rest)| rest);
            path.rsplit_once('/').map_or("", |(_, last)| last)
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

fn local_path(uri: &str) -> Result<PathBuf, FetchError> {
    let path = Path::new(uri.strip_prefix("file://").unwrap_or(uri));
    if path.is_absolute() && !uri.contains('\0') {
        return Ok(path.to_owned());
    }
    Err(FetchError::Invalid {
        uri: uri.to_owned(),
        rule: "give an absolute path, file:///…, http://… or https://…".to_owned(),
    })
}

/// Whether this user could read the file itself: the agent's rights are not for tasks to borrow.
fn may_read(path: &Path, user: &User) -> io::Result<bool> {
    let may = |path: &Path, bit: u32| -> io::Result<bool> {
        let metadata = std::fs::metadata(path)?;
        let shift = if metadata.uid() == user.uid {
            6
        } else if metadata.gid() == user.gid || user.groups.contains(&metadata.gid()) {
            3
        } else {
            0
        };
        Ok(user.uid == 0 || (metadata.mode() >> shift) & bit != 0)
    };
    let real = std::fs::canonicalize(path)?;
    for folder in real.ancestors().skip(1) {
        if !may(folder, 0o1)? {
            return Ok(false);
        }
    }
    may(&real, 0o4)
}

#[cfg(test)]
mod tests;
