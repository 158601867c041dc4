//! Rows of one step: the executable with arguments, an HTTP request, bytes to all ports.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use super::environment::{BadInputCluster, RowAddresses};
use super::row::{RowEnd, RowOutcome};
use crate::cluster::{argosy, wait_until};

const LONG: Duration = Duration::from_secs(60);

/// Returns the executable without the environment of this test.
pub(super) fn program(fixture: &BadInputCluster, addresses: &RowAddresses) -> Command {
    let mut command = Command::new(argosy());
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("ARGOSY_") {
            command.env_remove(&name);
        }
    }
    command
        .env("ARGOSY_LOG", "info,openraft=error")
        .env("TMPDIR", fixture.scratch(addresses))
        .stdin(Stdio::null());
    command
}

/// Runs the executable until it exits by itself.
pub(super) async fn run(fixture: &BadInputCluster, line: &str) -> RowOutcome {
    let place = fixture.addresses();
    let words = line.split(' ').map(|word| place.expand(fixture, word));
    let mut command = program(fixture, &place);
    command.args(words);
    let (ended, reported) = tokio::task::spawn_blocking(move || ended(command))
        .await
        .expect("it does not panic");
    RowOutcome {
        end: ended,
        message: reported,
        addresses: place,
    }
}

fn ended(mut command: Command) -> (RowEnd, String) {
    let piped = command.stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = piped.spawn().expect("the executable starts");
    let deadline = Instant::now() + LONG;
    while child.try_wait().expect("it is our child").is_none() {
        if Instant::now() > deadline {
            child.kill().expect("it is our child");
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    let output = child.wait_with_output().expect("it has ended");
    let ended = output.status.code().map_or(RowEnd::Retries, RowEnd::Exit);
    let message = [output.stdout, output.stderr].concat();
    (ended, String::from_utf8_lossy(&message).into_owned())
}

/// Requests a path from the leader, until there is an answer.
pub(super) async fn get(fixture: &BadInputCluster, path: &str) -> RowOutcome {
    let url = format!("http://{}{path}", fixture.cluster.masters[0].api());
    let (status, reported) = wait_until("a master answers", LONG, async || {
        let answer = reqwest::get(&url).await.ok()?;
        let status = answer.status().as_u16();
        (status != 503).then_some((status, answer.text().await.ok()?))
    })
    .await;
    RowOutcome {
        end: RowEnd::Status(status),
        message: reported,
        addresses: fixture.addresses(),
    }
}

/// Sends bytes to every port, and reads until the peer closes the connection.
pub(super) async fn send(fixture: &BadInputCluster, bytes: Vec<u8>) -> RowOutcome {
    let mut ports: Vec<String> = Vec::new();
    for master in &fixture.cluster.masters {
        ports.extend([5050, 5052].map(|port| format!("{}:{port}", master.address)));
    }
    let agents = fixture.cluster.agents.iter();
    ports.extend(agents.map(|agent| format!("{}:5051", agent.address)));
    let sent = tokio::task::spawn_blocking(move || {
        for port in ports {
            let mut stream = TcpStream::connect(port).expect("the port is open");
            let timeout = Some(Duration::from_millis(50));
            stream.set_read_timeout(timeout).expect("it is not zero");
            // The peer may close at any moment, or wait for more.
            let _ = stream.write_all(&bytes);
            let _ = stream.read(&mut [0; 1_024]);
        }
    });
    sent.await.expect("every port is open");
    RowOutcome {
        end: RowEnd::NoAnswer,
        message: String::new(),
        addresses: fixture.addresses(),
    }
}
