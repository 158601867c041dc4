//! Stored forms of the facts of access.
//!
//! Rules, groups and subjects are stored in their text form, so that files, the wire and storage
//! share one definition.

use std::sync::Arc;

use super::{
    AccessOperation, Group, KeyHash, NewToken, Policy, RateLimit, RevokedKey, TicketSecrets, Token,
    TokenId, TokenPurpose,
};
use crate::codec::error::DecodeResult;
use crate::codec::message::StoredMessage;
use crate::codec::scalars::AsNumber;
use crate::codec::stored::stored;
use crate::codec::text_form::{Shown, ShownList};
use crate::ids::Revision;

impl AsNumber for TokenId {
    fn number(&self) -> u64 {
        self.0
    }

    fn of(number: u64) -> Option<Self> {
        Some(Self(number))
    }
}

/// The fields of a policy. Groups are a list, as in the text form.
struct PolicyFields {
    rules: Vec<super::Rule>,
    groups: Vec<Group>,
}

stored!(message PolicyFields {
    1 rules: ShownList or "rule",
    2 groups: ShownList or "group",
});

impl StoredMessage for Policy {
    fn write(&self, out: &mut Vec<u8>) {
        let rules = self.rules.clone();
        let groups = self.groups().collect();
        PolicyFields { rules, groups }.write(out);
    }

    fn read(bytes: &[u8]) -> DecodeResult<Self> {
        let PolicyFields { rules, groups } = PolicyFields::read(bytes)?;
        let groups = groups.into_iter();
        let groups = groups.map(|group| (group.name, group.members)).collect();
        Ok(Self { rules, groups })
    }
}

/// The record of a policy that was set.
pub(crate) struct PolicyRecord {
    pub(crate) policy: Arc<Policy>,
    pub(crate) revision: Revision,
}

stored!(message PolicyRecord {
    1 policy: Part,
    2 revision: Part,
});

stored!(message Token {
    1 hash: Bytes or "hash of a secret",
    2 | 3 purpose: OneOf or "purpose of a token",
    4 expires_wall_ms: MaybeNumber,
    5 created_wall_ms: Number,
    6 description: Text,
    100 | 101 created_by: OneOf,
});

stored!(oneof TokenPurpose {
    2 Bearer(Part),
    3 Join {
        1 kind: Number or "kind of principal",
        2 uses_left: Number,
    },
});

stored!(message RevokedKey {
    1 revoked_wall_ms: Number,
    100 | 101 revoked_by: OneOf,
});

stored!(message KeyHash as (KeyHash(hash)) {
    1 hash: Bytes or "hash of a key",
});

stored!(message RateLimit {
    1 calls_per_second: Number,
    2 burst: Number,
});

stored!(message TicketSecrets {
    1 former: Bytes or "secret of tickets",
    2 current: Bytes or "secret of tickets",
    3 next: Bytes or "secret of tickets",
    4 rotated_at: Number,
});

stored!(message NewToken {
    1 id: Number,
    2 | 3 purpose: OneOf or "purpose of a token",
    4 hash: Bytes or "hash of a secret",
    5 lifetime_ms: MaybeNumber,
    6 description: Text,
});

stored!(message AccessOperation as (operation) {
    1 | 2 | 3 | 4 | 5 | 6 | 7 operation: OneOf or "operation on access",
});

stored!(oneof AccessOperation {
    1 SetPolicy(Part),
    2 CreateToken(Part),
    3 RevokeToken(Number),
    4 RevokeKey(Part),
    5 UseJoinToken {
        1 token: Number,
        2 principal: Part,
        3 key: Part,
    },
    6 SetLimit {
        1 subject: Shown,
        2 limit: MaybePart,
    },
    7 ReplacePolicy {
        1 policy: Part,
        2 replaces: MaybePart,
    },
});
