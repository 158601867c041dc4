//! Access at the edge: calls whose rights do not depend on a record are decided before their route
//! is chosen. The others are decided where their objects are known.

use argosy_state::access::Action;
use argosy_state::actor::Actor;
use axum::http::Extensions;
use axum::http::HeaderMap;
use tonic::Status;
use tonic::metadata::MetadataMap;

use super::actor::actor_of_peer;
use super::forwarded_caller::ForwardedCredential;
use super::revocation::WatchedCredential;
use super::{actor, refused};
use crate::access::{Check, Denial, Object, UNPROVEN};
use crate::owner_handle::OwnerHandle;

/// Returns the status of a denial.
pub(crate) fn denied(denial: &Denial) -> Status {
    refused(denial.code(), &denial.to_string())
}

/// Decides about a request by its row in a table.
///
/// # Errors
/// A denial.
pub(crate) fn permit(
    owner: &OwnerHandle,
    check: Check,
    headers: &HeaderMap,
    extensions: &Extensions,
) -> Result<(), Status> {
    let who = || actor_of(headers, extensions);
    match check {
        Check::Open
        | Check::Seen(_)
        | Check::Records
        | Check::Task(_)
        | Check::Framework(_)
        | Check::Leader(_)
        | Check::Operations => Ok(()),
        Check::Elsewhere => Err(Status::unimplemented("no master serves this call")),
        Check::Proven => match who()? {
            Actor::Unauthenticated => {
                let text = "this call needs a proven identity: use a certificate (--tls-cert and --tls-key) or a token (--token-file)";
                Err(refused(UNPROVEN, text))
            }
            Actor::Cluster | Actor::Principal(_) => Ok(()),
        },
        Check::Local(action) => here(owner, &who()?, action, &Object::CLUSTER),
        Check::Confirmed(action) => match who()? {
            // It must not cost the leader a read index.
            actor @ Actor::Unauthenticated => here(owner, &actor, action, &Object::CLUSTER),
            Actor::Cluster | Actor::Principal(_) => Ok(()),
        },
    }
}

/// Decides about a call on the cluster by what was committed before it: the rules, and whether its
/// credentials are revoked. Returns the log index of that. The message of the call must be here:
/// a caller could hold it back until its credential is revoked.
///
/// # Errors
/// A denial; UNAVAILABLE if there is no leader that confirms the read index.
pub(super) async fn confirmed(
    owner: &OwnerHandle,
    (metadata, extensions): (&MetadataMap, &Extensions),
    action: Action,
) -> Result<u64, Status> {
    let actor = actor::actor(metadata, extensions)?;
    let index = owner.confirm().await?;
    check_credentials(extensions)?;
    here(owner, &actor, action, &Object::CLUSTER)?;
    Ok(index)
}

/// Checks the credentials of a call again: that of the peer, and that of the caller whose call it
/// forwards.
pub(super) fn check_credentials(extensions: &Extensions) -> Result<(), Status> {
    let own = extensions.get::<WatchedCredential>();
    let forwarded = extensions.get::<ForwardedCredential>();
    own.map_or(Ok(()), WatchedCredential::check)?;
    forwarded.map_or(Ok(()), |forwarded| forwarded.0.check())
}

/// Decides by the rules that this master has applied.
pub(crate) fn here(
    owner: &OwnerHandle,
    actor: &Actor,
    action: Action,
    object: &Object<'_>,
) -> Result<(), Status> {
    let reader = owner.reader(actor.clone());
    let policy = owner.access.borrow().policy.clone();
    let checked = reader.check(&policy, action, object);
    checked.map_err(|denial| denied(&denial))
}

/// Returns the actor of a call, or of a request of HTTP, which no master forwards.
fn actor_of(headers: &HeaderMap, extensions: &Extensions) -> Result<Actor, Status> {
    let is_call = headers.get("content-type");
    let is_call = is_call.is_some_and(|kind| kind.as_bytes().starts_with(b"application/grpc"));
    if !is_call {
        return Ok(actor_of_peer(extensions.get()));
    }
    let metadata = MetadataMap::from_headers(headers.clone());
    actor::actor_in(&metadata, extensions.get())
}
