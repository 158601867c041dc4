//! Tests of clients that are attached to a task's own command.

use argosy_proto::exec::{ATTACH_PROTOCOL, ClientFrame, ExecResult, PROTOCOL, TerminalSize};
use argosy_proto::v1;

use super::exec::{CommandResult, ExecClient, call, over};
use super::{code, runs};
use crate::host::TestHost;
use crate::master::{AgentStream, FRAMEWORK, Master, shell};
use crate::running::{Agent, content};

super::cases!("attaching":
    all_attached_clients_receive_output_and_send_input_until_the_task_ends,
    clients_can_attach_again_after_an_agent_restart,
    attached_input_and_its_end_reach_a_pipe_of_the_task,
    invalid_attach_requests_are_rejected_before_the_connection_is_upgraded,
);

async fn ask(agent: &Agent, parameters: &[(&str, &str)]) -> reqwest::Response {
    let task = format!("{FRAMEWORK}/t");
    let parameters = [&[("task", task.as_str())], parameters].concat();
    call(agent, "attach", ATTACH_PROTOCOL, &parameters).await
}

/// Returns a client with standard input at the task `t`, which has received the start of the
/// output.
async fn attached(agent: &Agent) -> (ExecClient, CommandResult) {
    let mut client = ExecClient::of(ask(agent, &[("stdin", "true")]).await).await;
    let mut reported = CommandResult::default();
    client
        .receive(&mut reported, |reported| reported.begins.is_some())
        .await;
    (client, reported)
}

/// Returns a host with a running task `t` of this line, at a terminal or at a pipe.
async fn running(line: &str, tty: bool) -> (TestHost, Master, Agent, AgentStream) {
    let (host, mut master) = (TestHost::new(), Master::start().await);
    let agent = host.agent(master.address).await;
    let (mut link, _) = master.registered(true).await;
    let spec = v1::TaskSpec {
        tty,
        stdin: true,
        ..shell("t", &format!("echo up > up; {line}"))
    };
    link.launch(1, spec).await;
    link.until("t", runs).await;
    content(&host.sandbox("t").join("up")).await;
    (host, master, agent, link)
}

const READS: &str = "while read word; do case $word in size) stty size;; exit) exit 7;; *) echo got $word;; esac; done";

pub(super) async fn all_attached_clients_receive_output_and_send_input_until_the_task_ends() {
    let line = format!("echo $TERM; {READS}");
    let (host, _master, agent, mut link) = running(&line, true).await;
    assert_eq!(
        content(&host.sandbox("t").join("stdout")).await,
        "xterm\r\n"
    );
    let (mut first, mut one) = attached(&agent).await;
    let (mut second, mut other) = attached(&agent).await;
    assert_eq!(one.begins.unwrap().stdout, 7, "what was written before");
    let size = TerminalSize {
        rows: 50,
        columns: 132,
    };
    first.send(ClientFrame::Resize(size)).await;
    first.type_in("size\n").await;
    let sized = |reported: &CommandResult| reported.output().ends_with("50 132\r\n");
    first.receive(&mut one, sized).await;
    second.receive(&mut other, sized).await;
    second.type_in("word\n").await;
    let got = |reported: &CommandResult| reported.output().ends_with("got word\r\n");
    first.receive(&mut one, got).await;
    // A client that disconnects does not affect the task and others.
    drop(first);
    second.receive(&mut other, got).await;
    second.type_in("exit\n").await;
    let last = second.all().await;
    assert_eq!(last.end, Some(ExecResult::Code(7)), "{last:?}");
    let updates = link.end_of("t").await;
    assert_eq!(code(updates.last().unwrap()), Some(v1::exit::How::Code(7)));
    over(agent).await;
}

pub(super) async fn clients_can_attach_again_after_an_agent_restart() {
    let (host, mut master, agent, _link) = running(READS, true).await;
    let (mut client, mut reported) = attached(&agent).await;
    client.type_in("one\n").await;
    let got_one = |reported: &CommandResult| reported.output().ends_with("got one\r\n");
    client.receive(&mut reported, got_one).await;
    agent.stop().await;
    let agent = host.agent(master.address).await;
    let (mut link, _) = master.registered(true).await;
    let (mut again, mut reported) = loop {
        let answer = ask(&agent, &[("stdin", "true")]).await;
        // Until the task is found again.
        if answer.status().as_u16() == 101 {
            break (ExecClient::of(answer).await, CommandResult::default());
        }
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    };
    again.type_in("two\n").await;
    let got_two = |reported: &CommandResult| reported.output().ends_with("got two\r\n");
    again.receive(&mut reported, got_two).await;
    again.send(ClientFrame::Signal(9)).await;
    assert_eq!(again.all().await.end, Some(ExecResult::Signal(9)));
    link.end_of("t").await;
    over(agent).await;
}

pub(super) async fn attached_input_and_its_end_reach_a_pipe_of_the_task() {
    let (_host, _master, agent, mut link) = running("wc -c; exit 3", false).await;
    let (mut client, _) = attached(&agent).await;
    let piece = "0123456789abcdef".repeat(1024);
    for _ in 0..8 {
        client.send(ClientFrame::Input(piece.clone().into())).await;
    }
    client.send(ClientFrame::Input("".into())).await;
    let reported = client.all().await;
    assert_eq!(
        (reported.output().as_str(), reported.end),
        ("131072\n", Some(ExecResult::Code(3)))
    );
    link.end_of("t").await;
    over(agent).await;
}

pub(super) async fn invalid_attach_requests_are_rejected_before_the_connection_is_upgraded() {
    let (host, mut master) = (TestHost::new(), Master::start().await);
    let agent = host.agent(master.address).await;
    let (mut link, _) = master.registered(true).await;
    assert_eq!(ask(&agent, &[]).await.status().as_u16(), 404);
    link.launch(1, shell("t", "echo up > up; exec sleep 1000"))
        .await;
    link.until("t", runs).await;
    content(&host.sandbox("t").join("up")).await;
    let refused = ask(&agent, &[("stdin", "true")]).await;
    assert_eq!(refused.status().as_u16(), 422);
    let text = refused.text().await.unwrap();
    assert!(text.contains("not launched with stdin"), "{text}");
    assert_eq!(ask(&agent, &[("tty", "true")]).await.status().as_u16(), 400);
    let task = format!("{FRAMEWORK}/t");
    let other = call(&agent, "attach", PROTOCOL, &[("task", task.as_str())]).await;
    let text = other.text().await.unwrap();
    assert!(text.contains("argosy.v1.attach"), "{text}");
    // Its output can be watched; unrequested input ends the session, not the task.
    let mut client = ExecClient::of(ask(&agent, &[]).await).await;
    client.type_in("x").await;
    let Some(ExecResult::Lost(why)) = client.all().await.end else {
        panic!("it was not asked for")
    };
    assert!(why.contains("without having requested that"), "{why}");
    let mut client = ExecClient::of(ask(&agent, &[]).await).await;
    client.send(ClientFrame::Signal(15)).await;
    assert_eq!(client.all().await.end, Some(ExecResult::Signal(15)));
    link.end_of("t").await;
    over(agent).await;
}
