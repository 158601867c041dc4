//! Tests of session clients that disappear silently: their host lost its power, or its cable.
//!
//! For the agent such a client is an open connection without incoming data. The client here reads
//! all data, and never answers.

use std::time::{Duration, Instant};

use argosy_proto::exec::{ATTACH_PROTOCOL, ClientFrame, PROTOCOL};
use tokio::io::AsyncReadExt as _;

use super::exec::{CommandResult, ExecClient, call, is_running, over, until};
use super::runs;
use crate::host::TestHost;
use crate::master::{AgentStream, FRAMEWORK, Master, TIMEOUT, shell};
use crate::running::{Agent, content};

super::cases!("silence":
    an_exec_session_ends_after_its_client_times_out_and_not_before,
    a_silent_attached_client_is_disconnected_and_the_task_continues,
);

/// Long enough for healthy clients to answer four times on a loaded machine.
const SILENCE: Duration = Duration::from_secs(6);

async fn running(line: &str) -> (TestHost, Master, Agent, AgentStream) {
    let (host, mut master) = (TestHost::new(), Master::start().await);
    let change = |config: &mut argosy_agent::Config| config.session_timeout = SILENCE;
    let agent = host.agent_with(master.address, change).await;
    let (mut link, _) = master.registered(true).await;
    link.launch(1, shell("t", &format!("echo up > up; {line}")))
        .await;
    link.until("t", runs).await;
    content(&host.sandbox("t").join("up")).await;
    (host, master, agent, link)
}

/// Waits until the agent has closed a session of which only this is left; returns the time that it
/// took.
async fn closed(answer: reqwest::Response) -> Duration {
    assert_eq!(answer.status().as_u16(), 101);
    let mut stream = answer.upgrade().await.unwrap();
    let begun = Instant::now();
    let mut part = [0; 4096];
    let ended = async { while stream.read(&mut part).await.is_ok_and(|count| count > 0) {} };
    let ended = tokio::time::timeout(SILENCE + TIMEOUT, ended).await;
    ended.expect("a client that sends nothing is dropped");
    begun.elapsed()
}

pub(super) async fn an_exec_session_ends_after_its_client_times_out_and_not_before() {
    let (_host, _master, agent, _link) = running("exec sleep 1000").await;
    let task = format!("{FRAMEWORK}/t");
    let call = |line| {
        let parameters = [("task", task.as_str()), ("argument", "sh")];
        let parameters = [&parameters[..], &[("argument", "-c"), ("argument", line)]].concat();
        let agent = &agent;
        async move { call(agent, "exec", PROTOCOL, &parameters).await }
    };
    // A client that sends nothing either, but answers pings.
    let mut well = ExecClient::of(call("cat").await).await;
    let mut reported = CommandResult::default();
    let silent = call("exec sleep 7391").await;
    until("it runs", || is_running(&["sleep", "7391"])).await;
    let took = tokio::select! {
        took = closed(silent) => took,
        () = well.receive(&mut reported, |_| false) => panic!("its session ended: {reported:?}"),
    };
    assert!(took >= SILENCE - Duration::from_secs(1), "{took:?}");
    until("it has ended", || !is_running(&["sleep", "7391"])).await;
    well.type_in("still here").await;
    well.send(ClientFrame::Input("".into())).await;
    well.receive(&mut reported, |_| false).await;
    assert_eq!(reported.output(), "still here");
    over(agent).await;
}

pub(super) async fn a_silent_attached_client_is_disconnected_and_the_task_continues() {
    let (host, _master, agent, mut link) =
        running("until [ -e go ]; do sleep 0.05; done; exit 3").await;
    let task = format!("{FRAMEWORK}/t");
    let silent = call(&agent, "attach", ATTACH_PROTOCOL, &[("task", &task)]).await;
    let took = link.answer_during(closed(silent)).await;
    assert!(took >= SILENCE - Duration::from_secs(1), "{took:?}");
    std::fs::write(host.sandbox("t").join("go"), "").unwrap();
    let updates = link.end_of("t").await;
    let end = super::code(updates.last().unwrap());
    assert_eq!(end, Some(argosy_proto::v1::exit::How::Code(3)));
    agent.is_clear().await;
    agent.stop().await;
}
