//! HTTP and HTTPS servers, with the access rules for what tasks name.
//!
//! The library follows no redirects, because each leads to a server that must be checked as well.
//! It resolves no names either: they are looked up and checked before each request.
//! Files are fetched here; image pulls use the clients from here.

use std::collections::HashMap;
use std::error::Error;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use argosy_proto::uri::RedactedUri;
use reqwest::header::LOCATION;
use reqwest::{Client, ClientBuilder, Response, Url, redirect};

use super::error::FetchError;
use super::reach::{AccessDenied, AccessPolicy, Requester, ServerAccess, without_brackets};
use super::resolved_names::{LookupResult, ResolvedNames};
use crate::http_client::HttpClient;

/// The maximum number of redirects, as in the library.
const REDIRECTS: usize = 10;
/// The maximum number of cached clients, each with its connections. One more replaces all of them.
const CLIENTS: usize = 16;

/// The key of a client. Names are resolved without a port, so each port has a separate client.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct ClientKey {
    is_https: bool,
    port: u16,
    reach: ServerAccess,
}

/// The reason why a server is not contacted.
pub(crate) enum RequestDenied {
    ByPolicy(AccessDenied),
    /// The error, and its remedy.
    Invalid(String),
}

type ClientBuilderFn = Arc<dyn Fn() -> ClientBuilder + Send + Sync>;

/// The cached clients and the access rules; see the file header.
pub(crate) struct HttpClientPool {
    settings: ClientBuilderFn,
    /// The log message for a host without certificate authorities; see [`HttpClient`].
    consequence: &'static str,
    policy: Arc<AccessPolicy>,
    /// A lock, because fetches of many tasks share the clients. Nothing is awaited under it.
    clients: Mutex<HashMap<ClientKey, Arc<PooledClient>>>,
}

/// A client, and the names that its requests in progress use.
struct PooledClient {
    http: HttpClient,
    names: Arc<ResolvedNames>,
}

/// A client for one request to a server that was checked. Kept until the response begins.
pub(crate) struct CheckedClient {
    pooled: Arc<PooledClient>,
    /// The addresses of the server, if it has a name.
    _addresses: Option<Arc<LookupResult>>,
}

impl CheckedClient {
    pub(crate) fn client(&self) -> &Client {
        self.pooled.http.client()
    }
}

impl HttpClientPool {
    pub(crate) fn new(
        settings: impl Fn() -> ClientBuilder + Send + Sync + 'static,
        policy: Arc<AccessPolicy>,
        lost: &'static str,
    ) -> Self {
        Self {
            settings: Arc::new(settings),
            consequence: lost,
            policy,
            clients: Mutex::default(),
        }
    }

    /// Requests a file, and returns the first response that is not a redirect. Each response must
    /// begin within `limit`.
    pub(super) async fn get(
        &self,
        uri: &str,
        requester: Requester,
        limit: Duration,
    ) -> Result<Response, FetchError> {
        let invalid = |rule: &str| FetchError::Invalid {
            uri: RedactedUri::of(uri),
            rule: rule.to_owned(),
        };
        let mut url = Url::parse(uri).map_err(|_| invalid("it is not a URL; correct it"))?;
        for _ in 0..=REDIRECTS {
            let client = self.client_for(&url, requester).await;
            let client = client.map_err(|why| denied(uri, why))?;
            let asking = client.client().get(url.clone()).send();
            let answer = tokio::time::timeout(limit, asking).await;
            let answer = answer
                .map_err(|_| FetchError::stalled(uri, limit))?
                .map_err(|source| FetchError::of_server(uri, source.without_url()))?;
            self.check_peer(&url, &answer)
                .map_err(|why| denied(uri, why))?;
            match redirection(&url, &answer) {
                None => return Ok(answer),
                Some(Ok(followed)) => url = followed,
                Some(Err(rule)) => return Err(invalid(rule)),
            }
        }
        Err(invalid("its server redirects too often"))
    }

    /// Checks the peer again: no response is read whose server is no longer allowed.
    pub(crate) fn check_peer(&self, url: &Url, answer: &Response) -> Result<(), RequestDenied> {
        let (Some(host), Some(peer)) = (url.host_str(), answer.remote_addr()) else {
            return Ok(());
        };
        Ok(self.policy.check_peer(without_brackets(host), peer)?)
    }

    /// Returns a client for this server, if the server is allowed. If its name cannot be looked up,
    /// requests of the client fail with the reason.
    pub(crate) async fn client_for(
        &self,
        url: &Url,
        requester: Requester,
    ) -> Result<CheckedClient, RequestDenied> {
        let invalid = |rule: &str| RequestDenied::Invalid(rule.to_owned());
        let (Some(host), Some(port)) = (url.host_str(), url.port_or_known_default()) else {
            return Err(invalid("it names no server; correct it"));
        };
        let host = without_brackets(host);
        let is_name = host.parse::<std::net::IpAddr>().is_err();
        let checked = self.policy.resolve(host, port, requester).await;
        let found = match checked.map_err(RequestDenied::from) {
            Ok(found) => Ok(found),
            Err(RequestDenied::Invalid(why)) if is_name => Err(why),
            Err(denied) => return Err(denied),
        };
        let is_https = url.scheme() == "https";
        let pooled = self.client(ClientKey {
            is_https,
            port,
            reach: requester.reach,
        });
        if is_https && !pooled.http.has_authorities() {
            return Err(invalid(
                "this host has no certificate authorities: install ca-certificates, then start the agent again",
            ));
        }
        // The library calls no resolver for addresses.
        let addresses = is_name.then(|| pooled.names.insert(host, found));
        Ok(CheckedClient {
            pooled,
            _addresses: addresses,
        })
    }

    fn client(&self, of: ClientKey) -> Arc<PooledClient> {
        let mut clients = self.clients.lock().unwrap_or_else(PoisonError::into_inner);
        if clients.len() >= CLIENTS && !clients.contains_key(&of) {
            // Clients in use exist until they are dropped.
            clients.clear();
        }
        let made = clients.entry(of).or_insert_with(|| {
            let names = Arc::<ResolvedNames>::default();
            let (settings, resolver) = (Arc::clone(&self.settings), Arc::clone(&names));
            let settings = move || {
                let client = settings()
                    .redirect(redirect::Policy::none())
                    .dns_resolver(Arc::clone(&resolver));
                match of.is_https {
                    true => client,
                    false => client.tls_certs_only([]),
                }
            };
            let http = HttpClient::new(self.consequence, settings);
            Arc::new(PooledClient { http, names })
        });
        Arc::clone(made)
    }
}

impl From<Box<dyn Error + Send + Sync>> for RequestDenied {
    fn from(error: Box<dyn Error + Send + Sync>) -> Self {
        match error.downcast::<AccessDenied>() {
            Ok(refusal) => Self::ByPolicy(*refusal),
            Err(other) => Self::Invalid(other.to_string()),
        }
    }
}

fn denied(uri: &str, why: RequestDenied) -> FetchError {
    match why {
        RequestDenied::ByPolicy(refusal) => FetchError::refused(uri, refusal),
        RequestDenied::Invalid(rule) => FetchError::Invalid {
            uri: RedactedUri::of(uri),
            rule,
        },
    }
}

/// Returns the target of a redirect. User and password of the URL go to the same server only.
pub(crate) fn redirection(url: &Url, answer: &Response) -> Option<Result<Url, &'static str>> {
    if !matches!(answer.status().as_u16(), 301 | 302 | 303 | 307 | 308) {
        return None;
    }
    let location = answer.headers().get(LOCATION)?;
    let followed = location.to_str().ok().and_then(|to| url.join(to).ok());
    let Some(mut followed) = followed else {
        return Some(Err("its server redirects to an invalid URL"));
    };
    if !matches!(followed.scheme(), "http" | "https") {
        return Some(Err("its server redirects to neither http nor https"));
    }
    if followed.origin() == url.origin() && followed.username().is_empty() {
        // Both URLs have hosts, so neither call can fail.
        let _ = followed.set_username(url.username());
        let _ = followed.set_password(url.password());
    }
    Some(Ok(followed))
}
