//! Tests of agents that all return at the same time, with orders in flight to them.

use argosy_state::agent::AgentMode;
use argosy_state::digest::DigestKind;
use argosy_state::ids::{AgentId, OrderIndex};
use argosy_state::registry::Order;
use argosy_state::task::TaskState;
use argosy_state::testing::spec;
use expect_test::expect;

use super::fixture::{AGENT, FRAMEWORK, LIMITS, World, new_agent, task_key};
use crate::leader::admission::{CHUNK_MS, LISTS, interval_ms};
use crate::leader::{Hello, Input};
use crate::links::LinkId;

/// Registers agents with these numbers in one entry; all are silent until now.
fn many(agents: u64) -> World {
    let mut world = World::new();
    world.slow_log();
    for nonce in 1..=agents {
        let link = world.link();
        world.hello(link, new_agent(nonce, "cpus:1;mem:1024"));
    }
    world.commit_together();
    world.clear_lines();
    world
}

/// Returns the hello of an agent that has lost a task, or runs one that the registry does not know.
fn different(world: &World, agent: u64) -> Hello {
    let mut hello = world.hello_of(AgentId(agent));
    hello.digests.insert(
        DigestKind::Task,
        hello.digests[&DigestKind::Task].wrapping_add(1),
    );
    hello
}

/// Returns the hello of the only agent while it has taken orders up to `floor` and holds these
/// tasks.
fn at_floor(world: &World, floor: u64, held: &[&str]) -> Hello {
    let mut hello = world.hello_of(AGENT);
    hello.floor = OrderIndex(floor);
    let marks = held.iter().map(|task| {
        let task = world.registry.task(&task_key(task)).unwrap();
        argosy_state::digest::task_mark(&task.key, task.order, task.reported)
    });
    hello
        .digests
        .insert(DigestKind::Task, marks.fold(0, u128::wrapping_add));
    hello
}

#[test]
fn agent_with_undelivered_orders_is_equal_after_failover() {
    let mut world = World::with_offer();
    world.accept("1.1", &["a", "b", "c"]);
    world.report(LinkId(2), "a", 1, TaskState::Running);
    world.kill("a");
    world.clear_lines();
    world.new_leader();
    let entries = world.entries();
    // It has taken the launch of "a" and no later order.
    let hello = at_floor(&world, 1, &["a"]);
    let link = world.link();
    world.hello(link, hello);
    world.expect(&expect![[r#"
        link-3 <- registered agent-1, equal
        link-3 <- order 2 launch framework-1/b
        link-3 <- order 3 launch framework-1/c
        link-3 <- order 4 kill framework-1/a in 3000 ms
    "#]]);
    assert_eq!(world.entries(), entries);
}

/// The disk of the agent is an older copy, from before the launch. A task starts at most once.
#[test]
fn a_task_that_has_reported_is_not_launched_on_an_agent_that_forgot_it() {
    for unreachable in [false, true] {
        let mut world = World::with_running_task();
        if unreachable {
            world.advance(LIMITS.agent_timeout_ms);
            assert_eq!(world.state_of("a"), TaskState::Unreachable);
            world.clear_lines();
        }
        let hello = at_floor(&world, 0, &[]);
        let link = world.link();
        world.hello(link, hello);
        world.list(link, 0, &[]);
        let output = world.take_lines();
        assert!(
            !output.iter().any(|line| line.contains("launch")),
            "{output:?}"
        );
        assert_eq!(world.state_of("a"), TaskState::Gone);
    }
}

#[test]
fn failover_under_load_needs_no_list_and_no_entry() {
    let mut world = World::new();
    world.subscribe("web");
    for number in 1..=50 {
        world.agent("cpus:4;mem:4096");
        let tasks = [format!("a{number}"), format!("b{number}")];
        world.launch(
            &format!("1.{number}"),
            tasks.iter().map(|task| spec(task, "cpus:1")).collect(),
        );
    }
    world.new_leader();
    world.framework_returns(FRAMEWORK, &[]);
    world.clear_lines();
    let entries = world.entries();
    for number in 1..=50 {
        // Every third agent has taken none of its orders, every third one, and every third both.
        let floor = number % 3;
        let mut hello = world.hello_of(AgentId(number));
        let index = world.registry.agent_index(AgentId(number)).unwrap();
        let undelivered = index.orders.range(OrderIndex(floor + 1)..);
        for (index, order) in undelivered {
            let Order::Launch(key) = order else {
                continue;
            };
            let mark = argosy_state::digest::task_mark(key, *index, 0);
            let tasks = hello.digests.get_mut(&DigestKind::Task).unwrap();
            *tasks = tasks.wrapping_sub(mark);
        }
        hello.floor = OrderIndex(floor);
        let link = world.link();
        world.hello(link, hello);
    }
    let output = world.take_lines();
    let count = |what: &str| output.iter().filter(|line| line.contains(what)).count();
    assert_eq!((count(", equal"), count("list your tasks")), (50, 0));
    // Of 100 orders the 17 of those with number 1, 4, ... and 2 each of 2, 5, ... were delivered.
    assert_eq!(count("launch"), 100 - 17 - 2 * 17);
    assert_eq!(world.entries(), entries);
}

#[test]
fn an_agent_with_missing_or_additional_tasks_is_compared() {
    let mut world = World::with_offer();
    world.accept("1.1", &["a", "b"]);
    world.report(LinkId(2), "a", 1, TaskState::Running);
    world.clear_lines();
    for hello in [
        at_floor(&world, 1, &[]),
        at_floor(&world, 1, &["a", "b"]),
        // Above every order: the agent has seen a different registry.
        at_floor(&world, 3, &["a", "b"]),
        // It has lost the launch: its disk is an older copy.
        at_floor(&world, 0, &[]),
    ] {
        let link = world.link();
        world.hello(link, hello);
        let output = world.take_lines().join("\n");
        assert!(output.contains("different"), "{output}");
    }
}

#[test]
fn lists_of_a_thousand_agents_are_queued_and_bounded() {
    const AGENTS: u64 = 1_000;
    let mut world = many(AGENTS);
    world.defer_check();
    world.new_leader();
    let mut agent_of = std::collections::BTreeMap::new();
    for agent in 1..=AGENTS {
        let hello = different(&world, agent);
        let link = world.link();
        agent_of.insert(link, agent);
        world.hello(link, hello);
    }
    let asked = |world: &mut World| -> Vec<LinkId> {
        let output = world.take_lines();
        let asked = output.iter().filter_map(|line| {
            let link = line.strip_prefix("link-")?;
            let link = link.strip_suffix(" <- list your tasks")?;
            Some(LinkId(link.parse().unwrap()))
        });
        asked.collect()
    };
    let mut under_way = std::collections::VecDeque::from(asked(&mut world));
    assert_eq!(under_way.len(), LISTS);
    let mut order = Vec::new();
    while let Some(link) = under_way.pop_front() {
        order.push(agent_of[&link]);
        world.list(link, 0, &[]);
        world.commit();
        under_way.extend(asked(&mut world));
        assert!(under_way.len() <= LISTS, "{}", under_way.len());
    }
    assert_eq!(order, (1..=AGENTS).collect::<Vec<_>>());
    assert_eq!(world.registry.check(), Ok(()));
}

#[test]
fn queued_agents_stay_alive_and_their_wait_is_bounded() {
    let agents = LISTS as u64 + 1;
    let mut world = many(agents);
    world.new_leader();
    let mut links = Vec::new();
    for agent in 1..=agents {
        let hello = different(&world, agent);
        let link = world.link();
        links.push(link);
        world.hello(link, hello);
    }
    world.clear_lines();
    // All are reachable, and those that were asked send nothing: after a while the last one is
    // asked too.
    world.advance_with(CHUNK_MS - 100, &links);
    world.expect_nothing();
    world.advance_with(100, &links);
    let last = links[LISTS];
    assert_eq!(
        world.take_lines(),
        [format!("link-{} <- list your tasks", last.0)]
    );
    world.advance_with(2 * LIMITS.agent_timeout_ms, &links);
    world.expect_nothing();
    assert_eq!(
        world.registry.agents_in(AgentMode::Registered),
        usize::try_from(agents).unwrap()
    );
    // A late list is still accepted.
    world.list(links[0], 0, &[]);
    world.commit();
    world.expect_nothing();
}

#[test]
fn an_agent_that_never_lists_its_tasks_stays_and_is_not_offered() {
    let mut world = World::new();
    world.subscribe("web");
    let link = world.link();
    let mut hello = new_agent(1, "cpus:4;mem:4096");
    hello.digests.insert(DigestKind::Task, 1);
    world.hello(link, hello);
    let asked = format!("link-{} <- list your tasks", link.0);
    let mut output = world.take_lines();
    assert!(output.contains(&asked), "{output:?}");
    world.advance_with(2 * LIMITS.agent_timeout_ms, &[link]);
    output.extend(world.take_lines());
    assert!(
        !output.iter().any(|line| line.contains("<- offers")),
        "{output:?}"
    );
    assert_eq!(world.registry.agents_in(AgentMode::Registered), 1);
    world.list(link, 0, &[]);
    let output = world.take_lines();
    assert!(
        output.iter().any(|line| line.contains("<- offers")),
        "{output:?}"
    );
}

#[test]
fn closing_a_link_removes_it_from_the_queue() {
    let agents = LISTS as u64 + 2;
    let mut world = many(agents);
    world.new_leader();
    let mut links = Vec::new();
    for agent in 1..=agents {
        let hello = different(&world, agent);
        let link = world.link();
        links.push(link);
        world.hello(link, hello);
    }
    world.clear_lines();
    world.feed(Input::AgentClosed { link: links[LISTS] });
    world.expect_nothing();
    world.feed(Input::AgentClosed { link: links[0] });
    assert_eq!(
        world.take_lines(),
        [format!("link-{} <- list your tasks", links[LISTS + 1].0)]
    );
}

#[test]
fn heartbeat_interval_grows_with_reachable_agents() {
    assert_eq!(interval_ms(0, 15_000), 1_000);
    assert_eq!(interval_ms(1_000, 15_000), 1_000);
    assert_eq!(interval_ms(1_001, 15_000), 2_000);
    assert_eq!(interval_ms(100_000, 15_000), 5_000);
}
