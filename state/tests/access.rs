//! Tests of the facts of access at their bounds, and at the levels that do not have them.

use argosy_state::access::{
    AccessOperation, KeyHash, NewToken, RateLimit, Subject, TokenId, TokenPurpose,
};
use argosy_state::actor::PrincipalKind;
use argosy_state::command::{
    Command, CommandReply, LogEntry, Operate, OperatorOperation, ProposedCommand, Rejection,
};
use argosy_state::ids::{AgentId, NodeId};
use argosy_state::level::{self, Level};
use argosy_state::limits;
use argosy_state::testing::{World, registration};

fn command(operations: Vec<AccessOperation>, wall_ms: i64) -> Command {
    let operations = operations.into_iter().map(OperatorOperation::Access);
    Command::Operate(Operate {
        request: None,
        hash: 0,
        operations: operations.collect(),
        wall_ms,
    })
}

fn operate(
    world: &mut World,
    operations: Vec<AccessOperation>,
    wall_ms: i64,
) -> Vec<Result<(), Rejection>> {
    match world.apply(command(operations, wall_ms)).outcome {
        Ok(CommandReply::Operate { outcomes, .. }) => outcomes,
        other => panic!("not operated: {other:?}"),
    }
}

/// Applies operations in as few commands as possible.
fn operate_all(world: &mut World, operations: impl Iterator<Item = AccessOperation>) {
    let operations: Vec<_> = operations.collect();
    for batch in operations.chunks(limits::OPERATIONS_PER_BATCH) {
        let outcomes = operate(world, batch.to_vec(), 0);
        assert!(outcomes.iter().all(Result::is_ok), "{outcomes:?}");
    }
}

fn token(id: usize, lifetime_ms: Option<u64>) -> AccessOperation {
    AccessOperation::CreateToken(NewToken {
        id: TokenId(id as u64),
        purpose: TokenPurpose::Bearer("operator/ci".parse().unwrap()),
        hash: [1; 32],
        lifetime_ms,
        description: String::new(),
    })
}

fn full(outcome: &Result<(), Rejection>) -> bool {
    matches!(outcome, Err(Rejection::Full(_)))
}

#[test]
fn at_the_bound_a_new_token_removes_expired_ones() {
    let mut world = World::new();
    let expiring = limits::EXPIRED_TOKENS_DROPPED + 1;
    let lifetime = |at: usize| (at < expiring).then_some(1_000);
    operate_all(
        &mut world,
        (0..limits::TOKENS).map(|at| token(at, lifetime(at))),
    );
    let most = limits::TOKENS;
    assert!(full(&operate(&mut world, vec![token(most, None)], 999)[0]));
    assert_eq!(world.registry.access().tokens.len(), most);
    assert_eq!(
        operate(&mut world, vec![token(most, None)], 1_000),
        [Ok(())]
    );
    let left = most + 1 - limits::EXPIRED_TOKENS_DROPPED;
    assert_eq!(world.registry.access().tokens.len(), left);
    assert!(world.reloaded() == world.registry);
}

#[test]
fn keys_and_limits_beyond_their_bounds_are_refused() {
    let mut world = World::new();
    let key = |at: usize| {
        let mut hash = [0; 32];
        hash[..8].copy_from_slice(&(at as u64).to_be_bytes());
        AccessOperation::RevokeKey(KeyHash(hash))
    };
    operate_all(&mut world, (0..limits::REVOKED_KEYS).map(key));
    let outcomes = operate(&mut world, vec![key(0), key(limits::REVOKED_KEYS)], 0);
    assert!(outcomes[0].is_ok() && full(&outcomes[1]), "{outcomes:?}");
    let limit = |at: usize, calls_per_second| {
        let subject: Subject = format!("operator/o{at}").parse().unwrap();
        let limit = Some(RateLimit {
            calls_per_second,
            burst: 1,
        });
        AccessOperation::SetLimit { subject, limit }
    };
    operate_all(&mut world, (0..limits::RATE_LIMITS).map(|at| limit(at, 1)));
    let more = vec![limit(0, 2), limit(limits::RATE_LIMITS, 1)];
    let outcomes = operate(&mut world, more, 0);
    assert!(outcomes[0].is_ok() && full(&outcomes[1]), "{outcomes:?}");
    let remove = AccessOperation::SetLimit {
        subject: "operator/o0".parse().unwrap(),
        limit: None,
    };
    let outcomes = operate(&mut world, vec![remove, limit(limits::RATE_LIMITS, 1)], 0);
    assert_eq!(outcomes, [Ok(()), Ok(())]);
}

#[test]
fn a_cluster_below_level_3_has_no_facts_of_access() {
    let mut world = World::empty();
    world.level = Level::RELEASE_0_1;
    world.open_epoch(NodeId(1));
    for (name, operation) in AccessOperation::samples() {
        let command = command(vec![operation], 0);
        let need = level::first_unsupported(Level::RELEASE_0_1, &command);
        let need = need.map(|need| need.level);
        assert_eq!(need, Some(Level::RELEASE_0_2), "{name}");
        assert_eq!(level::first_unsupported(Level::RELEASE_0_2, &command), None);
    }
    let facts = world.registry.access().clone();
    assert_eq!(facts, argosy_state::access::AccessFacts::default());
    world.apply(Command::RaiseLevel {
        level: Level::RELEASE_0_2,
    });
    assert_eq!(*world.registry.access(), facts);
}

/// Registers an agent as an actor, as agent `id` or as a new one.
fn register(world: &mut World, actor: &str, id: Option<u64>, nonce: u64) -> Result<u64, Rejection> {
    let mut register = registration(nonce, "cpus:1");
    register.agent = id.map(AgentId);
    let command = ProposedCommand {
        ticket: world.ticket(),
        actor: actor.parse().unwrap(),
        command: Command::RegisterAgent(register),
    };
    let entry = LogEntry {
        at: world.now,
        commands: vec![command],
    };
    let applied = world.apply_entry(&entry).0.remove(0);
    match applied.outcome {
        Ok(CommandReply::Agent(id)) => Ok(id.0),
        Ok(other) => panic!("not registered: {other:?}"),
        Err(why) => Err(why),
    }
}

fn bound(agent: u64, principal: &str) -> Rejection {
    Rejection::AgentBound(AgentId(agent), principal.parse().unwrap())
}

#[test]
fn an_agent_is_bound_to_the_first_principal_that_registers_it() {
    let mut world = World::new();
    assert_eq!(register(&mut world, "agent/a7", None, 7), Ok(1));
    let refused = Err(bound(1, "agent/a7"));
    // By its id, and by the number of its first registration.
    assert_eq!(register(&mut world, "agent/b", Some(1), 7), refused);
    assert_eq!(register(&mut world, "agent/b", None, 7), refused);
    assert_eq!(register(&mut world, "agent/a7", Some(1), 7), Ok(1));
    // An agent from before TLS is bound when it proves its identity.
    assert_eq!(register(&mut world, "unauthenticated", None, 8), Ok(2));
    assert_eq!(register(&mut world, "agent/a8", Some(2), 8), Ok(2));
    assert_eq!(
        register(&mut world, "agent/b", Some(2), 8),
        Err(bound(2, "agent/a8"))
    );
    // Without TLS nothing is proven and nothing is compared, as before.
    assert_eq!(register(&mut world, "unauthenticated", Some(2), 8), Ok(2));
    let known = world.registry.agent(AgentId(2)).unwrap();
    assert_eq!(known.principal, Some("agent/a8".parse().unwrap()));
    // One principal may register several agents: after its disk was replaced.
    assert_eq!(register(&mut world, "agent/a7", None, 9), Ok(3));
    assert!(world.reloaded() == world.registry);
}

#[test]
fn an_agent_is_not_bound_below_level_3() {
    let mut world = World::empty();
    world.level = Level::RELEASE_0_1;
    world.open_epoch(NodeId(1));
    assert_eq!(register(&mut world, "agent/a7", None, 7), Ok(1));
    assert_eq!(register(&mut world, "agent/b", Some(1), 7), Ok(1));
    let known = world.registry.agent(AgentId(1)).unwrap();
    assert_eq!(known.principal, None);
    assert!(world.reloaded() == world.registry);
}

#[test]
fn a_token_gives_no_name_of_an_agent_with_another_certificate() {
    let mut world = World::new();
    assert_eq!(register(&mut world, "agent/a7", None, 7), Ok(1));
    let create = AccessOperation::CreateToken(NewToken {
        id: TokenId(1),
        purpose: TokenPurpose::Join {
            kind: PrincipalKind::Agent,
            uses_left: 2,
        },
        hash: [1; 32],
        lifetime_ms: None,
        description: String::new(),
    });
    let join = |name: &str| AccessOperation::UseJoinToken {
        token: TokenId(1),
        principal: name.parse().unwrap(),
        key: KeyHash([1; 32]),
    };
    let outcomes = operate(
        &mut world,
        vec![create, join("agent/a7"), join("agent/a8")],
        0,
    );
    assert_eq!(outcomes, [Ok(()), Err(bound(1, "agent/a7")), Ok(())]);
    // A name that has joined may register, and join again.
    assert_eq!(register(&mut world, "agent/a8", None, 8), Ok(2));
    assert_eq!(operate(&mut world, vec![join("agent/a8")], 0), [Ok(())]);
}

/// Of several agents with the name the first one is named. Those that are gone do not count.
#[test]
fn a_token_gives_the_name_of_agents_that_are_gone() {
    let mut world = World::new();
    let create = AccessOperation::CreateToken(NewToken {
        id: TokenId(1),
        purpose: TokenPurpose::Join {
            kind: PrincipalKind::Agent,
            uses_left: 1,
        },
        hash: [1; 32],
        lifetime_ms: None,
        description: String::new(),
    });
    operate(&mut world, vec![create], 0);
    assert_eq!(register(&mut world, "agent/a7", None, 7), Ok(1));
    assert_eq!(register(&mut world, "agent/a70", None, 8), Ok(2));
    assert_eq!(register(&mut world, "agent/a7", None, 9), Ok(3));
    let join = || AccessOperation::UseJoinToken {
        token: TokenId(1),
        principal: "agent/a7".parse().unwrap(),
        key: KeyHash([1; 32]),
    };
    for named in [1, 3] {
        let outcomes = operate(&mut world, vec![join()], 0);
        assert_eq!(outcomes, [Err(bound(named, "agent/a7"))]);
        world.mark_unreachable(AgentId(named));
        let gone = OperatorOperation::MarkGone(AgentId(named));
        assert!(world.operate(gone).is_ok());
    }
    assert_eq!(operate(&mut world, vec![join()], 0), [Ok(())]);
    assert!(world.reloaded() == world.registry);
}

#[test]
fn no_token_proves_a_member_of_the_cluster() {
    let mut world = World::new();
    for (principal, is_created) in [
        ("agent/a7", false),
        ("master/m1", false),
        ("framework/web", true),
        ("operator/ci", true),
    ] {
        let AccessOperation::CreateToken(new) = token(world.registry.access().tokens.len(), None)
        else {
            panic!("it creates a token");
        };
        let new = NewToken {
            purpose: TokenPurpose::Bearer(principal.parse().unwrap()),
            ..new
        };
        let outcomes = operate(&mut world, vec![AccessOperation::CreateToken(new)], 0);
        assert_eq!(outcomes[0].is_ok(), is_created, "{outcomes:?}");
        if let Err(why) = &outcomes[0] {
            assert!(why.to_string().contains("certificate"), "{why}");
        }
    }
    assert_eq!(world.registry.access().tokens.len(), 2);
}
