//! From a follower to the leader: one hop, never two.

use std::collections::BTreeMap;
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use argosy_proto::transport::Dialer;
use argosy_state::buggify::{self, Rare};
use futures::{Stream, StreamExt};
use tokio::sync::watch;
use tokio::time::Instant;
use tonic::metadata::{MetadataMap, MetadataValue};
use tonic::transport::{Channel, Endpoint};
use tonic::{Request, Response, Status, Streaming};
use tracing::debug;

use super::Services;
use crate::desk::{Desk, LONGEST_WAIT, unavailable};
use crate::inbox::Office;

/// Marks a forwarded call: it is not passed on again.
const FORWARDED: &str = "argosy-forwarded";
/// Names the leader's API address in replies.
const LEADER: &str = "argosy-leader";

/// How long the leader may take to open a stream; whoever wants it is sent there then.
const OPENING: Duration = Duration::from_secs(1);
/// How long a connection to another master may take.
const CONNECT_PATIENCE: Duration = Duration::from_secs(2);

/// Channels to other masters, made when first needed and kept.
#[derive(Clone)]
pub(crate) struct Peers {
    dialer: Dialer,
    // Held for a look-up; nothing is awaited under it.
    channels: Arc<Mutex<BTreeMap<String, Channel>>>,
}

impl Peers {
    pub(crate) fn new(dialer: Dialer) -> Self {
        Self {
            dialer,
            channels: Arc::default(),
        }
    }

    pub(crate) fn channel(&self, address: &str) -> Result<Channel, Status> {
        let mut channels = self
            .channels
            .lock()
            .expect("nobody panics while holding it");
        if let Some(channel) = channels.get(address) {
            return Ok(channel.clone());
        }
        let endpoint = Endpoint::from_shared(format!("http://{address}")).map_err(|why| {
            unavailable(&format!(
                "the leader's address {address:?} is not usable: {why}"
            ))
        })?;
        let endpoint = endpoint
            // A connection that is dead without a word ends within three seconds: later calls get a new one.
            .http2_keep_alive_interval(Duration::from_secs(1))
            .keep_alive_timeout(Duration::from_secs(2))
            .keep_alive_while_idle(true)
            .http2_adaptive_window(true);
        let connector = self.dialer.connector(CONNECT_PATIENCE);
        let channel = endpoint.connect_with_connector_lazy(connector);
        channels.insert(address.to_owned(), channel.clone());
        Ok(channel)
    }
}

/// What the leader says on a stream, passed on.
pub(crate) type Passed<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

/// Where a call is served.
pub(crate) enum Place {
    /// By the leader in this process.
    Here,
    /// By the leader at the other end of this channel.
    There(Channel, String),
}

impl Services {
    /// Finds out where a call is served, waiting for a leader up to the call's deadline.
    pub(crate) async fn place(&self, metadata: &MetadataMap) -> Result<Place, Status> {
        let office = self.desk.leader(deadline(metadata)).await?;
        if office.here {
            return Ok(Place::Here);
        }
        let address = office.leader.unwrap_or_default();
        if metadata.contains_key(FORWARDED) || buggify::takes(Rare::NotPassedOn) {
            let mut status = unavailable(&format!("leadership has just moved to {address}"));
            name_leader(status.metadata_mut(), &address);
            return Err(status);
        }
        Ok(Place::There(self.peers.channel(&address)?, address))
    }

    /// Serves a unary call here, or forwards it.
    pub(crate) async fn route<Q, A, Local, Remote>(
        &self,
        request: Request<Q>,
        local: impl FnOnce(Q) -> Local,
        remote: impl FnOnce(Channel, Request<Q>) -> Remote,
    ) -> Result<Response<A>, Status>
    where
        Local: Future<Output = Result<A, Status>>,
        Remote: Future<Output = Result<Response<A>, Status>>,
    {
        match self.place(request.metadata()).await? {
            Place::Here => {
                let mut response = Response::new(local(request.into_inner()).await?);
                name_leader(response.metadata_mut(), &self.desk.own_address);
                Ok(response)
            }
            Place::There(channel, address) => {
                let rest = deadline(request.metadata()).saturating_duration_since(Instant::now());
                let mut forwarded = forwarded(request.into_inner());
                forwarded.set_timeout(rest);
                let response = tokio::select! {
                    response = remote(channel, forwarded) => response,
                    () = self.superseded(&address) => {
                        return Err(unavailable(&format!(
                            "the leader at {address} was replaced before it answered: the outcome of a call is unknown, repeat it with the same number"
                        )));
                    }
                };
                let mut response = response.map_err(|status| lost(status, &address))?;
                name_leader(response.metadata_mut(), &address);
                Ok(response)
            }
        }
    }

    /// A stream that is passed on, once the leader has opened it: see [`hop`].
    pub(crate) async fn hop<T: Send + 'static>(
        &self,
        opened: impl Future<Output = Result<Response<Streaming<T>>, Status>>,
        address: &str,
    ) -> Result<Passed<T>, Status> {
        let opened = async { Ok(opened.await?.into_inner()) };
        hop(self.desk.office.clone(), opened, address).await
    }

    /// Until another master leads: one that is frozen or cut off would let the call wait for its whole
    /// deadline.
    async fn superseded(&self, address: &str) {
        superseded(self.desk.office.clone(), address).await;
    }
}

/// What the leader says on a stream once it has opened it, which it must within [`OPENING`]. The stream ends with
/// its hop, and as soon as another master leads: the connection to one that is frozen or cut off stays open.
async fn hop<T: Send + 'static>(
    office: watch::Receiver<Office>,
    opened: impl Future<Output = Result<impl Stream<Item = Result<T, Status>> + Send + 'static, Status>>,
    address: &str,
) -> Result<Passed<T>, Status> {
    let stream = tokio::select! {
        opened = tokio::time::timeout(OPENING, opened) => match opened {
            Ok(opened) => opened.map_err(|status| lost(status, address))?,
            Err(_) => {
                let mut status = unavailable(&format!("the leader at {address} does not answer this master"));
                name_leader(status.metadata_mut(), address);
                return Err(status);
            }
        },
        () = superseded(office.clone(), address) => {
            return Err(unavailable(&format!("the leader at {address} was replaced before it answered")));
        }
    };
    let leader = address.to_owned();
    let stream = stream.map(move |message| message.map_err(|status| lost(status, &leader)));
    let leader = address.to_owned();
    let over = async move { superseded(office, &leader).await };
    Ok(stream.take_until(Box::pin(over)).boxed())
}

async fn superseded(mut office: watch::Receiver<Office>, address: &str) {
    let moved = office.wait_for(|office| {
        office.here
            || office
                .leader
                .as_deref()
                .is_some_and(|leader| leader != address)
    });
    if moved.await.is_err() {
        // The owner ends with its process, and so does the call.
        std::future::pending::<()>().await;
    }
}

/// The same message, marked.
pub(crate) fn forwarded<Q>(message: Q) -> Request<Q> {
    let mut request = Request::new(message);
    request
        .metadata_mut()
        .insert(FORWARDED, MetadataValue::from_static("1"));
    request
}

/// The leader's own refusal passes; a broken hop is nobody's word: the outcome is unknown.
pub(crate) fn lost(status: Status, address: &str) -> Status {
    // A status that was made on this side has a source; a master's own has none.
    if std::error::Error::source(&status).is_none() {
        return status;
    }
    debug!(%status, address, "a forwarded call or stream broke off");
    unavailable(&format!(
        "the connection to the leader at {address} broke: the outcome of a call is unknown, repeat it with the same number"
    ))
}

/// Tells a client where the leader is, so that it goes there directly next time.
pub(crate) fn name_leader(metadata: &mut MetadataMap, address: &str) {
    if let Ok(value) = MetadataValue::try_from(address) {
        metadata.insert(LEADER, value);
    }
}

/// Every reply names the leader, reads and refusals included: also those that no service has made.
pub(crate) async fn add_leader(
    axum::extract::State(desk): axum::extract::State<Desk>,
    request: axum::extract::Request,
    next: axum::middleware::Next,
) -> axum::response::Response {
    let mut response = next.run(request).await;
    if response.headers().contains_key(LEADER) {
        return response;
    }
    let office = desk.office.borrow().clone();
    let leader = match office.here {
        true => Some(desk.own_address),
        false => office.leader,
    };
    if let Some(value) = leader.and_then(|leader| leader.try_into().ok()) {
        response.headers_mut().insert(LEADER, value);
    }
    response
}

/// When the caller gives up; without a word of it, after ten seconds.
pub(crate) fn deadline(metadata: &MetadataMap) -> Instant {
    let given = metadata
        .get("grpc-timeout")
        .and_then(|text| text.to_str().ok())
        .and_then(timeout);
    Instant::now() + given.unwrap_or(LONGEST_WAIT).min(Duration::from_secs(60))
}

/// Reads a `grpc-timeout`: digits and one of H M S m u n.
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
    use argosy_proto::v1;
    use argosy_proto::v1::reigns_client::ReignsClient;

    use super::*;

    #[test]
    fn a_broken_hop_is_unavailable_and_a_refusal_passes() {
        let refusal = Status::failed_precondition("no");
        assert_eq!(lost(refusal, "a:1").code(), tonic::Code::FailedPrecondition);
        let broken = Status::from_error(Box::new(std::io::Error::other("reset")));
        assert_eq!(broken.code(), tonic::Code::Unknown);
        assert_eq!(lost(broken, "a:1").code(), tonic::Code::Unavailable);
    }

    type Said = futures::stream::Iter<std::vec::IntoIter<Result<u8, Status>>>;

    fn led_by(leader: &str) -> Office {
        Office {
            here: false,
            leader: Some(leader.to_owned()),
            epoch: 5,
            term: 2,
        }
    }

    /// As a host behind a cut: the connection stands, and nobody reads it.
    #[tokio::test]
    async fn a_connection_that_is_dead_without_a_word_ends() {
        let host = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = host.local_addr().unwrap().to_string();
        let channel = Peers::new(Dialer::tcp()).channel(&address).unwrap();
        let mut client = ReignsClient::new(channel);
        let call = client.watch(v1::WatchReigns {});
        let status = tokio::time::timeout(Duration::from_secs(30), call).await;
        let status = status.expect("it waits for ever").unwrap_err();
        assert_eq!(lost(status, &address).code(), tonic::Code::Unavailable);
        drop(host);
    }

    #[tokio::test(start_paused = true)]
    async fn a_leader_that_opens_no_stream_is_named_after_a_second() {
        let (_office, seen) = watch::channel(led_by("a:1"));
        let started = Instant::now();
        let never = std::future::pending::<Result<Said, Status>>();
        let status = hop(seen, never, "a:1")
            .await
            .err()
            .expect("nothing was opened");
        assert_eq!(started.elapsed(), OPENING);
        assert_eq!(status.code(), tonic::Code::Unavailable);
        assert_eq!(status.metadata().get(LEADER).unwrap(), "a:1");
    }

    #[tokio::test(start_paused = true)]
    async fn a_stream_that_was_passed_on_ends_with_the_reign() {
        let (office, seen) = watch::channel(led_by("a:1"));
        let says = futures::stream::iter(vec![Ok(1_u8)]).chain(futures::stream::pending());
        let opened = std::future::ready(Ok::<_, Status>(says));
        let mut passed = hop(seen.clone(), opened, "a:1").await.unwrap();
        assert_eq!(passed.next().await.unwrap().unwrap(), 1);
        office.send_replace(led_by("b:1"));
        assert!(passed.next().await.is_none());
        let never = std::future::pending::<Result<Said, Status>>();
        let status = hop(seen, never, "a:1")
            .await
            .err()
            .expect("nothing was opened");
        assert!(status.message().contains("was replaced"), "{status}");
    }

    #[test]
    fn timeouts_read_as_grpc_writes_them() {
        assert_eq!(timeout("250m"), Some(Duration::from_millis(250)));
        assert_eq!(timeout("3S"), Some(Duration::from_secs(3)));
        assert_eq!(timeout(""), None);
        assert_eq!(timeout("x"), None);
        assert_eq!(timeout("5ü"), None);
    }
}
