//! The identity of an HTTP caller, which is passed to the services with the request.

use std::convert::Infallible;

use argosy_proto::server::audit::RequestAudit;
use argosy_proto::transport::{ConnectionAddresses, PeerIdentity};
use argosy_state::actor::Actor;
use axum::extract::FromRequestParts;
use axum::http::request::Parts;
use tonic::Request;

use crate::service::{WatchedCredential, actor_of_peer};

pub(super) struct RequestPeer {
    peer: Option<PeerIdentity>,
    addresses: Option<ConnectionAddresses>,
    audit: Option<RequestAudit>,
    /// The credential of the caller. It is checked again when the request is served.
    credential: Option<WatchedCredential>,
}

impl<S: Sync> FromRequestParts<S> for RequestPeer {
    type Rejection = Infallible;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Infallible> {
        Ok(Self {
            peer: parts.extensions.get().cloned(),
            addresses: parts.extensions.get().copied(),
            audit: parts.extensions.get().cloned(),
            credential: parts.extensions.get().cloned(),
        })
    }
}

impl RequestPeer {
    /// Returns the actor of the request: its peer, since masters do not forward HTTP.
    pub(super) fn actor(&self) -> Actor {
        actor_of_peer(self.peer.as_ref())
    }

    /// Builds the caller's request. Headers are dropped: masters do not forward HTTP.
    pub(super) fn request<T>(self, question: T) -> Request<T> {
        let mut request = Request::new(question);
        if let Some(peer) = self.peer {
            request.extensions_mut().insert(peer);
        }
        if let Some(addresses) = self.addresses {
            request.extensions_mut().insert(addresses);
        }
        if let Some(audit) = self.audit {
            request.extensions_mut().insert(audit);
        }
        if let Some(credential) = self.credential {
            request.extensions_mut().insert(credential);
        }
        request
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn request_keeps_the_peer_and_its_credential_and_no_headers() {
        let alice = PeerIdentity::authenticated("operator/alice".parse().unwrap(), None);
        let (revoke, credential) = WatchedCredential::of_key_for_tests();
        let request = axum::http::Request::get("/v1/agents")
            .header("argosy-forwarded-actor", "operator/bob")
            .extension(alice.clone())
            .extension(credential)
            .body(());
        let (mut parts, ()) = request.unwrap().into_parts();
        let Ok(caller) = RequestPeer::from_request_parts(&mut parts, &()).await;
        let question = caller.request(());
        assert_eq!(question.extensions().get(), Some(&alice));
        assert!(question.metadata().is_empty());
        // It is checked again where the call is served.
        let credential = question.extensions().get::<WatchedCredential>();
        let credential = credential.expect("the request keeps it");
        assert!(credential.check().is_ok());
        revoke();
        assert!(credential.check().is_err());
    }
}
