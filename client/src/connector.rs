//! Connections to masters, and calls that find the leader.
//!
//! A call is repeated only if its caller declares that a repeat is harmless.

#[cfg(test)]
mod tests;

mod config;
mod leader_watch;
mod message_size;
mod renewal;

use std::collections::{HashMap, HashSet};
use std::future::Future;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::time::Instant;
use tonic::metadata::{MetadataMap, MetadataValue};
use tonic::transport::Channel;
use tonic::{Response, Status};

use argosy_proto::transport::KeptHandshakes;
pub use argosy_proto::transport::{Connection, Dialer, ExpectedPeer, PeerIdentity};
use argosy_proto::versions::{self, VersionRange};
pub use argosy_state::access::TokenSecret;

use crate::failure::{AttemptError, CallError, MasterRejection, classify};
use crate::leader::{LeaderSearch, LeaderSearchStep, MasterFailure, next_random};
use crate::masters::Masters;

use config::open;
pub use config::{ConnectorConfig, random_seed};
use leader_watch::{LeaderWatch, leader_replaced};
pub use message_size::MESSAGE_BYTES;
pub(crate) use message_size::check_size;

/// Name of the reply header in which every master names the leader's API address.
pub const LEADER_HEADER: &str = "argosy-leader";
/// Default deadline of a call.
pub const DEFAULT_DEADLINE: Duration = Duration::from_secs(10);

/// Timeout for an answer of one master, after which another one is called.
const ATTEMPT_TIMEOUT: Duration = Duration::from_secs(3);
/// Timeout of the first attempt at a master that has never answered: the host may not exist.
pub(crate) const FIRST_ATTEMPT: Duration = Duration::from_secs(1);
/// Time without an answer after which other masters are watched for news of a new leader.
const QUIET_TIME: Duration = Duration::from_millis(200);
/// Time for which a master that timed out is not called first, even if another one names it.
const AVOID_TIME: Duration = Duration::from_secs(10);

/// Whether a call may be sent again after it was sent once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum RepeatPolicy {
    /// The call reads, or its number or request id makes repeats harmless.
    Always,
    /// Only as long as no master can have received it.
    OnlyUnsent,
}

/// State that all callers of one program share: connections, and the last known leader.
#[derive(Clone)]
pub struct Connector {
    inner: Arc<Inner>,
    fails_if_none_listens: bool,
}

struct Inner {
    masters: Masters,
    dialer: Dialer,
    handshakes: KeptHandshakes,
    leader_watch: LeaderWatch,
    // A lock, because calls run concurrently on many tasks; it is never held across an await.
    known: Mutex<KnownMasters>,
}

struct KnownMasters {
    likely_leader: Option<String>,
    // One entry for each address that is on the list or was named by a master. Entries of unlisted
    // addresses are evicted, which bounds the map.
    channels: HashMap<String, Channel>,
    avoided: HashMap<String, Instant>,
    // Masters that answered the last call, whatever the answer.
    responsive: HashSet<String>,
    // Whether any master has ever answered.
    has_answer: bool,
    random: u64,
}

impl Connector {
    /// Creates a connector without opening connections.
    #[must_use]
    pub fn new(masters: Masters, config: ConnectorConfig) -> Self {
        let known = KnownMasters {
            likely_leader: None,
            channels: HashMap::new(),
            avoided: HashMap::new(),
            responsive: HashSet::new(),
            has_answer: false,
            random: config.seed,
        };
        Self {
            inner: Arc::new(Inner {
                masters,
                dialer: config.dialer,
                handshakes: KeptHandshakes::default(),
                leader_watch: LeaderWatch::new(),
                known: Mutex::new(known),
            }),
            fails_if_none_listens: false,
        }
    }

    /// Returns a connector whose calls do not wait for masters that are not running: a call fails
    /// as soon as every master refuses the connection, has no known host, or is not trusted. Once a
    /// master has answered, calls wait for it: it may be restarting.
    #[must_use]
    pub fn failing_if_none_listens(&self) -> Self {
        Self {
            fails_if_none_listens: true,
            ..self.clone()
        }
    }

    /// Returns the list of masters from which the connector was created.
    #[must_use]
    pub fn masters(&self) -> &Masters {
        &self.inner.masters
    }

    /// Returns the API address of the leader as a master last named it.
    #[must_use]
    pub fn leader(&self) -> Option<String> {
        self.known(|known| known.likely_leader.clone())
    }

    /// Adds the token of the dialer to a call, if it has one.
    pub(crate) fn authorize(&self, metadata: &mut MetadataMap) {
        let value = self.inner.dialer.authorization(&ExpectedPeer::MASTER);
        let value = value.and_then(|value| MetadataValue::try_from(value.as_bytes()).ok());
        if let Some(mut value) = value {
            value.set_sensitive(true);
            metadata.insert("authorization", value);
        }
    }

    /// Records that nothing was received from `address` for too long. The network may have failed,
    /// so no connection that is open now is used for later calls: another dead one would cost as
    /// long again.
    pub(crate) fn mark_silent(&self, address: &str) {
        self.drop_connection(address);
        self.known(|known| known.channels.clear());
        self.inner.handshakes.clear();
    }

    /// Drops the connection to `address` for later calls, and calls other masters first.
    pub(crate) fn drop_connection(&self, address: &str) {
        self.known(|known| {
            known.channels.remove(address);
            known.avoid(address);
        });
    }

    /// Records the leader.
    pub(crate) fn note_leader(&self, address: &str) {
        self.known(|known| known.note_leader(address));
    }

    /// Records that a master has reported a new epoch. Its leader exists, so an earlier failure to
    /// reach it no longer counts.
    pub(crate) fn note_epoch(&self, leader: &str) {
        self.known(|known| {
            known.avoided.remove(leader);
            known.likely_leader = Some(leader.to_owned());
        });
    }

    /// Waits until another master reports that the epoch `epoch`, served at `address`, has ended;
    /// then its connection is not used again. Without an epoch, any epoch that is not known yet is
    /// news.
    pub(crate) fn until_replaced(
        &self,
        epoch: Option<u64>,
        address: String,
    ) -> impl Future<Output = String> + Send + use<> {
        let connector = self.clone();
        if let Some(epoch) = epoch {
            self.inner.leader_watch.record(epoch, &address);
        }
        async move {
            let epochs = &connector.inner.leader_watch;
            let epoch = epoch.unwrap_or_else(|| epochs.epoch());
            let news = epochs.after(epoch, &address, (&connector, Duration::ZERO));
            let news = news.await;
            connector.drop_connection(&address);
            leader_replaced(&news)
        }
    }

    /// Calls one master after the other until one answers or `deadline` has passed.
    pub(crate) async fn call<T, F, Fut>(
        &self,
        deadline: Duration,
        repeat: RepeatPolicy,
        ask: F,
    ) -> Result<MasterAnswer<T>, CallError>
    where
        F: Fn(Channel, Duration) -> Fut,
        Fut: Future<Output = Result<Response<T>, Status>>,
    {
        let started = Instant::now();
        let mut search = self.search();
        let mut epoch = self.inner.leader_watch.epoch();
        let mut was_sent = false;
        let mut has_renewed = false;
        loop {
            // A leader that was reported in the meantime is called before masters that were not
            // called yet.
            if let Some(news) = self.inner.leader_watch.newer(epoch) {
                epoch = news.epoch;
                search.call_next(news.leader);
            }
            let left = deadline.saturating_sub(started.elapsed());
            if left.is_zero() {
                return Err(CallError::unanswered(deadline, was_sent, search.causes()));
            }
            let address = match search.next() {
                LeaderSearchStep::Call(address) => address,
                LeaderSearchStep::Pause(_) if !was_sent && self.gives_up(&search) => {
                    return Err(CallError::NoMaster(search.causes()));
                }
                LeaderSearchStep::Pause(ms) => {
                    tokio::time::sleep(left.min(Duration::from_millis(ms))).await;
                    continue;
                }
            };
            // A call that cannot be repeated gets all the remaining time.
            let limit = match repeat {
                RepeatPolicy::Always => left.min(self.limit(&address, &search)),
                RepeatPolicy::OnlyUnsent => left,
            };
            let may_renew = !has_renewed && self.is_open(&address);
            match self.attempt(&address, limit, (repeat, epoch), &ask).await {
                Ok(answer) => return Ok(answer),
                Err((AttemptError::Refused(refusal), _)) => {
                    let is_renewed = may_renew && self.renew_connections(refusal.code);
                    // The call may have been processed: an answer can be refused, too.
                    if !is_renewed || repeat == RepeatPolicy::OnlyUnsent {
                        return Err(CallError::refused(refusal, was_sent, |cause| {
                            search.failed(&address, cause, None);
                            CallError::unanswered(started.elapsed(), true, search.causes())
                        }));
                    }
                    has_renewed = true;
                    search.call_next(address);
                }
                Err((AttemptError::TryNext { cause, sent }, hint)) => {
                    tracing::debug!(address, %cause, hint, "trying another master");
                    was_sent |= sent;
                    search.failed(&address, cause, hint);
                    if sent && repeat == RepeatPolicy::OnlyUnsent {
                        return Err(CallError::unanswered(
                            started.elapsed(),
                            true,
                            search.causes(),
                        ));
                    }
                }
            }
        }
    }

    /// Returns the timeout of an attempt at a master.
    fn limit(&self, address: &str, search: &LeaderSearch) -> Duration {
        match search.is_first_round() && !self.is_responsive(address) {
            true => FIRST_ATTEMPT,
            false => ATTEMPT_TIMEOUT,
        }
    }

    /// Returns whether a call fails before its deadline, after all masters were called.
    fn gives_up(&self, search: &LeaderSearch) -> bool {
        let has_answer = self.known(|known| known.has_answer);
        self.fails_if_none_listens && !has_answer && search.none_listens()
    }

    async fn attempt<T, F, Fut>(
        &self,
        address: &str,
        limit: Duration,
        (repeat, epoch): (RepeatPolicy, u64),
        ask: &F,
    ) -> Result<MasterAnswer<T>, (AttemptError, Option<String>)>
    where
        F: Fn(Channel, Duration) -> Fut,
        Fut: Future<Output = Result<Response<T>, Status>>,
    {
        let limit_ms = u64::try_from(limit.as_millis()).unwrap_or(u64::MAX);
        let channel = self
            .channel(address)
            .map_err(|cause| (AttemptError::TryNext { cause, sent: false }, None))?;
        let epochs = &self.inner.leader_watch;
        let outcome = tokio::select! {
            biased;
            outcome = tokio::time::timeout(limit, ask(channel, limit)) => match outcome {
                Ok(outcome) => outcome,
                Err(_) => Err(Status::deadline_exceeded("no answer in time")),
            },
            // A master that is frozen, or knows no leader, keeps a caller waiting.
            news = epochs.after(epoch, address, (self, QUIET_TIME)), if repeat == RepeatPolicy::Always => {
                let cause = MasterFailure::Unavailable(leader_replaced(&news));
                return Err((AttemptError::TryNext { cause, sent: true }, Some(news.leader)));
            }
        };
        match outcome {
            Ok(response) => {
                if let Err(why) = common_version(response.metadata()) {
                    self.note_response(address);
                    return Err((AttemptError::Refused(why), None));
                }
                let leader = leader_of(response.metadata()).unwrap_or_else(|| address.to_owned());
                self.note_response(address);
                self.note_leader(&leader);
                Ok(MasterAnswer {
                    body: response.into_inner(),
                    address: address.to_owned(),
                })
            }
            Err(status) => {
                let hint = leader_of(status.metadata())
                    .filter(|hint| hint != address && !self.is_avoided(hint));
                let failed = classify(&status, limit_ms);
                match &failed {
                    AttemptError::Refused(_) => self.note_response(address),
                    AttemptError::TryNext { cause, .. } => self.note_failure(address, cause),
                }
                Err((failed, hint))
            }
        }
    }

    pub(crate) fn note_failure(&self, address: &str, cause: &MasterFailure) {
        match cause {
            MasterFailure::TimedOut(_) => self.note_timeout(address),
            MasterFailure::NoHost(_) => self.drop_connection(address),
            MasterFailure::Refused
            | MasterFailure::Untrusted(_)
            | MasterFailure::Broken(_)
            | MasterFailure::Unavailable(_)
            | MasterFailure::Busy(_) => self.known(|known| {
                if known.likely_leader.as_deref() == Some(address) {
                    known.likely_leader = None;
                }
                known.responsive.remove(address);
            }),
        }
        if matches!(
            cause,
            MasterFailure::Unavailable(_) | MasterFailure::Busy(_)
        ) {
            self.note_response(address);
        }
    }

    /// Records that a master has not answered in time. One that has answered before fell silent.
    /// The connection to another one is kept: the master may be busy with it.
    fn note_timeout(&self, address: &str) {
        if self.is_responsive(address) {
            return self.mark_silent(address);
        }
        self.known(|known| known.avoid(address));
    }

    pub(crate) fn note_response(&self, address: &str) {
        self.known(|known| {
            known.has_answer = true;
            // An unlisted master need not be remembered: it is called when another master names it.
            if self
                .inner
                .masters
                .addresses()
                .iter()
                .any(|one| one == address)
            {
                known.responsive.insert(address.to_owned());
            }
        });
    }

    /// Returns whether the master answered the last call.
    pub(crate) fn is_responsive(&self, address: &str) -> bool {
        self.known(|known| known.responsive.contains(address))
    }

    pub(crate) fn is_avoided(&self, address: &str) -> bool {
        self.known(|known| known.is_avoided(address))
    }

    fn search(&self) -> LeaderSearch {
        let likely = self.leader().filter(|likely| !self.is_avoided(likely));
        self.search_from(likely)
    }

    /// Returns a search that does not prefer the leader.
    pub(crate) fn search_any(&self) -> LeaderSearch {
        self.search_from(None)
    }

    fn search_from(&self, likely: Option<String>) -> LeaderSearch {
        self.known(|known| {
            let seed = next_random(&mut known.random);
            let masters = &self.inner.masters;
            let unresponsive = masters.addresses().iter();
            let unresponsive = unresponsive.filter(|address| !known.responsive.contains(*address));
            LeaderSearch::new(masters, likely, unresponsive.cloned().collect(), seed)
        })
    }

    pub(crate) fn channel(&self, address: &str) -> Result<Channel, MasterFailure> {
        if let Some(channel) = self.known(|known| known.channels.get(address).cloned()) {
            return Ok(channel);
        }
        let inner = &self.inner;
        let channel = open(address, &inner.dialer, inner.handshakes.clone())?;
        self.known(|known| {
            let masters = &self.inner.masters;
            if known.channels.len() > masters.addresses().len() + 8 {
                known
                    .channels
                    .retain(|address, _| masters.addresses().contains(address));
            }
            Ok(known
                .channels
                .entry(address.to_owned())
                .or_insert(channel)
                .clone())
        })
    }

    fn known<T>(&self, access: impl FnOnce(&mut KnownMasters) -> T) -> T {
        let mut known = self
            .inner
            .known
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        access(&mut known)
    }
}

impl KnownMasters {
    fn note_leader(&mut self, address: &str) {
        if !self.is_avoided(address) && self.likely_leader.as_deref() != Some(address) {
            self.likely_leader = Some(address.to_owned());
        }
    }

    /// Calls other masters first, for some time.
    fn avoid(&mut self, address: &str) {
        self.responsive.remove(address);
        self.avoided.insert(address.to_owned(), Instant::now());
        if self.likely_leader.as_deref() == Some(address) {
            self.likely_leader = None;
        }
    }

    fn is_avoided(&self, address: &str) -> bool {
        self.avoided
            .get(address)
            .is_some_and(|since| since.elapsed() < AVOID_TIME)
    }
}

/// A successful answer, and the master that gave it.
pub(crate) struct MasterAnswer<T> {
    pub(crate) body: T,
    pub(crate) address: String,
}

/// Checks the versions that a master names; a master of release 0.1.0 names none.
fn common_version(metadata: &MetadataMap) -> Result<(), MasterRejection> {
    let named = metadata.get(versions::HEADER);
    let named = named.and_then(|named| named.to_str().ok()?.parse().ok());
    let Some(theirs) = named else {
        return Ok(());
    };
    match VersionRange::OWN.common(theirs, "the master") {
        Ok(_) => Ok(()),
        Err(why) => Err(MasterRejection::of_versions(&why)),
    }
}

fn leader_of(metadata: &MetadataMap) -> Option<String> {
    let address = metadata.get(LEADER_HEADER)?.to_str().ok()?;
    // An invalid address is useless, and would only cause a confusing error later.
    Some(Masters::new([address]).ok()?.addresses()[0].clone())
}
