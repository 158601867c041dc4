//! The audit log of a server: which requests are recorded, and with what evidence of their callers.
//!
//! A server without a log records nothing. Requests carry the log as an extension, so that any
//! handler can add entries. `argosy_host::audit` writes the lines.

use std::io;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use argosy_state::actor::PrincipalKind;
use axum::extract::{Query, Request};
use axum::response::Response;
use http::{Extensions, HeaderMap, StatusCode, Uri, header};
use metrics::counter;
use tonic::Code;

pub use argosy_host::audit::{AuditEntry, AuditEvent, AuditSettings, AuditWriter, verify};
use argosy_host::audit::{AuditLog, AuditNotice};

use super::callers::{ApiPart, TicketHolder};
use crate::clock::WallClock;
use crate::trace::{self, TraceContext};
use crate::transport::{ConnectionAddresses, PeerIdentity};

/// Names the actor of a forwarded call, in the text form of [`argosy_state::actor::Actor`].
pub const FORWARDED_ACTOR: &str = "argosy-forwarded-actor";
/// Minimum interval between two log lines about a log that loses entries.
const REPORT_EVERY: Duration = Duration::from_secs(10);

/// The audit log of a server, if it has one. Cheap to clone; an extension of its requests.
#[derive(Debug, Clone, Default)]
pub struct Audit(Option<AuditLog>);

/// Marks a response whose request is recorded already.
#[derive(Debug, Clone, Copy)]
struct Recorded;

/// The evidence of a request's caller.
#[derive(Debug, Clone)]
pub struct AuditedCaller {
    peer: Option<PeerIdentity>,
    addresses: Option<ConnectionAddresses>,
    /// The actor that a forwarding master names, if the peer is one.
    on_behalf_of: String,
    /// The user of this host to which the connection belongs, if it was looked up.
    user: Option<u32>,
}

impl Audit {
    /// Opens the log of these settings; without settings, nothing is recorded. The log ends when
    /// the writer is dropped.
    ///
    /// # Errors
    /// If the directory cannot be used. A full disk is no error.
    pub fn open(settings: Option<&AuditSettings>) -> io::Result<(Self, Option<AuditWriter>)> {
        let Some(settings) = settings else {
            return Ok((Self::default(), None));
        };
        // An increase is only seen after a first sample.
        for lost in ["queue-full", "not-written"] {
            counter!("argosy_audit_lost_total", "reason" => lost).increment(0);
        }
        let clock = WallClock::system();
        let reports = Reports::default();
        let report = move |notice: &AuditNotice<'_>| reports.report(notice);
        let (log, writer) = AuditLog::open(settings, move || clock.now_ms(), report)?;
        Ok((Self(Some(log)), Some(writer)))
    }

    /// Returns the evidence of a request's caller, if there is a log.
    #[must_use]
    pub fn caller(&self, request: &Request) -> Option<AuditedCaller> {
        self.0.as_ref().map(|_| AuditedCaller::of(request))
    }

    /// Records an event of a caller. The id of the request is that of the work in progress.
    pub fn record(
        &self,
        caller: &AuditedCaller,
        event: AuditEvent,
        (action, object): (&str, &str),
        outcome: &str,
    ) {
        if let Some(log) = &self.0 {
            let entry = AuditEntry {
                action: action.to_owned(),
                object: object.to_owned(),
                outcome: outcome.to_owned(),
                ..caller.entry(event)
            };
            log.record(entry);
        }
    }

    /// Records an answer if it refuses the call because of its caller, unless it is recorded
    /// already. `has_token`: the request has a token.
    pub fn record_refusal(
        &self,
        caller: &AuditedCaller,
        (uri, has_token): (&Uri, bool),
        response: &Response,
    ) {
        if self.0.is_none() || response.extensions().get::<Recorded>().is_some() {
            return;
        }
        let (event, outcome) = match refusal(response.status(), response.headers()) {
            Some(Code::Unauthenticated) if has_token => {
                (AuditEvent::TokenRefused, "Unauthenticated")
            }
            Some(Code::Unauthenticated) => (AuditEvent::CallRefused, "Unauthenticated"),
            Some(_) => (AuditEvent::CallRefused, "PermissionDenied"),
            None => return,
        };
        self.record(caller, event, (uri.path(), ""), outcome);
    }

    /// Begins the record of a request to a guarded part of an API, if there is a log.
    pub(super) fn begin_use(request: &Request, part: ApiPart) -> Option<PendingUse> {
        let audit = request.extensions().get::<Self>()?;
        let caller = audit.caller(request)?;
        let (action, object) = described(request.uri(), part);
        Some(PendingUse {
            audit: audit.clone(),
            caller,
            part,
            action,
            object,
            is_recorded: false,
        })
    }
}

/// The audit log with the caller of one request, for events that the status of its answer does not
/// show. An extension of the request.
#[derive(Debug, Clone)]
pub struct RequestAudit {
    audit: Audit,
    caller: AuditedCaller,
    /// That of the request: events within a stream happen later.
    context: Option<TraceContext>,
}

impl RequestAudit {
    /// Returns the log with a caller, in the context of now.
    #[must_use]
    pub fn new(audit: Audit, caller: AuditedCaller) -> Self {
        Self {
            audit,
            caller,
            context: trace::current(),
        }
    }

    /// Returns the one of a request, with the identity that the server has verified since.
    #[must_use]
    pub fn of(extensions: &Extensions) -> Option<Self> {
        let found = extensions.get::<Self>()?.clone();
        let caller = found.caller.identified(extensions.get());
        Some(Self { caller, ..found })
    }

    /// Records an event of the caller.
    pub fn record(&self, event: AuditEvent, what: (&str, &str), outcome: &str) {
        trace::within(self.context, || {
            self.audit.record(&self.caller, event, what, outcome);
        });
    }
}

/// Returns whether a request has a token.
#[must_use]
pub fn has_token(headers: &HeaderMap) -> bool {
    headers.contains_key(header::AUTHORIZATION)
}

impl AuditedCaller {
    fn of(request: &Request) -> Self {
        let peer = request.extensions().get::<PeerIdentity>().cloned();
        let principal = peer.as_ref().and_then(PeerIdentity::principal);
        let is_master = principal.is_some_and(|one| one.kind == PrincipalKind::Master);
        let named = request.headers().get(FORWARDED_ACTOR);
        let named = named.filter(|_| is_master);
        let on_behalf_of = named.map(|named| String::from_utf8_lossy(named.as_bytes()).into());
        let holder = request.extensions().get::<TicketHolder>();
        let on_behalf_of = on_behalf_of.or_else(|| holder.map(|holder| holder.0.to_string()));
        Self {
            on_behalf_of: on_behalf_of.unwrap_or_default(),
            addresses: request.extensions().get().copied(),
            peer,
            user: None,
        }
    }

    /// Returns the same caller with the identity that the server has verified since, if any.
    #[must_use]
    pub fn identified(self, peer: Option<&PeerIdentity>) -> Self {
        let peer = peer.cloned().or(self.peer);
        Self { peer, ..self }
    }

    fn entry(&self, event: AuditEvent) -> AuditEntry {
        let peer = self.peer.as_ref();
        let address = self.addresses.map(|addresses| addresses.peer);
        let request_id = trace::current().map(|context| context.id().to_string());
        let actor = peer.map(PeerIdentity::actor).unwrap_or_default();
        AuditEntry {
            principal: actor.to_string(),
            on_behalf_of: self.on_behalf_of.clone(),
            user: self.user,
            peer: address.or_else(|| peer.and_then(PeerIdentity::address)),
            request_id: request_id.unwrap_or_default(),
            ..AuditEntry::new(WallClock::system().now_ms(), event)
        }
    }
}

/// Returns the code of an answer that refuses the caller.
fn refusal(status: StatusCode, headers: &HeaderMap) -> Option<Code> {
    let code = match headers.get("grpc-status") {
        Some(code) => Code::from_bytes(code.as_bytes()),
        None => match status {
            StatusCode::UNAUTHORIZED => Code::Unauthenticated,
            // The latter: an unknown host name, as of a web page that a caller was led to.
            StatusCode::FORBIDDEN | StatusCode::MISDIRECTED_REQUEST => Code::PermissionDenied,
            _ => return None,
        },
    };
    [Code::Unauthenticated, Code::PermissionDenied]
        .contains(&code)
        .then_some(code)
}

/// Returns the action and the object of a request to a guarded part. A query of exec also has the
/// arguments of the command, which may be secret.
fn described(uri: &Uri, part: ApiPart) -> (&'static str, String) {
    let (action, parameter) = match part {
        ApiPart::Exec if uri.path().ends_with("/attach") => ("attach", "task"),
        ApiPart::Exec => ("exec", "task"),
        ApiPart::Files => ("read-sandbox", "path"),
        ApiPart::LogLevel => return ("set-log-filter", String::new()),
        ApiPart::Containers => return ("view-task", uri.path().to_owned()),
        ApiPart::Status => return ("view-metrics", uri.path().to_owned()),
    };
    let query = Query::<Vec<(String, String)>>::try_from_uri(uri);
    let query = query.map(|Query(pairs)| pairs).unwrap_or_default();
    let named = query.into_iter().find(|(name, _)| name == parameter);
    let object = named.map(|(_, value)| value).unwrap_or_default();
    // A master's path names the agent.
    let agent = uri.path().strip_prefix("/v1/agents/");
    let agent = agent.and_then(|rest| rest.split('/').next());
    let object = match agent {
        Some(agent) => format!("{object} at {agent}"),
        None => object,
    };
    (action, object)
}

/// A request to a guarded part of an API that is not answered yet. One that is dropped has lost its
/// client before the answer, but may have had an effect.
#[derive(Debug)]
pub(super) struct PendingUse {
    audit: Audit,
    caller: AuditedCaller,
    part: ApiPart,
    action: &'static str,
    object: String,
    is_recorded: bool,
}

impl PendingUse {
    /// Sets the user of this host to which the connection belongs.
    pub(super) fn set_user(&mut self, user: Option<u32>) {
        self.caller.user = user;
    }

    /// Records the answer.
    pub(super) fn complete(mut self, mut response: Response) -> Response {
        let (status, headers) = (response.status(), response.headers());
        let is_refused = refusal(status, headers).is_some();
        self.record(is_refused, status.as_str());
        response.extensions_mut().insert(Recorded);
        response
    }

    fn record(&mut self, is_refused: bool, outcome: &str) {
        self.is_recorded = true;
        let event = match (self.part, is_refused) {
            (ApiPart::Exec, true) => AuditEvent::ExecRefused,
            (ApiPart::Exec, false) if self.action == "attach" => AuditEvent::Attach,
            (ApiPart::Exec, false) => AuditEvent::Exec,
            (ApiPart::Files, true) => AuditEvent::FilesRefused,
            (ApiPart::Files, false) => AuditEvent::FilesRead,
            (ApiPart::LogLevel, true) => AuditEvent::LogFilterRefused,
            (ApiPart::LogLevel, false) => AuditEvent::LogFilterChanged,
            (ApiPart::Containers | ApiPart::Status, true) => AuditEvent::CallRefused,
            // They show no task's content, and monitoring reads them all the time.
            (ApiPart::Containers | ApiPart::Status, false) => return,
        };
        let what = (self.action, self.object.as_str());
        self.audit.record(&self.caller, event, what, outcome);
    }
}

impl Drop for PendingUse {
    fn drop(&mut self) {
        if !self.is_recorded {
            self.record(false, "client-gone");
        }
    }
}

/// The metrics and log lines about a log.
#[derive(Debug, Default)]
struct Reports {
    /// When lost entries were logged last. A lock, because any thread may lose one.
    reported: Mutex<Option<Instant>>,
}

impl Reports {
    fn report(&self, notice: &AuditNotice<'_>) {
        match notice {
            AuditNotice::Written => counter!("argosy_audit_lines_total").increment(1),
            AuditNotice::QueueFull(entries) => {
                counter!("argosy_audit_lost_total", "reason" => "queue-full").increment(*entries);
                self.warn(&"too many wait to be written");
            }
            AuditNotice::NotWritten(entries, error) => {
                counter!("argosy_audit_lost_total", "reason" => "not-written").increment(*entries);
                self.warn(error);
            }
            AuditNotice::NotSynced(error) => {
                tracing::warn!(%error, "lines of the audit log cannot be synced: a power cut can remove them");
            }
            AuditNotice::NotRemoved(error) => {
                tracing::warn!(%error, "old files of the audit log cannot be removed");
            }
            AuditNotice::Recovered(bytes) => {
                tracing::warn!(
                    bytes,
                    "the end of the audit log was no whole line, as after a crash"
                );
            }
        }
    }

    fn warn(&self, error: &dyn std::fmt::Display) {
        let mut reported = self.reported.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        if reported.is_none_or(|at| now.duration_since(at) >= REPORT_EVERY) {
            *reported = Some(now);
            tracing::warn!(%error, "the audit log loses entries; their number will be in it");
        }
    }
}

#[cfg(test)]
mod tests;
