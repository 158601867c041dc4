//! Tests that a history in a file gets the same report as in memory, and that a planted violation
//! is found in it.

use std::sync::atomic::{AtomicU64, Ordering};

use argosy_chaos::history::{
    self, CallName, Fault, FaultKind, LaunchedTask, Operation, OperationResponse, ProcessName,
    Recorder, TaskFact,
};
use argosy_chaos::invariants::{Minimum, Rule, check_history};
use argosy_state::ids::{Epoch, FrameworkId, OfferId, TaskId, TaskKey};

fn key(task: &str) -> TaskKey {
    TaskKey {
        framework: FrameworkId(1),
        task: TaskId::new(task).unwrap(),
    }
}

fn accept(recorder: &Recorder, number: u64, task: &str) {
    let offer = OfferId {
        epoch: Epoch(4),
        serial: number,
    };
    let name = CallName {
        framework: FrameworkId(1),
        session: 9,
        number,
    };
    let resources = "cpus:1".parse().unwrap();
    let launch = LaunchedTask {
        task: key(task),
        resources,
    };
    let call = recorder.invoke(
        ProcessName::new("greedy-1"),
        Operation::Accept {
            name,
            offers: vec![offer],
            launches: vec![launch],
            all_or_nothing: false,
        },
    );
    let refused = Vec::new();
    recorder.ok(call, OperationResponse::Accepted { refused }, None);
}

fn started(recorder: &Recorder, line: &str) {
    let (task, start) = history::witness::parse_line(line, FrameworkId(1)).unwrap();
    recorder.observe("witness", TaskFact::Witnessed { task, start });
}

#[test]
fn a_second_start_in_a_history_file_is_detected() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("history.jsonl");
    let time = AtomicU64::new(0);
    let clock = move || time.fetch_add(1_000_000, Ordering::Relaxed);
    let (recorder, recording) = Recorder::to_file(&path, clock).unwrap();
    accept(&recorder, 1, "web");
    accept(&recorder, 2, "db");
    recorder.fault(Fault::new(FaultKind::Crash, "agent-1"));
    started(&recorder, "web 1 aa boot 4 100");
    started(&recorder, "db 2 bb boot 5 101");
    started(&recorder, "web 1 cc boot 6 900");
    let kept = recording.finish().unwrap();
    let read = history::read_file(&path).unwrap();
    assert_eq!(read.hash(), kept.hash());

    let report = check_history(&read);
    assert_eq!(report, check_history(&kept));
    let rules: Vec<Rule> = report.violations.iter().map(|found| found.rule).collect();
    assert_eq!(rules, [Rule::SingleStart]);
    let shown: Vec<u64> = report.violations[0]
        .events
        .iter()
        .map(|at| read.events[*at].time_ns)
        .collect();
    assert!(shown[0] < shown[1]);
    let minimum = Minimum {
        leader_changes: 1,
        ..Minimum::default()
    };
    assert_eq!(
        report.shortfalls(&minimum).len(),
        1,
        "it has changed no leader"
    );
}
