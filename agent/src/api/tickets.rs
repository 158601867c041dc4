//! Tickets of masters: a request with a ticket may use only what the ticket permits.
//!
//! A ticket is checked before the rest of the request, by the clock of this host. It is then
//! removed from the request, so that no handler and no log contains it.

use argosy_proto::clock::WallClock;
use argosy_proto::server::callers::TicketHolder;
use argosy_proto::ticket::{
    HEADER, PARAMETER, Ticket, TicketError, TicketScope, TicketUse, TicketVerb,
};
use axum::extract::{Query, Request, State};
use axum::http::header::AUTHORIZATION;
use axum::http::{HeaderMap, StatusCode, Uri};
use axum::middleware::Next;
use axum::response::{IntoResponse as _, Response};
use metrics::counter;

use crate::exec;
use crate::files;
use crate::inbox::QueryHandle;

/// The path at which a ticket may be a bearer token, because Prometheus sends no other header.
const METRICS: &str = "/metrics";

/// The state of the check.
#[derive(Clone)]
pub(crate) struct TicketCheck {
    pub(crate) queries: QueryHandle,
    pub(crate) clock: WallClock,
}

/// The reason for which a request with a ticket is rejected.
#[derive(Debug, thiserror::Error)]
enum TicketRejection {
    #[error(transparent)]
    Ticket(#[from] TicketError),
    #[error(
        "the request has several tickets: present one, in the header {HEADER} or the parameter {PARAMETER}"
    )]
    Several,
    #[error("a ticket opens files, exec, attach and metrics, and not {path} as it was requested")]
    Path { path: String },
    #[error(
        "this agent can verify no ticket yet: it has not registered with a master over TLS since its start; retry later"
    )]
    NoKey,
    #[error("the agent is stopping")]
    Stopping,
}

impl TicketRejection {
    fn status(&self) -> StatusCode {
        match self {
            Self::Ticket(_) | Self::Several | Self::Path { .. } => StatusCode::FORBIDDEN,
            Self::NoKey | Self::Stopping => StatusCode::SERVICE_UNAVAILABLE,
        }
    }
}

/// Verifies the ticket of a request, if it presents one.
pub(super) async fn verified(
    State(check): State<TicketCheck>,
    mut request: Request,
    next: Next,
) -> Response {
    let admitted = match take(&mut request) {
        Ok(None) => return next.run(request).await,
        Ok(Some(text)) => check.admit(&text, request.uri()).await,
        Err(rejection) => Err(rejection),
    };
    match admitted {
        Ok(ticket) => {
            let (holder, issued_by) = (&ticket.holder, ticket.request);
            tracing::debug!(%holder, issued_by = format!("{issued_by:032x}"), "accepted a ticket");
            request.extensions_mut().insert(TicketHolder(ticket.holder));
            next.run(request).await
        }
        Err(rejection) => {
            counter!("argosy_requests_refused_total", "reason" => "ticket").increment(1);
            let path = request.uri().path();
            tracing::debug!(path, %rejection, "rejecting a ticket");
            files::problem(rejection.status(), &rejection.to_string()).into_response()
        }
    }
}

impl TicketCheck {
    async fn admit(&self, text: &str, uri: &Uri) -> Result<Ticket, TicketRejection> {
        let authority = self.queries.tickets().await;
        let authority = authority.ok_or(TicketRejection::Stopping)?;
        let agent = authority.agent.filter(|_| !authority.keys.is_empty());
        let agent = agent.ok_or(TicketRejection::NoKey)?;
        let now_ms = u64::try_from(self.clock.now_ms()).unwrap_or_default();
        let ticket = Ticket::open(text, agent, &authority.keys, now_ms)?;
        let wanted = use_of(uri).ok_or_else(|| TicketRejection::Path {
            path: uri.path().to_owned(),
        })?;
        ticket.check(&wanted)?;
        Ok(ticket)
    }
}

/// Removes the ticket from a request.
fn take(request: &mut Request) -> Result<Option<String>, TicketRejection> {
    let bearer = bearer_of(request);
    let headers = request.headers_mut();
    let presented = headers.get_all(HEADER).iter();
    // A ticket is ASCII. Another text is rejected as malformed later.
    let mut found: Vec<_> = presented
        .map(|value| String::from_utf8_lossy(value.as_bytes()).into_owned())
        .collect();
    headers.remove(HEADER);
    found.extend(bearer);
    let (uri, in_query) = without_tickets(request.uri());
    found.extend(in_query);
    *request.uri_mut() = uri;
    match found.len() {
        0 | 1 => Ok(found.pop()),
        _ => Err(TicketRejection::Several),
    }
}

fn bearer_of(request: &mut Request) -> Option<String> {
    if request.uri().path() != METRICS {
        return None;
    }
    let headers: &mut HeaderMap = request.headers_mut();
    let (scheme, ticket) = headers.get(AUTHORIZATION)?.to_str().ok()?.split_once(' ')?;
    let ticket = ticket.trim().to_owned();
    if !scheme.eq_ignore_ascii_case("bearer") {
        return None;
    }
    headers.remove(AUTHORIZATION);
    Some(ticket)
}

/// Returns the URI without its parameters that contain tickets, and these parameters.
fn without_tickets(uri: &Uri) -> (Uri, Vec<String>) {
    let query = uri.query().unwrap_or_default();
    let is_ticket = |part: &&str| part.split('=').next() == Some(PARAMETER);
    let (tickets, others): (Vec<_>, Vec<_>) = query.split('&').partition(is_ticket);
    let value = |part: &str| {
        part.split_once('=')
            .map_or("", |(_, value)| value)
            .to_owned()
    };
    let found: Vec<_> = tickets.into_iter().map(value).collect();
    if found.is_empty() {
        return (uri.clone(), found);
    }
    let rest = format!("{}?{}", uri.path(), others.join("&"));
    let mut parts = uri.clone().into_parts();
    parts.path_and_query = rest.parse().ok();
    // A part of a valid query is valid.
    (Uri::from_parts(parts).unwrap_or_default(), found)
}

/// Returns the part of the API that a request uses, as its handler reads it from the same query.
/// `None` for a part that no ticket opens, and for a query that the handler rejects.
fn use_of(uri: &Uri) -> Option<TicketUse> {
    let only = |name: &str| {
        let Query(pairs) = Query::<Vec<(String, String)>>::try_from_uri(uri).ok()?;
        let mut values = pairs.into_iter().filter(|(given, _)| given == name);
        let (_, value) = values.next()?;
        values.next().is_none().then_some(value)
    };
    let task = |name: &str| Some(TicketScope::Task(exec::task_named(&only(name)?)?));
    let (verb, object) = match uri.path() {
        "/v1/files/browse" | "/v1/files/read" | "/v1/files/download" => {
            (TicketVerb::ReadFiles, files::ticket_object(&only("path")?)?)
        }
        "/v1/exec" => (TicketVerb::Exec, task("task")?),
        "/v1/attach" => (TicketVerb::Attach, task("task")?),
        METRICS => (TicketVerb::Metrics, TicketScope::Agent),
        _ => return None,
    };
    Some(TicketUse { verb, object })
}

/// Returns a request without its tickets, and its use of the API, for a fuzz target.
#[cfg(feature = "fuzzing")]
pub(crate) fn ticket_use(uri: &Uri) -> (Uri, Option<TicketUse>) {
    let (uri, _) = without_tickets(uri);
    let used = use_of(&uri);
    (uri, used)
}

#[cfg(test)]
mod tests;
