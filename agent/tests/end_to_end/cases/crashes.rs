//! Tests of agents that crash at each step of a launch and a removal, and of the next run, which
//! leaves nothing.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use argosy_agent::crash::STEPS;
use argosy_host::crash_points;
use argosy_isolation::cgroup;
use argosy_proto::v1;
use argosy_proto::v1::from_agent::Message;
use argosy_proto::v1::order::Order;
use argosy_testing::skip;
use sha2::{Digest, Sha256};

use super::disks::{impossible, remove_all};
use super::volumes::with_disk;
use super::{cni, compaction, runs, state};
use crate::audit::{AuditScope, LeakAudit};
use crate::host::TestHost;
use crate::layout;
use crate::master::{AgentStream, Master, TIMEOUT, is_terminal, kill, launch, shell};
use crate::running::{AgentProcess, AnyAgent};

super::cases!("crashes":
    every_step_can_be_the_last_of_an_agent,
    an_agent_may_crash_at_any_step_of_fetching_and_of_removing_sandboxes,
    an_unprivileged_agent_or_its_broker_may_crash_at_any_step,
    an_agent_may_crash_at_any_step_of_creating_file_systems,
);

/// The passes of a step that are tested: the journal writes all events, each time another one.
const PASSES_OF_JOURNAL: std::ops::RangeInclusive<u32> = 1..=8;

/// The index of the last order of [`orders`], the kill of the long task.
const LAST: usize = 4;

const TASKS: [&str; 3] = ["held", "brief", "long"];

/// The steps of agents that create file systems for tasks.
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

/// The steps at which an agent that is not root crashes, or its broker, whichever reaches the step:
/// the other ends with it.
const OF_DIVIDED: [&str; 17] = [
    "begin.orphans-removed",
    "begin.networks-resumed",
    "find.adopted",
    "journal.synced",
    "fetch.users-taken",
    "sandbox.directory-made",
    "fetch.sandbox-made",
    "launch.directory-made",
    "launch.prepared",
    "agent.request-sent",
    "launch.made",
    "watch.started",
    "watch.exited",
    "remove.destroyed",
    "remove.network-released",
    "remove.users-returned",
    "group.users-returned",
];

/// The steps of the removal of any directory.
const OF_DISPOSAL: [&str; 2] = ["disposal.moved-up", "disposal.emptied"];

/// The special property of the tasks by which a step is reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum TaskVariant {
    Usual,
    /// The short task has an image.
    Imaged,
    /// The same, with a copy of it.
    Copied,
    /// The short task is in a CNI network.
    Plugged,
    /// The long task is a group.
    Grouped,
    /// There are directories of unknown containers.
    Past,
    /// There are more sandboxes of ended tasks than are retained.
    Crowded,
    /// The short task has a large file of its host, and an archive that is fetched, cached and
    /// unpacked.
    Fetched,
    /// Each has a dedicated file system.
    Looped,
}

impl TaskVariant {
    fn of(step: &str) -> Self {
        match step {
            "launch.plugged" | "remove.unplugged" => Self::Plugged,
            "launch.copy-begun" | "launch.copied" => Self::Copied,
            step if step.starts_with("pull.") => Self::Imaged,
            step if step.starts_with("group.") => Self::Grouped,
            "gc.directory-removed" => Self::Past,
            "fetch.chunk-written" => Self::Fetched,
            step if step.starts_with("cache.") || step.starts_with("extract.") => Self::Fetched,
            step if step.starts_with("gc.") || step.starts_with("disposal.") => Self::Crowded,
            _ => Self::Usual,
        }
    }

    /// Whether it is about files of agents, and not about containers.
    fn is_of_files(self) -> bool {
        matches!(self, Self::Fetched | Self::Crowded)
    }

    /// Prepares the host. Returns false if it lacks a requirement.
    fn prepare(self, host: &TestHost) -> bool {
        match self {
            Self::Usual | Self::Grouped | Self::Fetched => {}
            Self::Looped => host.makes_file_systems(),
            Self::Crowded => crowd(&host.directory().join("sandboxes")),
            Self::Imaged => return layout::write(&host.layouts()),
            Self::Copied => {
                host.copies_images();
                return layout::write(&host.layouts());
            }
            Self::Plugged => drop(cni::lay(host)),
            Self::Past => {
                for dir in PAST.map(|name| host.directory().join("containers").join(name)) {
                    std::fs::create_dir_all(&dir).unwrap();
                    std::fs::write(dir.join("exit.json"), "").unwrap();
                }
            }
        }
        true
    }

    fn change(
        self,
        host: &TestHost,
        served: &str,
        (brief, long): (&mut v1::TaskSpec, &mut v1::TaskSpec),
    ) {
        match self {
            Self::Usual | Self::Past | Self::Crowded | Self::Looped => {}
            Self::Fetched => {
                // Another process writes files of a server: see `content/tests/service`.
                let of_host = v1::Uri {
                    value: host
                        .serve("large", ServedArchive::content())
                        .display()
                        .to_string(),
                    ..v1::Uri::default()
                };
                let of_server = v1::Uri {
                    value: served.to_owned(),
                    extract: true,
                    cache: true,
                    ..v1::Uri::default()
                };
                brief.uris = vec![of_host, of_server];
                let digest = hex(&Sha256::digest(ServedArchive::content()));
                brief.shell = format!("sha256sum < bundle/content | grep -q {digest}");
            }
            Self::Imaged | Self::Copied => {
                let container = brief.container.get_or_insert_default();
                container.image = format!("oci:{}", host.layouts().display());
                // An image has a defined working directory, and this one sets none.
                brief.shell = "cat /sandbox/file".into();
            }
            Self::Plugged => brief.container = cni::plugged("blue", "").container,
            Self::Grouped => {
                long.group = Some(v1::TaskGroup {
                    group_id: "pod".into(),
                    place: 0,
                    size: 1,
                });
            }
        }
    }

    /// Waits for the next agent's work that is independent of its tasks.
    async fn is_over(self, host: &TestHost) {
        let containers = host.directory().join("containers");
        let leaving = match self {
            Self::Past => PAST.map(|name| containers.join(name)).into(),
            Self::Crowded => vec![host.directory().join("sandboxes").join(LEAVING)],
            Self::Usual
            | Self::Imaged
            | Self::Copied
            | Self::Plugged
            | Self::Grouped
            | Self::Fetched
            | Self::Looped => return,
        };
        let deadline = Instant::now() + TIMEOUT;
        while let Some(path) = leaving.iter().find(|path| path.exists()) {
            assert!(Instant::now() < deadline, "{} stays", path.display());
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Checks the agent's own directories, which the audit omits.
    fn expect_nothing_left(self, host: &TestHost) {
        match self {
            Self::Usual | Self::Grouped | Self::Past | Self::Crowded => {}
            Self::Fetched => ServedArchive::expect_whole(host),
            Self::Looped => remove_all(host),
            Self::Imaged | Self::Copied => {
                assert_eq!(drafts(&host.directory().join("images")), [""; 0])
            }
            Self::Plugged => cni::nothing_is_left(host),
        }
    }
}

/// Containers of orders that were never given.
const PAST: [&str; 2] = ["1-98-1", "1-99-1"];

/// The framework whose tasks have all ended: it has the oldest sandboxes.
const LEAVING: &str = "framework-8";
/// Number of retained sandboxes.
const STAYING: u64 = 1_000;

/// Creates more sandboxes than are retained; the excess belongs to [`LEAVING`].
fn crowd(sandboxes: &Path) {
    let past = sandboxes.join(LEAVING).join("past");
    for order in 1..=2 {
        let deep = past.join(format!("0-{order}-1/a/b"));
        std::fs::create_dir_all(&deep).unwrap();
        std::fs::write(deep.join("file"), "").unwrap();
        std::fs::write(past.join(format!("0-{order}-1.output")), "").unwrap();
    }
    for order in 3..3 + STAYING {
        let path = sandboxes.join(format!("framework-9/past/0-{order}-1"));
        std::fs::create_dir_all(path).unwrap();
    }
}

/// An archive that is served over HTTP during the test.
struct ServedArchive;

impl ServedArchive {
    /// Returns several different chunks.
    fn content() -> Vec<u8> {
        let words = 0..(1_u32 << 18);
        words
            .flat_map(|word| word.wrapping_mul(0x9e37_79b9).to_le_bytes())
            .collect()
    }

    fn archive() -> Vec<u8> {
        let content = Self::content();
        let mut header = tar::Header::new_ustar();
        header.set_mode(0o644);
        header.set_size(content.len() as u64);
        let mut archive = tar::Builder::new(Vec::new());
        archive
            .append_data(&mut header, "content", &content[..])
            .unwrap();
        archive.into_inner().unwrap()
    }

    /// Returns the address at which it is served from now on.
    async fn serve() -> String {
        let archive = Self::archive();
        let answer = axum::routing::get(move || async move { archive.clone() });
        let router = axum::Router::new().route("/bundle.tar", answer);
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(async move { axum::serve(listener, router).await });
        format!("http://{address}/bundle.tar")
    }

    /// Checks that one file is cached, as it was served, and that no sandbox of its tasks contains
    /// a draft.
    fn expect_whole(host: &TestHost) {
        let kept = entries(&host.directory().join("cache"));
        let [kept] = &kept[..] else {
            panic!("one file is kept: {kept:?}")
        };
        let name = kept.file_name().unwrap().to_string_lossy();
        assert!(!name.starts_with('.'), "it is no draft: {name}");
        assert!(
            std::fs::read(kept).unwrap() == Self::archive(),
            "it is whole"
        );
        // Those of interrupted runs stay for a while, unchanged.
        let sandboxes = entries(host.sandbox("brief").parent().unwrap());
        let begun = |sandbox: &&PathBuf| sandbox.join("bundle/content").exists();
        let sandbox = sandboxes.iter().find(|path| path.join("stdout").exists());
        let sandbox = sandbox.filter(begun).expect("it had what it asked for");
        let draft = entries(sandbox).into_iter().find(|path| {
            let name = path.file_name().unwrap();
            name.as_encoded_bytes().starts_with(b".")
        });
        assert_eq!(draft, None);
    }
}

/// Returns the URI of a file on a server.
pub(super) async fn served(name: &str) -> v1::Uri {
    v1::Uri {
        value: ServedArchive::serve().await,
        output_file: name.to_owned(),
        ..v1::Uri::default()
    }
}

fn entries(directory: &Path) -> Vec<PathBuf> {
    let found = std::fs::read_dir(directory).unwrap();
    found.map(|entry| entry.unwrap().path()).collect()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Returns the unfinished files of the image store.
fn drafts(directory: &Path) -> Vec<String> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(directory).unwrap().flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        if name.starts_with(".draft-") || directory.ends_with("blobs") {
            found.push(name);
        } else if entry.file_type().unwrap().is_dir() && !directory.ends_with("layers") {
            found.extend(drafts(&entry.path()));
        }
    }
    found
}

/// Returns the orders of a leader, in sequence; the last is sent once the task runs.
fn orders(host: &TestHost, variant: TaskVariant, served: &str) -> Vec<Order> {
    let shell = |name: &str, line: &str| match variant {
        TaskVariant::Looped => with_disk(shell(name, line), 4),
        _ => shell(name, line),
    };
    let file = host.serve("file", "fetched\n");
    let mut brief = shell("brief", "cat file");
    brief.uris.push(v1::Uri {
        value: file.display().to_string(),
        ..v1::Uri::default()
    });
    let mut long = shell("long", "sleep 1000");
    variant.change(host, served, (&mut brief, &mut long));
    vec![
        launch(shell("held", "sleep 1000")),
        launch(brief),
        launch(long),
        kill("held", 0),
        kill("long", 1_000),
    ]
}

/// Returns the agent's cgroups, which are named after its directory.
pub(super) fn groups(host: &TestHost) -> PathBuf {
    let directory = std::fs::canonicalize(host.directory.path())
        .unwrap()
        .join("agent");
    let hash = Sha256::digest(directory.as_os_str().as_encoded_bytes());
    let digits = hex(&hash[..6]);
    let parent = cgroup::default_parent().unwrap();
    parent.join("argosy").join(format!("agent-{digits}"))
}

/// Returns all resources of this host's agent but its files.
pub(super) fn audit(host: &TestHost) -> LeakAudit {
    LeakAudit::begin(AuditScope {
        directories: vec![host.directory.path().to_owned()],
        groups: vec![groups(host)],
        ..AuditScope::default()
    })
}

/// One run of an agent, as its leader sees it, until the agent has exited or all tasks have ended.
struct AgentRun<'a> {
    orders: &'a [Order],
    ended: &'a mut BTreeSet<String>,
    /// If true, an order is sent only after the previous one has taken effect.
    is_serial: bool,
}

impl AgentRun<'_> {
    async fn lead(&mut self, master: &mut Master) {
        let Some((mut link, hello)) = master.try_link().await else {
            return;
        };
        link.may_hang_up = true;
        link.register(&hello, false).await;
        let mut sent = hello.floor as usize;
        let mut long_is_up = false;
        loop {
            while sent < self.orders.len() && self.may_send(sent, long_is_up) {
                let order = self.orders[sent].clone();
                sent += 1;
                link.order(sent as u64, order).await;
            }
            if self.ended.len() == TASKS.len() {
                break;
            }
            let Some(message) = link.try_next().await else {
                return;
            };
            let Message::Report(report) = message else {
                continue;
            };
            note(&report, self.ended);
            let mut of_long = report.updates.iter().filter(|one| one.task_id == "long");
            long_is_up |= of_long.any(|update| runs(update) || is_terminal(update));
            link.take(report).await;
        }
        // Work after the end of its tasks is independent of the leader; its heartbeats are answered
        // until then.
        while link.try_next().await.is_some() {}
    }

    /// Returns whether the order with this index in [`orders`] may be sent now.
    fn may_send(&self, index: usize, long_is_up: bool) -> bool {
        match (index, self.is_serial) {
            (LAST, false) => long_is_up,
            (_, false) => true,
            (2, true) => self.ended.contains("brief"),
            (3, true) => long_is_up,
            (LAST, true) => long_is_up && self.ended.contains("held"),
            (_, true) => true,
        }
    }
}

/// Checks that each task has the end that it would have had without the crash.
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

async fn crash_at(step: &str, at: u32, variant: TaskVariant, divided: bool) {
    let (host, mut master) = (TestHost::new(), Master::start().await);
    if !variant.prepare(&host) {
        return skip("needs the package busybox-static");
    }
    let audit = audit(&host);
    let orders = orders(&host, variant, &ServedArchive::serve().await);
    let first = match divided {
        true => host.divided(master.address),
        false => host.process(master.address),
    };
    let (mut link, _) = master.registered(true).await;
    link.order(1, orders[0].clone()).await;
    link.until("held", runs).await;
    drop(first);
    drop(link);
    // Prepared again: the first run may have removed files.
    variant.prepare(&host);
    if OF_DISPOSAL.contains(&step) {
        host.keeps_no_output();
    }

    let mut ended = BTreeSet::new();
    let witness = host.directory.path().join("witness");
    let crash_args = [step, &at.to_string(), &witness.display().to_string()];
    let mut crashing = match divided {
        true => host.divided_that_crashes(master.address, &crash_args),
        false => host.crashing(master.address, &crash_args),
    };
    let mut epoch_record = AgentRun {
        orders: &orders,
        ended: &mut ended,
        // The journal writes events of one moment in one pass, so that the number of its passes
        // depends on time if several orders take effect at once.
        is_serial: step.starts_with("journal."),
    };
    tokio::select! {
        () = crashing.exited() => {}
        () = epoch_record.lead(&mut master) => await_crash(&mut crashing, step, at).await,
    }
    let passes = crash_points::passes(&witness).unwrap_or(0);
    assert!(
        passes >= at,
        "the agent has passed {step} {passes} times, not {at}"
    );
    drop(crashing);
    let next = match divided {
        true => AnyAgent::Brokered(host.divided(master.address)),
        false => AnyAgent::InProcess(host.agent(master.address).await),
    };
    clear(next, (&host, variant), &mut master, &orders, &mut ended).await;
    variant.expect_nothing_left(&host);
    audit.expect_nothing_left(&format!(
        "after the crash of the agent at {step}, pass {at}"
    ));
}

/// Waits for the crash after the last message.
async fn await_crash(crashing: &mut AgentProcess, step: &str, at: u32) {
    let ended = tokio::time::timeout(crate::master::TIMEOUT, crashing.exited()).await;
    assert!(ended.is_ok(), "the agent has not come to {step}, pass {at}");
}

/// Starts the next run, until all tasks have ended.
async fn clear(
    agent: AnyAgent,
    (host, variant): (&TestHost, TaskVariant),
    master: &mut Master,
    orders: &[Order],
    ended: &mut BTreeSet<String>,
) {
    // The crashed agent may have left a stream, with or without a hello.
    let (mut link, held) = loop {
        let Some((mut link, hello)) = master.try_link().await else {
            continue;
        };
        link.may_hang_up = true;
        link.register(&hello, false).await;
        for index in hello.floor + 1..=orders.len() as u64 {
            link.order(index, orders[index as usize - 1].clone()).await;
        }
        if let Some(held) = held_at_the_end(&mut link, ended).await {
            break (link, held);
        }
    };
    link.commits_updates = false;
    for held in held.tasks {
        link.kill_stray(&held.task_id, held.order_index).await;
    }
    agent.is_clear().await;
    variant.is_over(host).await;
    agent.stop().await;
}

/// Returns the agent's list once all tasks have ended; `None` if the link is that of the crashed
/// agent.
async fn held_at_the_end(
    link: &mut AgentStream,
    ended: &mut BTreeSet<String>,
) -> Option<v1::TaskList> {
    while ended.len() < TASKS.len() {
        if let Message::Report(report) = link.try_next().await? {
            note(&report, ended);
            link.take(report).await;
        }
    }
    link.try_list().await
}

/// Crashes at these steps, one after the other.
async fn crash_at_each(steps: impl Iterator<Item = &'static str>) {
    if !crash_points::IS_ON {
        return skip("this build has no crash points");
    }
    if !nix::unistd::geteuid().is_root() {
        return skip("needs root");
    }
    let begun = Instant::now();
    let mut lives = 0;
    for step in steps {
        let passes = match step {
            "journal.appended" | "journal.synced" => PASSES_OF_JOURNAL,
            // With a part of the file on disk.
            "fetch.chunk-written" => 2..=2,
            _ => 1..=1,
        };
        for at in passes {
            // Printed in case a wait below fails.
            eprintln!(
                "a crash at {step}, pass {at}, after {} ms",
                begun.elapsed().as_millis()
            );
            crash_at(step, at, TaskVariant::of(step), false).await;
            lives += 1;
        }
    }
    print!("{lives} crashes, ");
}

/// Returns all steps of an agent but those of a compaction.
fn own_steps() -> impl Iterator<Item = &'static str> {
    let steps = STEPS.iter().copied();
    steps.filter(|step| !compaction::STEPS.contains(step))
}

pub(super) async fn every_step_can_be_the_last_of_an_agent() {
    crash_at_each(own_steps().filter(|step| !TaskVariant::of(step).is_of_files())).await;
}

pub(super) async fn an_agent_may_crash_at_any_step_of_fetching_and_of_removing_sandboxes() {
    let of_files = own_steps().filter(|step| TaskVariant::of(step).is_of_files());
    crash_at_each(of_files.chain(OF_DISPOSAL)).await;
}

pub(super) async fn an_agent_may_crash_at_any_step_of_creating_file_systems() {
    if !crash_points::IS_ON {
        return skip("this build has no crash points");
    }
    if let Some(why) = impossible() {
        return skip(&why);
    }
    for step in OF_FILE_SYSTEMS {
        eprintln!("a crash at {step}");
        crash_at(step, 1, TaskVariant::Looped, false).await;
    }
    print!("{} crashes, ", OF_FILE_SYSTEMS.len());
}

pub(super) async fn an_unprivileged_agent_or_its_broker_may_crash_at_any_step() {
    if !crash_points::IS_ON {
        return skip("this build has no crash points");
    }
    if !nix::unistd::geteuid().is_root() {
        return skip("needs root");
    }
    for step in OF_DIVIDED {
        eprintln!("a crash at {step} of an agent that is not root, or of its broker");
        crash_at(step, 1, TaskVariant::of(step), true).await;
    }
    print!("{} crashes, ", OF_DIVIDED.len());
}
