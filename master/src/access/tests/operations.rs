//! Every write operation for every kind of caller, on its own objects and on those of others.

use argosy_state::Registry;
use argosy_state::access::{AccessOperation, KeyHash, NewToken, Subject, TokenId, TokenPurpose};
use argosy_state::command::OperatorOperation;
use argosy_state::secret::{SealedSecret, SecretName};
use argosy_state::task::TaskLimits;
use argosy_state::testing::{World, framework_info, key};

use super::*;

/// Every kind of caller, in the order of the columns of the table.
const CALLERS: [&str; 9] = [
    "unauthenticated",
    "operator/vera",
    "operator/olga",
    "operator/root",
    "operator/eve",
    "framework/web",
    "framework/other",
    "agent/host-1",
    "master/m1",
];

const POLICY: &str = "group admin = operator/root
group operator = operator/olga
group viewer = operator/vera
group framework:eng = framework/web
group framework:ops = framework/other
allow operator/eve * role:eng/%
allow agent/* connect-agent *";

/// How each operation is decided for each caller of [`CALLERS`]: allowed, denied, or unproven. The
/// first objects are `framework-1/a`, the role `eng` and a secret in it; the second ones are
/// `framework-2/b`, the role `ops` and a secret in it. Other operations have one object, which is
/// no one's own.
#[rustfmt::skip]
const EXPECTED: &[(&str, &str, &str)] = &[
    ("set_attribute",      "UDAADDDDA", "UDAADDDDA"),
    ("kill_task",          "UDAAAADDA", "UDAADDADA"),
    ("teardown_framework", "UDAAAADDA", "UDAADDADA"),
    ("set_weight",         "UDAAADDDA", "UDAADDDDA"),
    ("deactivate_agent",   "UDAADDDDA", "UDAADDDDA"),
    ("reactivate_agent",   "UDAADDDDA", "UDAADDDDA"),
    ("mark_agent_gone",    "UDAADDDDA", "UDAADDDDA"),
    ("update_limits",      "UDAAAADDA", "UDAADDADA"),
    ("set_policy",         "UDDADDDDA", "UDDADDDDA"),
    ("create_token",       "UDDADDDDA", "UDDADDDDA"),
    ("revoke_token",       "UDDADDDDA", "UDDADDDDA"),
    ("revoke_key",         "UDDADDDDA", "UDDADDDDA"),
    ("set_rate_limit",     "UDAADDDDA", "UDAADDDDA"),
    ("set_secret",         "UDDAADDDA", "UDDADDDDA"),
    ("reseal_secret",      "UDDAADDDA", "UDDADDDDA"),
    ("remove_secret",      "UDDAADDDA", "UDDADDDDA"),
];

/// Whose objects an operation names.
#[derive(Debug, Clone, Copy)]
enum Objects {
    First,
    Second,
}

/// Returns the operation of this name in `WriteOperation`.
fn operation(name: &str, of: Objects) -> OperatorOperation {
    let (framework, task, in_role) = match of {
        Objects::First => (FrameworkId(1), "a", "eng"),
        Objects::Second => (FrameworkId(2), "b", "ops"),
    };
    let key = key(framework, task);
    let agent = AgentId(1);
    let secret = SecretName::new(&format!("{in_role}/key")).unwrap();
    match name {
        "set_attribute" => OperatorOperation::SetAttribute {
            agent,
            name: "zone".to_owned(),
            value: "z1".to_owned(),
        },
        "kill_task" => OperatorOperation::KillTask {
            key,
            grace_ms: None,
        },
        "teardown_framework" => OperatorOperation::Teardown(framework),
        "set_weight" => OperatorOperation::SetWeight {
            role: role(in_role),
            weight_milli: 2_000,
        },
        "deactivate_agent" => OperatorOperation::Deactivate(agent),
        "reactivate_agent" => OperatorOperation::Reactivate(agent),
        "mark_agent_gone" => OperatorOperation::MarkGone(agent),
        "update_limits" => OperatorOperation::UpdateLimits {
            key,
            limits: TaskLimits::default(),
        },
        "set_secret" => OperatorOperation::SetSecret {
            name: secret,
            secret: SealedSecret::default(),
        },
        "reseal_secret" => OperatorOperation::ResealSecret {
            name: secret,
            secret: SealedSecret::default(),
            replaces: <_>::default(),
        },
        "remove_secret" => OperatorOperation::RemoveSecret(secret),
        other => OperatorOperation::Access(access_operation(other)),
    }
}

/// Returns the operation of this name about access. It has no object.
fn access_operation(name: &str) -> AccessOperation {
    match name {
        "set_policy" => AccessOperation::SetPolicy(policy(POLICY).into()),
        "create_token" => AccessOperation::CreateToken(NewToken {
            id: TokenId(1),
            purpose: TokenPurpose::Bearer("operator/ci".parse().unwrap()),
            hash: [1; 32],
            lifetime_ms: None,
            description: String::new(),
        }),
        "revoke_token" => AccessOperation::RevokeToken(TokenId(1)),
        "revoke_key" => AccessOperation::RevokeKey(KeyHash([1; 32])),
        "set_rate_limit" => AccessOperation::SetLimit {
            subject: Subject::Anonymous,
            limit: None,
        },
        other => panic!("{other} is not made here"),
    }
}

/// Returns a registry with `framework-1/a` in the role `eng` and `framework-2/b` in the role `ops`,
/// on `agent-1`.
fn registry() -> Registry {
    let mut world = World::new();
    let agent = world.register("cpus:8;mem:8192");
    for (of, task) in [("eng", "a"), ("ops", "b")] {
        let mut info = framework_info(of);
        info.roles = [role(of)].into();
        let framework = world.subscribe_as(info);
        let mut offer = world.offer(framework, agent, "cpus:1");
        offer.role = role(of);
        world.accept(framework, vec![offer], vec![spec(task, "cpus:1")]);
        assert!(world.registry.task(&key(framework, task)).is_some());
    }
    world.registry
}

/// Returns the fields of `WriteOperation`, in the order of the protocol.
fn operations_of_the_protocol() -> Vec<String> {
    let file =
        Path::new(env!("CARGO_MANIFEST_DIR")).join("../proto/proto/argosy/v1/operator.proto");
    let text = fs::read_to_string(file).unwrap();
    let (_, message) = text.split_once("message WriteOperation {").unwrap();
    let (_, oneof) = message.split_once("oneof operation {").unwrap();
    let (fields, _) = oneof.split_once('}').unwrap();
    let fields = fields.split(';').filter_map(|field| {
        let (declared, _) = field.split_once('=')?;
        declared.split_whitespace().last().map(str::to_owned)
    });
    fields.collect()
}

#[test]
fn every_operation_is_decided_for_every_caller_on_own_and_foreign_objects() {
    let rows: Vec<_> = EXPECTED.iter().map(|(name, _, _)| *name).collect();
    assert_eq!(
        operations_of_the_protocol(),
        rows,
        "an operation has no row"
    );
    let registry = registry();
    let mut permits = PermitCache::default();
    permits.follow(&policy(POLICY).into());
    let mut wrong = Vec::new();
    for (name, first, second) in EXPECTED {
        for (of, letters) in [(Objects::First, first), (Objects::Second, second)] {
            assert_eq!(letters.len(), CALLERS.len(), "{name}");
            for (caller, letter) in CALLERS.into_iter().zip(letters.chars()) {
                let actor: Actor = caller.parse().unwrap();
                let operation = operation(name, of);
                let denied = denied_operation(&registry, &mut permits, &actor, &operation);
                let found = match denied.as_ref().map_err(Denial::code) {
                    Ok(()) => 'A',
                    Err(UNPROVEN) => 'U',
                    Err(_) => 'D',
                };
                if found != letter {
                    wrong.push(format!("{name} by {caller}, {of:?} objects: {found}"));
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
