//! The cases; each is a sentence about the agent.

use std::pin::Pin;
use std::time::Instant;

use argosy_agent::RunError;
use argosy_proto::v1;
use argosy_proto::v1::from_agent::Message as FromAgent;
use argosy_proto::v1::to_agent::Message as ToAgent;

use crate::host::{Host, content};
use crate::master::{FRAMEWORK, Master, is_terminal, kill, shell};

type Case = fn() -> Pin<Box<dyn Future<Output = ()>>>;

macro_rules! cases {
    ($($name:ident),+ $(,)?) => {
        pub(crate) const ALL: &[(&str, Case)] = &[$((stringify!($name), || Box::pin($name()))),+];
    };
}

cases![
    a_task_runs_and_its_status_and_output_are_told,
    a_task_outlives_its_agent_and_is_adopted_with_the_same_pid,
    an_end_while_the_agent_was_away_is_told_truly,
    a_kill_is_killed_even_if_the_command_exits_with_0,
    a_kill_behind_its_launch_never_starts_or_kills,
    a_command_that_does_not_exist_fails_and_says_so,
    files_are_fetched_or_the_failure_names_them,
    a_task_out_of_time_fails,
    a_task_without_a_leader_stops_itself,
    an_earlier_reign_and_another_cluster_are_refused,
    a_list_names_what_is_held_and_strays_are_ended,
    a_shutdown_ends_everything_and_comes_back_as_another,
    a_second_agent_on_the_same_directory_is_refused_by_pid,
    output_can_be_followed_to_the_end_of_the_task,
    tasks_can_be_ended_with_the_agent,
    an_agent_killed_amid_launches_starts_each_task_once,
    many_short_tasks_run_fast_and_leave_nothing,
];

fn state(update: &v1::NumberedUpdate) -> v1::TaskState {
    v1::TaskState::try_from(update.state).unwrap()
}

fn reason(update: &v1::NumberedUpdate) -> v1::Reason {
    v1::Reason::try_from(update.reason).unwrap()
}

fn code(update: &v1::NumberedUpdate) -> Option<v1::exit::How> {
    update.exit.and_then(|exit| exit.how)
}

fn runs(update: &v1::NumberedUpdate) -> bool {
    state(update) == v1::TaskState::Running
}

async fn a_task_runs_and_its_status_and_output_are_told() {
    let (host, mut master) = (Host::new(), Master::start().await);
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

async fn a_task_outlives_its_agent_and_is_adopted_with_the_same_pid() {
    let (host, mut master) = (Host::new(), Master::start().await);
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
    let told: [u8; 16] = hello.digest.try_into().unwrap();
    let told = u128::from_be_bytes(told);
    assert!(
        [mark(0), mark(1)].contains(&told),
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

async fn an_end_while_the_agent_was_away_is_told_truly() {
    let (host, mut master) = (Host::new(), Master::start().await);
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

async fn a_kill_is_killed_even_if_the_command_exits_with_0() {
    let (host, mut master) = (Host::new(), Master::start().await);
    let agent = host.agent(master.address).await;
    let (mut link, _) = master.registered(true).await;
    let line = "trap 'sleep 0.1; exit 0' TERM; echo up > up; while :; do sleep 0.01; done";
    link.launch(1, shell("t", line)).await;
    link.until("t", runs).await;
    content(&host.sandbox("t").join("up")).await;
    link.order(2, kill("t", 10_000)).await;
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
    // One that ignores TERM is killed after its grace.
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

async fn a_kill_behind_its_launch_never_starts_or_kills() {
    let (host, mut master) = (Host::new(), Master::start().await);
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

async fn a_command_that_does_not_exist_fails_and_says_so() {
    let (host, mut master) = (Host::new(), Master::start().await);
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

async fn files_are_fetched_or_the_failure_names_them() {
    let (host, mut master) = (Host::new(), Master::start().await);
    let agent = host.agent(master.address).await;
    let (mut link, _) = master.registered(true).await;
    let program = host.folder.path().join("program");
    std::fs::write(&program, "#!/bin/sh\necho fetched; exit 4\n").unwrap();
    let uri = v1::Uri {
        value: program.display().to_string(),
        executable: true,
        output_file: "mine".into(),
    };
    let spec = v1::TaskSpec {
        argv: vec!["./mine".into()],
        uris: vec![uri],
        ..shell("t", "")
    };
    link.launch(1, spec.clone()).await;
    let updates = link.end_of("t").await;
    assert_eq!(code(updates.last().unwrap()), Some(v1::exit::How::Code(4)));
    // What one task made, another fetches from the agent's API.
    let mut piped = shell("p", "cat stdin.txt; exit 0");
    piped.uris.push(v1::Uri {
        value: format!(
            "http://{}/v1/files/download?path=tasks/{FRAMEWORK}/t/stdout",
            agent.api
        ),
        executable: false,
        output_file: "stdin.txt".into(),
    });
    link.launch(2, piped).await;
    assert_eq!(
        state(link.end_of("p").await.last().unwrap()),
        v1::TaskState::Finished
    );
    assert_eq!(
        content(&host.sandbox("p").join("stdout")).await,
        "fetched\n"
    );
    let mut missing = spec;
    missing.task_id = "m".into();
    missing.uris[0].value = "/no/such/file".into();
    link.launch(3, missing).await;
    let updates = link.end_of("m").await;
    let last = updates.last().unwrap();
    assert_eq!(
        (state(last), reason(last)),
        (v1::TaskState::Failed, v1::Reason::FetchFailed)
    );
    assert!(
        last.text.contains("/no/such/file") && last.text.contains("No such file"),
        "{}",
        last.text
    );
    agent.is_clear().await;
    agent.stop().await;
}

async fn a_task_out_of_time_fails() {
    let (host, mut master) = (Host::new(), Master::start().await);
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

async fn a_task_without_a_leader_stops_itself() {
    let (host, mut master) = (Host::new(), Master::start().await);
    let agent = host.agent(master.address).await;
    let (mut link, _) = master.registered(true).await;
    let spec = v1::TaskSpec {
        stop_after_ms: 1_000,
        ..shell("t", "echo up > up; sleep 60")
    };
    link.launch(1, spec).await;
    link.until("t", runs).await;
    // Heartbeats are answered for longer than the limit: it lives on.
    let begun = Instant::now();
    while begun.elapsed().as_millis() < 1_500 {
        let next =
            tokio::time::timeout(std::time::Duration::from_millis(100), link.try_next()).await;
        assert!(next.is_err(), "nothing is to be said: {next:?}");
    }
    // Then nobody answers any more.
    drop(link);
    let (mut link, hello) = master.link().await;
    let away = Instant::now();
    while away.elapsed().as_millis() < 1_500 {
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
    link.register(&hello, true).await;
    let updates = link.end_of("t").await;
    let last = updates.last().unwrap();
    assert_eq!(
        (state(last), reason(last)),
        (v1::TaskState::Failed, v1::Reason::StoppedWithoutLeader)
    );
    agent.is_clear().await;
    agent.stop().await;
}

async fn an_earlier_reign_and_another_cluster_are_refused() {
    let (host, mut master) = (Host::new(), Master::start().await);
    let agent = host.agent(master.address).await;
    let (link, _) = master.registered(true).await;
    drop(link);
    let (mut stale, hello) = master.link().await;
    assert_eq!(hello.highest_epoch, 5);
    stale.epoch = 4;
    stale.register(&hello, true).await;
    assert!(stale.try_next().await.is_none(), "the agent hangs up");
    let (mut link, _) = master.registered(true).await;
    link.epoch = 4;
    link.launch(1, shell("t", "exit 0")).await;
    assert!(link.try_next().await.is_none(), "the agent hangs up");
    let (mut link, hello) = master.registered(true).await;
    assert_eq!(hello.floor, 0, "the order was not taken");
    link.epoch = 6;
    link.launch(1, shell("t", "exit 0")).await;
    link.end_of("t").await;
    drop(link);
    let (_, hello) = master.link().await;
    assert_eq!(
        (hello.highest_epoch, hello.cluster_id.as_str()),
        (6, crate::master::CLUSTER)
    );
    agent.stop().await;
}

async fn a_list_names_what_is_held_and_strays_are_ended() {
    let (host, mut master) = (Host::new(), Master::start().await);
    let agent = host.agent(master.address).await;
    let (mut link, _) = master.registered(true).await;
    for (at, name) in ["b", "a", "c"].into_iter().enumerate() {
        link.launch(at as u64 + 1, shell(name, "sleep 60")).await;
        link.until(name, runs).await;
    }
    drop(link);
    let (mut link, _) = master.registered(false).await;
    link.say(ToAgent::ListTasks(v1::ListTasks {})).await;
    let list = loop {
        if let FromAgent::TaskList(list) = link.next().await {
            break list;
        }
    };
    let names: Vec<_> = list
        .tasks
        .iter()
        .map(|task| (task.task_id.as_str(), task.order_index))
        .collect();
    assert_eq!(
        (names, list.floor, list.last),
        (vec![("a", 2), ("b", 1), ("c", 3)], 3, true)
    );
    link.say(ToAgent::KillStray(v1::KillStray {
        framework_id: FRAMEWORK.into(),
        task_id: "b".into(),
        order_index: 1,
    }))
    .await;
    let left = |containers: &[serde_json::Value]| containers.len() == 2;
    while !left(&agent.containers().await) {
        tokio::time::sleep(std::time::Duration::from_millis(5)).await;
    }
    link.order(4, kill("a", 0)).await;
    link.order(5, kill("c", 0)).await;
    link.end_of("a").await;
    link.end_of("c").await;
    agent.is_clear().await;
    agent.stop().await;
}

async fn a_shutdown_ends_everything_and_comes_back_as_another() {
    let (host, mut master) = (Host::new(), Master::start().await);
    let agent = host.agent(master.address).await;
    let (mut link, first) = master.registered(true).await;
    link.launch(1, shell("t", "sleep 60")).await;
    link.until("t", runs).await;
    let reason = "it was declared gone".to_owned();
    link.say(ToAgent::Shutdown(v1::Shutdown { reason })).await;
    let (_link, second) = master.link().await;
    assert_eq!(
        (second.agent_id.as_str(), second.floor, second.digest),
        ("", 0, vec![0; 16])
    );
    assert_ne!(second.nonce, first.nonce);
    assert_eq!(second.confirmed_incarnation, 0);
    assert!(
        agent.containers().await.is_empty(),
        "it comes back only when nothing runs any more"
    );
    agent.stop().await;
}

async fn a_second_agent_on_the_same_directory_is_refused_by_pid() {
    let (host, mut master) = (Host::new(), Master::start().await);
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

async fn output_can_be_followed_to_the_end_of_the_task() {
    let (host, mut master) = (Host::new(), Master::start().await);
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

async fn tasks_can_be_ended_with_the_agent() {
    let (host, mut master) = (Host::new(), Master::start().await);
    let agent = host.agent(master.address).await;
    let (mut link, _) = master.registered(true).await;
    link.launch(1, shell("t", "sleep 60")).await;
    link.until("t", runs).await;
    agent.end_tasks.cancel();
    let updates = link.end_of("t").await;
    assert_eq!(state(updates.last().unwrap()), v1::TaskState::Killed);
    agent.ended().await.unwrap();
}

async fn many_short_tasks_run_fast_and_leave_nothing() {
    const TASKS: u64 = 500;
    let (host, mut master) = (Host::new(), Master::start().await);
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

async fn an_agent_killed_amid_launches_starts_each_task_once() {
    const TASKS: u64 = 400;
    let (host, mut master) = (Host::new(), Master::start().await);
    let witness = host.folder.path().join("witness");
    let spec = |order: u64| {
        shell(
            &format!("t-{order}"),
            &format!("echo {order} >> {}", witness.display()),
        )
    };
    let (mut lives, mut ended) = (0, std::collections::BTreeMap::new());
    while ended.len() < TASKS as usize {
        let agent = host.process(master.address);
        let (mut link, hello) = master.registered(false).await;
        // As a leader does: what is above the floor is sent again.
        for order in hello.floor + 1..=TASKS {
            link.launch(order, spec(order)).await;
        }
        // A few ends later the agent is killed; the last life may go on to the end.
        let until = if lives < 4 {
            ended.len() + 40
        } else {
            TASKS as usize
        };
        while ended.len() < until {
            for update in link.news().await {
                if is_terminal(&update) {
                    let former = ended.insert(update.task_id.clone(), update.clone());
                    let same = former.is_none_or(|former| former.number == update.number);
                    assert!(same, "two ends of {}", update.task_id);
                }
            }
        }
        agent.kill();
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
    // What the killed lives had not heard is settled is told once more, and then nothing is left.
    let agent = host.agent(master.address).await;
    let (mut link, _) = master.registered(true).await;
    tokio::select! {
        () = agent.is_clear() => {}
        () = async { loop { link.news().await; } } => {}
    }
    agent.stop().await;
}
