//! Links: connections through which effects reach agents, frameworks and callers.
//!
//! A link whose peer does not drain it is closed; the peer reconnects and reconciles.

use std::collections::{BTreeMap, BTreeSet};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};

use argosy_proto::v1;
use argosy_state::buggify;
use futures::Stream;
use metrics::counter;
use tokio::sync::mpsc;

use crate::leader_reply::LeaderReply;
use crate::principal_limits::CallWaiter;

/// One connection of an agent or a framework to this process; ids are never reused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct LinkId(pub(crate) u64);

/// One call that waits for its answer; ids are never reused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct RequestId(pub(crate) u64);

/// Messages that a link holds before its peer counts as not draining. One kill or launch order is
/// one message, and updates in flight are bounded by 1,000 for each framework.
pub(crate) const LINK_MESSAGES: usize = 8_192;
/// Remaining capacity in messages at which a framework's reader counts as behind.
const CAUGHT_UP_MESSAGES: usize = LINK_MESSAGES / 2;
/// Unread bytes at which a framework's reader counts as behind.
const BACKLOG_BYTES: usize = 1 << 20;
/// Unread bytes of one link at which its peer counts as not draining: far more than a framework is
/// sent once it is behind, and 128 orders of the largest size. Queued messages are still read after
/// the close, so an agent that is sent more returns with a higher last applied order.
pub(crate) const LINK_BYTES: usize = 64 << 20;

/// A queued message, and its length in bytes. It is boxed, because a channel keeps some 30 to 100
/// slots once messages have passed through it. An unboxed slot would be as large as the largest
/// kind of message.
type QueuedMessage<T> = Box<(usize, T)>;

/// Creates a stream to a peer: the owner's end, and the connection's end.
pub(crate) fn link<T>() -> (LinkSender<T>, LinkStream<T>) {
    // A full channel means that the peer is not draining: the link is closed.
    let (sender, receiver) = mpsc::channel(LINK_MESSAGES);
    let backlog = Arc::new(AtomicUsize::new(0));
    let theirs = Arc::clone(&backlog);
    (
        LinkSender { sender, backlog },
        LinkStream {
            receiver,
            backlog: theirs,
        },
    )
}

/// The owner's end of a stream to a peer.
#[derive(Debug)]
pub(crate) struct LinkSender<T> {
    sender: mpsc::Sender<QueuedMessage<T>>,
    /// Bytes sent and not read.
    backlog: Arc<AtomicUsize>,
}

/// The reason for which a message was not queued on a link.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum SendError {
    /// The peer does not drain the stream: its bound in bytes or messages is reached.
    Full,
    /// The stream is closed.
    Gone,
}

impl<T: prost::Message> LinkSender<T> {
    /// Queues a message.
    ///
    /// # Errors
    /// If the stream is closed or full.
    pub(crate) fn send(&self, message: T) -> Result<(), SendError> {
        let bytes = message.encoded_len();
        if self.backlog().saturating_add(bytes) > LINK_BYTES {
            return Err(SendError::Full);
        }
        // Added before the reader can subtract them.
        self.backlog.fetch_add(bytes, Ordering::Relaxed);
        let queued = self.sender.try_send(Box::new((bytes, message)));
        queued.map_err(|error| match error {
            mpsc::error::TrySendError::Full(_) => SendError::Full,
            mpsc::error::TrySendError::Closed(_) => SendError::Gone,
        })
    }

    /// Returns the unread bytes.
    fn backlog(&self) -> usize {
        self.backlog.load(Ordering::Relaxed)
    }

    fn is_behind(&self) -> bool {
        self.sender.capacity() < CAUGHT_UP_MESSAGES || self.backlog() > BACKLOG_BYTES
    }

    /// Returns the same end as a weak reference, which does not keep the stream open.
    pub(crate) fn weak(&self) -> WeakLinkSender<T> {
        WeakLinkSender {
            sender: self.sender.downgrade(),
            backlog: Arc::clone(&self.backlog),
        }
    }
}

/// See [`LinkSender::weak`].
#[derive(Debug)]
pub(crate) struct WeakLinkSender<T> {
    sender: mpsc::WeakSender<QueuedMessage<T>>,
    backlog: Arc<AtomicUsize>,
}

impl<T> WeakLinkSender<T> {
    /// Returns `None` once the owner has dropped its end.
    pub(crate) fn upgrade(&self) -> Option<LinkSender<T>> {
        Some(LinkSender {
            sender: self.sender.upgrade()?,
            backlog: Arc::clone(&self.backlog),
        })
    }
}

/// The connection's end of a stream to a peer.
#[derive(Debug)]
pub(crate) struct LinkStream<T> {
    receiver: mpsc::Receiver<QueuedMessage<T>>,
    backlog: Arc<AtomicUsize>,
}

impl<T> Stream for LinkStream<T> {
    type Item = T;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<T>> {
        let next = std::task::ready!(self.receiver.poll_recv(context));
        Poll::Ready(next.map(|queued| {
            let (bytes, message) = *queued;
            self.backlog.fetch_sub(bytes, Ordering::Relaxed);
            message
        }))
    }
}

/// The reason for which a stream ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum CloseReason {
    /// The peer has closed it.
    Peer,
    /// The peer does not read: the stream's bound is reached.
    Full,
    /// The leader ends it.
    Leader,
    /// This master no longer leads.
    SteppedDown,
}

/// Counts streams that end.
fn count_closed(peer_kind: &'static str, reason: CloseReason, streams: usize) {
    let reason = match reason {
        CloseReason::Peer => "peer",
        CloseReason::Full => "full",
        CloseReason::Leader => "leader",
        CloseReason::SteppedDown => "stepped-down",
    };
    let labels = [("peer_kind", peer_kind), ("reason", reason)];
    counter!("argosy_streams_closed_total", &labels).increment(streams as u64);
}

/// Returns the reason for which a message was not queued, if it was not; counts the queues that had
/// no room.
fn queued(sent: Result<(), SendError>, queue: &'static str) -> Result<(), CloseReason> {
    sent.map_err(|error| match error {
        SendError::Full => {
            counter!("argosy_queue_full_total", "queue" => queue).increment(1);
            CloseReason::Full
        }
        SendError::Gone => CloseReason::Peer,
    })
}

/// The outcome of sending an event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum SendOutcome {
    /// The event was queued.
    Queued,
    /// The event was queued, and the reader is now behind.
    FellBehind,
    /// The link was closed or full; it is closed now.
    Lost,
}

/// The sending ends of all links, and the waiting callers.
#[derive(Default)]
pub(crate) struct Outbox {
    agents: BTreeMap<LinkId, LinkSender<v1::ToAgent>>,
    frameworks: BTreeMap<LinkId, LinkSender<v1::Event>>,
    /// Frameworks' links whose readers are behind.
    behind: BTreeSet<LinkId>,
    waiting: BTreeMap<RequestId, CallWaiter>,
}

impl Outbox {
    pub(crate) fn open_agent(&mut self, link: LinkId, sender: LinkSender<v1::ToAgent>) {
        self.agents.insert(link, sender);
    }

    pub(crate) fn open_framework(&mut self, link: LinkId, sender: LinkSender<v1::Event>) {
        self.frameworks.insert(link, sender);
    }

    pub(crate) fn wait(&mut self, request: RequestId, waiter: CallWaiter) {
        self.waiting.insert(request, waiter);
    }

    /// Returns whether the agent's end of a link is still open.
    pub(crate) fn has_agent(&self, link: LinkId) -> bool {
        let sender = self.agents.get(&link);
        sender.is_some_and(|sender| !sender.sender.is_closed())
    }

    /// Sends a message. Returns false, and closes the link, if it is closed or full.
    pub(crate) fn send_to_agent(&mut self, link: LinkId, message: v1::ToAgent) -> bool {
        let sent = match self.agents.get(&link) {
            Some(sender) => queued(sender.send(message), "agent-link"),
            None => return false,
        };
        let sent = match sent {
            Ok(()) if buggify!(LinkFull) => Err(CloseReason::Full),
            sent => sent,
        };
        if let Err(reason) = sent {
            self.close_agent(link, reason);
        }
        sent.is_ok()
    }

    pub(crate) fn send_to_framework(&mut self, link: LinkId, event: v1::Event) -> SendOutcome {
        let Some(sender) = self.frameworks.get(&link) else {
            return SendOutcome::Lost;
        };
        if let Err(reason) = queued(sender.send(event), "framework-link") {
            self.close_framework(link, reason);
            return SendOutcome::Lost;
        }
        if sender.is_behind() && self.behind.insert(link) {
            SendOutcome::FellBehind
        } else {
            SendOutcome::Queued
        }
    }

    /// Returns the links whose readers are no longer behind, each once.
    pub(crate) fn caught_up(&mut self) -> Vec<LinkId> {
        let frameworks = &self.frameworks;
        let is_behind = |link: &LinkId| {
            frameworks
                .get(link)
                .is_some_and(|sender| sender.is_behind())
        };
        self.behind
            .extract_if(.., |link| !is_behind(link))
            .collect()
    }

    /// Answers a caller. A caller that has disconnected needs no answer.
    pub(crate) fn answer(&mut self, request: RequestId, answer: LeaderReply) {
        if let Some(waiter) = self.waiting.remove(&request) {
            waiter.answer(answer);
        }
    }

    pub(crate) fn close_agent(&mut self, link: LinkId, reason: CloseReason) {
        if self.agents.remove(&link).is_some() {
            count_closed("agent", reason, 1);
        }
    }

    pub(crate) fn close_framework(&mut self, link: LinkId, reason: CloseReason) {
        if self.frameworks.remove(&link).is_some() {
            count_closed("framework", reason, 1);
        }
        self.behind.remove(&link);
    }

    /// Ends every stream, and reports to every waiting caller that this master does not lead.
    pub(crate) fn close_all(&mut self) {
        let [agents, frameworks] = self.open();
        count_closed("agent", CloseReason::SteppedDown, agents);
        count_closed("framework", CloseReason::SteppedDown, frameworks);
        self.agents.clear();
        self.frameworks.clear();
        self.behind.clear();
        self.waiting.clear();
    }

    /// Returns the number of open streams of agents and of frameworks.
    pub(crate) fn open(&self) -> [usize; 2] {
        [self.agents.len(), self.frameworks.len()]
    }

    /// Returns the unread bytes on the fullest link of an agent, and of a framework.
    pub(crate) fn largest_backlogs(&self) -> [usize; 2] {
        let agents = self.agents.values().map(LinkSender::backlog);
        let frameworks = self.frameworks.values().map(LinkSender::backlog);
        [agents.max().unwrap_or(0), frameworks.max().unwrap_or(0)]
    }
}

#[cfg(test)]
mod tests {
    use futures::{FutureExt, StreamExt};

    use super::*;

    const LINK: LinkId = LinkId(1);

    fn heartbeat() -> v1::Event {
        let heartbeat = v1::event::Event::Heartbeat(v1::Heartbeat {});
        v1::Event {
            event: Some(heartbeat),
        }
    }

    fn failure(bytes: usize) -> v1::Event {
        let failure = v1::event::Event::Failure(v1::AgentFailure {
            agent_id: String::new(),
            reason: "x".repeat(bytes),
        });
        v1::Event {
            event: Some(failure),
        }
    }

    fn read(events: &mut LinkStream<v1::Event>, count: usize) {
        for _ in 0..count {
            events.next().now_or_never().flatten().unwrap();
        }
    }

    /// An idle link keeps some empty slots, but no messages: 10,000 agents are 10,000 links.
    #[test]
    fn a_queue_slot_of_a_link_has_the_size_of_a_pointer() {
        fn place<T>(_sender: &mpsc::Sender<T>) -> usize {
            size_of::<T>()
        }
        let (agent, _stream) = link::<v1::ToAgent>();
        let (framework, _stream) = link::<v1::Event>();
        assert_eq!(place(&agent.sender), size_of::<usize>());
        assert_eq!(place(&framework.sender), size_of::<usize>());
    }

    #[test]
    fn a_stream_lags_from_half_of_its_message_limit_until_it_is_read() {
        let mut outbox = Outbox::default();
        let (sender, mut events) = link();
        outbox.open_framework(LINK, sender);
        for _ in 0..LINK_MESSAGES / 2 {
            assert_eq!(
                outbox.send_to_framework(LINK, heartbeat()),
                SendOutcome::Queued
            );
        }
        assert_eq!(
            outbox.send_to_framework(LINK, heartbeat()),
            SendOutcome::FellBehind
        );
        assert_eq!(
            outbox.send_to_framework(LINK, heartbeat()),
            SendOutcome::Queued
        );
        assert_eq!(outbox.caught_up(), []);
        read(&mut events, 2);
        assert_eq!(outbox.caught_up(), [LINK]);
        assert_eq!(outbox.caught_up(), []);
    }

    #[test]
    fn a_stream_lags_from_a_mebibyte_until_it_is_read() {
        let mut outbox = Outbox::default();
        let (sender, mut events) = link();
        outbox.open_framework(LINK, sender);
        let half = failure(600_000);
        assert_eq!(
            outbox.send_to_framework(LINK, half.clone()),
            SendOutcome::Queued
        );
        assert_eq!(
            outbox.send_to_framework(LINK, half),
            SendOutcome::FellBehind
        );
        read(&mut events, 1);
        assert_eq!(outbox.caught_up(), [LINK]);
    }

    fn launch(bytes: usize) -> v1::ToAgent {
        let refused = v1::RefusedAgent {
            code: String::new(),
            text: "x".repeat(bytes),
        };
        v1::ToAgent {
            message: Some(v1::to_agent::Message::Refused(refused)),
            ..v1::ToAgent::default()
        }
    }

    #[test]
    fn an_agent_link_over_its_byte_limit_is_closed_and_its_content_delivered() {
        let mut outbox = Outbox::default();
        let (sender, mut orders) = link();
        outbox.open_agent(LINK, sender);
        let most = LINK_BYTES / (1 << 20) - 1;
        for _ in 0..most {
            assert!(outbox.send_to_agent(LINK, launch(1 << 20)));
        }
        assert!(outbox.largest_backlogs()[0] > most << 20);
        assert!(!outbox.send_to_agent(LINK, launch(1 << 20)));
        assert_eq!(outbox.open(), [0, 0]);
        for _ in 0..most {
            orders.next().now_or_never().flatten().unwrap();
        }
        assert_eq!(orders.next().now_or_never(), Some(None));
    }

    #[test]
    fn reading_frees_the_queue_of_an_agent_link() {
        let mut outbox = Outbox::default();
        let (sender, mut orders) = link();
        outbox.open_agent(LINK, sender);
        for _ in 0..2 * LINK_BYTES / (1 << 20) {
            assert!(outbox.send_to_agent(LINK, launch(1 << 20)));
            orders.next().now_or_never().flatten().unwrap();
        }
    }

    #[test]
    fn a_full_or_closed_link_is_closed_and_no_longer_lagging() {
        let mut outbox = Outbox::default();
        let (sender, events) = link();
        outbox.open_framework(LINK, sender);
        for _ in 0..LINK_MESSAGES {
            assert_ne!(
                outbox.send_to_framework(LINK, heartbeat()),
                SendOutcome::Lost
            );
        }
        assert_eq!(
            outbox.send_to_framework(LINK, heartbeat()),
            SendOutcome::Lost
        );
        assert_eq!((outbox.open(), outbox.caught_up()), ([0, 0], Vec::new()));
        drop(events);
        assert_eq!(
            outbox.send_to_framework(LINK, heartbeat()),
            SendOutcome::Lost
        );
    }
}
