//! The facts of access: how they are read and changed. Every master answers from its own copy.

use std::ops::Bound;
use std::str::FromStr;
use std::sync::Arc;

use argosy_proto::convert::{self, InvalidMessage};
use argosy_proto::v1;
use argosy_proto::v1::write_operation::Operation as Wire;
use argosy_state::access::{AccessFacts, AccessOperation, Action, KeyHash, Subject, TokenId};
use argosy_state::actor::Actor;
use argosy_state::ids::InvalidId;
use argosy_state::secret::SecretName;
use prost::Message;
use tonic::Status;

use super::lists::settle;
use super::{denied, malformed};
use crate::access::{Denial, Object, Reader};
use crate::inbox::StateView;
use crate::owner_handle::OwnerHandle;

/// Maximum size of a page in records: each takes less than 1 KiB.
const PAGE: usize = 1_000;

/// Reads a change of access.
pub(super) fn operation(wire: Wire) -> Result<AccessOperation, InvalidMessage> {
    Ok(match wire {
        Wire::SetPolicy(set) => convert::set_policy_from(&set)?,
        Wire::CreateToken(create) => {
            AccessOperation::CreateToken(convert::create_token_from(create)?)
        }
        Wire::RevokeToken(revoke) => {
            AccessOperation::RevokeToken(convert::id("token_id", &revoke.token_id)?)
        }
        Wire::RevokeKey(revoke) => {
            AccessOperation::RevokeKey(convert::id("key_hash", &revoke.key_hash)?)
        }
        Wire::SetRateLimit(set) => convert::set_rate_limit_from(&set)?,
        Wire::SetAttribute(_)
        | Wire::KillTask(_)
        | Wire::TeardownFramework(_)
        | Wire::SetWeight(_)
        | Wire::DeactivateAgent(_)
        | Wire::ReactivateAgent(_)
        | Wire::MarkAgentGone(_)
        | Wire::UpdateLimits(_)
        | Wire::SetSecret(_)
        | Wire::ResealSecret(_)
        | Wire::RemoveSecret(_) => {
            return Err(InvalidMessage::new(
                "operation",
                "it does not change access",
            ));
        }
    })
}

/// Checks that a caller may set these secrets, before anything is sealed for it. The leader decides
/// again in its step.
pub(super) fn check_set_secret(
    owner: &OwnerHandle,
    names: &[SecretName],
    actor: &Actor,
) -> Result<(), Status> {
    let reader = owner.reader(actor.clone());
    let policy = Arc::clone(&owner.access.borrow().policy);
    for name in names {
        let role = name.role();
        let object = Object::secret(&role, name);
        let checked = reader.check(&policy, Action::SetSecret, &object);
        checked.map_err(|denial| denied(&denial))?;
    }
    Ok(())
}

/// Returns the rules and groups.
pub(super) async fn policy(
    owner: &OwnerHandle,
    reader: Reader,
    request: v1::GetPolicyRequest,
) -> Result<v1::Policy, Status> {
    let index = settle(owner, request.consistency, request.min_revision).await?;
    let read = |view: &StateView| {
        let facts = view.registry.access();
        reader.check(&facts.policy, Action::ViewAccess, &Object::CLUSTER)?;
        Ok(convert::policy(facts))
    };
    let bytes = |found: &Result<v1::Policy, Denial>| found.as_ref().map_or(0, Message::encoded_len);
    let found = owner.read_one(index, read, bytes).await?;
    found.map_err(|denial| denied(&denial))
}

pub(super) async fn tokens(
    owner: &OwnerHandle,
    reader: Reader,
    request: v1::ListRequest,
) -> Result<v1::TokenPage, Status> {
    let read = |facts: &AccessFacts, after: Bound<TokenId>, most| {
        let found = facts.tokens.range((after, Bound::Unbounded)).take(most);
        let all = found.map(|(id, token)| (*id, convert::token(*id, token)));
        all.unzip::<_, _, Vec<_>, Vec<_>>()
    };
    let (tokens, next_page_token) = page(owner, reader, request, read).await?;
    Ok(v1::TokenPage {
        tokens,
        next_page_token,
    })
}

pub(super) async fn revoked_keys(
    owner: &OwnerHandle,
    reader: Reader,
    request: v1::ListRequest,
) -> Result<v1::RevokedKeyPage, Status> {
    let read = |facts: &AccessFacts, after: Bound<KeyHash>, most| {
        let found = facts.revoked.range((after, Bound::Unbounded)).take(most);
        let all = found.map(|(key, revoked)| (*key, convert::revoked_key(*key, revoked)));
        all.unzip::<_, _, Vec<_>, Vec<_>>()
    };
    let (keys, next_page_token) = page(owner, reader, request, read).await?;
    Ok(v1::RevokedKeyPage {
        keys,
        next_page_token,
    })
}

pub(super) async fn rate_limits(
    owner: &OwnerHandle,
    reader: Reader,
    request: v1::ListRequest,
) -> Result<v1::SubjectLimitPage, Status> {
    let read = |facts: &AccessFacts, after: Bound<Subject>, most| {
        let found = facts.limits.range((after, Bound::Unbounded)).take(most);
        let all = found.map(|(subject, limit)| {
            let wire = convert::subject_limit(subject, *limit);
            (subject.clone(), wire)
        });
        all.unzip::<_, _, Vec<_>, Vec<_>>()
    };
    let (limits, next_page_token) = page(owner, reader, request, read).await?;
    Ok(v1::SubjectLimitPage {
        limits,
        next_page_token,
    })
}

/// Reads a page of records after the one that the page token names, and returns it with the token
/// of the next page.
async fn page<K: FromStr<Err = InvalidId> + ToString, T: Message>(
    owner: &OwnerHandle,
    reader: Reader,
    request: v1::ListRequest,
    read: impl FnOnce(&AccessFacts, Bound<K>, usize) -> (Vec<K>, Vec<T>),
) -> Result<(Vec<T>, String), Status> {
    let after = match request.page_token.as_str() {
        "" => Bound::Unbounded,
        token => Bound::Excluded(convert::id("page_token", token).map_err(|why| malformed(&why))?),
    };
    if let Some(field) = request.filter.keys().next() {
        let text = format!("{field:?}: this list has no filter");
        return Err(malformed(&InvalidMessage::new("filter", text)));
    }
    let size = match request.page_size as usize {
        0 => PAGE,
        size => size.min(PAGE),
    };
    let index = settle(owner, request.consistency, request.min_revision).await?;
    let read = |view: &StateView| {
        let facts = view.registry.access();
        reader.check(&facts.policy, Action::ViewAccess, &Object::CLUSTER)?;
        Ok(read(facts, after, size + 1))
    };
    let bytes = |found: &Result<(Vec<K>, Vec<T>), Denial>| {
        let records = found.iter().flat_map(|(_, records)| records);
        records.map(Message::encoded_len).sum()
    };
    let found = owner.read_one(index, read, bytes).await?;
    let (mut keys, mut records) = found.map_err(|denial| denied(&denial))?;
    let has_more = records.len() > size;
    records.truncate(size);
    keys.truncate(size);
    let last = keys.last().filter(|_| has_more);
    Ok((records, last.map(K::to_string).unwrap_or_default()))
}
