//! Answers end when the credential of their caller is revoked or expires.

use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use argosy_proto::clock::WallClock;
use argosy_proto::transport::{Credential, PeerIdentity};
use argosy_state::access::AccessFacts;
use argosy_state::actor::{Principal, PrincipalKind};
use axum::body::Body;
use axum::http::{HeaderMap, StatusCode};
use axum::response::Response;
use bytes::Bytes;
use hyper::body::{Body as HttpBody, Frame, SizeHint};
use tokio::sync::watch;
use tonic::Status;

use super::bearer::check_credential;
use super::forwarded_caller::forwarding_key_refused;
use crate::owner_handle::OwnerHandle;

/// A credential whose end is awaited.
#[derive(Clone)]
pub(crate) struct WatchedCredential {
    access: watch::Receiver<AccessFacts>,
    principal: Option<Principal>,
    credential: Credential,
    clock: WallClock,
    /// Whether it is that of a master that forwards the call of another caller.
    forwards: bool,
}

impl WatchedCredential {
    /// Returns the credential of a peer, if it can be revoked. `is_forwarded`: the peer names
    /// another caller.
    ///
    /// # Errors
    /// If it is revoked or expired: UNAVAILABLE for a master that forwards a call, otherwise
    /// UNAUTHENTICATED.
    pub(crate) fn of(
        owner: &OwnerHandle,
        peer: Option<&PeerIdentity>,
        is_forwarded: bool,
    ) -> Result<Option<Self>, Status> {
        let Some(peer) = peer else {
            return Ok(None);
        };
        let (access, clock) = (owner.access.clone(), owner.node.wall_clock().clone());
        Self::of_peer(access, clock, peer, is_forwarded)
    }

    fn of_peer(
        access: watch::Receiver<AccessFacts>,
        clock: WallClock,
        peer: &PeerIdentity,
        is_forwarded: bool,
    ) -> Result<Option<Self>, Status> {
        let Some(credential) = peer.credential() else {
            return Ok(None);
        };
        let principal = peer.principal().cloned();
        let is_master = |one: &Principal| one.kind == PrincipalKind::Master;
        let watched = Self {
            access,
            clock,
            forwards: is_forwarded && principal.as_ref().is_some_and(is_master),
            principal,
            credential,
        };
        watched.check()?;
        Ok(Some(watched))
    }

    /// Returns this credential of a principal, as these facts change.
    ///
    /// # Errors
    /// UNAUTHENTICATED if it is revoked, or expired.
    pub(crate) fn checked(
        access: watch::Receiver<AccessFacts>,
        clock: WallClock,
        principal: Option<Principal>,
        credential: Credential,
    ) -> Result<Self, Status> {
        let watched = Self {
            access,
            principal,
            credential,
            clock,
            forwards: false,
        };
        watched.check()?;
        Ok(watched)
    }

    /// Checks it again.
    ///
    /// # Errors
    /// As those of [`WatchedCredential::of`].
    pub(crate) fn check(&self) -> Result<(), Status> {
        let principal = self.principal.as_ref();
        let now_ms = self.clock.now_ms();
        let checked = check_credential(&self.access.borrow(), principal, self.credential, now_ms);
        match self.forwards {
            true => checked.map_err(|_| forwarding_key_refused()),
            false => checked,
        }
    }

    /// Checks it again if facts of access have changed.
    pub(crate) fn check_changed(&mut self) -> Result<(), Status> {
        match self.access.has_changed() {
            Ok(true) => {
                self.access.mark_unchanged();
                self.check()
            }
            // Without its owner, this master is stopping.
            Ok(false) | Err(_) => Ok(()),
        }
    }

    /// Waits until it is revoked or expires; returns the reason.
    pub(crate) async fn ended(mut self) -> Status {
        loop {
            self.access.mark_unchanged();
            if let Err(status) = self.check() {
                return status;
            }
            let left = match self.credential {
                Credential::Token(_, Some(expires)) => {
                    let left_ms = expires.saturating_sub(self.clock.now_ms());
                    Duration::from_millis(u64::try_from(left_ms).unwrap_or_default())
                }
                Credential::Token(_, None) | Credential::Key(_) => Duration::MAX,
            };
            match tokio::time::timeout(left, self.access.changed()).await {
                Ok(Ok(())) | Err(_) => {}
                // The owner ends with its process, and so does the answer.
                Ok(Err(_)) => std::future::pending().await,
            }
        }
    }
}

/// Returns the same answer, which ends with its caller's credential.
pub(crate) fn until_revoked(response: Response, credential: Option<WatchedCredential>) -> Response {
    let Some(credential) = credential else {
        return response;
    };
    // An answer of a known size may take as long as any other: a download, for example. A caller
    // whose credential is refused gets the reason.
    if response.body().is_end_stream() || response.status() == StatusCode::UNAUTHORIZED {
        return response;
    }
    let kind = response.headers().get("content-type");
    let is_call = kind.is_some_and(|kind| kind.as_bytes().starts_with(b"application/grpc"));
    response.map(|body| {
        Body::new(RevocableBody {
            body: Some(body),
            credential,
            ended: None,
            is_call,
        })
    })
}

/// A body until a credential ends.
struct RevocableBody {
    /// `None` once it has ended.
    body: Option<Body>,
    credential: WatchedCredential,
    /// Awaited once the body is not ready.
    ended: Option<Pin<Box<dyn Future<Output = Status> + Send>>>,
    is_call: bool,
}

impl RevocableBody {
    /// Ends the body. The last frame of a call is its status; other answers are cut off.
    fn end(&mut self, status: &Status) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        self.body = None;
        self.ended = None;
        if !self.is_call {
            let text = status.message().to_owned();
            return Poll::Ready(Some(Err(axum::Error::new(std::io::Error::other(text)))));
        }
        let mut trailers = HeaderMap::new();
        let written = status.add_header(&mut trailers);
        Poll::Ready(match written {
            Ok(()) => Some(Ok(Frame::trailers(trailers))),
            Err(why) => Some(Err(axum::Error::new(why))),
        })
    }
}

impl HttpBody for RevocableBody {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        if self.body.is_none() {
            return Poll::Ready(None);
        }
        // A body that is always ready is never waited for.
        if let Err(status) = self.credential.check_changed() {
            return self.end(&status);
        }
        let Some(body) = &mut self.body else {
            return Poll::Ready(None);
        };
        if let Poll::Ready(frame) = Pin::new(body).poll_frame(context) {
            return Poll::Ready(frame);
        }
        let credential = self.credential.clone();
        let ended = self
            .ended
            .get_or_insert_with(|| Box::pin(credential.ended()));
        match ended.as_mut().poll(context) {
            Poll::Ready(status) => self.end(&status),
            Poll::Pending => Poll::Pending,
        }
    }

    fn is_end_stream(&self) -> bool {
        self.body.as_ref().is_none_or(HttpBody::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        match &self.body {
            // Its reader sees that it ends early: the connection is cut off.
            Some(body) if !self.is_call => body.size_hint(),
            // It may end earlier.
            Some(_) | None => SizeHint::default(),
        }
    }
}

#[cfg(test)]
mod tests;
