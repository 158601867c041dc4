//! When history is lost, and when it is not; tasks whose id is used again.

use argosy_state::encode;
use argosy_state::ids::TaskId;
use argosy_state::registry::RecordKey;

use super::super::selection::Verdict;
use super::super::window::KEPT_BYTES;
use super::*;

/// Returns what a reader with this cursor gets, after older changes are prepended if necessary: its
/// events, or the index before which everything is lost.
async fn resumed(
    encoder: &Encoder<'_>,
    window: &Mutex<Window>,
    view: &StateView,
    after: u64,
) -> Result<Vec<Arc<FeedEvent>>, u64> {
    let mut taken = window.lock().unwrap().take(through(after));
    if let Taken::Below(after) = taken {
        encoder.catch_up(view, after).await;
        taken = window.lock().unwrap().take(through(after));
    }
    match taken {
        Taken::Events { events, .. } => Ok(events),
        Taken::Lost(oldest) => Err(oldest),
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn after_an_installed_snapshot_readers_continue_from_what_the_ring_has() {
    let mut random = Random(5);
    let mut source = Source::new(100_000);
    let window = Mutex::new(Window::default());
    let ring = source.ring.clone();
    let mut encoder = Encoder::new(&window, &ring, &source.view());
    for _ in 0..50 {
        source.step(&mut random);
    }
    let installed = source.world.registry.applied();
    ring.restart(installed);
    for _ in 0..50 {
        source.step(&mut random);
    }
    let view = source.view();
    encoder.advance(&view).await;
    // Those of another master have been further than this one.
    let events = resumed(&encoder, &window, &view, installed).await.unwrap();
    assert!(events[0].revision.index > installed && events.len() > 5);
    let lost = resumed(&encoder, &window, &view, installed - 1).await;
    assert_eq!(lost.err(), Some(installed));
}

#[tokio::test]
async fn history_that_did_not_fit_once_may_fit_later() {
    let (source, begin) = changed(200);
    let window = Mutex::new(Window::default());
    let view = source.view();
    let encoder = Encoder::new(&window, &source.ring, &view);
    encoder.catch_up_within(&view, begin, 20_000).await;
    let taken = window.lock().unwrap().take(through(begin));
    assert!(matches!(taken, Taken::Lost(_)), "{taken:?}");
    // The last subscriber has left, and the next one comes.
    window.lock().unwrap().end();
    let encoder = Encoder::new(&window, &source.ring, &view);
    assert!(resumed(&encoder, &window, &view, begin).await.is_ok());
}

#[tokio::test]
async fn a_window_that_is_full_of_newer_changes_has_room_for_older_ones() {
    let (source, begin) = changed(100);
    let window = Mutex::new(Window::default());
    let view = source.view();
    let encoder = Encoder::new(&window, &source.ring, &view);
    let last = view.registry.applied();
    for index in last + 1..last + 30 {
        let mut window = window.lock().unwrap();
        let large = event(index, 0, 1_000 + index, WINDOW_BYTES / 20 / 8);
        window.append(index, vec![large]);
        assert!(window.cost() <= KEPT_BYTES);
    }
    let events = resumed(&encoder, &window, &view, begin).await.unwrap();
    assert!(events[0].revision.index <= last);
    // The next changes do not displace them at once.
    let mut window = window.lock().unwrap();
    window.append(last + 30, vec![event(last + 30, 0, 7, 9)]);
    assert!(matches!(window.take(through(begin)), Taken::Events { .. }));
}

#[tokio::test]
async fn a_burst_that_exceeds_the_window_is_read_from_the_ring() {
    let (mut source, _) = changed(50);
    let window = Mutex::new(Window::default());
    let ring = source.ring.clone();
    let begin = source.world.registry.applied();
    let mut encoder = Encoder::new(&window, &ring, &source.view());
    let mut random = Random(11);
    for _ in 0..100 {
        source.step(&mut random);
    }
    let view = source.view();
    encoder.advance_within(&view, 20_000).await;
    let floor = window.lock().unwrap().floor().unwrap();
    assert!(floor > begin && floor < view.registry.applied());
    let events = resumed(&encoder, &window, &view, begin).await.unwrap();
    assert!(events[0].revision.index <= floor);
}

fn web() -> TaskKey {
    TaskKey {
        framework: FrameworkId(1),
        task: TaskId::new("web").unwrap(),
    }
}

/// Returns writes of records of the task, each with whether it has a value.
fn writes(records: &[(RecordKey, bool)]) -> Vec<RecordWrite> {
    let write = |(key, is_written): &(RecordKey, bool)| RecordWrite {
        key: encode::key(key).into(),
        value: is_written.then(|| vec![1_u8].into()),
    };
    records.iter().map(write).collect()
}

/// The task ran on the first agent, and runs now on the second.
fn used_again() -> Source {
    let mut source = Source::new(100);
    let (framework, agent) = (source.frameworks[0], source.agents[1]);
    assert_eq!(framework, web().framework);
    source
        .world
        .launch(framework, agent, "web", "cpus:0.1;mem:1");
    while source.world.registry.applied() < 9 {
        source.world.mark_unreachable(source.agents[2]);
        source.world.register_again(source.agents[2]);
    }
    source.ring = ChangeRing::new(RingBounds::default(), 1);
    source
}

/// Returns "index.position removed" or "index.position changed" for each event, and the verdict of
/// a reader of the tasks of one agent.
fn seen(events: &[Arc<FeedEvent>], agent: AgentId) -> Vec<(String, Verdict)> {
    let filter = HashMap::from([("agent_id".to_owned(), agent.to_string())]);
    let selection = Selection::new(&[], filter, everything()).unwrap();
    let seen = events.iter().map(|event| {
        let Revision { index, position } = event.revision;
        let what = if event.fields.is_none() {
            "removed"
        } else {
            "changed"
        };
        let fields = event.fields.as_ref();
        let verdict = selection.judge(&event.subject, fields, event.is_listed);
        (format!("{index}.{position} {what}"), verdict)
    });
    seen.collect()
}

#[tokio::test]
async fn a_task_with_the_id_of_a_former_one_comes_after_the_removal_of_that() {
    let facts = || RecordKey::TaskFacts(web());
    let status = || RecordKey::TaskStatus(web());
    let transition = |number| RecordKey::TaskTransition(web(), number);
    let dropped = [(facts(), false), (status(), false), (transition(1), false)];
    let launched = [(facts(), true), (status(), true), (transition(1), true)];
    let both = [
        (facts(), true),
        (status(), true),
        (transition(1), true),
        (transition(2), false),
    ];
    // By entries: the log index, and the records. In the second case, both are in one entry.
    for (entries, removal, change) in [
        (vec![(3, &dropped[..]), (5, &launched[..])], "3.1", "5.1"),
        (vec![(5, &both[..])], "5.0", "5.1"),
    ] {
        let source = used_again();
        for (index, records) in entries {
            source.ring.add(index, &writes(records));
        }
        let window = Mutex::new(Window::default());
        let view = source.view();
        let encoder = Encoder::new(&window, &source.ring, &view);
        let events = resumed(&encoder, &window, &view, 1).await.unwrap();
        // A reader of the first agent learns that its task is gone. It never sees the other one.
        let expected = [
            (format!("{removal} removed"), Verdict::Removed),
            (format!("{change} changed"), Verdict::Skipped),
        ];
        assert_eq!(seen(&events, source.agents[0]), expected);
        let second = seen(&events, source.agents[1]);
        assert_eq!(second[1].1, Verdict::Shown);
    }
}

#[tokio::test]
async fn the_removal_of_a_former_task_is_sent_though_the_window_has_the_new_one() {
    let source = used_again();
    let facts = |is_written| writes(&[(RecordKey::TaskFacts(web()), is_written)]);
    source.ring.add(3, &facts(false));
    source.ring.add(5, &facts(true));
    let window = Mutex::new(Window::default());
    let view = source.view();
    let mut encoder = Encoder::new(&window, &source.ring, &view);
    window.lock().unwrap().begin(4);
    encoder.advance(&view).await;
    let events = resumed(&encoder, &window, &view, 1).await.unwrap();
    let expected = [
        ("3.0 removed".to_owned(), Verdict::Removed),
        ("5.0 changed".to_owned(), Verdict::Skipped),
    ];
    assert_eq!(seen(&events, source.agents[0]), expected);
}

#[tokio::test]
async fn a_first_launch_and_its_changes_remove_nothing() {
    let source = used_again();
    let launched = [RecordKey::TaskFacts(web()), RecordKey::TaskStatus(web())];
    source
        .ring
        .add(5, &writes(&launched.clone().map(|key| (key, true))));
    let dropped_transition = RecordKey::TaskTransition(web(), 11);
    let changed = [
        (RecordKey::TaskStatus(web()), true),
        (dropped_transition, false),
    ];
    source.ring.add(6, &writes(&changed));
    let window = Mutex::new(Window::default());
    let view = source.view();
    let encoder = Encoder::new(&window, &source.ring, &view);
    let events = resumed(&encoder, &window, &view, 1).await.unwrap();
    let expected = [("6.0 changed".to_owned(), Verdict::Skipped)];
    assert_eq!(seen(&events, source.agents[0]), expected);
}
