//! One request of the file API: its URL, its answer, and the reason of a refusal.

use argosy_proto::server::hosts::CLIENT_HEADER;
use argosy_proto::trace;
use axum::body::{Body, BodyDataStream};
use axum::http::header::{HeaderMap, HeaderName, HeaderValue, RETRY_AFTER};
use axum::http::{Request, Response};
use futures::StreamExt as _;

use super::{ANSWER_LIMIT, FileLocation, FileReader, ReadError, SILENCE_LIMIT, busy};
use crate::transport::MASTER;

/// Maximum size of the answer about a preparation. The name of an image and a URI are shorter.
const PREPARATION_BYTES: usize = 64 * 1024;

/// The calls of the file API.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum FileCall {
    Browse,
    Read,
    Download,
}

impl FileCall {
    fn name(self) -> &'static str {
        match self {
            Self::Browse => "browse",
            Self::Read => "read",
            Self::Download => "download",
        }
    }
}

/// The maximum size of an error's body.
const ERROR_BYTES: usize = 64 << 10;

/// An answer whose body was not read yet.
pub(super) struct FileAnswer {
    headers: HeaderMap,
    body: BodyDataStream,
    /// The master that sends it.
    master: String,
}

impl FileReader {
    /// Sends one request to the present master. `more` is appended to the query.
    pub(super) async fn send(
        &self,
        call: FileCall,
        location: &FileLocation,
        more: &str,
    ) -> Result<FileAnswer, ReadError> {
        let (call, path) = (call.name(), encoded(&location.path));
        let path = format!("files/{call}?path={path}{more}");
        self.request(&location.agent_id, &path).await
    }

    /// Returns what the agent of a task fetches for it, as JSON, through the present master.
    pub(crate) async fn preparation(
        &self,
        agent_id: &str,
        task: &str,
    ) -> Result<Vec<u8>, ReadError> {
        let path = format!("preparation?task={}", encoded(task));
        let mut answer = self.request(agent_id, &path).await?;
        answer.body(PREPARATION_BYTES).await
    }

    /// Sends one request about an agent to the present master.
    async fn request(&self, agent_id: &str, path: &str) -> Result<FileAnswer, ReadError> {
        let masters = &self.masters.addresses;
        let master = &masters[self.next % masters.len().max(1)];
        let asked = Request::get(format!("/v1/agents/{agent_id}/{path}")).body(Body::empty());
        let mut asked = asked.map_err(|error| broken(&error))?;
        asked.headers_mut().extend(no_web_page());
        let http = &self.masters.http;
        let sending = http.send(master, MASTER, asked);
        let response = match tokio::time::timeout(ANSWER_LIMIT, sending).await {
            Ok(Ok(response)) => response,
            Ok(Err(error)) => return Err(broken(&error)),
            Err(_) => return Err(ReadError::Broken(format!("{master} does not answer"))),
        };
        let status = response.status();
        if !status.is_success() {
            let pause = response.headers().get(RETRY_AFTER);
            let pause = busy::pause(pause.and_then(|value| value.to_str().ok()));
            let text = response_message(&error_body(response).await);
            return Err(match status.as_u16() {
                404 => ReadError::NotFound(text),
                429 => ReadError::Busy { text, pause },
                400..=499 => ReadError::Refused(text),
                _ => ReadError::Broken(text),
            });
        }
        let (parts, body) = response.into_parts();
        Ok(FileAnswer {
            headers: parts.headers,
            body: body.into_data_stream(),
            master: master.clone(),
        })
    }
}

impl FileAnswer {
    fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name)?.to_str().ok()
    }

    /// Returns the number of bytes of the file.
    pub(super) fn size(&self) -> Option<u64> {
        self.header("x-argosy-size")?.parse().ok()
    }

    /// Returns the offset at which the answer begins.
    pub(super) fn offset(&self) -> Option<u64> {
        self.header("x-argosy-offset")?.parse().ok()
    }

    /// Returns the offset of the time that was requested.
    pub(super) fn since_offset(&self) -> Option<u64> {
        self.header("x-argosy-since-offset")?.parse().ok()
    }

    /// Returns whether the body has frames with times.
    pub(super) fn has_times(&self) -> bool {
        self.header("x-argosy-times") == Some("true")
    }

    /// Returns whether the task has ended.
    pub(super) fn has_ended(&self) -> bool {
        self.header("x-argosy-ended") == Some("true")
    }

    /// Returns the next bytes, or `None` at the end.
    pub(super) async fn next(&mut self) -> Result<Option<bytes::Bytes>, ReadError> {
        match tokio::time::timeout(SILENCE_LIMIT, self.body.next()).await {
            Ok(chunk) => chunk.transpose().map_err(|error| broken(&error)),
            Err(_) => {
                let master = &self.master;
                Err(ReadError::Broken(format!("{master} stopped sending")))
            }
        }
    }

    /// Returns the whole body, which must not be longer than this.
    pub(super) async fn body(&mut self, most: usize) -> Result<Vec<u8>, ReadError> {
        let mut all = Vec::new();
        while let Some(bytes) = self.next().await? {
            if all.len() + bytes.len() > most {
                let master = &self.master;
                let text = format!("{master} sent more than the {most} bytes that were requested");
                return Err(ReadError::Broken(text));
            }
            all.extend_from_slice(&bytes);
        }
        Ok(all)
    }
}

fn broken(error: &dyn std::error::Error) -> ReadError {
    ReadError::Broken(crate::exit::chain(error))
}

/// Returns the body of an error; without one, only its status is known.
pub(crate) async fn error_body(response: Response<Body>) -> String {
    let body = axum::body::to_bytes(response.into_body(), ERROR_BYTES).await;
    String::from_utf8_lossy(&body.unwrap_or_default()).into_owned()
}

/// Returns a text as the value of a parameter.
pub(crate) fn encoded(path: &str) -> String {
    let mut all = String::with_capacity(path.len());
    for byte in path.bytes() {
        if byte.is_ascii_alphanumeric() || b"/-._~:@".contains(&byte) {
            all.push(char::from(byte));
        } else {
            all.push_str(&format!("%{byte:02X}"));
        }
    }
    all
}

/// Returns headers that let this program reach masters by any name.
pub(crate) fn no_web_page() -> HeaderMap {
    let header = (
        HeaderName::from_static(CLIENT_HEADER),
        HeaderValue::from_static("argosy"),
    );
    let mut headers = HeaderMap::from_iter([header]);
    if let Some(context) = trace::request_header() {
        headers.insert(trace::HEADER, context);
    }
    headers
}

/// Returns the message in an error's body: the `message` of JSON, else the text itself.
pub(crate) fn response_message(body: &str) -> String {
    let parsed: Option<serde_json::Value> = serde_json::from_str(body).ok();
    let found = parsed
        .as_ref()
        .and_then(|value| value.get("message")?.as_str());
    let text: String = found
        .unwrap_or(body)
        .chars()
        .filter(|letter| !letter.is_control())
        .take(300)
        .collect();
    if text.is_empty() {
        "no reason was given".to_owned()
    } else {
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_encoded_for_a_query() {
        assert_eq!(
            encoded("tasks/f-1/a:b@c/stdout.1"),
            "tasks/f-1/a:b@c/stdout.1"
        );
        assert_eq!(
            encoded("a b&c=d%2F#?+é\n"),
            "a%20b%26c%3Dd%252F%23%3F%2B%C3%A9%0A"
        );
    }
}
