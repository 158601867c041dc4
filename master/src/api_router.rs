//! The layer in front of all routes: request checks, limits, and the headers of every response.
//!
//! There is one layer, because each layer of a router costs a call some microseconds: it is boxed,
//! and cloned with all layers below it.

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use argosy_proto::server::audit::{self, Audit, AuditEvent, AuditedCaller, RequestAudit};
use argosy_proto::server::call_rate::ConnectionCalls;
use argosy_proto::server::hosts::AllowedHosts;
use argosy_proto::trace::{self, TraceContext, TraceIds};
use argosy_proto::transport::PeerIdentity;
use axum::Router;
use axum::extract::Request;
use axum::http::request::Parts;
use axum::response::Response;
use tokio::time::Instant;
use tonic::Status;
use tracing::debug;

use crate::access::{Check, check_of_call};
use crate::metrics::{CALLS, CallTimes};
use crate::owner_handle::OwnerHandle;
use crate::principal_limits::LimitReached;
use crate::service::{self, ForwardedCredential, ReplyHeaders, WatchedCredential};
use crate::{http, principal_limits, reads};

/// The routes with the checks and headers that apply to each of them. Cheap to clone.
#[derive(Clone)]
pub(crate) struct ApiRouter {
    routes: Router,
    shared: Arc<Shared>,
    audit: Audit,
}

struct Shared {
    owner: OwnerHandle,
    hosts: AllowedHosts,
    reply_headers: ReplyHeaders,
    times: CallTimes,
    ids: TraceIds,
}

impl ApiRouter {
    /// `seed` is that of the ids of requests that come without one.
    pub(crate) fn new(routes: Router, handle: OwnerHandle, hosts: AllowedHosts, seed: u64) -> Self {
        let shared = Shared {
            reply_headers: ReplyHeaders::new(&handle.own_address),
            times: CallTimes::default(),
            owner: handle,
            hosts,
            ids: TraceIds::new(seed),
        };
        Self {
            routes,
            shared: Arc::new(shared),
            audit: Audit::default(),
        }
    }

    /// Returns the same routes, which record refused callers in this audit log.
    pub(crate) fn with_audit(self, audit: Audit) -> Self {
        Self { audit, ..self }
    }

    /// Answers a request with its own id, or with a new one, which every answer names.
    async fn answer(self, request: Request) -> Response {
        let given = TraceContext::of_headers(request.headers());
        let context = given.unwrap_or_else(|| self.shared.ids.next());
        let is_call = request.uri().path().starts_with(CALLS);
        let mut response = trace::scope(Some(context), self.answer_audited(request)).await;
        let headers = response.headers_mut();
        headers.insert(trace::REPLY_HEADER, context.id().header());
        if !is_call {
            http::forbid_scripts(headers);
        }
        response
    }

    async fn answer_audited(self, mut request: Request) -> Response {
        let audit = self.audit.clone();
        let Some(caller) = audit.caller(&request) else {
            return self.answer_traced(request).await;
        };
        let (uri, has_token) = (request.uri().clone(), audit::has_token(request.headers()));
        let extensions = request.extensions_mut();
        extensions.insert(audit.clone());
        extensions.insert(RequestAudit::new(audit.clone(), caller.clone()));
        let response = self.answer_traced(request).await;
        // A token names its principal only once it is verified.
        let caller = caller.identified(response.extensions().get());
        audit.record_refusal(&caller, (&uri, has_token), &response);
        record_filter_change(&audit, &caller, uri.path(), &response);
        response
    }

    async fn answer_traced(self, request: Request) -> Response {
        let Self { routes, shared, .. } = self;
        if let Some(refused) = shared.hosts.refusal(&request) {
            return refused;
        }
        let began = Instant::now();
        let uri = request.uri().clone();
        let is_write = WRITES.contains(&uri.path())
            || http::is_operation(request.method().as_str(), uri.path());
        let call = Some(uri.path()).filter(|path| path.starts_with(CALLS));
        let mut response = match service::check_versions(request.headers()) {
            Ok(()) => {
                let (mut head, body) = request.into_parts();
                let permitted = shared.permit(&mut head).await;
                let is_call = call.is_some() || http::declares_call(&head.headers);
                let peer = head.extensions.get::<PeerIdentity>().cloned();
                let mut response = match permitted {
                    Ok(credentials) => {
                        let request = Request::from_parts(head, body);
                        let response = shared.bounded(routes, request).await;
                        match is_write {
                            true => response,
                            false => credentials
                                .into_iter()
                                .fold(response, service::until_revoked),
                        }
                    }
                    Err(status) if is_call => status.into_http(),
                    Err(status) => http::problem(&status),
                };
                if let Some(peer) = peer {
                    response.extensions_mut().insert(peer);
                }
                response
            }
            Err(status) => status.into_http(),
        };
        if call.is_some() {
            response = service::correct(response);
        }
        shared
            .reply_headers
            .add_to(&shared.owner.leader_status, response.headers_mut());
        if let Some(path) = call {
            let (status, headers) = (response.status(), response.headers());
            match service::is_referral(headers) {
                true => shared.times.record_referral(path, began.elapsed()),
                false => shared.times.record(path, status, headers, began.elapsed()),
            }
        }
        debug!(
            path = uri.path(),
            status = response.status().as_u16(),
            ms = began.elapsed().as_millis(),
            "answered a request"
        );
        response
    }
}

/// The services outside of `argosy.v1` that are open to all callers: the state of this process, and
/// the public description of the protocol.
const OPEN_SERVICES: [&str; 3] = [
    "/grpc.health.v1.Health/",
    "/grpc.reflection.v1.ServerReflection/",
    "/grpc.reflection.v1alpha.ServerReflection/",
];

/// The paths of single writes, apart from those of operations. Their answers are short and do not
/// end with the credential of the caller: it may be what the caller has just revoked.
const WRITES: [&str; 2] = ["/argosy.v1.Operator/WriteOne", "/v1/write"];

/// The paths by which the log filter of this master or of an agent is changed.
const LOG_FILTER: [&str; 2] = ["/argosy.v1.Operator/SetLogFilter", "/v1/log-filter"];

/// Records a change of the log filter. The log of a refusal is that of all calls.
fn record_filter_change(audit: &Audit, caller: &AuditedCaller, path: &str, response: &Response) {
    let failed = response.headers().get("grpc-status");
    let is_ok = response.status().is_success() && failed.is_none_or(|code| code == "0");
    if is_ok && LOG_FILTER.contains(&path) {
        let what = ("set-log-filter", path);
        audit.record(caller, AuditEvent::LogFilterChanged, what, "Ok");
    }
}

impl Shared {
    /// Admits and identifies the caller of a request. Refused requests count, too: the connection
    /// is charged first, and a caller whose token proves nothing is charged as its host.
    async fn identified(&self, request: &mut Parts) -> Result<(), Status> {
        let calls = &self.owner.calls;
        if !http::is_probe(request.uri.path()) {
            let connection = request.extensions.get::<ConnectionCalls>();
            let admitted = calls.admit_connection(connection);
            admitted.map_err(LimitReached::refuse)?;
        }
        let has_token = audit::has_token(&request.headers);
        let identified = match has_token {
            true => service::identify(&self.owner, request).await,
            false => Ok(()),
        };
        if !http::is_probe(request.uri.path()) {
            let peer = request.extensions.get::<PeerIdentity>();
            let account = service::account(&request.headers, peer);
            calls.admit(&account).map_err(LimitReached::refuse)?;
        }
        identified
    }

    /// Identifies the caller of a request, and decides about it as far as that needs no record.
    /// While access is enforced, a call or a path without a row in the tables is not served.
    /// Returns the credentials with which the answer ends: that of the peer, and that of the caller
    /// whose call it forwards.
    async fn permit(&self, request: &mut Parts) -> Result<[Option<WatchedCredential>; 2], Status> {
        self.identified(request).await?;
        let is_forwarded = service::is_forwarded(&request.headers);
        let own = WatchedCredential::of(&self.owner, request.extensions.get(), is_forwarded)?;
        if let Some(own) = &own {
            request.extensions.insert(own.clone());
        }
        let forwarded = match request.uri.path().starts_with(CALLS) {
            true => {
                let peer = request.extensions.get();
                service::forwarded_credential(&self.owner, &request.headers, peer).await?
            }
            // Masters forward calls alone.
            false => None,
        };
        if let Some(forwarded) = &forwarded {
            request.extensions.insert(forwarded.clone());
        }
        let credentials = [
            own,
            forwarded.map(|ForwardedCredential(credential)| credential),
        ];
        if !self.owner.enforces_access {
            return Ok(credentials);
        }
        let path = request.uri.path();
        let check = if path.starts_with(CALLS) {
            let unknown = || Status::unimplemented(format!("no call {path}"));
            check_of_call(path).ok_or_else(unknown)?
        } else {
            match http::check_of(request.method.as_str(), path) {
                Some(check) => check,
                // The answer names the methods.
                None if http::is_known(path) => Check::Open,
                None if OPEN_SERVICES.iter().any(|open| path.starts_with(open)) => Check::Open,
                None if http::declares_call(&request.headers) => {
                    return Err(Status::unimplemented(format!("no method {path}")));
                }
                None => return Err(Status::not_found(http::no_path(path))),
            }
        };
        service::permit(&self.owner, check, &request.headers, &request.extensions)?;
        Ok(credentials)
    }

    async fn bounded(&self, mut routes: Router, request: Request) -> Response {
        if let Some(refused) = http::too_long(&request).or_else(|| http::undeclared(&request)) {
            return refused;
        }
        let extensions = request.extensions();
        let peer = extensions.get::<PeerIdentity>().cloned();
        let account = service::account(request.headers(), peer.as_ref());
        let answered = async {
            // A router is always ready.
            match tonic::codegen::Service::call(&mut routes, request).await {
                Ok(response) => response,
                Err(never) => match never {},
            }
        };
        let answered = principal_limits::within(account, answered);
        reads::bounded(&self.owner.reads, peer.as_ref(), answered).await
    }
}

impl tonic::codegen::Service<Request> for ApiRouter {
    type Response = Response;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Response, Infallible>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request) -> Self::Future {
        let front = self.clone();
        Box::pin(async move { Ok(front.answer(request).await) })
    }
}
