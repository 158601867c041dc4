//! Tests of fetches by whole agents: a slow one, whose progress the task's status shows, and a
//! cached one.

use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;

use argosy_proto::v1;
use argosy_testing::skip;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::json;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;
use tokio::sync::Notify;

use super::exec::until;
use super::{code, reason, state};
use crate::host::TestHost;
use crate::master::{Master, shell};
use crate::running::AgentProcess;

super::cases!("fetching":
    a_long_fetch_reports_its_progress_in_the_task_status,
    a_host_file_that_no_operator_allows_is_rejected_with_a_message,
    a_file_that_is_kept_is_on_the_disk_before_it_has_its_name,
);

const HALF: usize = 1 << 20;

/// Serves one file of 2 MiB: half of it immediately, and the rest on notification.
async fn serve(rest: Arc<Notify>) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        let _ = stream.read(&mut [0; 4096]).await.unwrap();
        let head = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n", 2 * HALF);
        stream.write_all(head.as_bytes()).await.unwrap();
        stream.write_all(&vec![b'x'; HALF]).await.unwrap();
        rest.notified().await;
        stream.write_all(&vec![b'x'; HALF]).await.unwrap();
    });
    format!("http://{address}/large")
}

pub(super) async fn a_long_fetch_reports_its_progress_in_the_task_status() {
    let (host, mut master) = (TestHost::new(), Master::start().await);
    let agent = host.agent(master.address).await;
    let (mut link, _) = master.registered(true).await;
    let rest = Arc::new(Notify::new());
    let value = serve(Arc::clone(&rest)).await;
    let spec = v1::TaskSpec {
        uris: vec![v1::Uri {
            value: value.clone(),
            ..v1::Uri::default()
        }],
        ..shell("t", "wc -c < large; exit 4")
    };
    link.launch(1, spec).await;
    let expected = format!("fetching {value}: 1.0 MiB of 2.0 MiB");
    let updates = link.until("t", |update| update.text == expected).await;
    assert_eq!(state(updates.last().unwrap()), v1::TaskState::Starting);
    let (status, text) = agent.get("/v1/preparation?task=framework-1/t").await;
    let shown: serde_json::Value = serde_json::from_str(&text).unwrap();
    let half = json!({
        "state": "fetching", "step": "fetching-file", "item": value,
        "received_bytes": HALF, "total_bytes": 2 * HALF,
    });
    assert_eq!((status, shown), (200, half));
    rest.notify_one();
    let updates = link.end_of("t").await;
    assert_eq!(code(updates.last().unwrap()), Some(v1::exit::How::Code(4)));
    agent.is_clear().await;
    agent.stop().await;
}

pub(super) async fn a_host_file_that_no_operator_allows_is_rejected_with_a_message() {
    let (host, mut master) = (TestHost::new(), Master::start().await);
    let agent = host.agent(master.address).await;
    let (mut link, _) = master.registered(true).await;
    let out = host.files().join("out");
    std::os::unix::fs::symlink("/etc/passwd", &out).unwrap();
    let out = out.display().to_string();
    for (order, (task, value, why)) in [
        ("shadow", "file:///etc/shadow", "--fetch-dir"),
        ("environment", "/proc/1/environ", "--fetch-dir"),
        ("link", out.as_str(), "symbolic link"),
    ]
    .into_iter()
    .enumerate()
    {
        let mut spec = shell(task, "cat *");
        spec.uris.push(v1::Uri {
            value: value.to_owned(),
            ..v1::Uri::default()
        });
        link.launch(1 + order as u64, spec).await;
        let updates = link.end_of(task).await;
        let last = updates.last().unwrap();
        assert_eq!(
            (state(last), reason(last)),
            (v1::TaskState::Failed, v1::Reason::FetchFailed)
        );
        assert!(
            last.text.contains(value) && last.text.contains(why),
            "{}",
            last.text
        );
    }
    agent.is_clear().await;
    agent.stop().await;
}

/// A trace of an agent's disk system calls.
struct Tracer(Child);

impl Tracer {
    async fn attach(agent: &AgentProcess, file: &Path) -> Self {
        let pid = agent.pid().to_string();
        let strace = Command::new("strace")
            .args([
                "-f",
                "-y",
                "-qq",
                "-e",
                "trace=fsync,rename,renameat,renameat2",
            ])
            .arg("-o")
            .arg(file)
            .args(["-p", &pid])
            .stdin(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("strace is installed");
        // The last thread that it attaches to: later threads are traced automatically.
        until("the tracer is attached", || {
            let threads = std::fs::read_dir(format!("/proc/{pid}/task")).unwrap();
            threads.flatten().all(|thread| {
                let status = std::fs::read_to_string(thread.path().join("status"));
                status.is_ok_and(|text| !text.contains("TracerPid:\t0\n"))
            })
        })
        .await;
        Self(strace)
    }

    /// Detaches from it.
    fn detach(mut self) {
        kill(Pid::from_raw(self.0.id().cast_signed()), Signal::SIGINT).unwrap();
        self.0.wait().unwrap();
    }
}

pub(super) async fn a_file_that_is_kept_is_on_the_disk_before_it_has_its_name() {
    if !nix::unistd::geteuid().is_root() {
        skip("needs root");
        return;
    }
    let (host, mut master) = (TestHost::new(), Master::start().await);
    let agent = host.process(master.address);
    let (mut link, _) = master.registered(true).await;
    let file = host.directory.path().join("said");
    let tracer = Tracer::attach(&agent, &file).await;
    let rest = Arc::new(Notify::new());
    rest.notify_one();
    let spec = v1::TaskSpec {
        uris: vec![v1::Uri {
            value: serve(rest).await,
            cache: true,
            ..v1::Uri::default()
        }],
        ..shell("t", "exit 4")
    };
    link.launch(1, spec).await;
    let updates = link.end_of("t").await;
    assert_eq!(code(updates.last().unwrap()), Some(v1::exit::How::Code(4)));
    agent.is_clear().await;
    tracer.detach();
    let output = std::fs::read_to_string(&file).unwrap();
    // One line each, or two for an interrupted call: begun, and resumed.
    let at = |call: &str| {
        let mut lines = output.lines();
        let found = lines.position(|line| line.contains(call) && line.contains("/cache/.draft-"));
        found.unwrap_or_else(|| panic!("no {call} of a draft in: {output}"))
    };
    assert!(at(" fsync(") < at(" rename"), "{output}");
}
