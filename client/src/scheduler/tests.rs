//! Tests of the SDK against fake masters: losses, repeats, silence, changes of leader.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use argosy_fakes::{CallFault, FakeCluster, ReceivedInput};
use argosy_proto::v1;
use argosy_proto::v1::TaskState;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::*;
use crate::resources::resources;

type Log = Arc<Mutex<Vec<String>>>;

/// The task whose update stops the scheduler.
const LAST: &str = "last";

/// Records the callbacks that it receives.
struct Recorder {
    log: Log,
    offers: Arc<Mutex<Vec<v1::Offer>>>,
}

impl Recorder {
    fn note(&self, line: String) {
        self.log.lock().unwrap().push(line);
    }
}

impl Scheduler for Recorder {
    fn registered(&mut self, _: &SchedulerDriver, subscription: &Subscription) {
        self.note(format!("registered {}", subscription.framework_id));
    }
    fn offers(&mut self, _: &SchedulerDriver, offers: Vec<v1::Offer>) {
        for offer in offers {
            self.note(format!("offer {}", offer.offer_id));
            self.offers.lock().unwrap().push(offer);
        }
    }
    fn rescinded(&mut self, _: &SchedulerDriver, offer_id: &str, _: &str) {
        self.note(format!("rescinded {offer_id}"));
    }
    fn update(&mut self, driver: &SchedulerDriver, status: &v1::TaskStatus) {
        if status.task_id == LAST {
            driver.stop();
        }
        let answer = if status.revision.is_none() {
            " (answer)"
        } else {
            ""
        };
        self.note(format!(
            "update {} {}{answer}",
            status.task_id,
            status.state().as_str_name()
        ));
    }
    fn answered(&mut self, _: &SchedulerDriver, answer: &CallResult) {
        let outcome = match &answer.outcome {
            CallOutcome::Done { refused, .. } => format!("done, {} refused", refused.len()),
            CallOutcome::Refused(refusal) => format!("refused {}", refusal.reason),
            CallOutcome::Lost(refusal) => format!("lost {}", refusal.reason),
            CallOutcome::NotSent(_) => "not sent".into(),
        };
        self.note(format!("answered {} {outcome}", answer.call));
    }
    fn disconnected(&mut self, _: &SchedulerDriver, _: &str) {
        self.note("disconnected".into());
    }
    fn reconnected(&mut self, _: &SchedulerDriver, subscription: &Subscription) {
        self.note(format!("reconnected in epoch {}", subscription.epoch));
    }
    fn error(&mut self, _: &SchedulerDriver, error: &SchedulerError) {
        self.note(format!("error {error}"));
    }
}

/// A fake cluster and a scheduler running on it.
struct World {
    cluster: FakeCluster,
    driver: SchedulerDriver,
    log: Log,
    offers: Arc<Mutex<Vec<v1::Offer>>>,
    run: JoinHandle<Result<(), SchedulerError>>,
}

impl World {
    async fn start(masters: usize) -> Self {
        Self::with(masters, |_| {}).await
    }

    async fn with(masters: usize, change: impl FnOnce(&mut SchedulerConfig)) -> Self {
        let cluster = FakeCluster::start(masters).await;
        let masters = Masters::new(cluster.addresses()).unwrap();
        let mut config = SchedulerConfig::new(masters, "test");
        config.connector.seed = 7;
        config.session = 77;
        change(&mut config);
        let (log, offers) = (Log::default(), Arc::default());
        let mut recorder = Recorder {
            log: Arc::clone(&log),
            offers: Arc::clone(&offers),
        };
        let runner = SchedulerRunner::new(config);
        let driver = runner.driver();
        let run =
            tokio::spawn(async move { runner.run(&mut recorder, CancellationToken::new()).await });
        let world = Self {
            cluster,
            driver,
            log,
            offers,
            run,
        };
        world.wait_for_line("registered framework-1").await;
        world
    }

    async fn wait_for_line(&self, line: &str) {
        self.wait_for_lines(line, 1).await;
    }

    async fn wait_for_lines(&self, line: &str, times: usize) {
        let deadline = tokio::time::Instant::now() + Duration::from_secs(20);
        while self.times(line) < times {
            let now = tokio::time::Instant::now();
            assert!(
                now < deadline,
                "never sent {line:?}; sent {:#?}",
                self.log.lock().unwrap()
            );
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    }

    fn times(&self, line: &str) -> usize {
        self.log
            .lock()
            .unwrap()
            .iter()
            .filter(|reported| *reported == line)
            .count()
    }

    async fn offer(&self, agent: &str) -> v1::Offer {
        let id = self.cluster.offer(agent, "cpus:1;mem:100");
        self.wait_for_line(&format!("offer {id}")).await;
        let offers = self.offers.lock().unwrap();
        offers
            .iter()
            .find(|offer| offer.offer_id == id)
            .unwrap()
            .clone()
    }

    fn calls(&self) -> Vec<(u64, u64, String)> {
        let call = |received| match received {
            ReceivedInput::Called {
                number,
                lowest_unanswered,
                content,
                ..
            } => Some((number, lowest_unanswered, content)),
            _ => None,
        };
        self.cluster
            .received()
            .into_iter()
            .filter_map(call)
            .collect()
    }

    async fn wait_for_call(&self) {
        let is_call = |received: &ReceivedInput| matches!(received, ReceivedInput::Called { .. });
        self.cluster
            .wait("a call", |all| all.iter().any(is_call))
            .await;
    }

    fn subscriptions(&self) -> Vec<Vec<(String, Vec<u8>)>> {
        let held = |received| match received {
            ReceivedInput::Subscribed { held, .. } => Some(held),
            _ => None,
        };
        self.cluster
            .received()
            .into_iter()
            .filter_map(held)
            .collect()
    }

    async fn stop(self) -> Result<(), SchedulerError> {
        self.driver.stop();
        tokio::time::timeout(Duration::from_secs(20), self.run)
            .await
            .expect("the run ends")
            .unwrap()
    }
}

fn task(id: &str) -> v1::TaskSpec {
    v1::TaskSpec {
        task_id: id.into(),
        shell: "true".into(),
        resources: resources("cpus:0.1;mem:10").unwrap(),
        ..Default::default()
    }
}

#[tokio::test]
async fn a_call_whose_reply_is_lost_is_repeated_unchanged_and_applied_once() {
    let world = World::start(3).await;
    let offer = world.offer("agent-1").await;
    world.cluster.fault(CallFault::LostReply, 2);
    world.cluster.fault(CallFault::Unavailable, 2);
    let answer = world.driver.accept(&offer, vec![task("a")]).answer().await;
    assert!(answer.is_done(), "{answer:?}");
    let calls = world.calls();
    assert!(calls.len() >= 2, "{calls:?}");
    assert!(
        calls.iter().all(|call| *call == calls[0]),
        "a repeat differs: {calls:#?}"
    );
    assert_eq!(world.cluster.launches(), [("a".to_owned(), 1)]);
    world.stop().await.unwrap();
}

#[tokio::test]
async fn calls_are_numbered_from_one_with_the_lowest_unanswered() {
    let world = World::start(1).await;
    for (at, agent) in (1..).zip(["agent-1", "agent-2", "agent-3"]) {
        let offer = world.offer(agent).await;
        assert!(
            world
                .driver
                .accept(&offer, vec![task(agent)])
                .answer()
                .await
                .is_done()
        );
        let calls = world.calls();
        assert_eq!((calls.last().unwrap().0, calls.last().unwrap().1), (at, at));
    }
    world.stop().await.unwrap();
}

#[tokio::test]
async fn an_offer_held_across_a_failover_is_presented_and_used_under_its_old_id() {
    let world = World::start(3).await;
    let kept = world.offer("agent-1").await;
    let gone = world.offer("agent-2").await;
    world.cluster.change_leader();
    world.wait_for_line("reconnected in epoch 1").await;
    let presented = &world.subscriptions()[1];
    assert!(
        presented.contains(&(kept.offer_id.clone(), kept.token.to_vec())),
        "{presented:?}"
    );
    assert!(presented.contains(&(gone.offer_id.clone(), gone.token.to_vec())));
    let answer = world.driver.accept(&kept, vec![task("a")]).answer().await;
    assert!(answer.is_done(), "{answer:?}");
    // A used offer is not presented again.
    world.cluster.change_leader();
    world.wait_for_line("reconnected in epoch 2").await;
    assert!(
        !world.subscriptions()[2]
            .iter()
            .any(|(id, _)| *id == kept.offer_id)
    );
    world.stop().await.unwrap();
}

#[tokio::test]
async fn an_offer_that_the_new_leader_does_not_accept_is_rescinded() {
    let world = World::start(1).await;
    let offer = world.offer("agent-1").await;
    // The leader rescinds it, and the event is lost with the stream.
    world.cluster.drop_streams();
    world.cluster.rescind(&offer.offer_id);
    world
        .wait_for_line(&format!("rescinded {}", offer.offer_id))
        .await;
    let answer = world.driver.accept(&offer, vec![task("a")]).answer().await;
    assert!(
        matches!(&answer.outcome, CallOutcome::Refused(refusal) if refusal.reason == "offer-used")
    );
    assert_eq!(answer.not_launched().len(), 1);
    assert!(
        world.calls().is_empty(),
        "what is certain to be refused is not sent"
    );
    world.stop().await.unwrap();
}

#[tokio::test]
async fn a_repeated_update_is_delivered_once_and_acknowledged_in_order() {
    let world = World::start(2).await;
    world.cluster.repeat_updates();
    world.cluster.update("a", TaskState::Running);
    world.cluster.update("a", TaskState::Finished);
    world.wait_for_line("update a TASK_STATE_FINISHED").await;
    let acknowledged = |all: &[ReceivedInput]| {
        let of = |received: &ReceivedInput| match received {
            ReceivedInput::Acknowledged(list) => list.iter().map(|(_, index)| *index).collect(),
            _ => Vec::new(),
        };
        all.iter().flat_map(of).collect::<Vec<u64>>()
    };
    world
        .cluster
        .wait("the last acknowledgement", |all| {
            acknowledged(all).contains(&2)
        })
        .await;
    assert!(acknowledged(&world.cluster.received()).is_sorted());
    world.cluster.change_leader();
    world.wait_for_line("reconnected in epoch 1").await;
    assert_eq!(world.times("update a TASK_STATE_RUNNING"), 1);
    assert_eq!(world.times("update a TASK_STATE_FINISHED"), 1);
    world.stop().await.unwrap();
}

#[tokio::test]
async fn an_update_whose_callback_stops_the_scheduler_is_acknowledged() {
    let world = World::start(1).await;
    world.cluster.update(LAST, TaskState::Finished);
    let ended = tokio::time::timeout(Duration::from_secs(20), world.run).await;
    ended.expect("the run ends").unwrap().unwrap();
    let received = world.cluster.received();
    let acknowledged = ReceivedInput::Acknowledged(vec![(LAST.to_owned(), 1)]);
    assert!(received.contains(&acknowledged), "{received:?}");
}

#[tokio::test]
async fn calls_and_acknowledgements_that_a_busy_master_has_not_read_are_repeated() {
    let world = World::start(1).await;
    let offer = world.offer("agent-1").await;
    world.cluster.fault(CallFault::NotRead, 1);
    let answer = world.driver.accept(&offer, vec![task("a")]).answer().await;
    assert!(answer.is_done(), "{answer:?}");
    world.cluster.fault(CallFault::NotRead, 1);
    world.cluster.update("a", TaskState::Running);
    let acknowledged = ReceivedInput::Acknowledged(vec![("a".into(), 2)]);
    let is_received = |all: &[ReceivedInput]| all.contains(&acknowledged);
    world.cluster.wait("the acknowledgement", is_received).await;
    world.stop().await.unwrap();
}

#[tokio::test]
async fn nothing_is_acknowledged_before_an_explicit_call() {
    let world = World::with(1, |config| config.acknowledge = AcknowledgeMode::Explicitly).await;
    world.cluster.update("a", TaskState::Running);
    world.wait_for_line("update a TASK_STATE_RUNNING").await;
    // An answered call shows that everything before it was sent.
    world.driver.revive(Vec::new()).answer().await;
    let is_acknowledged = |all: &[ReceivedInput]| {
        all.iter()
            .any(|received| matches!(received, ReceivedInput::Acknowledged(_)))
    };
    assert!(!is_acknowledged(&world.cluster.received()));
    let revision = Some(v1::Revision {
        index: 1,
        position: 0,
    });
    let status = v1::TaskStatus {
        task_id: "a".into(),
        revision,
        ..Default::default()
    };
    world.driver.acknowledge(&status);
    world
        .cluster
        .wait("the acknowledgement", is_acknowledged)
        .await;
    world.stop().await.unwrap();
}

#[tokio::test]
async fn all_open_calls_move_from_a_killed_leader_to_the_next() {
    let mut world = World::start(3).await;
    for serial in 0..6 {
        let offer = world.offer(&format!("agent-{serial}")).await;
        world.cluster.fault(CallFault::Unavailable, 1);
        let _ = world
            .driver
            .accept(&offer, vec![task(&format!("task-{serial}"))]);
    }
    world.cluster.kill_leader().await;
    world.wait_for_line("reconnected in epoch 1").await;
    for serial in 1..=6 {
        world
            .wait_for_line(&format!("answered call-{serial} done, 0 refused"))
            .await;
    }
    let launches = world.cluster.launches();
    assert_eq!(launches.len(), 6);
    assert!(launches.iter().all(|(_, times)| *times == 1));
    world.stop().await.unwrap();
}

#[tokio::test]
async fn a_silent_stream_is_closed_and_resumed() {
    let world = World::start(2).await;
    world.cluster.announce_short_interval();
    world.cluster.change_leader();
    world.wait_for_line("reconnected in epoch 1").await;
    world.cluster.stop_heartbeats();
    world.wait_for_lines("disconnected", 2).await;
    world.cluster.change_leader();
    world.wait_for_line("reconnected in epoch 2").await;
    world.stop().await.unwrap();
}

#[tokio::test]
async fn a_scheduler_resumes_its_stream_if_the_key_of_its_connection_is_revoked() {
    let world = World::start(1).await;
    let offer = world.offer("agent-1").await;
    world.cluster.revoke_key();
    world.wait_for_line("reconnected in epoch 0").await;
    let answer = world.driver.accept(&offer, vec![task("a")]).answer().await;
    assert!(answer.is_done(), "{answer:?}");
    world.stop().await.unwrap();
}

#[tokio::test]
async fn a_scheduler_leaves_a_replaced_leader_despite_its_heartbeats() {
    let world = World::start(3).await;
    let offer = world.offer("agent-1").await;
    world.cluster.depose_leader();
    world.wait_for_line("reconnected in epoch 1").await;
    let held = world.subscriptions().pop().unwrap();
    assert_eq!(held.len(), 1, "{held:?}");
    world.driver.accept(&offer, vec![task("a")]).answer().await;
    assert_eq!(world.cluster.launches(), [("a".to_owned(), 1)]);
    world.stop().await.unwrap();
}

#[tokio::test]
async fn a_superseded_scheduler_is_notified_and_ends() {
    let world = World::start(1).await;
    world.cluster.supersede();
    let result = tokio::time::timeout(Duration::from_secs(20), world.run)
        .await
        .unwrap()
        .unwrap();
    assert!(
        matches!(result, Err(SchedulerError::Superseded(_))),
        "{result:?}"
    );
    assert!(
        world
            .log
            .lock()
            .unwrap()
            .iter()
            .any(|line| line.starts_with("error another scheduler"))
    );
    let answer = world.driver.kill("a", None).answer().await;
    assert!(
        matches!(answer.outcome, CallOutcome::NotSent(_)),
        "nothing is carried out after the end"
    );
}

#[tokio::test]
async fn a_reconciliation_waits_for_the_calls_before_it_and_answers_without_revisions() {
    let world = World::start(2).await;
    world.cluster.answer_in_pages_of(1);
    let offer = world.offer("agent-1").await;
    world.cluster.fault(CallFault::Unavailable, 3);
    let accept = world.driver.accept(&offer, vec![task("a")]);
    let question = world.driver.reconcile(vec!["a".into(), "b".into()]);
    assert!(accept.answer().await.is_done());
    assert!(question.answer().await.is_done());
    world
        .wait_for_line("update a TASK_STATE_STAGING (answer)")
        .await;
    world
        .wait_for_line("update b TASK_STATE_UNKNOWN (answer)")
        .await;
    assert!(
        world
            .cluster
            .received()
            .contains(&ReceivedInput::Reconciled(2))
    );
    world.stop().await.unwrap();
}

#[tokio::test]
async fn a_call_above_the_size_of_a_message_is_refused_and_delays_no_later_call() {
    let world = World::start(1).await;
    let offer = world.offer("agent-1").await;
    let mut large = task("large");
    large.labels = [("text".to_owned(), "x".repeat(5 << 20))].into();
    let calls = [
        world.driver.accept(&offer, vec![large]),
        world.driver.reconcile(vec!["t".repeat(5 << 20)]),
    ];
    for call in calls {
        let answer = tokio::time::timeout(Duration::from_secs(60), call.answer());
        let answer = answer.await.expect("an answer");
        assert!(
            matches!(&answer.outcome, CallOutcome::Refused(why) if why.reason == "message-too-large"),
            "{:?}",
            answer.outcome
        );
    }
    assert!(world.driver.revive(Vec::new()).answer().await.is_done());
    world.stop().await.unwrap();
}

#[tokio::test]
async fn a_subscription_above_the_size_of_a_message_ends_the_run() {
    let cluster = FakeCluster::start(1).await;
    let masters = Masters::new(cluster.addresses()).unwrap();
    let mut config = SchedulerConfig::new(masters, &"x".repeat(5 << 20));
    config.first_subscription = Some(Duration::from_secs(60));
    let mut recorder = Recorder {
        log: Log::default(),
        offers: Arc::default(),
    };
    let ended = run(&mut recorder, config, CancellationToken::new()).await;
    assert!(
        matches!(&ended, Err(SchedulerError::Refused(why)) if why.reason == "message-too-large"),
        "{ended:?}"
    );
}

#[tokio::test]
async fn a_teardown_ends_the_run_even_if_its_reply_is_lost() {
    let world = World::start(1).await;
    world.cluster.fault(CallFault::LostReply, 1);
    world.driver.teardown();
    let result = tokio::time::timeout(Duration::from_secs(20), world.run)
        .await
        .unwrap()
        .unwrap();
    assert_eq!(result, Ok(()));
}

#[tokio::test]
async fn active_declines_are_presented_again_but_declined_offers_are_not() {
    let world = World::start(2).await;
    let offer = world.offer("agent-1").await;
    world.driver.decline(&offer, Some(600_000));
    let id = offer.offer_id.clone();
    world
        .cluster
        .wait("the decline", |all| {
            all.contains(&ReceivedInput::Declined(vec![id.clone()]))
        })
        .await;
    world.cluster.change_leader();
    world.wait_for_line("reconnected in epoch 1").await;
    let last = world.cluster.received();
    let last = last.iter().rev().find_map(|received| match received {
        ReceivedInput::Subscribed {
            held,
            filters,
            framework_id,
            session,
        } => Some((held.len(), *filters, framework_id.clone(), *session)),
        _ => None,
    });
    assert_eq!(last, Some((0, 1, "framework-1".into(), 77)));
    world.stop().await.unwrap();
}

#[tokio::test]
async fn a_list_without_a_reachable_master_ends_with_all_causes() {
    let free = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = free.local_addr().unwrap();
    drop(free);
    let mut config = SchedulerConfig::new(address.to_string().parse().unwrap(), "test");
    config.first_subscription = Some(Duration::from_millis(300));
    let mut recorder = Recorder {
        log: Log::default(),
        offers: Arc::default(),
    };
    let error = run(&mut recorder, config, CancellationToken::new())
        .await
        .unwrap_err();
    assert_eq!(
        error.to_string(),
        format!("no master answers: {address} refused")
    );
}

#[tokio::test]
async fn a_thousand_tasks_start_once_each_despite_ten_failovers() {
    let world = World::start(3).await;
    world
        .cluster
        .script(&[TaskState::Running, TaskState::Finished]);
    for round in 0..10 {
        let mut calls = Vec::new();
        for serial in 0..10 {
            let offer = world.offer(&format!("agent-{round}-{serial}")).await;
            let tasks = (0..10)
                .map(|n| task(&format!("task-{round}-{serial}-{n}")))
                .collect();
            if serial == 5 {
                world.cluster.fault(CallFault::LostReply, 2);
                world.cluster.change_leader();
            }
            calls.push(world.driver.accept(&offer, tasks));
        }
        for call in calls {
            let answer = call.answer().await;
            assert!(answer.is_done(), "{answer:?}");
        }
    }
    for round in 0..10 {
        world
            .wait_for_line(&format!("update task-{round}-9-9 TASK_STATE_FINISHED"))
            .await;
    }
    let launches = world.cluster.launches();
    assert_eq!(launches.len(), 1_000);
    assert!(launches.iter().all(|(_, times)| *times == 1));
    let finished = world
        .log
        .lock()
        .unwrap()
        .iter()
        .filter(|line| line.ends_with("TASK_STATE_FINISHED"))
        .count();
    assert_eq!(finished, 1_000);
    world.stop().await.unwrap();
}

#[tokio::test]
async fn heartbeats_are_sent_on_request_while_the_stream_is_read() {
    let world = World::start(2).await;
    // The release of this leader expects none.
    assert_eq!(world.cluster.heartbeats(), 0);
    world.cluster.expect_heartbeats(Duration::from_millis(20));
    world.cluster.change_leader();
    world.wait_for_line("reconnected in epoch 1").await;
    let deadline = tokio::time::Instant::now() + Duration::from_secs(20);
    while world.cluster.heartbeats() < 5 {
        let now = tokio::time::Instant::now();
        assert!(now < deadline, "{} heartbeats", world.cluster.heartbeats());
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    world.stop().await.unwrap();
}

#[tokio::test]
async fn a_call_that_was_sent_is_lost_if_the_time_of_a_stop_is_over() {
    let world = World::start(1).await;
    let offer = world.offer("agent-1").await;
    world.cluster.fault(CallFault::LostReply, 100_000);
    let call = world.driver.accept(&offer, vec![task("a")]);
    let question = world.driver.reconcile(vec!["a".into()]);
    world.wait_for_call().await;
    let log = Arc::clone(&world.log);
    world.stop().await.unwrap();
    for call in [call, question] {
        let line = format!("answered {} lost run-ended", call.key);
        let answer = call.answer().await;
        assert!(matches!(answer.outcome, CallOutcome::Lost(_)), "{answer:?}");
        assert!(log.lock().unwrap().contains(&line), "{log:?}");
    }
}

#[tokio::test]
async fn a_decline_before_a_stop_is_sent() {
    let world = World::start(1).await;
    let offer = world.offer("agent-1").await;
    world.driver.decline(&offer, None);
    world.driver.stop();
    let ended = tokio::time::timeout(Duration::from_secs(20), world.run).await;
    ended.expect("the run ends").unwrap().unwrap();
    let declined = ReceivedInput::Declined(vec![offer.offer_id]);
    assert!(world.cluster.received().contains(&declined));
}

#[tokio::test]
async fn calls_of_a_dropped_run_are_lost_and_later_ones_not_sent() {
    let world = World::start(1).await;
    world.cluster.fault(CallFault::LostReply, 100_000);
    let call = world.driver.revive(Vec::new());
    world.wait_for_call().await;
    world.run.abort();
    let answer = tokio::time::timeout(Duration::from_secs(20), call.answer());
    let answer = answer.await.expect("an answer");
    assert!(matches!(answer.outcome, CallOutcome::Lost(_)), "{answer:?}");
    let answer = world.driver.revive(Vec::new()).answer().await;
    assert!(
        matches!(answer.outcome, CallOutcome::NotSent(_)),
        "{answer:?}"
    );
}
