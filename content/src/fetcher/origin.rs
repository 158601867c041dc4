//! Where files come from: this host's disk, HTTP and HTTPS. Each is copied whole, hashed on the way, or not at all.

use std::io;
use std::path::Path;
use std::time::{Duration, Instant};

use argosy_isolation::crash;
use argosy_proto::uri::ShownUri;
use argosy_proto::v1;
use sha2::{Digest, Sha256};
use tokio::fs::File;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};
use tokio::sync::watch;

use super::draft;
use super::error::FetchError;
use super::local::{Folders, Reader};
use super::reach::{Policy, Reach};
use super::web::Web;
use super::{FetchSettings, Progress};

/// How long a server that cannot be reached, or breaks off, is tried again.
const RETRY_FOR: Duration = Duration::from_secs(30);
/// The first pause between tries; doubled up to the longest.
const RETRY_FIRST: Duration = Duration::from_millis(50);
const RETRY_LONGEST: Duration = Duration::from_secs(2);
/// How long a server may stay silent in the middle of a file, as in Mesos.
const STALL_LIMIT: Duration = Duration::from_secs(60);
/// How long a connection may take.
const CONNECT_LIMIT: Duration = Duration::from_secs(10);
/// Bytes copied at a time.
const CHUNK_BYTES: usize = 256 * 1024;

/// What can be brought.
pub(super) struct Origin {
    web: Web,
    folders: Folders,
    limit_bytes: u64,
    pub(super) retry_for: Duration,
    /// How long a server may stay silent.
    pub(super) stall_limit: Duration,
}

/// What a task may fetch.
#[derive(Debug, Clone)]
pub(super) struct Rights {
    pub(super) reader: Reader,
    pub(super) reach: Reach,
}

/// A whole file, and its SHA-256.
type Copied = (File, [u8; 32]);

pub(super) fn client() -> reqwest::ClientBuilder {
    reqwest::Client::builder()
        .connect_timeout(CONNECT_LIMIT)
        .no_proxy()
}

impl Origin {
    pub(super) fn new(settings: FetchSettings) -> Self {
        Self::with(client, settings)
    }

    pub(super) fn with(
        client: impl Fn() -> reqwest::ClientBuilder + Send + Sync + 'static,
        settings: FetchSettings,
    ) -> Self {
        let policy = Policy {
            allow: settings.allow,
            masters: settings.masters,
            api: settings.api,
            api_port: settings.api_port,
        };
        Self {
            web: Web::new(client, policy),
            folders: Folders(settings.folders),
            limit_bytes: settings.limit_bytes,
            retry_for: RETRY_FOR,
            stall_limit: STALL_LIMIT,
        }
    }

    /// Copies what the URI names to a new file at `draft`, and tries for a while. Nothing is left of a failure.
    pub(super) async fn bring(
        &self,
        uri: &v1::Uri,
        draft: &Path,
        task: &Rights,
        meter: &watch::Sender<Progress>,
    ) -> Result<std::fs::File, FetchError> {
        let begun = Instant::now();
        let mut pause = RETRY_FIRST;
        loop {
            let copied = self.copy(&uri.value, draft, task, meter).await;
            match copied.and_then(|copied| judge(uri, copied)) {
                Ok(file) => return Ok(file.into_std().await),
                Err(error) if error.may_pass() && begun.elapsed() + pause < self.retry_for => {
                    tokio::time::sleep(pause).await;
                    pause = (pause * 2).min(RETRY_LONGEST);
                }
                Err(error) => {
                    // Its folder goes as a whole later.
                    let _ = tokio::fs::remove_file(draft).await;
                    return Err(error);
                }
            }
        }
    }

    async fn copy(
        &self,
        uri: &str,
        draft: &Path,
        task: &Rights,
        meter: &watch::Sender<Progress>,
    ) -> Result<Copied, FetchError> {
        if uri.starts_with("http://") || uri.starts_with("https://") {
            return self.download(uri, draft, task.reach, meter).await;
        }
        let (folders, named, reader) = (self.folders.clone(), uri.to_owned(), task.reader.clone());
        let opening = tokio::task::spawn_blocking(move || folders.open(&named, &reader));
        let (file, length) = opening.await.expect("opening a file never panics")?;
        let sink = Sink::create(uri, draft, self.limit_bytes, meter).await?;
        sink.expects(length);
        sink.copy_from(File::from_std(file)).await
    }

    async fn download(
        &self,
        uri: &str,
        draft: &Path,
        reach: Reach,
        meter: &watch::Sender<Progress>,
    ) -> Result<Copied, FetchError> {
        let get = |source: reqwest::Error| FetchError::of_server(uri, source.without_url());
        let limit = self.stall_limit;
        let stalled = |_| FetchError::Stalled {
            uri: ShownUri::of(uri),
            limit,
        };
        let answer = tokio::time::timeout(limit, self.web.get(uri, reach)).await;
        let mut answer = answer.map_err(stalled)??;
        if !answer.status().is_success() {
            return Err(FetchError::Status {
                uri: ShownUri::of(uri),
                status: answer.status().as_u16(),
            });
        }
        let mut sink = Sink::create(uri, draft, self.limit_bytes, meter).await?;
        sink.expects(answer.content_length().unwrap_or(0));
        loop {
            let chunk = tokio::time::timeout(limit, answer.chunk()).await;
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
    hash: Sha256,
    meter: &'a watch::Sender<Progress>,
}

/// The file, if it is what the task asked for.
fn judge(uri: &v1::Uri, (file, sum): Copied) -> Result<File, FetchError> {
    let found: String = sum.iter().map(|byte| format!("{byte:02x}")).collect();
    if uri.sha256.is_empty() || uri.sha256 == found {
        return Ok(file);
    }
    Err(FetchError::Digest {
        uri: ShownUri::of(&uri.value),
        wanted: uri.sha256.clone(),
        found,
    })
}

impl<'a> Sink<'a> {
    async fn create(
        uri: &'a str,
        path: &'a Path,
        limit_bytes: u64,
        meter: &'a watch::Sender<Progress>,
    ) -> Result<Self, FetchError> {
        let place = path.to_owned();
        let made = tokio::task::spawn_blocking(move || draft::file(&place)).await;
        match made.expect("making a file never panics") {
            Ok(file) => Ok(Self {
                uri,
                path,
                file: File::from_std(file),
                written: 0,
                limit_bytes,
                hash: Sha256::new(),
                meter,
            }),
            Err(source) => Err(FetchError::Write {
                uri: ShownUri::of(uri),
                path: path.to_owned(),
                source,
            }),
        }
    }

    /// So many bytes will come; 0 if nobody knows. None has come yet.
    fn expects(&self, bytes: u64) {
        self.meter.send_modify(|progress| {
            (progress.done_bytes, progress.total_bytes) = (0, bytes);
        });
    }

    async fn put(&mut self, bytes: &[u8]) -> Result<(), FetchError> {
        self.written += bytes.len() as u64;
        if self.written > self.limit_bytes {
            return Err(FetchError::TooLarge {
                uri: ShownUri::of(self.uri),
                limit_bytes: self.limit_bytes,
            });
        }
        let written = self.file.write_all(bytes).await;
        written.map_err(|source| self.failed(source))?;
        self.hash.update(bytes);
        let written = self.written;
        self.meter
            .send_modify(|progress| progress.done_bytes = written);
        crash::passed("fetch.chunk-written");
        Ok(())
    }

    async fn copy_from(mut self, mut source: impl AsyncRead + Unpin) -> Result<Copied, FetchError> {
        let mut buffer = vec![0; CHUNK_BYTES];
        loop {
            let length = source
                .read(&mut buffer)
                .await
                .map_err(|source| FetchError::Open {
                    uri: ShownUri::of(self.uri),
                    source,
                })?;
            if length == 0 {
                return self.finish().await;
            }
            self.put(&buffer[..length]).await?;
        }
    }

    async fn finish(mut self) -> Result<Copied, FetchError> {
        let flushed = self.file.flush().await;
        flushed.map_err(|source| self.failed(source))?;
        Ok((self.file, self.hash.finalize().into()))
    }

    fn failed(&self, source: io::Error) -> FetchError {
        FetchError::Write {
            uri: ShownUri::of(self.uri),
            path: self.path.to_owned(),
            source,
        }
    }
}
