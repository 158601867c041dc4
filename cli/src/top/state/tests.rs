//! The state against a scripted feed: changes, removals, lost history, snapshots that break off.

use super::*;

fn resources(text: &str) -> Vec<v1::Resource> {
    argosy_client::resources::resources(text).unwrap()
}

fn task(id: &str, agent: &str, state: v1::TaskState, wants: &str) -> v1::WatchRecord {
    let task = v1::Task {
        framework_id: "framework-1".to_owned(),
        task_id: id.to_owned(),
        agent_id: agent.to_owned(),
        role: "batch/nightly".to_owned(),
        state: state.into(),
        spec: Some(v1::TaskSpec {
            resources: resources(wants),
            ..v1::TaskSpec::default()
        }),
        ..v1::Task::default()
    };
    record("task", &format!("framework-1/{id}"), Record::Task(task))
}

fn of_executor(mut record: v1::WatchRecord) -> v1::WatchRecord {
    if let Some(Record::Task(task)) = &mut record.record {
        task.spec.as_mut().unwrap().executor = Some(v1::ExecutorSpec {
            executor_id: "executor".to_owned(),
            resources: resources("cpus:0.5"),
            ..v1::ExecutorSpec::default()
        });
    }
    record
}

fn agent(id: &str) -> v1::WatchRecord {
    let agent = v1::Agent {
        agent_id: id.to_owned(),
        ..v1::Agent::default()
    };
    record("agent", id, Record::Agent(agent))
}

fn framework(id: &str) -> v1::WatchRecord {
    let framework = v1::Framework {
        framework_id: id.to_owned(),
        info: Some(v1::FrameworkInfo {
            roles: vec!["batch/nightly".to_owned()],
            ..v1::FrameworkInfo::default()
        }),
        connected: true,
        ..v1::Framework::default()
    };
    record("framework", id, Record::Framework(framework))
}

fn record(kind: &str, id: &str, record: Record) -> v1::WatchRecord {
    v1::WatchRecord {
        kind: kind.to_owned(),
        id: id.to_owned(),
        record: Some(record),
    }
}

fn changed(record: v1::WatchRecord) -> Event {
    Event::Change(v1::WatchChange {
        record: Some(record),
        ..v1::WatchChange::default()
    })
}

fn removed(record: v1::WatchRecord) -> Event {
    Event::Change(v1::WatchChange {
        record: Some(record),
        removed: true,
        ..v1::WatchChange::default()
    })
}

fn snapshot(records: Vec<v1::WatchRecord>) -> Vec<Event> {
    let revision = v1::WatchSnapshot {
        revision: 7,
        ..Default::default()
    };
    let mut events = vec![Event::SnapshotBegin(revision.clone())];
    events.extend(records.into_iter().map(Event::Record));
    events.push(Event::SnapshotEnd(revision));
    events
}

fn state(events: impl IntoIterator<Item = Event>) -> ClusterState {
    let mut state = ClusterState::default();
    events.into_iter().for_each(|event| state.apply(event));
    state
}

fn task_ids(state: &ClusterState) -> Vec<&str> {
    let rows = state.lists.tasks.iter();
    let mut ids: Vec<_> = rows.map(|(_, row)| row.id.as_str()).collect();
    ids.sort_unstable();
    ids
}

use v1::TaskState::{Failed, Killing, Running, Staging};

fn two_tasks() -> ClusterState {
    state(snapshot(vec![
        agent("agent-1"),
        agent("agent-2"),
        framework("framework-1"),
        task("a", "agent-1", Running, "cpus:1;mem:64"),
        task("b", "agent-2", Staging, "cpus:2"),
    ]))
}

#[test]
fn a_snapshot_is_shown_when_it_is_complete() {
    let mut events = snapshot(vec![
        agent("agent-1"),
        task("a", "agent-1", Running, "cpus:1"),
    ]);
    let end = events.pop().unwrap();
    let mut partial = state(events);
    assert_eq!(partial.loaded(), Some(2));
    assert_eq!(task_ids(&partial), [""; 0]);
    partial.apply(end);
    assert_eq!(partial.loaded(), None);
    assert_eq!(task_ids(&partial), ["a"]);
}

#[test]
fn usage_follows_each_change_and_removal() {
    let mut state = two_tasks();
    assert_eq!(state.lists.of_agent("agent-1").tasks, 1);
    assert_eq!(
        state.lists.of_framework("framework-1").amounts.get("cpus"),
        3_000
    );
    let counts: Vec<_> = state.lists.states().collect();
    assert_eq!(counts, [(Staging, 1), (Running, 1)]);

    let before = state.changes();
    state.apply(changed(task("b", "agent-2", Running, "cpus:2")));
    assert!(state.changes() > before);
    assert_eq!(state.lists.states().collect::<Vec<_>>(), [(Running, 2)]);
    assert_eq!(
        state.lists.of_framework("framework-1").amounts.get("cpus"),
        3_000
    );

    // A removal may have the newest state of the task, or no record.
    state.apply(removed(task("a", "agent-1", Failed, "cpus:1;mem:64")));
    state.apply(removed(v1::WatchRecord {
        record: None,
        ..task("b", "agent-2", Running, "cpus:2")
    }));
    assert_eq!(task_ids(&state), [""; 0]);
    assert_eq!(*state.lists.of_agent("agent-1"), Usage::default());
    assert_eq!(*state.lists.of_framework("framework-1"), Usage::default());
    assert_eq!(state.lists.states().count(), 0);
    // So may one of a record that is not here, twice.
    state.apply(removed(task("a", "agent-1", Failed, "cpus:1;mem:64")));
    assert_eq!(*state.lists.of_agent("agent-1"), Usage::default());
    state.apply(removed(agent("agent-1")));
    assert_eq!(state.lists.agents.len(), 1);
}

#[test]
fn an_executor_counts_once_for_its_tasks_on_an_agent() {
    let of = |id, agent| of_executor(task(id, agent, Running, "cpus:1"));
    let mut state = state(snapshot(vec![
        of("a", "agent-1"),
        of("b", "agent-1"),
        of("c", "agent-2"),
    ]));
    let cpus = |state: &ClusterState| {
        [
            state.lists.of_agent("agent-1").amounts.get("cpus"),
            state.lists.of_framework("framework-1").amounts.get("cpus"),
        ]
    };
    assert_eq!(cpus(&state), [2_500, 4_000]);
    state.apply(changed(of_executor(task(
        "a", "agent-1", Killing, "cpus:1",
    ))));
    assert_eq!(cpus(&state), [2_500, 4_000]);
    state.apply(removed(of("a", "agent-1")));
    assert_eq!(cpus(&state), [1_500, 3_000]);
    state.apply(removed(of("b", "agent-1")));
    assert_eq!(cpus(&state), [0, 1_500]);
}

#[test]
fn lost_history_keeps_the_former_records_until_a_snapshot_replaces_them() {
    let mut state = two_tasks();
    state.explain(
        "framework-1".to_owned(),
        "it is about to be offered".to_owned(),
    );
    state.explain("framework-9".to_owned(), "it is not known".to_owned());
    assert_eq!(state.waiting("framework-9"), "");
    state.apply(Event::HistoryLost(v1::HistoryLost {
        oldest: 90,
        ..Default::default()
    }));
    state.apply(Event::SnapshotBegin(v1::WatchSnapshot {
        revision: 95,
        ..Default::default()
    }));
    state.apply(Event::Record(task("c", "agent-2", Running, "cpus:4")));
    assert_eq!(task_ids(&state), ["a", "b"]);
    assert_eq!(state.loaded(), Some(1));
    // The stream breaks off, and begins again at another master.
    for event in snapshot(vec![task("d", "agent-2", Running, "cpus:8")]) {
        state.apply(event);
    }
    assert_eq!(task_ids(&state), ["d"]);
    assert_eq!(state.lists.agents.len(), 0);
    assert_eq!(state.lists.of_agent("agent-2").amounts.get("cpus"), 8_000);
    assert_eq!(state.waiting("framework-1"), "", "the framework is gone");
}

#[test]
fn roles_include_the_usage_below_them() {
    let mut state = two_tasks();
    let weight = v1::RoleWeight {
        role: "web".to_owned(),
        weight_milli: 2_500,
    };
    state.apply(changed(record("role", "web", Record::Role(weight.clone()))));
    let roles = state.lists.roles();
    let shown: Vec<_> = roles
        .iter()
        .map(|role| {
            let cpus = role.amounts.get("cpus");
            (
                role.name.as_str(),
                role.weight_milli,
                role.tasks,
                cpus,
                role.waiting,
            )
        })
        .collect();
    assert_eq!(
        shown,
        [
            ("batch", 1_000, 2, 3_000, 0),
            ("batch/nightly", 1_000, 2, 3_000, 1),
            ("web", 2_500, 0, 0, 0),
        ]
    );
    state.apply(removed(record("role", "web", Record::Role(weight))));
    assert_eq!(state.lists.roles().len(), 2);
}

#[test]
fn events_of_a_newer_release_are_ignored() {
    let mut state = two_tasks();
    state.apply(changed(v1::WatchRecord {
        kind: "volume".to_owned(),
        id: "volume-1".to_owned(),
        record: None,
    }));
    state.apply(Event::Change(v1::WatchChange::default()));
    state.apply(Event::Progress(v1::WatchProgress {
        revision: 9,
        ..Default::default()
    }));
    assert_eq!(task_ids(&state), ["a", "b"]);
}
