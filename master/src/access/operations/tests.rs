//! Tests of the rights for changes by operators.

use std::sync::Arc;

use argosy_state::access::{NewToken, TokenId};

use super::*;

/// Returns why a caller may not create a token.
fn denied(caller: &str, purpose: TokenPurpose) -> Option<String> {
    let rules = "group admin = operator/root
        allow operator/tokens create-token *
        allow operator/other create-token *
        deny operator/locked set-access *
        allow operator/locked * *
        allow operator/setter set-access *";
    let mut cache = PermitCache::default();
    cache.follow(&Arc::new(rules.parse().unwrap()));
    let operation = OperatorOperation::Access(AccessOperation::CreateToken(NewToken {
        id: TokenId(1),
        purpose,
        hash: [1; 32],
        lifetime_ms: None,
        description: String::new(),
    }));
    let caller = caller.parse().unwrap();
    let denied = denied_operation(&Registry::new(), &mut cache, &caller, &operation);
    denied.err().map(|denial| denial.to_string())
}

fn bearer(principal: &str) -> TokenPurpose {
    TokenPurpose::Bearer(principal.parse().unwrap())
}

#[test]
fn the_right_to_create_tokens_gives_no_other_right() {
    for principal in ["framework/web", "operator/ci"] {
        assert_eq!(denied("operator/tokens", bearer(principal)), None);
    }
    for principal in [
        "operator/root",
        "operator/setter",
        "operator/other",
        "operator/locked",
    ] {
        let why = denied("operator/tokens", bearer(principal)).unwrap();
        let names = format!("may not set-access on the cluster, which a token for {principal}");
        assert!(why.contains(&names), "{why}");
    }
    let join = |kind| TokenPurpose::Join { kind, uses_left: 1 };
    assert_eq!(denied("operator/tokens", join(PrincipalKind::Agent)), None);
    assert!(denied("operator/tokens", join(PrincipalKind::Master)).is_some());
    // An admin could give itself every right in any case.
    for purpose in [bearer("operator/root"), join(PrincipalKind::Master)] {
        assert_eq!(denied("operator/root", purpose), None);
    }
    // The right to set rules does not include that to create tokens.
    let why = denied("operator/setter", bearer("operator/ci")).unwrap();
    assert!(why.contains("may not create-token"), "{why}");
}
