//! Tests of the session core alone: inputs in, effects compared.

use argosy_proto::v1;
use argosy_proto::versions::VersionRange;
use tonic::Code;

use super::*;
use crate::leader::NoMaster;
use crate::scheduler::driver::{Accept, OfferOperation};

mod framework_info;
mod predecessors;
mod refused_callers;
mod stopping;

struct World {
    session: Session,
    link: u64,
    key: u64,
}

impl World {
    fn new() -> Self {
        let identity = SessionIdentity {
            info: v1::FrameworkInfo {
                name: "first".into(),
                ..Default::default()
            },
            framework_id: None,
            session: 7,
            acknowledge: AcknowledgeMode::AfterCallback,
            seed: 1,
        };
        Self {
            session: Session::new(identity),
            link: 0,
            key: 0,
        }
    }

    /// Returns a subscribed session that holds offer "1.1".
    fn subscribed() -> Self {
        let mut world = Self::new();
        world.feed(Input::Begin);
        world.resume(&[]);
        world.offer("1.1");
        world
    }

    fn feed(&mut self, input: Input) -> Vec<Effect> {
        let effects = self.session.step(0, input);
        for effect in &effects {
            if let Effect::Subscribe { link, .. } = effect {
                self.link = *link;
            }
        }
        effects
    }

    fn event(&mut self, event: v1::event::Event) -> Vec<Effect> {
        let link = self.link;
        self.feed(Input::Event { link, event })
    }

    fn resume(&mut self, kept: &[&str]) -> Vec<Effect> {
        self.event(v1::event::Event::Subscribed(v1::Subscribed {
            framework_id: "framework-1".into(),
            kept_offers: kept.iter().map(ToString::to_string).collect(),
            ..Default::default()
        }))
    }

    fn close(&mut self) -> Vec<Effect> {
        let link = self.link;
        let why = "broken".into();
        self.feed(Input::Closed { link, why })
    }

    fn offer(&mut self, id: &str) {
        let offer = v1::Offer {
            offer_id: id.into(),
            ..Default::default()
        };
        self.event(v1::event::Event::Offers(v1::Offers {
            offers: vec![offer],
        }));
    }

    fn ask(&mut self, command: impl FnOnce(CallKey) -> Command) -> Vec<Effect> {
        self.key += 1;
        let command = command(CallKey(self.key));
        self.feed(Input::Command(command))
    }

    fn accept(&mut self, offer: &str) -> Vec<Effect> {
        let accept = Accept {
            offer_ids: vec![offer.into()],
            ..Default::default()
        };
        self.ask(|key| Command::Accept(key, accept))
    }

    fn done(&mut self, number: u64) -> Vec<Effect> {
        let result = Ok(CallReply::default());
        self.feed(Input::Answered { number, result })
    }

    fn refused(&mut self, number: u64, reason: &str) -> Vec<Effect> {
        let result = Err(CallError::Refused(local(reason, "no".into())));
        self.feed(Input::Answered { number, result })
    }

    fn unanswered(&mut self, number: u64) -> Vec<Effect> {
        let result = Err(CallError::Unanswered {
            after_ms: 1,
            causes: NoMaster::default(),
        });
        self.feed(Input::Answered { number, result })
    }
}

fn sent(effects: &[Effect]) -> Vec<u64> {
    let number = |effect: &Effect| match effect {
        Effect::Send { number, .. } => Some(*number),
        _ => None,
    };
    effects.iter().filter_map(number).collect()
}

fn outcomes(effects: &[Effect]) -> Vec<&CallOutcome> {
    let mut outcomes = Vec::new();
    for effect in effects {
        if let Effect::Notify(Notification::Answered(answer)) = effect {
            outcomes.push(&answer.outcome);
        }
    }
    outcomes
}

fn kill(key: CallKey) -> Command {
    Command::Kill {
        key,
        task_id: "a".into(),
        grace_ms: None,
    }
}

#[test]
fn an_unanswered_call_is_repeated_after_the_next_subscription() {
    let mut world = World::subscribed();
    let first = world.accept("1.1");
    assert_eq!(sent(&first), [1]);
    world.close();
    assert_eq!(world.unanswered(1), [], "no master is there to query");
    assert_eq!(world.resume(&["1.1"])[1..], first, "the same, to the byte");
}

#[test]
fn an_offer_of_an_open_accept_is_presented_and_its_loss_not_reported() {
    let mut world = World::subscribed();
    world.accept("1.1");
    let effects = world.close();
    let Some(Effect::Subscribe { request, .. }) = effects.last() else {
        panic!("no subscription in {effects:?}");
    };
    assert_eq!(request.held.len(), 1);
    assert_eq!(request.framework_id, "framework-1");
    let rescinded =
        |effect: &Effect| matches!(effect, Effect::Notify(Notification::Rescinded { .. }));
    assert!(!world.resume(&[]).iter().any(rescinded));
}

#[test]
fn a_stale_accept_is_lost_and_a_stale_kill_is_renumbered() {
    let mut world = World::subscribed();
    world.accept("1.1");
    let lost = world.refused(1, "late");
    assert!(matches!(outcomes(&lost)[..], [CallOutcome::Lost(_)]));
    assert_eq!(sent(&world.ask(kill)), [2]);
    let again = world.refused(2, "late");
    assert!(outcomes(&again).is_empty());
    assert_eq!(sent(&again), [3]);
    assert!(matches!(
        outcomes(&world.done(3))[..],
        [CallOutcome::Done { .. }]
    ));
}

#[test]
fn an_accept_whose_caller_is_refused_has_an_unknown_outcome() {
    let mut world = World::subscribed();
    world.accept("1.1");
    let mut refusal = local("", "the token was revoked".into());
    refusal.code = Code::Unauthenticated;
    let result = Err(CallError::Refused(refusal));
    let effects = world.feed(Input::Answered { number: 1, result });
    let outcomes = outcomes(&effects);
    assert!(
        matches!(outcomes[..], [CallOutcome::Lost(_)]),
        "{outcomes:?}"
    );
}

#[test]
fn an_accept_at_the_end_of_a_session_has_an_unknown_outcome() {
    for reason in ["framework-removed", "unknown-framework", "superseded"] {
        let mut world = World::subscribed();
        world.accept("1.1");
        let effects = world.refused(1, reason);
        let outcomes = outcomes(&effects);
        assert!(
            matches!(outcomes[..], [CallOutcome::Lost(_)]),
            "{outcomes:?}"
        );
    }
}

#[test]
fn a_rejected_accept_releases_its_offers() {
    let mut world = World::subscribed();
    world.accept("1.1");
    let effects = world.refused(1, "invalid");
    let declined = effects.iter().find_map(|effect| match effect {
        Effect::Decline { request, .. } => Some((request.offer_ids.clone(), request.filter_ms)),
        _ => None,
    });
    assert_eq!(declined, Some((vec!["1.1".to_owned()], Some(0))));
}

#[test]
fn unknown_and_repeated_offers_are_not_sent() {
    let mut world = World::subscribed();
    let twice = Accept {
        offer_ids: vec!["1.1".into(), "1.1".into()],
        ..Default::default()
    };
    for effects in [
        world.accept("9.9"),
        world.ask(|key| Command::Accept(key, twice)),
        world.ask(|key| Command::Accept(key, Accept::default())),
    ] {
        assert!(sent(&effects).is_empty());
        assert!(
            matches!(outcomes(&effects)[..], [CallOutcome::Refused(_)]),
            "{effects:?}"
        );
    }
    assert_eq!(sent(&world.accept("1.1")), [1], "it is still good");
}

#[test]
fn messages_of_a_previous_stream_are_ignored() {
    let mut world = World::subscribed();
    let former = world.link;
    world.close();
    world.resume(&["1.1"]);
    let link = former;
    assert_eq!(
        world.feed(Input::Closed {
            link,
            why: "late".into()
        }),
        []
    );
    let rescind = v1::event::Event::Rescind(v1::Rescind {
        offer_id: "1.1".into(),
        reason: String::new(),
    });
    assert_eq!(
        world.feed(Input::Event {
            link,
            event: rescind
        }),
        []
    );
    assert_eq!(sent(&world.accept("1.1")), [1]);
}

#[test]
fn a_rejected_subscription_ends_the_run_but_a_busy_master_does_not() {
    let mut world = World::subscribed();
    world.close();
    let link = world.link;
    let busy = MasterRejection {
        code: Code::ResourceExhausted,
        ..local("busy", "later".into())
    };
    let effects = world.feed(Input::Refused {
        link,
        refusal: busy,
    });
    assert!(
        matches!(effects[..], [Effect::Subscribe { after_ms: 5.., .. }]),
        "{effects:?}"
    );
    let link = world.link;
    let refusal = local("superseded", "another".into());
    let effects = world.feed(Input::Refused { link, refusal });
    assert!(matches!(
        effects[..],
        [Effect::End(Err(SchedulerError::Superseded(_)))]
    ));
}

#[test]
fn a_stop_waits_for_answers_and_acknowledgements() {
    let mut world = World::subscribed();
    world.accept("1.1");
    let status = v1::TaskStatus {
        task_id: "a".into(),
        revision: Some(v1::Revision {
            index: 3,
            position: 0,
        }),
        ..Default::default()
    };
    let reported = world.event(v1::event::Event::Update(status.clone()));
    assert_eq!(reported, [Effect::Notify(Notification::Update(status))]);
    let handled = Input::Handled {
        task_id: "a".into(),
        revision: v1::Revision {
            index: 3,
            position: 0,
        },
    };
    assert!(matches!(
        world.feed(handled)[..],
        [Effect::Acknowledge { .. }]
    ));
    assert_eq!(world.feed(Input::Command(Command::Stop)), []);
    assert!(!world.done(1).contains(&Effect::End(Ok(()))));
    assert_eq!(
        world.feed(Input::Acknowledged(Ok(()))),
        [Effect::End(Ok(()))]
    );
}

#[test]
fn an_open_call_at_the_end_is_lost_and_not_rejected() {
    let mut world = World::subscribed();
    world.accept("1.1");
    let effects = world.event(v1::event::Event::Error(v1::Error {
        code: "removed".into(),
        message: "gone".into(),
        ..Default::default()
    }));
    assert!(matches!(outcomes(&effects)[..], [CallOutcome::Lost(_)]));
    assert!(matches!(
        effects.last(),
        Some(Effect::End(Err(SchedulerError::Removed(_))))
    ));
}

#[test]
fn an_answer_older_than_an_update_is_not_delivered() {
    let mut world = World::subscribed();
    let asked = world.ask(|key| Command::Reconcile(key, vec!["a".into(), "b".into()]));
    let serial = asked.iter().find_map(|effect| match effect {
        Effect::Reconcile { serial, .. } => Some(*serial),
        _ => None,
    });
    let status = |task: &str, state: v1::TaskState, index: Option<u64>| v1::TaskStatus {
        task_id: task.into(),
        state: state.into(),
        revision: index.map(|index| v1::Revision { index, position: 0 }),
        ..Default::default()
    };
    world.event(v1::event::Event::Update(status(
        "a",
        v1::TaskState::Killed,
        Some(21),
    )));
    let reply = v1::ReconcileReply {
        statuses: vec![
            status("a", v1::TaskState::Killing, None),
            status("b", v1::TaskState::Running, None),
        ],
        revision: Some(v1::Revision {
            index: 20,
            position: 0,
        }),
        ..v1::ReconcileReply::default()
    };
    let effects = world.feed(Input::Reconciled {
        serial: serial.unwrap(),
        result: Ok(reply),
    });
    let reported: Vec<_> = effects
        .iter()
        .filter_map(|effect| match effect {
            Effect::Notify(Notification::Update(status)) => Some(status.task_id.as_str()),
            _ => None,
        })
        .collect();
    assert_eq!(reported, ["b"]);
}

#[test]
fn a_teardown_reported_first_by_the_stream_succeeds() {
    let mut world = World::subscribed();
    world.accept("1.1");
    world.done(1);
    assert_eq!(sent(&world.ask(Command::Teardown)), [2]);
    let removed = v1::event::Event::Error(v1::Error {
        code: "removed".into(),
        message: "framework-1 was removed".into(),
        ..Default::default()
    });
    let effects = world.event(removed);
    assert!(
        matches!(outcomes(&effects)[..], [CallOutcome::Done { .. }]),
        "{effects:?}"
    );
    assert!(effects.contains(&Effect::End(Ok(()))), "{effects:?}");
}

#[test]
fn other_open_calls_of_a_removed_framework_are_lost() {
    let mut world = World::subscribed();
    world.ask(kill);
    let removed = v1::event::Event::Error(v1::Error {
        code: "removed".into(),
        message: "framework-1 was removed".into(),
        ..Default::default()
    });
    let effects = world.event(removed);
    assert!(
        matches!(outcomes(&effects)[..], [CallOutcome::Lost(_)]),
        "{effects:?}"
    );
    assert!(matches!(effects.last(), Some(Effect::End(Err(_)))));
}

#[test]
fn executor_messages_are_delivered_and_sent_immediately() {
    let mut world = World::subscribed();
    let reported = v1::ExecutorMessage {
        executor_id: "e".into(),
        ..Default::default()
    };
    assert_eq!(
        world.event(v1::event::Event::Message(reported.clone())),
        [Effect::Notify(Notification::Message(reported))]
    );
    let asked = Command::Message {
        agent_id: "agent-1".into(),
        executor_id: "e".into(),
        data: b"x".to_vec(),
    };
    let request = v1::MessageRequest {
        framework_id: "framework-1".into(),
        session: 7,
        agent_id: "agent-1".into(),
        executor_id: "e".into(),
        data: b"x".to_vec(),
    };
    assert_eq!(
        world.feed(Input::Command(asked)),
        [Effect::Message(request)]
    );
}

#[test]
fn groups_are_launched_as_groups() {
    let mut world = World::subscribed();
    let task = |id: &str| v1::TaskSpec {
        task_id: id.into(),
        ..Default::default()
    };
    let accept = Accept {
        offer_ids: vec!["1.1".into()],
        operations: vec![OfferOperation::LaunchGroup {
            group_id: "pod".into(),
            tasks: vec![task("a"), task("b")],
        }],
        ..Default::default()
    };
    let effects = world.ask(|key| Command::Accept(key, accept));
    let launched = effects.iter().find_map(|effect| match effect {
        Effect::Send { request, .. } => Some(request),
        _ => None,
    });
    let Some(CallRequest::Accept(request)) = launched else {
        panic!("{effects:?}");
    };
    let Some(v1::operation::Operation::LaunchGroup(group)) = &request.operations[0].operation
    else {
        panic!("{request:?}");
    };
    assert_eq!((&*group.group_id, group.tasks.len()), ("pod", 2));
    let answered = world.done(1);
    let reported = answered.iter().find_map(|effect| match effect {
        Effect::Notify(Notification::Answered(answer)) => Some(&answer.task_ids),
        _ => None,
    });
    assert_eq!(reported, Some(&vec!["a".to_owned(), "b".to_owned()]));
}

#[test]
fn a_paged_answer_is_delivered_completely() {
    let mut world = World::subscribed();
    let asked = |effects: &[Effect]| {
        effects.iter().find_map(|effect| match effect {
            Effect::Reconcile { serial, request } => Some((*serial, request.clone())),
            _ => None,
        })
    };
    let reported = |effects: &[Effect]| -> Vec<String> {
        let reported = effects.iter().filter_map(|effect| match effect {
            Effect::Notify(Notification::Update(status)) => Some(status.task_id.clone()),
            Effect::Notify(Notification::Answered(answer)) => {
                Some(format!("done {}", answer.is_done()))
            }
            _ => None,
        });
        reported.collect()
    };
    let page = |tasks: &[&str], next: &str| v1::ReconcileReply {
        statuses: tasks
            .iter()
            .map(|task| v1::TaskStatus {
                task_id: (*task).into(),
                state: v1::TaskState::Running.into(),
                ..Default::default()
            })
            .collect(),
        revision: Some(v1::Revision {
            index: 20,
            position: 0,
        }),
        next_page_token: next.into(),
    };
    let effects = world.ask(|key| Command::Reconcile(key, Vec::new()));
    let (serial, first) = asked(&effects).unwrap();
    assert!(first.paged && first.page_token.is_empty());
    let result = Ok(page(&["a", "b"], "b"));
    let effects = world.feed(Input::Reconciled { serial, result });
    assert_eq!(reported(&effects), ["a", "b"]);
    let (again, second) = asked(&effects).unwrap();
    assert_eq!((again, second.page_token.as_str()), (serial, "b"));
    assert_eq!(second.next_number, first.next_number);
    // A lost answer costs this page only.
    let result = Err(CallError::NoMaster(NoMaster::default()));
    let effects = world.feed(Input::Reconciled { serial, result });
    assert_eq!(asked(&effects).unwrap().1, second);
    let result = Ok(page(&["c"], ""));
    let effects = world.feed(Input::Reconciled { serial, result });
    assert_eq!(reported(&effects), ["c", "done true"]);
}

#[test]
fn more_tasks_than_a_call_launches_are_answered_as_not_launched() {
    let most = argosy_state::limits::TASKS_PER_CALL;
    let mut world = World::subscribed();
    let tasks = (0..most + 2).map(|at| v1::TaskSpec {
        task_id: format!("t{at}"),
        ..Default::default()
    });
    let accept = Accept {
        offer_ids: vec!["1.1".into()],
        operations: vec![OfferOperation::Launch(tasks.collect())],
        ..Default::default()
    };
    let effects = world.ask(|key| Command::Accept(key, accept));
    let sent = effects.iter().find_map(|effect| match effect {
        Effect::Send {
            request: CallRequest::Accept(accept),
            ..
        } => Some(accept.clone()),
        _ => None,
    });
    let sent = sent.unwrap();
    assert_eq!(sent.filter_ms, Some(0));
    assert_eq!(task_ids(&CallRequest::Accept(sent)).len(), most);
    let effects = world.done(1);
    let answer = effects.iter().find_map(|effect| match effect {
        Effect::Notify(Notification::Answered(answer)) => Some(answer.clone()),
        _ => None,
    });
    let answer = answer.unwrap();
    let CallOutcome::Done { refused, .. } = &answer.outcome else {
        panic!("{answer:?}")
    };
    let places = refused
        .iter()
        .map(|one| (one.position as usize, one.operation, one.task));
    let expected = [most, most + 1].map(|at| (at, Some(0), u32::try_from(at).ok()));
    assert_eq!(places.collect::<Vec<_>>(), expected);
    let left: Vec<&str> = answer
        .not_launched()
        .iter()
        .map(|(task, _)| *task)
        .collect();
    assert_eq!(left, [format!("t{most}"), format!("t{}", most + 1)]);
}

#[test]
fn a_rejected_task_gets_its_operation_also_from_release_0_1_0() {
    let task = |id: &str| v1::TaskSpec {
        task_id: id.into(),
        ..Default::default()
    };
    for words in [true, false] {
        let mut world = World::subscribed();
        let accept = Accept {
            offer_ids: vec!["1.1".into()],
            operations: vec![
                OfferOperation::Launch(vec![task("a"), task("b")]),
                OfferOperation::Launch(vec![task("c"), task("d")]),
            ],
            ..Default::default()
        };
        world.ask(|key| Command::Accept(key, accept));
        let refused = v1::Refused {
            position: 3,
            code: "too-large".into(),
            operation: words.then_some(1),
            task: words.then_some(1),
            ..Default::default()
        };
        let result = Ok(CallReply {
            refused: vec![refused],
            ..CallReply::default()
        });
        let effects = world.feed(Input::Answered { number: 1, result });
        let answer = effects.iter().find_map(|effect| match effect {
            Effect::Notify(Notification::Answered(answer)) => Some(answer.clone()),
            _ => None,
        });
        let answer = answer.unwrap();
        assert_eq!(answer.not_launched(), [("d", "")]);
        let CallOutcome::Done { refused, .. } = answer.outcome else {
            panic!("{words}")
        };
        assert_eq!((refused[0].operation, refused[0].task), (Some(1), Some(1)));
    }
}

#[test]
fn a_master_without_a_common_protocol_version_ends_the_session() {
    let newest = VersionRange::OWN.newest;
    for (oldest, is_refused) in [(newest + 1, true), (newest, false)] {
        let mut world = World::subscribed();
        let versions = VersionRange {
            oldest,
            newest: newest + 1,
        };
        let effects = world.event(v1::event::Event::Subscribed(v1::Subscribed {
            framework_id: "framework-1".into(),
            protocol: Some(versions.first_message()),
            ..Default::default()
        }));
        let ended = effects.iter().find_map(|effect| match effect {
            Effect::End(Err(SchedulerError::Refused(refusal))) => Some(refusal),
            _ => None,
        });
        assert_eq!(ended.is_some(), is_refused);
        if let Some(refusal) = ended {
            assert_eq!(refusal.reason, "protocol-version");
            assert!(
                refusal.message.ends_with("upgrade this program"),
                "{refusal}"
            );
        }
    }
}

#[test]
fn the_sdk_announces_that_it_sends_heartbeats() {
    let mut world = World::subscribed();
    let info = v1::FrameworkInfo {
        capabilities: vec!["gpus".into()],
        ..Default::default()
    };
    let effects = world.ask(|key| Command::UpdateFramework(key, info));
    let sent = format!("{effects:?}");
    assert!(
        sent.contains(r#"capabilities: ["gpus", "heartbeats"]"#),
        "{sent}"
    );
    let subscribed = format!("{:?}", world.close());
    assert!(
        subscribed.contains(r#"capabilities: ["gpus", "heartbeats"]"#),
        "{subscribed}"
    );
}
