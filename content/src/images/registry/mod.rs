//! Registries: the reading half of the OCI distribution protocol.
//!
//! An answer is never believed: who asks checks sizes and digests. A log-in goes to its registry and to the
//! token server that this names, over TLS, and nowhere else.

mod challenge;
mod retry;

use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use argosy_proto::uri::ShownUri;
use http::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, RANGE, RETRY_AFTER, WWW_AUTHENTICATE};
use reqwest::redirect::{Attempt, Policy};
use reqwest::{Response, Url};
use serde::Deserialize;

use super::credentials::Secret;
use super::digest::Digest;
use super::fault::Fault;
use super::manifest::{Content, MANIFEST_BYTES, MEDIA_TYPES};
use super::reference::RegistryReference;
use crate::http_client::HttpClient;
use challenge::Challenge;

pub(super) use retry::{Patience, Retry};

/// How long a connection may take.
const CONNECT_LIMIT: Duration = Duration::from_secs(10);
/// How often a server may send us elsewhere.
const REDIRECTS: usize = 5;
/// The largest answer of a token server, in bytes.
const TOKEN_BYTES: u64 = 1024 * 1024;
/// Docker's own registry answers under another name than its images have.
const DOCKER: (&str, &str) = ("docker.io", "index.docker.io");

/// Who is spoken to without TLS.
#[derive(Debug, Clone)]
struct Plain(Arc<Vec<String>>);

impl Plain {
    /// Whether a registry, `host` or `host:port`, is spoken to so: one of the operator's list, or this host's own.
    fn allows(&self, authority: &str) -> bool {
        self.lists(authority) || is_loopback(authority)
    }

    fn lists(&self, authority: &str) -> bool {
        self.0.iter().any(|listed| listed == authority)
    }

    /// Whether one server may send us to another: to none without TLS that is not listed, and from elsewhere
    /// to nothing on this host.
    fn follows(&self, from: &Url, to: &Url) -> bool {
        let (source, target) = (authority(from), authority(to));
        match to.scheme() {
            "https" => !is_loopback(&target) || is_loopback(&source),
            "http" => self.lists(&target) || (is_loopback(&target) && is_loopback(&source)),
            _ => false,
        }
    }

    fn judge(&self, attempt: Attempt<'_>) -> reqwest::redirect::Action {
        if attempt.previous().len() > REDIRECTS {
            return attempt.error("it sends us elsewhere again and again");
        }
        let from = attempt.previous().last();
        if !from.is_some_and(|from| self.follows(from, attempt.url())) {
            return attempt.error(
                "it sends us to this host, or to a place without TLS that --insecure-registry does not list",
            );
        }
        attempt.follow()
    }
}

/// `host`, or `host:port` if the port is not that of the scheme.
fn authority(url: &Url) -> String {
    let host = url.host_str().unwrap_or_default();
    match url.port() {
        Some(port) => format!("{host}:{port}"),
        None => host.to_owned(),
    }
}

fn is_loopback(authority: &str) -> bool {
    let host = match authority.rsplit_once(':') {
        Some((host, port)) if port.bytes().all(|digit| digit.is_ascii_digit()) => host,
        _ => authority,
    };
    let address = host.trim_start_matches('[').trim_end_matches(']');
    let address = address.parse::<IpAddr>();
    host == "localhost" || address.is_ok_and(|address| address.is_loopback())
}

/// All registries. Cheap to clone.
#[derive(Debug, Clone)]
pub(super) struct Registries {
    http: Arc<HttpClient>,
    plain: Plain,
    pub(super) patience: Patience,
}

impl Registries {
    pub(super) fn new(insecure: &[String], patience: Patience) -> Self {
        let plain = Plain(Arc::new(insecure.to_vec()));
        let settings = plain.clone();
        let lost = "images cannot be pulled over https on this host";
        Self {
            http: Arc::new(HttpClient::new(lost, move || client(&settings))),
            plain,
            patience,
        }
    }

    /// Conversations about one repository.
    pub(super) fn session(&self, of: &RegistryReference, login: Option<Secret>) -> Session {
        let host = match of.registry.as_str() {
            name if name == DOCKER.0 => DOCKER.1,
            name => name,
        };
        let scheme = match self.plain.allows(host) {
            true => "http",
            false => "https",
        };
        Session {
            registries: self.clone(),
            registry: of.registry.clone(),
            base: format!("{scheme}://{host}/v2/{}", of.repository),
            scope: format!("repository:{}:pull", of.repository),
            login,
            permit: Mutex::new(None),
        }
    }
}

fn client(plain: &Plain) -> reqwest::ClientBuilder {
    let plain = plain.clone();
    reqwest::Client::builder()
        .connect_timeout(CONNECT_LIMIT)
        .no_proxy()
        .redirect(Policy::custom(move |attempt| plain.judge(attempt)))
}

/// Conversations with one registry about one repository.
pub(super) struct Session {
    registries: Registries,
    registry: String,
    /// Of all addresses that are asked.
    base: String,
    scope: String,
    login: Option<Secret>,
    /// What the registry took last. Under a lock because layers come side by side.
    permit: Mutex<Option<Secret>>,
}

/// A manifest or index as it came.
pub(super) struct Answer {
    pub(super) bytes: Vec<u8>,
    pub(super) media_type: Option<String>,
}

/// What is asked for.
struct Question {
    url: Url,
    accept: Option<String>,
    /// Bytes that are here already.
    from: u64,
}

impl Session {
    /// Of all that is asked for here.
    #[cfg(test)]
    pub(super) fn address(&self) -> &str {
        &self.base
    }

    pub(super) fn patience(&self) -> &Patience {
        &self.registries.patience
    }

    /// The manifest or index of this tag or digest.
    pub(super) async fn manifest(&self, name: &str) -> Result<Answer, Fault> {
        let question = Question {
            url: self.url(&format!("manifests/{name}"))?,
            accept: Some(MEDIA_TYPES.join(", ")),
            from: 0,
        };
        let answer = self.ask(&question).await?;
        let announced = answer.headers().get(CONTENT_TYPE);
        let announced = announced.and_then(|value| value.to_str().ok());
        let media_type = announced.map(|value| {
            let plain = value.split(';').next().unwrap_or_default();
            plain.trim().to_owned()
        });
        let digest = header(&answer, "docker-content-digest");
        let digest = digest.and_then(|text| text.parse::<Digest>().ok());
        let bytes = self
            .whole(answer, &format!("the manifest {name}"), MANIFEST_BYTES)
            .await?;
        let found = Digest::of(&bytes);
        // Nothing hangs on it; but a registry that contradicts itself is not to be believed.
        if let Some(wanted) = digest
            && wanted != found
        {
            return Err(Fault::WrongDigest {
                what: format!("the manifest {name}"),
                wanted,
                found,
            });
        }
        Ok(Answer { bytes, media_type })
    }

    /// A small blob, whole.
    pub(super) async fn small(&self, content: &Content) -> Result<Vec<u8>, Fault> {
        let answer = self.blob(content, 0).await?;
        self.whole(answer, &content.what, content.size).await
    }

    /// A blob, beginning at a byte; whether it does so is to be seen from [`resumes_at`].
    pub(super) async fn blob(&self, content: &Content, from: u64) -> Result<Response, Fault> {
        let question = Question {
            url: self.url(&format!("blobs/{}", content.digest))?,
            accept: None,
            from,
        };
        self.ask(&question).await
    }

    /// The next bytes of an answer.
    pub(super) async fn chunk(&self, answer: &mut Response) -> Result<Option<bytes::Bytes>, Fault> {
        let url = shown(answer.url());
        self.patiently(url, answer.chunk()).await
    }

    /// One step of an exchange, which may not stall.
    async fn patiently<T>(
        &self,
        url: String,
        step: impl Future<Output = reqwest::Result<T>>,
    ) -> Result<T, Fault> {
        let limit = self.patience().stall;
        match tokio::time::timeout(limit, step).await {
            Ok(Ok(done)) => Ok(done),
            Ok(Err(source)) => Err(Fault::Get {
                url,
                source: source.without_url(),
            }),
            Err(_) => Err(Fault::Stalled {
                url,
                seconds: limit.as_secs(),
            }),
        }
    }

    async fn whole(&self, mut answer: Response, what: &str, limit: u64) -> Result<Vec<u8>, Fault> {
        let too_large = || Fault::TooLarge {
            what: what.to_owned(),
            limit_bytes: limit,
        };
        if answer.content_length().is_some_and(|length| length > limit) {
            return Err(too_large());
        }
        let mut bytes = Vec::new();
        while let Some(chunk) = self.chunk(&mut answer).await? {
            bytes.extend_from_slice(&chunk);
            if bytes.len() as u64 > limit {
                return Err(too_large());
            }
        }
        Ok(bytes)
    }

    fn url(&self, path: &str) -> Result<Url, Fault> {
        let url = format!("{}/{path}", self.base);
        let parsed = Url::parse(&url).map_err(|error| Fault::Unaskable {
            url: url.clone(),
            rule: error.to_string(),
        })?;
        self.may_ask(parsed)
    }

    fn may_ask(&self, url: Url) -> Result<Url, Fault> {
        if url.scheme() == "http" || self.registries.http.has_authorities() {
            return Ok(url);
        }
        Err(Fault::Unaskable {
            url: shown(&url),
            rule: "this host has no certificates of authorities: install ca-certificates, then start the \
                   agent again"
                .to_owned(),
        })
    }

    /// Asks, and once more with a log-in if the registry wants one.
    async fn ask(&self, question: &Question) -> Result<Response, Fault> {
        let permit = self.permit().clone();
        let answer = self.send(question, permit).await?;
        let is_registry = answer.url().origin() == question.url.origin();
        // Whoever it sent us to has no business with its log-in.
        if answer.status() != 401 || !is_registry {
            return judged(answer);
        }
        let (from, wanted) = (answer.url().clone(), challenge(&answer));
        let permit = self.log_in(from, wanted).await?;
        *self.permit() = Some(permit.clone());
        judged(self.send(question, Some(permit)).await?)
    }

    fn permit(&self) -> std::sync::MutexGuard<'_, Option<Secret>> {
        self.permit.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn send(&self, question: &Question, permit: Option<Secret>) -> Result<Response, Fault> {
        let mut request = self.registries.http.client().get(question.url.clone());
        if let Some(accept) = &question.accept {
            request = request.header(ACCEPT, accept);
        }
        if question.from > 0 {
            request = request.header(RANGE, format!("bytes={}-", question.from));
        }
        if let Some(permit) = permit {
            request = request.header(AUTHORIZATION, permit.header());
        }
        self.perform(request, &question.url).await
    }

    async fn perform(
        &self,
        request: reqwest::RequestBuilder,
        url: &Url,
    ) -> Result<Response, Fault> {
        let url = shown(url);
        self.patiently(url, request.send()).await
    }

    fn refused(&self, rule: impl Into<String>) -> Fault {
        Fault::Login {
            registry: self.registry.clone(),
            rule: rule.into(),
        }
    }

    /// What to send along, after the registry has said that something is missing.
    async fn log_in(&self, from: Url, challenge: Option<Challenge>) -> Result<Secret, Fault> {
        match challenge {
            None => Err(self.refused("it asks for something other than a password or a token")),
            Some(Challenge::Basic) => self.login.clone().ok_or_else(|| {
                self.refused(
                    "it wants a user and password: add them to the file of --image-credentials",
                )
            }),
            Some(Challenge::Bearer { realm, service }) => self.token(&from, &realm, service).await,
        }
    }

    async fn token(
        &self,
        registry: &Url,
        realm: &str,
        service: Option<String>,
    ) -> Result<Secret, Fault> {
        let mut url = Url::parse(realm)
            .map_err(|error| self.refused(format!("its token server {realm:?}: {error}")))?;
        if !self.registries.plain.follows(registry, &url) {
            return Err(self.refused(format!(
                "its token server {:?} has no TLS or is on this host: list it by --insecure-registry if you \
                 trust it",
                shown(&url)
            )));
        }
        {
            let mut query = url.query_pairs_mut();
            if let Some(service) = &service {
                query.append_pair("service", service);
            }
            query.append_pair("scope", &self.scope);
        }
        let url = self.may_ask(url)?;
        let mut request = self.registries.http.client().get(url.clone());
        if let Some(login) = &self.login {
            request = request.header(AUTHORIZATION, login.header());
        }
        let answer = judged(self.perform(request, &url).await?)?;
        let what = "the answer of the token server";
        let bytes = self.whole(answer, what, TOKEN_BYTES).await?;
        let token: Token = serde_json::from_slice(&bytes)
            // The reader's own message could quote it.
            .map_err(|_| self.refused("its token server answers something that is no token"))?;
        let token = token.token.or(token.access_token).unwrap_or_default();
        Secret::bearer(&token)
            .ok_or_else(|| self.refused("its token server answers something that is no token"))
    }
}

/// What a registry that let us not in wants to see.
fn challenge(answer: &Response) -> Option<Challenge> {
    let headers = answer.headers().get_all(WWW_AUTHENTICATE).iter();
    challenge::preferred(headers.filter_map(|value| value.to_str().ok()))
}

#[derive(Deserialize)]
struct Token {
    token: Option<String>,
    access_token: Option<String>,
}

/// At which byte an answer begins.
pub(super) fn resumes_at(answer: &Response) -> u64 {
    let range = || {
        let range = header(answer, "content-range")?;
        let range = range.strip_prefix("bytes ")?;
        range.split('-').next()?.trim().parse().ok()
    };
    match answer.status().as_u16() {
        206 => range().unwrap_or(0),
        _ => 0,
    }
}

fn header<'a>(answer: &'a Response, name: &str) -> Option<&'a str> {
    answer.headers().get(name)?.to_str().ok()
}

fn shown(url: &Url) -> String {
    ShownUri::of(url.as_str()).to_string()
}

fn judged(answer: Response) -> Result<Response, Fault> {
    let status = answer.status();
    if status.is_success() {
        return Ok(answer);
    }
    let seconds = answer.headers().get(RETRY_AFTER);
    let seconds = seconds.and_then(|value| value.to_str().ok()?.parse().ok());
    Err(Fault::Status {
        url: shown(answer.url()),
        status: status.as_u16(),
        remedy: match status.as_u16() {
            401 | 403 => {
                ": look for a spelling mistake, or add a log-in to the file of --image-credentials"
            }
            404 => ": there is no such image or tag",
            429 => ": it wants fewer requests; log in, or wait",
            _ => "",
        },
        retry_after_s: seconds,
    })
}

#[cfg(test)]
mod tests;
