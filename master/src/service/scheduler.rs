//! `argosy.v1.Scheduler`: events out, calls in.

use std::pin::Pin;

use argosy_proto::convert::{self, Malformed};
use argosy_proto::v1;
use argosy_proto::v1::scheduler_client::SchedulerClient;
use argosy_proto::v1::scheduler_server::Scheduler;
use argosy_state::command::{Accept, Acknowledge, Call, CallAction, Command, Proposed};
use argosy_state::encode;
use argosy_state::ids::{FrameworkId, OfferId, TaskId, Ticket};
use futures::{Stream, StreamExt};
use prost::Message as _;
use sha2::{Digest, Sha256};
use tokio::sync::{mpsc, oneshot};
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Channel;
use tonic::{Request, Response, Status};

use super::forward::{Place, forwarded, lost, name_leader};
use super::{CALL_BYTES, MESSAGE_BYTES, Services, accepted, check_protocol, malformed, refused};
use crate::leader::{Answer, Decline, HeldFilter, Input, Reconcile, Subscription};
use crate::links::LINK_MESSAGES;
use crate::replica::{Message, wall_ms};

type Events = Pin<Box<dyn Stream<Item = Result<v1::Event, Status>> + Send>>;

/// How long what was declined is not offered again unless the framework says otherwise, in
/// milliseconds (Mesos' default).
const FILTER_MS: u64 = 5_000;

fn client(channel: Channel) -> SchedulerClient<Channel> {
    SchedulerClient::new(channel).max_decoding_message_size(MESSAGE_BYTES)
}

macro_rules! routed {
    ($self:ident, $request:ident, $method:ident, $local:ident) => {
        $self
            .route(
                $request,
                |message| $self.$local(message),
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
        match self.place(request.metadata()).await? {
            Place::Here => {
                let mut response = Response::new(self.subscribe_here(request.into_inner()).await?);
                name_leader(response.metadata_mut(), &self.desk.own_address);
                Ok(response)
            }
            Place::There(channel, address) => {
                let stream = client(channel)
                    .subscribe(forwarded(request.into_inner()))
                    .await
                    .map_err(|status| lost(status, &address))?
                    .into_inner();
                let leader = address.clone();
                let stream = stream.map(move |event| event.map_err(|status| lost(status, &leader)));
                let mut response: Response<Events> = Response::new(Box::pin(stream));
                name_leader(response.metadata_mut(), &address);
                Ok(response)
            }
        }
    }

    async fn accept(
        &self,
        request: Request<v1::AcceptRequest>,
    ) -> Result<Response<v1::AcceptReply>, Status> {
        routed!(self, request, accept, accept_here)
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
    async fn subscribe_here(&self, wire: v1::SubscribeRequest) -> Result<Events, Status> {
        check_protocol(wire.protocol.as_ref())?;
        let subscription = subscription(wire).map_err(|why| malformed(&why))?;
        let link = self.desk.new_link();
        let (sender, receiver) = mpsc::channel(LINK_MESSAGES);
        self.desk.send(Message::FrameworkLink(link, sender)).await?;
        self.desk
            .send(Message::Input(Input::Subscribe {
                link,
                subscription: Box::new(subscription),
            }))
            .await?;
        // The stream is dropped with its connection; that drops the guard.
        let (guard, dropped) = oneshot::channel::<()>();
        let desk = self.desk.clone();
        self.tasks.spawn(async move {
            let _ = dropped.await;
            let _ = desk
                .send(Message::Input(Input::FrameworkClosed { link }))
                .await;
        });
        let address = self.desk.own_address.clone();
        let events = ReceiverStream::new(receiver).map(move |mut event| {
            let _held = &guard;
            if let Some(v1::event::Event::Subscribed(subscribed)) = &mut event.event {
                subscribed.leader_address.clone_from(&address);
            }
            Ok(event)
        });
        Ok(Box::pin(events))
    }

    async fn accept_here(&self, wire: v1::AcceptRequest) -> Result<v1::AcceptReply, Status> {
        bounded(wire.encoded_len())?;
        let filter_ms = wire.filter_ms.unwrap_or(FILTER_MS);
        let (action, tokens) = accept(wire.offers, wire.operations, wire.all_or_nothing)
            .map_err(|why| malformed(&why))?;
        let (revision, refused) = self.call(wire.call, action, tokens, filter_ms).await?;
        let refused = refused.into_iter().map(|one| v1::Refused {
            position: one.position,
            message: one.message,
            code: one.code.to_owned(),
        });
        Ok(v1::AcceptReply {
            revision,
            refused: refused.collect(),
        })
    }

    async fn decline_here(&self, wire: v1::DeclineRequest) -> Result<v1::DeclineReply, Status> {
        let offers = wire
            .offer_ids
            .iter()
            .map(|offer| convert::id::<OfferId>("offer_ids", offer))
            .collect::<Result<_, _>>();
        let cut = |text: String| text.chars().take(200).collect::<String>();
        let decline = Decline {
            framework: framework(&wire.framework_id)?,
            session: wire.session,
            offers: offers.map_err(|why| malformed(&why))?,
            filter_ms: wire.filter_ms.unwrap_or(FILTER_MS),
            reason: (cut(wire.reason_code), cut(wire.reason_text)),
        };
        accepted(
            self.desk
                .ask(move |request| Input::Decline { request, decline })
                .await?,
        )?;
        Ok(v1::DeclineReply {})
    }

    async fn kill_here(&self, wire: v1::KillRequest) -> Result<v1::KillReply, Status> {
        let action = CallAction::Kill {
            task: task(&wire.task_id)?,
            grace_ms: wire.grace_ms,
        };
        let (revision, _) = self.call(wire.call, action, Vec::new(), 0).await?;
        Ok(v1::KillReply { revision })
    }

    async fn acknowledge_here(
        &self,
        wire: v1::AcknowledgeRequest,
    ) -> Result<v1::AcknowledgeReply, Status> {
        bounded(wire.encoded_len())?;
        let updates = wire.acknowledgements.into_iter().map(|one| {
            let revision = one.revision.ok_or_else(|| {
                malformed(&Malformed::new(
                    "acknowledgements.revision",
                    "it is missing",
                ))
            })?;
            Ok((task(&one.task_id)?, convert::revision_from(Some(revision))))
        });
        let acknowledge = Acknowledge {
            framework: framework(&wire.framework_id)?,
            session: wire.session,
            updates: updates.collect::<Result<_, Status>>()?,
        };
        accepted(
            self.desk
                .ask(move |request| Input::Acknowledge {
                    request,
                    acknowledge,
                })
                .await?,
        )?;
        Ok(v1::AcknowledgeReply {})
    }

    async fn reconcile_here(
        &self,
        wire: v1::ReconcileRequest,
    ) -> Result<v1::ReconcileReply, Status> {
        let reconcile = Reconcile {
            framework: framework(&wire.framework_id)?,
            session: wire.session,
            tasks: wire
                .task_ids
                .iter()
                .map(|id| task(id))
                .collect::<Result<_, _>>()?,
            next_number: wire.next_number,
        };
        match accepted(
            self.desk
                .ask(move |request| Input::Reconcile { request, reconcile })
                .await?,
        )? {
            Answer::Reconciled(reply) => Ok(reply),
            other => Err(Status::internal(format!(
                "an answer of another kind: {other:?}"
            ))),
        }
    }

    async fn suppress_here(&self, wire: v1::SuppressRequest) -> Result<v1::SuppressReply, Status> {
        let roles = convert::roles("roles", &wire.roles).map_err(|why| malformed(&why))?;
        let (revision, _) = self
            .call(wire.call, CallAction::Suppress(roles), Vec::new(), 0)
            .await?;
        Ok(v1::SuppressReply { revision })
    }

    async fn revive_here(&self, wire: v1::ReviveRequest) -> Result<v1::ReviveReply, Status> {
        let roles = convert::roles("roles", &wire.roles).map_err(|why| malformed(&why))?;
        let (revision, _) = self
            .call(wire.call, CallAction::Revive(roles), Vec::new(), 0)
            .await?;
        Ok(v1::ReviveReply { revision })
    }

    async fn update_framework_here(
        &self,
        wire: v1::UpdateFrameworkRequest,
    ) -> Result<v1::UpdateFrameworkReply, Status> {
        let info = wire
            .info
            .ok_or_else(|| malformed(&Malformed::new("info", "it is missing")))?;
        let info = convert::framework_info_from(info).map_err(|why| malformed(&why))?;
        let (revision, _) = self
            .call(wire.call, CallAction::Update(info), Vec::new(), 0)
            .await?;
        Ok(v1::UpdateFrameworkReply { revision })
    }

    async fn teardown_here(&self, wire: v1::TeardownRequest) -> Result<v1::TeardownReply, Status> {
        let (revision, _) = self
            .call(wire.call, CallAction::Teardown, Vec::new(), 0)
            .await?;
        Ok(v1::TeardownReply { revision })
    }

    async fn call(
        &self,
        id: Option<v1::CallId>,
        action: CallAction,
        tokens: Vec<Vec<u8>>,
        filter_ms: u64,
    ) -> Result<(Option<v1::Revision>, Vec<crate::leader::Refused>), Status> {
        let id = id.ok_or_else(|| {
            malformed(&Malformed::new(
                "call",
                "number your call: framework_id, session, number",
            ))
        })?;
        if id.number == 0 || id.session == 0 {
            return Err(malformed(&Malformed::new(
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
            hash: hash(&call),
            ..call
        });
        match accepted(
            self.desk
                .ask(move |request| Input::Call {
                    request,
                    call,
                    tokens,
                    filter_ms,
                })
                .await?,
        )? {
            Answer::Called { revision, refused } => {
                Ok((Some(convert::revision(revision)), refused))
            }
            other => Err(Status::internal(format!(
                "an answer of another kind: {other:?}"
            ))),
        }
    }
}

/// The same for every repeat of a request: what changes between repeats is left out.
fn hash(call: &Call) -> u64 {
    let mut same = Call {
        lowest_unanswered: 0,
        ..call.clone()
    };
    if let CallAction::Accept(accept) = &mut same.action {
        accept.wall_ms = 0;
    }
    let bytes = encode::command(&Proposed {
        ticket: Ticket::default(),
        command: Command::Call(same),
    });
    let digest = Sha256::digest(bytes);
    u64::from_be_bytes(digest[..8].try_into().expect("SHA-256 has 32 bytes"))
}

fn accept(
    offers: Vec<v1::HeldOffer>,
    operations: Vec<v1::Operation>,
    all_or_nothing: bool,
) -> Result<(CallAction, Vec<Vec<u8>>), Malformed> {
    let mut promises = Vec::with_capacity(offers.len());
    let mut tokens = Vec::with_capacity(offers.len());
    for (at, held) in offers.iter().enumerate() {
        let (promise, token) =
            convert::promise(held).map_err(|why| why.inside(&format!("offers[{at}]")))?;
        promises.push(promise);
        tokens.push(token);
    }
    let mut launches = Vec::new();
    for (at, operation) in operations.into_iter().enumerate() {
        let field = format!("operations[{at}]");
        let Some(v1::operation::Operation::Launch(launch)) = operation.operation else {
            return Err(Malformed::new(field, "it is empty, or of a newer release"));
        };
        for spec in launch.tasks {
            let name = spec.task_id.clone();
            launches.push(
                convert::spec_from(spec)
                    .map_err(|why| why.inside(&format!("{field}.launch.tasks[{name}]")))?,
            );
        }
    }
    let accept = Accept {
        offers: promises,
        launches,
        all_or_nothing,
        wall_ms: wall_ms(),
    };
    Ok((CallAction::Accept(accept), tokens))
}

fn subscription(wire: v1::SubscribeRequest) -> Result<Subscription, Malformed> {
    let info = wire
        .info
        .ok_or_else(|| Malformed::new("info", "it is missing"))?;
    let held = wire.held.iter().enumerate();
    let held = held
        .map(|(at, held)| convert::promise(held).map_err(|why| why.inside(&format!("held[{at}]"))));
    let filters = wire.filters.iter().map(|filter| {
        let role = convert::roles("filters.role", std::slice::from_ref(&filter.role))?;
        Ok(HeldFilter {
            agent: convert::id("filters.agent_id", &filter.agent_id)?,
            role: role.into_iter().next().unwrap_or_default(),
            resources: convert::resources_from("filters.resources", &filter.resources)?,
            remaining_ms: filter.remaining_ms,
        })
    });
    Ok(Subscription {
        cluster: if wire.cluster_id.is_empty() {
            None
        } else {
            Some(convert::id("cluster_id", &wire.cluster_id)?)
        },
        framework: if wire.framework_id.is_empty() {
            None
        } else {
            Some(convert::id("framework_id", &wire.framework_id)?)
        },
        session: wire.session,
        info: convert::framework_info_from(info)?,
        held: held.collect::<Result<_, Malformed>>()?,
        filters: filters.collect::<Result<_, Malformed>>()?,
    })
}

fn framework(text: &str) -> Result<FrameworkId, Status> {
    convert::id("framework_id", text).map_err(|why| malformed(&why))
}

fn task(text: &str) -> Result<TaskId, Status> {
    TaskId::new(text).map_err(|why| malformed(&Malformed::new("task_id", why.to_string())))
}

fn bounded(bytes: usize) -> Result<(), Status> {
    if bytes <= CALL_BYTES {
        return Ok(());
    }
    let text = format!(
        "the call takes {bytes} bytes; at most {CALL_BYTES}: split it, or use uris for data"
    );
    Err(refused("invalid", &text))
}
