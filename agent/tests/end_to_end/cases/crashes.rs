//! Agents that die at each step of a launch and a removal, and the next one, which leaves nothing.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::time::Instant;

use argosy_agent::crash::STEPS;
use argosy_isolation::{cgroup, crash};
use argosy_proto::v1;
use argosy_proto::v1::from_agent::Message;
use argosy_proto::v1::order::Order;
use sha2::{Digest, Sha256};

use super::disks::{impossible, remove_all};
use super::volumes::with_disk;
use super::{runs, state};
use crate::audit::{Audit, Scope};
use crate::host::{Host, Process};
use crate::master::{Link, Master, is_terminal, kill, launch, shell};

/// At which pass of a step: the journal writes of everything that happens, each time of something else.
const PASSES_OF_JOURNAL: std::ops::RangeInclusive<u32> = 1..=8;

const TASKS: [&str; 3] = ["held", "brief", "long"];

/// What those take and leave that make file systems for tasks: steps of their own, and of what is made.
const OF_FILE_SYSTEMS: [&str; 9] = [
    "fetch.sandbox-made",
    "disk.file-made",
    "disk.formatted",
    "disk.attached",
    "disk.mounted",
    "disk.shown",
    "fetch.disk-bounded",
    "launch.prepared",
    "remove.users-returned",
];

/// What the tasks' disks are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Disks {
    Measured,
    Looped,
}

/// What a leader wants, in turn; the last is sent once the task runs.
fn orders(host: &Host, disks: Disks) -> Vec<Order> {
    let shell = |name: &str, line: &str| match disks {
        Disks::Measured => shell(name, line),
        Disks::Looped => with_disk(shell(name, line), 4),
    };
    let file = host.folder.path().join("file");
    std::fs::write(&file, "fetched\n").unwrap();
    let mut brief = shell("brief", "cat file");
    brief.uris.push(v1::Uri {
        value: file.display().to_string(),
        ..v1::Uri::default()
    });
    vec![
        launch(shell("held", "sleep 1000")),
        launch(brief),
        launch(shell("long", "sleep 1000")),
        kill("held", 0),
        kill("long", 1_000),
    ]
}

/// The agent's groups, which are named for its directory.
pub(super) fn groups(host: &Host) -> PathBuf {
    let directory = std::fs::canonicalize(host.folder.path())
        .unwrap()
        .join("agent");
    let hash = Sha256::digest(directory.as_os_str().as_encoded_bytes());
    let digits: String = hash
        .iter()
        .take(6)
        .map(|byte| format!("{byte:02x}"))
        .collect();
    let parent = cgroup::default_parent().unwrap();
    parent.join("argosy").join(format!("agent-{digits}"))
}

/// Everything of this host's agent but what it keeps on the disk.
pub(super) fn audit(host: &Host) -> Audit {
    Audit::begin(Scope {
        folders: vec![host.folder.path().to_owned()],
        groups: vec![groups(host)],
        ..Scope::default()
    })
}

/// One life of an agent, as its leader sees it, until the agent is gone or all tasks have ended.
struct Reign<'a> {
    orders: &'a [Order],
    ended: &'a mut BTreeSet<String>,
}

impl Reign<'_> {
    async fn lead(&mut self, master: &mut Master) {
        let (mut link, hello) = master.link().await;
        link.may_hang_up = true;
        link.register(&hello, false).await;
        let last = self.orders.len() as u64;
        for index in hello.floor + 1..last {
            link.order(index, self.orders[index as usize - 1].clone())
                .await;
        }
        let mut asked = hello.floor >= last;
        while self.ended.len() < TASKS.len() {
            let Some(message) = link.try_next().await else {
                return;
            };
            let Message::Report(report) = message else {
                continue;
            };
            note(&report, self.ended);
            let long = |update: &&v1::NumberedUpdate| update.task_id == "long";
            let up = report
                .updates
                .iter()
                .filter(long)
                .any(|update| runs(update) || is_terminal(update));
            link.take(report).await;
            if up && !asked {
                asked = true;
                link.order(last, self.orders[last as usize - 1].clone())
                    .await;
            }
        }
        // What follows the end of its tasks is the agent's own affair; it wants to be heard meanwhile.
        while link.try_next().await.is_some() {}
    }
}

/// Whatever died, each task has the end that it would have had.
fn note(report: &v1::Report, ended: &mut BTreeSet<String>) {
    for update in report.updates.iter().filter(|update| is_terminal(update)) {
        let expected = match update.task_id.as_str() {
            "brief" => v1::TaskState::Finished,
            _ => v1::TaskState::Killed,
        };
        let (task, text) = (&update.task_id, &update.text);
        assert_eq!(state(update), expected, "{task}: {text}");
        ended.insert(task.clone());
    }
}

async fn crash_at(step: &str, at: u32, disks: Disks) {
    let (host, mut master) = (Host::new(), Master::start().await);
    let audit = audit(&host);
    let orders = orders(&host, disks);
    if disks == Disks::Looped {
        host.makes_file_systems();
    }
    let first = host.process(master.address);
    let (mut link, _) = master.registered(true).await;
    link.order(1, orders[0].clone()).await;
    link.until("held", runs).await;
    drop(first);
    drop(link);

    let mut ended = BTreeSet::new();
    let witness = host.folder.path().join("witness");
    let death = [step, &at.to_string(), &witness.display().to_string()];
    let mut dying = host.dying(master.address, &death);
    let mut reign = Reign {
        orders: &orders,
        ended: &mut ended,
    };
    tokio::select! {
        () = dying.died() => {}
        () = reign.lead(&mut master) => await_death(&mut dying, step, at).await,
    }
    let passes = crash::passes(&witness).unwrap_or(0);
    assert!(
        passes >= at,
        "the agent has passed {step} {passes} times, not {at}"
    );
    drop(dying);
    clear(&host, &mut master, &orders, &mut ended).await;
    remove_all(&host);
    audit.expect_nothing_left(&format!("after the agent's death at {step}, pass {at}"));
}

/// Its last words were heard; its end is to come.
async fn await_death(dying: &mut Process, step: &str, at: u32) {
    let death = tokio::time::timeout(crate::master::PATIENCE, dying.died()).await;
    assert!(death.is_ok(), "the agent has not come to {step}, pass {at}");
}

/// The next life, to the end of all tasks.
async fn clear(host: &Host, master: &mut Master, orders: &[Order], ended: &mut BTreeSet<String>) {
    let agent = host.agent(master.address).await;
    // Of the life before there may be a link that was never looked at.
    let mut link = loop {
        let (mut link, hello) = master.link().await;
        link.may_hang_up = true;
        link.register(&hello, false).await;
        for index in hello.floor + 1..=orders.len() as u64 {
            link.order(index, orders[index as usize - 1].clone()).await;
        }
        if all_end(&mut link, ended).await {
            break link;
        }
    };
    link.settles = false;
    for held in link.list().await.tasks {
        link.kill_stray(&held.task_id, held.order_index).await;
    }
    agent.is_clear().await;
    agent.stop().await;
}

/// False if this was not the link of the agent that lives.
async fn all_end(link: &mut Link, ended: &mut BTreeSet<String>) -> bool {
    while ended.len() < TASKS.len() {
        match link.try_next().await {
            Some(Message::Report(report)) => {
                note(&report, ended);
                link.take(report).await;
            }
            Some(_) => {}
            None => return false,
        }
    }
    true
}

pub(super) async fn every_step_can_be_the_last_of_an_agent() {
    if !crash::IS_ON || !nix::unistd::geteuid().is_root() {
        println!("SKIPPED: needs root, and a build that can die at a step");
        return;
    }
    let begun = Instant::now();
    let mut lives = 0;
    for step in STEPS {
        let passes = match *step {
            "journal.appended" | "journal.synced" => PASSES_OF_JOURNAL,
            _ => 1..=1,
        };
        for at in passes {
            // Said should a wait below be in vain.
            eprintln!(
                "a death at {step}, pass {at}, after {} ms",
                begun.elapsed().as_millis()
            );
            crash_at(step, at, Disks::Measured).await;
            lives += 1;
        }
    }
    print!("{lives} deaths, ");
}

pub(super) async fn every_step_can_be_the_last_of_an_agent_that_makes_file_systems() {
    if !crash::IS_ON || impossible().is_some() {
        println!("SKIPPED: needs root, and a build that can die at a step");
        return;
    }
    for step in OF_FILE_SYSTEMS {
        eprintln!("a death at {step}");
        crash_at(step, 1, Disks::Looped).await;
    }
    print!("{} deaths, ", OF_FILE_SYSTEMS.len());
}
