//! Subscribers that read nothing: whether a master disconnects them in time, and whether they can
//! resume.

use std::time::Duration;

use anyhow::{Context, Result, bail};
use argosy_client::MasterRejection;
use argosy_proto::v1;
use argosy_proto::v1::watch_event::Event;
use tonic::Streaming;
use tonic::transport::Channel;

use super::subscribers::{open, sent_us};
use crate::cluster::channel;

/// Bytes that a stream may receive before it is read. It stalls after about two events.
const STREAM_WINDOW: u32 = 1_024;
/// Time for a subscriber to read what was sent, and the changes after that.
const READ_TIMEOUT: Duration = Duration::from_secs(10);

/// The results of the subscribers.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(super) struct StallResults {
    /// Those that the master did not disconnect with a revision to resume from.
    pub(super) connected: usize,
    /// Those that were disconnected, and did not receive all changes when they resumed.
    pub(super) incomplete: usize,
}

/// Open streams that nothing reads.
pub(super) struct StalledSubscribers {
    api: String,
    kinds: &'static [&'static str],
    /// Each with its connection.
    streams: Vec<(Channel, Streaming<v1::WatchEvent>)>,
}

impl StalledSubscribers {
    /// # Errors
    /// If the master rejects one.
    pub(super) async fn start(
        api: &str,
        kinds: &'static [&'static str],
        count: usize,
    ) -> Result<Self> {
        let mut streams = Vec::with_capacity(count);
        for _ in 0..count {
            // A stalled stream must not slow down others on its connection.
            let endpoint = channel(api)?.initial_stream_window_size(STREAM_WINDOW);
            let connection = endpoint.connect().await?;
            let stream = open(&connection, kinds, None).await?;
            streams.push((connection, stream));
        }
        Ok(Self {
            api: api.to_owned(),
            kinds,
            streams,
        })
    }

    /// Lets all read on, and resume if they were disconnected. `newest_us` is the time of the
    /// newest change.
    pub(super) async fn read_on(self, newest_us: u64) -> StallResults {
        let mut results = StallResults::default();
        for (_connection, mut stream) in self.streams {
            let disconnected = tokio::time::timeout(READ_TIMEOUT, disconnection(&mut stream));
            let Ok(Ok(revision)) = disconnected.await else {
                results.connected += 1;
                continue;
            };
            let resumed = resume(&self.api, self.kinds, revision, newest_us);
            let resumed = tokio::time::timeout(READ_TIMEOUT, resumed).await;
            match resumed.context("the newest change did not arrive") {
                Ok(Ok(())) => {}
                Ok(Err(error)) | Err(error) => {
                    eprintln!("events: a stalled subscriber did not resume: {error:#}");
                    results.incomplete += 1;
                }
            }
        }
        results
    }
}

/// Reads until the master ends the stream, and returns the revision from which to resume.
async fn disconnection(stream: &mut Streaming<v1::WatchEvent>) -> Result<u64> {
    loop {
        match stream.message().await {
            Ok(Some(_)) => {}
            Ok(None) => bail!("the stream has ended without a reason"),
            Err(status) => {
                let rejection = MasterRejection::from_status(&status);
                let revision = rejection.details.get("revision");
                let revision = revision.with_context(|| status.message().to_owned())?;
                return Ok(revision.parse()?);
            }
        }
    }
}

/// Subscribes again, and reads until the newest change.
async fn resume(api: &str, kinds: &[&str], revision: u64, newest_us: u64) -> Result<()> {
    let connection = channel(api)?.connect().await?;
    let mut stream = open(&connection, kinds, Some(revision)).await?;
    while let Some(event) = stream.message().await? {
        let Some(Event::Change(change)) = event.event else {
            continue;
        };
        if sent_us(&change).is_some_and(|sent| sent >= newest_us) {
            return Ok(());
        }
    }
    bail!("the stream has ended")
}
