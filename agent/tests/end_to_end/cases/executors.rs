//! Tests of tasks of an executor that is a separate program, on the agent's socket.

use std::fs::Permissions;
use std::io::Read;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;

use argosy_proto::v1;
use nix::sys::signal::{Signal, kill as signal};
use nix::sys::stat::Mode;
use nix::unistd::Pid;

use super::volumes::with_disk;
use super::{code, reason, runs, state};
use crate::host::{EXECUTOR, TestHost};
use crate::master::{AgentStream, Master, TIMEOUT, kill, shell};
use crate::running::{Agent, content};

super::cases!("executors":
    tasks_of_an_executor_share_its_container_which_ends_after_the_last_task,
    an_executor_over_the_disk_requests_of_its_tasks_is_killed_with_them,
    an_executor_survives_an_agent_restart_and_runs_tasks_of_a_new_leader,
    the_tasks_of_a_killed_executor_end_with_it,
    killing_one_task_of_an_executor_does_not_end_the_other,
    what_the_task_of_an_executor_leaves_behind_ends_with_its_command,
    an_executor_that_does_not_subscribe_is_killed_with_an_explanation,
    messages_pass_between_a_framework_and_its_executor,
    only_the_container_of_an_executor_can_use_its_socket,
);

/// Runs until its file exists, confirms that by another one, and ends with this code.
fn task(host: &TestHost, id: &str, code: i32) -> v1::TaskSpec {
    let line =
        format!("until [ -e go-{id} ]; do sleep 0.01; done; echo done > done-{id}; exit {code}");
    executed(shell(id, &line), executor(host))
}

/// Returns a task that runs this line, of an executor that is this program.
pub(super) fn executed_by_this_program(host: &TestHost, id: &str, line: &str) -> v1::TaskSpec {
    executed(shell(id, line), executor(host))
}

fn executed(task: v1::TaskSpec, executor: v1::ExecutorSpec) -> v1::TaskSpec {
    v1::TaskSpec {
        executor: Some(executor),
        ..task
    }
}

/// Returns this program as an executor.
fn executor(host: &TestHost) -> v1::ExecutorSpec {
    let program = host.program();
    v1::ExecutorSpec {
        executor_id: "e".into(),
        argv: vec!["./program".into(), EXECUTOR.into()],
        uris: vec![v1::Uri {
            value: program.display().to_string(),
            executable: true,
            output_file: "program".into(),
            ..v1::Uri::default()
        }],
        grace_ms: 2_000,
        ..v1::ExecutorSpec::default()
    }
}

fn go(host: &TestHost, id: &str) {
    std::fs::write(host.sandbox("e").join(format!("go-{id}")), "").unwrap();
}

fn places(host: &TestHost) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(host.directory.path().join("agent/executors")).unwrap();
    entries.map(|entry| entry.unwrap().path()).collect()
}

/// Starts tasks "a" and "b" of one executor.
async fn two_tasks() -> (TestHost, Master, Agent, AgentStream) {
    let (host, mut master) = (TestHost::new(), Master::start().await);
    let agent = host.agent(master.address).await;
    let (mut link, _) = master.registered(true).await;
    link.launch(1, task(&host, "a", 0)).await;
    link.launch(2, task(&host, "b", 3)).await;
    link.until("a", runs).await;
    link.until("b", runs).await;
    (host, master, agent, link)
}

pub(super) async fn tasks_of_an_executor_share_its_container_which_ends_after_the_last_task() {
    let (host, _master, agent, mut link) = two_tasks().await;
    let containers = agent.containers().await;
    assert_eq!(containers.len(), 1, "{containers:?}");
    assert_eq!(containers[0]["task_id"], "e");
    go(&host, "a");
    let ended = link.end_of("a").await.pop().unwrap();
    assert_eq!(state(&ended), v1::TaskState::Finished);
    assert_eq!(code(&ended), Some(v1::exit::How::Code(0)));
    assert_eq!(agent.containers().await.len(), 1, "b keeps it");
    go(&host, "b");
    let ended = link.end_of("b").await.pop().unwrap();
    assert_eq!(state(&ended), v1::TaskState::Failed);
    assert_eq!(code(&ended), Some(v1::exit::How::Code(3)));
    agent.is_clear().await;
    assert_eq!(places(&host), Vec::<PathBuf>::new());
    agent.stop().await;
}

pub(super) async fn an_executor_over_the_disk_requests_of_its_tasks_is_killed_with_them() {
    let (host, mut master) = (TestHost::new(), Master::start().await);
    let agent = host.agent(master.address).await;
    let (mut link, _) = master.registered(true).await;
    let program = std::fs::metadata(host.program()).unwrap().len();
    let program = i64::try_from(program >> 20).unwrap();
    let idle = with_disk(task(&host, "idle", 0), program + 32);
    link.launch(1, idle).await;
    link.until("idle", runs).await;
    let line = "head -c 100M /dev/zero > large; exec sleep 600";
    let fills = with_disk(executed(shell("fills", line), executor(&host)), 32);
    link.launch(2, fills).await;
    for task in ["idle", "fills"] {
        let ended = link.end_of(task).await.pop().unwrap();
        let reported = (state(&ended), reason(&ended));
        let expected = (v1::TaskState::Failed, v1::Reason::LimitDisk);
        assert_eq!(reported, expected, "{}", ended.text);
    }
    agent.is_clear().await;
    agent.stop().await;
}

pub(super) async fn an_executor_survives_an_agent_restart_and_runs_tasks_of_a_new_leader() {
    let (host, mut master, agent, _link) = two_tasks().await;
    let pid = agent.containers().await[0]["pid"].clone();
    agent.stop().await;
    go(&host, "a");
    content(&host.sandbox("e").join("done-a")).await;
    let agent = host.agent(master.address).await;
    let (mut link, _) = master.registered(true).await;
    let ended = link.end_of("a").await.pop().unwrap();
    assert_eq!(state(&ended), v1::TaskState::Finished);
    // It accepts new tasks from a leader that it has not known.
    link.epoch += 1;
    link.launch(3, task(&host, "c", 0)).await;
    link.until("c", runs).await;
    assert_eq!(agent.containers().await[0]["pid"], pid);
    for (id, wanted) in [("b", v1::TaskState::Failed), ("c", v1::TaskState::Finished)] {
        go(&host, id);
        assert_eq!(state(link.end_of(id).await.last().unwrap()), wanted);
    }
    agent.is_clear().await;
    agent.stop().await;
}

pub(super) async fn the_tasks_of_a_killed_executor_end_with_it() {
    let (_host, _master, agent, mut link) = two_tasks().await;
    let pid = agent.containers().await[0]["pid"].as_i64().unwrap();
    signal(Pid::from_raw(pid.try_into().unwrap()), Signal::SIGKILL).unwrap();
    for id in ["a", "b"] {
        let ended = link.end_of(id).await.pop().unwrap();
        assert_eq!(state(&ended), v1::TaskState::Failed);
        assert_eq!(reason(&ended), v1::Reason::ExecutorTerminated);
        assert!(ended.text.contains("executor"), "{}", ended.text);
    }
    agent.is_clear().await;
    agent.stop().await;
}

pub(super) async fn killing_one_task_of_an_executor_does_not_end_the_other() {
    let (host, _master, agent, mut link) = two_tasks().await;
    link.order(3, kill("a", 1_000)).await;
    let ended = link.end_of("a").await.pop().unwrap();
    assert_eq!(state(&ended), v1::TaskState::Killed);
    assert_eq!(code(&ended), Some(v1::exit::How::Signal(15)));
    go(&host, "b");
    let ended = link.end_of("b").await.pop().unwrap();
    assert_eq!(code(&ended), Some(v1::exit::How::Code(3)));
    agent.is_clear().await;
    agent.stop().await;
}

pub(super) async fn what_the_task_of_an_executor_leaves_behind_ends_with_its_command() {
    let (host, _master, agent, mut link) = two_tasks().await;
    // A process that holds the pipe still runs.
    let pipe = host.sandbox("e").join("pipe");
    nix::unistd::mkfifo(&pipe, Mode::from_bits_truncate(0o666)).unwrap();
    std::fs::set_permissions(&pipe, Permissions::from_mode(0o666)).unwrap();
    let held = tokio::task::spawn_blocking(move || std::fs::read(pipe));
    let line = "exec 3> pipe; (trap '' TERM; exec sleep 600) & echo up > up; wait";
    let leaving = executed_by_this_program(&host, "c", line);
    link.launch(3, leaving).await;
    link.until("c", runs).await;
    content(&host.sandbox("e").join("up")).await;
    link.order(4, kill("c", 60_000)).await;
    let ended = link.end_of("c").await.pop().unwrap();
    assert_eq!(state(&ended), v1::TaskState::Killed);
    let held = tokio::time::timeout(TIMEOUT, held).await;
    held.expect("nothing is left of it").unwrap().unwrap();
    for id in ["a", "b"] {
        go(&host, id);
        link.end_of(id).await;
    }
    agent.is_clear().await;
    agent.stop().await;
}

pub(super) async fn an_executor_that_does_not_subscribe_is_killed_with_an_explanation() {
    let (host, mut master) = (TestHost::new(), Master::start().await);
    let agent = host
        .agent_with(master.address, |config| {
            config.executor_registration_timeout_ms = 300;
        })
        .await;
    let (mut link, _) = master.registered(true).await;
    let mute = v1::ExecutorSpec {
        executor_id: "mute".into(),
        shell: "exec sleep 600".into(),
        grace_ms: 100,
        ..v1::ExecutorSpec::default()
    };
    link.launch(1, executed(shell("a", "true"), mute)).await;
    let ended = link.end_of("a").await.pop().unwrap();
    assert_eq!(state(&ended), v1::TaskState::Failed);
    assert_eq!(reason(&ended), v1::Reason::ExecutorRegistrationTimeout);
    agent.is_clear().await;
    agent.stop().await;
}

pub(super) async fn only_the_container_of_an_executor_can_use_its_socket() {
    let (host, _master, agent, mut link) = two_tasks().await;
    let place = places(&host).pop().unwrap();
    if nix::unistd::geteuid().is_root() {
        // Even the host's root is another user than the container's.
        let mut stream = UnixStream::connect(place.join("socket")).unwrap();
        stream
            .set_read_timeout(Some(crate::master::TIMEOUT))
            .unwrap();
        assert_eq!(stream.read(&mut [0; 16]).unwrap_or(0), 0, "it is closed");
    }
    // A task in another container cannot see the socket or its directory.
    let line = format!("ls {} && echo open || echo closed", place.display());
    link.launch(3, shell("other", &line)).await;
    link.end_of("other").await;
    let seen = content(&host.sandbox("other").join("stdout")).await;
    if nix::unistd::geteuid().is_root() {
        assert_eq!(seen, "closed\n");
    }
    for id in ["a", "b"] {
        go(&host, id);
        link.end_of(id).await;
    }
    agent.is_clear().await;
    agent.stop().await;
}

pub(super) async fn messages_pass_between_a_framework_and_its_executor() {
    let (host, _master, agent, mut link) = two_tasks().await;
    let message = v1::ExecutorMessage {
        framework_id: crate::master::FRAMEWORK.into(),
        agent_id: "agent-1".into(),
        executor_id: "e".into(),
        data: vec![7; 65_536],
    };
    let output = v1::to_agent::Message::ExecutorMessage(message.clone());
    link.send(output).await;
    // It echoes messages.
    let back = loop {
        if let v1::from_agent::Message::ExecutorMessage(back) = link.next().await {
            break back;
        }
    };
    assert_eq!(back, message);
    for id in ["a", "b"] {
        go(&host, id);
        link.end_of(id).await;
    }
    agent.is_clear().await;
    agent.stop().await;
}
