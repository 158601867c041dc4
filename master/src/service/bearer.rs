//! Bearer tokens: a request with one has the identity of its principal.
//!
//! The registry has the hash of each secret, so every master can verify a token. A master that has
//! not applied its creation yet asks the leader how far the log is, and applies that first.

use argosy_proto::transport::{Credential, PeerIdentity};
use argosy_state::access::{AccessFacts, KeyHash, Token, TokenPurpose, TokenSecret};
use argosy_state::actor::{Principal, PrincipalKind};
use axum::http::header::AUTHORIZATION;
use axum::http::request::Parts;
use sha2::{Digest as _, Sha256};
use tonic::Status;

use super::refused;
use crate::access::UNPROVEN;
use crate::owner_handle::{OwnerHandle, unprocessed};

const SCHEME: &str = "Bearer ";

/// Gives a request the identity that its token proves, and removes the token from it.
///
/// # Errors
/// UNAUTHENTICATED for a token that proves none; UNAVAILABLE for one that is unknown here, while no
/// majority confirms that.
pub(crate) async fn identify(owner: &OwnerHandle, request: &mut Parts) -> Result<(), Status> {
    let mut named = request.headers.get_all(AUTHORIZATION).iter();
    let Some(first) = named.next() else {
        return Ok(());
    };
    let text = first.to_str().unwrap_or_default();
    let secret = text.get(..SCHEME.len()).map(|scheme| {
        let is_bearer = scheme.eq_ignore_ascii_case(SCHEME);
        is_bearer.then(|| text[SCHEME.len()..].trim().parse::<TokenSecret>().ok())
    });
    let secret = match secret.flatten().flatten() {
        Some(secret) if named.next().is_none() => secret,
        // Without rules, the header of another scheme means nothing, as before.
        Some(_) | None if !owner.enforces_access => return Ok(()),
        Some(_) | None => {
            return Err(unproven(
                "the header authorization is not one bearer token: send \"Bearer argosy_ID_SECRET\" once",
            ));
        }
    };
    request.headers.remove(AUTHORIZATION);
    let peer = request.extensions.get::<PeerIdentity>();
    if !peer.is_some_and(PeerIdentity::is_over_tls) {
        return Err(unproven(
            "a token was sent without TLS, so others may have read it: revoke it, and give the client --tls-ca",
        ));
    }
    let address = peer.and_then(PeerIdentity::address);
    let now_ms = owner.node.wall_clock().now_ms();
    let found = |owner: &OwnerHandle| verify(&owner.access.borrow(), &secret, now_ms);
    let mut verified = found(owner);
    if verified == Err(TokenError::Unknown) {
        // It may have been created at another master just now.
        let confirm = async { owner.confirm().await.is_ok() };
        if !owner.token_confirmations.wait(confirm).await {
            return Err(unconfirmed());
        }
        verified = found(owner);
    }
    let (principal, expires) = verified.map_err(|why| unproven(&why.to_string()))?;
    let credential = Credential::Token(secret.id, expires);
    let peer = PeerIdentity::authenticated(principal, address).with_credential(credential);
    request.extensions.insert(peer);
    Ok(())
}

/// Returns the status of a call whose token is unknown here, while no majority confirms that this
/// master knows the newest tokens.
pub(super) fn unconfirmed() -> Status {
    unprocessed("the token is unknown here, and no majority of masters confirms that: try again")
}

/// The reason why a token proves nothing. An unknown one looks like one with another secret.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(super) enum TokenError {
    #[error("the token is unknown: it was revoked, or is of another cluster")]
    Unknown,
    #[error("the token has expired: create another one with argosy token create")]
    Expired,
    #[error("the token is for joining the cluster, and proves no identity")]
    ForJoining,
    #[error("only a certificate proves that a process is an agent or a master")]
    OfMember,
}

/// Returns the principal of a token and the time at which it expires.
fn verify(
    facts: &AccessFacts,
    secret: &TokenSecret,
    now_ms: i64,
) -> Result<(Principal, Option<i64>), TokenError> {
    let hash: [u8; 32] = Sha256::digest(secret.secret).into();
    let known = facts.tokens.get(&secret.id);
    let token = known.filter(|token| is_same(&token.hash, &hash));
    let token = token.ok_or(TokenError::Unknown)?;
    if token.is_expired(now_ms) {
        return Err(TokenError::Expired);
    }
    bearer(token).map(|principal| (principal, token.expires_wall_ms))
}

fn bearer(token: &Token) -> Result<Principal, TokenError> {
    match &token.purpose {
        // So each actor of these kinds has a certificate, or is named by a master.
        TokenPurpose::Bearer(principal) => match principal.kind {
            PrincipalKind::Agent | PrincipalKind::Master => Err(TokenError::OfMember),
            PrincipalKind::Framework | PrincipalKind::Operator => Ok(principal.clone()),
        },
        TokenPurpose::Join { .. } => Err(TokenError::ForJoining),
    }
}

/// Returns whether a secret is that of a join token that has not expired. Whether the token has a
/// use left is decided when it is used.
///
/// # Errors
/// UNAVAILABLE if the token is unknown here, and no quorum confirms that.
pub(super) async fn is_join_token(
    owner: &OwnerHandle,
    secret: &TokenSecret,
) -> Result<bool, Status> {
    let now_ms = owner.node.wall_clock().now_ms();
    let found = || verify(&owner.access.borrow(), secret, now_ms);
    if found() == Err(TokenError::Unknown) {
        // A new leader may not have applied its creation yet.
        owner.confirm().await?;
    }
    Ok(found() == Err(TokenError::ForJoining))
}

/// Compares two hashes in a time that does not depend on where they differ.
fn is_same(one: &[u8; 32], other: &[u8; 32]) -> bool {
    let pairs = one.iter().zip(other);
    let different = pairs.fold(0, |sum, (one, other)| sum | (one ^ other));
    std::hint::black_box(different) == 0
}

/// Returns whether a credential proves its identity still. `principal` is that of the peer.
///
/// # Errors
/// UNAUTHENTICATED with the reason.
pub(crate) fn check_credential(
    facts: &AccessFacts,
    principal: Option<&Principal>,
    credential: Credential,
    now_ms: i64,
) -> Result<(), Status> {
    match credential {
        Credential::Key(key) if facts.revoked.contains_key(&key) => Err(unproven(
            "the key of this certificate was revoked: create another key and certificate",
        )),
        Credential::Key(key) => {
            let bound = principal.and_then(|principal| facts.bindings.get(principal));
            let is_other = |bound: &&KeyHash| **bound != key && !facts.revoked.contains_key(*bound);
            match bound.filter(is_other) {
                None => Ok(()),
                Some(_) => Err(unproven(
                    "this identity has joined with another key: revoke that one, to let this one join",
                )),
            }
        }
        Credential::Token(id, expires) => {
            let known = facts.tokens.get(&id);
            match known {
                None => Err(unproven(&TokenError::Unknown.to_string())),
                Some(_) if expires.is_some_and(|expires| now_ms >= expires) => {
                    Err(unproven(&TokenError::Expired.to_string()))
                }
                Some(_) => Ok(()),
            }
        }
    }
}

pub(super) fn unproven(text: &str) -> Status {
    refused(UNPROVEN, text)
}

#[cfg(test)]
mod tests {
    use argosy_state::access::{RevokedKey, TokenId};
    use argosy_state::actor::Actor;

    use super::*;

    const SECRET: TokenSecret = TokenSecret {
        id: TokenId(7),
        secret: [5; 32],
    };

    fn facts(purpose: TokenPurpose) -> AccessFacts {
        let mut facts = AccessFacts::default();
        let token = Token {
            hash: Sha256::digest(SECRET.secret).into(),
            purpose,
            expires_wall_ms: Some(1_000),
            created_wall_ms: 0,
            created_by: Actor::default(),
            description: String::new(),
        };
        facts.tokens.insert(SECRET.id, token);
        facts
    }

    fn principal(text: &str) -> Principal {
        text.parse().unwrap()
    }

    #[test]
    fn a_token_proves_its_principal_until_it_expires() {
        let facts = facts(TokenPurpose::Bearer(principal("framework/web")));
        let found = verify(&facts, &SECRET, 999).unwrap();
        assert_eq!(found, (principal("framework/web"), Some(1_000)));
        assert_eq!(verify(&facts, &SECRET, 1_000), Err(TokenError::Expired));
    }

    #[test]
    fn a_wrong_secret_looks_like_an_unknown_token() {
        let facts = facts(TokenPurpose::Bearer(principal("framework/web")));
        let mut wrong = SECRET;
        wrong.secret[31] ^= 1;
        let other = TokenSecret {
            id: TokenId(8),
            ..SECRET
        };
        for secret in [wrong, other] {
            assert_eq!(verify(&facts, &secret, 0), Err(TokenError::Unknown));
        }
        let mut first = SECRET;
        first.secret[0] ^= 128;
        assert_eq!(verify(&facts, &first, 0), Err(TokenError::Unknown));
    }

    #[test]
    fn a_join_token_and_a_token_of_a_member_prove_no_identity() {
        let kind = PrincipalKind::Agent;
        let join = facts(TokenPurpose::Join { kind, uses_left: 3 });
        assert_eq!(verify(&join, &SECRET, 0), Err(TokenError::ForJoining));
        for member in ["master/m1", "agent/a7"] {
            let of = facts(TokenPurpose::Bearer(principal(member)));
            let found = verify(&of, &SECRET, 0);
            assert_eq!(found, Err(TokenError::OfMember), "{member}");
        }
    }

    #[test]
    fn revoked_tokens_and_keys_prove_nothing_any_more() {
        let web = principal("framework/web");
        let mut facts = facts(TokenPurpose::Bearer(web.clone()));
        let check = |facts: &AccessFacts, credential, now_ms| {
            check_credential(facts, Some(&web), credential, now_ms).is_ok()
        };
        let token = Credential::Token(SECRET.id, Some(1_000));
        assert!(check(&facts, token, 999));
        assert!(!check(&facts, token, 1_000));
        facts.tokens.remove(&SECRET.id);
        assert!(!check(&facts, token, 0));
        let (key, other) = (KeyHash([1; 32]), KeyHash([2; 32]));
        assert!(check(&facts, Credential::Key(key), 0));
        facts.bindings.insert(web.clone(), other);
        assert!(!check(&facts, Credential::Key(key), 0));
        assert!(check(&facts, Credential::Key(other), 0));
        let revoked = RevokedKey {
            revoked_wall_ms: 0,
            revoked_by: Actor::default(),
        };
        facts.revoked.insert(other, revoked);
        assert!(check(&facts, Credential::Key(key), 0));
        assert!(!check(&facts, Credential::Key(other), 0));
    }
}
