//! The watch for a new leader, at masters that do not lead: a leader that freezes, or is cut off,
//! leaves its connections open and cannot report that it was replaced.
//!
//! The result is only a hint: it ends streams and attempts early. Agents obey the epoch in each
//! message instead. There is no background task: a caller that waits for news listens for all other
//! callers of its program too.

#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::time::Duration;

use argosy_proto::v1;
use argosy_proto::v1::leadership_client::LeadershipClient;
use argosy_proto::v1::reigns_client::ReignsClient;
use tokio::sync::{Mutex, watch};
use tokio::time::Instant;
use tonic::transport::Channel;
use tonic::{Code, Request, Status, Streaming};

use crate::connector::Connector;
use crate::masters::Masters;

/// Time in which a master must report the leader; it reports much faster if it knows one.
const OPEN_TIMEOUT: Duration = Duration::from_secs(1);
/// Time for which a new stream may be silent at first. A master that stays silent knows no leader,
/// such as one whose disk hangs.
const FIRST_WORD: Duration = Duration::from_millis(500);
/// Time for which a master that failed is tried after masters that have never answered.
const FAILURE_MEMORY: Duration = Duration::from_secs(10);
/// Half the minimum pause after a failure, and the maximum pause, in milliseconds.
const PAUSE_MS: (u64, u64) = (25, 1_000);
/// The pause after a master of an earlier release, which does not support the watch.
const UNKNOWN_PAUSE_MS: u64 = 30_000;

/// An epoch that a master has reported.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct LeaderEpoch {
    /// The epoch; 0 if none was reported yet.
    pub(crate) epoch: u64,
    /// API address of its leader.
    pub(crate) leader: String,
}

/// The newest epoch that any master reported, and the program's shared listener.
pub(crate) struct LeaderWatch {
    newest: watch::Sender<LeaderEpoch>,
    // Held while listening, by one caller for all: the others wait for `newest`, or for the lock.
    listener: Mutex<WatchListener>,
}

#[derive(Default)]
struct WatchListener {
    open: Option<EpochStream>,
    failures: u32,
    /// Whether the last master that was called does not support the watch.
    is_unsupported: bool,
    /// The time of each master's last failure: the one with the oldest failure is tried next.
    failed: HashMap<String, Instant>,
}

struct EpochStream {
    address: String,
    stream: Streaming<v1::Reign>,
    has_received: bool,
}

impl EpochStream {
    async fn next(&mut self) -> Option<v1::Reign> {
        let message = self.stream.message();
        let reported = if self.has_received {
            message.await
        } else {
            let first = tokio::time::timeout(FIRST_WORD, message).await;
            first.unwrap_or(Ok(None))
        };
        self.has_received = true;
        reported.ok().flatten()
    }
}

/// Returns the reason for which a call or a stream of an earlier epoch ends.
pub(super) fn leader_replaced(news: &LeaderEpoch) -> String {
    format!("{} leads since epoch {}", news.leader, news.epoch)
}

impl LeaderWatch {
    pub(crate) fn new() -> Self {
        Self {
            newest: watch::Sender::new(LeaderEpoch::default()),
            listener: Mutex::default(),
        }
    }

    /// Returns the newest epoch that was reported; 0 if none was.
    pub(crate) fn epoch(&self) -> u64 {
        self.newest.borrow().epoch
    }

    /// Returns the newest reported epoch, if it is after `epoch`.
    pub(crate) fn newer(&self, epoch: u64) -> Option<LeaderEpoch> {
        let newest = self.newest.borrow();
        (newest.epoch > epoch).then(|| newest.clone())
    }

    /// Waits for an epoch after `epoch` whose leader is not at `address`; starts to listen after
    /// `quiet`.
    pub(crate) async fn after(
        &self,
        epoch: u64,
        address: &str,
        (connector, quiet): (&Connector, Duration),
    ) -> LeaderEpoch {
        let mut newest = self.newest.subscribe();
        let listen_from = Instant::now() + quiet;
        let is_news = |epoch_record: &LeaderEpoch| {
            epoch_record.epoch > epoch && epoch_record.leader != address
        };
        loop {
            let listened = async {
                tokio::time::sleep_until(listen_from).await;
                self.listen(connector, address).await;
            };
            tokio::select! {
                biased;
                news = newest.wait_for(is_news) => {
                    return news.expect("the sender is borrowed").clone();
                }
                () = listened => {}
            }
        }
    }

    /// Performs one step of listening, at another master than `called`, which does not answer. May
    /// be dropped at any time: the next step continues.
    async fn listen(&self, connector: &Connector, called: &str) {
        let mut listener = self.listener.lock().await;
        let Some(open) = &mut listener.open else {
            return listener.open(connector, called).await;
        };
        let Some(epoch_record) = open.next().await else {
            return listener.close();
        };
        if epoch_record.here {
            // The leader could not report its own replacement.
            listener.close();
        } else {
            listener.failures = 0;
        }
        self.handle_message(&epoch_record, connector);
    }

    fn handle_message(&self, epoch_record: &v1::Reign, connector: &Connector) {
        // An invalid address is useless.
        let Ok(leader) = Masters::new([&epoch_record.leader_address]) else {
            return;
        };
        let leader = leader.addresses()[0].clone();
        // A master that lags reports an old epoch.
        if self.epoch() < epoch_record.epoch {
            connector.note_epoch(&leader);
            self.record(epoch_record.epoch, &leader);
        }
    }

    /// Records an epoch from any source.
    pub(crate) fn record(&self, epoch: u64, leader: &str) {
        self.newest.send_if_modified(|newest| {
            let is_newer = newest.epoch < epoch;
            if is_newer {
                (newest.epoch, newest.leader) = (epoch, leader.to_owned());
            }
            is_newer
        });
    }
}

impl WatchListener {
    async fn open(&mut self, connector: &Connector, called: &str) {
        let Some(address) = self.next(connector, called) else {
            // There is only one master, so no other could report a new leader, unless one is named
            // later.
            return tokio::time::sleep(Duration::from_millis(PAUSE_MS.1)).await;
        };
        let pause_ms = match self.failures {
            0 => 0,
            _ if self.is_unsupported => UNKNOWN_PAUSE_MS,
            failures => (PAUSE_MS.0 << failures.min(10)).min(PAUSE_MS.1),
        };
        tokio::time::sleep(Duration::from_millis(pause_ms)).await;
        // Recorded first: if this is dropped halfway, the next step calls another master.
        self.failed.insert(address.clone(), Instant::now());
        let unanswered = |_| Err(Status::deadline_exceeded("no answer in time"));
        let opened = match connector.channel(&address) {
            Ok(channel) => tokio::time::timeout(OPEN_TIMEOUT, watch(connector, channel))
                .await
                .unwrap_or_else(unanswered),
            Err(_) => Err(Status::unavailable("its address is not usable")),
        };
        self.is_unsupported = matches!(&opened, Err(why) if why.code() == Code::Unimplemented);
        match opened {
            Ok(stream) => {
                self.open = Some(EpochStream {
                    address,
                    stream,
                    has_received: false,
                });
            }
            Err(_) => self.failures = self.failures.saturating_add(1),
        }
    }

    fn close(&mut self) {
        self.failures = self.failures.saturating_add(1);
        if let Some(open) = self.open.take() {
            self.failed.insert(open.address, Instant::now());
        }
    }

    /// Returns the next master: not the leader, nor `called`, nor one that has just been silent or
    /// failed. Of the others, masters that have answered before come first, and of these the one
    /// with the oldest failure.
    fn next(&self, connector: &Connector, called: &str) -> Option<String> {
        let leader = connector.leader();
        let masters = connector.masters().addresses().iter();
        let others =
            masters.filter(|address| Some(*address) != leader.as_ref() && *address != called);
        let first = others.min_by_key(|address| {
            let failed = self.failed.get(*address);
            let is_useless = failed.is_some_and(|at| at.elapsed() < FAILURE_MEMORY);
            let is_strange = !connector.is_responsive(address);
            (
                connector.is_avoided(address),
                is_useless,
                is_strange,
                failed,
            )
        });
        first.cloned()
    }
}

/// Opens the watch. A master of an earlier release serves it under its former name.
async fn watch(connector: &Connector, channel: Channel) -> Result<Streaming<v1::Reign>, Status> {
    let request = || {
        let mut request = Request::new(v1::WatchReigns {});
        connector.authorize(request.metadata_mut());
        request
    };
    let mut client = LeadershipClient::new(channel.clone());
    let mut opened = client.watch(request()).await;
    if matches!(&opened, Err(status) if status.code() == Code::Unimplemented) {
        let mut former = ReignsClient::new(channel);
        opened = former.watch(request()).await;
    }
    Ok(opened?.into_inner())
}
