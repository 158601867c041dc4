//! Tests of `stop_after_ms`: the deadline of a task, and its renewal by the answers of a leader.

use argosy_proto::v1;
use argosy_state::ids::Timestamp;

use super::tasks::last_update;
use super::world::{CoreFixture, instance, spec};
use crate::core::{Input, RecoveredContainer, StartedFact};

const RUNNING: RecoveredContainer = RecoveredContainer::Running(StartedFact {
    pid: 77,
    at: Timestamp(1_000),
});

#[test]
fn stop_after_counts_from_the_last_answered_message() {
    let mut world = CoreFixture::registered();
    world.wait(300);
    let mut wanted = spec("web");
    wanted.stop_after_ms = 10_000;
    world.launch_spec(1, wanted);
    world.sync();
    // The hello was sent at 1,000; nothing later has been answered.
    world.expect(&["start 1-1-1 until 11000"]);
    // A start may take longer than that.
    for (serial, ms, renewed) in [
        (1, 700, "renew 1 until 12000"),
        (2, 1_000, "renew 1 until 13100"),
    ] {
        world.wait(ms);
        world.sync();
        world.discard_effects();
        world.now += 100;
        world.receive(v1::to_agent::Message::Pong(v1::Ping { serial }));
        world.expect(&[renewed]);
        if serial == 1 {
            world.started(1);
        }
    }
}

#[test]
fn a_slow_journal_delays_no_lease_renewal() {
    let mut world = CoreFixture::registered();
    let mut wanted = spec("web");
    wanted.stop_after_ms = 10_000;
    world.launch_spec(1, wanted);
    world.sync();
    world.started(1);
    world.wait(1_000);
    world.sync();
    // From here on no sync ends.
    world.launch_spec(2, spec("other"));
    world.discard_effects();
    world.receive(v1::to_agent::Message::Pong(v1::Ping { serial: 1 }));
    world.expect(&["renew 1 until 12000"]);
}

fn fetched_singleton(stop_after_ms: u64) -> v1::TaskSpec {
    let mut wanted = spec("web");
    wanted.stop_after_ms = stop_after_ms;
    wanted.uris.push(v1::Uri {
        value: "/srv/x".into(),
        ..v1::Uri::default()
    });
    wanted
}

#[test]
fn stop_after_counts_from_the_last_answer_without_a_link() {
    let mut world = CoreFixture::registered();
    world.launch_spec(1, fetched_singleton(10_000));
    world.sync();
    world.wait(4_000);
    world.discard_effects();
    assert!(!world.core.is_registered(), "three intervals of silence");
    let fetched = Input::Fetched {
        instance: instance(1),
        result: Ok(()),
    };
    world.feed(fetched);
    // The hello was made at 1,000, and no ping was answered. Not 15,000: masters may report that it
    // has stopped by then.
    world.expect(&["start 1-1-1 until 11000"]);
}

#[test]
fn only_answers_of_an_active_leader_renew_the_lease() {
    let mut world = CoreFixture::registered();
    world.launch_spec(1, fetched_singleton(10_000));
    world.sync();
    world.wait(4_000);
    world.connect();
    world.discard_effects();
    world.feed(Input::Fetched {
        instance: instance(1),
        result: Ok(()),
    });
    world.expect(&["start 1-1-1 until 11000"]);
    world.started(1);
    world.discard_effects();
    // Registered again: the send time of the hello counts, immediately.
    world.register(true);
    let renewed = world
        .effects
        .iter()
        .filter(|line| line.starts_with("renew"));
    assert_eq!(renewed.collect::<Vec<_>>(), ["renew 1 until 15000"]);
    world.discard_effects();
}

#[test]
fn an_expired_task_never_starts() {
    let mut world = CoreFixture::registered();
    world.launch_spec(1, fetched_singleton(3_000));
    world.sync();
    world.wait(3_000);
    world.discard_effects();
    world.feed(Input::Fetched {
        instance: instance(1),
        result: Ok(()),
    });
    world.expect(&[]);
    world.report();
    // The silent link is closed by now; the end is in the journal.
    assert!(
        world.effects.contains(&"destroy 1-1-1".to_owned()),
        "{:?}",
        world.effects
    );
    assert!(!world.effects.iter().any(|line| line.starts_with("start")));
    world.discard_effects();
    let last = last_update(&world, 1);
    assert_eq!(last.state(), v1::TaskState::Failed);
    assert_eq!(last.reason(), v1::Reason::StoppedWithoutLeader);
}

/// Masters may have reported the tasks as stopped before.
#[test]
fn an_answer_after_the_deadline_revives_no_start() {
    let mut world = CoreFixture::registered();
    world.launch_spec(1, fetched_singleton(3_000));
    let mut starting = spec("db");
    starting.stop_after_ms = 3_000;
    world.launch_spec(2, starting);
    world.sync();
    world.wait(4_000);
    world.discard_effects();
    world.register(true);
    world.feed(Input::Fetched {
        instance: instance(1),
        result: Ok(()),
    });
    world.report();
    // Its supervisor compares the deadline once more; if it was in time, it ends the task itself.
    world.started(2);
    world.wait(1_000);
    world.receive(v1::to_agent::Message::Pong(v1::Ping { serial: u64::MAX }));
    let effects = world.take_effects();
    let is_wrong = |effect: &&String| effect.starts_with("start") || effect.starts_with("renew");
    assert_eq!(effects.iter().find(is_wrong), None);
    assert!(
        effects.contains(&"cancel the fetch for 1".to_owned()),
        "{effects:?}"
    );
    let last = last_update(&world, 1);
    assert_eq!(last.state(), v1::TaskState::Failed);
    assert_eq!(last.reason(), v1::Reason::StoppedWithoutLeader);
}

#[test]
fn a_task_with_stop_after_is_not_started_after_a_restart() {
    let mut world = CoreFixture::registered();
    world.launch_spec(1, fetched_singleton(10_000));
    world.sync();
    let mut world = world.restart("boot-1");
    world.found(1, RecoveredContainer::NeverStarted);
    world.register(true);
    world.report();
    let effects = world.take_effects();
    let starts = |effect: &&String| effect.starts_with("start") || effect.starts_with("fetch");
    assert_eq!(effects.iter().find(starts), None);
    let last = last_update(&world, 1);
    assert_eq!(last.state(), v1::TaskState::Failed);
    assert_eq!(last.reason(), v1::Reason::AgentRestarted);
}

/// Returns the next run of an agent with a running task.
fn restarted() -> CoreFixture {
    let mut world = CoreFixture::registered();
    let mut wanted = spec("web");
    wanted.stop_after_ms = 10_000;
    world.launch_spec(1, wanted);
    world.sync();
    world.started(1);
    world.report();
    let mut world = world.restart("boot-1");
    world.sync();
    world.discard_effects();
    world
}

#[test]
fn adoption_renews_a_lease_by_the_newest_answer_before() {
    for (is_killed, expected) in [(false, "renew 1 until 15000"), (true, "kill 1 in 100")] {
        let mut world = restarted();
        // The agent registers without the state of the container: its hello is made at 5,000.
        world.wait(4_000);
        world.register(true);
        if is_killed {
            world.kill(2, "web", 100);
            world.sync();
        }
        world.discard_effects();
        world.found(1, RUNNING);
        world.expect(&[expected]);
    }
}

#[test]
fn adoption_before_the_first_answer_renews_no_lease() {
    let mut world = restarted();
    world.found(1, RUNNING);
    world.sync();
    world.expect(&["dial"]);
    world.register(true);
    assert!(world.effects.contains(&"renew 1 until 11000".to_owned()));
}
