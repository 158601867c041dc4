//! Attacks by a web page whose name resolves to an address of the cluster: what its browser sends
//! to masters and agents.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::time::Duration;

use super::{Attempt, against_a_cluster, api, attack, words};

const ATTACKER: &str = "a web page";

/// Returns the first line of the answer to these lines. An answer of 400 and above is a rejection.
fn send(address: &str, lines: &[&str]) -> Attempt {
    let mut stream = TcpStream::connect(address).unwrap();
    stream
        .set_read_timeout(Some(Duration::from_secs(10)))
        .unwrap();
    let head = lines.join("\r\n") + "\r\n\r\n";
    stream.write_all(head.as_bytes()).unwrap();
    let mut answer = Vec::new();
    // A reset after the answer does not change it; an upgraded connection stays open.
    let mut byte = [0];
    while !answer.ends_with(b"\r\n") && stream.read(&mut byte).unwrap_or(0) == 1 {
        answer.push(byte[0]);
    }
    let line = String::from_utf8_lossy(&answer).trim().to_owned();
    let status = line
        .split_whitespace()
        .nth(1)
        .and_then(|status| status.parse::<u16>().ok());
    match status {
        Some(100..400) => Ok(line),
        _ => Err(line),
    }
}

fn by_names(server: &str, address: &str) {
    let get = "GET /metrics HTTP/1.1";
    let port = address.rsplit_once(':').unwrap().1;
    let own = format!("Host: {address}");
    let control = || send(address, &[get, &own]);
    let with_port = format!("Host: evil.example:{port}");
    let like_address = format!("Host: {}.evil.example", address.rsplit_once(':').unwrap().0);
    let whole = format!("GET http://evil.example:{port}/metrics HTTP/1.1");
    let cases: [(&str, Vec<&str>, &str); 10] = [
        ("its own name", vec![get, "Host: evil.example"], "421"),
        ("its own name and the port", vec![get, &with_port], "421"),
        (
            "a name that begins like an address",
            vec![get, &like_address],
            "421",
        ),
        (
            "a name that ends in localhost",
            vec![get, "Host: evil-localhost"],
            "421",
        ),
        (
            "a name below localhost",
            vec![get, "Host: evil.localhost.example"],
            "421",
        ),
        ("its name in the request line", vec![&whole, &own], "421"),
        ("two names", vec![get, &own, "Host: evil.example"], "400"),
        ("no name", vec![get], "400"),
        (
            "a name with a user",
            vec![get, "Host: localhost@evil.example"],
            "400",
        ),
        (
            "an old protocol",
            vec!["GET /metrics HTTP/1.0", "Host: evil.example"],
            "421",
        ),
    ];
    for (name, lines, because) in cases {
        attack(
            ATTACKER,
            &format!("{name}, to {server}"),
            because,
            send(address, &lines),
            control(),
        );
    }
}

/// A call as a page may send it: its content type does not prove the origin.
fn by_a_call(server: &str, address: &str) {
    let call = |host: &str| {
        let host = format!("Host: {host}");
        let get = "GET /metrics HTTP/1.1";
        send(address, &[get, &host, "Content-Type: application/grpc"])
    };
    let technique = format!("a call of the kind of gRPC, to {server}");
    attack(
        ATTACKER,
        &technique,
        "421",
        call("evil.example"),
        call(address),
    );
}

fn by_sockets(server: &str, address: &str, path: &str) {
    let get = format!("GET {path} HTTP/1.1");
    let own = format!("Host: {address}");
    let upgrade = |origin: &str| {
        let mut lines = vec![
            get.as_str(),
            own.as_str(),
            "Upgrade: websocket",
            "Sec-WebSocket-Version: 13",
            "Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==",
            "Sec-WebSocket-Protocol: argosy.v1.exec",
            "Connection: Upgrade",
        ];
        lines.extend((!origin.is_empty()).then_some(origin));
        lines
            .iter()
            .map(|line| (*line).to_owned())
            .collect::<Vec<_>>()
    };
    for (name, origin) in [
        ("a socket into a task", "Origin: http://evil.example"),
        (
            "a socket into a task, from a sandboxed frame",
            "Origin: null",
        ),
    ] {
        let lines = upgrade(origin);
        let lines: Vec<_> = lines.iter().map(String::as_str).collect();
        let own = upgrade("");
        let own: Vec<_> = own.iter().map(String::as_str).collect();
        // The task does not exist: only an authorized caller learns that.
        let control = send(address, &own);
        let control = match control {
            Err(line) if line.contains("404") => Ok(line),
            other => other,
        };
        attack(
            ATTACKER,
            &format!("{name}, to {server}"),
            "403",
            send(address, &lines),
            control,
        );
    }
}

#[test]
fn requests_of_web_pages_under_other_names_are_rejected() {
    // What TLS stops before is not shown here.
    against_a_cluster(42, words(&["--insecure-plaintext"]), |cluster| {
        let (master, agent) = (api(cluster, "master"), api(cluster, "agent"));
        by_names("a master", &master);
        by_names("an agent", &agent);
        by_a_call("a master", &master);
        by_a_call("an agent", &agent);
        by_sockets(
            "an agent",
            &agent,
            "/v1/exec?task=framework-9/none&argument=true",
        );
        let (_, listed, _) = cluster.run(&["agent", "list", "-o", "json"]);
        let id = listed
            .split('"')
            .find(|word| word.starts_with("agent-"))
            .unwrap()
            .to_owned();
        by_sockets(
            "a master",
            &master,
            &format!("/v1/agents/{id}/exec?task=framework-9/none&argument=true"),
        );
    });
}
