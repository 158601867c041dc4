//! Tests against servers in this process: servers that answer, servers that do not, and servers
//! with other responses.

use std::net::TcpListener;

use super::*;

#[path = "../../../../tests/tls/server.rs"]
mod server;

#[test]
fn a_status_requires_a_complete_http_status_line() {
    assert_eq!(status(b"HTTP/1.1 200 OK\r\nServer: x\r\n"), Some(200));
    assert_eq!(status(b"HTTP/1.0 404\n"), Some(404));
    for garbage in [
        &b"HTTP/1.1 200 OK"[..],
        b"HTTP/1.1 2000 OK\r\n",
        b"HTTP/1.1 +20 OK\r\n",
        b"HTTP/1.1 20\r\n",
        b"HTTP/2 200\r\n",
        b"SSH-2.0-OpenSSH_9\r\n",
        b"\xff\xfe\r\n",
        b"\n",
        b"",
    ] {
        assert_eq!(status(garbage), None, "{garbage:?}");
    }
}

#[test]
fn expected_statuses_pass_and_200_to_399_by_default() {
    let is_well = |status: u16, expected: &[u16]| {
        let line = format!("HTTP/1.1 {status} X\r\n");
        evaluate_response(line.as_bytes(), &expected.iter().copied().collect()).is_ok()
    };
    for (status, wanted) in [(199, false), (200, true), (399, true), (400, false)] {
        assert_eq!(is_well(status, &[]), wanted, "{status}");
    }
    for (status, wanted) in [(200, false), (204, true), (404, true), (400, false)] {
        assert_eq!(is_well(status, &[204, 404]), wanted, "{status}");
    }
}

#[test]
fn invalid_paths_and_port_zero_are_rejected() {
    let probe = |port, path: &str| Probe {
        port,
        timeout_ms: 1,
        kind: ProbeKind::Http {
            scheme: Scheme::Http,
            path: path.into(),
            statuses: BTreeSet::new(),
        },
    };
    assert!(probe(80, "/health?deep=1").check().is_ok());
    for path in ["", "health", "/a b", "/a\r\nX: y", "/\u{e4}"] {
        assert!(probe(80, path).check().is_err(), "{path:?}");
    }
    assert!(
        probe(80, &format!("/{}", "a".repeat(2048)))
            .check()
            .is_err()
    );
    assert!(probe(0, "/").check().is_err());
}

/// Answers one connection with these bytes, then keeps it open until the client closes it.
fn run_probe(answer: &'static [u8], kind: ProbeKind, timeout_ms: u64) -> ProbeResult {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let port = listener.local_addr().unwrap().port();
    let server = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        stream.write_all(answer).unwrap();
        // Until the client closes the connection.
        let _ = stream.read_to_end(&mut Vec::new());
    });
    let probed = Probe {
        port,
        timeout_ms,
        kind,
    }
    .run();
    server.join().unwrap();
    probed
}

fn get(scheme: Scheme) -> ProbeKind {
    ProbeKind::Http {
        scheme,
        path: "/".into(),
        statuses: BTreeSet::new(),
    }
}

/// Sends an HTTPS probe to a server that `serve` runs.
fn probe_tls(serve: impl FnOnce(TcpStream) + Send + 'static, timeout_ms: u64) -> ProbeResult {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let port = listener.local_addr().unwrap().port();
    let server = std::thread::spawn(move || serve(listener.accept().unwrap().0));
    let kind = get(Scheme::Https);
    let probe = Probe {
        port,
        timeout_ms,
        kind,
    };
    let probed = probe.run();
    server.join().unwrap();
    probed
}

/// Returns the reason of a failure.
fn reason(result: ProbeResult) -> String {
    match result {
        ProbeResult::Fail { reason } => reason,
        ProbeResult::Pass => panic!("it passed"),
    }
}

const TIMEOUT_MS: u64 = 30_000;

#[test]
fn responses_over_tls_pass_without_certificate_verification() {
    for version in [&rustls::version::TLS12, &rustls::version::TLS13] {
        for (status, is_well) in [("204 No Content", true), ("503 Busy", false)] {
            let serve = move |stream| {
                let answer = format!("HTTP/1.1 {status}\r\nServer: x\r\n\r\n");
                let asked = server::answer(stream, version, &answer).unwrap();
                assert!(
                    asked.starts_with("GET / HTTP/1.1\r\nHost: 127.0.0.1:"),
                    "{asked}"
                );
            };
            let probed = probe_tls(serve, TIMEOUT_MS);
            match is_well {
                true => assert_eq!(probed, ProbeResult::Pass),
                false => assert!(reason(probed).ends_with("GET /: answered with status 503")),
            }
        }
    }
}

#[test]
fn a_server_without_tls_fails_with_a_reason() {
    let plain = |mut stream: TcpStream| {
        stream.write_all(b"HTTP/1.1 200 OK\r\n\r\n").unwrap();
        let _ = stream.read_to_end(&mut Vec::new());
    };
    let reported = reason(probe_tls(plain, TIMEOUT_MS));
    assert!(reported.contains("cannot agree on TLS: "), "{reported}");
    let reported = reason(probe_tls(drop, TIMEOUT_MS));
    assert!(reported.contains("cannot agree on TLS: "), "{reported}");
}

#[test]
fn silent_and_endless_responses_time_out() {
    let silent = |mut stream: TcpStream| {
        let _ = stream.read_to_end(&mut Vec::new());
    };
    let reported = reason(probe_tls(silent, 300));
    assert!(reported.ends_with("no answer within 300 ms"), "{reported}");
    // The header of a record of the maximum size, and then one byte at intervals.
    let dripping = |mut stream: TcpStream| {
        let _ = stream.write_all(&[22, 3, 3, 0x40, 0]);
        while stream.write_all(&[2]).is_ok() {
            std::thread::sleep(Duration::from_millis(5));
        }
    };
    let reported = reason(probe_tls(dripping, 300));
    assert!(reported.ends_with("no answer within 300 ms"), "{reported}");
}

#[test]
fn a_response_is_evaluated_before_its_end() {
    let http = || get(Scheme::Http);
    assert_eq!(
        run_probe(b"HTTP/1.1 204 No Content\r\n", http(), TIMEOUT_MS),
        ProbeResult::Pass
    );
    let ProbeResult::Fail { reason } = run_probe(b"HTTP/1.1 503 Busy\r\n", http(), TIMEOUT_MS)
    else {
        panic!("it is not well")
    };
    assert!(
        reason.ends_with("GET /: answered with status 503"),
        "{reason}"
    );
    let ProbeResult::Fail { reason } = run_probe(b"HTTP/1.1 20", http(), 300) else {
        panic!("it never came")
    };
    assert!(reason.ends_with("no answer within 300 ms"), "{reason}");
    assert_eq!(
        run_probe(b"", ProbeKind::Tcp, TIMEOUT_MS),
        ProbeResult::Pass
    );
}

#[test]
fn a_port_without_a_listener_fails() {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let port = listener.local_addr().unwrap().port();
    drop(listener);
    let probe = Probe {
        port,
        timeout_ms: 1000,
        kind: ProbeKind::Tcp,
    };
    let ProbeResult::Fail { reason } = probe.run() else {
        panic!("no server listens")
    };
    assert!(reason.contains("cannot connect"), "{reason}");
}
