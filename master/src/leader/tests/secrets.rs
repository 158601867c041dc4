//! Tests of the secrets that an agent gets.

use argosy_state::capability::AgentCapability;
use argosy_state::command::OperatorOperation;
use argosy_state::ids::OrderIndex;
use argosy_state::secret::{SealedSecret, SecretName};
use argosy_state::task::{TaskSpec, TaskState, TaskVolume, VolumeSource};
use argosy_state::testing::{key, spec};

use super::fixture::{AGENT, FRAMEWORK, World, new_agent};
use crate::leader::{GrantedSecret, SecretsRefusal};
use crate::links::LinkId;

/// The stream of `agent-1`.
const LINK: LinkId = LinkId(2);

fn with_secrets(task: &str, names: &[&str]) -> TaskSpec {
    let volumes = names.iter().enumerate().map(|(at, name)| TaskVolume {
        container_path: format!("/run/secrets/{at}"),
        read_only: true,
        source: VolumeSource::Secret((*name).to_owned()),
    });
    TaskSpec {
        volumes: volumes.collect(),
        ..spec(task, "cpus:1")
    }
}

/// Returns a world with the secret `*/db`, in which the task `a` was launched by order 1, on an
/// agent with this actor.
fn world(agent: &str) -> World {
    let mut world = World::new();
    world.subscribe("web");
    world.actor = agent.parse().unwrap();
    let link = world.link();
    let mut hello = new_agent(1_000, "cpus:4;mem:4096");
    hello.info.capabilities = AgentCapability::announced();
    world.hello(link, hello);
    let (_, secret) = SealedSecret::sample();
    let name = SecretName::new("*/db").unwrap();
    world.operate(OperatorOperation::SetSecret { name, secret });
    let names = ["*/db", "key", "*/none", "*/db"];
    world.launch("1.1", vec![with_secrets("a", &names)]);
    assert!(world.registry.task(&key(FRAMEWORK, "a")).is_some());
    world.clear_lines();
    world
}

fn granted(
    world: &World,
    link: LinkId,
    task: &str,
    order: u64,
) -> Result<Vec<GrantedSecret>, SecretsRefusal> {
    let key = key(FRAMEWORK, task);
    world
        .leader
        .secrets_for(&world.registry, link, (&key, OrderIndex(order)))
}

#[test]
fn an_agent_gets_the_secrets_of_a_task_that_it_was_ordered_to_launch() {
    let mut world = world("agent/host-1");
    // Each once, and no secret of the agent itself.
    let name = |text: &str| SecretName::new(text).unwrap();
    let wanted = vec![
        (name("*/db"), Some(SealedSecret::sample().1)),
        (name("*/none"), None),
    ];
    assert_eq!(granted(&world, LINK, "a", 1), Ok(wanted));
    let refused = Err(SecretsRefusal::NotOrdered);
    assert_eq!(granted(&world, LINK, "a", 2), refused);
    assert_eq!(granted(&world, LINK, "b", 1), refused);
    // Nor of a task that has ended.
    world.report(LINK, "a", 1, TaskState::Failed);
    assert_eq!(granted(&world, LINK, "a", 1), refused);
    world.clear_lines();
}

#[test]
fn another_agent_gets_nothing() {
    let mut world = world("agent/host-1");
    let other = world.agent("cpus:4;mem:4096");
    assert_eq!(
        granted(&world, other, "a", 1),
        Err(SecretsRefusal::NotOrdered)
    );
    let closed = Err(SecretsRefusal::NotRegistered);
    assert_eq!(granted(&world, LinkId(99), "a", 1), closed);
    // Its next stream replaces the first one.
    let next = world.agent_returns(AGENT);
    assert_eq!(granted(&world, LINK, "a", 1), closed);
    assert!(granted(&world, next, "a", 1).is_ok());
    world.clear_lines();
}

#[test]
fn only_an_authenticated_agent_gets_secrets() {
    for actor in ["unauthenticated", "operator/alice", "master/master-1"] {
        let world = world(actor);
        let refused = Err(SecretsRefusal::Unauthenticated);
        assert_eq!(granted(&world, LINK, "a", 1), refused, "{actor}");
    }
}
