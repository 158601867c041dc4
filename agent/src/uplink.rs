//! The stream to the leader: opened at the core's request, with messages in both directions.
//!
//! Makes no decisions: the core decides when to dial, what to send and when to give up.

use std::time::Duration;

use argosy_client::AgentUplink;
use argosy_proto::v1;
use argosy_proto::v1::to_agent::Message as ToAgent;
use argosy_state::buggify;
use tokio::sync::mpsc;
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::core::Input;
use crate::inbox::Event;

/// Timeout of one search for the leader.
const DIAL_DEADLINE: Duration = Duration::from_secs(10);
/// Capacity of the queue of messages to the stream. When it is full, the link is dropped: the
/// master does not read, and unsent updates are in the journal.
const OUTBOX: usize = 8_192;

/// The agent's one stream.
pub(crate) struct Uplink {
    client: AgentUplink,
    inbox: mpsc::Sender<Event>,
    dials: u64,
    current: Option<CurrentStream>,
    /// Ends the tasks of the present stream, or the present search.
    guard: Option<DropGuard>,
}

struct CurrentStream {
    link: u64,
    sender: mpsc::Sender<v1::FromAgent>,
    address: String,
}

impl Uplink {
    pub(crate) fn new(client: AgentUplink, inbox: mpsc::Sender<Event>) -> Self {
        Self {
            client,
            inbox,
            dials: 0,
            current: None,
            guard: None,
        }
    }

    /// Searches for the leader, after a wait. Any open stream or present search ends.
    pub(crate) fn dial(&mut self, after_ms: u64, hello: v1::Hello) {
        self.current = None;
        self.dials += 1;
        let token = CancellationToken::new();
        self.guard = Some(token.clone().drop_guard());
        let stream = UplinkStream {
            client: self.client.clone(),
            inbox: self.inbox.clone(),
            link: self.dials,
        };
        tokio::spawn(async move {
            tokio::select! {
                () = token.cancelled() => {}
                () = stream.run(after_ms, hello) => {}
            }
        });
    }

    /// Handles the opening of a stream. Returns false if it is no longer needed.
    pub(crate) fn linked(
        &mut self,
        link: u64,
        sender: mpsc::Sender<v1::FromAgent>,
        address: String,
    ) -> bool {
        if link != self.dials || self.guard.is_none() {
            return false;
        }
        self.current = Some(CurrentStream {
            link,
            sender,
            address,
        });
        true
    }

    /// Whether this is the open stream.
    pub(crate) fn is_current(&self, link: u64) -> bool {
        let current = self.current.as_ref();
        current.is_some_and(|current| current.link == link)
    }

    /// Sends a message on a stream; returns an input for the core if that fails.
    pub(crate) fn send(&mut self, link: u64, message: v1::FromAgent) -> Option<Input> {
        let current = self
            .current
            .as_ref()
            .filter(|current| current.link == link)?;
        match current.sender.try_send(message) {
            Ok(()) => None,
            Err(mpsc::error::TrySendError::Full(_)) => Some(Input::Disconnected {
                link,
                why: format!("the master did not receive {OUTBOX} messages"),
            }),
            Err(mpsc::error::TrySendError::Closed(_)) => Some(Input::Disconnected {
                link,
                why: "the stream is closed".to_owned(),
            }),
        }
    }

    /// Ends a stream.
    pub(crate) fn close(&mut self, link: u64) {
        if let Some(current) = self.current.take_if(|current| current.link == link) {
            self.client.mark_silent(&current.address);
            self.guard = None;
        }
    }
}

/// One search for the leader and, if it succeeds, one stream.
struct UplinkStream {
    client: AgentUplink,
    inbox: mpsc::Sender<Event>,
    link: u64,
}

impl UplinkStream {
    async fn run(self, after_ms: u64, hello: v1::Hello) {
        tokio::time::sleep(Duration::from_millis(after_ms)).await;
        let opened = match self.client.connect(hello, DIAL_DEADLINE).await {
            Ok(opened) => opened,
            Err(error) => {
                tracing::warn!(
                    why = crate::error::error_chain(&error),
                    "no leader found, retrying: check --masters, or start the masters"
                );
                self.send_event(Event::Core(Input::DialFailed)).await;
                return;
            }
        };
        let (sender, mut outbox) = mpsc::channel(OUTBOX);
        let linked = Event::LinkOpened {
            link: self.link,
            sender,
            address: opened.address,
        };
        self.send_event(linked).await;
        let stream = opened.sender;
        let carry = async {
            while let Some(message) = outbox.recv().await {
                if stream.send(message).await.is_err() {
                    break;
                }
            }
        };
        let mut inbound = opened.inbound;
        let read = async {
            loop {
                match inbound.message().await {
                    Ok(Some(message)) => {
                        let is_order = matches!(message.message, Some(ToAgent::Order(_)));
                        let message = Box::new(message);
                        let link = self.link;
                        self.send_event(Event::FromMaster { link, message }).await;
                        buggify!(LinkLost if is_order => return "the stream broke".to_owned());
                    }
                    Ok(None) => return "the master closed the stream".to_owned(),
                    Err(status) => return format!("the stream broke: {}", status.message()),
                }
            }
        };
        // Messages that can still be read are read even when nothing can be sent any more.
        tokio::pin!(carry, read);
        let why = tokio::select! {
            why = &mut read => why,
            () = &mut carry => read.await,
        };
        let link = self.link;
        self.send_event(Event::Core(Input::Disconnected { link, why }))
            .await;
    }

    async fn send_event(&self, event: Event) {
        // The loop ends only when the agent stops.
        let _ = self.inbox.send(event).await;
    }
}
