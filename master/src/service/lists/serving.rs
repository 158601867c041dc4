//! Lists over gRPC: pages are sent as this master or the leader encoded them.
//!
//! The generated service has these calls too; the routes here take precedence.

use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context, Poll};

use argosy_proto::v1;
use argosy_state::actor::Actor;
use axum::Router;
use axum::body::Body;
use axum::routing::any_service;
use http::uri::PathAndQuery;
use tonic::client::Grpc as Client;
use tonic::codegen::Service;
use tonic::server::{Grpc as Server, UnaryService};
use tonic::transport::Channel;
use tonic::{Request, Response, Status};

use super::page::{EncodedPage, PageClientCodec, PageServerCodec};
use super::{list_agents, list_frameworks, list_offers, list_tasks};
use crate::service::actor::actor;
use crate::service::operator::is_local;
use crate::service::{MESSAGE_BYTES, Services};

/// A list of the operator API.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ListKind {
    Agents,
    Frameworks,
    Tasks,
    Offers,
}

impl ListKind {
    const ALL: [Self; 4] = [Self::Agents, Self::Frameworks, Self::Tasks, Self::Offers];

    const fn path(self) -> &'static str {
        match self {
            Self::Agents => "/argosy.v1.Operator/ListAgents",
            Self::Frameworks => "/argosy.v1.Operator/ListFrameworks",
            Self::Tasks => "/argosy.v1.Operator/ListTasks",
            Self::Offers => "/argosy.v1.Operator/ListOffers",
        }
    }

    /// Returns whether the called master answers from its own state. Only the leader knows
    /// connections and offers.
    fn is_local(self, consistency: i32) -> bool {
        match self {
            Self::Tasks => true,
            Self::Agents | Self::Frameworks => is_local(consistency),
            Self::Offers => false,
        }
    }
}

impl Services {
    /// Returns a page of a list, from this master or from the leader.
    pub(crate) async fn list(
        &self,
        list: ListKind,
        request: Request<v1::ListRequest>,
    ) -> Result<Response<EncodedPage>, Status> {
        if list.is_local(request.get_ref().consistency) {
            let actor = actor(request.metadata(), request.extensions())?;
            let page = self.list_here(list, request.into_inner(), actor).await?;
            return Ok(Response::new(page));
        }
        let leads_here = self.owner.leader_status.borrow().is_local;
        let share = if leads_here {
            None
        } else {
            // The leader builds the page; this master holds it until its reader has it.
            let mut share = self.owner.reserve(2 * MESSAGE_BYTES, MESSAGE_BYTES).await?;
            share.finish_building();
            Some(share)
        };
        let here = |request, actor| self.list_here(list, request, actor);
        let there = |channel, request| list_there(list, channel, request);
        let page = self.route(request, here, there).await?;
        if let Some(mut share) = share {
            share.resize(2 * page.get_ref().encoded_len());
            share.attach_to_answer();
        }
        Ok(page)
    }

    pub(crate) async fn list_here(
        &self,
        list: ListKind,
        request: v1::ListRequest,
        actor: Actor,
    ) -> Result<EncodedPage, Status> {
        let reader = self.owner.reader(actor);
        match list {
            ListKind::Agents => list_agents(&self.owner, reader, request).await,
            ListKind::Frameworks => list_frameworks(&self.owner, reader, request).await,
            ListKind::Tasks => list_tasks(&self.owner, reader, request).await,
            ListKind::Offers => list_offers(&self.owner, reader, request).await,
        }
    }
}

/// Returns a page from the leader.
async fn list_there(
    list: ListKind,
    channel: Channel,
    request: Request<v1::ListRequest>,
) -> Result<Response<EncodedPage>, Status> {
    let mut client = Client::new(channel).max_decoding_message_size(MESSAGE_BYTES);
    let ready = client.ready().await;
    ready.map_err(|why| Status::from_error(Box::new(why)))?;
    let path = PathAndQuery::from_static(list.path());
    client.unary(request, path, PageClientCodec).await
}

/// One list as a service.
#[derive(Clone)]
struct ListService {
    services: Services,
    kind: ListKind,
}

impl UnaryService<v1::ListRequest> for ListService {
    type Response = EncodedPage;
    type Future = Pin<Box<dyn Future<Output = Result<Response<EncodedPage>, Status>> + Send>>;

    fn call(&mut self, request: Request<v1::ListRequest>) -> Self::Future {
        let Self {
            services,
            kind: list,
        } = self.clone();
        Box::pin(async move { services.list(list, request).await })
    }
}

impl Service<http::Request<Body>> for ListService {
    type Response = http::Response<tonic::body::Body>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Infallible>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        let lists = self.clone();
        Box::pin(async move {
            let server = Server::new(PageServerCodec);
            let mut server = server.apply_max_message_size_config(Some(MESSAGE_BYTES), None);
            Ok(server.unary(lists, request).await)
        })
    }
}

/// Returns the routes of all lists.
pub(crate) fn routes(services: &Services) -> Router {
    ListKind::ALL
        .into_iter()
        .fold(Router::new(), |router, list| {
            let services = services.clone();
            router.route(
                list.path(),
                any_service(ListService {
                    services,
                    kind: list,
                }),
            )
        })
}
