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
use hyper::body::{Frame, SizeHint};
use tokio::runtime::Handle;
use tokio::time::timeout;

/// The maximum size of the discarded part of a body, in bytes: four of the largest messages.
const MAX_DISCARDED: usize = 16 << 20;
/// The time for the whole rest of a body.
const DISCARD_TIMEOUT: Duration = Duration::from_secs(5);
/// The time for the next bytes of the rest.
const SILENCE_TIMEOUT: Duration = Duration::from_secs(1);

/// A body whose unread rest is discarded when it is dropped.
pub(super) struct DiscardedBody<B: ReceivedBody> {
    /// Present until the drop.
    body: Option<B>,
    is_discarded: bool,
}

/// A body that can be received after its handler has ended.
pub(super) trait ReceivedBody: HttpBody<Data = Bytes> + Send + Unpin + 'static {}

impl<B: HttpBody<Data = Bytes> + Send + Unpin + 'static> ReceivedBody for B {}

impl<B: ReceivedBody> DiscardedBody<B> {
    /// Returns the body of a request with this head.
    pub(super) fn new(body: B, head: &http::request::Parts) -> Self {
        // A client that waits for permission to send has sent nothing that could be unread.
        let waits = head.headers.contains_key(http::header::EXPECT);
        Self {
            is_discarded: head.version <= http::Version::HTTP_11 && !waits,
            body: Some(body),
        }
    }
}

impl<B: ReceivedBody> Drop for DiscardedBody<B> {
    fn drop(&mut self) {
        let Some(rest) = self.body.take().filter(|body| !body.is_end_stream()) else {
            return;
        };
        if let (true, Ok(runtime)) = (self.is_discarded, Handle::try_current()) {
            runtime.spawn(timeout(DISCARD_TIMEOUT, discarded(rest)));
        }
    }
}

/// Receives the rest of a body, until it ends, is silent or is too large.
async fn discarded(mut body: impl ReceivedBody) {
    let mut bytes = 0;
    while bytes < MAX_DISCARDED {
        let next = std::future::poll_fn(|context| Pin::new(&mut body).poll_frame(context));
        let Ok(Some(Ok(frame))) = timeout(SILENCE_TIMEOUT, next).await else {
            return;
        };
        bytes += frame.data_ref().map_or(0, Bytes::len);
    }
}

impl<B: ReceivedBody> HttpBody for DiscardedBody<B> {
    type Data = Bytes;
    type Error = B::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, B::Error>>> {
        match &mut self.body {
            Some(body) => Pin::new(body).poll_frame(context),
            None => Poll::Ready(None),
        }
    }

    fn is_end_stream(&self) -> bool {
        self.body.as_ref().is_none_or(HttpBody::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        self.body
            .as_ref()
            .map_or_else(SizeHint::default, HttpBody::size_hint)
    }
}
