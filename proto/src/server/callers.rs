//! The callers that may access tasks: run commands in them, attach to them, read their files.
//!
//! The connection is a server's only evidence of the caller's identity. Masters and operators that
//! the transport has authenticated are accepted. If the connection comes from the server's host and
//! network namespace, the kernel knows the user who opened it. Other callers cannot be identified,
//! and are accepted only if the operator opens the part to every caller that reaches the address.

mod owner;
mod table;

use std::collections::BTreeSet;
use std::io;
use std::sync::Arc;

use argosy_state::actor::PrincipalKind;
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
}

impl ApiAccess {
    /// Returns access to all parts for the same users.
    pub fn of_users(named: impl IntoIterator<Item = u32>) -> Self {
        let users = AllowedCallers::users(named);
        Self {
            exec: users.clone(),
            files: users,
        }
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
    server: &'static str,
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

    /// Rejects other callers of `router` with 403, and a JSON body with `code` and `message`.
    /// `server` is the name of the server in messages, as `agent`. Routes that are added later are
    /// not guarded.
    pub fn guard<S: Clone + Send + Sync + 'static>(
        self,
        part: ApiPart,
        server: &'static str,
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
        }
    }

    fn flag(self) -> &'static str {
        match self {
            Self::Exec => "--allow-exec",
            Self::Files => "--allow-files",
            Self::LogLevel => "--allow-exec (which lets it run commands in tasks, too)",
        }
    }
}

impl CallerCheck {
    fn message(&self, rejection: &CallerRejection) -> String {
        let (closed, server) = (self.part.is_closed(), self.server);
        let flag = self.part.flag();
        let remedy = match rejection {
            CallerRejection::User(user) => format!(
                "root and the {server}'s own user may; start it with --api-user {user} to let this one in, \
                 or with {flag} to allow every caller that reaches it"
            ),
            CallerRejection::Remote | CallerRejection::Unknown(_) => {
                format!(
                    "with TLS, an operator's certificate is enough; to allow every caller that reaches it, start it with {flag}"
                )
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

/// Returns whether the proven identity of a peer is enough: a master has checked the callers whose
/// requests it forwards.
fn is_trusted(peer: Option<&PeerIdentity>) -> bool {
    let principal = peer.and_then(PeerIdentity::principal);
    principal.is_some_and(|principal| match principal.kind {
        PrincipalKind::Master | PrincipalKind::Operator => true,
        PrincipalKind::Agent | PrincipalKind::Framework => false,
    })
}

async fn guarded(State(guard): State<CallerCheck>, request: Request, next: Next) -> Response {
    let mut used = Audit::begin_use(&request, guard.part);
    let accepted = match is_trusted(request.extensions().get()) {
        true => Ok(None),
        false => guard.callers.check(request.extensions().get().copied()),
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
