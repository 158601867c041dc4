//! Tests of task lifecycles, with real containers.

use std::time::Instant;

use argosy_agent::Config;
use argosy_proto::server::callers::AllowedCallers;
use argosy_proto::v1;

use super::{code, reason, runs, state};
use crate::host::TestHost;
use crate::master::{FRAMEWORK, Master, is_terminal, kill, shell};
use crate::running::content;

super::cases!("tasks":
    a_task_runs_and_its_status_and_output_are_reported,
    a_killed_command_that_exits_with_0_is_reported_as_killed,
    a_kill_begins_with_the_stop_signal_of_the_task,
    a_kill_directly_after_its_launch_prevents_the_start_or_kills_the_task,
    killed_starts_in_the_queue_execute_no_command,
    a_command_that_does_not_exist_fails_with_a_message,
    files_are_fetched_and_failures_contain_their_names,
    an_archive_is_unpacked_only_inside_the_sandbox,
    a_task_out_of_time_fails,
    a_task_with_stop_after_is_stopped_without_a_leader,
    output_can_be_followed_to_the_end_of_the_task,
    output_can_be_followed_across_a_rotation,
    many_short_tasks_run_fast_and_leave_nothing,
);

pub(super) async fn a_task_runs_and_its_status_and_output_are_reported() {
    let (host, mut master) = (TestHost::new(), Master::start().await);
    let agent = host.agent(master.address).await;
    let (mut link, hello) = master.registered(true).await;
    assert_eq!(
        (hello.floor, hello.agent_id.as_str(), hello.digest),
        (0, "", vec![0; 16])
    );
    link.launch(
        1,
        shell(
            "t",
            "echo hi; echo $ARGOSY_TASK_ID $ARGOSY_AGENT_ID >&2; exit 7",
        ),
    )
    .await;
    let updates = link.end_of("t").await;
    let last = updates.last().unwrap();
    assert_eq!(state(last), v1::TaskState::Failed);
    assert_eq!(code(last), Some(v1::exit::How::Code(7)));
    assert_eq!(last.number, updates.len() as u64);
    let read = |file: &str| format!("/v1/files/read?path=tasks/{FRAMEWORK}/t/{file}");
    assert_eq!(agent.get(&read("stdout")).await, (200, "hi\n".into()));
    assert_eq!(
        agent.get(&read("stderr")).await,
        (200, "t agent-1\n".into())
    );
    agent.is_clear().await;
    agent.stop().await;
    let again = host.agent(master.address).await;
    let (_link, hello) = master.registered(true).await;
    assert_eq!(
        (hello.floor, hello.agent_id.as_str(), hello.digest),
        (1, "agent-1", vec![0; 16])
    );
    assert_eq!(hello.highest_epoch, 5);
    again.stop().await;
}

pub(super) async fn a_killed_command_that_exits_with_0_is_reported_as_killed() {
    let (host, mut master) = (TestHost::new(), Master::start().await);
    let agent = host.agent(master.address).await;
    let (mut link, _) = master.registered(true).await;
    let ends = "while ! test -e go; do sleep 0.01; done; exit 0";
    let line = format!("trap '{ends}' TERM; echo up > up; while :; do sleep 0.01; done");
    link.launch(1, shell("t", &line)).await;
    link.until("t", runs).await;
    content(&host.sandbox("t").join("up")).await;
    link.order(2, kill("t", 60_000)).await;
    let is_killing = |update: &v1::NumberedUpdate| state(update) == v1::TaskState::Killing;
    link.until("t", is_killing).await;
    std::fs::write(host.sandbox("t").join("go"), "").unwrap();
    let updates = link.end_of("t").await;
    let states: Vec<_> = updates.iter().map(state).collect();
    assert_eq!(
        states,
        [
            v1::TaskState::Running,
            v1::TaskState::Killing,
            v1::TaskState::Killed
        ]
    );
    assert_eq!(code(&updates[2]), Some(v1::exit::How::Code(0)));
    // One that ignores TERM is killed after its grace period.
    link.launch(
        3,
        shell(
            "u",
            "trap '' TERM; echo up > up; while :; do sleep 0.01; done",
        ),
    )
    .await;
    link.until("u", runs).await;
    content(&host.sandbox("u").join("up")).await;
    link.order(4, kill("u", 100)).await;
    let updates = link.end_of("u").await;
    let last = updates.last().unwrap();
    assert_eq!(
        (state(last), code(last)),
        (v1::TaskState::Killed, Some(v1::exit::How::Signal(9)))
    );
    agent.is_clear().await;
    agent.stop().await;
}

/// Returns a task with this signal, whose exit code shows which signal it received.
fn killed_by(task: &str, signal: v1::KillSignal) -> v1::TaskSpec {
    let line = "trap 'exit 3' QUIT; trap 'exit 10' USR1; trap 'exit 15' TERM; echo up > up; \
        while :; do sleep 0.01; done";
    v1::TaskSpec {
        kill_policy: Some(v1::KillPolicy {
            signal: signal.into(),
            ..v1::KillPolicy::default()
        }),
        ..shell(task, line)
    }
}

pub(super) async fn a_kill_begins_with_the_stop_signal_of_the_task() {
    let (host, mut master) = (TestHost::new(), Master::start().await);
    let agent = host.agent(master.address).await;
    let (mut link, _) = master.registered(true).await;
    let mut order = 0;
    for signal in [
        v1::KillSignal::Quit,
        v1::KillSignal::Usr1,
        v1::KillSignal::Term,
        v1::KillSignal::Unspecified,
    ] {
        let task = format!("t{order}");
        link.launch(order + 1, killed_by(&task, signal)).await;
        link.until(&task, runs).await;
        content(&host.sandbox(&task).join("up")).await;
        order += 2;
        link.order(order, kill(&task, 60_000)).await;
        let last = link.end_of(&task).await.pop().unwrap();
        let reported = match signal {
            v1::KillSignal::Unspecified => v1::KillSignal::Term,
            named => named,
        };
        assert_eq!(code(&last), Some(v1::exit::How::Code(reported.into())));
        assert_eq!(state(&last), v1::TaskState::Killed);
    }
    // A master of a newer release may use signals that this agent does not know.
    let mut unknown = killed_by("unknown", v1::KillSignal::Term);
    unknown.kill_policy.as_mut().unwrap().signal = 9;
    link.launch(order + 1, unknown).await;
    let last = link.end_of("unknown").await.pop().unwrap();
    assert_eq!(state(&last), v1::TaskState::Error, "{}", last.text);
    assert!(last.text.contains("kill_policy.signal"), "{}", last.text);
    agent.is_clear().await;
    agent.stop().await;
}

pub(super) async fn a_kill_directly_after_its_launch_prevents_the_start_or_kills_the_task() {
    let (host, mut master) = (TestHost::new(), Master::start().await);
    let agent = host.agent(master.address).await;
    let (mut link, _) = master.registered(true).await;
    link.launch(1, shell("t", "sleep 60")).await;
    link.order(2, kill("t", 0)).await;
    assert_eq!(
        state(link.end_of("t").await.last().unwrap()),
        v1::TaskState::Killed
    );
    let mut never = crate::master::launch(shell("n", "sleep 60"));
    if let v1::order::Order::Launch(launch) = &mut never {
        launch.never_start = true;
    }
    link.order(3, never).await;
    let updates = link.end_of("n").await;
    assert_eq!(
        (updates.len(), state(&updates[0])),
        (1, v1::TaskState::Killed)
    );
    assert_eq!(reason(&updates[0]), v1::Reason::KilledDuringLaunch);
    agent.is_clear().await;
    agent.stop().await;
}

pub(super) async fn killed_starts_in_the_queue_execute_no_command() {
    const TASKS: u64 = 200;
    let (host, mut master) = (TestHost::new(), Master::start().await);
    let agent = host.agent(master.address).await;
    let (mut link, _) = master.registered(true).await;
    let name = |task: u64| format!("t{task}");
    for task in 1..=TASKS {
        link.launch(task, shell(&name(task), "echo > ran; exec sleep 600"))
            .await;
    }
    for task in 1..=TASKS {
        link.order(TASKS + task, kill(&name(task), 0)).await;
    }
    let (mut begun, mut dropped) = (0, 0);
    for task in 1..=TASKS {
        let updates = link.end_of(&name(task)).await;
        let last = updates.last().unwrap();
        assert_eq!(state(last), v1::TaskState::Killed, "{}", last.text);
        let has_run = host.sandboxes(&name(task)).iter().any(|sandbox| {
            let ran = sandbox.join("ran");
            ran.exists()
        });
        match reason(last) {
            v1::Reason::KilledDuringLaunch => {
                dropped += 1;
                assert!(!has_run, "{} was executed: {}", name(task), last.text);
            }
            _ => begun += 1,
        }
    }
    println!("{begun} had begun, {dropped} were dropped");
    // The number of tasks that start before the kills arrive depends on the machine.
    assert!(dropped > 0, "{begun} began, {dropped} were dropped");
    agent.is_clear().await;
    agent.stop().await;
}

pub(super) async fn a_command_that_does_not_exist_fails_with_a_message() {
    let (host, mut master) = (TestHost::new(), Master::start().await);
    let agent = host.agent(master.address).await;
    let (mut link, _) = master.registered(true).await;
    let spec = v1::TaskSpec {
        argv: vec!["/no/such/program".into()],
        ..shell("t", "")
    };
    link.launch(1, spec).await;
    let updates = link.end_of("t").await;
    let last = updates.last().unwrap();
    assert_eq!(
        (state(last), reason(last)),
        (v1::TaskState::Failed, v1::Reason::CommandNotStarted)
    );
    assert!(last.text.contains("/no/such/program"), "{}", last.text);
    link.launch(2, shell("empty", "")).await;
    let updates = link.end_of("empty").await;
    assert_eq!(
        (state(&updates[0]), reason(&updates[0])),
        (v1::TaskState::Error, v1::Reason::TaskInvalid)
    );
    agent.is_clear().await;
    agent.stop().await;
}

/// Returns a tar file with one file in it.
fn archive(name: &str, text: &str) -> Vec<u8> {
    let mut archive = tar::Builder::new(Vec::new());
    let mut header = tar::Header::new_ustar();
    header.set_size(text.len() as u64);
    header.set_mode(0o644);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(0);
    // A malicious archive has a name that the library would not write.
    header.as_old_mut().name[..name.len()].copy_from_slice(name.as_bytes());
    header.set_cksum();
    archive.append(&header, text.as_bytes()).unwrap();
    archive.into_inner().unwrap()
}

pub(super) async fn an_archive_is_unpacked_only_inside_the_sandbox() {
    let (host, mut master) = (TestHost::new(), Master::start().await);
    let _agent = host.agent(master.address).await;
    let (mut link, _) = master.registered(true).await;
    let path = host.serve("site.tar", archive("in/page", "hello\n"));
    let mut spec = shell("t", "id -u; stat -c %u site/in/page; cat site/in/page");
    spec.uris.push(v1::Uri {
        value: path.display().to_string(),
        extract: true,
        ..v1::Uri::default()
    });
    link.launch(1, spec.clone()).await;
    let updates = link.end_of("t").await;
    let last = updates.last().unwrap();
    assert_eq!(state(last), v1::TaskState::Finished, "{}", last.text);
    let output = content(&host.sandbox("t").join("stdout")).await;
    let lines: Vec<_> = output.lines().collect();
    assert_eq!(
        lines[0], lines[1],
        "it belongs to the task's user: {output}"
    );
    assert_eq!(lines[2], "hello");
    host.serve("site.tar", archive("../../out", "evil\n"));
    spec.task_id = "evil".into();
    link.launch(2, spec).await;
    let updates = link.end_of("evil").await;
    let last = updates.last().unwrap();
    assert_eq!(
        (state(last), reason(last)),
        (v1::TaskState::Failed, v1::Reason::FetchFailed)
    );
    assert!(
        last.text.contains("site.tar") && last.text.contains("../../out"),
        "{}",
        last.text
    );
    assert!(!host.sandbox("evil").parent().unwrap().join("out").exists());
}

pub(super) async fn files_are_fetched_and_failures_contain_their_names() {
    let (host, mut master) = (TestHost::new(), Master::start().await);
    // Also for the fetch process, which has a separate user.
    let opened = |config: &mut Config| config.access.files = AllowedCallers::All;
    let agent = host.agent_with(master.address, opened).await;
    let (mut link, _) = master.registered(true).await;
    let program = host.serve("mine", "#!/bin/sh\necho fetched; exit 4\n");
    let uri = v1::Uri {
        value: program.display().to_string(),
        executable: true,
        output_file: "mine".into(),
        ..v1::Uri::default()
    };
    let spec = v1::TaskSpec {
        argv: vec!["./mine".into()],
        uris: vec![uri],
        ..shell("t", "")
    };
    link.launch(1, spec.clone()).await;
    let updates = link.end_of("t").await;
    assert_eq!(code(updates.last().unwrap()), Some(v1::exit::How::Code(4)));
    // One task fetches another's output from the agent's API.
    let mut piped = shell("p", "cat stdin.txt; exit 0");
    piped.uris.push(v1::Uri {
        value: format!(
            "http://{}/v1/files/download?path=tasks/{FRAMEWORK}/t/stdout",
            agent.api
        ),
        output_file: "stdin.txt".into(),
        ..v1::Uri::default()
    });
    link.launch(2, piped).await;
    let updates = link.end_of("p").await;
    let last = updates.last().unwrap();
    assert_eq!(state(last), v1::TaskState::Finished, "{}", last.text);
    assert_eq!(
        content(&host.sandbox("p").join("stdout")).await,
        "fetched\n"
    );
    let mut missing = spec;
    missing.task_id = "m".into();
    let value = host.files().join("missing").display().to_string();
    missing.uris[0].value.clone_from(&value);
    link.launch(3, missing).await;
    let updates = link.end_of("m").await;
    let last = updates.last().unwrap();
    assert_eq!(
        (state(last), reason(last)),
        (v1::TaskState::Failed, v1::Reason::FetchFailed)
    );
    assert!(
        last.text.contains(&value) && last.text.contains("No such file"),
        "{}",
        last.text
    );
    agent.is_clear().await;
    agent.stop().await;
}

pub(super) async fn a_task_out_of_time_fails() {
    let (host, mut master) = (TestHost::new(), Master::start().await);
    let agent = host.agent(master.address).await;
    let (mut link, _) = master.registered(true).await;
    let spec = v1::TaskSpec {
        max_completion_ms: 100,
        ..shell("t", "sleep 60")
    };
    link.launch(1, spec).await;
    let updates = link.end_of("t").await;
    let last = updates.last().unwrap();
    assert_eq!(
        (state(last), reason(last)),
        (v1::TaskState::Failed, v1::Reason::MaxCompletionTime)
    );
    agent.is_clear().await;
    agent.stop().await;
}

pub(super) async fn a_task_with_stop_after_is_stopped_without_a_leader() {
    let (host, mut master) = (TestHost::new(), Master::start().await);
    let agent = host.agent(master.address).await;
    let (mut link, hello) = master.link().await;
    link.register_with(&hello, true, 1_000).await;
    let spec = v1::TaskSpec {
        stop_after_ms: 5_000,
        ..shell("t", "echo up > up; sleep 60")
    };
    link.launch(1, spec).await;
    link.until("t", runs).await;
    // Heartbeats are answered for longer than the limit: the task continues to run.
    let begun = Instant::now();
    while begun.elapsed().as_millis() < 7_000 {
        let next =
            tokio::time::timeout(std::time::Duration::from_millis(100), link.try_next()).await;
        assert!(next.is_err(), "nothing is to be reported: {next:?}");
    }
    // Then heartbeats are not answered.
    drop(link);
    let (mut link, hello) = master.link().await;
    let away = Instant::now();
    while away.elapsed().as_millis() < 7_000 {
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
    link.register_with(&hello, true, 1_000).await;
    let updates = link.end_of("t").await;
    let last = updates.last().unwrap();
    assert_eq!(
        (state(last), reason(last)),
        (v1::TaskState::Failed, v1::Reason::StoppedWithoutLeader)
    );
    agent.is_clear().await;
    agent.stop().await;
}

pub(super) async fn output_can_be_followed_to_the_end_of_the_task() {
    let (host, mut master) = (TestHost::new(), Master::start().await);
    let agent = host.agent(master.address).await;
    let (mut link, _) = master.registered(true).await;
    link.launch(
        1,
        shell(
            "t",
            "echo one; until [ -e go ]; do sleep 0.01; done; echo two",
        ),
    )
    .await;
    link.until("t", runs).await;
    let url = format!(
        "http://{}/v1/files/read?path=tasks/{FRAMEWORK}/t/stdout&follow=true",
        agent.api
    );
    let mut answer = reqwest::get(url).await.unwrap();
    assert_eq!(answer.headers()["x-argosy-ended"], "false");
    assert_eq!(answer.chunk().await.unwrap().unwrap(), "one\n");
    std::fs::write(host.sandbox("t").join("go"), "").unwrap();
    assert_eq!(answer.chunk().await.unwrap().unwrap(), "two\n");
    assert_eq!(answer.chunk().await.unwrap(), None, "it ends with the task");
    link.end_of("t").await;
    agent.stop().await;
}

fn number(answer: &reqwest::Response, header: &str) -> usize {
    answer.headers()[header].to_str().unwrap().parse().unwrap()
}

/// Follows output to its end, compares it with `all`, and returns the number of bytes reported as
/// missing.
async fn followed(url: &str, all: &str) -> usize {
    let (mut at, mut missed) = (0, 0);
    loop {
        let mut answer = reqwest::get(format!("{url}&offset={at}")).await.unwrap();
        let begin = number(&answer, "x-argosy-offset");
        (at, missed) = (begin, missed + begin - at);
        let ended = answer.headers()["x-argosy-ended"] == "true";
        while let Some(bytes) = answer.chunk().await.unwrap() {
            let expected = &all.as_bytes()[at..at + bytes.len()];
            assert!(bytes == expected, "wrong bytes from {at} on");
            at += bytes.len();
        }
        if ended && at >= number(&answer, "x-argosy-size") {
            assert_eq!(at, all.len());
            return missed;
        }
    }
}

pub(super) async fn output_can_be_followed_across_a_rotation() {
    let (host, mut master) = (TestHost::new(), Master::start().await);
    let agent = host
        .agent_with(master.address, |config| {
            config.log_file_bytes = 64 * 1024;
            config.log_files = 3;
        })
        .await;
    let (mut link, _) = master.registered(true).await;
    let line = "for part in $(seq 0 49); do seq $((part * 8000 + 1)) $((part * 8000 + 8000)); sleep 0.02; done";
    link.launch(1, shell("t", line)).await;
    link.until("t", runs).await;
    let all: String = (1..=400_000).map(|number| format!("{number}\n")).collect();
    let path = format!("/v1/files/read?path=tasks/{FRAMEWORK}/t/stdout");
    // The link must be served concurrently.
    let url = format!("http://{}{path}&follow=true", agent.api);
    let (missed, _) = tokio::join!(followed(&url, &all), link.end_of("t"));
    print!("{missed} bytes missed ... ");
    // Later the tail exists, in three files.
    let answer = reqwest::get(format!("http://{}{path}", agent.api))
        .await
        .unwrap();
    let begin = number(&answer, "x-argosy-offset");
    assert!(begin >= all.len() - 3 * 64 * 1024, "it is {begin}");
    assert_eq!(answer.text().await.unwrap(), all[begin..]);
    assert!(
        host.sandbox("t").join("stdout.2").exists() && !host.sandbox("t").join("stdout.3").exists()
    );
    agent.stop().await;
}

pub(super) async fn many_short_tasks_run_fast_and_leave_nothing() {
    const TASKS: u64 = 500;
    let (host, mut master) = (TestHost::new(), Master::start().await);
    let agent = host.agent(master.address).await;
    let (mut link, _) = master.registered(true).await;
    let begun = Instant::now();
    for order in 1..=TASKS {
        let spec = v1::TaskSpec {
            argv: vec!["/bin/true".into()],
            ..shell(&format!("t-{order}"), "")
        };
        link.launch(order, spec).await;
    }
    let mut all = 0;
    for order in 1..=TASKS {
        let updates = link.end_of(&format!("t-{order}")).await;
        assert_eq!(state(updates.last().unwrap()), v1::TaskState::Finished);
        assert_eq!(
            updates.iter().filter(|update| is_terminal(update)).count(),
            1
        );
        all += updates.len();
    }
    let seconds = begun.elapsed().as_secs_f64();
    print!(
        "{:.0} tasks/s, {all} updates for {TASKS} tasks ... ",
        TASKS as f64 / seconds
    );
    agent.is_clear().await;
    agent.stop().await;
}
