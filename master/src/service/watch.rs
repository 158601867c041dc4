//! `Operator.Watch`: the change feed of this master. Events are sent as the feed has encoded them.
//!
//! The generated service has this call too; the route here takes precedence.

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use argosy_proto::transport::PeerIdentity;
use argosy_proto::v1;
use argosy_state::ids::ClusterId;
use axum::Router;
use axum::body::Body;
use axum::routing::any_service;
use bytes::{BufMut, Bytes};
use futures::{Stream, StreamExt, stream};
use prost::Message;
use tonic::codec::{BufferSettings, Codec, EncodeBuf, Encoder};
use tonic::codegen::Service;
use tonic::server::{Grpc as Server, ServerStreamingService};
use tonic::{Request, Response, Status};
use tonic_prost::ProstCodec;

use super::Services;
use super::actor::actor;
use super::feed::{FeedItem, Selection, Start, Subscription, await_revision};
use crate::access::FollowedSights;
use crate::owner_handle::{OwnerHandle, unavailable};

const PATH: &str = "/argosy.v1.Operator/Watch";
/// The initial size of a subscriber's buffer in bytes.
const BUFFER: usize = 512;
/// Maximum size of a request in bytes. It names kinds and short values.
const REQUEST_BYTES: usize = 64 << 10;
/// The size of encoded events that are passed on together, in bytes.
const BATCH_BYTES: usize = 32 << 10;

impl Services {
    /// Adds a subscriber of this master's feed.
    pub(crate) async fn subscribe(
        &self,
        request: Request<v1::WatchRequest>,
    ) -> Result<Subscription, Status> {
        let actor = actor(request.metadata(), request.extensions())?;
        let peer = request.extensions().get::<PeerIdentity>();
        let connection = peer.and_then(PeerIdentity::address);
        let mut request = request.into_inner();
        let cluster = cluster_of(&self.owner).await?;
        let is_other = !request.cluster_id.is_empty() && *request.cluster_id != *cluster;
        if is_other {
            // It names an entry of the other cluster.
            request.min_revision = 0;
        }
        if self.owner.enforces_access {
            // By the rules as of the revision that the caller names.
            await_revision(&self.owner, request.min_revision).await?;
        }
        let policy = Arc::clone(&self.owner.access.borrow().policy);
        let seen = FollowedSights::new(self.owner.reader(actor), policy);
        let selection = Selection::new(&request.kinds, request.filter, seen)?;
        let position = request.from_position;
        if position.is_some() && request.from_revision.is_none() {
            let text = "from_position: it needs from_revision, the log index of its entry";
            return Err(Status::invalid_argument(text));
        }
        let after = request.from_revision;
        let start = Start {
            after: after.map(|index| Start::cursor(index, position)),
            min_revision: request.min_revision,
            wants_snapshots: !request.no_snapshot,
            is_of_other_cluster: is_other,
        };
        self.feed
            .subscribe(&self.owner, connection, (selection, cluster), start)
            .await
    }
}

/// Returns the id of this master's cluster. A master that joins has none until it has applied the
/// first entry, or a snapshot: its registry must not replace what a reader has.
async fn cluster_of(owner: &OwnerHandle) -> Result<Arc<str>, Status> {
    let view = owner.view(0).await?;
    match view.registry.cluster().facts.id {
        ClusterId(0) => Err(unavailable(
            "this master has no registry yet: use another one",
        )),
        id => Ok(id.to_string().into()),
    }
}

/// Returns the items of a subscription.
pub(crate) fn stream(
    subscription: Subscription,
) -> impl Stream<Item = Result<FeedItem, Status>> + Send {
    stream::unfold(subscription, |mut subscription| async {
        let item = subscription.next().await?;
        Some((item, subscription))
    })
}

/// Decodes an event.
pub(super) fn decoded(bytes: Bytes) -> Result<v1::WatchEvent, Status> {
    let event = v1::WatchEvent::decode(bytes);
    event.map_err(|why| Status::internal(format!("an event cannot be read: {why}")))
}

/// Codec of a server that sends encoded events: a request in, bytes out.
#[derive(Debug, Default)]
struct WatchCodec;

#[derive(Debug)]
struct RawEncoder;

type RequestCodec = ProstCodec<v1::WatchRequest, v1::WatchRequest>;

impl Codec for WatchCodec {
    type Encode = Bytes;
    type Decode = v1::WatchRequest;
    type Encoder = RawEncoder;
    type Decoder = <RequestCodec as Codec>::Decoder;

    fn encoder(&mut self) -> RawEncoder {
        RawEncoder
    }

    fn decoder(&mut self) -> Self::Decoder {
        RequestCodec::default().decoder()
    }
}

impl Encoder for RawEncoder {
    type Item = Bytes;
    type Error = Status;

    fn encode(&mut self, event: Bytes, buffer: &mut EncodeBuf<'_>) -> Result<(), Status> {
        buffer.reserve(event.len());
        buffer.put(event);
        Ok(())
    }

    fn buffer_settings(&self) -> BufferSettings {
        BufferSettings::new(BUFFER, BATCH_BYTES)
    }
}

/// The call as a service.
#[derive(Clone)]
struct WatchService(Services);

type EncodedEvents = Pin<Box<dyn Stream<Item = Result<Bytes, Status>> + Send>>;

impl ServerStreamingService<v1::WatchRequest> for WatchService {
    type Response = Bytes;
    type ResponseStream = EncodedEvents;
    type Future = Pin<Box<dyn Future<Output = Result<Response<EncodedEvents>, Status>> + Send>>;

    fn call(&mut self, request: Request<v1::WatchRequest>) -> Self::Future {
        let services = self.0.clone();
        Box::pin(async move {
            let items = stream(services.subscribe(request).await?);
            let events = items.map(|item| item.map(|item| item.bytes()));
            Ok(Response::new(events.boxed()))
        })
    }
}

impl Service<http::Request<Body>> for WatchService {
    type Response = http::Response<tonic::body::Body>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Infallible>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        let watch = self.clone();
        Box::pin(async move {
            let server = Server::new(WatchCodec);
            let mut server = server.apply_max_message_size_config(Some(REQUEST_BYTES), None);
            Ok(server.server_streaming(watch, request).await)
        })
    }
}

/// Returns the route of the call.
pub(crate) fn routes(services: &Services) -> Router {
    Router::new().route(PATH, any_service(WatchService(services.clone())))
}
