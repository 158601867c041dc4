//! Downloads from HTTP and HTTPS servers: each file completely or not at all, with retries for a
//! limited time.

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use argosy_proto::uri::RedactedUri;
use futures::StreamExt as _;
use http::header::CONTENT_LENGTH;
use tokio::fs::File;
use tokio::sync::watch;

use super::agents::{AgentClient, ClusterAuthorities, ClusterTls, names_agent, unreachable_agent};
use super::error::FetchError;
use super::reach::{AccessPolicy, RequestPurpose, Requester};
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
    agents: AgentClient,
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
    pub(crate) fn new(settings: &FetchSettings, tls: ClusterTls) -> io::Result<Self> {
        Self::with(client, settings, tls)
    }

    pub(super) fn with(
        client: impl Fn() -> reqwest::ClientBuilder + Send + Sync + 'static,
        settings: &FetchSettings,
        tls: ClusterTls,
    ) -> io::Result<Self> {
        let lost = "https:// cannot be fetched on this host";
        let policy = Arc::new(AccessPolicy::new(RequestPurpose::Files, settings)?);
        Ok(Self {
            web: HttpClientPool::new(client, policy.clone(), lost),
            agents: AgentClient::new(tls, policy, CONNECT_LIMIT),
            limit_bytes: settings.limit_bytes,
            retry_for: RETRY_FOR,
            stall_limit: STALL_LIMIT,
        })
    }

    /// Downloads the URI to a file, with retries for a limited time. `path` is the file's, for
    /// messages. Other agents are recognized by `authorities`.
    pub(crate) async fn fetch(
        &self,
        wanted: RequestedFile<'_>,
        (requester, authorities): (Requester, Option<&ClusterAuthorities>),
        (path, file): (&Path, &mut File),
        meter: &watch::Sender<FetchProgress>,
    ) -> Result<(), FetchError> {
        let is_of_agent = names_agent(wanted.uri);
        let begun = Instant::now();
        let mut pause = RETRY_MIN;
        loop {
            let draft = (path, &mut *file);
            let downloaded = match is_of_agent {
                true => {
                    let server = (requester, authorities);
                    self.download_from_agent(wanted, server, draft, meter).await
                }
                false => self.download(wanted, requester, draft, meter).await,
            };
            match downloaded {
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
        requester: Requester,
        draft: (&Path, &mut File),
        meter: &watch::Sender<FetchProgress>,
    ) -> Result<(), FetchError> {
        let uri = wanted.uri;
        let get = |source: reqwest::Error| FetchError::of_server(uri, source.without_url());
        let limit = self.stall_limit;
        let stalled = |_| FetchError::stalled(uri, limit);
        let mut answer = self.web.get(uri, requester, limit).await?;
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

    async fn download_from_agent(
        &self,
        wanted: RequestedFile<'_>,
        (requester, authorities): (Requester, Option<&ClusterAuthorities>),
        draft: (&Path, &mut File),
        meter: &watch::Sender<FetchProgress>,
    ) -> Result<(), FetchError> {
        let uri = wanted.uri;
        let limit = self.stall_limit;
        let stalled = |_| FetchError::stalled(uri, limit);
        let server = (requester, authorities);
        let answer = self.agents.get(uri, server, limit).await?;
        if !answer.status().is_success() {
            return Err(FetchError::Status {
                uri: RedactedUri::of(uri),
                status: answer.status().as_u16(),
            });
        }
        let mut sink = FileSink::new(wanted, draft, self.limit_bytes, meter).await?;
        let length = answer.headers().get(CONTENT_LENGTH);
        let length = length.and_then(|length| length.to_str().ok()?.parse().ok());
        sink.set_total(length.unwrap_or(0));
        let mut body = answer.into_body().into_data_stream();
        loop {
            let chunk = tokio::time::timeout(limit, body.next()).await;
            match chunk.map_err(stalled)? {
                Some(Ok(bytes)) => sink.write(&bytes).await?,
                Some(Err(error)) => return Err(unreachable_agent(uri, &error.to_string())),
                None => return sink.finish().await,
            }
        }
    }
}
