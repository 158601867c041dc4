//! Downloads from HTTP and HTTPS servers: each file completely or not at all, with retries for a
//! limited time.

use std::io;
use std::path::Path;
use std::time::{Duration, Instant};

use argosy_proto::uri::RedactedUri;
use tokio::fs::File;
use tokio::sync::watch;

use super::error::FetchError;
use super::reach::{AccessPolicy, RequestPurpose, ServerAccess};
use super::sink::{FileSink, RequestedFile};
use super::web::HttpClientPool;
use super::{FetchProgress, FetchSettings};

/// The time for which a server that is unreachable, or breaks off, is retried.
const RETRY_FOR: Duration = Duration::from_secs(30);
/// The first delay between retries; doubled up to the maximum.
const RETRY_MIN: Duration = Duration::from_millis(50);
const RETRY_MAX: Duration = Duration::from_secs(2);
/// The maximum silence of a server in the middle of a file, as in Mesos.
const STALL_LIMIT: Duration = Duration::from_secs(60);
/// The timeout for connecting.
const CONNECT_LIMIT: Duration = Duration::from_secs(10);

/// The downloader.
pub(crate) struct DownloadClient {
    web: HttpClientPool,
    limit_bytes: u64,
    pub(super) retry_for: Duration,
    /// The maximum silence of a server.
    pub(super) stall_limit: Duration,
}

/// Returns the common settings of all clients.
pub(crate) fn client() -> reqwest::ClientBuilder {
    reqwest::Client::builder()
        .connect_timeout(CONNECT_LIMIT)
        .no_proxy()
}

impl DownloadClient {
    /// Creates the downloader. Must precede the point at which the process can no longer open
    /// files.
    pub(crate) fn new(settings: &FetchSettings) -> io::Result<Self> {
        Self::with(client, settings)
    }

    pub(super) fn with(
        client: impl Fn() -> reqwest::ClientBuilder + Send + Sync + 'static,
        settings: &FetchSettings,
    ) -> io::Result<Self> {
        let lost = "https:// cannot be fetched on this host";
        Ok(Self {
            web: HttpClientPool::new(
                client,
                AccessPolicy::new(RequestPurpose::Files, settings)?,
                lost,
            ),
            limit_bytes: settings.limit_bytes,
            retry_for: RETRY_FOR,
            stall_limit: STALL_LIMIT,
        })
    }

    /// Downloads the URI to a file, with retries for a limited time. `path` is the file's, for
    /// messages.
    pub(crate) async fn fetch(
        &self,
        wanted: RequestedFile<'_>,
        reach: ServerAccess,
        (path, file): (&Path, &mut File),
        meter: &watch::Sender<FetchProgress>,
    ) -> Result<(), FetchError> {
        let begun = Instant::now();
        let mut pause = RETRY_MIN;
        loop {
            match self.download(wanted, reach, (path, file), meter).await {
                Err(error) if error.is_transient() && begun.elapsed() + pause < self.retry_for => {
                    tokio::time::sleep(pause).await;
                    pause = (pause * 2).min(RETRY_MAX);
                }
                end => return end,
            }
        }
    }

    async fn download(
        &self,
        wanted: RequestedFile<'_>,
        reach: ServerAccess,
        draft: (&Path, &mut File),
        meter: &watch::Sender<FetchProgress>,
    ) -> Result<(), FetchError> {
        let uri = wanted.uri;
        let get = |source: reqwest::Error| FetchError::of_server(uri, source.without_url());
        let limit = self.stall_limit;
        let stalled = |_| FetchError::Timeout {
            uri: RedactedUri::of(uri),
            limit,
        };
        let answer = tokio::time::timeout(limit, self.web.get(uri, reach)).await;
        let mut answer = answer.map_err(stalled)??;
        if !answer.status().is_success() {
            return Err(FetchError::Status {
                uri: RedactedUri::of(uri),
                status: answer.status().as_u16(),
            });
        }
        let mut sink = FileSink::new(wanted, draft, self.limit_bytes, meter).await?;
        sink.set_total(answer.content_length().unwrap_or(0));
        loop {
            let chunk = tokio::time::timeout(limit, answer.chunk()).await;
            match chunk.map_err(stalled)?.map_err(get)? {
                Some(bytes) => sink.write(&bytes).await?,
                None => return sink.finish().await,
            }
        }
    }
}
