//! Tests against servers in this process: servers that answer, servers that do not, and servers
//! with other responses.

use std::net::TcpListener;

use super::*;

#[path = "../../../tests/tls/server.rs"]
mod server;

#[test]
fn a_status_is_read_from_a_whole_line_of_http_only() {
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
fn what_is_expected_is_well_and_else_from_200_to_399() {
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
fn what_would_smuggle_a_header_or_ask_nobody_is_refused() {
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
fn asked(answer: &'static [u8], kind: ProbeKind) -> ProbeResult {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let port = listener.local_addr().unwrap().port();
    let server = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        stream.write_all(answer).unwrap();
        // Until the client closes the connection.
        let _ = stream.read_to_end(&mut Vec::new());
    });
    let timeout_ms = 300;
    let verdict = Probe {
        port,
        timeout_ms,
        kind,
    }
    .ask();
    server.join().unwrap();
    verdict
}

fn get(scheme: Scheme) -> ProbeKind {
    ProbeKind::Http {
        scheme,
        path: "/".into(),
        statuses: BTreeSet::new(),
    }
}

/// Sends an HTTPS probe to a server that `serve` runs.
fn asked_securely(serve: impl FnOnce(TcpStream) + Send + 'static, timeout_ms: u64) -> ProbeResult {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let port = listener.local_addr().unwrap().port();
    let server = std::thread::spawn(move || serve(listener.accept().unwrap().0));
    let kind = get(Scheme::Https);
    let probe = Probe {
        port,
        timeout_ms,
        kind,
    };
    let verdict = probe.ask();
    server.join().unwrap();
    verdict
}

/// Returns the reason of a failure.
fn reason(verdict: ProbeResult) -> String {
    match verdict {
        ProbeResult::Fail { reason } => reason,
        ProbeResult::Pass => panic!("it passed"),
    }
}

const PATIENCE_MS: u64 = 30_000;

#[test]
fn an_answer_over_tls_is_judged_like_any_other_whoever_gives_it() {
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
            let verdict = asked_securely(serve, PATIENCE_MS);
            match is_well {
                true => assert_eq!(verdict, ProbeResult::Pass),
                false => assert!(reason(verdict).ends_with("GET /: answered with status 503")),
            }
        }
    }
}

#[test]
fn who_does_not_speak_tls_is_not_well_in_words() {
    let plain = |mut stream: TcpStream| {
        stream.write_all(b"HTTP/1.1 200 OK\r\n\r\n").unwrap();
        let _ = stream.read_to_end(&mut Vec::new());
    };
    let told = reason(asked_securely(plain, PATIENCE_MS));
    assert!(told.contains("cannot agree on TLS: "), "{told}");
    let told = reason(asked_securely(drop, PATIENCE_MS));
    assert!(told.contains("cannot agree on TLS: "), "{told}");
}

#[test]
fn who_is_silent_or_never_comes_to_an_end_has_not_answered_in_time() {
    let silent = |mut stream: TcpStream| {
        let _ = stream.read_to_end(&mut Vec::new());
    };
    let told = reason(asked_securely(silent, 300));
    assert!(told.ends_with("no answer within 300 ms"), "{told}");
    // The header of a record of the maximum size, and then one byte at intervals.
    let dripping = |mut stream: TcpStream| {
        let _ = stream.write_all(&[22, 3, 3, 0x40, 0]);
        while stream.write_all(&[2]).is_ok() {
            std::thread::sleep(Duration::from_millis(5));
        }
    };
    let told = reason(asked_securely(dripping, 300));
    assert!(told.ends_with("no answer within 300 ms"), "{told}");
}

#[test]
fn an_answer_is_judged_without_waiting_for_its_end() {
    let http = || get(Scheme::Http);
    assert_eq!(
        asked(b"HTTP/1.1 204 No Content\r\n", http()),
        ProbeResult::Pass
    );
    let ProbeResult::Fail { reason } = asked(b"HTTP/1.1 503 Busy\r\n", http()) else {
        panic!("it is not well")
    };
    assert!(
        reason.ends_with("GET /: answered with status 503"),
        "{reason}"
    );
    let ProbeResult::Fail { reason } = asked(b"HTTP/1.1 20", http()) else {
        panic!("it never came")
    };
    assert!(reason.ends_with("no answer within 300 ms"), "{reason}");
    assert_eq!(asked(b"", ProbeKind::Tcp), ProbeResult::Pass);
}

#[test]
fn where_nobody_listens_nobody_is_well() {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let port = listener.local_addr().unwrap().port();
    drop(listener);
    let probe = Probe {
        port,
        timeout_ms: 1000,
        kind: ProbeKind::Tcp,
    };
    let ProbeResult::Fail { reason } = probe.ask() else {
        panic!("nobody listens")
    };
    assert!(reason.contains("cannot connect"), "{reason}");
}
