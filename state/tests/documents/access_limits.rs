//! The bounds of the facts of access, as the sources and the protocol page state them.

/// As [`LIMITS`](super::limits::LIMITS).
pub(crate) const ACCESS_LIMITS: &[(&str, &str, &str)] = &[
    (
        "state/src/limits.rs",
        "ACCESS_RULES: usize = 10_000",
        "| rules of access; groups; members of all groups | 10,000; 1,000; 10,000 |",
    ),
    (
        "state/src/limits.rs",
        "ACCESS_GROUPS: usize = 1_000",
        "| rules of access; groups; members of all groups | 10,000; 1,000; 10,000 |",
    ),
    (
        "state/src/limits.rs",
        "ACCESS_MEMBERS: usize = 10_000",
        "| rules of access; groups; members of all groups | 10,000; 1,000; 10,000 |",
    ),
    (
        "state/src/limits.rs",
        "ACCESS_BYTES: usize = 960 << 10",
        "| rules and groups as text | 960 KiB |",
    ),
    (
        "state/src/limits.rs",
        "TOKENS: usize = 10_000",
        "| tokens | 10,000 | a new one removes up to 100 expired ones",
    ),
    (
        "state/src/limits.rs",
        "EXPIRED_TOKENS_DROPPED: usize = 100",
        "| tokens | 10,000 | a new one removes up to 100 expired ones",
    ),
    (
        "state/src/limits.rs",
        "JOIN_TOKEN_USES: u32 = 10_000",
        "| uses of a join token | 10,000 |",
    ),
    (
        "state/src/limits.rs",
        "REVOKED_KEYS: usize = 10_000",
        "| revoked keys; principals that joined by a token | 10,000; 200,000 |",
    ),
    (
        "state/src/limits.rs",
        "KEY_BINDINGS: usize = 200_000",
        "| revoked keys; principals that joined by a token | 10,000; 200,000 |",
    ),
    (
        "state/src/limits.rs",
        "RATE_LIMITS: usize = 10_000",
        "| limits of rate | 10,000 |",
    ),
];
