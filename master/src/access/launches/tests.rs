//! Tests of the rights that a launched task needs.

use std::sync::Arc;

use argosy_state::ids::Role;
use argosy_state::task::TaskVolume;
use argosy_state::testing::spec;

use super::*;

/// Returns whether `framework/web` may launch a task of a role with a secret.
fn may_use(rules: &str, role: &str, secret: &str) -> bool {
    let rules = format!("allow framework/web launch-task *\n{rules}");
    let mut permits = PermitCache::default();
    permits.follow(&Arc::new(rules.parse().unwrap()));
    let mut task = spec("a", "cpus:1");
    task.volumes.push(TaskVolume {
        container_path: "/run/secrets/db".to_owned(),
        read_only: true,
        source: VolumeSource::Secret(secret.to_owned()),
    });
    let web: Actor = "framework/web".parse().unwrap();
    let role = Role::new(role).unwrap();
    denied_launch(&mut permits, &web, Object::role(&role), &task).is_ok()
}

#[test]
fn rules_about_secrets_apply_to_those_of_the_registry() {
    let allow = "allow framework/web use-secret *\n";
    assert!(may_use(allow, "eng", "eng/db"));
    for denied in [
        "secret:eng/db",
        "secret:eng/%",
        "role:eng",
        "role:eng/%",
        "*",
    ] {
        let rules = format!("{allow}deny framework/web use-secret {denied}");
        assert!(!may_use(&rules, "eng", "eng/db"), "{denied}");
    }
    for other in [
        "secret:eng/other",
        "secret:ops/db",
        "secret:eng/web/db",
        "role:ops",
    ] {
        let rules = format!("{allow}deny framework/web use-secret {other}");
        assert!(may_use(&rules, "eng", "eng/db"), "{other}");
    }
    for allowed in ["secret:eng/db", "secret:eng/%", "role:eng", "role:eng/%"] {
        let rules = format!("allow framework/web use-secret {allowed}");
        assert!(may_use(&rules, "eng", "eng/db"), "{allowed}");
        assert!(!may_use(&rules, "eng", "ops/db"), "{allowed}");
    }
}

#[test]
fn a_secret_of_a_role_above_needs_a_right_there_and_no_denial_below() {
    let allow = "allow framework/web use-secret secret:eng/db\n";
    assert!(may_use(allow, "eng/web", "eng/db"));
    for denied in ["role:eng/web", "role:eng", "secret:eng/db"] {
        let rules = format!("{allow}deny framework/web use-secret {denied}");
        assert!(!may_use(&rules, "eng/web", "eng/db"), "{denied}");
    }
    let below = "allow framework/web use-secret role:eng/web";
    assert!(!may_use(below, "eng/web", "eng/db"));
}

#[test]
fn rules_name_secrets_of_every_length() {
    let name = format!("eng/{}", "n".repeat(255));
    let allow = "allow framework/web use-secret *\n";
    for denied in [format!("secret:{name}"), "secret:eng/%".to_owned()] {
        let rules = format!("{allow}deny framework/web use-secret {denied}");
        assert!(!may_use(&rules, "eng", &name), "{denied}");
    }
    let secret = name.parse().unwrap();
    let role = Role::new("eng").unwrap();
    let object = Object::secret(&role, &secret);
    assert!(object.is_denied_by(&"secret:eng/%".parse().unwrap()));
}
