//! Rows about full disks of a master and of an agent.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use argosy_proto::v1;
use futures::FutureExt;
use futures::future::LocalBoxFuture;
use nix::mount::{MntFlags, MsFlags, mount, umount2};

use super::environment::BadInputCluster;
use super::row::{RowEnd, RowOutcome};
use crate::cluster::{TestMember, clear_agent, sleepers, sleeping, wait_until, write};
use crate::test_framework::{ReceivedEvents, TestFramework, task};

const LONG: Duration = Duration::from_secs(60);

/// A file system in memory, with space for 64 MiB in 300 files, which is unmounted on drop.
struct SmallDisk(PathBuf);

impl SmallDisk {
    /// Mounts it, empty, at `directory`.
    fn at(directory: &Path) -> Self {
        std::fs::create_dir_all(directory).expect("a directory can be made");
        let room = Some("size=64m,nr_inodes=300");
        let mounted = mount(
            Some("tmpfs"),
            directory,
            Some("tmpfs"),
            MsFlags::empty(),
            room,
        );
        mounted.expect("root may mount");
        Self(directory.to_owned())
    }

    /// Mounts it in place of `directory`, with its content.
    fn under(directory: &Path) -> Self {
        let kept = directory.with_extension("kept");
        std::fs::rename(directory, &kept).expect("it is there");
        let disk = Self::at(directory);
        let mut copy = Command::new("cp");
        let copied = copy.arg("-a").arg(kept.join(".")).arg(directory).status();
        assert!(copied.expect("cp is installed").success());
        disk
    }

    fn filler(&self) -> PathBuf {
        self.0.join("filler")
    }

    /// Uses all free space, also what has become free since the last time: the store returns space
    /// that it had reserved.
    fn fill(&self) {
        let of = format!("of={}", self.filler().display());
        // It ends with an error, which is intended.
        let _ = Command::new("dd")
            .args(["if=/dev/zero", "bs=4k", "oflag=append", "conv=notrunc"])
            .arg(&of)
            .output();
    }

    /// Frees the space.
    fn empty(&self) {
        std::fs::remove_file(self.filler()).expect("it is there");
    }

    /// Uses every inode. Existing files may still grow.
    fn fill_with_files(&self) {
        let directory = self.0.join("files");
        std::fs::create_dir_all(&directory).expect("there is room");
        let made = (0..).map(|number| std::fs::File::create(directory.join(format!("{number}"))));
        let full = made.take(1_000).find_map(Result::err);
        assert!(full.is_some(), "there is room for 1,000 files");
    }

    /// Sets the number of files that may be created from now on.
    fn have_files(&self, most: u32) {
        let room = format!("size=64m,nr_inodes={most}");
        let nothing: Option<&str> = None;
        let remounted = mount(nothing, &self.0, nothing, MsFlags::MS_REMOUNT, Some(&*room));
        remounted.expect("root may mount");
    }

    fn empty_of_files(&self) {
        std::fs::remove_dir_all(self.0.join("files")).expect("it is there");
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = umount2(&self.0, MntFlags::MNT_DETACH);
    }
}

/// The master stops at the write that fails. Acknowledged writes are on the others, and here after
/// its restart.
pub(super) fn masters_disk(fixture: &mut BadInputCluster) -> LocalBoxFuture<'_, RowOutcome> {
    async move {
        let victim = fixture.cluster.leader().await;
        fixture.cluster.masters[victim].kill();
        let directory = fixture.directory(&fixture.cluster.masters[victim].name);
        let disk = SmallDisk::under(&directory);
        fixture.cluster.masters[victim].start();
        fixture.cluster.wait_caught_up().await;
        let operator = fixture.cluster.operator();
        let mut number = 0;
        let ended = wait_until("the master has stopped", LONG, async || {
            number += 1;
            disk.fill();
            write(&operator, "y".repeat(2_000) + &number.to_string()).await;
            fixture.cluster.masters[victim].ended()
        })
        .await;
        let message = fixture.cluster.masters[victim].log();
        disk.empty();
        fixture.cluster.masters[victim].kill();
        fixture.cluster.masters[victim].start();
        fixture.cluster.wait_caught_up().await;
        wait_until("a write is answered", LONG, async || {
            write(&operator, "kept".to_owned()).await
        })
        .await;
        // On its own disk again, with what it has learned on the small one.
        fixture.cluster.masters[victim].kill();
        let kept = directory.with_extension("small");
        let copied = Command::new("cp")
            .arg("-a")
            .args([&directory, &kept])
            .status();
        assert!(copied.expect("cp is installed").success());
        drop(disk);
        std::fs::remove_dir(&directory).expect("it is empty below the disk");
        std::fs::rename(&kept, &directory).expect("it is there");
        fixture.cluster.masters[victim].start();
        fixture.cluster.wait_caught_up().await;
        fixture.count_processes();
        outcome(fixture, ended, message)
    }
    .boxed_local()
}

/// The master does not start. With free space it does, with its former data.
pub(super) fn disk_at_start(fixture: &mut BadInputCluster) -> LocalBoxFuture<'_, RowOutcome> {
    async move {
        let directory = fixture.directory("full-start");
        let whole = [fixture.directory("other"), directory.clone()];
        let copied = Command::new("cp").arg("-a").args(whole).status();
        assert!(copied.expect("cp is installed").success());
        let disk = SmallDisk::under(&directory);
        disk.fill();
        let mut master = fixture.master_of_another_cluster("full-start");
        master.start();
        let ended = wait_until("it has ended", LONG, async || master.ended()).await;
        let message = master.log();
        disk.empty();
        master.kill();
        master.start();
        fixture.other_cluster_is_ready().await;
        outcome(fixture, ended, message)
    }
    .boxed_local()
}

fn outcome(
    fixture: &BadInputCluster,
    ended: std::process::ExitStatus,
    reported: String,
) -> RowOutcome {
    RowOutcome {
        end: ended.code().map_or(RowEnd::Aborted, RowEnd::Exit),
        message: reported,
        addresses: fixture.addresses(),
    }
}

/// An agent on a small disk, with a framework that uses only this agent.
struct SmallDiskAgent {
    disk: SmallDisk,
    agent: TestMember,
    framework: TestFramework,
}

impl SmallDiskAgent {
    async fn start(fixture: &BadInputCluster, name: &str) -> Self {
        let disk = SmallDisk::at(&fixture.directory(name));
        let masters = fixture.cluster.masters_list();
        let mut agent = fixture.agent(name, fixture.free_host(), &masters.to_string());
        agent.start();
        let framework = TestFramework::start(masters, name).await;
        framework.hold_offers(true);
        Self {
            disk,
            agent,
            framework,
        }
    }

    /// Launches a task there. Returns `None` if this agent makes no offer within a second, or the
    /// offer is withdrawn. Otherwise the launch is acknowledged.
    async fn launch(&self, spec: v1::TaskSpec) -> Option<()> {
        let deadline = tokio::time::Instant::now() + Duration::from_secs(1);
        loop {
            let offer = self.offer();
            if let Some(offer) = offer {
                let call = self.framework.driver.accept(&offer, vec![spec]);
                return call.answer().await.not_launched().is_empty().then_some(());
            }
            if tokio::time::Instant::now() > deadline {
                return None;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Returns an offer of this agent, which has more processors than any other.
    fn offer(&self) -> Option<v1::Offer> {
        let mut events = self.framework.events.lock().unwrap();
        let large = |one: &v1::Resource| {
            let large = |milli: i64| one.name == "cpus" && milli > 9_000;
            matches!(one.value, Some(v1::resource::Value::ScalarMilli(milli)) if large(milli))
        };
        let mut offers = events.offers.values();
        let offer = offers.find(|offer| offer.resources.iter().any(large))?;
        let id = offer.offer_id.clone();
        events.offers.remove(&id)
    }

    async fn wait_for_state(&self, task: &str, state: v1::TaskState) -> v1::TaskStatus {
        let found = |events: &ReceivedEvents| {
            let mut updates = events.updates.iter();
            let found = updates.find(|one| one.task_id == task && one.state() == state);
            found.cloned()
        };
        let what = format!("{task} is {state:?}");
        self.framework.wait_for_event(&what, LONG, found).await
    }

    /// Ends its tasks and the agent, and removes all that it created.
    async fn end(mut self, fixture: &BadInputCluster) {
        drop(self.framework.driver.teardown());
        let address = format!("{}:5051", self.agent.address);
        wait_until("its tasks have ended", LONG, async || {
            let operator = fixture.cluster.operator();
            let page = operator
                .list_agents(v1::ListRequest::default())
                .await
                .ok()?;
            let own = |agent: &&v1::Agent| {
                let info = agent.info.as_ref();
                info.is_some_and(|info| info.address == address)
            };
            let agent = page.agents.iter().find(own)?;
            (agent.live_tasks == 0).then_some(())
        })
        .await;
        self.agent.kill();
        clear_agent(&self.disk.0);
    }
}

/// A task without space for its sandbox becomes FAILED with a message. The agent continues, and
/// with free space the next task runs.
pub(super) fn sandbox_disk(fixture: &mut BadInputCluster) -> LocalBoxFuture<'_, RowOutcome> {
    async move {
        let small = SmallDiskAgent::start(fixture, "full-sandbox").await;
        launched(&small, task("before", "true")).await;
        small
            .wait_for_state("before", v1::TaskState::Finished)
            .await;
        small.disk.fill_with_files();
        launched(&small, task("small", "true")).await;
        let failed = small.wait_for_state("small", v1::TaskState::Failed).await;
        small.disk.empty_of_files();
        launched(&small, task("after", "true")).await;
        small.wait_for_state("after", v1::TaskState::Finished).await;
        small.end(fixture).await;
        RowOutcome {
            end: RowEnd::State(failed.state()),
            message: failed.message,
            addresses: fixture.addresses(),
        }
    }
    .boxed_local()
}

async fn launched(small: &SmallDiskAgent, spec: v1::TaskSpec) {
    let name = spec.task_id.clone();
    wait_until(&format!("{name} is launched"), LONG, async || {
        let known = small.framework.events.lock().unwrap().states(&name);
        if !known.is_empty() {
            return Some(());
        }
        small.launch(spec.clone()).await
    })
    .await;
}

/// An agent whose journal cannot grow continues. New tasks fail with the reason, running tasks
/// continue and can be killed, also by an agent that was started on the full disk. With free space,
/// tasks start again.
pub(super) fn agents_disk(fixture: &mut BadInputCluster) -> LocalBoxFuture<'_, RowOutcome> {
    async move {
        let mut small = SmallDiskAgent::start(fixture, "full-agent").await;
        let mark = format!("99{}.25", std::process::id());
        for name in ["survivor", "first", "second"] {
            // With this disk request it is not evicted.
            let mut spec = task(name, &format!("exec sleep {mark}"));
            spec.resources = argosy_client::resources::resources("cpus:0.1;mem:16;disk:4")
                .expect("these are resources");
            launched(&small, spec).await;
            small.wait_for_state(name, v1::TaskState::Running).await;
        }
        let sleeper = sleeping(&mark, 3).await;
        small.disk.have_files(10_000);
        small.disk.fill();
        let mut number = 0;
        wait_until("the agent reports a full disk", LONG, async || {
            // Large, so that soon only the space for kills and ends remains.
            let mut spec = task(&format!("full-{number}"), "true");
            spec.environment.insert("V".to_owned(), "x".repeat(50_000));
            number += 1;
            small.launch(spec).await;
            let events = small.framework.events.lock().unwrap();
            let mut updates = events.updates.iter();
            let is_refused = |one: &v1::TaskStatus| {
                one.task_id.starts_with("full-")
                    && one.message.contains("the disk of this agent is full")
            };
            updates.any(is_refused).then_some(())
        })
        .await;
        assert_eq!(sleepers(&mark), sleeper, "what runs runs on");
        drop(small.framework.driver.kill("first", Some(0)));
        small.wait_for_state("first", v1::TaskState::Killed).await;
        let reported = small.agent.log();
        small.agent.kill();
        small.agent.start();
        drop(small.framework.driver.kill("second", Some(0)));
        small.wait_for_state("second", v1::TaskState::Killed).await;
        let left: Vec<_> = sleepers(&mark);
        assert!(
            left.len() == 1 && sleeper.contains(&left[0]),
            "{left:?} of {sleeper:?}"
        );
        assert!(small.agent.ended().is_none(), "the agent runs");
        small.disk.empty();
        wait_until("the agent reports that there is space", LONG, async || {
            let reported = small.agent.log();
            reported.contains("the disk has space again").then_some(())
        })
        .await;
        launched(&small, task("after", "true")).await;
        small.wait_for_state("after", v1::TaskState::Finished).await;
        small.end(fixture).await;
        RowOutcome {
            end: RowEnd::Retries,
            message: reported,
            addresses: fixture.addresses(),
        }
    }
    .boxed_local()
}
