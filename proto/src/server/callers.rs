//! Which callers may reach into tasks: run commands in them, attach to them, read their files.
//!
//! A server has no other evidence of who calls than the connection. Of one from its own host, and network namespace, the
//! kernel knows the user who opened it; of another one nobody knows anything, so those are let in only if the operator
//! opens the part to whoever reaches the address.

mod owner;
mod table;

use std::collections::BTreeSet;
use std::io;
use std::sync::Arc;

use axum::Router;
use axum::extract::{Request, State};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse as _, Response};
use http::StatusCode;
use metrics::counter;

use crate::transport::Ends;

/// Who may use a part of an API. Cheap to clone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Callers {
    /// Whoever reaches the server, from wherever.
    Everybody,
    /// These users of the server's host, by number.
    Users(Arc<BTreeSet<u32>>),
}

/// Who may use which part of an API.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Access {
    /// Who may run commands in tasks, and attach to them.
    pub exec: Callers,
    /// Who may read the files of tasks.
    pub files: Callers,
}

impl Access {
    /// For the same users.
    pub fn of_users(named: impl IntoIterator<Item = u32>) -> Self {
        let users = Callers::users(named);
        Self {
            exec: users.clone(),
            files: users,
        }
    }
}

impl Default for Access {
    /// For nobody but root and the user of this process.
    fn default() -> Self {
        Self::of_users([])
    }
}

/// A part of an API that reaches into tasks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    /// Commands in tasks, and their own input and output.
    Exec,
    /// What tasks have written.
    Files,
}

/// Why a caller is refused.
#[derive(Debug, thiserror::Error)]
enum Stranger {
    #[error("callers that are not on this host, since nobody knows who they are")]
    Elsewhere,
    #[error("user {0} of this host")]
    User(u32),
    #[error("this caller, since the kernel does not say whose connection it is: {0}")]
    Unknown(io::Error),
}

/// What the middleware needs.
#[derive(Debug, Clone)]
struct Guard {
    callers: Callers,
    part: Part,
    server: &'static str,
}

/// Knows callers by their numbers on this host even if this process enters a user namespace later. Call it before.
pub fn keep_knowing() {
    owner::keep();
    table::keep();
}

impl Callers {
    /// Root, the user of this process and those users: the kernel has no secrets of one before the first two.
    pub fn users(named: impl IntoIterator<Item = u32>) -> Self {
        let own = [0, nix::unistd::geteuid().as_raw()];
        Self::Users(Arc::new(own.into_iter().chain(named).collect()))
    }

    /// Refuses other callers of `router` with 403, with a body of JSON that has `code` and `message`. `server` is what it
    /// calls itself, as `agent`. Routes that are added later are not guarded.
    pub fn guard<S: Clone + Send + Sync + 'static>(
        self,
        part: Part,
        server: &'static str,
        router: Router<S>,
    ) -> Router<S> {
        let guard = Guard {
            callers: self,
            part,
            server,
        };
        router.route_layer(middleware::from_fn_with_state(guard, guarded))
    }

    fn judge(&self, ends: Option<Ends>) -> Result<(), Stranger> {
        let Self::Users(users) = self else {
            return Ok(());
        };
        let ends = ends.ok_or(Stranger::Elsewhere)?;
        let (end, other) = (ends.peer, ends.own);
        let owner = match owner::of(end, other) {
            Err(why) if why.kind() == io::ErrorKind::Unsupported => table::of(end, other),
            answered => answered,
        };
        match owner {
            Ok(user) if users.contains(&user) => Ok(()),
            Ok(user) => Err(Stranger::User(user)),
            // No socket of this host is its other end.
            Err(why)
                if why.kind() == io::ErrorKind::NotFound
                    && !ends.peer.ip().to_canonical().is_loopback() =>
            {
                Err(Stranger::Elsewhere)
            }
            Err(why) => Err(Stranger::Unknown(why)),
        }
    }
}

impl Part {
    /// Its name, with its verb, at the beginning of a sentence.
    fn is_closed(self) -> &'static str {
        match self {
            Self::Exec => "exec and attach are closed",
            Self::Files => "files of tasks are closed",
        }
    }

    fn flag(self) -> &'static str {
        match self {
            Self::Exec => "--allow-exec",
            Self::Files => "--allow-files",
        }
    }
}

impl Guard {
    fn sentence(&self, stranger: &Stranger) -> String {
        let (closed, server) = (self.part.is_closed(), self.server);
        let flag = self.part.flag();
        let remedy = match stranger {
            Stranger::User(user) => format!(
                "root and the {server}'s own user may; start it with --api-user {user} to let this one in, \
                 or with {flag} to let in whoever reaches it"
            ),
            Stranger::Elsewhere | Stranger::Unknown(_) => {
                format!("to let in whoever reaches it, start it with {flag}")
            }
        };
        format!("{closed} on this {server} to {stranger}; {remedy}")
    }
}

async fn guarded(State(guard): State<Guard>, request: Request, next: Next) -> Response {
    let ends = request.extensions().get::<Ends>().copied();
    let Err(stranger) = guard.callers.judge(ends) else {
        return next.run(request).await;
    };
    counter!("argosy_requests_refused_total", "reason" => "caller").increment(1);
    let message = guard.sentence(&stranger);
    tracing::debug!(?ends, message, "a request is refused for its caller");
    let body = serde_json::json!({ "code": "PermissionDenied", "message": message });
    (StatusCode::FORBIDDEN, axum::Json(body)).into_response()
}

#[cfg(test)]
mod tests;
