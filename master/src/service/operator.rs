//! `argosy.v1.Operator`: reading the cluster, and changing it in batches.

use std::pin::Pin;
use std::sync::Arc;

use argosy_proto::convert;
use argosy_proto::v1::operator_client::OperatorClient;
use argosy_proto::v1::operator_server::Operator;
use argosy_proto::{trace, v1};
use argosy_state::access::Action;
use argosy_state::actor::Actor;
use argosy_state::ids::{AgentId, NodeId};
use futures::{Stream, StreamExt};
use prost::Message;
use tokio::sync::Semaphore;
use tonic::metadata::MetadataMap;
use tonic::transport::Channel;
use tonic::{Extensions, Request, Response, Status, Streaming};

use super::actor::actor;
use super::forward::{CallRoute, forwarded, readable};
use super::membership::unchanged;
use super::operations::operate;
use super::peers::ConnectionUse;
use super::permits::confirmed;
use super::rate_limit::with_flow_control;
use super::records::{cluster, one_agent, one_framework, one_task};
use super::snapshots::SnapshotBlocks;
use super::status_codes::correct_status;
use super::{
    ListKind, MESSAGE_BYTES, Services, accepted, access, bounded, here, malformed, secrets, views,
    watch,
};
use crate::access::{Object, Reader};
use crate::leader::Input;
use crate::leader_reply::LeaderReply;
use crate::principal_limits::{self, within};

type WatchEvents = Pin<Box<dyn Stream<Item = Result<v1::WatchEvent, Status>> + Send>>;
type WriteReplies = Pin<Box<dyn Stream<Item = Result<v1::WriteReply, Status>> + Send>>;

/// Maximum number of batches of one stream in flight: more wait in the connection.
const BATCHES: usize = 64;

fn client(channel: Channel) -> OperatorClient<Channel> {
    OperatorClient::new(channel).max_decoding_message_size(MESSAGE_BYTES)
}

macro_rules! routed {
    ($self:ident, $request:ident, $method:ident, $local:expr) => {
        $self
            .route($request, $local, |channel, request| async move {
                client(channel).$method(request).await
            })
            .await
    };
}

/// Returns a page of a list as a message, for readers in this process.
macro_rules! listed {
    ($self:ident, $request:ident, $list:ident) => {{
        let page = $self.list(ListKind::$list, $request).await?;
        let (metadata, page, extensions) = page.into_parts();
        Ok(Response::from_parts(metadata, page.decoded()?, extensions))
    }};
}

#[tonic::async_trait]
impl Operator for Services {
    type WriteStream = WriteReplies;
    type WatchStream = WatchEvents;
    type SaveSnapshotStream = SnapshotBlocks;

    async fn write(
        &self,
        request: Request<Streaming<v1::WriteBatch>>,
    ) -> Result<Response<WriteReplies>, Status> {
        let (metadata, extensions) = (request.metadata(), request.extensions());
        let (place, actor) = self
            .call_route(metadata, extensions, ConnectionUse::Streams)
            .await?;
        match place {
            CallRoute::Local => {
                let services = self.clone();
                let (context, account) = (trace::current(), principal_limits::current());
                let replies = request.into_inner().map(move |batch| {
                    let (services, actor) = (services.clone(), actor.clone());
                    let written = async move {
                        let batch = batch.map_err(correct_status)?;
                        services.write_here(batch, actor).await
                    };
                    trace::scope(context, within(account.clone(), written))
                });
                Ok(Response::new(Box::pin(replies.buffered(BATCHES))))
            }
            CallRoute::Forward(lease, address, caller) => {
                let (batches, unreadable) = readable(request.into_inner());
                // As many replies as at the leader wait here for a client that does not read them.
                let room = Arc::new(Semaphore::new(BATCHES));
                let given_back = Arc::clone(&room);
                let mut client = client(lease.channel());
                let batches = forwarded(with_flow_control(batches, room), &caller);
                let opened = async move { client.write(batches).await };
                let replies = self.forward_stream(opened, &address, lease).await?;
                let replies = replies.inspect(move |_| given_back.add_permits(1)).boxed();
                Ok(Response::new(unreadable.after(replies)))
            }
        }
    }

    async fn write_one(
        &self,
        request: Request<v1::WriteBatch>,
    ) -> Result<Response<v1::WriteReply>, Status> {
        routed!(self, request, write_one, |batch, actor| self
            .write_here(batch, actor))
    }

    async fn get_cluster(
        &self,
        request: Request<v1::GetClusterRequest>,
    ) -> Result<Response<v1::Cluster>, Status> {
        let reader = self.reader(request.metadata(), request.extensions())?;
        let consistency = request.into_inner().consistency;
        Ok(Response::new(
            cluster(&self.owner, reader, consistency).await?,
        ))
    }

    async fn list_agents(
        &self,
        request: Request<v1::ListRequest>,
    ) -> Result<Response<v1::AgentPage>, Status> {
        listed!(self, request, Agents)
    }

    async fn get_agent(
        &self,
        request: Request<v1::GetRequest>,
    ) -> Result<Response<v1::Agent>, Status> {
        if is_local(request.get_ref().consistency) {
            let reader = self.reader(request.metadata(), request.extensions())?;
            return Ok(Response::new(
                one_agent(&self.owner, reader, request.into_inner()).await?,
            ));
        }
        routed!(self, request, get_agent, |wanted, actor| one_agent(
            &self.owner,
            self.owner.reader(actor),
            wanted
        ))
    }

    async fn list_frameworks(
        &self,
        request: Request<v1::ListRequest>,
    ) -> Result<Response<v1::FrameworkPage>, Status> {
        listed!(self, request, Frameworks)
    }

    async fn get_framework(
        &self,
        request: Request<v1::GetRequest>,
    ) -> Result<Response<v1::Framework>, Status> {
        if is_local(request.get_ref().consistency) {
            let reader = self.reader(request.metadata(), request.extensions())?;
            return Ok(Response::new(
                one_framework(&self.owner, reader, request.into_inner()).await?,
            ));
        }
        routed!(self, request, get_framework, |wanted, actor| one_framework(
            &self.owner,
            self.owner.reader(actor),
            wanted
        ))
    }

    async fn list_tasks(
        &self,
        request: Request<v1::ListRequest>,
    ) -> Result<Response<v1::TaskPage>, Status> {
        listed!(self, request, Tasks)
    }

    async fn get_task(
        &self,
        request: Request<v1::GetRequest>,
    ) -> Result<Response<v1::Task>, Status> {
        let reader = self.reader(request.metadata(), request.extensions())?;
        Ok(Response::new(
            one_task(
                &self.owner,
                (reader, Action::ViewTask),
                request.into_inner(),
            )
            .await?,
        ))
    }

    async fn list_offers(
        &self,
        request: Request<v1::ListRequest>,
    ) -> Result<Response<v1::OfferPage>, Status> {
        listed!(self, request, Offers)
    }

    async fn explain(
        &self,
        request: Request<v1::ExplainRequest>,
    ) -> Result<Response<v1::Explanation>, Status> {
        routed!(self, request, explain, |question, actor| self
            .explain_here(question, self.owner.reader(actor)))
    }

    async fn join_master(
        &self,
        request: Request<v1::JoinMasterRequest>,
    ) -> Result<Response<v1::MembershipReply>, Status> {
        self.permit_membership(&request, Action::ChangeMasters)
            .await?;
        let address = request.into_inner().raft_address;
        self.owner
            .node
            .join(&address)
            .await
            .map_err(|why| unchanged(&why))?;
        Ok(Response::new(self.members()))
    }

    async fn remove_master(
        &self,
        request: Request<v1::RemoveMasterRequest>,
    ) -> Result<Response<v1::MembershipReply>, Status> {
        self.permit_membership(&request, Action::ChangeMasters)
            .await?;
        let id: NodeId =
            convert::id("node_id", &request.into_inner().node_id).map_err(|why| malformed(&why))?;
        self.owner
            .node
            .remove(id.0)
            .await
            .map_err(|why| unchanged(&why))?;
        Ok(Response::new(self.members()))
    }

    async fn transfer_leader(
        &self,
        request: Request<v1::TransferLeaderRequest>,
    ) -> Result<Response<v1::MembershipReply>, Status> {
        self.permit_membership(&request, Action::TransferLeader)
            .await?;
        let wanted = request.into_inner().node_id;
        let id: Option<NodeId> = if wanted.is_empty() {
            None
        } else {
            Some(convert::id("node_id", &wanted).map_err(|why| malformed(&why))?)
        };
        self.owner
            .node
            .transfer(id.map(|id| id.0))
            .await
            .map_err(|why| unchanged(&why))?;
        Ok(Response::new(self.members()))
    }

    async fn raise_level(
        &self,
        request: Request<v1::RaiseLevelRequest>,
    ) -> Result<Response<v1::RaiseLevelReply>, Status> {
        routed!(self, request, raise_level, |wanted, actor| self
            .raise_level_here(wanted, actor))
    }

    async fn set_log_filter(
        &self,
        request: Request<v1::SetLogFilterRequest>,
    ) -> Result<Response<v1::LogFilter>, Status> {
        let actor = actor(request.metadata(), request.extensions())?;
        let agent = convert::id::<AgentId>("agent_id", &request.get_ref().agent_id).ok();
        let object = agent.map_or(Object::CLUSTER, Object::agent);
        here(&self.owner, &actor, Action::SetLogFilter, &object)?;
        let changed = self.change_log_filter(request.into_inner(), &actor).await;
        changed.map(Response::new)
    }

    async fn get_policy(
        &self,
        request: Request<v1::GetPolicyRequest>,
    ) -> Result<Response<v1::Policy>, Status> {
        let reader = self.reader(request.metadata(), request.extensions())?;
        let policy = access::policy(&self.owner, reader, request.into_inner()).await?;
        Ok(Response::new(policy))
    }

    async fn list_tokens(
        &self,
        request: Request<v1::ListRequest>,
    ) -> Result<Response<v1::TokenPage>, Status> {
        let reader = self.reader(request.metadata(), request.extensions())?;
        let page = access::tokens(&self.owner, reader, request.into_inner()).await?;
        Ok(Response::new(page))
    }

    async fn list_revoked_keys(
        &self,
        request: Request<v1::ListRequest>,
    ) -> Result<Response<v1::RevokedKeyPage>, Status> {
        let reader = self.reader(request.metadata(), request.extensions())?;
        let page = access::revoked_keys(&self.owner, reader, request.into_inner()).await?;
        Ok(Response::new(page))
    }

    async fn list_rate_limits(
        &self,
        request: Request<v1::ListRequest>,
    ) -> Result<Response<v1::SubjectLimitPage>, Status> {
        let reader = self.reader(request.metadata(), request.extensions())?;
        let page = access::rate_limits(&self.owner, reader, request.into_inner()).await?;
        Ok(Response::new(page))
    }

    async fn list_secrets(
        &self,
        request: Request<v1::ListSecretsRequest>,
    ) -> Result<Response<v1::SecretList>, Status> {
        let reader = self.reader(request.metadata(), request.extensions())?;
        let listed = self.secrets(reader, request.into_inner()).await?;
        Ok(Response::new(listed))
    }

    async fn issue_tickets(
        &self,
        request: Request<v1::IssueTicketsRequest>,
    ) -> Result<Response<v1::IssuedTickets>, Status> {
        self.issue(request).await.map(Response::new)
    }

    async fn save_snapshot(
        &self,
        request: Request<v1::SaveSnapshotRequest>,
    ) -> Result<Response<SnapshotBlocks>, Status> {
        self.begin_save(request).await.map(Response::new)
    }

    async fn watch(
        &self,
        request: Request<v1::WatchRequest>,
    ) -> Result<Response<WatchEvents>, Status> {
        let items = watch::stream(self.subscribe(request).await?);
        let events = items.map(|item| watch::decoded(item?.bytes()));
        Ok(Response::new(events.boxed()))
    }
}

impl Services {
    /// Returns the reader on whose behalf a call is served.
    fn reader(&self, metadata: &MetadataMap, extensions: &Extensions) -> Result<Reader, Status> {
        Ok(self.owner.reader(actor(metadata, extensions)?))
    }

    /// Decides about a call that goes to the leader over the Raft port, without its caller.
    async fn permit_membership<T>(
        &self,
        request: &Request<T>,
        action: Action,
    ) -> Result<(), Status> {
        if self.owner.enforces_access {
            let caller = (request.metadata(), request.extensions());
            confirmed(&self.owner, caller, action).await?;
        }
        Ok(())
    }

    fn members(&self) -> v1::MembershipReply {
        v1::MembershipReply {
            masters: views::masters(&self.owner.node),
        }
    }

    async fn write_here(
        &self,
        mut batch: v1::WriteBatch,
        actor: Actor,
    ) -> Result<v1::WriteReply, Status> {
        let bytes = bounded(batch.encoded_len())?;
        let values = secrets::take_values(&mut batch);
        let mut operate = operate(batch).map_err(|why| malformed(&why))?;
        operate.wall_ms = self.owner.node.wall_clock().now_ms();
        self.seal(&mut operate, values, &actor).await?;
        match accepted(
            self.owner
                .ask_sized(bytes, move |request| Input::Operate {
                    request,
                    actor,
                    operate,
                })
                .await?,
        )? {
            LeaderReply::Operated { revision, outcomes } => {
                let outcomes = outcomes.into_iter().map(|outcome| match outcome {
                    Ok(()) => v1::WriteOutcome {
                        done: true,
                        ..Default::default()
                    },
                    Err((code, message)) => v1::WriteOutcome {
                        done: false,
                        code: code.to_owned(),
                        message,
                    },
                });
                Ok(v1::WriteReply {
                    revision: Some(convert::revision(revision)),
                    outcomes: outcomes.collect(),
                })
            }
            other => Err(Status::internal(format!(
                "an answer of another kind: {other:?}"
            ))),
        }
    }
}

/// Returns whether the called master answers from its own state. Only the leader knows which agents
/// and frameworks are connected.
pub(super) fn is_local(consistency: i32) -> bool {
    consistency == i32::from(v1::Consistency::Local)
}
