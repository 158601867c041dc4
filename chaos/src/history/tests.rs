//! Tests that recorded events are read back in order of time, with an equal hash.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use argosy_state::ids::{
    AgentId, Epoch, FrameworkId, NodeId, OfferId, OrderIndex, Role, TaskId, TaskKey,
};
use argosy_state::task::TaskState;

use super::*;

/// Returns a clock that a test advances.
fn clock() -> (Arc<AtomicU64>, impl Fn() -> u64 + Send + Sync + 'static) {
    let now = Arc::new(AtomicU64::new(0));
    let read = now.clone();
    (now, move || read.load(Ordering::SeqCst))
}

fn key(task: &str) -> TaskKey {
    TaskKey {
        framework: FrameworkId(3),
        task: TaskId::new(task).unwrap(),
    }
}

/// Records one event of each shape, with every kind of value.
fn record_all(recorder: &Recorder) {
    record_calls(recorder);
    record_facts(recorder);
}

const REVISION: Revision = Revision {
    index: 40,
    position: 2,
};
const OFFER: OfferId = OfferId {
    epoch: Epoch(12),
    serial: 4,
};

fn record_calls(recorder: &Recorder) {
    let client = ProcessName::new("greedy-1");
    let name = CallName {
        framework: FrameworkId(3),
        session: 77,
        number: 1,
    };
    let launch = LaunchedTask {
        task: key("web-1"),
        resources: "cpus:0.5;mem:64;ports:[31000-31001]".parse().unwrap(),
    };
    let accept = recorder.invoke(
        &client,
        Operation::Accept {
            name,
            offers: vec![OFFER],
            launches: vec![launch],
            all_or_nothing: false,
        },
    );
    let refused = vec![RejectedLaunch {
        position: 0,
        code: "offer-used".to_owned(),
    }];
    recorder.ok(
        accept,
        OperationResponse::Accepted { refused },
        Some(REVISION),
    );
    let subscribe = Operation::Subscribe {
        framework: None,
        session: 77,
        principal: "alice".to_owned(),
        held: vec![OFFER],
    };
    let call = recorder.invoke(&client, subscribe);
    recorder.fail(call, "superseded");
    let call = recorder.invoke(
        "operator",
        Operation::Transfer {
            to: Some(NodeId(2)),
        },
    );
    recorder.info(call, "deadline exceeded");
}

fn record_facts(recorder: &Recorder) {
    let client = ProcessName::new("greedy-1");
    let start = witness::ProcessStart {
        order: Some(OrderIndex(9)),
        nonce: "00ff".to_owned(),
        boot_id: "b".to_owned(),
        pid: 7,
        start_time: 8,
    };
    recorder.fault(Fault::new(FaultKind::PartitionOneWay, "master-1>master-2").with("2 s"));
    let task = key("map-1");
    recorder.observe("witness", TaskFact::Witnessed { task, start });
    let made = OfferFact::Made {
        offer: OFFER,
        framework: FrameworkId(3),
        session: 77,
        agent: AgentId(5),
        role: Role::default(),
        resources: "cpus:4".parse().unwrap(),
    };
    recorder.observe(&client, made);
    let reported = TaskFact::UpdateReceived {
        task: key("map-1"),
        update: REVISION,
        state: TaskState::Finished,
        end: Some(ProcessExit::Code(0)),
    };
    recorder.observe_at(&client, reported, REVISION);
    let phase = Expectation::Phase {
        phase: RunPhase::Healing,
    };
    recorder.observe("harness", phase);
}

#[test]
fn recorded_events_are_read_back() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("history.jsonl");
    let (now, clock) = clock();
    let (recorder, recording) = Recorder::to_file(&path, clock).unwrap();
    now.store(u64::MAX, Ordering::SeqCst);
    record_all(&recorder);
    let history = recording.finish().unwrap();
    assert_eq!(history.events.len(), 11);
    let read = read_file(&path).unwrap();
    assert_eq!(read, history);
    assert_eq!(read.hash(), history.hash());
    let calls = read.calls();
    assert_eq!(calls.len(), 3);
    assert!(matches!(
        calls[0].outcome(),
        Some(OperationResponse::Accepted { .. })
    ));
    assert_eq!(calls[1].failure(), Some("superseded"));
    assert!(calls[2].end.is_some() && calls[2].outcome().is_none());
    recorder.fault(Fault::new(FaultKind::Heal, "*"));
    assert_eq!(read_file(&path).unwrap().events.len(), 11, "it has ended");
}

#[test]
fn events_are_sorted_by_time_and_any_difference_changes_the_hash() {
    let (now, clock) = clock();
    let (recorder, recording) = Recorder::in_memory(clock);
    now.store(9, Ordering::SeqCst);
    recorder.fault(Fault::new(FaultKind::Crash, "master-1"));
    now.store(3, Ordering::SeqCst);
    recorder.fault(Fault::new(FaultKind::Pause, "master-2"));
    recorder.fault(Fault::new(FaultKind::Pause, "master-3"));
    let history = recording.finish().unwrap();
    let targets: Vec<&str> = history
        .faults()
        .map(|(_, _, fault)| fault.target.as_str())
        .collect();
    assert_eq!(targets, ["master-2", "master-3", "master-1"]);
    let mut other = history.clone();
    other.events[2].time_ns += 1;
    assert_ne!(other.hash(), history.hash());
    assert_eq!(history.clone().hash(), history.hash());
}

#[test]
fn lines_have_readable_names() {
    let (_, clock) = clock();
    let (recorder, recording) = Recorder::in_memory(clock);
    recorder.fault(Fault::new(FaultKind::CutLeaderFromMasters, "master-1"));
    recorder.observe(
        "agent-3",
        TaskFact::Alive {
            task: key("web"),
            agent: AgentId(3),
            pid: 4,
            start_time: 5,
            boot_id: "b".to_owned(),
            progress: None,
        },
    );
    let history = recording.finish().unwrap();
    let lines: Vec<String> = history
        .events
        .iter()
        .map(|event| String::from_utf8(recorder::line(event)).unwrap())
        .collect();
    assert_eq!(
        lines,
        [
            "{\"time_ns\":0,\"process\":\"nemesis\",\"kind\":\"fault\",\"fault\":\"cut-leader-from-masters\",\"target\":\"master-1\",\"detail\":\"\"}\n",
            "{\"time_ns\":0,\"process\":\"agent-3\",\"kind\":\"observation\",\"about\":\"task\",\"fact\":\"alive\",\"task\":\"framework-3/web\",\"agent\":\"agent-3\",\"pid\":4,\"start_time\":5,\"boot_id\":\"b\",\"progress\":null}\n",
        ]
    );
}

#[test]
fn a_corrupt_history_is_an_error_with_a_line_and_a_truncated_one_is_read() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("history.jsonl");
    let (_, clock) = clock();
    let (recorder, recording) = Recorder::to_file(&path, clock).unwrap();
    record_all(&recorder);
    recording.finish().unwrap();
    let text = std::fs::read_to_string(&path).unwrap();
    std::fs::write(&path, &text[..text.len() - 5]).unwrap();
    assert_eq!(read_file(&path).unwrap().events.len(), 10);
    std::fs::write(&path, text.replacen("\"fail\"", "\"fell\"", 1)).unwrap();
    let error = read_file(&path).unwrap_err().to_string();
    assert!(error.starts_with("line 4 "), "{error}");
}
