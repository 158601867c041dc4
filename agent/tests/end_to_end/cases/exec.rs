//! Tests of exec sessions: their streams, their ends, and slow or disconnected clients.

use std::time::{Duration, Instant};

use argosy_proto::exec::{
    AgentFrame, AttachOffsets, ClientFrame, ExecResult, INPUT_WINDOW_BYTES, PROTOCOL, TerminalSize,
};
use futures::{SinkExt as _, StreamExt as _};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::protocol::Role;

use super::runs;
use crate::host::TestHost;
use crate::master::{AgentStream, FRAMEWORK, Master, TIMEOUT, shell};
use crate::running::{Agent, content};

super::cases!("entering":
    exec_transfers_streams_and_the_exit_status,
    exec_forwards_signals,
    an_exec_terminal_has_the_requested_size,
    an_exec_session_ends_with_its_client_and_with_its_task,
    exec_works_in_an_adopted_task,
    a_client_that_does_not_read_blocks_only_its_own_exec_session,
    a_command_that_does_not_read_blocks_its_input_but_not_its_signals,
    invalid_exec_requests_are_rejected_before_the_connection_is_upgraded,
    an_oversized_frame_ends_the_exec_session_with_a_message,
    concurrent_exec_sessions_are_limited_and_excess_ones_rejected_with_a_message,
);

/// A client of a session.
pub(super) struct ExecClient(WebSocketStream<reqwest::Upgraded>);

/// The output and the end of a command.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct CommandResult {
    output: Vec<u8>,
    errors: Vec<u8>,
    consumed: usize,
    pub(super) end: Option<ExecResult>,
    /// The start of the output that an attached client receives.
    pub(super) begins: Option<AttachOffsets>,
    missed: u64,
}

impl CommandResult {
    pub(super) fn output(&self) -> String {
        String::from_utf8_lossy(&self.output).into_owned()
    }
}

impl ExecClient {
    /// Starts a command in the task `t`.
    async fn enter(agent: &Agent, arguments: &[&str], more: &[(&str, &str)]) -> Self {
        Self::of(ask(agent, arguments, more).await).await
    }

    pub(super) async fn of(answer: reqwest::Response) -> Self {
        let status = answer.status().as_u16();
        if status != 101 {
            panic!("{status} {}", answer.text().await.unwrap());
        }
        let stream = answer.upgrade().await.unwrap();
        Self(WebSocketStream::from_raw_socket(stream, Role::Client, None).await)
    }

    async fn shell(agent: &Agent, line: &str) -> Self {
        Self::enter(agent, &["sh", "-c", line], &[]).await
    }

    pub(super) async fn send(&mut self, frame: ClientFrame) {
        self.0.send(Message::Binary(frame.encode())).await.unwrap();
    }

    pub(super) async fn type_in(&mut self, text: &'static str) {
        self.send(ClientFrame::Input(text.into())).await;
    }

    /// Adds received output until `is_enough`, or to the end.
    pub(super) async fn receive(
        &mut self,
        reported: &mut CommandResult,
        is_enough: impl Fn(&CommandResult) -> bool,
    ) {
        while reported.end.is_none() && !is_enough(reported) {
            let message = tokio::time::timeout(TIMEOUT, self.0.next()).await;
            let message = message.unwrap_or_else(|_| panic!("no more than {reported:?}"));
            let Message::Binary(bytes) = message.unwrap().unwrap() else {
                continue;
            };
            match AgentFrame::decode(bytes).unwrap() {
                AgentFrame::Stdout(bytes) => reported.output.extend(bytes),
                AgentFrame::Stderr(bytes) => reported.errors.extend(bytes),
                AgentFrame::InputCredit(bytes) => reported.consumed += bytes,
                AgentFrame::End(end) => reported.end = Some(end),
                AgentFrame::Attached(begins) => reported.begins = Some(begins),
                AgentFrame::Missed(bytes) => reported.missed += bytes,
            }
        }
    }

    pub(super) async fn all(mut self) -> CommandResult {
        let mut reported = CommandResult::default();
        self.receive(&mut reported, |_| false).await;
        // Nothing follows an end.
        self.0.close(None).await.unwrap();
        while let Some(Ok(message)) = self.0.next().await {
            assert!(!message.is_binary(), "{message:?} after {reported:?}");
        }
        reported
    }
}

async fn ask(agent: &Agent, arguments: &[&str], more: &[(&str, &str)]) -> reqwest::Response {
    let task = format!("{FRAMEWORK}/t");
    let mut parameters = vec![("task", task.as_str())];
    parameters.extend(arguments.iter().map(|argument| ("argument", *argument)));
    parameters.extend(more);
    call(agent, "exec", PROTOCOL, &parameters).await
}

pub(super) async fn call(
    agent: &Agent,
    name: &str,
    protocol: &str,
    parameters: &[(&str, &str)],
) -> reqwest::Response {
    let base = format!("http://{}/v1/{name}", agent.api);
    let url = reqwest::Url::parse_with_params(&base, parameters).unwrap();
    let request = reqwest::Client::new().get(url);
    let headers = [
        ("connection", "upgrade"),
        ("upgrade", "websocket"),
        ("sec-websocket-version", "13"),
        ("sec-websocket-key", "AAAAAAAAAAAAAAAAAAAAAA=="),
        ("sec-websocket-protocol", protocol),
    ];
    let request = headers.into_iter().fold(request, |request, (name, value)| {
        request.header(name, value)
    });
    let answer = tokio::time::timeout(TIMEOUT, request.send()).await;
    answer.expect("it is answered").unwrap()
}

/// Returns a host with a running task `t`.
async fn running() -> (TestHost, Master, Agent, AgentStream) {
    let (host, mut master) = (TestHost::new(), Master::start().await);
    let agent = host.agent(master.address).await;
    let (mut link, _) = master.registered(true).await;
    link.launch(1, shell("t", "echo up > up; exec sleep 1000"))
        .await;
    link.until("t", runs).await;
    content(&host.sandbox("t").join("up")).await;
    (host, master, agent, link)
}

pub(super) async fn over(agent: Agent) {
    agent.end_tasks.cancel();
    agent.ended().await.unwrap();
}

/// Whether a process has this command line.
pub(super) fn is_running(words: &[&str]) -> bool {
    let wanted: String = words.iter().map(|word| format!("{word}\0")).collect();
    let processes = std::fs::read_dir("/proc").unwrap().flatten();
    processes
        .filter_map(|entry| std::fs::read(entry.path().join("cmdline")).ok())
        .any(|found| found == wanted.as_bytes())
}

pub(super) async fn until(what: &str, holds: impl Fn() -> bool) {
    let deadline = Instant::now() + TIMEOUT;
    while !holds() {
        assert!(Instant::now() < deadline, "{what}: not in time");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

pub(super) async fn exec_transfers_streams_and_the_exit_status() {
    let (_host, _master, agent, _link) = running().await;
    let line = "cat; echo $A in $(pwd) >&2; exit 7";
    let more = [("env", "A=b c"), ("workdir", "/usr")];
    let mut client = ExecClient::enter(&agent, &["sh", "-c", line], &more).await;
    client.type_in("to ").await;
    client.type_in("and fro").await;
    client.send(ClientFrame::Input("".into())).await;
    let reported = client.all().await;
    let expected = CommandResult {
        output: b"to and fro".to_vec(),
        errors: b"b c in /usr\n".to_vec(),
        consumed: 10,
        end: Some(ExecResult::Code(7)),
        ..CommandResult::default()
    };
    assert_eq!(reported, expected);
    over(agent).await;
}

pub(super) async fn exec_forwards_signals() {
    let (_host, _master, agent, _link) = running().await;
    let line = "trap 'echo told; exit 5' USR1; echo ready; while :; do sleep 0.01; done";
    let mut client = ExecClient::shell(&agent, line).await;
    let mut reported = CommandResult::default();
    client
        .receive(&mut reported, |reported| !reported.output.is_empty())
        .await;
    client.send(ClientFrame::Signal(10)).await;
    client.receive(&mut reported, |_| false).await;
    assert_eq!(reported.output(), "ready\ntold\n");
    assert_eq!(reported.end, Some(ExecResult::Code(5)));
    let mut client = ExecClient::enter(&agent, &["sleep", "1000"], &[]).await;
    client.send(ClientFrame::Signal(9)).await;
    assert_eq!(client.all().await.end, Some(ExecResult::Signal(9)));
    over(agent).await;
}

pub(super) async fn an_exec_terminal_has_the_requested_size() {
    let (_host, _master, agent, _link) = running().await;
    let line = "stty size; read word; echo got $word; until [ \"$(stty size)\" = '50 132' ]; do sleep 0.01; done; echo larger; cat; exit 3";
    let more = [("tty", "true"), ("rows", "40"), ("columns", "100")];
    let mut client = ExecClient::enter(&agent, &["sh", "-c", line], &more).await;
    let mut reported = CommandResult::default();
    client
        .receive(&mut reported, |reported| reported.output.ends_with(b"\n"))
        .await;
    assert_eq!(reported.output(), "40 100\r\n");
    client.type_in("word\r").await;
    client
        .receive(&mut reported, |reported| {
            reported.output().contains("got word\r\n")
        })
        .await;
    client
        .send(ClientFrame::Resize(TerminalSize {
            rows: 50,
            columns: 132,
        }))
        .await;
    client
        .receive(&mut reported, |reported| {
            reported.output().contains("larger\r\n")
        })
        .await;
    // The end of input, as a user types it.
    client.send(ClientFrame::Input("".into())).await;
    let reported = client.all().await;
    assert_eq!(
        (reported.end, reported.errors),
        (Some(ExecResult::Code(3)), Vec::new())
    );
    // Ctrl-C is a byte, which the terminal translates to a signal.
    let line = "trap 'echo interrupted; exit 9' INT; echo ready; while :; do sleep 0.01; done";
    let more = [("tty", "true")];
    let mut client = ExecClient::enter(&agent, &["sh", "-c", line], &more).await;
    let mut reported = CommandResult::default();
    client
        .receive(&mut reported, |reported| !reported.output.is_empty())
        .await;
    client.type_in("\x03").await;
    client.receive(&mut reported, |_| false).await;
    assert!(
        reported.output().contains("interrupted"),
        "{}",
        reported.output()
    );
    assert_eq!(reported.end, Some(ExecResult::Code(9)));
    over(agent).await;
}

pub(super) async fn an_exec_session_ends_with_its_client_and_with_its_task() {
    let (_host, _master, agent, _link) = running().await;
    let mut client = ExecClient::shell(&agent, "sleep 7353 & echo up; exec sleep 7354").await;
    let mut reported = CommandResult::default();
    client
        .receive(&mut reported, |reported| !reported.output.is_empty())
        .await;
    until("they run", || {
        is_running(&["sleep", "7353"]) && is_running(&["sleep", "7354"])
    })
    .await;
    drop(client);
    until("they have ended", || {
        !is_running(&["sleep", "7353"]) && !is_running(&["sleep", "7354"])
    })
    .await;
    let client = ExecClient::enter(&agent, &["sleep", "7355"], &[]).await;
    over(agent).await;
    assert!(!is_running(&["sleep", "7355"]));
    let mut reported = CommandResult::default();
    let mut client = client;
    client.receive(&mut reported, |_| false).await;
    assert!(
        matches!(&reported.end, Some(ExecResult::Lost(why)) if why.contains("with its container")),
        "{reported:?}"
    );
}

pub(super) async fn exec_works_in_an_adopted_task() {
    let (host, mut master, agent, _link) = running().await;
    assert_eq!(
        ExecClient::shell(&agent, "cat up")
            .await
            .all()
            .await
            .output(),
        "up\n"
    );
    agent.stop().await;
    let agent = host.agent(master.address).await;
    let (_link, _) = master.registered(true).await;
    // An adopted task accepts sessions a moment later.
    let deadline = Instant::now() + TIMEOUT;
    while ask(&agent, &["true"], &[]).await.status().as_u16() != 101 {
        assert!(Instant::now() < deadline, "it cannot be entered");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert_eq!(
        ExecClient::shell(&agent, "cat up")
            .await
            .all()
            .await
            .output(),
        "up\n"
    );
    over(agent).await;
}

pub(super) async fn a_client_that_does_not_read_blocks_only_its_own_exec_session() {
    const BYTES: usize = 64 * 1024 * 1024;
    let (host, _master, agent, _link) = running().await;
    let line = format!("head -c {BYTES} /dev/zero; echo done > done");
    let slow = ExecClient::shell(&agent, &line).await;
    // Other sessions come and go concurrently.
    for _ in 0..20 {
        let reported = ExecClient::shell(&agent, "echo quick").await.all().await;
        assert_eq!(
            (reported.output(), reported.end),
            ("quick\n".into(), Some(ExecResult::Code(0)))
        );
    }
    let done = host.sandbox("t").join("done");
    assert!(!done.exists(), "64 MiB are nowhere on the way");
    let reported = slow.all().await;
    assert_eq!(
        (reported.output.len(), reported.end),
        (BYTES, Some(ExecResult::Code(0)))
    );
    over(agent).await;
}

pub(super) async fn a_command_that_does_not_read_blocks_its_input_but_not_its_signals() {
    let (_host, _master, agent, _link) = running().await;
    let mut client = ExecClient::enter(&agent, &["sleep", "1000"], &[]).await;
    let piece = vec![0_u8; INPUT_WINDOW_BYTES / 4];
    for _ in 0..4 {
        client.send(ClientFrame::Input(piece.clone().into())).await;
    }
    client.send(ClientFrame::Signal(15)).await;
    let reported = client.all().await;
    assert_eq!(reported.end, Some(ExecResult::Signal(15)));
    // A client that exceeds the window gets an error, and the command is ended.
    let mut client = ExecClient::enter(&agent, &["sleep", "7356"], &[]).await;
    for _ in 0..8 {
        client.send(ClientFrame::Input(piece.clone().into())).await;
    }
    let reported = client.all().await;
    assert!(
        matches!(&reported.end, Some(ExecResult::Lost(why)) if why.contains("beyond the input taken")),
        "{:?}",
        reported.end
    );
    until("it has ended", || !is_running(&["sleep", "7356"])).await;
    // All of a long input arrives, piece by piece.
    let mut client = ExecClient::shell(&agent, "wc -c").await;
    let (mut sent, mut reported) = (0, CommandResult::default());
    while sent < 16 * INPUT_WINDOW_BYTES {
        client.send(ClientFrame::Input(piece.clone().into())).await;
        sent += piece.len();
        client
            .receive(&mut reported, |reported| {
                sent - reported.consumed <= INPUT_WINDOW_BYTES - piece.len()
            })
            .await;
    }
    client.send(ClientFrame::Input("".into())).await;
    client.receive(&mut reported, |_| false).await;
    assert_eq!(reported.output().trim(), sent.to_string());
    over(agent).await;
}

pub(super) async fn invalid_exec_requests_are_rejected_before_the_connection_is_upgraded() {
    let (_host, _master, agent, mut link) = running().await;
    for (arguments, more, status, part) in [
        (["no-such-program"], [("env", "A=1")], 422, "cannot start"),
        (["true"], [("workdir", "/no/such")], 422, "/no/such"),
        (["true"], [("tty", "perhaps")], 400, "true or false"),
    ] {
        let answer = ask(&agent, &arguments, &more).await;
        let found = answer.status().as_u16();
        let text = answer.text().await.unwrap();
        assert_eq!(found, status, "{text}");
        assert!(text.contains(part), "{text}");
    }
    link.order(2, crate::master::kill("t", 0)).await;
    link.end_of("t").await;
    let answer = ask(&agent, &["true"], &[]).await;
    let status = answer.status().as_u16();
    let text = answer.text().await.unwrap();
    assert!([404, 409].contains(&status), "{status} {text}");
    assert!(text.contains("framework-1/t"), "{text}");
    over(agent).await;
}

pub(super) async fn an_oversized_frame_ends_the_exec_session_with_a_message() {
    let (_host, _master, agent, _link) = running().await;
    let mut client = ExecClient::shell(&agent, "echo up; exec sleep 1000").await;
    let mut reported = CommandResult::default();
    client
        .receive(&mut reported, |reported| reported.output() == "up\n")
        .await;
    let frame = Message::Binary(vec![0; 40 * 1024].into());
    client.0.send(frame).await.unwrap();
    client.receive(&mut reported, |_| false).await;
    let Some(ExecResult::Lost(why)) = &reported.end else {
        panic!("{reported:?}");
    };
    assert!(why.contains("at most 32768 bytes"), "{why}");
    drop(client);
    over(agent).await;
}

pub(super) async fn concurrent_exec_sessions_are_limited_and_excess_ones_rejected_with_a_message() {
    let (_host, _master, agent, _link) = running().await;
    let mut clients = Vec::new();
    for _ in 0..60 {
        clients.push(ExecClient::enter(&agent, &["cat"], &[]).await);
    }
    let answer = ask(&agent, &["true"], &[]).await;
    assert_eq!(answer.status().as_u16(), 429);
    let text = answer.text().await.unwrap();
    assert!(text.contains("60 interactive commands run"), "{text}");
    for client in &mut clients {
        client.type_in("mine").await;
        client.send(ClientFrame::Input("".into())).await;
    }
    for client in clients {
        let reported = client.all().await;
        assert_eq!(
            (reported.output(), reported.end),
            ("mine".into(), Some(ExecResult::Code(0)))
        );
    }
    let reported = ExecClient::shell(&agent, "echo again").await.all().await;
    assert_eq!(reported.output(), "again\n");
    over(agent).await;
}
