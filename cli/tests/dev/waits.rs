//! Commands on a terminal that show what they wait for, without a cluster.

use std::net::TcpListener;

use crate::cluster::argosy;
use crate::terminal::TestTerminal;

/// Returns an address of this host that is free now.
fn free_address() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    listener.local_addr().unwrap().to_string()
}

#[test]
fn a_rejoin_shows_that_it_waits_for_the_masters() {
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let masters = silent.local_addr().unwrap().to_string();
    let directory = tempfile::tempdir().unwrap();
    let (api, raft) = (free_address(), free_address());
    let words = ["master", "rejoin", "--masters", &masters, "--timeout", "5s"];
    let addresses = ["--listen", &api, "--raft-listen", &raft, "--peers", &raft];
    let plaintext = ["--insecure-plaintext"];
    let mut command = argosy(&[&words[..], &addresses, &plaintext].concat());
    command
        .arg("--data-dir")
        .arg(directory.path().join("master"));
    let mut terminal = TestTerminal::of(&command, 24, 100);
    let line = "waiting for an answer of the masters";
    terminal.wait_for_output(line);
    // The line is erased before the failure is written.
    terminal.wait_until("the failure without the line", |screen| {
        let (_, rest) = screen.rsplit_once(line).unwrap_or_default();
        rest.starts_with("\r\u{1b}[K") && rest.contains("unavailable")
    });
    assert_eq!(terminal.end(), Some(5), "{}", terminal.output());
}
