//! Servers of HTTP and HTTPS, as far as they may be asked for what tasks name.
//!
//! The library follows no redirect, since each leads to a server that must be judged again. Files are fetched here; images
//! are pulled by clients from here.

use std::collections::HashMap;
use std::error::Error;
use std::sync::{Arc, Mutex, PoisonError};

use argosy_proto::uri::ShownUri;
use reqwest::header::LOCATION;
use reqwest::{ClientBuilder, Response, Url, redirect};

use super::error::FetchError;
use super::reach::{Policy, Reach, Refusal, Resolver, bare};
use crate::http_client::HttpClient;

/// How often a server may lead to another, as in the library.
const REDIRECTS: usize = 10;
/// Clients that are kept, each with its connections. One more takes the place of all.
const CLIENTS: usize = 16;

/// What one client is for. A name is resolved without its port, so each port has a client of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Use {
    is_https: bool,
    port: u16,
    reach: Reach,
}

/// Why a server is not asked.
pub(crate) enum NotAsked {
    Refused(Refusal),
    /// What is wrong, and what to do.
    Unaskable(String),
}

type Settings = Arc<dyn Fn() -> ClientBuilder + Send + Sync>;

/// See the file's head.
pub(crate) struct Web {
    settings: Settings,
    /// What a host without certificates of authorities cannot do, for the log.
    lost: &'static str,
    policy: Arc<Policy>,
    /// A lock, since fetches of many tasks share the clients. Nothing is awaited under it.
    clients: Mutex<HashMap<Use, Arc<HttpClient>>>,
}

impl Web {
    pub(crate) fn new(
        settings: impl Fn() -> ClientBuilder + Send + Sync + 'static,
        policy: Policy,
        lost: &'static str,
    ) -> Self {
        Self {
            settings: Arc::new(settings),
            lost,
            policy: Arc::new(policy),
            clients: Mutex::default(),
        }
    }

    /// Asks for a file, and returns the first answer that is no redirect.
    pub(super) async fn get(&self, uri: &str, reach: Reach) -> Result<Response, FetchError> {
        let invalid = |rule: &str| FetchError::Invalid {
            uri: ShownUri::of(uri),
            rule: rule.to_owned(),
        };
        let mut url = Url::parse(uri).map_err(|_| invalid("it is no URL; correct it"))?;
        for _ in 0..=REDIRECTS {
            let client = self.client_for(&url, reach).await;
            let client = client.map_err(|why| not_asked(uri, why))?;
            let asked = client.client().get(url.clone()).send().await;
            let answer =
                asked.map_err(|source| FetchError::of_server(uri, source.without_url()))?;
            self.judge_peer(&url, &answer)
                .map_err(|why| not_asked(uri, why))?;
            match redirection(&url, &answer) {
                None => return Ok(answer),
                Some(Ok(followed)) => url = followed,
                Some(Err(rule)) => return Err(invalid(rule)),
            }
        }
        Err(invalid("its server redirects again and again"))
    }

    /// Nothing is read of an answer whose server may not be asked any more.
    pub(crate) fn judge_peer(&self, url: &Url, answer: &Response) -> Result<(), NotAsked> {
        let (Some(host), Some(peer)) = (url.host_str(), answer.remote_addr()) else {
            return Ok(());
        };
        Ok(self.policy.judge_peer(bare(host), peer)?)
    }

    /// A client that connects to this server, if it may be asked. One by name is judged when that is resolved.
    pub(crate) async fn client_for(
        &self,
        url: &Url,
        reach: Reach,
    ) -> Result<Arc<HttpClient>, NotAsked> {
        let invalid = |rule: &str| NotAsked::Unaskable(rule.to_owned());
        let (Some(host), Some(port)) = (url.host_str(), url.port_or_known_default()) else {
            return Err(invalid("it names no server; correct it"));
        };
        let host = bare(host);
        if host.parse::<std::net::IpAddr>().is_ok() {
            // The library does not ask its resolver about addresses.
            self.policy.resolve(host, port, reach).await?;
        }
        let is_https = url.scheme() == "https";
        let client = self.client(Use {
            is_https,
            port,
            reach,
        });
        if is_https && !client.has_authorities() {
            return Err(invalid(
                "this host has no certificates of authorities: install ca-certificates, then start the agent again",
            ));
        }
        Ok(client)
    }

    fn client(&self, of: Use) -> Arc<HttpClient> {
        let mut clients = self.clients.lock().unwrap_or_else(PoisonError::into_inner);
        if clients.len() >= CLIENTS && !clients.contains_key(&of) {
            // Those that are in use stay until they are not.
            clients.clear();
        }
        let made = clients.entry(of).or_insert_with(|| {
            let (settings, policy) = (Arc::clone(&self.settings), Arc::clone(&self.policy));
            let settings = move || {
                let resolver = Resolver {
                    policy: Arc::clone(&policy),
                    port: of.port,
                    reach: of.reach,
                };
                let client = settings()
                    .redirect(redirect::Policy::none())
                    .dns_resolver(Arc::new(resolver));
                match of.is_https {
                    true => client,
                    false => client.tls_certs_only([]),
                }
            };
            Arc::new(HttpClient::new(self.lost, settings))
        });
        Arc::clone(made)
    }
}

impl From<Box<dyn Error + Send + Sync>> for NotAsked {
    fn from(error: Box<dyn Error + Send + Sync>) -> Self {
        match error.downcast::<Refusal>() {
            Ok(refusal) => Self::Refused(*refusal),
            Err(other) => Self::Unaskable(other.to_string()),
        }
    }
}

fn not_asked(uri: &str, why: NotAsked) -> FetchError {
    match why {
        NotAsked::Refused(refusal) => FetchError::refused(uri, refusal),
        NotAsked::Unaskable(rule) => FetchError::Invalid {
            uri: ShownUri::of(uri),
            rule,
        },
    }
}

/// Where an answer leads, if it is a redirect. A user and password in the URL go to the same server only.
pub(crate) fn redirection(url: &Url, answer: &Response) -> Option<Result<Url, &'static str>> {
    if !matches!(answer.status().as_u16(), 301 | 302 | 303 | 307 | 308) {
        return None;
    }
    let location = answer.headers().get(LOCATION)?;
    let followed = location.to_str().ok().and_then(|to| url.join(to).ok());
    let Some(mut followed) = followed else {
        return Some(Err("its server redirects to what is no URL"));
    };
    if !matches!(followed.scheme(), "http" | "https") {
        return Some(Err("its server redirects to neither http nor https"));
    }
    if followed.origin() == url.origin() && followed.username().is_empty() {
        // Both have hosts, so that neither can fail.
        let _ = followed.set_username(url.username());
        let _ = followed.set_password(url.password());
    }
    Some(Ok(followed))
}
