//! Tests of agents that stop, are killed, and restart.

use std::io::Write as _;
use std::path::Path;
use std::time::Duration;

use argosy_agent::RunError;
use argosy_proto::v1;

use super::crashes::audit;
use super::{code, runs, state};
use crate::host::TestHost;
use crate::master::{AgentStream, FRAMEWORK, Master, is_terminal, shell};
use crate::running::{Agent, AgentProcess, content};

super::cases!("lives":
    a_task_survives_an_agent_restart_and_is_adopted_with_the_same_pid,
    an_exit_while_the_agent_is_down_is_reported_with_its_status,
    an_older_release_rejects_a_newer_journal_and_tasks_continue,
    an_upgraded_agent_adopts_tasks_from_a_journal_of_the_previous_format,
    the_executable_can_be_replaced_while_tasks_run,
    a_damaged_journal_record_fails_only_its_task,
    a_damaged_record_of_the_newest_launch_causes_no_second_start,
    a_journal_without_an_identity_prevents_the_start_and_ends_no_task,
    a_container_that_is_unresponsive_at_first_is_adopted_later,
    a_second_agent_on_the_same_directory_is_rejected_with_the_pid_of_the_first,
    an_agent_can_be_stopped_with_its_tasks,
    an_agent_killed_during_launches_starts_each_task_once,
);

/// After this time the state of the agent is printed.
const LONG: Duration = Duration::from_secs(10);
/// The counter of damaged parts of a journal.
const DAMAGES: &str = "argosy_agent_journal_corruptions_total";

pub(super) async fn a_task_survives_an_agent_restart_and_is_adopted_with_the_same_pid() {
    let (host, mut master) = (TestHost::new(), Master::start().await);
    let agent = host.agent(master.address).await;
    let (mut link, _) = master.registered(true).await;
    link.launch(
        1,
        shell(
            "t",
            "echo begun >> begun; until [ -e go ]; do sleep 0.01; done; exit 3",
        ),
    )
    .await;
    link.until("t", runs).await;
    content(&host.sandbox("t").join("begun")).await;
    let pid = agent.containers().await[0]["pid"].clone();
    agent.stop().await;
    let agent = host.agent(master.address).await;
    let (mut link, hello) = master.registered(true).await;
    let key = argosy_state::ids::TaskKey {
        framework: FRAMEWORK.parse().unwrap(),
        task: argosy_state::ids::TaskId::new("t").unwrap(),
    };
    let mark =
        |number| argosy_state::digest::task_mark(&key, argosy_state::ids::OrderIndex(1), number);
    let reported: [u8; 16] = hello.digest.try_into().unwrap();
    let reported = u128::from_be_bytes(reported);
    assert!(
        [mark(0), mark(1)].contains(&reported),
        "the digest is that of this task"
    );
    assert_eq!(hello.floor, 1);
    // The same order again is a repeat.
    link.launch(1, shell("t", "exit 1")).await;
    let again = agent.containers().await;
    assert_eq!(again[0]["pid"], pid);
    std::fs::write(host.sandbox("t").join("go"), "").unwrap();
    let updates = link.end_of("t").await;
    assert_eq!(code(updates.last().unwrap()), Some(v1::exit::How::Code(3)));
    assert_eq!(
        content(&host.sandbox("t").join("begun")).await,
        "begun\n",
        "it ran once"
    );
    agent.is_clear().await;
    agent.stop().await;
}

pub(super) async fn an_exit_while_the_agent_is_down_is_reported_with_its_status() {
    let (host, mut master) = (TestHost::new(), Master::start().await);
    let agent = host.agent(master.address).await;
    let (mut link, _) = master.registered(true).await;
    link.launch(
        1,
        shell(
            "t",
            "until [ -e go ]; do sleep 0.01; done; echo done > done; exit 9",
        ),
    )
    .await;
    link.until("t", runs).await;
    agent.stop().await;
    std::fs::write(host.sandbox("t").join("go"), "").unwrap();
    content(&host.sandbox("t").join("done")).await;
    let agent = host.agent(master.address).await;
    let (mut link, _) = master.registered(true).await;
    let updates = link.end_of("t").await;
    let last = updates.last().unwrap();
    assert_eq!(
        (state(last), code(last)),
        (v1::TaskState::Failed, Some(v1::exit::How::Code(9)))
    );
    agent.is_clear().await;
    agent.stop().await;
}

/// Changes the format of a stopped agent's intact journal.
fn set_format(host: &TestHost, format: u32) {
    let path = host.directory().join("journal");
    let mut bytes = std::fs::read(&path).unwrap();
    bytes[8..12].copy_from_slice(&format.to_le_bytes());
    let sum = crc_fast::checksum(crc_fast::CrcAlgorithm::Crc32Iscsi, &bytes[..20]);
    bytes[20..24].copy_from_slice(&u32::try_from(sum).unwrap().to_le_bytes());
    std::fs::write(&path, bytes).unwrap();
}

fn format(host: &TestHost) -> u32 {
    let bytes = std::fs::read(host.directory().join("journal")).unwrap();
    u32::from_le_bytes(bytes[8..12].try_into().unwrap())
}

/// Waits for the file `go`, then exits with 3.
const WAITS: &str = "until [ -e go ]; do sleep 0.01; done; exit 3";

/// Returns a host on which the task `t` continues to run, with this process id, after its agent has
/// stopped.
async fn leave_running() -> (TestHost, Master, serde_json::Value) {
    let (host, mut master) = (TestHost::new(), Master::start().await);
    let agent = host.agent(master.address).await;
    let (mut link, _) = master.registered(true).await;
    link.launch(1, shell("t", WAITS)).await;
    link.until("t", runs).await;
    let pid = agent.containers().await[0]["pid"].clone();
    agent.stop().await;
    (host, master, pid)
}

/// Checks that the next agent adopts the task `t`, and ends it.
async fn is_adopted(host: &TestHost, master: &mut Master, pid: &serde_json::Value) {
    let agent = host.agent(master.address).await;
    let (mut link, _) = master.registered(true).await;
    assert_eq!(&agent.containers().await[0]["pid"], pid);
    ends(host, agent, &mut link).await;
}

/// Ends the task `t`, and checks that nothing of it is left.
async fn ends(host: &TestHost, agent: Agent, link: &mut AgentStream) {
    std::fs::write(host.sandbox("t").join("go"), "").unwrap();
    let updates = link.end_of("t").await;
    assert_eq!(code(updates.last().unwrap()), Some(v1::exit::How::Code(3)));
    agent.is_clear().await;
    agent.stop().await;
}

pub(super) async fn an_older_release_rejects_a_newer_journal_and_tasks_continue() {
    let (host, mut master, pid) = leave_running().await;
    let own = format(&host);
    set_format(&host, own + 1);
    let journal = host.directory().join("journal");
    let before = std::fs::read(&journal).unwrap();
    let error = host.agent(master.address).await.ended().await.unwrap_err();
    assert!(matches!(error, RunError::Journal(_)), "{error}");
    let words = error.to_string();
    assert!(words.contains("start the newer release again"), "{words}");
    assert_eq!(std::fs::read(&journal).unwrap(), before);
    // Upgraded again: this release is the newer one.
    set_format(&host, own);
    is_adopted(&host, &mut master, &pid).await;
}

pub(super) async fn an_upgraded_agent_adopts_tasks_from_a_journal_of_the_previous_format() {
    let (host, mut master, pid) = leave_running().await;
    let own = format(&host);
    set_format(&host, own - 1);
    is_adopted(&host, &mut master, &pid).await;
    assert_eq!(format(&host), own);
}

/// Replaces the executable by another copy of this program, as an upgrade does: the running one is
/// unlinked.
fn upgrade(executable: &Path) {
    let next = executable.with_extension("next");
    std::fs::copy("/proc/self/exe", &next).unwrap();
    let mut file = std::fs::OpenOptions::new()
        .append(true)
        .open(&next)
        .unwrap();
    // After the program's end, where it has no effect: a different file with the same function.
    file.write_all(b"the next release").unwrap();
    drop(file);
    std::fs::rename(&next, executable).unwrap();
}

pub(super) async fn the_executable_can_be_replaced_while_tasks_run() {
    let (host, mut master) = (TestHost::new(), Master::start().await);
    let executable = host.directory.path().join("argosy");
    std::fs::copy("/proc/self/exe", &executable).unwrap();
    let agent = host.process_of(&executable, master.address, &[]);
    let (mut link, _) = master.registered(true).await;
    link.launch(1, shell("first", WAITS)).await;
    link.until("first", runs).await;
    upgrade(&executable);
    // The former agent continues, with its launcher and supervisors.
    link.launch(2, shell("second", WAITS)).await;
    link.until("second", runs).await;
    let pids = |containers: Vec<serde_json::Value>| {
        let pids = containers.iter().map(|container| container["pid"].clone());
        pids.collect::<Vec<_>>()
    };
    let before = pids(agent.containers().await);
    drop(agent);
    let agent = host.process_of(&executable, master.address, &[]);
    let (mut link, _) = master.registered(true).await;
    link.launch(3, shell("third", WAITS)).await;
    link.until("third", runs).await;
    let now = pids(agent.containers().await);
    assert_eq!((before.len(), &now[..2]), (2, &before[..]));
    for task in ["first", "second", "third"] {
        std::fs::write(host.sandbox(task).join("go"), "").unwrap();
        let updates = link.end_of(task).await;
        assert_eq!(code(updates.last().unwrap()), Some(v1::exit::How::Code(3)));
    }
    agent.is_clear().await;
}

pub(super) async fn a_damaged_journal_record_fails_only_its_task() {
    damaged_launch_costs_its_task_alone(["before", "damaged", "behind"]).await;
}

pub(super) async fn a_damaged_record_of_the_newest_launch_causes_no_second_start() {
    damaged_launch_costs_its_task_alone(["before", "between", "damaged"]).await;
}

/// Launches these tasks, damages the launch of the one named "damaged", and checks the effects on
/// all.
async fn damaged_launch_costs_its_task_alone(tasks: [&str; 3]) {
    let (host, mut master) = (TestHost::new(), Master::start().await);
    let audit = audit(&host);
    let agent = host.agent(master.address).await;
    let (mut link, _) = master.registered(true).await;
    for (order, task) in (1..).zip(tasks) {
        link.launch(order, shell(task, WAITS)).await;
        link.until(task, runs).await;
    }
    let listed = |containers: Vec<serde_json::Value>| {
        let listed = containers.iter().map(|container| {
            let task = container["task_id"].as_str().unwrap().to_owned();
            (task, container["pid"].as_i64().unwrap())
        });
        listed.collect::<std::collections::BTreeMap<_, _>>()
    };
    let mut expected = listed(agent.containers().await);
    let damages = agent.counted(DAMAGES).await;
    agent.stop().await;
    let journal = host.directory().join("journal");
    let mut bytes = std::fs::read(&journal).unwrap();
    // Its launch, in which it is named first.
    let at = bytes.windows(7).position(|part| part == b"damaged");
    bytes[at.unwrap()] ^= 0x20;
    std::fs::write(&journal, bytes).unwrap();
    let agent = host.agent(master.address).await;
    let (mut link, hello) = master.registered(true).await;
    assert_eq!(hello.floor, 3, "what came behind it is known");
    assert_eq!(
        agent.counted(DAMAGES).await,
        damages + 1,
        "which is reported"
    );
    let lost = expected.remove("damaged").unwrap();
    assert_eq!(listed(agent.containers().await), expected);
    // Its purpose is unknown: it is ended, and a master that misses it reports that to its
    // framework.
    super::exec::until("it is ended", || {
        !Path::new(&format!("/proc/{lost}")).exists()
    })
    .await;
    // A master that does not know which orders were taken sends them again.
    for (order, task) in (1..).zip(tasks) {
        link.launch(order, shell(task, WAITS)).await;
    }
    assert_eq!(listed(agent.containers().await), expected);
    for task in tasks.into_iter().filter(|task| *task != "damaged") {
        std::fs::write(host.sandbox(task).join("go"), "").unwrap();
        let updates = link.end_of(task).await;
        assert_eq!(code(updates.last().unwrap()), Some(v1::exit::How::Code(3)));
    }
    assert_eq!(host.sandboxes("damaged").len(), 1, "it was started once");
    agent.is_clear().await;
    agent.stop().await;
    audit.expect_nothing_left("after the damage");
}

pub(super) async fn a_journal_without_an_identity_prevents_the_start_and_ends_no_task() {
    let (host, mut master, pid) = leave_running().await;
    let journal = host.directory().join("journal");
    let whole = std::fs::read(&journal).unwrap();
    // A journal of format 1 has the identity once, in the record after its head.
    let mut damaged = include_bytes!("../../format-1.journal").to_vec();
    damaged[24 + 12] ^= 1;
    std::fs::write(&journal, &damaged).unwrap();
    let error = host.agent(master.address).await.ended().await.unwrap_err();
    let error = error.to_string();
    assert!(error.contains("nothing was changed or ended"), "{error}");
    assert_eq!(std::fs::read(&journal).unwrap(), damaged);
    // Restored, the agent knows all tasks again.
    std::fs::write(&journal, whole).unwrap();
    is_adopted(&host, &mut master, &pid).await;
}

pub(super) async fn a_container_that_is_unresponsive_at_first_is_adopted_later() {
    let (host, mut master, pid) = leave_running().await;
    let dir = host.directory().join("containers/1-1-1");
    let (handle, kept) = (dir.join("handle.json"), dir.join("kept"));
    // A directory is as unreadable as a file on a failing disk.
    std::fs::rename(&handle, &kept).unwrap();
    std::fs::create_dir(&handle).unwrap();
    let agent = host.agent(master.address).await;
    // Other tasks must not wait for it.
    let (mut link, _) = master.registered(true).await;
    let shown = agent.containers().await;
    assert_eq!(shown[0]["state"], "unknown", "{shown:?}");
    link.launch(2, shell("other", "true")).await;
    link.end_of("other").await;
    std::fs::remove_dir(&handle).unwrap();
    std::fs::rename(&kept, &handle).unwrap();
    let adopted = async {
        loop {
            let shown = agent.containers().await;
            let own = shown.iter().find(|container| container["task_id"] == "t");
            let own = own.expect("it is not given up");
            if own["state"] == "running" {
                return own["pid"].clone();
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    assert_eq!(link.answer_during(adopted).await, pid);
    ends(&host, agent, &mut link).await;
}

pub(super) async fn a_second_agent_on_the_same_directory_is_rejected_with_the_pid_of_the_first() {
    let (host, mut master) = (TestHost::new(), Master::start().await);
    let agent = host.agent(master.address).await;
    let (_link, _) = master.registered(true).await;
    let error = host.agent(master.address).await.ended().await.unwrap_err();
    assert!(matches!(error, RunError::Lock(_)), "{error}");
    assert!(
        error.to_string().contains(&std::process::id().to_string()),
        "{error}"
    );
    agent.stop().await;
}

pub(super) async fn an_agent_can_be_stopped_with_its_tasks() {
    let (host, mut master) = (TestHost::new(), Master::start().await);
    let agent = host.agent(master.address).await;
    let (mut link, _) = master.registered(true).await;
    link.launch(1, shell("t", "sleep 60")).await;
    link.until("t", runs).await;
    agent.end_tasks.cancel();
    let updates = link.end_of("t").await;
    assert_eq!(state(updates.last().unwrap()), v1::TaskState::Killed);
    agent.ended().await.unwrap();
}

/// Returns the next updates; prints the agent's state if they take long.
async fn news(link: &mut AgentStream, agent: &AgentProcess) -> Vec<v1::NumberedUpdate> {
    let mut news = std::pin::pin!(link.news());
    match tokio::time::timeout(LONG, &mut news).await {
        Ok(news) => news,
        Err(_) => {
            eprintln!("nothing has come for {LONG:?}\n{}", agent.list_leftovers());
            news.await
        }
    }
}

pub(super) async fn an_agent_killed_during_launches_starts_each_task_once() {
    const TASKS: u64 = 400;
    let (host, mut master) = (TestHost::new(), Master::start().await);
    let witness = host.shared().join("witness");
    let spec = |order: u64| {
        let mut task = shell(
            &format!("t-{order}"),
            &format!("echo {order} >> shared/witness"),
        );
        task.host_paths.push(argosy_proto::v1::HostPath {
            host_path: host.shared().display().to_string(),
            container_path: "shared".to_owned(),
            read_only: false,
        });
        task
    };
    let (mut lives, mut ended) = (0, std::collections::BTreeMap::new());
    while ended.len() < TASKS as usize {
        let agent = host.process(master.address);
        let (mut link, hello) = master.registered(false).await;
        // Like a leader: orders after the last one taken are sent again.
        for order in hello.floor + 1..=TASKS {
            link.launch(order, spec(order)).await;
        }
        // A few ends later the agent is killed; the last run may continue to the end. On a slow
        // disk a run begins with the ends of hundreds of tasks, so that fewer than a few may be
        // left.
        let few = if lives < 4 { 40 } else { TASKS as usize };
        let until = (ended.len() + few).min(TASKS as usize);
        while ended.len() < until {
            for update in news(&mut link, &agent).await {
                if is_terminal(&update) {
                    let former = ended.insert(update.task_id.clone(), update.clone());
                    let same = former.is_none_or(|former| former.number == update.number);
                    assert!(same, "two ends of {}", update.task_id);
                }
            }
        }
        drop(agent);
        lives += 1;
    }
    let text = content(&witness).await;
    let mut lines: Vec<u64> = text.lines().map(|line| line.parse().unwrap()).collect();
    lines.sort_unstable();
    assert_eq!(
        lines,
        (1..=TASKS).collect::<Vec<_>>(),
        "each task ran exactly once"
    );
    let finished = |update: &v1::NumberedUpdate| state(update) == v1::TaskState::Finished;
    assert!(
        ended.values().all(finished),
        "{:?}",
        ended.values().find(|update| !finished(update))
    );
    // The last kill may have separated "committed" from "released": the digests differ, and a
    // leader that has released all of them treats every held one as an orphan.
    let agent = host.agent(master.address).await;
    let (mut link, _) = master.registered(false).await;
    link.commits_updates = false;
    for held in link.list().await.tasks {
        link.kill_stray(&held.task_id, held.order_index).await;
    }
    agent.is_clear().await;
    agent.stop().await;
}
