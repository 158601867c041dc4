//! Tests of a journal that is compacted, and of a writer that crashes at each step of that: all
//! durable records are read again.

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use std::sync::Arc;

use argosy_agent::core::{
    AgentIdentity, AgentState, Instance, JournalEffect, JournalRecord, OrderBody, SyncMode,
};
use argosy_agent::journal::{Journal, read};
use argosy_host::crash_points;
use argosy_proto::v1;
use argosy_state::ids::{AgentId, OrderIndex};

use crate::master::{FRAMEWORK, shell};

super::cases!("compaction":
    a_compaction_may_crash_at_any_step,
);

/// The verb by which this program writes a journal until it crashes.
pub(crate) const VERB: &str = "journal";
pub(super) const STEPS: [&str; 3] = [
    "journal.successor-written",
    "journal.successor-synced",
    "journal.replaced",
];
/// The journal is compacted after this many records.
const COMPACTED_AT: u64 = 20;
/// More than are written before the new file is complete.
const MOST: u64 = 100_000;

fn place(directory: &Path) -> [PathBuf; 2] {
    ["journal", "journal.next"].map(|name| directory.join(name))
}

fn instance(order: u64) -> Instance {
    let (agent, order) = (AgentId(1), OrderIndex(order));
    Instance { agent, order }
}

/// Returns the identity of the agent first, then launches.
fn record(number: u64) -> JournalRecord {
    if number > 1 {
        return launch(number - 1);
    }
    JournalRecord::Identity(AgentIdentity {
        agent: Some(AgentId(1)),
        nonce: 9,
        ..AgentIdentity::default()
    })
}

fn launch(order: u64) -> JournalRecord {
    let task = format!("task-{order}");
    let wire = v1::LaunchOrder {
        framework_id: FRAMEWORK.into(),
        spec: Some(shell(&task, "true")),
        ..v1::LaunchOrder::default()
    };
    let launch = argosy_agent::wire::launch_from(wire).unwrap();
    JournalRecord::OrderAccepted {
        order: OrderIndex(order),
        body: OrderBody::Launch {
            agent: Some(AgentId(1)),
            key: launch.key(),
            launch: Arc::new(launch),
            run: 1,
        },
    }
}

/// Writes launches, reports each that is on disk, and compacts the file concurrently.
pub(crate) fn writer() -> ExitCode {
    let arguments: Vec<_> = std::env::args().skip(2).collect();
    let [directory, step, witness] = &arguments[..] else {
        return ExitCode::FAILURE;
    };
    crash_points::arm(step, 1, Path::new(witness)).unwrap();
    let [path, next] = place(Path::new(directory));
    let journal = Journal::open(&path, &next, &read(&path).unwrap(), 42).unwrap();
    let mut progress = journal.progress();
    let runtime = tokio::runtime::Builder::new_current_thread().build();
    runtime.unwrap().block_on(async {
        for number in 1..=MOST {
            journal.request(JournalEffect::Append {
                number,
                record: Box::new(record(number)),
                sync: SyncMode::Awaited,
            });
            let durable = progress.wait_for(|progress| progress.durable >= number);
            durable.await.unwrap();
            println!("{number}");
            if number == COMPACTED_AT {
                journal.request(JournalEffect::Compact((1..=number).map(record).collect()));
            }
        }
    });
    ExitCode::FAILURE
}

fn has_all(facts: &AgentState, last: u64) -> bool {
    facts.floor >= OrderIndex(last)
        && (1..=last).all(|order| facts.tasks.contains_key(&instance(order)))
}

fn crashes_at(step: &str) {
    let directory = tempfile::tempdir().unwrap();
    let witness = directory.path().join("witness");
    let mut writer = Command::new("/proc/self/exe")
        .arg(VERB)
        .args([directory.path(), Path::new(step), witness.as_path()])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let output = BufReader::new(writer.stdout.take().unwrap()).lines();
    let last: u64 = output.last().unwrap().unwrap().parse().unwrap();
    let last = last - 1;
    writer.wait().unwrap();
    assert_eq!(crash_points::passes(&witness).unwrap(), 1, "{step}");
    assert!(last + 1 >= COMPACTED_AT, "{last}");
    let [path, next] = place(directory.path());
    let contents = read(&path).unwrap();
    assert!(contents.damage.is_empty(), "{:?}", contents.damage);
    assert!(has_all(&contents.facts, last), "after a crash at {step}");
    // The next run ignores an unfinished file, and continues.
    let after = contents.facts.floor.0 + 1;
    let journal = Journal::open(&path, &next, &contents, 43).unwrap();
    assert!(!next.exists(), "after a crash at {step}");
    journal.request(JournalEffect::Append {
        number: 1,
        record: Box::new(launch(after)),
        sync: SyncMode::Awaited,
    });
    drop(journal);
    let contents = read(&path).unwrap();
    assert!(contents.damage.is_empty() && has_all(&contents.facts, after));
}

pub(super) async fn a_compaction_may_crash_at_any_step() {
    if crash_points::IS_ON {
        STEPS.into_iter().for_each(crashes_at);
    }
}
