//! The rest of a request's body that its handler did not read.
//!
//! A connection of HTTP/1.1 that is closed while bytes of a request are unread is reset, and a
//! reset also discards the response on its way: the client sees a broken connection instead of the
//! reason for the refusal (RFC 9112, section 9.6). So the rest is received and discarded, within
//! limits. HTTP/2 ends single requests instead.

use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::body::{Bytes, HttpBody};
use hyper::body::{Frame, Incoming, SizeHint};
use tokio::runtime::Handle;
use tokio::time::timeout;

/// The maximum size of the discarded part of a body, in bytes: four of the largest messages.
const MAX_DISCARDED: usize = 16 << 20;
/// The time for the whole rest of a body.
const DISCARD_TIMEOUT: Duration = Duration::from_secs(5);
/// The time for the next bytes of the rest.
const SILENCE_TIMEOUT: Duration = Duration::from_secs(1);

/// A body whose unread rest is discarded when it is dropped.
pub(super) struct DiscardedBody {
    /// Present until the drop.
    body: Option<Incoming>,
    /// Whether the client sends it: a rest may be on its way.
    is_sent: bool,
    is_http1: bool,
}

impl DiscardedBody {
    /// Returns the body of a request with this head.
    pub(super) fn new(body: Incoming, head: &http::request::Parts) -> Self {
        Self {
            body: Some(body),
            // With this header, a client waits until its body is read.
            is_sent: !head.headers.contains_key(http::header::EXPECT),
            is_http1: head.version <= http::Version::HTTP_11,
        }
    }
}

impl Drop for DiscardedBody {
    fn drop(&mut self) {
        let is_discarded = self.is_http1 && self.is_sent;
        let body = self.body.take().filter(|_| is_discarded);
        let rest = body.filter(|body| !body.is_end_stream());
        if let (Some(rest), Ok(runtime)) = (rest, Handle::try_current()) {
            runtime.spawn(timeout(DISCARD_TIMEOUT, discarded(rest)));
        }
    }
}

/// Receives the rest of a body, until it ends, is silent or is too large.
async fn discarded(mut body: Incoming) {
    let mut bytes = 0;
    while bytes < MAX_DISCARDED {
        let next = std::future::poll_fn(|context| Pin::new(&mut body).poll_frame(context));
        let Ok(Some(Ok(frame))) = timeout(SILENCE_TIMEOUT, next).await else {
            return;
        };
        bytes += frame.data_ref().map_or(0, Bytes::len);
    }
}

impl HttpBody for DiscardedBody {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        self.is_sent = true;
        match &mut self.body {
            Some(body) => Pin::new(body).poll_frame(context),
            None => Poll::Ready(None),
        }
    }

    fn is_end_stream(&self) -> bool {
        self.body.as_ref().is_none_or(HttpBody::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        let body = self.body.as_ref();
        body.map_or_else(SizeHint::default, HttpBody::size_hint)
    }
}
