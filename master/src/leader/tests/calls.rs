//! Tests of numbered calls: each takes effect once, even if messages are repeated, lost or late.

use argosy_state::command::{Accept, Call, CallAction, OfferOperation, Operate, OperatorOperation};
use argosy_state::fingerprint;
use argosy_state::ids::GroupId;
use argosy_state::level::Level;
use argosy_state::task::{CommandSpec, TaskGroup, TaskSpec};
use argosy_state::testing::spec;
use expect_test::expect;

use super::fixture::{AGENT, FRAMEWORK, World};

/// Before level 3 the log has the operations in one launch.
#[test]
fn rejected_tasks_are_identified_by_operation_and_task_at_any_level() {
    for level in [Level::RELEASE_0_1, Level::RELEASE_0_2] {
        let mut world = World::with_offer();
        let (accept, tokens) = world.acceptance("1.1", Vec::new());
        let launch = |tasks: &[(&str, &str)]| {
            let specs = tasks.iter().map(|(task, resources)| spec(task, resources));
            OfferOperation::Launch(specs.collect())
        };
        let accept = Accept {
            operations: vec![
                launch(&[("a", "cpus:1"), ("b", "cpus:9")]),
                launch(&[("c", "cpus:9"), ("d", "cpus:1"), ("e", "cpus:9")]),
            ],
            ..accept
        };
        let call = world.call_of(CallAction::Accept(accept));
        world.slow_log();
        world.send(call.clone(), tokens.clone());
        world.log_at(level);
        world.commit();
        world.send(call, tokens);
        world.expect(&expect![[r#"
            link-2 <- order 1 launch framework-1/a
            link-2 <- order 2 launch framework-1/d
            call-1: called at 4.0, task 0.1 refused too-large, task 1.0 refused too-large, task 1.2 refused too-large
            call-2: called at 4.0, task 0.1 refused too-large, task 1.0 refused too-large, task 1.2 refused too-large
        "#]]);
    }
}

#[test]
fn a_call_that_release_0_1_0_answered_is_a_repeat_after_the_upgrade() {
    let mut world = World::with_offer();
    let (accept, tokens) = world.acceptance("1.1", vec![spec("a", "cpus:1")]);
    let call = world.call_of(CallAction::Accept(accept));
    let before = Call {
        hash: fingerprint::call_of_0_1_0(&call),
        ..call.clone()
    };
    let after = Call {
        hash: fingerprint::call(&call, 5_000),
        ..call
    };
    assert_ne!(before.hash, after.hash);
    world.send(before, tokens.clone());
    world.new_leader();
    let entries = world.entries();
    world.send(after, tokens);
    world.expect(&expect![[r#"
        link-2 <- order 1 launch framework-1/a
        call-1: called at 4.0
        call-2: called at 4.0
    "#]]);
    assert_eq!(world.entries(), entries);
    assert_eq!(world.registry.tasks_of(FRAMEWORK).count(), 1);
}

#[test]
fn a_batch_that_release_0_1_0_answered_is_a_repeat_after_the_upgrade() {
    let mut world = World::with_offer();
    let batch = Operate {
        request: Some(("alice".to_owned(), "r-1".to_owned())),
        hash: 0,
        operations: vec![OperatorOperation::Deactivate(AGENT)],
        wall_ms: 0,
    };
    let with_hash = |hash| Operate {
        hash,
        wall_ms: 7,
        ..batch.clone()
    };
    world.send_batch(with_hash(fingerprint::batch_of_0_1_0(&batch)));
    world.operate(OperatorOperation::Reactivate(AGENT));
    world.send_batch(with_hash(fingerprint::batch(&batch)));
    let mut other = with_hash(0);
    other.operations.push(OperatorOperation::Reactivate(AGENT));
    other.hash = fingerprint::batch(&other);
    world.send_batch(other);
    world.expect(&expect![[r#"
        link-1 <- rescind 1.1: its agent has changed
        call-1: operated: done
        call-2: operated: done
        link-1 <- offers 1.2 * agent-1 cpus:4;mem:4096
        call-3: operated: done
        call-4: refused request-reused: request id "r-1" was already used for other operations
    "#]]);
    let mode = world.registry.agent(AGENT).unwrap().mode();
    assert_eq!(mode, argosy_state::agent::AgentMode::Registered);
}

#[test]
fn callers_with_the_same_request_id_do_not_get_each_others_answers() {
    let mut world = World::with_offer();
    let batch = |operation| {
        let mut batch = Operate {
            request: Some(("operator".to_owned(), "r-1".to_owned())),
            hash: 0,
            operations: vec![operation],
            wall_ms: 0,
        };
        batch.hash = fingerprint::batch(&batch);
        batch
    };
    world.act_as("operator/alice");
    world.send_batch(batch(OperatorOperation::Deactivate(AGENT)));
    world.act_as("operator/bob");
    world.send_batch(batch(OperatorOperation::Reactivate(AGENT)));
    world.act_as("operator/alice");
    world.send_batch(batch(OperatorOperation::Deactivate(AGENT)));
    world.expect(&expect![[r#"
        link-1 <- rescind 1.1: its agent has changed
        call-1: operated: done
        call-2: operated: done
        link-1 <- offers 1.2 * agent-1 cpus:4;mem:4096
        call-3: operated: done
    "#]]);
    let mode = world.registry.agent(AGENT).unwrap().mode();
    assert_eq!(mode, argosy_state::agent::AgentMode::Registered);
}

#[test]
fn the_same_number_with_another_filter_is_an_error() {
    let mut world = World::with_offer();
    let (accept, tokens) = world.acceptance("1.1", vec![spec("a", "cpus:1")]);
    let call = world.call_of(CallAction::Accept(accept));
    let with_filter = |filter_ms| Call {
        hash: fingerprint::call(&call, filter_ms),
        ..call.clone()
    };
    world.send(with_filter(5_000), tokens.clone());
    world.send(with_filter(6_000), tokens);
    world.expect(&expect![[r#"
        link-2 <- order 1 launch framework-1/a
        call-1: called at 4.0
        call-2: refused call-reused: call 1 was already used for another request
    "#]]);
}

#[test]
fn waiting_repeats_of_a_call_are_bounded() {
    let mut world = World::with_offer();
    world.slow_log();
    let call = world.call_of(CallAction::Suppress(Vec::new()));
    for _ in 0..18 {
        world.send(call.clone(), Vec::new());
    }
    world.expect(&expect![[r#"
        call-1: refused repeated: a later repeat of this call waits for the answer
        call-2: refused repeated: a later repeat of this call waits for the answer
    "#]]);
    world.commit();
    assert_eq!(world.take_lines().len(), 16);
}

#[test]
fn a_call_with_tasks_that_no_agent_can_run_uses_no_offer() {
    let mut world = World::with_offer();
    let entries = world.entries();
    let long = || TaskSpec {
        run: CommandSpec::Shell("x".repeat(200_000)),
        ..spec("long", "cpus:1")
    };
    let grouped = |tasks: [TaskSpec; 2]| TaskGroup::of(&GroupId::new("g").unwrap(), tasks.into());
    let (fine, nothing) = (spec("fine", "cpus:1"), spec("idle", ""));
    for tasks in [
        vec![long(), nothing.clone()],
        grouped([fine.clone(), long()]),
    ] {
        world.launch("1.1", tasks);
    }
    let (mut accept, tokens) = world.acceptance("1.1", vec![fine.clone(), nothing.clone()]);
    accept.all_or_nothing = true;
    let call = world.call_of(CallAction::Accept(accept));
    world.send(call, tokens);
    world.expect(&expect![[r#"
        call-1: refused invalid: operations[0].launch.tasks[0].command.shell: it takes 200000 bytes; Linux executes at most 131071 in one argument: bring a file with uris
        call-2: refused invalid: operations[0].launch.tasks[1].command.shell: it takes 200000 bytes; Linux executes at most 131071 in one argument: bring a file with uris
        call-3: refused invalid: operations[0].launch.tasks[1].resources: ask for something, as cpus:0.1;mem:32
    "#]]);
    assert_eq!(world.entries(), entries);
    // The offer is open: one task that can be launched uses it.
    world.launch("1.1", vec![nothing, fine]);
    world.expect(&expect![[r#"
        link-2 <- order 1 launch framework-1/fine
        call-4: called at 4.0, task 0.0 refused invalid
    "#]]);
}
