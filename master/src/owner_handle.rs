//! How services reach the owner: send, await, look.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use argosy_raft::Node;
use tokio::runtime::Handle;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::Instant;
use tonic::Status;

use crate::change_ring::ChangeRing;
use crate::encodings::Encodings;
use crate::inbox::{Facts, Look, Message, Office, View};
use crate::leader::{Answer, Input};
use crate::links::{LinkId, RequestId};
use crate::metrics::Counts;
use crate::reads::{Bounds, Reads, Share};
use crate::views::Views;

/// The way to the owner of the registry; cheap to clone.
#[derive(Clone)]
pub(crate) struct Desk {
    pub(crate) node: Node,
    /// Full means that the owner is behind: senders wait, and their peers feel it.
    pub(crate) inbox: mpsc::Sender<Message>,
    /// Full means that readers wait; each has one look in it at most, so they take turns.
    looks: mpsc::Sender<Look>,
    views: Views,
    /// The newest changes of the registry.
    pub(crate) changes: ChangeRing,
    pub(crate) reads: Reads,
    /// Where pages are made: behind everything else.
    pub(crate) readers: Handle,
    /// Records as lists send them.
    pub(crate) encodings: Encodings,
    /// Frameworks have a budget of their own: readers of lists cannot use it up.
    pub(crate) reconciliations: Reads,
    pub(crate) office: watch::Receiver<Office>,
    pub(crate) applied: watch::Receiver<u64>,
    pub(crate) counts: watch::Receiver<Counts>,
    pub(crate) own_address: String,
    next: Arc<AtomicU64>,
}

impl Desk {
    pub(crate) fn new(
        node: Node,
        (inbox, looks): (mpsc::Sender<Message>, mpsc::Sender<Look>),
        (views, changes): (Views, ChangeRing),
        (reads, readers): (Reads, Handle),
        (office, applied): (watch::Receiver<Office>, watch::Receiver<u64>),
        counts: watch::Receiver<Counts>,
        own_address: String,
    ) -> Self {
        Self {
            node,
            inbox,
            looks,
            views,
            changes,
            reads,
            readers,
            encodings: Encodings::default(),
            reconciliations: Reads::new(Bounds {
                bytes: 32 << 20,
                // A follower passes the calls of many frameworks on over one connection.
                bytes_each: 32 << 20,
                bytes_kept: 0,
                ..Bounds::default()
            }),
            office,
            applied,
            counts,
            own_address,
            next: Arc::new(AtomicU64::new(1)),
        }
    }

    /// A number that no other link or request of this process has.
    fn number(&self) -> u64 {
        self.next.fetch_add(1, Ordering::Relaxed)
    }

    pub(crate) fn new_link(&self) -> LinkId {
        LinkId(self.number())
    }

    /// Whether the owner took it: not when this process is ending.
    pub(crate) async fn send(&self, message: Message) -> Result<(), Status> {
        self.inbox.send(message).await.map_err(|_| stopping())
    }

    /// Asks the leader in this process; UNAVAILABLE if it is not here, or leaves before it answers. A refusal is passed
    /// on only when a quorum has confirmed afterwards that no other master led: by itself a leader that was replaced
    /// without knowing refuses what the next one has already done.
    pub(crate) async fn ask(
        &self,
        input: impl FnOnce(RequestId) -> Input + Send + 'static,
    ) -> Result<Answer, Status> {
        let term = self.office.borrow().term;
        let answer = self.answer(input).await?;
        if matches!(answer, Answer::Refused { .. }) {
            let led = self.node.confirm_term().await;
            if led.map_err(|why| unavailable(&why.to_string()))? != Some(term) {
                return Err(unavailable(MOVED));
            }
        }
        Ok(answer)
    }

    async fn answer(
        &self,
        input: impl FnOnce(RequestId) -> Input + Send + 'static,
    ) -> Result<Answer, Status> {
        let (waiter, answer) = oneshot::channel();
        self.send(Message::Ask(
            RequestId(self.number()),
            Box::new(input),
            waiter,
        ))
        .await?;
        answer.await.map_err(|_| unavailable(MOVED))
    }

    /// The facts as they are at log index `index` or later, for reads outside of the owner's turns. What is at `index`
    /// must be applied here already.
    pub(crate) async fn view(&self, index: u64) -> Result<Arc<View>, Status> {
        if let Some(view) = self.views.recent(index, Instant::now()) {
            return Ok(view);
        }
        let views = self.views.clone();
        self.look(move |facts| views.renewed(facts, index)).await
    }

    /// Looks at what the owner has, within a turn of it; `look` must touch only a bounded number of records.
    pub(crate) async fn look<T: Send + 'static>(
        &self,
        look: impl FnOnce(&Facts<'_>) -> T + Send + 'static,
    ) -> Result<T, Status> {
        let (sender, answer) = oneshot::channel();
        let read = move |facts: &Facts<'_>| {
            // A reader that has gone away needs no answer.
            let _ = sender.send(look(facts));
        };
        let sent = self.looks.send(Box::new(read)).await;
        sent.map_err(|_| stopping())?;
        answer.await.map_err(|_| stopping())
    }

    /// Waits in line for room to build an answer. See [`Reads::reserve`].
    pub(crate) async fn reserve(&self, bytes: usize, likely: usize) -> Result<Share, Status> {
        self.reads.reserve(bytes, likely).await
    }

    /// One record, or a summary, at log index `index` or later: it holds its share until the answer is sent.
    pub(crate) async fn read_one<T>(
        &self,
        index: u64,
        read: impl FnOnce(&View) -> T,
        bytes: impl FnOnce(&T) -> usize,
    ) -> Result<T, Status> {
        let mut share = self.reserve(RECORD_BYTES, LIKELY_BYTES).await?;
        let found = read(&*self.view(index).await?);
        share.fit(2 * bytes(&found));
        share.leave_to_answer();
        Ok(found)
    }

    /// Waits until what is applied here covers everything that was committed before this call; returns the log index.
    pub(crate) async fn confirm(&self) -> Result<u64, Status> {
        let index = self
            .node
            .confirm_read()
            .await
            .map_err(|why| unavailable(&why.to_string()))?;
        self.wait_applied(index).await?;
        Ok(index)
    }

    /// Whether this master can answer: it knows a leader, and a quorum has confirmed that just now. One
    /// that is cut off goes on believing, for a second, in the leader that it knew last. Says why not.
    pub(crate) async fn ready(&self) -> Result<(), String> {
        let office = self.office.borrow().clone();
        if !office.here && office.leader.is_none() {
            return Err("no leader is known: fewer than half of the masters are up, or they cannot reach each other".to_owned());
        }
        match tokio::time::timeout(CONFIRMED, self.confirm()).await {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(status)) => Err(status.message().to_owned()),
            Err(_) => Err("the leader does not answer".to_owned()),
        }
    }

    /// Waits until the entry at `index` is applied here.
    pub(crate) async fn wait_applied(&self, index: u64) -> Result<(), Status> {
        let mut applied = self.applied.clone();
        let waited =
            tokio::time::timeout(LONGEST_WAIT, applied.wait_for(|applied| *applied >= index)).await;
        match waited {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(_)) => Err(stopping()),
            Err(_) => Err(unavailable(&format!(
                "this master has not applied entry {index} yet"
            ))),
        }
    }

    /// Who leads, once somebody does; UNAVAILABLE at the deadline.
    pub(crate) async fn leader(&self, deadline: Instant) -> Result<Office, Status> {
        let known = self.office.borrow().clone();
        if known.here || known.leader.is_some() {
            return Ok(known);
        }
        let mut office = self.office.clone();
        let led = office.wait_for(|office| office.here || office.leader.is_some());
        match tokio::time::timeout_at(deadline, led).await {
            Ok(Ok(office)) => Ok(office.clone()),
            Ok(Err(_)) => Err(stopping()),
            Err(_) => Err(unavailable(
                "there is no leader at the moment: fewer than half of the masters are up, or they cannot reach each other",
            )),
        }
    }
}

/// Room for one record and its encoded form: a task's description takes 512 KiB at most.
const RECORD_BYTES: usize = 2 << 20;
/// What it usually takes.
const LIKELY_BYTES: usize = 4 << 10;
const MOVED: &str =
    "leadership has moved: the outcome is unknown, repeat the call with the same number";
/// How long a question whether this master can answer may take.
const CONFIRMED: Duration = Duration::from_secs(1);
/// How long a call waits for something that usually takes milliseconds.
pub(crate) const LONGEST_WAIT: Duration = Duration::from_secs(10);

/// UNAVAILABLE with a hint when to try again.
pub(crate) fn unavailable(why: &str) -> Status {
    use tonic_types::{ErrorDetails, StatusExt};
    let details = ErrorDetails::with_retry_info(Some(Duration::from_millis(100)));
    Status::with_error_details(tonic::Code::Unavailable, why.to_owned(), details)
}

fn stopping() -> Status {
    unavailable("this master is stopping")
}
