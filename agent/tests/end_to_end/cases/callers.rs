//! Tests of access to tasks by the API of a real agent: by other users of its host, and by tasks.

use std::net::SocketAddr;
use std::os::unix::process::CommandExt as _;
use std::process::Command;

use argosy_agent::{Config, TaskAllow};
use argosy_proto::server::callers::ApiAccess;
use argosy_proto::v1;
use argosy_testing::skip;

use super::{runs, state};
use crate::host::TestHost;
use crate::master::{AgentStream, FRAMEWORK, Master, in_hosts_network, kill, shell};
use crate::running::{Agent, content};

super::cases!("callers":
    other_users_of_the_host_cannot_exec_in_tasks_or_read_their_files,
    a_task_that_reaches_its_agent_cannot_exec_in_tasks_or_read_their_files,
);

/// A user without any rights.
const NOBODY: u32 = 65_534;

/// Returns requests, and the beginning of the response without permission.
fn questions() -> [(String, &'static str); 6] {
    let file = format!("tasks/{FRAMEWORK}/t/stdout");
    let closed = "HTTP/1.1 403";
    [
        (format!("/v1/files/read?path={file}"), closed),
        (format!("/v1/files/download?path={file}"), closed),
        (format!("/v1/files/browse?path=tasks/{FRAMEWORK}/t"), closed),
        (format!("/v1/exec?task={FRAMEWORK}/t&argument=id"), closed),
        (format!("/v1/attach?task={FRAMEWORK}/t"), closed),
        // The rest is open: the response shows that the agent is reachable.
        ("/healthz".to_owned(), "HTTP/1.1 200"),
    ]
}

/// Returns a shell line that sends a request to an agent, and prints the first line of its
/// response.
pub(super) fn asking(api: SocketAddr, path: &str) -> String {
    let (host, port) = (api.ip(), api.port());
    format!(
        "exec 3<>/dev/tcp/{host}/{port} && printf 'GET %s HTTP/1.1\\r\\nhost: localhost\\r\\nconnection: close\\r\\n\\r\\n' \
         '{path}' >&3 && head -n 1 <&3"
    )
}

/// Returns the response to a user of this host.
fn response(user: u32, api: SocketAddr, path: &str) -> String {
    let mut bash = Command::new("bash");
    let bash = bash.args(["-c", &asking(api, path)]).uid(user).gid(user);
    let output = bash.current_dir("/").output().unwrap();
    String::from_utf8_lossy(&output.stdout).into_owned()
}

async fn with_a_task(
    host: &TestHost,
    master: &mut Master,
    access: ApiAccess,
) -> (Agent, AgentStream) {
    let change = |config: &mut Config| {
        config.access = access;
        config.allowed_security_options.host_network = true;
        // Only the check of callers is between a task and the API.
        let port = config.address.rsplit_once(':').unwrap().1;
        config.task_allow = vec![TaskAllow::Port(port.parse().unwrap())];
    };
    let agent = host.agent_with(master.address, change).await;
    let (mut link, _) = master.registered(true).await;
    link.launch(1, shell("t", "echo secret; exec sleep 1000"))
        .await;
    link.until("t", runs).await;
    content(&host.sandbox("t").join("stdout")).await;
    (agent, link)
}

pub(super) async fn other_users_of_the_host_cannot_exec_in_tasks_or_read_their_files() {
    if !nix::unistd::geteuid().is_root() {
        return skip("needs root");
    }
    let (host, mut master) = (TestHost::new(), Master::start().await);
    let (agent, mut link) = with_a_task(&host, &mut master, ApiAccess::default()).await;
    for (path, begins) in questions() {
        let reported = response(NOBODY, agent.api, &path);
        assert!(reported.starts_with(begins), "{path}: {reported}");
        // The same request of root is answered.
        let reported = response(0, agent.api, &path);
        assert!(
            !reported.starts_with("HTTP/1.1 403") && reported.starts_with("HTTP/1.1"),
            "{path}: {reported}"
        );
    }
    let (status, text) = agent.get(&questions()[0].0).await;
    assert_eq!((status, text.as_str()), (200, "secret\n"));
    link.order(2, kill("t", 0)).await;
    link.end_of("t").await;
    agent.stop().await;
    let agent = host
        .agent_with(master.address, |config| {
            config.access = ApiAccess::of_users([NOBODY])
        })
        .await;
    let _link = master.registered(true).await;
    let reported = response(NOBODY, agent.api, &questions()[0].0);
    assert!(
        reported.starts_with("HTTP/1.1 200"),
        "one that the operator names: {reported}"
    );
    let reported = response(NOBODY - 1, agent.api, &questions()[0].0);
    assert!(
        reported.starts_with("HTTP/1.1 403"),
        "and no other user: {reported}"
    );
    agent.stop().await;
}

pub(super) async fn a_task_that_reaches_its_agent_cannot_exec_in_tasks_or_read_their_files() {
    if !nix::unistd::geteuid().is_root() {
        return skip("needs root");
    }
    let (host, mut master) = (TestHost::new(), Master::start().await);
    let (agent, mut link) = with_a_task(&host, &mut master, ApiAccess::default()).await;
    for (number, (path, begins)) in (2..).zip(questions()) {
        let name = format!("asker-{number}");
        let spec = v1::TaskSpec {
            argv: ["bash", "-c", &asking(agent.api, &path)]
                .map(str::to_owned)
                .into(),
            ..shell(&name, "")
        };
        link.launch(number, in_hosts_network(spec)).await;
        let updates = link.end_of(&name).await;
        let last = updates.last().unwrap();
        assert_eq!(state(last), v1::TaskState::Finished, "{}", last.text);
        let reported = content(&host.sandbox(&name).join("stdout")).await;
        assert!(reported.starts_with(begins), "{path}: {reported}");
    }
    link.order(2 + questions().len() as u64, kill("t", 0)).await;
    link.end_of("t").await;
    agent.stop().await;
}
