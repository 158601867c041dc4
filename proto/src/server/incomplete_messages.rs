//! Limits on incomplete messages: bytes per connection and per port, and time per message.
//!
//! A message can be used only once it is complete. Without a limit, calls that are never completed
//! hold unbounded memory: 300 of them on one connection held 1.2 GB of a master. Peers that have
//! proved no identity have a part of a port's bytes, so that they do not prevent the messages of
//! members of the cluster.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use axum::BoxError;
use axum::body::HttpBody;
use hyper::body::{Bytes, Frame, SizeHint};
use metrics::counter;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::Sleep;
use tonic::Status;

use super::PortLimits;
use crate::transport::PeerIdentity;

/// Flag and length of a message of gRPC.
const HEAD: usize = 5;

/// The bytes left for incomplete messages of all connections of a port.
pub(super) struct PortBytes {
    all: Arc<Semaphore>,
    /// Of peers that have proved no identity, who have three quarters of all bytes.
    unauthenticated: Arc<Semaphore>,
}

impl PortBytes {
    pub(super) fn new(limits: &PortLimits) -> Self {
        let bytes = limits.incomplete_bytes;
        Self {
            all: Arc::new(Semaphore::new(bytes)),
            unauthenticated: Arc::new(Semaphore::new(bytes - bytes / 4)),
        }
    }
}

/// The bytes left for incomplete messages of one connection and of its port.
#[derive(Clone)]
pub(super) struct MessageBudget {
    port: &'static str,
    /// The permits that each byte needs, and whose they are.
    pools: Arc<[(&'static str, Arc<Semaphore>)]>,
    timeout: Duration,
}

impl MessageBudget {
    /// Returns the budget of a new connection with this peer. All connections of a port share
    /// `of_port`.
    pub(super) fn new(limits: &PortLimits, of_port: &PortBytes, peer: &PeerIdentity) -> Self {
        let of_connection = Arc::new(Semaphore::new(limits.incomplete_bytes_of_connection));
        let mut pools = vec![
            ("connection", of_connection),
            ("port", Arc::clone(&of_port.all)),
        ];
        if peer.principal().is_none() {
            pools.push(("port", Arc::clone(&of_port.unauthenticated)));
        }
        Self {
            port: limits.port,
            pools: pools.into(),
            timeout: limits.message_timeout,
        }
    }

    fn take(&self, bytes: usize) -> Result<Vec<OwnedSemaphorePermit>, Box<Status>> {
        let bytes = u32::try_from(bytes).unwrap_or(u32::MAX);
        let taken = self.pools.iter().map(|(what, pool)| {
            let taken = Arc::clone(pool).try_acquire_many_owned(bytes);
            taken.map_err(|_| {
                let why = format!(
                    "this {what} has reached its limit of bytes in incomplete messages: complete them, or send large messages one after the other"
                );
                Box::new(Status::resource_exhausted(why))
            })
        });
        taken.collect()
    }

    fn count(&self, reason: &'static str) {
        counter!("argosy_requests_refused_total", "port" => self.port, "reason" => reason)
            .increment(1);
    }
}

/// The position in the stream of messages.
#[derive(Default)]
struct Framing {
    /// Whether the body is one message instead of gRPC messages.
    is_whole: bool,
    head: [u8; HEAD],
    /// Bytes received of the incomplete message.
    received: usize,
}

impl Framing {
    /// Advances by the received bytes. Returns whether a message became complete.
    fn advance(&mut self, mut bytes: &[u8]) -> bool {
        if self.is_whole {
            self.received += bytes.len();
            return false;
        }
        let mut is_complete = false;
        while !bytes.is_empty() {
            let end = match self.received < HEAD {
                true => HEAD,
                false => HEAD + self.length(),
            };
            let part = bytes.len().min(end - self.received);
            if self.received < HEAD {
                self.head[self.received..self.received + part].copy_from_slice(&bytes[..part]);
            }
            self.received += part;
            bytes = &bytes[part..];
            if self.received >= HEAD && self.received == HEAD + self.length() {
                self.received = 0;
                is_complete = true;
            }
        }
        is_complete
    }

    fn length(&self) -> usize {
        let [_, length @ ..] = self.head;
        u32::from_be_bytes(length) as usize
    }
}

/// The body of a request. Fails with a status when an incomplete message exceeds a limit.
pub(super) struct LimitedBody<B> {
    body: B,
    framing: Framing,
    budget: MessageBudget,
    /// Permits for the incomplete message, one for each pool; none if there is no such message.
    permits: Vec<OwnedSemaphorePermit>,
    /// The deadline of the incomplete message.
    deadline: Option<Pin<Box<Sleep>>>,
}

impl<B> LimitedBody<B> {
    pub(super) fn new(body: B, headers: &http::HeaderMap, room: MessageBudget) -> Self {
        let kind = headers.get(http::header::CONTENT_TYPE);
        let is_grpc = kind.is_some_and(|kind| kind.as_bytes().starts_with(b"application/grpc"));
        Self {
            body,
            framing: Framing {
                is_whole: !is_grpc,
                ..Framing::default()
            },
            budget: room,
            permits: Vec::new(),
            deadline: None,
        }
    }

    /// Acquires permits for the bytes of an incomplete message. Releases those of a complete one.
    fn acquire(&mut self, bytes: &[u8]) -> Result<(), Box<Status>> {
        if self.framing.advance(bytes) {
            self.permits.clear();
            self.deadline = None;
        }
        let held = self.permits.first();
        let held = held.map_or(0, OwnedSemaphorePermit::num_permits);
        let more = self.framing.received.saturating_sub(held);
        if more == 0 {
            return Ok(());
        }
        let taken = self.budget.take(more)?;
        match self.permits.is_empty() {
            true => self.permits = taken,
            false => {
                let held = self.permits.iter_mut().zip(taken);
                held.for_each(|(held, taken)| held.merge(taken));
            }
        }
        let timeout = self.budget.timeout;
        self.deadline
            .get_or_insert_with(|| Box::pin(tokio::time::sleep(timeout)));
        Ok(())
    }

    fn refuse(&mut self, reason: &'static str, status: Status) -> BoxError {
        self.budget.count(reason);
        self.permits.clear();
        self.deadline = None;
        status.into()
    }
}

impl<B> HttpBody for LimitedBody<B>
where
    B: HttpBody<Data = Bytes> + Unpin,
    B::Error: Into<BoxError>,
{
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let this = self.get_mut();
        let late = this.deadline.as_mut();
        if late.is_some_and(|late| late.as_mut().poll(context).is_ready()) {
            let why = format!("a message was not complete after {:?}", this.budget.timeout);
            let status = Status::deadline_exceeded(why);
            return Poll::Ready(Some(Err(this.refuse("late", status))));
        }
        let frame = match ready!(Pin::new(&mut this.body).poll_frame(context)) {
            Some(Ok(frame)) => frame,
            other => {
                this.permits.clear();
                this.deadline = None;
                return Poll::Ready(other.map(|frame| frame.map_err(Into::into)));
            }
        };
        let held = frame.data_ref().map_or(Ok(()), |bytes| this.acquire(bytes));
        if let Err(status) = held {
            return Poll::Ready(Some(Err(this.refuse("incomplete", *status))));
        }
        // A timer wakes its task only once it was polled.
        if this
            .deadline
            .as_mut()
            .is_some_and(|late| late.as_mut().poll(context).is_ready())
        {
            context.waker().wake_by_ref();
        }
        Poll::Ready(Some(Ok(frame)))
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(length: usize) -> Vec<u8> {
        let mut bytes = vec![0];
        bytes.extend((length as u32).to_be_bytes());
        bytes.resize(HEAD + length, 7);
        bytes
    }

    #[test]
    fn message_boundaries_are_found_in_fragments_of_any_size() {
        let three = [message(3), message(0), message(300)].concat();
        for cut in 1..three.len() {
            let mut framing = Framing::default();
            let mut complete = 0;
            for part in three.chunks(cut) {
                let before = framing.received;
                let is_complete = framing.advance(part);
                complete += usize::from(is_complete);
                assert!(is_complete || framing.received == before + part.len());
            }
            assert_eq!(framing.received, 0, "{cut}");
            assert!(complete >= 1, "{cut}");
        }
        let mut framing = Framing::default();
        assert!(framing.advance(&[message(8), message(8)[..9].to_vec()].concat()));
        assert_eq!(framing.received, 9);
    }

    fn limits() -> PortLimits {
        PortLimits {
            incomplete_bytes: 300,
            incomplete_bytes_of_connection: 200,
            message_timeout: Duration::from_secs(30),
            ..PortLimits::of_descriptors("test", 10_000)
        }
    }

    fn grpc() -> http::HeaderMap {
        let kind = http::HeaderValue::from_static("application/grpc");
        http::HeaderMap::from_iter([(http::header::CONTENT_TYPE, kind)])
    }

    fn agent() -> PeerIdentity {
        PeerIdentity::authenticated("agent/a7".parse().unwrap(), None)
    }

    fn arriving(budget: &MessageBudget) -> LimitedBody<axum::body::Body> {
        LimitedBody::new(axum::body::Body::empty(), &grpc(), budget.clone())
    }

    #[tokio::test(start_paused = true)]
    async fn incomplete_messages_are_bounded_per_connection_and_per_port() {
        let limits = limits();
        let port = PortBytes::new(&limits);
        let (first, second) = (
            MessageBudget::new(&limits, &port, &agent()),
            MessageBudget::new(&limits, &port, &agent()),
        );
        let mut one = arriving(&first);
        one.acquire(&message(1_000)[..150]).unwrap();
        // The remaining bytes of its connection, and no more.
        let mut two = arriving(&first);
        let full = two.acquire(&message(1_000)[..60]).unwrap_err();
        assert!(full.message().starts_with("this connection has"), "{full}");
        // A message that arrives complete needs no permits.
        arriving(&first).acquire(&message(1_000)).unwrap();
        let mut three = arriving(&second);
        let full = three.acquire(&message(1_000)[..160]).unwrap_err();
        assert!(full.message().starts_with("this port has"), "{full}");
        // A completed message releases its permits, and so does a call that ends.
        one.acquire(&message(1_000)[150..]).unwrap();
        drop(three);
        let mut four = arriving(&second);
        four.acquire(&message(1_000)[..160]).unwrap();
        drop(four);
        assert_eq!(port.all.available_permits(), 300);
    }

    #[tokio::test(start_paused = true)]
    async fn clients_without_a_certificate_leave_bytes_to_others() {
        let limits = limits();
        let port = PortBytes::new(&limits);
        let of = |peer: &PeerIdentity| MessageBudget::new(&limits, &port, peer);
        let anonymous = PeerIdentity::unauthenticated(None);
        let mut one = arriving(&of(&anonymous));
        one.acquire(&message(1_000)[..200]).unwrap();
        // They have 225 bytes of 300.
        let mut two = arriving(&of(&anonymous));
        let full = two.acquire(&message(1_000)[..26]).unwrap_err();
        assert!(full.message().starts_with("this port has"), "{full}");
        let mut two = arriving(&of(&anonymous));
        two.acquire(&message(1_000)[..25]).unwrap();
        let mut agents = arriving(&of(&agent()));
        agents.acquire(&message(1_000)[..75]).unwrap();
        // All bytes of the port are in use now.
        let full = arriving(&of(&agent())).acquire(&message(1_000)[..1]);
        full.unwrap_err();
        drop((one, two, agents));
        assert_eq!(port.all.available_permits(), 300);
        assert_eq!(port.unauthenticated.available_permits(), 225);
    }
}
