//! Tests of clients that request a file and do not read the answer, on real sockets.

use std::fs::{self, File, OpenOptions};
use std::io::Write as _;
use std::time::Duration;

use argosy_proto::server::{self, PortLimits};
use argosy_proto::transport::Listener;
use axum::Router;
use axum::routing::get;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::CancellationToken;

use super::super::{download, read};
use super::FilesServer;

/// Much longer than each step takes.
const STEP_TIMEOUT: Duration = Duration::from_secs(60);
/// More than the kernel holds of one connection.
const FILE_BYTES: u64 = 1 << 30;

/// Returns a connection to `port` after a request for `path`.
async fn ask(port: u16, path: &str) -> TcpStream {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
    let request = format!("GET {path} HTTP/1.1\r\nhost: x\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    stream
}

async fn read_until(stream: &mut TcpStream, end: &str) {
    let mut bytes = Vec::new();
    while !bytes.ends_with(end.as_bytes()) {
        bytes.push(stream.read_u8().await.unwrap());
    }
}

#[tokio::test]
async fn a_client_that_does_not_read_loses_its_slot_and_a_quiet_follower_does_not() {
    let server = FilesServer::start_with(false).await;
    let sandbox = server.sandbox("1-1-1");
    let large = File::create(sandbox.join("large")).unwrap();
    large.set_len(FILE_BYTES).unwrap();
    let stdout = sandbox.join("stdout");
    fs::write(&stdout, "first").unwrap();
    let socket = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = socket.local_addr().unwrap().port();
    let router = Router::new()
        .route("/v1/files/read", get(read))
        .route("/v1/files/download", get(download))
        .with_state(server.files.clone());
    let limits = PortLimits {
        stall_timeout: Duration::from_millis(200),
        ..PortLimits::of_this_process("agent")
    };
    let stop = CancellationToken::new();
    tokio::spawn(server::serve(
        Listener::tcp(socket),
        router,
        limits,
        stop.clone(),
    ));

    let path = "path=tasks/framework-1/web";
    let follow = format!("/v1/files/read?{path}/stdout&follow=true");
    let download = format!("/v1/files/download?{path}/large");
    let mut held = Vec::new();
    for _ in 0..63 {
        held.push(server.unread(&download).await);
    }
    let steps = async {
        let mut follower = ask(port, &follow).await;
        read_until(&mut follower, "first\r\n").await;
        let mut unread = ask(port, &download).await;
        read_until(&mut unread, "HTTP/1.1 200 OK").await;
        // The last slot of the task is free again when the connection is closed.
        while server.unread(&download).await.status() != 200 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        let mut file = OpenOptions::new().append(true).open(&stdout).unwrap();
        file.write_all(b"second").unwrap();
        read_until(&mut follower, "second\r\n").await;
    };
    tokio::time::timeout(STEP_TIMEOUT, steps)
        .await
        .expect("its slot is released");
    stop.cancel();
}
