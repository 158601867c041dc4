//! The feed of random changes, compared with the registry: a reader that moves between two masters,
//! whose windows have different batches; snapshots.

mod history;

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::{Arc, Mutex};

use argosy_proto::v1;
use argosy_proto::v1::watch_event::Event;
use argosy_proto::v1::watch_record::Record;
use argosy_raft::RecordWrite;
use argosy_state::command::OperatorOperation;
use argosy_state::ids::{AgentId, FrameworkId, Revision, Role, TaskKey};
use argosy_state::task::TaskState;
use argosy_state::testing::World;
use prost::Message;
use tokio::sync::Semaphore;

use super::event::FeedEvent;
use super::event::tests::event;
use super::hub::Encoder;
use super::render::{subject_in, touched};
use super::selection::Selection;
use super::slot::Slot;
use super::snapshot::SnapshotWalk;
use super::subject::Subject;
use super::window::{Taken, WINDOW_BYTES, Window, through};
use super::{Feed, Registration};
use crate::access::FollowedSights;
use crate::change_ring::{ChangeRing, RingBounds};
use crate::encodings::EncodingCache;
use crate::inbox::{OwnerState, StateView};

/// Returns the view of a reader to which nothing is denied.
fn everything() -> FollowedSights {
    FollowedSights::new(crate::access::Reader::Unrestricted, Arc::default())
}

/// A pseudo-random sequence; its seed is the case.
struct Random(u64);

impl Random {
    fn below(&mut self, most: usize) -> usize {
        self.0 = self
            .0
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1);
        (self.0 >> 33) as usize % most
    }
}

/// A registry, and the ring of its changes.
struct Source {
    world: World,
    ring: ChangeRing,
    stored: BTreeMap<Vec<u8>, Vec<u8>>,
    agents: Vec<AgentId>,
    frameworks: Vec<FrameworkId>,
    tasks: Vec<TaskKey>,
}

impl Source {
    fn new(records: usize) -> Self {
        let mut world = World::new();
        let agents = (0..3)
            .map(|_| world.register("cpus:64;mem:65536"))
            .collect();
        let frameworks = ["one", "two"].map(|name| world.subscribe(name)).into();
        let bounds = RingBounds {
            records,
            ..RingBounds::default()
        };
        Self {
            ring: ChangeRing::new(bounds, world.registry.applied()),
            stored: world.stored.clone(),
            world,
            agents,
            frameworks,
            tasks: Vec::new(),
        }
    }

    fn step(&mut self, random: &mut Random) {
        let world = &mut self.world;
        let agent = self.agents[random.below(self.agents.len())];
        let framework = self.frameworks[random.below(self.frameworks.len())];
        match random.below(8) {
            0..=2 => {
                let name = format!("task-{}", self.tasks.len());
                let key = world.launch(framework, agent, &name, "cpus:0.1;mem:1");
                self.tasks.push(key);
            }
            3 | 4 if !self.tasks.is_empty() => {
                let key = self.tasks[random.below(self.tasks.len())].clone();
                let state = [TaskState::Running, TaskState::Finished, TaskState::Failed];
                let is_live = |task: &argosy_state::task::Task| !task.state.is_terminal();
                if world.registry.task(&key).is_some_and(is_live) {
                    world.update(&key, state[random.below(3)]);
                }
            }
            5 if !self.tasks.is_empty() => {
                let key = self.tasks[random.below(self.tasks.len())].clone();
                let waits = |task: &argosy_state::task::Task| !task.unacknowledged.is_empty();
                if world.registry.task(&key).is_some_and(waits) {
                    world.acknowledge(&key);
                }
            }
            6 => {
                let role = Role::new(["ops", "dev"][random.below(2)]).unwrap();
                let weight_milli = 1_000 * (1 + random.below(3) as u64);
                let _ = world.operate(OperatorOperation::SetWeight { role, weight_milli });
            }
            _ => {
                let value = ["", "a", "b"][random.below(3)].to_owned();
                let name = "rack".to_owned();
                let _ = world.operate(OperatorOperation::SetAttribute { agent, name, value });
            }
        }
        self.note();
    }

    /// Adds the difference of the stored records to the ring.
    fn note(&mut self) {
        let now = &self.world.stored;
        let changed = now
            .iter()
            .filter(|(key, value)| self.stored.get(*key) != Some(*value));
        let changed = changed.map(|(key, value)| (key.clone(), Some(value.clone())));
        let removed = self.stored.keys().filter(|key| !now.contains_key(*key));
        let removed = removed.map(|key| (key.clone(), None));
        let mut writes: Vec<_> = changed.chain(removed).collect();
        writes.sort();
        let writes = writes.into_iter().map(|(key, value)| RecordWrite {
            key: key.into(),
            value: value.map(Into::into),
        });
        let writes: Vec<_> = writes.collect();
        self.ring.add(self.world.registry.applied(), &writes);
        self.stored = now.clone();
    }

    fn view(&self) -> StateView {
        let facts = OwnerState {
            registry: &self.world.registry,
            leader: None,
            now: self.world.now,
            failovers: &VecDeque::new(),
        };
        facts.view()
    }

    /// Returns what lists show, by kind and id.
    fn listed(&self) -> BTreeMap<(String, String), v1::WatchRecord> {
        let registry = &self.world.registry;
        let roles = registry
            .weights()
            .map(|(role, _)| Subject::Role(role.clone()));
        let agents = registry.agents().map(|agent| Subject::Agent(agent.id));
        let frameworks = registry.frameworks().map(|one| Subject::Framework(one.id));
        let tasks = registry.tasks().map(|task| Subject::Task(task.key.clone()));
        let all = roles.chain(agents).chain(frameworks).chain(tasks);
        let view = self.view();
        let records = all.map(|subject| decoded(&subject_in(&view, &subject).record));
        records
            .map(|record| {
                (
                    (record.kind.clone(), record.id.clone()),
                    without_usage(record),
                )
            })
            .collect()
    }
}

fn decoded(bytes: &[u8]) -> v1::WatchRecord {
    v1::WatchRecord::decode(bytes).unwrap()
}

/// Removes the fields that come from tasks. A change of them alone is no event.
fn without_usage(mut record: v1::WatchRecord) -> v1::WatchRecord {
    match &mut record.record {
        Some(Record::Agent(agent)) => (agent.used, agent.live_tasks) = (Vec::new(), 0),
        Some(Record::Framework(one)) => (one.used, one.live_tasks) = (Vec::new(), 0),
        Some(Record::Task(_) | Record::Role(_) | Record::Cluster(_)) | None => {}
    }
    record
}

/// A reader that applies events to what it has.
#[derive(Default)]
struct Reader {
    cursor: Revision,
    records: BTreeMap<(String, String), v1::WatchRecord>,
    removals: usize,
}

impl Reader {
    /// Reads at most `most` batches of events. Returns the index after which it needs changes that
    /// the window does not have.
    fn read(&mut self, window: &Window, most: usize) -> Option<u64> {
        for _ in 0..most {
            match window.take(self.cursor) {
                Taken::Events { events, .. } => {
                    // It may stop in the middle of an entry.
                    for event in &events[..events.len().min(3)] {
                        self.take(&event.bytes(false));
                    }
                }
                Taken::CaughtUp(head) => self.cursor = self.cursor.max(through(head)),
                Taken::Below(after) => return Some(after),
                other => panic!("{other:?}"),
            }
        }
        None
    }

    fn take(&mut self, bytes: &[u8]) {
        let Some(Event::Change(change)) = v1::WatchEvent::decode(bytes).unwrap().event else {
            panic!("a change is expected");
        };
        let revision = change.revision.unwrap();
        let revision = Revision {
            index: revision.index,
            position: revision.position,
        };
        assert!(
            revision > self.cursor,
            "{revision:?} after {:?}",
            self.cursor
        );
        self.cursor = revision;
        let record = without_usage(change.record.unwrap());
        let name = (record.kind.clone(), record.id.clone());
        let newest = |record: &v1::WatchRecord| match &record.record {
            Some(Record::Task(task)) => task.revision.map(|one| (one.index, one.position)),
            _ => None,
        };
        if let Some(former) = self.records.get(&name)
            && let (Some(before), Some(now)) = (newest(former), newest(&record))
        {
            assert!(now >= before, "{name:?} went back");
        }
        if change.removed {
            self.removals += 1;
            self.records.remove(&name);
        } else {
            self.records.insert(name, record);
        }
    }
}

async fn one_case(seed: u64) {
    let mut random = Random(seed);
    let mut source = Source::new(100_000);
    let windows = [Mutex::new(Window::default()), Mutex::new(Window::default())];
    let ring = source.ring.clone();
    let view = source.view();
    let [first, second] = &windows;
    let mut encoders = [
        Encoder::new(first, &ring, &view),
        Encoder::new(second, &ring, &view),
    ];
    let mut reader = Reader {
        cursor: through(view.registry.applied()),
        records: source.listed(),
        ..Reader::default()
    };
    reader
        .records
        .remove(&("cluster".to_owned(), String::new()));
    let mut at = 0;
    for _ in 0..300 {
        source.step(&mut random);
        let number = random.below(2);
        if random.below(4) == 0 {
            encoders[number].advance(&source.view()).await;
        }
        if random.below(40) == 0 {
            // The window begins again, as after a time without subscribers.
            encoders[number] = Encoder::new(&windows[number], &ring, &source.view());
        }
        if random.below(10) == 0 {
            at = 1 - at;
        }
        let needed = reader.read(&windows[at].lock().unwrap(), random.below(3));
        if let Some(after) = needed {
            let view = source.view();
            encoders[at].advance(&view).await;
            encoders[at].catch_up(&view, after).await;
        }
    }
    let view = source.view();
    for encoder in &mut encoders {
        encoder.advance(&view).await;
    }
    for (window, encoder) in windows.iter().zip(&encoders) {
        let needed = reader.read(&window.lock().unwrap(), 1_000);
        if let Some(after) = needed {
            encoder.catch_up(&view, after).await;
            let needed = reader.read(&window.lock().unwrap(), 1_000);
            assert_eq!(needed, None);
        }
    }
    let mut found = reader.records;
    found.retain(|(kind, _), _| kind != "cluster");
    assert_eq!(found, source.listed(), "seed {seed}");
    assert!(reader.removals > 0, "seed {seed}");
}

#[tokio::test]
async fn a_reader_that_moves_between_masters_has_the_registry_at_the_end() {
    for seed in 1..=40 {
        one_case(seed).await;
    }
}

#[tokio::test]
async fn history_that_the_ring_has_lost_is_reported() {
    let mut random = Random(7);
    let mut source = Source::new(20);
    let begin = source.world.registry.applied();
    for _ in 0..100 {
        source.step(&mut random);
    }
    let window = Mutex::new(Window::default());
    let ring = source.ring.clone();
    let view = source.view();
    let encoder = Encoder::new(&window, &ring, &view);
    assert!(matches!(
        window.lock().unwrap().take(through(begin)),
        Taken::Below(_)
    ));
    encoder.catch_up(&view, begin).await;
    let Taken::Lost(oldest) = window.lock().unwrap().take(through(begin)) else {
        panic!("history is lost");
    };
    assert!(oldest > begin && oldest < view.registry.applied());
    // A reader that has everything up to that index can continue.
    encoder.catch_up(&view, oldest).await;
    let taken = window.lock().unwrap().take(through(oldest));
    assert!(matches!(taken, Taken::Events { .. }), "{taken:?}");
}

/// Makes changes; returns them with the log index at which they begin.
fn changed(steps: usize) -> (Source, u64) {
    let mut source = Source::new(100_000);
    let begin = source.world.registry.applied();
    let mut random = Random(5);
    for _ in 0..steps {
        source.step(&mut random);
    }
    (source, begin)
}

#[tokio::test]
async fn a_subscriber_that_is_far_behind_costs_the_others_nothing() {
    let (source, begin) = changed(200);
    let window = Mutex::new(Window::default());
    let view = source.view();
    let encoder = Encoder::new(&window, &source.ring, &view);
    encoder.catch_up_within(&view, begin, 20_000).await;
    let Taken::Lost(oldest) = window.lock().unwrap().take(through(begin)) else {
        panic!("there is too much");
    };
    let last = view.registry.applied();
    assert!(oldest > begin && oldest < last, "{begin} {oldest} {last}");
    // One that has everything up to that index continues, with the newest changes.
    let taken = window.lock().unwrap().take(through(oldest));
    let Taken::Events { events, .. } = taken else {
        panic!("{taken:?}");
    };
    let touched = touched(&source.ring, oldest, last)
        .await
        .unwrap()
        .into_iter();
    let expected: BTreeMap<_, _> = touched
        .map(|(subject, touch)| (subject, touch.newest.unwrap()))
        .collect();
    let found: BTreeMap<_, _> = events
        .iter()
        .map(|event| (event.subject.clone(), event.revision))
        .collect();
    assert_eq!(found, expected);
    assert!(window.lock().unwrap().cost() <= 20_000);
}

#[tokio::test]
async fn older_changes_fit_in_what_the_window_has_left() {
    let (source, begin) = changed(100);
    let window = Mutex::new(Window::default());
    let view = source.view();
    let encoder = Encoder::new(&window, &source.ring, &view);
    let last = view.registry.applied();
    {
        // Other subscribers have requested nearly as much as fits.
        let mut window = window.lock().unwrap();
        window.begin(last + 1);
        let bytes = (WINDOW_BYTES - 4_000) / 8;
        window.prepend(last, vec![event(last + 1, 0, 1_000, bytes)]);
    }
    encoder.catch_up(&view, begin).await;
    let window = window.lock().unwrap();
    assert!(window.cost() <= WINDOW_BYTES, "{}", window.cost());
    assert_eq!(window.floor().map(|floor| floor <= last), Some(true));
    assert!(matches!(window.take(through(begin)), Taken::Lost(_)));
    assert!(matches!(window.take(through(last)), Taken::Events { .. }));
}

/// Returns the records of a snapshot, by kind and id.
async fn snapshot(
    source: &Source,
    selection: Selection,
) -> BTreeMap<(String, String), v1::WatchRecord> {
    let permits = Arc::new(Semaphore::new(1));
    let permit = permits.acquire_owned().await.unwrap();
    let view = Arc::new(source.view());
    let mut walk = SnapshotWalk::new(view, selection, EncodingCache::default(), permit);
    let mut records = BTreeMap::new();
    while let Some(part) = walk.next_part() {
        for bytes in part {
            let Some(Event::Record(record)) = v1::WatchEvent::decode(bytes).unwrap().event else {
                panic!("a record is expected");
            };
            let former = records.insert((record.kind.clone(), record.id.clone()), record);
            assert_eq!(former, None, "each record comes once");
        }
    }
    records
}

#[tokio::test]
async fn a_snapshot_in_parts_has_what_lists_show() {
    let mut random = Random(3);
    let mut source = Source::new(100_000);
    // More tasks than one part scans.
    for _ in 0..2_500 {
        source.step(&mut random);
    }
    let all = Selection::new(&[], HashMap::new(), everything()).unwrap();
    let mut records = snapshot(&source, all).await;
    let cluster = records
        .remove(&("cluster".to_owned(), String::new()))
        .unwrap();
    assert!(matches!(cluster.record, Some(Record::Cluster(cluster)) if cluster.epoch > 0));
    let tasks = records.keys().filter(|(kind, _)| kind == "task").count();
    assert!(tasks > 500, "{tasks}");
    let records = records.into_iter();
    let records: BTreeMap<_, _> = records
        .map(|(name, record)| (name, without_usage(record)))
        .collect();
    assert_eq!(records, source.listed());
    // A filter selects the same records as that of a list.
    let filter = HashMap::from([("state".to_owned(), "running".to_owned())]);
    let running = Selection::new(&[], filter, everything()).unwrap();
    let running = snapshot(&source, running).await;
    let is_running = |task: &&argosy_state::task::Task| task.state == TaskState::Running;
    let expected = source.world.registry.tasks().filter(is_running).count();
    assert_eq!(running.len(), expected);
    assert!(expected > 0 && running.keys().all(|(kind, _)| kind == "task"));
}

#[tokio::test(start_paused = true)]
async fn a_subscriber_that_is_cut_off_counts_no_longer() {
    let feed = Feed::bounded(2);
    let subscriber = || {
        let place = feed.shared.places.take(None).unwrap();
        let slot = Arc::new(Slot::new(place));
        let registration = Registration::new(&feed.shared, &slot);
        (slot, registration)
    };
    let (_stalled, registration) = subscriber();
    let (reading, _other) = subscriber();
    tokio::time::advance(std::time::Duration::from_secs(61)).await;
    reading.polled().unwrap();
    feed.shared.cut_slow();
    // Its stream remains, because nothing polls it; the hub could idle.
    assert_eq!(*feed.shared.subscribers.borrow(), 1);
    assert_eq!(feed.free_places(), 1);
    drop(registration);
    assert_eq!(*feed.shared.subscribers.borrow(), 1);
}
