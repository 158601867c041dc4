//! Keys of records that a principal or a subject of rules names: a byte for its kind, and its text.

use crate::access::{GroupName, Subject};
use crate::actor::{Principal, PrincipalKind, PrincipalName};
use crate::codec::scalars::AsNumber;
use crate::ids::Role;

const ANONYMOUS: u8 = 1;
const EVERYONE: u8 = 2;
const KIND: u8 = 3;
const PRINCIPAL: u8 = 4;
const GROUP: u8 = 5;

const ADMIN: u8 = 1;
const OPERATOR: u8 = 2;
const VIEWER: u8 = 3;
const FRAMEWORK: u8 = 4;
const NAMED: u8 = 5;

/// Returns the key of a record of this kind, for a principal.
pub(super) fn binding(record: u8, principal: &Principal) -> Vec<u8> {
    let mut bytes = vec![record];
    put_principal(principal, &mut bytes);
    bytes
}

/// Reads a principal.
pub(super) fn read_binding(bytes: &[u8]) -> Option<Principal> {
    let (kind, name) = bytes.split_first()?;
    Some(Principal {
        kind: read_kind(*kind)?,
        name: PrincipalName::new(std::str::from_utf8(name).ok()?).ok()?,
    })
}

/// Returns the key of a record of this kind, for a subject.
pub(super) fn subject(record: u8, subject: &Subject) -> Vec<u8> {
    let mut bytes = vec![record];
    match subject {
        Subject::Anonymous => bytes.push(ANONYMOUS),
        Subject::Everyone => bytes.push(EVERYONE),
        Subject::Kind(kind) => bytes.extend([KIND, kind_byte(*kind)]),
        Subject::Principal(principal) => {
            bytes.push(PRINCIPAL);
            put_principal(principal, &mut bytes);
        }
        Subject::Group(name) => {
            bytes.push(GROUP);
            let (kind, text) = match name {
                GroupName::Admin => (ADMIN, ""),
                GroupName::Operator => (OPERATOR, ""),
                GroupName::Viewer => (VIEWER, ""),
                GroupName::Framework(role) => (FRAMEWORK, role.as_str()),
                GroupName::Named(name) => (NAMED, name.as_str()),
            };
            bytes.push(kind);
            bytes.extend(text.as_bytes());
        }
    }
    bytes
}

/// Reads a subject.
pub(super) fn read_subject(bytes: &[u8]) -> Option<Subject> {
    let (kind, rest) = bytes.split_first()?;
    Some(match (*kind, rest) {
        (ANONYMOUS, []) => Subject::Anonymous,
        (EVERYONE, []) => Subject::Everyone,
        (KIND, [kind]) => Subject::Kind(read_kind(*kind)?),
        (PRINCIPAL, rest) => Subject::Principal(read_binding(rest)?),
        (GROUP, [kind, text @ ..]) => Subject::Group(read_group(*kind, text)?),
        _ => return None,
    })
}

fn read_group(kind: u8, text: &[u8]) -> Option<GroupName> {
    let text = std::str::from_utf8(text).ok()?;
    Some(match (kind, text) {
        (ADMIN, "") => GroupName::Admin,
        (OPERATOR, "") => GroupName::Operator,
        (VIEWER, "") => GroupName::Viewer,
        (FRAMEWORK, role) => GroupName::Framework(Role::new(role).ok()?),
        (NAMED, name) => {
            let group: GroupName = name.parse().ok()?;
            return matches!(group, GroupName::Named(_)).then_some(group);
        }
        _ => return None,
    })
}

fn put_principal(principal: &Principal, bytes: &mut Vec<u8>) {
    bytes.push(kind_byte(principal.kind));
    bytes.extend(principal.name.as_str().as_bytes());
}

/// Returns the stored number of a kind, which fits a byte.
fn kind_byte(kind: PrincipalKind) -> u8 {
    kind.number() as u8
}

fn read_kind(byte: u8) -> Option<PrincipalKind> {
    PrincipalKind::of(byte.into())
}
