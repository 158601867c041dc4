//! Files of HTTP and HTTPS servers, each brought whole or not at all, and tried for a while.

use std::io;
use std::path::Path;
use std::time::{Duration, Instant};

use argosy_proto::uri::ShownUri;
use tokio::fs::File;
use tokio::sync::watch;

use super::error::FetchError;
use super::reach::{Policy, Purpose, Reach};
use super::sink::{Sink, Wanted};
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

/// What can be downloaded.
pub(crate) struct Downloads {
    web: Web,
    limit_bytes: u64,
    pub(super) retry_for: Duration,
    /// How long a server may stay silent.
    pub(super) stall_limit: Duration,
}

/// How all servers are asked.
pub(crate) fn client() -> reqwest::ClientBuilder {
    reqwest::Client::builder()
        .connect_timeout(CONNECT_LIMIT)
        .no_proxy()
}

impl Downloads {
    /// Before the process gives up opening files.
    pub(crate) fn new(settings: &FetchSettings) -> io::Result<Self> {
        Self::with(client, settings)
    }

    pub(super) fn with(
        client: impl Fn() -> reqwest::ClientBuilder + Send + Sync + 'static,
        settings: &FetchSettings,
    ) -> io::Result<Self> {
        let lost = "https:// cannot be fetched on this host";
        Ok(Self {
            web: Web::new(client, Policy::new(Purpose::Files, settings)?, lost),
            limit_bytes: settings.limit_bytes,
            retry_for: RETRY_FOR,
            stall_limit: STALL_LIMIT,
        })
    }

    /// Writes what the URI names to a file, and tries for a while. `path` is the file's, for sentences.
    pub(crate) async fn bring(
        &self,
        wanted: Wanted<'_>,
        reach: Reach,
        (path, file): (&Path, &mut File),
        meter: &watch::Sender<Progress>,
    ) -> Result<(), FetchError> {
        let begun = Instant::now();
        let mut pause = RETRY_FIRST;
        loop {
            match self.download(wanted, reach, (path, file), meter).await {
                Err(error) if error.may_pass() && begun.elapsed() + pause < self.retry_for => {
                    tokio::time::sleep(pause).await;
                    pause = (pause * 2).min(RETRY_LONGEST);
                }
                end => return end,
            }
        }
    }

    async fn download(
        &self,
        wanted: Wanted<'_>,
        reach: Reach,
        draft: (&Path, &mut File),
        meter: &watch::Sender<Progress>,
    ) -> Result<(), FetchError> {
        let uri = wanted.uri;
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
        let mut sink = Sink::begin(wanted, draft, self.limit_bytes, meter).await?;
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
