//! Connections: where effects go out.
//!
//! A peer that does not drain its link is closed; it reconnects and reconciles.

use std::collections::BTreeMap;

use argosy_proto::v1;
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

/// The sending ends of all links, and the callers that wait.
#[derive(Default)]
pub(crate) struct Outbox {
    agents: BTreeMap<LinkId, mpsc::Sender<v1::ToAgent>>,
    frameworks: BTreeMap<LinkId, mpsc::Sender<v1::Event>>,
    waiting: BTreeMap<RequestId, oneshot::Sender<Answer>>,
}

impl Outbox {
    pub(crate) fn open_agent(&mut self, link: LinkId, sender: mpsc::Sender<v1::ToAgent>) {
        self.agents.insert(link, sender);
    }

    pub(crate) fn open_framework(&mut self, link: LinkId, sender: mpsc::Sender<v1::Event>) {
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
        if !sent {
            self.agents.remove(&link);
        }
        sent
    }

    /// False if the link is gone or full; it is closed then.
    pub(crate) fn tell_framework(&mut self, link: LinkId, event: v1::Event) -> bool {
        let sent = self
            .frameworks
            .get(&link)
            .is_some_and(|sender| sender.try_send(event).is_ok());
        if !sent {
            self.frameworks.remove(&link);
        }
        sent
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
    }

    /// Ends every stream; every waiting caller learns that nobody leads here.
    pub(crate) fn close_all(&mut self) {
        self.agents.clear();
        self.frameworks.clear();
        self.waiting.clear();
    }

    /// Open streams of agents and of frameworks.
    pub(crate) fn open(&self) -> (usize, usize) {
        (self.agents.len(), self.frameworks.len())
    }
}
