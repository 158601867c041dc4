//! Connections: where effects go out.
//!
//! A peer that does not drain its link is closed; it reconnects and reconciles.

use std::collections::{BTreeMap, BTreeSet};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};

use argosy_proto::v1;
use argosy_state::buggify::{self, Rare};
use futures::Stream;
use prost::Message as _;
use tokio::sync::{mpsc, oneshot};

use crate::leader::Answer;

/// One connection of an agent or a framework to this process; never used again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct LinkId(pub(crate) u64);

/// One call that waits for its answer; never used again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct RequestId(pub(crate) u64);

/// Messages that a link holds before its peer counts as not draining: one kill or launch order
/// each, and updates in flight are bounded by 1,000 a framework.
pub(crate) const LINK_MESSAGES: usize = 8_192;
/// Messages that are still to find room when a framework's reader counts as behind.
const ROOM_LEFT: usize = LINK_MESSAGES / 2;
/// Bytes that wait when a framework's reader counts as behind.
const BACKLOG_BYTES: usize = 1 << 20;

/// A framework's stream: the owner's end, and the connection's.
pub(crate) fn events() -> (EventSender, Events) {
    // Full, the reader is not draining: the link is closed.
    let (sender, receiver) = mpsc::channel(LINK_MESSAGES);
    let backlog = Arc::new(AtomicUsize::new(0));
    let theirs = Arc::clone(&backlog);
    (
        EventSender { sender, backlog },
        Events {
            receiver,
            backlog: theirs,
        },
    )
}

/// The owner's end of a framework's stream.
#[derive(Debug)]
pub(crate) struct EventSender {
    sender: mpsc::Sender<(usize, v1::Event)>,
    /// Bytes sent and not read.
    backlog: Arc<AtomicUsize>,
}

impl EventSender {
    fn send(&self, event: v1::Event) -> bool {
        let bytes = event.encoded_len();
        // Before the reader can take them off.
        self.backlog.fetch_add(bytes, Ordering::Relaxed);
        self.sender.try_send((bytes, event)).is_ok()
    }

    fn is_behind(&self) -> bool {
        self.sender.capacity() < ROOM_LEFT || self.backlog.load(Ordering::Relaxed) > BACKLOG_BYTES
    }
}

/// The connection's end of a framework's stream.
#[derive(Debug)]
pub(crate) struct Events {
    receiver: mpsc::Receiver<(usize, v1::Event)>,
    backlog: Arc<AtomicUsize>,
}

impl Stream for Events {
    type Item = v1::Event;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<v1::Event>> {
        let next = std::task::ready!(self.receiver.poll_recv(context));
        Poll::Ready(next.map(|(bytes, event)| {
            self.backlog.fetch_sub(bytes, Ordering::Relaxed);
            event
        }))
    }
}

/// What became of an event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Sent {
    /// It is on its way.
    Well,
    /// It is on its way, and with it the reader is behind.
    FellBehind,
    /// The link is gone, or was full; it is closed.
    Lost,
}

/// The sending ends of all links, and the callers that wait.
#[derive(Default)]
pub(crate) struct Outbox {
    agents: BTreeMap<LinkId, mpsc::Sender<v1::ToAgent>>,
    frameworks: BTreeMap<LinkId, EventSender>,
    /// Frameworks' links whose readers are behind.
    behind: BTreeSet<LinkId>,
    waiting: BTreeMap<RequestId, oneshot::Sender<Answer>>,
}

impl Outbox {
    pub(crate) fn open_agent(&mut self, link: LinkId, sender: mpsc::Sender<v1::ToAgent>) {
        self.agents.insert(link, sender);
    }

    pub(crate) fn open_framework(&mut self, link: LinkId, sender: EventSender) {
        self.frameworks.insert(link, sender);
    }

    pub(crate) fn wait(&mut self, request: RequestId, waiter: oneshot::Sender<Answer>) {
        self.waiting.insert(request, waiter);
    }

    /// False if the link is gone or full; it is closed then.
    pub(crate) fn tell_agent(&mut self, link: LinkId, message: v1::ToAgent) -> bool {
        let sent = self
            .agents
            .get(&link)
            .is_some_and(|sender| sender.try_send(message).is_ok());
        let sent = sent && !buggify::takes(Rare::LinkFull);
        if !sent {
            self.agents.remove(&link);
        }
        sent
    }

    pub(crate) fn tell_framework(&mut self, link: LinkId, event: v1::Event) -> Sent {
        let sender = self.frameworks.get(&link);
        let Some(sender) = sender.filter(|sender| sender.send(event)) else {
            self.close_framework(link);
            return Sent::Lost;
        };
        if sender.is_behind() && self.behind.insert(link) {
            Sent::FellBehind
        } else {
            Sent::Well
        }
    }

    /// Links whose readers are behind no longer; each is named once.
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

    /// A caller that has gone away needs no answer.
    pub(crate) fn answer(&mut self, request: RequestId, answer: Answer) {
        if let Some(waiter) = self.waiting.remove(&request) {
            let _ = waiter.send(answer);
        }
    }

    pub(crate) fn close_agent(&mut self, link: LinkId) {
        self.agents.remove(&link);
    }

    pub(crate) fn close_framework(&mut self, link: LinkId) {
        self.frameworks.remove(&link);
        self.behind.remove(&link);
    }

    /// Ends every stream; every waiting caller learns that nobody leads here.
    pub(crate) fn close_all(&mut self) {
        self.agents.clear();
        self.frameworks.clear();
        self.behind.clear();
        self.waiting.clear();
    }

    /// Open streams of agents and of frameworks.
    pub(crate) fn open(&self) -> (usize, usize) {
        (self.agents.len(), self.frameworks.len())
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

    fn read(events: &mut Events, count: usize) {
        for _ in 0..count {
            events.next().now_or_never().flatten().unwrap();
        }
    }

    #[test]
    fn a_reader_is_behind_from_half_of_its_messages_on_until_it_has_read() {
        let mut outbox = Outbox::default();
        let (sender, mut events) = events();
        outbox.open_framework(LINK, sender);
        for _ in 0..LINK_MESSAGES / 2 {
            assert_eq!(outbox.tell_framework(LINK, heartbeat()), Sent::Well);
        }
        assert_eq!(outbox.tell_framework(LINK, heartbeat()), Sent::FellBehind);
        assert_eq!(outbox.tell_framework(LINK, heartbeat()), Sent::Well);
        assert_eq!(outbox.caught_up(), []);
        read(&mut events, 2);
        assert_eq!(outbox.caught_up(), [LINK]);
        assert_eq!(outbox.caught_up(), []);
    }

    #[test]
    fn a_reader_is_behind_from_a_mebibyte_on_until_it_has_read() {
        let mut outbox = Outbox::default();
        let (sender, mut events) = events();
        outbox.open_framework(LINK, sender);
        let half = failure(600_000);
        assert_eq!(outbox.tell_framework(LINK, half.clone()), Sent::Well);
        assert_eq!(outbox.tell_framework(LINK, half), Sent::FellBehind);
        read(&mut events, 1);
        assert_eq!(outbox.caught_up(), [LINK]);
    }

    #[test]
    fn a_link_that_is_full_or_gone_is_closed_and_no_longer_behind() {
        let mut outbox = Outbox::default();
        let (sender, events) = events();
        outbox.open_framework(LINK, sender);
        for _ in 0..LINK_MESSAGES {
            assert_ne!(outbox.tell_framework(LINK, heartbeat()), Sent::Lost);
        }
        assert_eq!(outbox.tell_framework(LINK, heartbeat()), Sent::Lost);
        assert_eq!((outbox.open(), outbox.caught_up()), ((0, 0), Vec::new()));
        drop(events);
        assert_eq!(outbox.tell_framework(LINK, heartbeat()), Sent::Lost);
    }
}
