//! `argosy.v1.Scheduler`: events out, calls in.

use std::pin::Pin;

use argosy_proto::convert::{self, InvalidMessage};
use argosy_proto::server::audit::RequestAudit;
use argosy_proto::trace;
use argosy_proto::v1;
use argosy_proto::v1::scheduler_client::SchedulerClient;
use argosy_proto::v1::scheduler_server::Scheduler;
use argosy_state::actor::Actor;
use argosy_state::command::{Acknowledge, Call, CallAction};
use argosy_state::fingerprint;
use argosy_state::ids::OfferId;
use argosy_state::limits::{self, EXECUTOR_MESSAGE_BYTES};
use futures::{Stream, StreamExt};
use prost::Message as _;
use tokio::sync::oneshot;
use tonic::transport::Channel;
use tonic::{Request, Response, Status};

use super::audited;
use super::calls::{accept, framework, named_roles, parts, subscription, task};
use super::forward::{CallRoute, forwarded, name_leader};
use super::peers::ConnectionUse;
use super::{MESSAGE_BYTES, Services, accepted, bounded, check_protocol, malformed};
use crate::inbox::OwnerMessage;
use crate::leader::{Decline, FrameworkMessage, Input};
use crate::leader_reply::LeaderReply;
use crate::links;
use crate::principal_limits;

type Events = Pin<Box<dyn Stream<Item = Result<v1::Event, Status>> + Send>>;

/// Default time for which declined resources are not offered again, in milliseconds (Mesos'
/// default).
const FILTER_MS: u64 = 5_000;
/// The path of the call in the audit log.
const SUBSCRIBE: &str = "/argosy.v1.Scheduler/Subscribe";

fn client(channel: Channel) -> SchedulerClient<Channel> {
    SchedulerClient::new(channel).max_decoding_message_size(MESSAGE_BYTES)
}

macro_rules! routed {
    ($self:ident, $request:ident, $method:ident, $local:ident) => {
        $self
            .route(
                $request,
                |message, actor| $self.$local(message, actor),
                |channel, request| async move { client(channel).$method(request).await },
            )
            .await
    };
}

#[tonic::async_trait]
impl Scheduler for Services {
    type SubscribeStream = Events;

    async fn subscribe(
        &self,
        request: Request<v1::SubscribeRequest>,
    ) -> Result<Response<Events>, Status> {
        let (metadata, extensions) = (request.metadata(), request.extensions());
        let audit = RequestAudit::of(extensions);
        let audited = |events| audited::stream(events, audit, SUBSCRIBE, audited::event_code);
        let (place, actor) = self
            .call_route(metadata, extensions, ConnectionUse::Streams)
            .await?;
        match place {
            CallRoute::Local => {
                let events = self.subscribe_here(request.into_inner(), actor).await?;
                let mut response = Response::new(audited(events));
                name_leader(response.metadata_mut(), &self.owner.own_address);
                Ok(response)
            }
            CallRoute::Forward(lease, address, caller) => {
                let mut client = client(lease.channel());
                let request = forwarded(request.into_inner(), &caller);
                let opened = async move { client.subscribe(request).await };
                let stream = self.forward_stream(opened, &address, lease).await?;
                let mut response: Response<Events> = Response::new(audited(stream));
                name_leader(response.metadata_mut(), &address);
                Ok(response)
            }
        }
    }

    async fn accept(
        &self,
        request: Request<v1::AcceptRequest>,
    ) -> Result<Response<v1::AcceptReply>, Status> {
        let audit = RequestAudit::of(request.extensions());
        let reply = routed!(self, request, accept, accept_here)?;
        audited::acceptance(audit.as_ref(), reply.get_ref());
        Ok(reply)
    }

    async fn decline(
        &self,
        request: Request<v1::DeclineRequest>,
    ) -> Result<Response<v1::DeclineReply>, Status> {
        routed!(self, request, decline, decline_here)
    }

    async fn kill(
        &self,
        request: Request<v1::KillRequest>,
    ) -> Result<Response<v1::KillReply>, Status> {
        routed!(self, request, kill, kill_here)
    }

    async fn update_limits(
        &self,
        request: Request<v1::UpdateLimitsRequest>,
    ) -> Result<Response<v1::UpdateLimitsReply>, Status> {
        routed!(self, request, update_limits, update_limits_here)
    }

    async fn acknowledge(
        &self,
        request: Request<v1::AcknowledgeRequest>,
    ) -> Result<Response<v1::AcknowledgeReply>, Status> {
        routed!(self, request, acknowledge, acknowledge_here)
    }

    async fn reconcile(
        &self,
        request: Request<v1::ReconcileRequest>,
    ) -> Result<Response<v1::ReconcileReply>, Status> {
        routed!(self, request, reconcile, reconcile_here)
    }

    async fn message(
        &self,
        request: Request<v1::MessageRequest>,
    ) -> Result<Response<v1::MessageReply>, Status> {
        routed!(self, request, message, message_here)
    }

    async fn heartbeat(
        &self,
        request: Request<v1::HeartbeatRequest>,
    ) -> Result<Response<v1::HeartbeatReply>, Status> {
        routed!(self, request, heartbeat, heartbeat_here)
    }

    async fn suppress(
        &self,
        request: Request<v1::SuppressRequest>,
    ) -> Result<Response<v1::SuppressReply>, Status> {
        routed!(self, request, suppress, suppress_here)
    }

    async fn revive(
        &self,
        request: Request<v1::ReviveRequest>,
    ) -> Result<Response<v1::ReviveReply>, Status> {
        routed!(self, request, revive, revive_here)
    }

    async fn update_framework(
        &self,
        request: Request<v1::UpdateFrameworkRequest>,
    ) -> Result<Response<v1::UpdateFrameworkReply>, Status> {
        routed!(self, request, update_framework, update_framework_here)
    }

    async fn teardown(
        &self,
        request: Request<v1::TeardownRequest>,
    ) -> Result<Response<v1::TeardownReply>, Status> {
        routed!(self, request, teardown, teardown_here)
    }
}

impl Services {
    async fn subscribe_here(
        &self,
        wire: v1::SubscribeRequest,
        actor: Actor,
    ) -> Result<Events, Status> {
        let version = check_protocol("the scheduler", wire.protocol.as_ref())?;
        let bytes = wire.encoded_len();
        let subscription = subscription(wire, version).map_err(|why| malformed(&why))?;
        let link = self.owner.new_link();
        let (sender, receiver) = links::link();
        // The stream is dropped with its connection, or with this call if its caller cancels while
        // the owner is busy; that drops the guard.
        let (guard, dropped) = oneshot::channel::<()>();
        let (calls, account) = (self.owner.calls.clone(), principal_limits::current());
        // The registration, and the end of the stream, have the id of this request.
        let context = trace::current();
        self.tasks.spawn(async move {
            let _ = dropped.await;
            let closed = Input::FrameworkClosed { link };
            calls.end_stream(&account, OwnerMessage::TracedInput(closed, context));
        });
        let address = self.owner.own_address.clone();
        let events = receiver.map(move |mut event: v1::Event| {
            let _held = &guard;
            if let Some(v1::event::Event::Subscribed(subscribed)) = &mut event.event {
                subscribed.leader_address.clone_from(&address);
            }
            Ok(event)
        });
        let subscribe = Box::new(Input::Subscribe {
            link,
            actor,
            subscription: Box::new(subscription),
        });
        let opened = OwnerMessage::FrameworkLink(link, sender, subscribe, context);
        self.owner.begin_stream(bytes, opened)?;
        Ok(Box::pin(events))
    }

    async fn accept_here(
        &self,
        wire: v1::AcceptRequest,
        actor: Actor,
    ) -> Result<v1::AcceptReply, Status> {
        let id = (bounded(wire.encoded_len())?, wire.call);
        let filter_ms = wire.filter_ms.unwrap_or(FILTER_MS);
        let wall_ms = self.owner.node.wall_clock().now_ms();
        let (offers, operations) = (wire.offers, wire.operations);
        let shape = convert::shape(&operations).unwrap_or_default();
        let (action, tokens) = accept(offers, operations, wire.all_or_nothing, wall_ms)
            .map_err(|why| malformed(&why))?;
        let (revision, refused) = self.call(id, actor, action, tokens, filter_ms).await?;
        let refused = refused
            .into_iter()
            .map(|one| convert::refused(&shape, one.position, one.code, one.message));
        Ok(v1::AcceptReply {
            revision,
            refused: refused.collect(),
        })
    }

    async fn decline_here(
        &self,
        wire: v1::DeclineRequest,
        actor: Actor,
    ) -> Result<v1::DeclineReply, Status> {
        let bytes = bounded(wire.encoded_len())?;
        let offers = wire
            .offer_ids
            .iter()
            .map(|offer| convert::id::<OfferId>("offer_ids", offer))
            .collect::<Result<_, _>>();
        let offers: Vec<OfferId> = offers.map_err(|why| malformed(&why))?;
        let cut = |text: String| text.chars().take(200).collect::<String>();
        let decline = Decline {
            framework: framework(&wire.framework_id)?,
            session: wire.session,
            offers: Vec::new(),
            filter_ms: wire.filter_ms.unwrap_or(FILTER_MS),
            reason: (cut(wire.reason_code), cut(wire.reason_text)),
        };
        for offers in parts(&offers, limits::RECORDS_PER_COMMAND) {
            let decline = Decline {
                offers,
                ..decline.clone()
            };
            let actor = actor.clone();
            let asked = self.owner.ask_sized(bytes, move |request| Input::Decline {
                request,
                actor,
                decline,
            });
            accepted(asked.await?)?;
        }
        Ok(v1::DeclineReply {})
    }

    async fn message_here(
        &self,
        wire: v1::MessageRequest,
        actor: Actor,
    ) -> Result<v1::MessageReply, Status> {
        if wire.data.len() > EXECUTOR_MESSAGE_BYTES {
            let text = format!(
                "{} bytes; at most {EXECUTOR_MESSAGE_BYTES}",
                wire.data.len()
            );
            return Err(malformed(&InvalidMessage::new("data", text)));
        }
        let bytes = wire.encoded_len();
        let agent = convert::id("agent_id", &wire.agent_id).map_err(|why| malformed(&why))?;
        let message = FrameworkMessage {
            framework: framework(&wire.framework_id)?,
            session: wire.session,
            agent,
            executor: task(&wire.executor_id)?,
            data: wire.data,
        };
        let asked = self.owner.ask_sized(bytes, move |request| Input::Message {
            request,
            actor,
            message,
        });
        accepted(asked.await?)?;
        Ok(v1::MessageReply {})
    }

    async fn heartbeat_here(
        &self,
        wire: v1::HeartbeatRequest,
        actor: Actor,
    ) -> Result<v1::HeartbeatReply, Status> {
        let (framework, session) = (framework(&wire.framework_id)?, wire.session);
        accepted(
            self.owner
                .ask(move |request| Input::FrameworkHeartbeat {
                    request,
                    actor,
                    framework,
                    session,
                })
                .await?,
        )?;
        Ok(v1::HeartbeatReply {})
    }

    async fn kill_here(
        &self,
        wire: v1::KillRequest,
        actor: Actor,
    ) -> Result<v1::KillReply, Status> {
        let id = (bounded(wire.encoded_len())?, wire.call);
        let action = CallAction::Kill {
            task: task(&wire.task_id)?,
            grace_ms: wire.grace_ms,
        };
        let (revision, _) = self.call(id, actor, action, Vec::new(), 0).await?;
        Ok(v1::KillReply { revision })
    }

    async fn update_limits_here(
        &self,
        wire: v1::UpdateLimitsRequest,
        actor: Actor,
    ) -> Result<v1::UpdateLimitsReply, Status> {
        let id = (bounded(wire.encoded_len())?, wire.call);
        let action = CallAction::UpdateLimits {
            task: task(&wire.task_id)?,
            limits: convert::limits_from(wire.limits.unwrap_or_default()),
        };
        let (revision, _) = self.call(id, actor, action, Vec::new(), 0).await?;
        Ok(v1::UpdateLimitsReply { revision })
    }

    async fn acknowledge_here(
        &self,
        wire: v1::AcknowledgeRequest,
        actor: Actor,
    ) -> Result<v1::AcknowledgeReply, Status> {
        let bytes = bounded(wire.encoded_len())?;
        let updates = wire.acknowledgements.into_iter().map(|one| {
            let revision = one.revision.ok_or_else(|| {
                malformed(&InvalidMessage::new(
                    "acknowledgements.revision",
                    "it is missing",
                ))
            })?;
            Ok((task(&one.task_id)?, convert::revision_from(Some(revision))))
        });
        let updates = updates.collect::<Result<Vec<_>, Status>>()?;
        let framework = framework(&wire.framework_id)?;
        let session = wire.session;
        // Each part is stored before the next: a caller that loses its answer repeats all of it.
        for updates in parts(&updates, limits::ACKNOWLEDGEMENTS_PER_COMMAND) {
            let acknowledge = Acknowledge {
                framework,
                session,
                updates,
            };
            let actor = actor.clone();
            let asked = self
                .owner
                .ask_sized(bytes, move |request| Input::Acknowledge {
                    request,
                    actor,
                    acknowledge,
                });
            accepted(asked.await?)?;
        }
        Ok(v1::AcknowledgeReply {})
    }

    async fn suppress_here(
        &self,
        wire: v1::SuppressRequest,
        actor: Actor,
    ) -> Result<v1::SuppressReply, Status> {
        let id = (bounded(wire.encoded_len())?, wire.call);
        let roles = named_roles(&wire.roles)?;
        let (revision, _) = self
            .call(id, actor, CallAction::Suppress(roles), Vec::new(), 0)
            .await?;
        Ok(v1::SuppressReply { revision })
    }

    async fn revive_here(
        &self,
        wire: v1::ReviveRequest,
        actor: Actor,
    ) -> Result<v1::ReviveReply, Status> {
        let id = (bounded(wire.encoded_len())?, wire.call);
        let roles = named_roles(&wire.roles)?;
        let (revision, _) = self
            .call(id, actor, CallAction::Revive(roles), Vec::new(), 0)
            .await?;
        Ok(v1::ReviveReply { revision })
    }

    async fn update_framework_here(
        &self,
        wire: v1::UpdateFrameworkRequest,
        actor: Actor,
    ) -> Result<v1::UpdateFrameworkReply, Status> {
        let id = (bounded(wire.encoded_len())?, wire.call);
        let info = wire
            .info
            .ok_or_else(|| malformed(&InvalidMessage::new("info", "it is missing")))?;
        let info = convert::framework_info_from(info).map_err(|why| malformed(&why))?;
        let (revision, _) = self
            .call(id, actor, CallAction::Update(info), Vec::new(), 0)
            .await?;
        Ok(v1::UpdateFrameworkReply { revision })
    }

    async fn teardown_here(
        &self,
        wire: v1::TeardownRequest,
        actor: Actor,
    ) -> Result<v1::TeardownReply, Status> {
        let id = (bounded(wire.encoded_len())?, wire.call);
        let (revision, _) = self
            .call(id, actor, CallAction::Teardown, Vec::new(), 0)
            .await?;
        Ok(v1::TeardownReply { revision })
    }

    async fn call(
        &self,
        (bytes, id): (usize, Option<v1::CallId>),
        actor: Actor,
        action: CallAction,
        tokens: Vec<Vec<u8>>,
        filter_ms: u64,
    ) -> Result<(Option<v1::Revision>, Vec<crate::leader_reply::RejectedPart>), Status> {
        let id = id.ok_or_else(|| {
            malformed(&InvalidMessage::new(
                "call",
                "number your call: framework_id, session, number",
            ))
        })?;
        if id.number == 0 || id.session == 0 {
            return Err(malformed(&InvalidMessage::new(
                "call",
                "session and number are not 0; numbers count from 1",
            )));
        }
        let call = Call {
            framework: framework(&id.framework_id)?,
            session: id.session,
            number: id.number,
            lowest_unanswered: id.lowest_unanswered,
            hash: 0,
            action,
        };
        let call = Box::new(Call {
            hash: fingerprint::call(&call, filter_ms),
            ..call
        });
        match accepted(
            self.owner
                .ask_sized(bytes, move |request| Input::Call {
                    request,
                    actor,
                    call,
                    tokens,
                    filter_ms,
                })
                .await?,
        )? {
            LeaderReply::Called { revision, refused } => {
                Ok((Some(convert::revision(revision)), refused))
            }
            other => Err(Status::internal(format!(
                "an answer of another kind: {other:?}"
            ))),
        }
    }
}
