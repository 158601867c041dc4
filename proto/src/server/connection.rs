//! The task of one connection, which serves, watches and ends it.

use std::convert::Infallible;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use hyper::body::Incoming;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::conn::auto::Builder;
use metrics::counter;
use tokio_util::sync::CancellationToken;
use tower::ServiceExt as _;
use tracing::trace;

use super::activity::{Activity, ActivityAction, ConnectionWatch, OpenRequest, WatchedStream};
use super::call_rate::ConnectionCalls;
use super::calls::{PendingCalls, ServedConnection};
use super::guarded_body::GuardedBody;
use super::incomplete_messages::{LimitedBody, MessageBudget, PortBytes};
use super::stalls::{ObservedBody, StallLimit};
use super::unread_bodies::DiscardedBody;
use super::{HttpService, PortLimits};
use crate::transport::{ConnectionAddresses, PeerIdentity};

/// The time that a closing connection gets for its shutdown.
const SHUTDOWN_TIMEOUT: Duration = Duration::from_secs(1);

/// The state that all connections of a port share.
pub(super) struct PortState<S> {
    pub(super) limits: PortLimits,
    service: S,
    /// The bytes left for incomplete messages of all connections.
    incomplete: PortBytes,
    stop: CancellationToken,
}

impl<S: HttpService> PortState<S> {
    pub(super) fn new(limits: PortLimits, service: S, stop: CancellationToken) -> Self {
        Self {
            incomplete: PortBytes::new(&limits),
            limits,
            service,
            stop,
        }
    }

    /// Returns the settings of a connection that passes its calls to `arrived`.
    fn builder(&self, arrived: PendingCalls) -> Builder<PendingCalls> {
        let limits = &self.limits;
        let mut builder = Builder::new(arrived);
        builder
            .http1()
            .timer(TokioTimer::new())
            // The activity has a deadline for heads; this one would close idle connections too
            // early.
            .header_read_timeout(None)
            .max_buf_size(limits.head_bytes as usize);
        builder
            .http2()
            .timer(TokioTimer::new())
            .keep_alive_interval(limits.ping_interval)
            .keep_alive_timeout(limits.ping_timeout)
            .max_concurrent_streams(limits.streams)
            .max_pending_accept_reset_streams(limits.early_resets)
            .max_local_error_reset_streams(limits.error_resets)
            .initial_stream_window_size(limits.stream_window)
            .initial_connection_window_size(limits.connection_window)
            .max_header_list_size(limits.head_bytes);
        builder
    }

    /// Serves a connection until it ends, is closed for inactivity, or is evicted.
    pub(super) async fn drive(
        self: Arc<Self>,
        io: WatchedStream,
        watch: ConnectionWatch,
        (ends, peer): (Option<ConnectionAddresses>, PeerIdentity),
    ) {
        let answers = ConnectionService {
            service: self.service.clone(),
            watch: watch.clone(),
            budget: MessageBudget::new(&self.limits, &self.incomplete, &peer),
            addresses: ends,
            peer,
            calls: ConnectionCalls::new(),
        };
        let activity = Arc::clone(&watch.activity);
        let evicted = watch.evicted();
        // From here on the byte stream holds the slot, which is released when it is closed.
        drop(watch);
        let arrived = PendingCalls::default();
        let builder = self.builder(arrived.clone());
        let connection = pin!(builder.serve_connection_with_upgrades(TokioIo::new(io), answers));
        let limit = StallLimit::of(&self.limits);
        let mut serving = ServedConnection::new(connection, arrived, limit);
        let mut evicted = pin!(evicted);
        let mut deadline = pin!(tokio::time::sleep(self.limits.head_timeout));
        loop {
            tokio::select! {
                ended = &mut serving => {
                    if let Err(error) = ended {
                        trace!(error, "a connection broke");
                    }
                    activity.detach();
                    return;
                }
                () = &mut evicted => return,
                () = self.stop.cancelled() => break,
                () = &mut deadline => match activity.check(&self.limits) {
                    ActivityAction::Later(at) => deadline.as_mut().reset(at),
                    ActivityAction::Close(reason) => {
                        counter!("argosy_connections_closed_total", "port" => self.limits.port, "reason" => reason)
                            .increment(1);
                        trace!(reason, "closing a connection");
                        serving.connection.as_mut().graceful_shutdown();
                        return closed(&mut serving, &activity, evicted).await;
                    }
                },
            }
        }
        serving.connection.as_mut().graceful_shutdown();
        let _ = serving.await;
        activity.detach();
    }
}

/// Waits for the end of a connection that is shut down. A peer that does not complete that is cut
/// off; a request that arrives at this moment is not, unless the connection is evicted.
async fn closed(
    serving: &mut (impl Future + Unpin),
    activity: &Activity,
    mut evicted: Pin<&mut impl Future<Output = ()>>,
) {
    loop {
        tokio::select! {
            () = &mut evicted => return,
            ended = tokio::time::timeout(SHUTDOWN_TIMEOUT, &mut *serving) => {
                if ended.is_ok() || activity.unused_since().is_some() {
                    return;
                }
            }
        }
    }
}

/// The service of one connection.
struct ConnectionService<S> {
    service: S,
    watch: ConnectionWatch,
    budget: MessageBudget,
    addresses: Option<ConnectionAddresses>,
    peer: PeerIdentity,
    calls: ConnectionCalls,
}

type AnswerBody = ObservedBody<GuardedBody<OpenRequest>>;

type ResponseFuture =
    Pin<Box<dyn Future<Output = Result<http::Response<AnswerBody>, Infallible>> + Send>>;

impl<S: HttpService> hyper::service::Service<http::Request<Incoming>> for ConnectionService<S> {
    type Response = http::Response<AnswerBody>;
    type Error = Infallible;
    type Future = ResponseFuture;

    fn call(&self, request: http::Request<Incoming>) -> ResponseFuture {
        let open = self.watch.open();
        let (parts, body) = request.into_parts();
        let body = DiscardedBody::new(body, &parts);
        let body = LimitedBody::new(body, &parts.headers, self.budget.clone());
        let mut request = http::Request::from_parts(parts, Body::new(body));
        let extensions = request.extensions_mut();
        extensions.insert(self.peer.clone());
        extensions.insert(self.calls.clone());
        if let Some(ends) = self.addresses {
            extensions.insert(ends);
        }
        let service = self.service.clone();
        Box::pin(async move {
            let response = service.oneshot(request).await?;
            Ok(response.map(|body| ObservedBody(GuardedBody::new(body, open))))
        })
    }
}

#[cfg(test)]
mod tests {
    use std::future::{pending, ready};

    use tokio::time::timeout;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_request_that_arrives_at_a_shutdown_holds_its_connection_until_it_is_evicted() {
        let (activity, mut serving) = (Activity::new(), pending::<()>());
        activity.detach();
        let (never, now) = (pin!(pending()), pin!(ready(())));
        let held = closed(&mut serving, &activity, never);
        timeout(60 * SHUTDOWN_TIMEOUT, held).await.unwrap_err();
        let evicted = closed(&mut serving, &activity, now);
        timeout(SHUTDOWN_TIMEOUT, evicted).await.unwrap();
    }
}
