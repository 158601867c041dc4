//! The callers that may access tasks: run commands in them, attach to them, read their files.
//!
//! The connection is a server's only evidence of the caller's identity. Masters that the transport
//! has authenticated are accepted, and by masters operators too: agents know no rules, so operators
//! use them through masters, or with a ticket of one. If the connection comes from the server's
//! host and network namespace, the kernel knows the user who opened it. Other callers cannot be
//! identified, and are accepted only if the operator opens the part to every caller that reaches
//! the address.

mod owner;
mod table;

use std::collections::BTreeSet;
use std::fmt;
use std::io;
use std::sync::Arc;

use argosy_state::actor::{Actor, PrincipalKind};
use axum::Router;
use axum::extract::{Request, State};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse as _, Response};
use http::StatusCode;
use metrics::counter;

use super::audit::Audit;
use crate::transport::{ConnectionAddresses, PeerIdentity};

/// The callers that may use a part of an API. Cheap to clone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AllowedCallers {
    /// All callers that reach the server, from any address.
    All,
    /// These users of the server's host, by number.
    Users(Arc<BTreeSet<u32>>),
}

/// The callers of each part of an API.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ApiAccess {
    /// The callers that may run commands in tasks, and attach to them.
    pub exec: AllowedCallers,
    /// The callers that may read the files of tasks.
    pub files: AllowedCallers,
    /// The callers that may see the state of an agent. Masters do not use it.
    pub status: AllowedCallers,
}

impl ApiAccess {
    /// Returns access to tasks for the same users. The state of an agent is open.
    pub fn of_users(named: impl IntoIterator<Item = u32>) -> Self {
        let users = AllowedCallers::users(named);
        Self {
            exec: users.clone(),
            files: users,
            status: AllowedCallers::All,
        }
    }

    /// Checks that a caller of a master may use a part of tasks, through the master or with its
    /// ticket.
    ///
    /// # Errors
    /// The reason and the remedy, as text.
    pub fn check(
        &self,
        part: ApiPart,
        peer: Option<&PeerIdentity>,
        addresses: Option<ConnectionAddresses>,
    ) -> Result<(), String> {
        let callers = match part {
            ApiPart::Exec | ApiPart::LogLevel => &self.exec,
            ApiPart::Files => &self.files,
            ApiPart::Containers | ApiPart::Status => &self.status,
        };
        let server = GuardedServer::Master;
        if server.trusts(part, peer) {
            return Ok(());
        }
        let check = CallerCheck {
            callers: callers.clone(),
            part,
            server,
        };
        let checked = callers.check(addresses).map(drop);
        checked.map_err(|rejection| check.message(&rejection))
    }
}

impl Default for ApiAccess {
    /// Returns access for only root and the user of this process.
    fn default() -> Self {
        Self::of_users([])
    }
}

/// A part of an API that accesses tasks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ApiPart {
    /// Commands in tasks, and their own input and output.
    Exec,
    /// The output files of tasks.
    Files,
    /// The log level of an agent; open to the callers that may run commands in tasks.
    LogLevel,
    /// The tasks that an agent holds, and what it prepares for them.
    Containers,
    /// The metrics of an agent and the state of its registration, which show no task. Every member
    /// of the cluster with a certificate may see them.
    Status,
}

/// The caller of a request with a ticket that this server has verified: an extension of the
/// request. The ticket is for what the request uses.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TicketHolder(pub Actor);

/// The kind of a server with guarded parts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum GuardedServer {
    Master,
    Agent,
}

/// The reason for which a caller is rejected.
#[derive(Debug, thiserror::Error)]
enum CallerRejection {
    #[error("callers that are not on this host, since they cannot be identified")]
    Remote,
    #[error("user {0} of this host")]
    User(u32),
    #[error("this caller, since the kernel does not report the user of its connection: {0}")]
    Unknown(io::Error),
}

impl CallerRejection {
    /// Returns the user of this host, if it is known.
    fn user(&self) -> Option<u32> {
        match self {
            Self::User(user) => Some(*user),
            Self::Remote | Self::Unknown(_) => None,
        }
    }
}

/// The state of the middleware.
#[derive(Debug, Clone)]
struct CallerCheck {
    callers: AllowedCallers,
    part: ApiPart,
    server: GuardedServer,
}

/// Keeps callers identifiable by their numbers on this host, even if this process enters a user
/// namespace later. Call it before that.
pub fn keep_caller_sources() {
    owner::keep_socket();
    table::keep_tables();
}

impl AllowedCallers {
    /// Returns callers that are root, the user of this process or one of those users: a process of
    /// the first two can read any secret of the server.
    pub fn users(named: impl IntoIterator<Item = u32>) -> Self {
        let own = [0, nix::unistd::geteuid().as_raw()];
        Self::Users(Arc::new(own.into_iter().chain(named).collect()))
    }

    /// Rejects other callers of a master's `router` with 403, and a JSON body with `code` and
    /// `message`. Routes that are added later are not guarded.
    pub fn guard_master<S: Clone + Send + Sync + 'static>(
        self,
        part: ApiPart,
        router: Router<S>,
    ) -> Router<S> {
        self.guard(part, GuardedServer::Master, router)
    }

    /// Does the same for an agent's `router`. Requests of a [`TicketHolder`] are accepted.
    pub fn guard_agent<S: Clone + Send + Sync + 'static>(
        self,
        part: ApiPart,
        router: Router<S>,
    ) -> Router<S> {
        self.guard(part, GuardedServer::Agent, router)
    }

    fn guard<S: Clone + Send + Sync + 'static>(
        self,
        part: ApiPart,
        server: GuardedServer,
        router: Router<S>,
    ) -> Router<S> {
        let guard = CallerCheck {
            callers: self,
            part,
            server,
        };
        router.route_layer(middleware::from_fn_with_state(guard, guarded))
    }

    /// Returns whether the peer of a connection is such a caller, by the kernel of this host.
    #[must_use]
    pub fn accept(&self, addresses: Option<ConnectionAddresses>) -> bool {
        self.check(addresses).is_ok()
    }

    /// Returns the user of an accepted caller, if the kernel had to be asked.
    fn check(
        &self,
        addresses: Option<ConnectionAddresses>,
    ) -> Result<Option<u32>, CallerRejection> {
        let Self::Users(users) = self else {
            return Ok(None);
        };
        let addresses = addresses.ok_or(CallerRejection::Remote)?;
        let (end, other) = (addresses.peer, addresses.own);
        let owner = match owner::of(end, other) {
            Err(why) if why.kind() == io::ErrorKind::Unsupported => table::of(end, other),
            answered => answered,
        };
        match owner {
            Ok(user) if users.contains(&user) => Ok(Some(user)),
            Ok(user) => Err(CallerRejection::User(user)),
            // No socket of this host is its other end.
            Err(why)
                if why.kind() == io::ErrorKind::NotFound
                    && !addresses.peer.ip().to_canonical().is_loopback() =>
            {
                Err(CallerRejection::Remote)
            }
            Err(why) => Err(CallerRejection::Unknown(why)),
        }
    }
}

impl ApiPart {
    /// Returns its name with its verb, for the start of a message.
    fn is_closed(self) -> &'static str {
        match self {
            Self::Exec => "exec and attach are closed",
            Self::Files => "files of tasks are closed",
            Self::LogLevel => "the log level is closed",
            Self::Containers => "the list of tasks is closed",
            Self::Status => "metrics and state are closed",
        }
    }

    /// Returns what opens it to every caller.
    fn opening(self) -> &'static str {
        match self {
            Self::Exec => "start it with --allow-exec",
            Self::Files => "start it with --allow-files",
            Self::LogLevel => {
                "start it with --allow-exec (which lets it run commands in tasks, too)"
            }
            Self::Containers | Self::Status => "start it without TLS",
        }
    }
}

impl fmt::Display for GuardedServer {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(match self {
            Self::Master => "master",
            Self::Agent => "agent",
        })
    }
}

impl GuardedServer {
    /// Returns whether the proven identity of a peer is enough: a master has checked the callers
    /// whose requests it forwards.
    fn trusts(self, part: ApiPart, peer: Option<&PeerIdentity>) -> bool {
        let principal = peer.and_then(PeerIdentity::principal);
        principal.is_some_and(|principal| match principal.kind {
            PrincipalKind::Master => true,
            PrincipalKind::Operator => self == Self::Master || part == ApiPart::Status,
            PrincipalKind::Agent | PrincipalKind::Framework => part == ApiPart::Status,
        })
    }

    /// Returns what a caller without a known user needs.
    fn admission(self, part: ApiPart) -> &'static str {
        match (self, part) {
            (Self::Master, _) => "with TLS, an operator's certificate is enough",
            (Self::Agent, ApiPart::Status) => {
                "with TLS, every certificate of the cluster is enough"
            }
            (Self::Agent, ApiPart::Exec | ApiPart::Files) => {
                "with TLS, use a master, which forwards the request, or a ticket of a master"
            }
            (Self::Agent, ApiPart::LogLevel | ApiPart::Containers) => {
                "with TLS, use a master, which forwards the request"
            }
        }
    }
}

impl CallerCheck {
    fn message(&self, rejection: &CallerRejection) -> String {
        let Self { part, server, .. } = self;
        let (closed, opening) = (part.is_closed(), part.opening());
        let remedy = match rejection {
            CallerRejection::User(user) => format!(
                "root and the {server}'s own user may; start it with --api-user {user} to let this one in; \
                 to allow every caller that reaches it, {opening}"
            ),
            CallerRejection::Remote | CallerRejection::Unknown(_) => {
                let admission = server.admission(*part);
                format!("{admission}; to allow every caller that reaches it, {opening}")
            }
        };
        format!("{closed} on this {server} to {rejection}; {remedy}")
    }

    fn refuse(&self, request: &Request, rejection: &CallerRejection) -> Response {
        let addresses = request.extensions().get::<ConnectionAddresses>();
        counter!("argosy_requests_refused_total", "reason" => "caller").increment(1);
        let message = self.message(rejection);
        tracing::debug!(?addresses, message, "rejecting the caller of a request");
        let body = serde_json::json!({ "code": "PermissionDenied", "message": message });
        (StatusCode::FORBIDDEN, axum::Json(body)).into_response()
    }
}

async fn guarded(State(guard): State<CallerCheck>, request: Request, next: Next) -> Response {
    let mut used = Audit::begin_use(&request, guard.part);
    let extensions = request.extensions();
    let has_ticket =
        guard.server == GuardedServer::Agent && extensions.get::<TicketHolder>().is_some();
    let accepted = match has_ticket || guard.server.trusts(guard.part, extensions.get()) {
        true => Ok(None),
        false => guard.callers.check(extensions.get().copied()),
    };
    let user = match &accepted {
        Ok(user) => *user,
        Err(rejection) => rejection.user(),
    };
    if let Some(used) = &mut used {
        used.set_user(user);
    }
    let response = match accepted {
        Ok(_) => next.run(request).await,
        Err(rejection) => guard.refuse(&request, &rejection),
    };
    match used {
        Some(used) => used.complete(response),
        None => response,
    }
}

#[cfg(test)]
mod tests;
