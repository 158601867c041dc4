//! Calls and the stream on the wire; each ends with an input for the core.
//!
//! This module decides nothing except the silence timeouts.

use std::convert::Infallible;
use std::time::Duration;

use argosy_proto::trace;
use argosy_proto::v1;
use argosy_proto::v1::scheduler_client::SchedulerClient;
use prost::Message;
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, MissedTickBehavior};
use tonic::transport::Channel;
use tonic::{Request, Response, Status, Streaming};

use super::calls;
use super::session::{CallReply, Input};
use crate::connector::{Connector, DEFAULT_DEADLINE, MESSAGE_BYTES, RepeatPolicy, check_size};
use crate::failure::{AttemptError, CallError, classify};

/// Timeout of the first event on a new stream.
pub(super) const FIRST_EVENT: Duration = Duration::from_secs(5);
/// Number of consecutive missed heartbeats after which a stream counts as dead.
const HEARTBEATS: u32 = 3;

fn stub(channel: Channel) -> SchedulerClient<Channel> {
    SchedulerClient::new(channel)
        .max_decoding_message_size(MESSAGE_BYTES)
        .max_encoding_message_size(MESSAGE_BYTES)
}

pub(super) async fn call<Q, R, F, Fut>(
    connector: &Connector,
    body: Q,
    ask: F,
) -> Result<R, CallError>
where
    Q: Clone + Message,
    F: Fn(SchedulerClient<Channel>, Request<Q>) -> Fut,
    Fut: Future<Output = Result<Response<R>, Status>>,
{
    check_size(&body).map_err(CallError::Refused)?;
    let ask = |channel, limit| {
        let mut request = Request::new(body.clone());
        request.set_timeout(limit);
        connector.authorize(request.metadata_mut());
        trace::add_to_call(request.metadata_mut());
        ask(stub(channel), request)
    };
    let answer = connector
        .call(DEFAULT_DEADLINE, RepeatPolicy::Always, ask)
        .await?;
    Ok(answer.body)
}

pub(super) async fn numbered(
    connector: &Connector,
    request: calls::CallRequest,
) -> Result<CallReply, CallError> {
    let done = |revision: Option<v1::Revision>| CallReply {
        revision: revision.unwrap_or_default(),
        refused: Vec::new(),
    };
    Ok(match request {
        calls::CallRequest::Accept(request) => {
            let reply = call(connector, request, |mut stub, r| async move {
                stub.accept(r).await
            })
            .await?;
            CallReply {
                refused: reply.refused,
                ..done(reply.revision)
            }
        }
        calls::CallRequest::Kill(request) => {
            let reply = call(connector, request, |mut stub, r| async move {
                stub.kill(r).await
            })
            .await?;
            done(reply.revision)
        }
        calls::CallRequest::UpdateLimits(request) => {
            let reply = call(connector, request, |mut stub, r| async move {
                stub.update_limits(r).await
            })
            .await?;
            done(reply.revision)
        }
        calls::CallRequest::Suppress(request) => {
            let reply = call(connector, request, |mut stub, r| async move {
                stub.suppress(r).await
            })
            .await?;
            done(reply.revision)
        }
        calls::CallRequest::Revive(request) => {
            let reply = call(connector, request, |mut stub, r| async move {
                stub.revive(r).await
            })
            .await?;
            done(reply.revision)
        }
        calls::CallRequest::UpdateFramework(request) => {
            let reply = call(connector, request, |mut stub, r| async move {
                stub.update_framework(r).await
            })
            .await?;
            done(reply.revision)
        }
        calls::CallRequest::Teardown(request) => {
            let reply = call(connector, request, |mut stub, r| async move {
                stub.teardown(r).await
            })
            .await?;
            done(reply.revision)
        }
    })
}

/// The heartbeats that a leader expects of this scheduler: the framework id, and the interval.
type HeartbeatRequirement = (String, Duration);

/// Reads one stream to its end and sends heartbeats until then; returns how it ended.
pub(super) async fn read(
    connector: &Connector,
    link: u64,
    (request, deadline): (v1::SubscribeRequest, Duration),
    sender: &mpsc::Sender<Input>,
) -> Input {
    if let Err(refusal) = check_size(&request) {
        return Input::Refused { link, refusal };
    }
    let session = request.session;
    let ask = |channel, _| {
        let mut request = Request::new(request.clone());
        connector.authorize(request.metadata_mut());
        async move { stub(channel).subscribe(request).await }
    };
    let opened: (Streaming<v1::Event>, String) =
        match connector.call(deadline, RepeatPolicy::Always, ask).await {
            Ok(answer) => (answer.body, answer.address),
            Err(CallError::Refused(refusal)) => return Input::Refused { link, refusal },
            Err(error) => return Input::ConnectFailed { link, error },
        };
    let (want, wanted) = oneshot::channel();
    // Each continues while the other waits: unread events do not make this scheduler silent.
    tokio::select! {
        ended = events(connector, link, opened, want, sender) => ended,
        never = send_heartbeats(connector, session, wanted) => match never {},
    }
}

/// Sends heartbeats to the leader at the interval that it expects.
async fn send_heartbeats(
    connector: &Connector,
    session: u64,
    wanted: oneshot::Receiver<HeartbeatRequirement>,
) -> Infallible {
    let Ok((framework_id, interval)) = wanted.await else {
        // The leader is of a release that expects none.
        return std::future::pending().await;
    };
    // The subscription itself counts as the first heartbeat.
    let mut ticks = tokio::time::interval_at(Instant::now() + interval, interval);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        let ask = |channel, limit| {
            let mut request = Request::new(v1::HeartbeatRequest {
                framework_id: framework_id.clone(),
                session,
            });
            request.set_timeout(limit);
            connector.authorize(request.metadata_mut());
            async move { stub(channel).heartbeat(request).await }
        };
        // If there is no answer in time, the next heartbeat follows; the stream itself shows
        // whether the leader still exists.
        if let Err(error) = connector.call(interval, RepeatPolicy::Always, ask).await {
            tracing::debug!(%error, "a heartbeat has no answer");
        }
    }
}

/// Forwards events until the stream ends.
async fn events(
    connector: &Connector,
    link: u64,
    (mut stream, address): (Streaming<v1::Event>, String),
    want: oneshot::Sender<HeartbeatRequirement>,
    sender: &mpsc::Sender<Input>,
) -> Input {
    let closed = |why: String| Input::Closed { link, why };
    let mut want = Some(want);
    let mut timeout = FIRST_EVENT;
    let mut replaced = Box::pin(connector.until_replaced(None, address.clone()));
    loop {
        let message = tokio::select! {
            biased;
            message = tokio::time::timeout(timeout, stream.message()) => message,
            leader = &mut replaced => return closed(format!("{address} was replaced: {leader}")),
        };
        let message = match message {
            Ok(Ok(Some(message))) => message,
            Ok(Ok(None)) => return closed(format!("{address} ended the stream")),
            Ok(Err(status)) => {
                return match classify(&status, 0) {
                    // The stream is opened again, over a new connection.
                    AttemptError::Refused(refusal) if connector.renew_connections(refusal.code) => {
                        closed(refusal.message)
                    }
                    AttemptError::Refused(refusal) => Input::Refused { link, refusal },
                    AttemptError::TryNext { cause, .. } => closed(format!("{address} {cause}")),
                };
            }
            Err(_) => {
                connector.mark_silent(&address);
                return closed(format!(
                    "{address} was silent for {} ms",
                    timeout.as_millis()
                ));
            }
        };
        // An event of a later release is ignored.
        let Some(event) = message.event else { continue };
        if let v1::event::Event::Subscribed(subscribed) = &event {
            let interval =
                Duration::from_millis(subscribed.heartbeat_interval_ms.clamp(10, 600_000));
            timeout = interval * HEARTBEATS;
            replaced = Box::pin(connector.until_replaced(Some(subscribed.epoch), address.clone()));
            let heartbeat_ms = subscribed.scheduler_heartbeat_interval_ms;
            if let Some(want) = want.take().filter(|_| heartbeat_ms > 0) {
                let interval = Duration::from_millis(heartbeat_ms.clamp(10, 600_000));
                // The receiver exists as long as this stream is read.
                let _ = want.send((subscribed.framework_id.clone(), interval));
            }
            if let Ok(leader) = crate::Masters::new([&subscribed.leader_address]) {
                connector.note_leader(&leader.addresses()[0]);
            }
        }
        if sender.send(Input::Event { link, event }).await.is_err() {
            return closed("the run has ended".into());
        }
    }
}
