//! Merges the histories of all processes and runs the checkers on the result.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

use anyhow::{Context, Result};

use argosy_state::ids::{FrameworkId, TaskKey};

use super::framework::port;
use super::report::{
    EpochRecord, OUTAGE_MS, OperationCounts, Outage, ReportedViolation, RunReport,
};
use super::services;
use crate::history::{
    self, EventKind, History, HistoryEvent, Observation, Operation, ProcessExit, ProcessName,
    TaskFact, witness,
};
use crate::invariants::{self, Rule};

/// Reads every history in a directory and merges them. Calls of different files stay separate.
///
/// # Errors
/// If one cannot be read.
pub(crate) fn merge(directory: &Path, more: Vec<HistoryEvent>) -> Result<History> {
    let mut files: Vec<_> = fs::read_dir(directory)
        .with_context(|| format!("cannot read {}", directory.display()))?
        .flatten()
        .map(|entry| entry.path())
        .filter(|path| path.extension().is_some_and(|end| end == "jsonl"))
        .collect();
    files.sort();
    let mut events = more;
    let mut highest = events.iter().filter_map(call_of).max().unwrap_or_default();
    for file in files {
        let mut own = history::read_file(&file)?.events;
        let base = highest;
        for event in &mut own {
            if let Some(call) = call_of_mut(event) {
                *call += base;
                highest = highest.max(*call);
            }
        }
        events.extend(own);
    }
    Ok(History::new(events))
}

fn call_of(event: &HistoryEvent) -> Option<u64> {
    match &event.what {
        EventKind::Invoke { call, .. }
        | EventKind::Ok { call, .. }
        | EventKind::Fail { call, .. }
        | EventKind::Info { call, .. } => Some(*call),
        EventKind::Fault(_) | EventKind::Observation(_) => None,
    }
}

fn call_of_mut(event: &mut HistoryEvent) -> Option<&mut u64> {
    match &mut event.what {
        EventKind::Invoke { call, .. }
        | EventKind::Ok { call, .. }
        | EventKind::Fail { call, .. }
        | EventKind::Info { call, .. } => Some(call),
        EventKind::Fault(_) | EventKind::Observation(_) => None,
    }
}

/// Returns the witness lines of tasks, as events at `time_ns`.
///
/// # Errors
/// If a file cannot be read or contains an invalid line.
pub(crate) fn witness_events(shared: &Path, time_ns: u64) -> Result<Vec<HistoryEvent>> {
    // Every line names its framework.
    let no_framework = FrameworkId(0);
    let starts = witness::read_file(&shared.join(super::framework::WITNESS), no_framework)?;
    let event = |task: TaskKey, fact: TaskFact| HistoryEvent {
        time_ns,
        process: ProcessName::new(&task.to_string()),
        revision: None,
        what: EventKind::Observation(Observation::Task(fact)),
    };
    let mut events: Vec<HistoryEvent> = starts
        .into_iter()
        .map(|(task, start)| event(task.clone(), TaskFact::Witnessed { task, start }))
        .collect();
    let ends = fs::read_to_string(shared.join("ends")).unwrap_or_default();
    for line in ends.lines() {
        let end = line.split_once(' ').and_then(|(task, code)| {
            let (framework, id) = task.split_once('/')?;
            let task = TaskKey {
                framework: framework.parse().ok()?,
                task: argosy_state::ids::TaskId::new(id).ok()?,
            };
            Some((task, code.parse::<i32>().ok()?))
        });
        let (task, code) = end.with_context(|| format!("invalid end {line:?} of a task"))?;
        let end = ProcessExit::Code(code);
        events.push(event(task.clone(), TaskFact::Ended { task, end }));
    }
    Ok(events)
}

/// Runs all checkers on the whole history.
pub(crate) fn check_run(history: &History, report: &mut RunReport) {
    let witnessed = history
        .observations()
        .filter(|(_, _, seen)| matches!(seen, Observation::Task(TaskFact::Witnessed { .. })));
    report.witnessed = witnessed.count() as u64;
    report.violations.extend(services::check(history));
    report
        .violations
        .extend(duplicate_leaders(&report.epoch_records));
    let checked = invariants::check_history(history);
    for (rule, result) in &checked.rules {
        report.checkers.insert(rule.to_string(), result.looked_at);
        for what in &result.undecided {
            report.undecided.push(format!("{rule}: {what}"));
        }
    }
    for violation in checked.violations {
        let first = violation
            .events
            .first()
            .and_then(|at| history.events.get(*at));
        let shown = violation
            .events
            .iter()
            .filter_map(|at| history.events.get(*at))
            .take(4);
        let mut what = violation.what;
        for event in shown {
            let line = serde_json::to_string(event).expect("every event has a JSON form");
            what.push_str("\n    ");
            what.extend(line.chars().take(400));
        }
        report.violations.push(ReportedViolation {
            checker: violation.rule.to_string(),
            what,
            time_ns: first.map(|event| event.time_ns),
        });
    }
}

/// Counts the outcomes of operations, by kind.
pub(crate) fn operations(history: &History) -> BTreeMap<String, OperationCounts> {
    let mut counted: BTreeMap<String, OperationCounts> = BTreeMap::new();
    for call in history.calls() {
        let kind = match call.operation {
            Operation::Read { .. } => "read",
            Operation::Write { .. } => "write",
            Operation::CompareAndSet { .. } => "compare-and-set",
            Operation::Subscribe { .. } => "subscribe",
            Operation::Accept { .. } => "accept",
            // Declines have no response.
            Operation::Decline { .. } => continue,
            Operation::Kill { .. } => "kill",
            Operation::Acknowledge { .. } => "acknowledge",
            Operation::Reconcile { .. } => "reconcile",
            Operation::Suppress { .. } | Operation::Revive { .. } => "suppress",
            Operation::Teardown { .. } => "teardown",
            Operation::Deactivate { .. }
            | Operation::Reactivate { .. }
            | Operation::MarkGone { .. } => "agents",
            Operation::Transfer { .. } | Operation::ChangeVoters { .. } => "masters",
            Operation::SetRight { .. } | Operation::UseRight { .. } => "access",
        };
        let count = counted.entry(kind.to_owned()).or_default();
        match call.end.map(|(_, event)| &event.what) {
            Some(EventKind::Ok { .. }) => count.ok += 1,
            Some(EventKind::Fail { .. }) => count.failed += 1,
            Some(_) | None => count.unknown += 1,
        }
    }
    counted
}

/// Returns the times between `from_ns` and `to_ns` without an answered write.
pub(crate) fn outages(history: &History, from_ns: u64, to_ns: u64) -> Vec<Outage> {
    let writes: BTreeSet<u64> = history
        .events
        .iter()
        .filter_map(|event| match &event.what {
            EventKind::Invoke {
                call,
                operation: Operation::Write { .. },
            } => Some(*call),
            _ => None,
        })
        .collect();
    let answered = history
        .events
        .iter()
        .filter(|event| matches!(&event.what, EventKind::Ok { call, .. } if writes.contains(call)));
    let times = answered
        .map(|event| event.time_ns)
        .filter(|time| (from_ns..=to_ns).contains(time));
    let mut last = from_ns;
    let mut found = Vec::new();
    for time in times.chain([to_ns]) {
        let outage = Outage {
            from_ns: last,
            to_ns: time,
        };
        if outage.ms() >= OUTAGE_MS {
            found.push(outage);
        }
        last = time;
    }
    found
}

/// Returns how many services hold their port, and a violation for each one that found it taken.
pub(crate) fn ports(shared: &Path) -> (u64, Vec<ReportedViolation>) {
    let output = fs::read_to_string(shared.join(port::PORTS)).unwrap_or_default();
    let taken = output.lines().filter(|line| line.ends_with(port::TAKEN));
    let found = taken.map(|line| ReportedViolation {
        checker: Rule::NoDoubleBooking.to_string(),
        what: format!("a port was in two live tasks: {line}"),
        time_ns: None,
    });
    let held = output.lines().filter(|line| line.ends_with(port::HELD));
    (held.count() as u64, found.collect())
}

/// Checks the epochs that masters reported: each has one leader.
pub(crate) fn duplicate_leaders(epoch_records: &[EpochRecord]) -> Vec<ReportedViolation> {
    let mut leaders: BTreeMap<u64, &str> = BTreeMap::new();
    let mut found = Vec::new();
    for epoch_record in epoch_records {
        let first = leaders
            .entry(epoch_record.epoch)
            .or_insert(&epoch_record.leader);
        if *first != epoch_record.leader {
            found.push(ReportedViolation {
                checker: Rule::ElectionSafety.to_string(),
                what: format!(
                    "epoch {} is led by {first} and by {}",
                    epoch_record.epoch, epoch_record.leader
                ),
                time_ns: Some(epoch_record.seen_ns),
            });
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::history::{OperationResponse, Recorder};

    #[test]
    fn a_gap_between_writes_is_an_outage_and_a_short_one_is_not() {
        use std::sync::Arc;
        use std::sync::atomic::{AtomicU64, Ordering};
        let now = Arc::new(AtomicU64::new(0));
        let clock = Arc::clone(&now);
        let (recorder, recording) = Recorder::in_memory(move || clock.load(Ordering::SeqCst));
        for ms in [0, 50, 100, 400, 450] {
            now.store(ms * 1_000_000, Ordering::SeqCst);
            let write = Operation::Write {
                key: "k".to_owned(),
                value: None,
                request: String::new(),
            };
            let call = recorder.invoke("c", write);
            recorder.ok(call, OperationResponse::Done, None);
        }
        let history = recording.finish().unwrap();
        let found = outages(&history, 0, 500_000_000);
        assert_eq!(found.len(), 1);
        assert_eq!(found[0].ms(), 300);
    }

    #[test]
    fn calls_of_several_processes_are_not_mixed_up() {
        let directory = tempfile::tempdir().unwrap();
        for name in ["a", "b"] {
            let path = directory.path().join(format!("{name}.jsonl"));
            let (recorder, recording) = Recorder::to_file(&path, || 5).unwrap();
            let call = recorder.invoke(
                name,
                Operation::Write {
                    key: name.to_owned(),
                    value: None,
                    request: String::new(),
                },
            );
            recorder.ok(call, OperationResponse::Done, None);
            recording.finish().unwrap();
        }
        let merged = merge(directory.path(), Vec::new()).unwrap();
        let calls = merged.calls();
        assert_eq!(calls.len(), 2);
        assert!(calls.iter().all(|call| call.outcome().is_some()));
    }

    #[test]
    fn two_leaders_of_one_epoch_are_found() {
        let epoch_record = |leader: &str| EpochRecord {
            epoch: 4,
            leader: leader.to_owned(),
            seen_ns: 1,
        };
        assert!(
            duplicate_leaders(&[epoch_record("master-1"), epoch_record("master-1")]).is_empty()
        );
        assert_eq!(
            duplicate_leaders(&[epoch_record("master-1"), epoch_record("master-2")]).len(),
            1
        );
    }
}
