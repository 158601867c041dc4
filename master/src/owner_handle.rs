//! The services' handle to the owner: send, await, query.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use argosy_proto::trace;
use argosy_raft::Node;
use argosy_state::access::AccessFacts;
use argosy_state::actor::Actor;
use argosy_state::planted_bug;
use tokio::runtime::Handle;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::Instant;
use tonic::Status;

use crate::access::Reader;
use crate::change_ring::ChangeRing;
use crate::encodings::EncodingCache;
use crate::failovers::OtherFailovers;
use crate::inbox::{LeaderStatus, OwnerCalls, OwnerMessage, OwnerState, StateQuery, StateView};
use crate::leader::Input;
use crate::leader_reply::LeaderReply;
use crate::link_memory::LinkMemory;
use crate::links::{LinkId, RequestId};
use crate::metrics::OwnerCounts;
use crate::principal_limits::{self, CallWaiter, LimitReached, RATE_LIMITED};
use crate::reads::{ReadBounds, ReadLimiter, ReadReservation};
use crate::token_confirmations::TokenConfirmations;
use crate::turns;
use crate::views::SharedView;

/// A handle to the owner of the registry; cheap to clone.
#[derive(Clone)]
pub(crate) struct OwnerHandle {
    pub(crate) node: Node,
    /// The lane of links. A full one means that the owner is behind: senders wait, which slows
    /// their peers down.
    pub(crate) inbox: mpsc::Sender<OwnerMessage>,
    /// The memory of agents' messages in that lane.
    pub(crate) link_memory: LinkMemory,
    /// The lane of calls, in which principals share the owner.
    pub(crate) calls: OwnerCalls,
    /// A full channel means that readers wait; each has one query in it at most, so they take
    /// turns.
    queries: mpsc::Sender<StateQuery>,
    views: SharedView,
    /// The newest changes of the registry.
    pub(crate) changes: ChangeRing,
    pub(crate) reads: ReadLimiter,
    /// The runtime that builds pages, with lower priority than everything else.
    pub(crate) readers: Handle,
    /// Encoded records for lists.
    pub(crate) encodings: EncodingCache,
    /// A separate budget for frameworks: readers of lists cannot use it up.
    pub(crate) reconciliations: ReadLimiter,
    pub(crate) leader_status: watch::Receiver<LeaderStatus>,
    pub(crate) applied: watch::Receiver<u64>,
    pub(crate) counts: watch::Receiver<Arc<OwnerCounts>>,
    /// The facts of access, as they are applied here.
    pub(crate) access: watch::Receiver<AccessFacts>,
    pub(crate) enforces_access: bool,
    pub(crate) own_address: String,
    pub(crate) other_failovers: OtherFailovers,
    pub(crate) token_confirmations: TokenConfirmations,
    next: Arc<AtomicU64>,
}

impl OwnerHandle {
    pub(crate) fn new(
        node: Node,
        (inbox, calls, queries): (
            mpsc::Sender<OwnerMessage>,
            OwnerCalls,
            mpsc::Sender<StateQuery>,
        ),
        (views, changes): (SharedView, ChangeRing),
        (reads, readers): (ReadLimiter, Handle),
        (leadership, applied): (watch::Receiver<LeaderStatus>, watch::Receiver<u64>),
        (counts, access): (
            watch::Receiver<Arc<OwnerCounts>>,
            watch::Receiver<AccessFacts>,
        ),
        own_address: String,
    ) -> Self {
        Self {
            node,
            inbox,
            link_memory: LinkMemory::default(),
            calls,
            queries,
            views,
            changes,
            reads,
            readers,
            encodings: EncodingCache::default(),
            reconciliations: ReadLimiter::new(ReadBounds {
                bytes: 32 << 20,
                // A follower forwards the calls of many frameworks over one connection.
                bytes_each: 32 << 20,
                bytes_reserved: 0,
                ..ReadBounds::default()
            }),
            leader_status: leadership,
            applied,
            counts,
            access,
            enforces_access: false,
            own_address,
            other_failovers: OtherFailovers::default(),
            token_confirmations: TokenConfirmations::default(),
            next: Arc::new(AtomicU64::new(1)),
        }
    }

    /// Sets whether this master enforces the rules of the cluster.
    pub(crate) fn with_enforcement(self, enforces_access: bool) -> Self {
        Self {
            enforces_access,
            ..self
        }
    }

    /// Returns the reader on whose behalf a caller's request is served.
    pub(crate) fn reader(&self, actor: Actor) -> Reader {
        planted_bug!(DenialIgnored if self.ignores_rules() => return Reader::Unrestricted);
        match self.enforces_access {
            true => Reader::As(actor),
            false => Reader::Unrestricted,
        }
    }

    /// Implements the planted bug `DenialIgnored`.
    fn ignores_rules(&self) -> bool {
        !self.leader_status.borrow().is_local && self.number().is_multiple_of(4)
    }

    /// Returns a number that no other link or request of this process has.
    fn number(&self) -> u64 {
        self.next.fetch_add(1, Ordering::Relaxed)
    }

    pub(crate) fn new_link(&self) -> LinkId {
        LinkId(self.number())
    }

    /// Sends a message of a link to the owner. Fails only when this process is shutting down.
    pub(crate) async fn send(&self, message: OwnerMessage) -> Result<(), Status> {
        self.inbox.send(message).await.map_err(|_| stopping())
    }

    /// Sends a message of a framework's stream to the owner, on the account of the present call.
    /// `bytes` is the size of the message on the wire.
    ///
    /// # Errors
    /// RESOURCE_EXHAUSTED if the account has used up its rate or its queue.
    pub(crate) fn begin_stream(&self, bytes: usize, message: OwnerMessage) -> Result<(), Status> {
        let account = principal_limits::current();
        let added = self.calls.begin_stream(&account, bytes, message);
        added.map_err(LimitReached::refuse)
    }

    /// Sends a small input to the leader in this process, on the account of the present call.
    /// UNAVAILABLE if this master does not lead, or stops leading before it answers;
    /// RESOURCE_EXHAUSTED if the account has used up its rate or its queue. Any other rejection is
    /// returned only after a quorum has confirmed that no other master led: a leader that was
    /// deposed without noticing rejects what the next one has already done.
    pub(crate) async fn ask(
        &self,
        input: impl FnOnce(RequestId) -> Input + Send + 'static,
    ) -> Result<LeaderReply, Status> {
        self.ask_sized(0, input).await
    }

    /// As [`Self::ask`], for an input of a message that takes these bytes on the wire.
    pub(crate) async fn ask_sized(
        &self,
        bytes: usize,
        input: impl FnOnce(RequestId) -> Input + Send + 'static,
    ) -> Result<LeaderReply, Status> {
        let term = self.leader_status.borrow().term;
        let answer = self.answer(bytes, input).await?;
        if matches!(&answer, LeaderReply::Refused { code, .. } if *code == RATE_LIMITED) {
            return Err(LimitReached::PrincipalQueue.refuse());
        }
        if matches!(answer, LeaderReply::Refused { .. }) {
            let led = self.node.confirm_term().await;
            if led.map_err(|why| unavailable(&why.to_string()))? != Some(term) {
                return Err(unavailable(LEADER_MOVED));
            }
        }
        Ok(answer)
    }

    async fn answer(
        &self,
        bytes: usize,
        input: impl FnOnce(RequestId) -> Input + Send + 'static,
    ) -> Result<LeaderReply, Status> {
        let (waiter, answer) = CallWaiter::new();
        let request = RequestId(self.number());
        let input = Box::new(input(request));
        let cost = turns::input_work(&input);
        let message = OwnerMessage::Ask(request, input, waiter, trace::current());
        let account = principal_limits::current();
        let added = self.calls.add_call(&account, (cost, bytes), message);
        added.map_err(LimitReached::refuse)?;
        answer.await.map_err(|_| unavailable(LEADER_MOVED))
    }

    /// Returns the facts as of log index `index` or later, for reads outside the owner's turns. The
    /// entry at `index` must already be applied here.
    pub(crate) async fn view(&self, index: u64) -> Result<Arc<StateView>, Status> {
        if let Some(view) = self.views.recent(index, Instant::now()) {
            return Ok(view);
        }
        let views = self.views.clone();
        self.query(move |facts| views.recent_or_new(facts, index))
            .await
    }

    /// Queries the owner's state within one of its turns; `query` must touch only a bounded number
    /// of records.
    pub(crate) async fn query<T: Send + 'static>(
        &self,
        query: impl FnOnce(&OwnerState<'_>) -> T + Send + 'static,
    ) -> Result<T, Status> {
        let (sender, answer) = oneshot::channel();
        let read = move |facts: &OwnerState<'_>| {
            // A reader that has disconnected needs no answer.
            let _ = sender.send(query(facts));
        };
        let sent = self.queries.send(Box::new(read)).await;
        sent.map_err(|_| stopping())?;
        answer.await.map_err(|_| stopping())
    }

    /// Waits in line for room to build an answer. See [`ReadLimiter::reserve`].
    pub(crate) async fn reserve(
        &self,
        bytes: usize,
        likely: usize,
    ) -> Result<ReadReservation, Status> {
        self.reads.reserve(bytes, likely).await
    }

    /// Reads one record, or a summary, at log index `index` or later. It holds its share until the
    /// answer is sent.
    pub(crate) async fn read_one<T>(
        &self,
        index: u64,
        read: impl FnOnce(&StateView) -> T,
        bytes: impl FnOnce(&T) -> usize,
    ) -> Result<T, Status> {
        let mut share = self.reserve(RECORD_BYTES, LIKELY_BYTES).await?;
        let found = read(&*self.view(index).await?);
        share.resize(2 * bytes(&found));
        share.attach_to_answer();
        Ok(found)
    }

    /// Waits until the state applied here covers everything that was committed before this call.
    /// Returns the log index.
    pub(crate) async fn confirm(&self) -> Result<u64, Status> {
        let index = self
            .node
            .confirm_read()
            .await
            .map_err(|why| unprocessed(&why.to_string()))?;
        self.wait_applied(index).await?;
        Ok(index)
    }

    /// Checks whether this master can answer: it knows a leader, and a quorum has just confirmed
    /// that. A master that is cut off trusts its last known leader for another second. Returns the
    /// reason if it cannot.
    pub(crate) async fn ready(&self) -> Result<(), String> {
        let leadership = self.leader_status.borrow().clone();
        if !leadership.is_local && leadership.leader.is_none() {
            return Err(format!(
                "no leader is known: {}",
                self.cause_without_leader()
            ));
        }
        match tokio::time::timeout(CONFIRMED, self.confirm()).await {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(status)) => Err(status.message().to_owned()),
            Err(_) => Err("the leader does not answer".to_owned()),
        }
    }

    /// Returns the probable cause if this master knows no leader. Health checks show it to callers
    /// without a certificate, so it contains no addresses.
    fn cause_without_leader(&self) -> &'static str {
        match self.node.status().borrow().address_mismatch {
            Some(_) => {
                "this master advertises other addresses than the group has recorded for it; its log has them, and the remedy"
            }
            None => "fewer than half of the masters are up, or they cannot reach each other",
        }
    }

    /// Waits until the entry at `index` is applied here. If that takes too long, the caller may try
    /// another master.
    pub(crate) async fn wait_applied(&self, index: u64) -> Result<(), Status> {
        let mut applied = self.applied.clone();
        let waited =
            tokio::time::timeout(LONGEST_WAIT, applied.wait_for(|applied| *applied >= index)).await;
        match waited {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(_)) => Err(stopping()),
            Err(_) => Err(unprocessed(&format!(
                "this master has not applied entry {index} yet"
            ))),
        }
    }

    /// Waits for a leader and returns its status; UNAVAILABLE at the deadline.
    pub(crate) async fn leader(&self, deadline: Instant) -> Result<LeaderStatus, Status> {
        let known = self.leader_status.borrow().clone();
        if known.is_local || known.leader.is_some() {
            return Ok(known);
        }
        let mut leadership = self.leader_status.clone();
        let led =
            leadership.wait_for(|leadership| leadership.is_local || leadership.leader.is_some());
        match tokio::time::timeout_at(deadline, led).await {
            Ok(Ok(leadership)) => Ok(leadership.clone()),
            Ok(Err(_)) => Err(stopping()),
            Err(_) => Err(unavailable(&format!(
                "there is no leader at the moment: {}",
                self.cause_without_leader()
            ))),
        }
    }
}

/// Memory reserved for one record and its encoded form: a task's description takes 512 KiB at most.
const RECORD_BYTES: usize = 2 << 20;
/// Typical memory of one record.
const LIKELY_BYTES: usize = 4 << 10;
const LEADER_MOVED: &str =
    "leadership has moved: the outcome is unknown, repeat the call with the same number";
/// Timeout of a check whether this master can answer.
const CONFIRMED: Duration = Duration::from_secs(1);
/// Timeout of a call for an event that usually takes milliseconds.
pub(crate) const LONGEST_WAIT: Duration = Duration::from_secs(10);

/// Returns UNAVAILABLE with a retry hint.
pub(crate) fn unavailable(why: &str) -> Status {
    use tonic_types::{ErrorDetails, StatusExt};
    let details = ErrorDetails::with_retry_info(Some(Duration::from_millis(100)));
    Status::with_error_details(tonic::Code::Unavailable, why.to_owned(), details)
}

/// Returns UNAVAILABLE with a retry hint and the code for a call that had no effect, because what
/// it needs was not confirmed: the caller may try another master.
pub(crate) fn unprocessed(why: &str) -> Status {
    use tonic_types::{ErrorDetails, StatusExt};
    let mut details = ErrorDetails::with_error_info("no-leader", "argosy", []);
    details.set_retry_info(Some(Duration::from_millis(100)));
    Status::with_error_details(tonic::Code::Unavailable, why.to_owned(), details)
}

pub(crate) fn stopping() -> Status {
    unavailable("this master is stopping")
}
