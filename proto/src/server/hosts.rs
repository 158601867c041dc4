//! The host names of a server, a defence against DNS rebinding.
//!
//! A web page can let its host name resolve to an address of this host, and then read answers as if
//! they came from the page's server. Its requests still carry the page's name in `Host`. Browsers
//! use HTTP/2 only with TLS, and such a name has no certificate. The check therefore covers
//! HTTP/1.x, and requests that carry a browser's own headers. gRPC needs HTTP/2, so its clients may
//! dial any name. A content type is no evidence: after rebinding, a page has the same origin and
//! may send any.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::Arc;

use axum::body::Body;
use axum::extract::{Request, State};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse as _, Response};
use axum::{Json, Router};
use http::header::{CONTENT_TYPE, HOST, ORIGIN};
use http::{HeaderMap, StatusCode, Version};
use metrics::counter;
use tonic::{Code, Status};

/// A request header that proves that no web page sent the request: browsers let no page set a
/// header that begins with `Sec-`. HTTP/1.1 clients send it with any value to reach a server by a
/// name that the server does not know.
pub const CLIENT_HEADER: &str = "sec-argosy-client";

/// The flag that the messages name.
const FLAG: &str = "--allow-host";
/// The number of characters of a rejected name that are shown.
const SHOWN: usize = 80;

/// The host names that a server answers to, in addition to IP addresses and `localhost`. Cheap to
/// clone.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct AllowedHosts(Arc<BTreeSet<String>>);

/// The error of a text that is not a host name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{0:?} is not a valid host name: use letters, digits, dots, hyphens and underscores, without scheme and port"
)]
pub struct InvalidHost(String);

/// The reason for which a request is rejected.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
enum HostHeaderError {
    #[error("the request has no Host header: send one")]
    Missing,
    #[error("the request has {0} Host headers: send one")]
    Several(usize),
    #[error("the host {0:?} is not valid: use HOST or HOST:PORT")]
    Invalid(String),
    #[error(
        "this server does not answer to the name {0:?}, so that web pages of that name cannot reach it; use an IP \
         address, or start the server with {FLAG} {0}"
    )]
    Unknown(String),
}

/// Returns a host name in its canonical form: in lower case, without the trailing dot.
///
/// # Errors
/// If it has a scheme, a port, or characters that host names do not have.
pub fn host_name(text: &str) -> Result<String, InvalidHost> {
    let name = text.strip_suffix('.').unwrap_or(text);
    let is_label = |label: &str| {
        !label.is_empty()
            && label
                .bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_'))
    };
    if name.split('.').all(is_label) {
        Ok(name.to_ascii_lowercase())
    } else {
        Err(InvalidHost(text.chars().take(SHOWN).collect()))
    }
}

/// Returns the host part of `HOST` or `HOST:PORT`; the brackets of an IPv6 address belong to it.
/// `None` if it is neither.
fn host_part(authority: &str) -> Option<&str> {
    let end = match authority.strip_prefix('[') {
        Some(inner) => inner.find(']')? + 2,
        None => authority.find(':').unwrap_or(authority.len()),
    };
    let (host, rest) = authority.split_at(end);
    let port = rest.strip_prefix(':').unwrap_or(rest);
    let is_port = port.len() <= 5 && port.bytes().all(|byte| byte.is_ascii_digit());
    (is_port && (rest.is_empty() || rest.starts_with(':')) && !host.is_empty()).then_some(host)
}

fn is_address(host: &str) -> bool {
    match host
        .strip_prefix('[')
        .and_then(|host| host.strip_suffix(']'))
    {
        Some(inside) => {
            let address = inside
                .split_once('%')
                .map_or(inside, |(address, _zone)| address);
            address.parse::<Ipv6Addr>().is_ok()
        }
        None => matches!(host.parse(), Ok(IpAddr::V4(_))),
    }
}

impl AllowedHosts {
    /// Returns these names. Each may be `HOST` or `HOST:PORT`; a text that is not a name, such as
    /// an address, adds nothing.
    pub fn new<T: AsRef<str>>(names: impl IntoIterator<Item = T>) -> Self {
        let names = names.into_iter().filter_map(|name| {
            let host = host_part(name.as_ref())?;
            host_name(host).ok()
        });
        Self(Arc::new(names.collect()))
    }

    /// Rejects requests of `router` that a web page of another name could have sent: with 421 if
    /// the name is not allowed, with 400 if there is not exactly one valid name. The body is JSON
    /// with `code` and `message`; gRPC also gets its status. Routes that are added later are not
    /// guarded.
    pub fn guard(self, router: Router) -> Router {
        router.layer(middleware::from_fn_with_state(self, guarded))
    }

    /// Returns the answer to a request that [`AllowedHosts::guard`] rejects; `None` if the request
    /// may continue.
    #[must_use]
    pub fn refusal(&self, request: &Request) -> Option<Response> {
        let refusal = self.check(request).err()?;
        counter!("argosy_requests_refused_total", "reason" => "host").increment(1);
        tracing::debug!(%refusal, "rejecting a request for its host");
        Some(refused(&refusal, request.headers()))
    }

    fn check(&self, request: &Request) -> Result<(), HostHeaderError> {
        if !may_be_page(request) {
            return Ok(());
        }
        let mut hosts = request.headers().get_all(HOST).iter();
        let named = match (hosts.next(), hosts.count()) {
            (Some(_), more @ 1..) => return Err(HostHeaderError::Several(more + 1)),
            (Some(host), 0) => Some(host.to_str().map_err(|_| {
                HostHeaderError::Invalid(shown(&String::from_utf8_lossy(host.as_bytes())))
            })?),
            (None, _) => None,
        };
        // HTTP/2 has `:authority` here; HTTP/1.x has a host only if the request has a full URI, as
        // to a proxy.
        let authority = request.uri().authority().map(http::uri::Authority::as_str);
        if named.is_none() && (authority.is_none() || request.version() < Version::HTTP_2) {
            return Err(HostHeaderError::Missing);
        }
        named
            .into_iter()
            .chain(authority)
            .try_for_each(|host| self.allows(host))
    }

    fn allows(&self, authority: &str) -> Result<(), HostHeaderError> {
        let invalid = || HostHeaderError::Invalid(shown(authority));
        let host = host_part(authority).ok_or_else(invalid)?;
        if is_address(host) {
            return Ok(());
        }
        let name = host_name(host).map_err(|_| invalid())?;
        if name == "localhost" || self.0.contains(&name) {
            return Ok(());
        }
        Err(HostHeaderError::Unknown(shown(&name)))
    }
}

fn shown(text: &str) -> String {
    text.chars().take(SHOWN).collect()
}

/// Returns whether a browser could have sent this for a page of another origin.
fn may_be_page(request: &Request) -> bool {
    let headers = request.headers();
    if has_browser_header(headers) {
        return true;
    }
    request.version() < Version::HTTP_2 && !headers.contains_key(CLIENT_HEADER)
}

fn has_browser_header(headers: &HeaderMap) -> bool {
    headers.contains_key(ORIGIN)
        || headers
            .keys()
            .any(|name| name.as_str().starts_with("sec-fetch-"))
}

async fn guarded(State(hosts): State<AllowedHosts>, request: Request, next: Next) -> Response {
    match hosts.refusal(&request) {
        Some(refused) => refused,
        None => next.run(request).await,
    }
}

fn refused(refusal: &HostHeaderError, headers: &HeaderMap) -> Response {
    let (http_status, code, name) = match refusal {
        HostHeaderError::Unknown(_) => (
            StatusCode::MISDIRECTED_REQUEST,
            Code::PermissionDenied,
            "PermissionDenied",
        ),
        HostHeaderError::Missing | HostHeaderError::Several(_) | HostHeaderError::Invalid(_) => (
            StatusCode::BAD_REQUEST,
            Code::InvalidArgument,
            "InvalidArgument",
        ),
    };
    let message = refusal.to_string();
    let kind = headers.get(CONTENT_TYPE);
    if kind.is_some_and(|kind| kind.as_bytes().starts_with(b"application/grpc")) {
        let mut response = Status::new(code, message).into_http::<Body>();
        *response.status_mut() = http_status;
        return response;
    }
    let body = serde_json::json!({ "code": name, "message": message });
    (http_status, Json(body)).into_response()
}

#[cfg(test)]
mod tests;
