//! A reader of the change feed. It resumes at another master again and again, also when nothing
//! fails.

use std::time::Duration;

use argosy_client::{Connector, ConnectorConfig, Masters, OperatorClient, Watch, WatchPosition};
use argosy_proto::v1::watch_event::Event;
use argosy_proto::v1::watch_record::Record;
use argosy_proto::{convert, v1};
use argosy_state::ids::{Revision, TaskId, TaskKey};
use argosy_state::task::TaskState;
use tokio::time::{Instant, timeout_at};

use super::world::World;
use crate::history::WatchFact;
use crate::sim::network;

const NAME: &str = "watcher";
/// Time for which it searches for a master, until it begins a new search.
const TIMEOUT: Duration = Duration::from_secs(2);
/// Pause after a search without a result.
const PAUSE: Duration = Duration::from_millis(200);

/// Runs the reader.
pub(super) async fn watcher(world: World) -> turmoil::Result {
    let mut rng = world.new_incarnation(NAME);
    let mut position = WatchPosition::default();
    loop {
        let config = ConnectorConfig {
            dialer: network::dialer(NAME, &world.cuts),
            seed: rng.next(),
        };
        let masters = Masters::new(world.masters())?;
        let client = OperatorClient::new(Connector::new(masters, config)).with_deadline(TIMEOUT);
        let mut watch = client.watch(v1::WatchRequest {
            kinds: vec!["task".to_owned()],
            ..v1::WatchRequest::from(&position)
        });
        let stay = Duration::from_millis(rng.between(200, 2_000));
        follow(&world, &mut watch, Instant::now() + stay).await;
        position = watch.position().clone();
    }
}

/// Records what it receives until this time.
async fn follow(world: &World, watch: &mut Watch, until: Instant) {
    while let Ok(event) = timeout_at(until, watch.next()).await {
        match event {
            Ok(event) => record(world, event),
            // No master serves it at present.
            Err(_) => return tokio::time::sleep(PAUSE).await,
        }
    }
}

fn record(world: &World, event: Event) {
    let whole = |index| Revision { index, position: 0 };
    let (fact, revision) = match event {
        Event::SnapshotBegin(snapshot) => {
            world.notes.count("snapshots of the change feed");
            (WatchFact::SnapshotBegun, whole(snapshot.revision))
        }
        Event::SnapshotEnd(snapshot) => (WatchFact::SnapshotEnded, whole(snapshot.revision)),
        Event::Progress(progress) => (WatchFact::Progress, whole(progress.revision)),
        Event::HistoryLost(lost) => {
            let oldest = lost.oldest;
            (WatchFact::HistoryLost { oldest }, whole(oldest))
        }
        Event::Record(record) => match listed(&record) {
            // The revision of the snapshot is that of its beginning.
            Some((fact, update)) => (fact, update),
            None => return unreadable(world, &record),
        },
        Event::Change(change) => {
            world.notes.count("changes watched");
            let record = change.record.unwrap_or_default();
            match changed(&record) {
                Some(fact) => (fact, convert::revision_from(change.revision)),
                None => return unreadable(world, &record),
            }
        }
    };
    world.notes.recorder.observe_at(NAME, fact, revision);
}

fn unreadable(world: &World, record: &v1::WatchRecord) {
    let message = format!("the change feed has a task that cannot be read: {record:?}");
    world.notes.violation(message);
}

fn listed(record: &v1::WatchRecord) -> Option<(WatchFact, Revision)> {
    let (update, state) = newest(record)?;
    let task = key(record)?;
    let fact = WatchFact::TaskListed {
        task,
        update,
        state,
    };
    Some((fact, update))
}

fn changed(record: &v1::WatchRecord) -> Option<WatchFact> {
    let newest = match record.record {
        Some(_) => Some(newest(record)?),
        None => None,
    };
    Some(WatchFact::TaskChanged {
        task: key(record)?,
        update: newest.map(|(update, _)| update),
        state: newest.map(|(_, state)| state),
    })
}

fn key(record: &v1::WatchRecord) -> Option<TaskKey> {
    let (framework, task) = record.id.split_once('/')?;
    Some(TaskKey {
        framework: framework.parse().ok()?,
        task: TaskId::new(task).ok()?,
    })
}

/// Returns the revision of the newest update of a task, and its state.
fn newest(record: &v1::WatchRecord) -> Option<(Revision, TaskState)> {
    let Some(Record::Task(task)) = &record.record else {
        return None;
    };
    let latest = task.latest.as_ref()?;
    let state = convert::state_from(task.state).ok()?;
    Some((convert::revision_from(latest.revision), state))
}
