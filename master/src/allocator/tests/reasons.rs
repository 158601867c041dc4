//! Tests of the results of `explain`.

use argosy_state::command::{CallAction, OperatorOperation};
use argosy_state::ids::AgentId;

use super::fixture::{World, parse};
use crate::allocator::{ExplainQuery, Outlook, SkipReason, StreamState};

fn reasons(world: &World, query: &ExplainQuery) -> Vec<(AgentId, SkipReason)> {
    let explanation = world.explain(query);
    assert_eq!(
        explanation.agents() as usize,
        world.registry.agents().len(),
        "each agent counts once"
    );
    explanation
        .skipped
        .iter()
        .map(|agent| (agent.agent, agent.reason))
        .collect()
}

#[test]
fn too_small_agent_is_distinguished_from_busy_agent() {
    let mut world = World::new();
    let a = world.framework(&["a"]);
    let busy = world.agent("cpus:8;mem:1024");
    let offer = world.offers().remove(0);
    world.accept(&offer, &[("t", "cpus:6")]);
    let small = world.agent("cpus:2;mem:1024");
    let smaller = world.agent("cpus:1;mem:4096");
    let large = world.agent("cpus:8;mem:1024");
    world.links.streams.insert(a, StreamState::None);
    world.allocator.framework_changed(a);
    world.offers();
    world.links.streams.clear();
    let question = ExplainQuery::new(a, Some(parse("cpus:4;mem:512")));
    assert_eq!(
        reasons(&world, &question),
        [
            (busy, SkipReason::Busy),
            (small, SkipReason::TooSmall),
            (smaller, SkipReason::TooSmall),
            (large, SkipReason::Ready),
        ]
    );
    let explanation = world.explain(&question);
    assert_eq!(explanation.nearest.as_ref().unwrap().0, small);
    assert_eq!(
        explanation.skipped[0].detail,
        "asked cpus:4; free cpus:2; 1 tasks use the rest"
    );
    assert_eq!(explanation.skipped[1].detail, "asked cpus:4; it has cpus:2");
    let never = world.explain(&ExplainQuery::new(a, Some(parse("cpus:64"))));
    assert_eq!(never.count(SkipReason::TooSmall), 4);
    assert_eq!(never.summary(), "no agent is large enough, now or later");
    let never = world.explain(&ExplainQuery::new(a, Some(parse("zebras:1"))));
    assert_eq!(never.skipped[0].detail, "asked zebras:1; it has no zebras");
}

#[test]
fn explanation_contains_the_frameworks_decline_reason() {
    let mut world = World::new();
    let (a, b) = (world.framework(&["a"]), world.framework(&["b"]));
    let agent = world.agent("cpus:8;mem:1024");
    let offer = world.offers().remove(0);
    let question = ExplainQuery::new(a, Some(parse("cpus:1")));
    assert_eq!(reasons(&world, &question), [(agent, SkipReason::Offered)]);
    let other = ExplainQuery::new(b, Some(parse("cpus:1")));
    assert_eq!(
        reasons(&world, &other),
        [(agent, SkipReason::OfferedElsewhere)]
    );
    world.call(b, CallAction::Suppress(Vec::new()));
    world.offers();
    let long = "x".repeat(10_000);
    world.decline_because(&offer, Some(60_000), "no-ssd", &long);
    world.offers();
    assert_eq!(reasons(&world, &question), [(agent, SkipReason::Filtered)]);
    let explanation = world.explain(&question);
    let last = explanation.last_decline.as_ref().unwrap();
    assert_eq!(last.code, "no-ssd");
    assert_eq!(last.text.len(), crate::allocator::DECLINE_TEXT);
    assert!(
        explanation
            .summary()
            .starts_with("it was offered, and the framework declined: xx")
    );
    assert_eq!(reasons(&world, &other), [(agent, SkipReason::Suppressed)]);
}

#[test]
fn the_state_of_an_agent_is_reported_before_its_size() {
    let mut world = World::new();
    let a = world.framework(&["a"]);
    let [lost, off, far] = std::array::from_fn(|_| world.agent("cpus:1"));
    world.mark_unreachable(lost);
    world.operate(OperatorOperation::Deactivate(off));
    world.links.unlinked.insert(far);
    world.allocator.agent_changed(far);
    world.offers();
    let question = ExplainQuery::new(a, Some(parse("cpus:64")));
    assert_eq!(
        reasons(&world, &question),
        [
            (lost, SkipReason::Unreachable),
            (off, SkipReason::Deactivated),
            (far, SkipReason::NoLink),
        ]
    );
}

#[test]
fn missing_stream_is_reported_for_all_agents() {
    let mut world = World::new();
    let a = world.framework(&["a"]);
    world.agent("cpus:1");
    world.agent("cpus:1");
    world.links.streams.insert(a, StreamState::None);
    let explanation = world.explain(&ExplainQuery::new(a, None));
    assert_eq!(explanation.count(SkipReason::NotActive), 2);
    assert_eq!(explanation.summary(), "the framework is not connected");
    let unknown = argosy_state::ids::FrameworkId(99);
    let explanation = world.explain(&ExplainQuery::new(unknown, None));
    assert_eq!(explanation.count(SkipReason::NotActive), 2);
}

#[test]
fn small_remainders_and_gpus_have_separate_reasons() {
    let mut world = World::new();
    let a = world.framework(&["a"]);
    let agent = world.agent("cpus:1;mem:64;gpus:1");
    let offer = world.offers().remove(0);
    world.accept(&offer, &[("t", "cpus:0.995;mem:60")]);
    world.offers();
    let question = ExplainQuery::new(a, None);
    assert_eq!(
        reasons(&world, &question),
        [(agent, SkipReason::BelowMinimum)]
    );
    let question = ExplainQuery::new(a, Some(parse("gpus:1")));
    assert_eq!(
        reasons(&world, &question),
        [(agent, SkipReason::NotVisible)]
    );
    assert_eq!(SkipReason::NotVisible.outlook(), Outlook::NotAllowed);
}

#[test]
fn a_large_cluster_is_explained_in_consistent_pages() {
    let mut world = World::new();
    let a = world.framework(&["a"]);
    for at in 1..=25 {
        world.agent(&format!("cpus:{at}"));
    }
    let mut question = ExplainQuery::new(a, Some(parse("cpus:30")));
    question.agents = 10;
    question.max_skipped = 3;
    let mut all = world.explain(&question);
    let mut pages = 1;
    while let Some(after) = all.next {
        question.after = after;
        all.extend(world.explain(&question));
        pages += 1;
    }
    assert_eq!((pages, all.agents(), all.skipped.len()), (3, 25, 9));
    assert_eq!(all.nearest.unwrap().1, parse("cpus:25"));
}
