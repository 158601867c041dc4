//! The actor of a call: the authenticated identity of the peer, or the actor that a master names in
//! a call that it forwards.
//!
//! Fields of the message itself do not identify its sender.

use argosy_proto::server::audit::FORWARDED_ACTOR;
use argosy_proto::transport::PeerIdentity;
use argosy_state::actor::{Actor, Principal, PrincipalKind};
use axum::http::HeaderMap;
use tonic::metadata::{MetadataMap, MetadataValue};
use tonic::{Code, Extensions, Status};
use tonic_types::{ErrorDetails, StatusExt as _};

use super::forward::FORWARDED;
use crate::principal_limits::Account;

/// Returns the actor of a call, from its metadata and the identity of its peer.
///
/// # Errors
/// If the call names an actor that its peer may not name.
pub(super) fn actor(metadata: &MetadataMap, extensions: &Extensions) -> Result<Actor, Status> {
    actor_in(metadata, extensions.get())
}

/// Returns the actor of a request that its peer makes for itself.
pub(crate) fn actor_of_peer(peer: Option<&PeerIdentity>) -> Actor {
    peer.map(PeerIdentity::actor).unwrap_or_default()
}

/// As [`actor`], with the identity of the peer.
pub(super) fn actor_in(
    metadata: &MetadataMap,
    peer: Option<&PeerIdentity>,
) -> Result<Actor, Status> {
    let principal = peer.and_then(PeerIdentity::principal);
    let is_master = principal.is_some_and(|one| one.kind == PrincipalKind::Master);
    let mut named = metadata.get_all(FORWARDED_ACTOR).iter();
    let Some(first) = named.next() else {
        // A master that does not name the actor does not act for itself.
        let is_passed_on = is_master && metadata.contains_key(FORWARDED);
        let own = peer.filter(|_| !is_passed_on).map(PeerIdentity::actor);
        return Ok(own.unwrap_or_default());
    };
    if named.next().is_some() {
        return Err(malformed("it is there more than once"));
    }
    let actor = read(first.as_encoded_bytes())?;
    match (principal, &actor) {
        (_, Actor::Cluster) => Err(forged(principal, &actor)),
        (Some(_), _) if is_master => Ok(actor),
        // As between masters without authentication. It proves no more than the connection does.
        (None, Actor::Unauthenticated) => Ok(actor),
        (_, Actor::Unauthenticated | Actor::Principal(_)) => Err(forged(principal, &actor)),
    }
}

/// Returns the account of a request. A master that forwards it names its caller.
pub(crate) fn account(headers: &HeaderMap, peer: Option<&PeerIdentity>) -> Account {
    let principal = peer.and_then(PeerIdentity::principal);
    let is_master = principal.is_some_and(|one| one.kind == PrincipalKind::Master);
    let named = headers.get(FORWARDED_ACTOR).filter(|_| is_master);
    // A malformed name is refused later; the request is on the account of its master.
    let forwarded = named.and_then(|named| read(named.as_bytes()).ok());
    Account::of(peer, forwarded.as_ref())
}

/// Names the actor of a forwarded call.
pub(super) fn name_actor(metadata: &mut MetadataMap, actor: &Actor) {
    let text = actor.to_string();
    let value = MetadataValue::try_from(text).expect("the text of an actor is plain ASCII");
    metadata.insert(FORWARDED_ACTOR, value);
}

pub(crate) fn read(value: &[u8]) -> Result<Actor, Status> {
    if value.len() > Actor::TEXT_BYTES {
        let (length, most) = (value.len(), Actor::TEXT_BYTES);
        return Err(malformed(&format!("it has {length} bytes; at most {most}")));
    }
    let text = std::str::from_utf8(value).map_err(|_| malformed("it is not valid UTF-8"))?;
    text.parse().map_err(|why| malformed(&format!("{why}")))
}

fn malformed(why: &str) -> Status {
    Status::invalid_argument(format!("{FORWARDED_ACTOR}: {why}"))
}

fn forged(peer: Option<&Principal>, actor: &Actor) -> Status {
    let peer = match peer {
        Some(principal) => principal.to_string(),
        None => "this caller, who is not authenticated".to_owned(),
    };
    let text = format!(
        "{FORWARDED_ACTOR} names the actor {actor}: only a master may name one, for callers that it has authenticated, and {peer} may not"
    );
    let details = ErrorDetails::with_error_info("forwarded-actor", "argosy", []);
    Status::with_error_details(Code::PermissionDenied, text, details)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Returns the actor that a leader derives for a call from `peer` with these metadata.
    fn read_actor(peer: &str, metadata: &[(&'static str, &str)]) -> Result<String, Code> {
        let mut map = MetadataMap::new();
        for (name, value) in metadata {
            map.append(*name, MetadataValue::try_from(*value).unwrap());
        }
        let peer = match peer {
            "" => PeerIdentity::unauthenticated(None),
            principal => PeerIdentity::authenticated(principal.parse().unwrap(), None),
        };
        let mut extensions = Extensions::new();
        extensions.insert(peer);
        let actor = actor(&map, &extensions);
        actor
            .map(|actor| actor.to_string())
            .map_err(|status| status.code())
    }

    #[test]
    fn caller_acts_for_itself() {
        for peer in [
            "operator/alice",
            "agent/host-1",
            "framework/web",
            "master/m1",
        ] {
            assert_eq!(read_actor(peer, &[]), Ok(peer.to_owned()));
        }
        assert_eq!(read_actor("", &[]), Ok("unauthenticated".to_owned()));
        let unknown = actor(&MetadataMap::new(), &Extensions::new());
        assert_eq!(unknown.unwrap(), Actor::Unauthenticated);
    }

    #[test]
    fn master_forwards_other_actors() {
        for named in ["operator/alice", "unauthenticated", "master/m2"] {
            let metadata = [(FORWARDED, "1"), (FORWARDED_ACTOR, named)];
            assert_eq!(read_actor("master/m1", &metadata), Ok(named.to_owned()));
        }
        // A release that names no actor does not lend its own rights.
        let unnamed = read_actor("master/m1", &[(FORWARDED, "1")]);
        assert_eq!(unnamed, Ok("unauthenticated".to_owned()));
        // Without authentication masters are not identified, so the actor is unauthenticated.
        let plain = [(FORWARDED, "1"), (FORWARDED_ACTOR, "unauthenticated")];
        assert_eq!(read_actor("", &plain), Ok("unauthenticated".to_owned()));
    }

    #[test]
    fn forwarded_actors_of_other_peers_are_rejected() {
        for (peer, named) in [
            ("", "operator/alice"),
            ("", "master/m1"),
            ("", "cluster"),
            ("operator/alice", "operator/bob"),
            ("operator/alice", "operator/alice"),
            ("operator/alice", "unauthenticated"),
            ("agent/host-1", "framework/web"),
            ("framework/web", "agent/host-1"),
            ("operator/alice", "cluster"),
            ("master/m1", "cluster"),
        ] {
            for metadata in [
                vec![(FORWARDED_ACTOR, named)],
                vec![(FORWARDED, "1"), (FORWARDED_ACTOR, named)],
            ] {
                let taken = read_actor(peer, &metadata);
                assert_eq!(taken, Err(Code::PermissionDenied), "{peer} as {named}");
            }
        }
        // The mark alone does not hide the actor.
        let marked = read_actor("operator/alice", &[(FORWARDED, "1")]);
        assert_eq!(marked, Ok("operator/alice".to_owned()));
    }

    #[test]
    fn malformed_actor_is_rejected() {
        let long = format!("operator/{}", "a".repeat(Actor::TEXT_BYTES));
        for named in ["", "alice", "root/alice", "operator/a b", &long] {
            let taken = read_actor("master/m1", &[(FORWARDED_ACTOR, named)]);
            assert_eq!(taken, Err(Code::InvalidArgument), "{named}");
        }
        let both = [
            (FORWARDED_ACTOR, "operator/alice"),
            (FORWARDED_ACTOR, "operator/bob"),
        ];
        assert_eq!(read_actor("master/m1", &both), Err(Code::InvalidArgument));
    }
}
