//! Forwarding from a follower to the leader: one hop, never two.

use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use argosy_proto::convert::InvalidMessage;
use argosy_proto::trace;
use argosy_proto::versions::{self, VersionRange};
use argosy_state::actor::Actor;
use argosy_state::{buggify, planted_bug};
use axum::http::{HeaderMap, HeaderValue};
use futures::{Stream, StreamExt, future, stream};
use tokio::sync::watch;
use tokio::time::Instant;
use tonic::metadata::{MetadataMap, MetadataValue};
use tonic::transport::Channel;
use tonic::{Extensions, Request, Response, Status, Streaming};
use tracing::debug;

use super::actor::actor;
use super::forwarded_caller::ForwardedCaller;
use super::peers::{ConnectionLease, ConnectionUse};
use super::permits::check_credentials;
use super::status_codes::correct_status;
use super::{Services, malformed, refused};
use crate::inbox::LeaderStatus;
use crate::owner_handle::{LONGEST_WAIT, unavailable};

/// Marks a forwarded call, which is not forwarded again.
pub(super) const FORWARDED: &str = "argosy-forwarded";
/// Requests the leader's address instead of a forwarded stream.
pub(super) const REFER: &str = "argosy-refer";
/// Names the leader's API address in replies.
const LEADER: &str = "argosy-leader";

/// Maximum time in which the leader opens a stream. After it, the client is referred to the leader.
const OPEN_TIMEOUT: Duration = Duration::from_secs(1);
/// Minimum timeout of a forwarded call, even if the client's deadline is shorter.
const CALL_TIMEOUT: Duration = LONGEST_WAIT;
/// A forwarded stream of the leader's messages.
pub(crate) type ForwardedStream<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

/// The master that serves a call.
pub(crate) enum CallRoute {
    /// The leader in this process.
    Local,
    /// The leader that is the peer of this connection.
    Forward(ConnectionLease, String, ForwardedCaller),
}

impl Services {
    /// Determines the actor and where a call is served, and waits for a leader up to the call's
    /// deadline.
    pub(crate) async fn call_route(
        &self,
        metadata: &MetadataMap,
        extensions: &Extensions,
        kind: ConnectionUse,
    ) -> Result<(CallRoute, Actor), Status> {
        let actor = actor(metadata, extensions)?;
        let leader = self.owner.leader(deadline(metadata)).await?;
        if leader.is_local {
            // When it admitted the call, it may not have applied all of the log that it leads.
            check_credentials(extensions)?;
            return Ok((CallRoute::Local, actor));
        }
        let address = leader.leader.unwrap_or_default();
        if metadata.contains_key(FORWARDED) || buggify!(NotForwarded) {
            let mut status = unavailable(&format!("leadership has just moved to {address}"));
            name_leader(status.metadata_mut(), &address);
            return Err(status);
        }
        let lease = self.peers.lease(&address, kind)?;
        let caller = ForwardedCaller::new(actor.clone(), extensions);
        Ok((CallRoute::Forward(lease, address, caller), actor))
    }

    /// Serves a unary call here, or forwards it.
    pub(crate) async fn route<Q, A, Local, Remote>(
        &self,
        request: Request<Q>,
        local: impl FnOnce(Q, Actor) -> Local,
        remote: impl FnOnce(Channel, Request<Q>) -> Remote,
    ) -> Result<Response<A>, Status>
    where
        A: Send + 'static,
        Local: Future<Output = Result<A, Status>>,
        Remote: Future<Output = Result<Response<A>, Status>> + Send + 'static,
    {
        let (metadata, extensions) = (request.metadata(), request.extensions());
        let (place, actor) = self
            .call_route(metadata, extensions, ConnectionUse::Calls)
            .await?;
        match place {
            CallRoute::Local => {
                // The headers that every reply has name the leader.
                Ok(Response::new(local(request.into_inner(), actor).await?))
            }
            CallRoute::Forward(lease, address, caller) => {
                let deadline = deadline(request.metadata());
                let rest = deadline.saturating_duration_since(Instant::now());
                let mut forwarded = forwarded(request.into_inner(), &caller);
                forwarded.set_timeout(rest.max(CALL_TIMEOUT));
                let answered = remote(lease.channel(), forwarded);
                let leadership = self.owner.leader_status.clone();
                let answered = forward_call(lease, leadership, address.clone(), answered);
                let answered = self.peers.renewing(&address, answered);
                let response = tokio::time::timeout_at(deadline, answered).await;
                let mut response = response.unwrap_or_else(|_| {
                    Err(unknown(&format!(
                        "the leader at {address} did not answer in time"
                    )))
                })?;
                name_leader(response.metadata_mut(), &address);
                Ok(response)
            }
        }
    }

    /// Returns a forwarded stream, once the leader has opened it: see [`forward_stream`]. Its lease
    /// of the connection is released when it ends.
    pub(crate) async fn forward_stream<T: Send + 'static>(
        &self,
        opened: impl Future<Output = Result<Response<Streaming<T>>, Status>> + Send + 'static,
        address: &str,
        lease: ConnectionLease,
    ) -> Result<ForwardedStream<T>, Status> {
        let held = Arc::new(lease);
        let holding = Arc::clone(&held);
        let opened = async move {
            let stream = opened.await?.into_inner();
            Ok(stream.inspect(move |_| {
                let _held = &holding;
            }))
        };
        let leadership = self.owner.leader_status.clone();
        let opened = forward_call(held, leadership.clone(), address.to_owned(), opened);
        let opened = self.peers.renewing(address, opened);
        forward_stream(leadership, opened, address).await
    }
}

/// Waits for the leader's answer, or for its replacement. The call continues, and keeps its lease
/// of the connection, even if its client cancels. A server closes a connection when many of its
/// streams are reset before it has accepted them, and other clients share this connection.
async fn forward_call<T: Send + 'static>(
    lease: impl Send + 'static,
    leader_status: watch::Receiver<LeaderStatus>,
    address: String,
    answered: impl Future<Output = Result<T, Status>> + Send + 'static,
) -> Result<T, Status> {
    let task = tokio::spawn(trace::scope(trace::current(), async move {
        let _place = lease;
        tokio::select! {
            answer = answered => answer.map_err(|status| connection_lost(status, &address)),
            () = superseded(leader_status, &address) => Err(unknown(&format!(
                "the leader at {address} was replaced before it answered"
            ))),
        }
    }));
    task.await
        .unwrap_or_else(|why| Err(Status::internal(format!("a forwarded call failed: {why}"))))
}

/// Returns the leader's stream once it is open, which must happen within [`OPEN_TIMEOUT`]. The
/// stream ends with its hop, and as soon as another master leads: the connection to a frozen or
/// isolated leader stays open.
async fn forward_stream<T: Send + 'static>(
    leader_status: watch::Receiver<LeaderStatus>,
    opened: impl Future<Output = Result<impl Stream<Item = Result<T, Status>> + Send + 'static, Status>>,
    address: &str,
) -> Result<ForwardedStream<T>, Status> {
    let stream = tokio::time::timeout(OPEN_TIMEOUT, opened)
        .await
        .unwrap_or_else(|_| {
            let mut status = unavailable(&format!(
                "the leader at {address} does not answer this master"
            ));
            name_leader(status.metadata_mut(), address);
            Err(status)
        })?;
    let leader = address.to_owned();
    let stream =
        stream.map(move |message| message.map_err(|status| connection_lost(status, &leader)));
    let leader = address.to_owned();
    let over = async move {
        superseded(leader_status, &leader).await;
        Err(unavailable(&format!(
            "the leader at {leader} was replaced: open a new stream"
        )))
    };
    // The leader's end of the stream ends it here, too; its replacement ends it with a status.
    let stream = stream.map(Some).chain(stream::iter([None]));
    let stream = stream::select(stream, stream::once(over).map(Some));
    let stream = stream.take_while(|message| future::ready(message.is_some()));
    Ok(until_error(stream.filter_map(future::ready).boxed()).boxed())
}

/// Returns the messages up to and including the first error. Nothing is read after it.
fn until_error<T: Send + 'static>(
    messages: ForwardedStream<T>,
) -> impl Stream<Item = Result<T, Status>> + Send {
    stream::unfold(Some(messages), |messages| async {
        let mut messages = messages?;
        let message = messages.next().await?;
        let rest = message.is_ok().then_some(messages);
        Some((message, rest))
    })
}

/// Returns a client's messages for a forwarded stream, and the reason for which they could not be
/// read any further, once there is one. The leader only sees that its stream ends.
pub(crate) fn readable<T: Send + 'static>(
    messages: Streaming<T>,
) -> (impl Stream<Item = T> + Send + 'static, StreamReadError) {
    let unreadable = StreamReadError::default();
    let found = unreadable.clone();
    let messages = tokio_stream::StreamExt::map_while(messages, move |message| {
        message
            .map_err(|status| found.0.set(correct_status(status)))
            .ok()
    });
    (messages, unreadable)
}

/// The reason for which a client's stream could not be read any further.
#[derive(Clone, Default)]
pub(crate) struct StreamReadError(Arc<OnceLock<Status>>);

impl StreamReadError {
    /// Returns the same answers, followed by the reason.
    pub(crate) fn after<T: Send + 'static>(
        self,
        answers: ForwardedStream<T>,
    ) -> ForwardedStream<T> {
        let last = future::lazy(move |_| self.0.get().cloned().map(Err));
        answers
            .chain(stream::once(last).filter_map(future::ready))
            .boxed()
    }
}

/// Waits until another master leads: a frozen or partitioned leader would delay the call up to its
/// deadline.
async fn superseded(mut leader_status: watch::Receiver<LeaderStatus>, address: &str) {
    let moved = leader_status.wait_for(|leadership| {
        leadership.is_local
            || leadership
                .leader
                .as_deref()
                .is_some_and(|leader| leader != address)
    });
    if moved.await.is_err() {
        // The owner ends with its process, and so does the call.
        std::future::pending::<()>().await;
    }
}

/// Returns the same message, marked as forwarded, with its caller and the id of the request.
pub(crate) fn forwarded<Q>(message: Q, caller: &ForwardedCaller) -> Request<Q> {
    let mut request = Request::new(message);
    request
        .metadata_mut()
        .insert(FORWARDED, MetadataValue::from_static("1"));
    caller.name(request.metadata_mut());
    trace::add_to_call(request.metadata_mut());
    request
}

/// Returns the status of a forwarded call. The leader's own rejection is returned unchanged; after
/// a broken hop the outcome is unknown.
pub(crate) fn connection_lost(status: Status, address: &str) -> Status {
    // A status that this master's transport created has a source; one that the leader sent has
    // none.
    if std::error::Error::source(&status).is_none() {
        return status;
    }
    debug!(%status, address, "a forwarded call or stream failed");
    unknown(&format!("the connection to the leader at {address} broke"))
}

/// Returns UNAVAILABLE for an unknown outcome: the leader may have received the call, or not.
fn unknown(why: &str) -> Status {
    planted_bug!(LostHopRefused => return Status::aborted(why));
    unavailable(&format!(
        "{why}: the outcome of a call is unknown, repeat it with the same number"
    ))
}

/// Names the leader to a client, so that it connects to it directly next time.
pub(crate) fn name_leader(metadata: &mut MetadataMap, address: &str) {
    if let Ok(value) = MetadataValue::try_from(address) {
        metadata.insert(LEADER, value);
    }
}

/// Refers a client to the leader, as it has requested. The answer has the metadata of the request,
/// so that it is not counted as a failure.
pub(super) fn leader_moved(address: &str) -> Status {
    let mut status = unavailable(&format!("{address} leads: connect there"));
    name_leader(status.metadata_mut(), address);
    let referred = MetadataValue::from_static("1");
    status.metadata_mut().insert(REFER, referred);
    status
}

/// Returns whether these are the headers of [`leader_moved`].
pub(crate) fn is_referral(headers: &HeaderMap) -> bool {
    headers.contains_key(REFER)
}

/// Rejects a client that names protocol versions of which this master supports none.
pub(crate) fn check_versions(headers: &HeaderMap) -> Result<(), Status> {
    let Some(named) = headers.get(versions::HEADER) else {
        return Ok(());
    };
    let named = named.to_str().unwrap_or_default().parse::<VersionRange>();
    let theirs =
        named.map_err(|why| malformed(&InvalidMessage::new(versions::HEADER, why.to_string())))?;
    let agreed = VersionRange::OWN.common(theirs, "the client");
    agreed.map_err(|why| refused(versions::CODE, &why.to_string()))?;
    Ok(())
}

/// The headers that every reply has.
pub(crate) struct ReplyHeaders {
    own_address: Option<HeaderValue>,
    versions: HeaderValue,
}

impl ReplyHeaders {
    pub(crate) fn new(own_address: &str) -> Self {
        let versions = HeaderValue::try_from(VersionRange::OWN.header());
        Self {
            own_address: own_address.try_into().ok(),
            versions: versions.expect("digits and a hyphen are a value"),
        }
    }

    /// Names the leader and the versions of this master in every reply. That includes replies to
    /// reads, rejections, and replies that no service has created.
    pub(crate) fn add_to(
        &self,
        leader_status: &watch::Receiver<LeaderStatus>,
        headers: &mut HeaderMap,
    ) {
        headers.insert(versions::HEADER, self.versions.clone());
        if headers.contains_key(LEADER) {
            return;
        }
        let leader = {
            let leadership = leader_status.borrow();
            match leadership.is_local {
                true => self.own_address.clone(),
                false => leadership
                    .leader
                    .as_deref()
                    .and_then(|leader| leader.try_into().ok()),
            }
        };
        if let Some(leader) = leader {
            headers.insert(LEADER, leader);
        }
    }
}

/// Returns the caller's deadline; ten seconds from now if it sets none.
pub(crate) fn deadline(metadata: &MetadataMap) -> Instant {
    let given = metadata
        .get("grpc-timeout")
        .and_then(|text| text.to_str().ok())
        .and_then(timeout);
    Instant::now() + given.unwrap_or(LONGEST_WAIT).min(Duration::from_secs(60))
}

/// Parses a `grpc-timeout`: digits and one of H M S m u n.
fn timeout(text: &str) -> Option<Duration> {
    let (digits, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    let number: u64 = digits.parse().ok()?;
    match unit {
        "H" => Some(Duration::from_secs(number.saturating_mul(3_600))),
        "M" => Some(Duration::from_secs(number.saturating_mul(60))),
        "S" => Some(Duration::from_secs(number)),
        "m" => Some(Duration::from_millis(number)),
        "u" => Some(Duration::from_micros(number)),
        "n" => Some(Duration::from_nanos(number)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt;

    use super::*;

    #[test]
    fn a_broken_hop_is_unavailable_and_a_rejection_is_forwarded() {
        let refusal = Status::failed_precondition("no");
        assert_eq!(
            connection_lost(refusal, "a:1").code(),
            tonic::Code::FailedPrecondition
        );
        let broken = Status::from_error(Box::new(std::io::Error::other("reset")));
        assert_eq!(broken.code(), tonic::Code::Unknown);
        assert_eq!(
            connection_lost(broken, "a:1").code(),
            tonic::Code::Unavailable
        );
    }

    type ItemStream = futures::stream::Iter<std::vec::IntoIter<Result<u8, Status>>>;

    fn led_by(leader: &str) -> LeaderStatus {
        LeaderStatus {
            is_local: false,
            leader: Some(leader.to_owned()),
            epoch: 5,
            term: 2,
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_leader_that_opens_no_stream_is_reported_after_a_second() {
        let (_leadership, seen) = watch::channel(led_by("a:1"));
        let started = Instant::now();
        let never = std::future::pending::<Result<ItemStream, Status>>();
        let status = forward_stream(seen, never, "a:1")
            .await
            .err()
            .expect("nothing was opened");
        assert_eq!(started.elapsed(), OPEN_TIMEOUT);
        assert_eq!(status.code(), tonic::Code::Unavailable);
        assert_eq!(status.metadata().get(LEADER).unwrap(), "a:1");
    }

    #[tokio::test(start_paused = true)]
    async fn forwarded_stream_ends_with_the_epoch() {
        let (leadership, seen) = watch::channel(led_by("a:1"));
        let expected = futures::stream::iter(vec![Ok(1_u8)]).chain(futures::stream::pending());
        let opened = std::future::ready(Ok::<_, Status>(expected));
        let mut passed = forward_stream(seen.clone(), opened, "a:1").await.unwrap();
        assert_eq!(passed.next().await.unwrap().unwrap(), 1);
        leadership.send_replace(led_by("b:1"));
        let last = passed.next().await.unwrap().unwrap_err();
        assert_eq!(last.code(), tonic::Code::Unavailable);
        assert!(passed.next().await.is_none());
        let never = std::future::pending::<Result<ItemStream, Status>>();
        let status = forward_call((), seen, "a:1".to_owned(), never).await.err();
        let status = status.expect("nothing was opened");
        assert!(status.message().contains("was replaced"), "{status}");
    }

    #[tokio::test(start_paused = true)]
    async fn cancelled_forwarded_call_holds_its_lease_until_answered() {
        let (_leadership, seen) = watch::channel(led_by("a:1"));
        let place = Arc::new(());
        let answers = tokio::time::sleep(Duration::from_secs(3)).map(Ok);
        let call = forward_call(Arc::clone(&place), seen, "a:1".to_owned(), answers);
        tokio::time::timeout(Duration::from_secs(1), call)
            .await
            .expect_err("it takes three seconds");
        assert_eq!(Arc::strong_count(&place), 2);
        tokio::time::sleep(Duration::from_secs(3)).await;
        assert_eq!(Arc::strong_count(&place), 1);
    }

    #[tokio::test]
    async fn broken_stream_reports_one_error_ended_stream_none() {
        let (_leadership, seen) = watch::channel(led_by("a:1"));
        for (expected, is_broken) in [
            (vec![Ok(1_u8)], false),
            (vec![Ok(1), Err(Status::aborted("x"))], true),
        ] {
            let opened = future::ready(Ok::<_, Status>(stream::iter(expected)));
            let passed = forward_stream(seen.clone(), opened, "a:1").await.unwrap();
            let all: Vec<_> = passed.collect().await;
            assert_eq!(all.len(), 1 + usize::from(is_broken));
            assert_eq!(all.last().unwrap().is_err(), is_broken);
        }
    }

    #[test]
    fn grpc_timeouts_are_parsed() {
        assert_eq!(timeout("250m"), Some(Duration::from_millis(250)));
        assert_eq!(timeout("3S"), Some(Duration::from_secs(3)));
        assert_eq!(timeout(""), None);
        assert_eq!(timeout("x"), None);
        assert_eq!(timeout("5ü"), None);
    }
}
