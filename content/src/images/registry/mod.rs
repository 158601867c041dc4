//! Registries: the pull half of the OCI distribution protocol.
//!
//! Responses are not trusted: the caller checks sizes and digests. Credentials go to their registry
//! and to the token server that it names, and nowhere else. Each server is checked like those of
//! files, and contacted without TLS only if the operator lists it.

pub(super) mod challenge;
mod document;
mod insecure;
mod retry;

use std::io;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use argosy_proto::uri::RedactedUri;
use argosy_state::ids::FrameworkId;
use http::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, RANGE, RETRY_AFTER, WWW_AUTHENTICATE};
use reqwest::{Response, Url};
use serde::Deserialize;
use tokio::sync::Semaphore;

use super::credentials::AuthHeader;
use super::digest::Digest;
use super::error::PullErrorKind;
use super::manifest::{BlobDescriptor, MANIFEST_BYTES, MEDIA_TYPES};
use super::reference::RegistryReference;
use crate::fetcher::{
    AccessDenied, AccessPolicy, FetchSettings, HttpClientPool, RequestDenied, RequestPurpose,
    Requester, ServerAccess, client, redirection,
};
use challenge::Challenge;
use document::LARGE_AT_ONCE;

pub(super) use document::RegistryDocument;
#[cfg(test)]
pub(super) use document::SMALL_BYTES;
pub use insecure::{InsecureRegistry, InvalidRegistry};
pub(super) use retry::{RetryState, RetryTimeouts};

/// The maximum number of redirects.
const REDIRECTS: usize = 5;
/// The maximum size of a token server's response, in bytes.
const TOKEN_BYTES: u64 = 1024 * 1024;
/// Docker Hub's registry has another host name than its images.
const DOCKER: (&str, &str) = ("docker.io", "index.docker.io");

/// All registries. Cheap to clone.
#[derive(Clone)]
pub(super) struct Registries {
    web: Arc<HttpClientPool>,
    insecure: Arc<Vec<InsecureRegistry>>,
    /// The limit of [`LARGE_AT_ONCE`].
    pub(super) large_documents: Arc<Semaphore>,
    pub(super) timeouts: RetryTimeouts,
}

impl Registries {
    /// Creates it. Must precede the point at which the process can no longer open files. The
    /// operator trusts the registries of `insecure` at any address.
    pub(super) fn new(
        fetch: &FetchSettings,
        insecure: &[InsecureRegistry],
        timeouts: RetryTimeouts,
    ) -> io::Result<Self> {
        let mut settings = fetch.clone();
        let listed = insecure.iter().map(|registry| registry.server().clone());
        settings.allow.extend(listed);
        let policy = AccessPolicy::new(RequestPurpose::Images, &settings)?;
        let lost = "images cannot be pulled over https on this host";
        Ok(Self {
            web: Arc::new(HttpClientPool::new(client, Arc::new(policy), lost)),
            insecure: Arc::new(insecure.to_vec()),
            large_documents: Arc::new(Semaphore::new(LARGE_AT_ONCE)),
            timeouts,
        })
    }

    /// Opens a session for one repository, for a framework.
    pub(super) fn session(
        &self,
        of: &RegistryReference,
        login: Option<AuthHeader>,
        framework: FrameworkId,
    ) -> RegistrySession {
        let host = match of.registry.as_str() {
            name if name == DOCKER.0 => DOCKER.1,
            name => name,
        };
        let plain = Url::parse(&format!("http://{host}/"));
        let scheme = match plain.is_ok_and(|url| self.allows_scheme(&url)) {
            true => "http",
            false => "https",
        };
        RegistrySession {
            registries: self.clone(),
            registry: of.registry.clone(),
            base: format!("{scheme}://{host}/v2/{}", of.repository),
            scope: format!("repository:{}:pull", of.repository),
            login,
            requester: Requester {
                framework,
                reach: ServerAccess::Default,
            },
            credentials: Mutex::new(None),
        }
    }

    /// Whether the scheme is allowed for this server: without TLS only for registries that the
    /// operator lists.
    fn allows_scheme(&self, url: &Url) -> bool {
        let (Some(host), Some(port)) = (url.host_str(), url.port_or_known_default()) else {
            return false;
        };
        match url.scheme() {
            "https" => true,
            "http" => {
                let mut insecure = self.insecure.iter();
                insecure.any(|registry| registry.server().lists(host, port))
            }
            _ => false,
        }
    }
}

/// A session with one registry for one repository.
pub(super) struct RegistrySession {
    registries: Registries,
    registry: String,
    /// The prefix of all request URLs.
    base: String,
    scope: String,
    login: Option<AuthHeader>,
    requester: Requester,
    /// The credentials that the registry accepted last. A lock, because layers are downloaded
    /// concurrently.
    credentials: Mutex<Option<AuthHeader>>,
}

/// A manifest or index as received.
pub(super) struct ManifestResponse {
    pub(super) bytes: RegistryDocument,
    pub(super) media_type: Option<String>,
}

struct RegistryRequest {
    url: Url,
    accept: Option<String>,
    /// The number of bytes already received.
    offset: u64,
}

impl RegistrySession {
    /// Returns the prefix of all request URLs.
    #[cfg(test)]
    pub(super) fn address(&self) -> &str {
        &self.base
    }

    pub(super) fn timeouts(&self) -> &RetryTimeouts {
        &self.registries.timeouts
    }

    /// Requests the manifest or index of this tag or digest.
    pub(super) async fn manifest(&self, name: &str) -> Result<ManifestResponse, PullErrorKind> {
        let question = RegistryRequest {
            url: self.url(&format!("manifests/{name}"))?,
            accept: Some(MEDIA_TYPES.join(", ")),
            offset: 0,
        };
        let answer = self.request(&question).await?;
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
        // Nothing depends on it; but a registry that contradicts itself is not trusted.
        if let Some(wanted) = digest
            && wanted != found
        {
            return Err(PullErrorKind::WrongDigest {
                what: format!("the manifest {name}"),
                wanted,
                found,
            });
        }
        Ok(ManifestResponse { bytes, media_type })
    }

    /// Requests a small blob, completely.
    pub(super) async fn small(
        &self,
        content: &BlobDescriptor,
    ) -> Result<RegistryDocument, PullErrorKind> {
        let answer = self.blob(content, 0).await?;
        self.whole(answer, &content.what, content.size).await
    }

    /// Requests a blob from an offset; [`resumes_at`] shows whether the response starts there.
    pub(super) async fn blob(
        &self,
        content: &BlobDescriptor,
        from: u64,
    ) -> Result<Response, PullErrorKind> {
        let question = RegistryRequest {
            url: self.url(&format!("blobs/{}", content.digest))?,
            accept: None,
            offset: from,
        };
        self.request(&question).await
    }

    /// Returns the next bytes of a response.
    pub(super) async fn chunk(
        &self,
        answer: &mut Response,
    ) -> Result<Option<bytes::Bytes>, PullErrorKind> {
        let url = display_url(answer.url());
        self.with_retries(url, answer.chunk()).await
    }

    /// Runs one step of an exchange, with the stall timeout.
    async fn with_retries<T>(
        &self,
        url: String,
        step: impl Future<Output = reqwest::Result<T>>,
    ) -> Result<T, PullErrorKind> {
        let limit = self.timeouts().stall;
        match tokio::time::timeout(limit, step).await {
            Ok(Ok(done)) => Ok(done),
            Ok(Err(source)) => Err(match AccessDenied::find_in(&source) {
                Some(refusal) => PullErrorKind::Denied { url, refusal },
                None => PullErrorKind::Get {
                    url,
                    source: source.without_url(),
                },
            }),
            Err(_) => Err(PullErrorKind::Timeout {
                url,
                seconds: limit.as_secs(),
            }),
        }
    }

    async fn whole(
        &self,
        mut answer: Response,
        what: &str,
        limit: u64,
    ) -> Result<RegistryDocument, PullErrorKind> {
        let too_large = || PullErrorKind::TooLarge {
            what: what.to_owned(),
            limit_bytes: limit,
        };
        if answer.content_length().is_some_and(|length| length > limit) {
            return Err(too_large());
        }
        let mut document = RegistryDocument::default();
        // Without the time that it waits for a slot, which is not that of the server.
        let mut left = self.timeouts().document;
        loop {
            let begun = Instant::now();
            let chunk = tokio::time::timeout(left, self.chunk(&mut answer)).await;
            let Some(chunk) = chunk.map_err(|_| self.too_slow(&answer))?? else {
                return Ok(document);
            };
            left = left.saturating_sub(begun.elapsed());
            if (document.len() + chunk.len()) as u64 > limit {
                return Err(too_large());
            }
            let slots = &self.registries.large_documents;
            document.extend(&chunk, slots).await;
        }
    }

    /// Returns the error of a document that takes too long.
    fn too_slow(&self, answer: &Response) -> PullErrorKind {
        PullErrorKind::Slow {
            url: display_url(answer.url()),
            seconds: self.timeouts().document.as_secs(),
        }
    }

    fn url(&self, path: &str) -> Result<Url, PullErrorKind> {
        let url = format!("{}/{path}", self.base);
        Url::parse(&url).map_err(|error| PullErrorKind::InvalidRequest {
            url: url.clone(),
            rule: error.to_string(),
        })
    }

    /// Sends a request, and repeats it with credentials if the registry requires them.
    async fn request(&self, question: &RegistryRequest) -> Result<Response, PullErrorKind> {
        let permit = self.credentials().clone();
        let answer = self.send(question, permit).await?;
        let is_registry = answer.url().origin() == question.url.origin();
        // The target of a redirect must not get the registry's credentials.
        if answer.status() != 401 || !is_registry {
            return check_status(answer);
        }
        let permit = self.authorize(challenge(&answer)).await?;
        *self.credentials() = Some(permit.clone());
        check_status(self.send(question, Some(permit)).await?)
    }

    fn credentials(&self) -> std::sync::MutexGuard<'_, Option<AuthHeader>> {
        self.credentials
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns the first response that is not a redirect. Each target is checked like the first
    /// server.
    async fn send(
        &self,
        question: &RegistryRequest,
        mut permit: Option<AuthHeader>,
    ) -> Result<Response, PullErrorKind> {
        let shown = display_url(&question.url);
        let invalid = |rule: String| PullErrorKind::InvalidRequest {
            url: shown.clone(),
            rule,
        };
        let not_asked = |why| match why {
            RequestDenied::ByPolicy(refusal) => PullErrorKind::Denied {
                url: shown.clone(),
                refusal,
            },
            RequestDenied::Invalid(rule) => invalid(rule),
        };
        let web = &self.registries.web;
        let mut url = question.url.clone();
        for _ in 0..=REDIRECTS {
            let client = web.client_for(&url, self.requester).await;
            let client = client.map_err(not_asked)?;
            if !self.registries.allows_scheme(&url) {
                return Err(invalid(format!(
                    "{} has no TLS; to allow it, start the agent with --insecure-registry {}",
                    self::display_url(&url),
                    authority(&url)
                )));
            }
            let mut request = client.client().get(url.clone());
            if let Some(accept) = &question.accept {
                request = request.header(ACCEPT, accept);
            }
            if question.offset > 0 {
                request = request.header(RANGE, format!("bytes={}-", question.offset));
            }
            if let Some(permit) = &permit {
                request = request.header(AUTHORIZATION, permit.header());
            }
            let answer = self.with_retries(shown.clone(), request.send()).await?;
            web.check_peer(&url, &answer).map_err(not_asked)?;
            let next = match redirection(&url, &answer) {
                None => return Ok(answer),
                Some(next) => next.map_err(|rule| invalid(rule.to_owned()))?,
            };
            // Credentials are only for one origin.
            permit = permit.filter(|_| next.origin() == url.origin());
            url = next;
        }
        Err(invalid("its server redirects too often".to_owned()))
    }

    fn login_error(&self, rule: impl Into<String>) -> PullErrorKind {
        PullErrorKind::Login {
            registry: self.registry.clone(),
            rule: rule.into(),
        }
    }

    /// Returns the credentials to send, after the registry has required some.
    async fn authorize(&self, challenge: Option<Challenge>) -> Result<AuthHeader, PullErrorKind> {
        match challenge {
            None => Err(self.login_error("it asks for something other than a password or a token")),
            Some(Challenge::Basic) => self.login.clone().ok_or_else(|| {
                self.login_error(
                    "it requires a user and password: add them to the file of --image-credentials",
                )
            }),
            Some(Challenge::Bearer { realm, service }) => self.token(&realm, service).await,
        }
    }

    async fn token(
        &self,
        realm: &str,
        service: Option<String>,
    ) -> Result<AuthHeader, PullErrorKind> {
        let mut url = Url::parse(realm)
            .map_err(|error| self.login_error(format!("its token server {realm:?}: {error}")))?;
        {
            let mut query = url.query_pairs_mut();
            if let Some(service) = &service {
                query.append_pair("service", service);
            }
            query.append_pair("scope", &self.scope);
        }
        let question = RegistryRequest {
            url,
            accept: None,
            offset: 0,
        };
        let answer = match self.send(&question, self.login.clone()).await {
            Err(PullErrorKind::Denied { refusal, .. }) => {
                return Err(self.login_error(format!("its token server: {refusal}")));
            }
            Err(PullErrorKind::InvalidRequest { rule, .. }) => {
                return Err(self.login_error(format!("its token server: {rule}")));
            }
            answer => check_status(answer?)?,
        };
        let what = "the response of the token server";
        let bytes = self.whole(answer, what, TOKEN_BYTES).await?;
        let token: BearerToken = serde_json::from_slice(&bytes)
            // The parser's message could quote it.
            .map_err(|_| self.login_error("its token server returned an invalid token"))?;
        let token = token.token.or(token.access_token).unwrap_or_default();
        AuthHeader::bearer(&token)
            .ok_or_else(|| self.login_error("its token server returned an invalid token"))
    }
}

/// Returns the challenge of a registry that refused a request.
fn challenge(answer: &Response) -> Option<Challenge> {
    let headers = answer.headers().get_all(WWW_AUTHENTICATE).iter();
    challenge::preferred(headers.filter_map(|value| value.to_str().ok()))
}

#[derive(Deserialize)]
struct BearerToken {
    token: Option<String>,
    access_token: Option<String>,
}

/// Returns the offset at which a response starts.
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

/// Formats `host`, or `host:port` if the port is not the scheme's default.
pub(super) fn authority(url: &Url) -> String {
    let host = url.host_str().unwrap_or_default();
    match url.port() {
        Some(port) => format!("{host}:{port}"),
        None => host.to_owned(),
    }
}

fn display_url(url: &Url) -> String {
    RedactedUri::of(url.as_str()).to_string()
}

fn check_status(answer: Response) -> Result<Response, PullErrorKind> {
    let status = answer.status();
    if status.is_success() {
        return Ok(answer);
    }
    let seconds = answer.headers().get(RETRY_AFTER);
    let seconds = seconds.and_then(|value| value.to_str().ok()?.parse().ok());
    Err(PullErrorKind::Status {
        url: display_url(answer.url()),
        status: status.as_u16(),
        remedy: match status.as_u16() {
            401 | 403 => {
                ": check the spelling, or add credentials to the file of --image-credentials"
            }
            404 => ": there is no such image or tag",
            429 => ": it limits requests; log in, or wait",
            _ => "",
        },
        retry_after_s: seconds,
    })
}

#[cfg(test)]
mod tests;
