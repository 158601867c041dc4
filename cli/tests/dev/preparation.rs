//! What an agent fetches for a task, on the terminals of the commands that wait for its start.

use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::sync::mpsc::{Sender, channel};

use crate::cluster::DevCluster;
use crate::terminal::TestTerminal;

const HALF: usize = 1 << 20;

/// Serves one file of 2 MiB: half of it at once, the rest on a signal. Returns its address.
fn serve() -> (String, Sender<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let (rest, signalled) = channel();
    std::thread::spawn(move || {
        let (mut stream, _): (TcpStream, _) = listener.accept().unwrap();
        let _ = stream.read(&mut [0; 4096]).unwrap();
        let head = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n", 2 * HALF);
        stream.write_all(head.as_bytes()).unwrap();
        stream.write_all(&vec![b'x'; HALF]).unwrap();
        // A test that has failed sends no signal.
        if signalled.recv().is_ok() {
            stream.write_all(&vec![b'x'; HALF]).unwrap();
        }
    });
    (address, rest)
}

#[test]
fn a_terminal_shows_what_is_fetched_before_a_task_starts() {
    let (address, rest) = serve();
    let cluster = DevCluster::start(75, "1x1", &["--fetch-allow", &address]);
    let uri = format!("large=http://{address}/large");
    let words = ["run", "--name", "web", "--uri", &uri, "--"];
    let words = [&words[..], &["sh", "-c", "wc -c < large; exit 5"]].concat();
    let line = format!("fetching http://{address}/large  [========>       ]  1 MiB of 2 MiB");
    let mut run = TestTerminal::start(&cluster, 40, 100, &words);
    run.wait_for_output(&line);
    let mut others: Vec<_> = [["logs", "-f", "web"], ["attach", "--tail=5", "web"]]
        .iter()
        .map(|words| TestTerminal::start(&cluster, 40, 100, words))
        .collect();
    for terminal in &mut others {
        terminal.wait_for_output(&line);
    }
    // Nothing is drawn where no terminal is.
    let (code, _, stderr) = cluster.run(&["wait", "task", "web", "--for", "ended", "--timeout=2s"]);
    assert_ne!(code, 0, "{stderr}");
    assert!(
        !stderr.contains('\x1b') && !stderr.contains('\r'),
        "{stderr:?}"
    );
    rest.send(()).unwrap();
    run.wait_for_output("2097152");
    assert_eq!(run.end(), Some(5));
    let mut logs = others.remove(0);
    logs.wait_for_output("2097152");
    assert_eq!(logs.end(), Some(0));
    // It may come too late for so short a task.
    others.remove(0).end();
    for screen in [run.output(), logs.output()] {
        let (_, after) = screen.rsplit_once("MiB").unwrap();
        assert!(after.contains("\r\x1b[K"), "the line stays: {screen:?}");
    }
}
