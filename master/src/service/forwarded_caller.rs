//! The caller of a forwarded call, as a master names it to the leader: its actor, and the
//! credential that proved it.
//!
//! The master that forwards may not have applied a revocation yet. So the leader checks the
//! credential, too, and its answer ends with it.

use argosy_proto::server::audit::FORWARDED_ACTOR;
use argosy_proto::transport::{Credential, PeerIdentity};
use argosy_state::access::{KeyHash, TokenId};
use argosy_state::actor::{Actor, PrincipalKind};
use axum::http::HeaderMap;
use tonic::metadata::{MetadataMap, MetadataValue};
use tonic::{Code, Extensions, Status};
use tonic_types::{ErrorDetails, StatusExt as _};

use super::actor::{name_actor, read};
use super::bearer::unconfirmed;
use super::forward::FORWARDED;
use super::revocation::WatchedCredential;
use crate::owner_handle::{OwnerHandle, unavailable};

/// Names the credential of a forwarded call: `key:HASH` or `token:ID`.
const FORWARDED_CREDENTIAL: &str = "argosy-forwarded-credential";

/// The credential of the caller of a call that a master has forwarded.
#[derive(Clone)]
pub(crate) struct ForwardedCredential(pub(crate) WatchedCredential);

/// The caller of a call that this master forwards.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ForwardedCaller {
    actor: Actor,
    credential: Option<Credential>,
}

impl ForwardedCaller {
    /// Returns the caller of a call with these extensions.
    pub(super) fn new(actor: Actor, extensions: &Extensions) -> Self {
        let peer = extensions.get::<PeerIdentity>();
        Self {
            actor,
            credential: peer.and_then(PeerIdentity::credential),
        }
    }

    /// Names this caller in the metadata of a forwarded call.
    pub(super) fn name(&self, metadata: &mut MetadataMap) {
        name_actor(metadata, &self.actor);
        let text = match self.credential {
            Some(Credential::Key(key)) => format!("key:{key}"),
            Some(Credential::Token(id, _)) => format!("token:{id}"),
            None => return,
        };
        let value = MetadataValue::try_from(text).expect("the text of a credential is plain ASCII");
        metadata.insert(FORWARDED_CREDENTIAL, value);
    }
}

/// Marks the refusal of a call because of the key of the master that has forwarded it.
const FORWARDING_KEY: &str = "argosy-forwarding-key-refused";

/// Returns the status of a forwarded call whose forwarding master has a revoked or expired
/// credential. That master returns the status to its caller, which must not conclude that its own
/// credential was revoked.
pub(super) fn forwarding_key_refused() -> Status {
    let text = "the key of the master that forwards calls was revoked: call another master";
    let mut status = unavailable(text);
    let marked = MetadataValue::from_static("1");
    status.metadata_mut().insert(FORWARDING_KEY, marked);
    status
}

/// Returns true if the leader has refused the key with which this master forwarded a call.
pub(super) fn is_forwarding_key_refused(status: &Status) -> bool {
    status.metadata().contains_key(FORWARDING_KEY)
}

/// Returns true if a master has forwarded the call with these headers.
pub(crate) fn is_forwarded(headers: &HeaderMap) -> bool {
    headers.contains_key(FORWARDED)
}

/// Returns the credential that a master names in a call that it forwards.
///
/// # Errors
/// UNAUTHENTICATED if it is revoked or has expired; UNAVAILABLE if it is unknown here, and no
/// majority confirms that; PERMISSION_DENIED if the peer is no master.
pub(crate) async fn forwarded_credential(
    owner: &OwnerHandle,
    headers: &HeaderMap,
    peer: Option<&PeerIdentity>,
) -> Result<Option<ForwardedCredential>, Status> {
    let mut named = headers.get_all(FORWARDED_CREDENTIAL).iter();
    let Some(first) = named.next() else {
        return Ok(None);
    };
    let principal = peer.and_then(PeerIdentity::principal);
    if principal.is_none_or(|one| one.kind != PrincipalKind::Master) {
        return Err(forged());
    }
    if named.next().is_some() {
        return Err(malformed("it is there more than once"));
    }
    let named = read_credential(first.to_str().unwrap_or_default())?;
    let actor = headers.get(FORWARDED_ACTOR);
    let principal = match actor.map(|actor| read(actor.as_bytes())).transpose()? {
        Some(Actor::Principal(principal)) => Some(principal),
        Some(Actor::Unauthenticated | Actor::Cluster) | None => None,
    };
    let watched = || {
        let access = owner.access.clone();
        let credential = match named {
            // The registry has the time of its end.
            Credential::Token(id, _) => {
                let facts = access.borrow();
                let expires = facts
                    .tokens
                    .get(&id)
                    .and_then(|token| token.expires_wall_ms);
                Credential::Token(id, expires)
            }
            Credential::Key(_) => named,
        };
        let clock = owner.node.wall_clock().clone();
        WatchedCredential::checked(access, clock, principal.clone(), credential)
    };
    let mut found = watched();
    if found.is_err() && matches!(named, Credential::Token(..)) {
        // A new leader may not have applied its creation yet.
        let confirm = async { owner.confirm().await.is_ok() };
        if !owner.token_confirmations.wait(confirm).await {
            return Err(unconfirmed());
        }
        found = watched();
    }
    found.map(|watched| Some(ForwardedCredential(watched)))
}

pub(crate) fn read_credential(text: &str) -> Result<Credential, Status> {
    let read = match text.split_once(':') {
        Some(("key", hash)) => hash.parse::<KeyHash>().map(Credential::Key).ok(),
        Some(("token", id)) => {
            let id = id.parse::<TokenId>();
            id.map(|id| Credential::Token(id, None)).ok()
        }
        Some(_) | None => None,
    };
    read.ok_or_else(|| malformed("write key:HASH or token:ID"))
}

fn malformed(why: &str) -> Status {
    Status::invalid_argument(format!("{FORWARDED_CREDENTIAL}: {why}"))
}

fn forged() -> Status {
    let text = format!(
        "{FORWARDED_CREDENTIAL}: only a master may name a credential, for callers that it has authenticated"
    );
    let details = ErrorDetails::with_error_info("forwarded-actor", "argosy", []);
    Status::with_error_details(Code::PermissionDenied, text, details)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_credential_of_a_caller_is_named_and_read_again() {
        for credential in [
            Credential::Key(KeyHash([0xab; 32])),
            Credential::Token(TokenId(7), None),
        ] {
            let actor: Actor = "operator/alice".parse().unwrap();
            let Actor::Principal(principal) = actor.clone() else {
                panic!("{actor} is a principal");
            };
            let mut extensions = Extensions::new();
            let peer = PeerIdentity::authenticated(principal, None).with_credential(credential);
            extensions.insert(peer);
            let mut metadata = MetadataMap::new();
            ForwardedCaller::new(actor, &extensions).name(&mut metadata);
            assert_eq!(metadata.get(FORWARDED_ACTOR).unwrap(), "operator/alice");
            let named = metadata.get(FORWARDED_CREDENTIAL).unwrap();
            assert_eq!(
                read_credential(named.to_str().unwrap()).unwrap(),
                credential
            );
        }
        // A caller without a credential has none to name.
        let mut metadata = MetadataMap::new();
        ForwardedCaller::new(Actor::Unauthenticated, &Extensions::new()).name(&mut metadata);
        assert!(metadata.get(FORWARDED_CREDENTIAL).is_none());
    }

    #[test]
    fn a_malformed_credential_is_rejected() {
        for text in [
            "",
            "key",
            "key:",
            "key:ab",
            "token:7",
            "secret:7",
            "key:ab:cd",
        ] {
            let refused = read_credential(text).unwrap_err();
            assert_eq!(refused.code(), Code::InvalidArgument, "{text}");
        }
    }
}
