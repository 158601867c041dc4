//! Tests of health and readiness checks in real containers.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpListener};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::{Duration, Instant};

use argosy_proto::v1;
use argosy_proto::v1::check::Kind;

use super::{reason, runs, state};
use crate::host::TestHost;
use crate::master::{Master, TIMEOUT, in_hosts_network, shell};
use crate::running::{Agent, content};
use crate::tls;

super::cases!("checks":
    a_task_is_healthy_until_its_check_fails_and_then_killed,
    a_task_is_ready_while_its_port_answers_as_expected,
    an_https_check_passes_regardless_of_the_certificates_issuer,
    a_probe_that_times_out_has_failed_and_is_killed,
    a_restarted_agent_continues_checks_and_repeats_no_result,
);

/// Returns a check without a delay, ten times a second.
fn check(kind: Kind) -> v1::Check {
    v1::Check {
        kind: Some(kind),
        delay_ms: Some(0),
        interval_ms: Some(100),
        timeout_ms: Some(30_000),
    }
}

fn line(shell: &str) -> Kind {
    Kind::Command(v1::CommandCheck {
        shell: shell.into(),
        argv: Vec::new(),
    })
}

/// Returns a health check: two consecutive failures end the task, but none before the first
/// success.
fn healthy_while(shell: &str) -> v1::HealthCheck {
    v1::HealthCheck {
        check: Some(check(line(shell))),
        grace_ms: Some(60_000),
        failures: Some(2),
    }
}

/// Checks a file of the task; without it, the check prints a message and fails.
const UP: &str = "test -e up || { echo it is not up >&2; exit 3; }";

/// Returns the name of this counter.
fn checked(check: &str, kind: &str, result: &str) -> String {
    format!("argosy_agent_checks_total{{check=\"{check}\",kind=\"{kind}\",result=\"{result}\"}}")
}

/// Ends the agent, and its tasks with it.
async fn finish(agent: Agent) {
    agent.end_tasks.cancel();
    agent.ended().await.unwrap();
}

fn is_healthy(update: &v1::NumberedUpdate) -> bool {
    update.healthy == Some(true)
}

pub(super) async fn a_task_is_healthy_until_its_check_fails_and_then_killed() {
    let (host, mut master) = (TestHost::new(), Master::start().await);
    let agent = host.agent(master.address).await;
    let (mut link, _) = master.registered(true).await;
    let spec = v1::TaskSpec {
        health_check: Some(healthy_while(UP)),
        ..shell("t", "sleep 0.2; echo x > up; exec sleep 600")
    };
    let kills = agent.counted("argosy_agent_health_kills_total").await;
    link.launch(1, spec).await;
    let updates = link.until("t", is_healthy).await;
    let first = updates.last().unwrap();
    assert_eq!(first.reason(), v1::Reason::HealthCheckStatusUpdated);
    assert_eq!((state(first), first.ready), (v1::TaskState::Running, None));
    std::fs::remove_file(host.sandbox("t").join("up")).unwrap();
    let updates = link.end_of("t").await;
    let states: Vec<_> = updates.iter().map(state).collect();
    let expected = [
        v1::TaskState::Running,
        v1::TaskState::Running,
        v1::TaskState::Running,
        v1::TaskState::Killing,
        v1::TaskState::Failed,
    ];
    assert_eq!(states, expected);
    assert!(
        updates[2..]
            .iter()
            .all(|update| update.healthy == Some(false))
    );
    let why = "it exited with code 3: it is not up";
    assert_eq!(updates[2].text, format!("unhealthy: {why}"));
    for update in &updates[3..] {
        assert_eq!(reason(update), v1::Reason::HealthCheckFailed);
        assert!(update.text.contains(why), "{}", update.text);
    }
    let now = agent.counted("argosy_agent_health_kills_total").await;
    assert_eq!(now, kills + 1);
    agent.is_clear().await;
    agent.stop().await;
}

/// Answers each request with this status during the test.
fn serve(listener: TcpListener) -> Arc<AtomicU16> {
    let status = Arc::new(AtomicU16::new(503));
    let reported = status.clone();
    std::thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            let mut asked = [0; 1024];
            if stream.read(&mut asked).is_ok_and(|count| count > 0) {
                let status = reported.load(Ordering::SeqCst);
                // The client may have disconnected.
                let _ = write!(stream, "HTTP/1.1 {status} So\r\n\r\n");
            }
        }
    });
    status
}

pub(super) async fn a_task_is_ready_while_its_port_answers_as_expected() {
    let (host, mut master) = (TestHost::new(), Master::start().await);
    let agent = host.agent_that_opens(master.address).await;
    let (mut link, _) = master.registered(true).await;
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let port = listener.local_addr().unwrap().port();
    let http = Kind::Http(v1::HttpCheck {
        port: port.into(),
        path: "/ready".into(),
        statuses: vec![204],
        tls: false,
    });
    let tcp = v1::HealthCheck {
        check: Some(check(Kind::Tcp(v1::TcpCheck { port: port.into() }))),
        ..v1::HealthCheck::default()
    };
    let status = serve(listener);
    let spec = v1::TaskSpec {
        readiness_check: Some(check(http)),
        health_check: Some(tcp),
        ..shell("t", "exec sleep 600")
    };
    link.launch(1, in_hosts_network(spec)).await;
    // Each reports its result, whichever was first.
    let both = |ready| {
        move |update: &v1::NumberedUpdate| {
            update.healthy == Some(true) && update.ready == Some(ready)
        }
    };
    link.until("t", both(false)).await;
    // 200 passes for others, not for this one.
    status.store(200, Ordering::SeqCst);
    tokio::time::sleep(Duration::from_millis(300)).await;
    status.store(204, Ordering::SeqCst);
    let updates = link.until("t", both(true)).await;
    let reports = updates.iter().filter(|update| update.ready.is_some());
    let reported: Vec<_> = reports.map(|update| update.ready).collect();
    assert!(
        reported.is_sorted(),
        "it was not ready before: {reported:?}"
    );
    let last = updates.last().unwrap();
    assert_eq!(last.reason(), v1::Reason::ReadinessCheckStatusUpdated);
    assert!(updates.iter().any(|update| update.text.contains("503")));
    finish(agent).await;
}

/// Answers each request over HTTPS, first with a failure, with success once the file exists.
fn serve_securely(listener: TcpListener, well: PathBuf) {
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let status = if well.exists() { "200 So" } else { "503 No" };
            let answer = format!("HTTP/1.1 {status}\r\n\r\n");
            // The client may have disconnected.
            let _ = tls::answer(stream, &rustls::version::TLS13, &answer);
        }
    });
}

pub(super) async fn an_https_check_passes_regardless_of_the_certificates_issuer() {
    let (host, mut master) = (TestHost::new(), Master::start().await);
    let agent = host.agent_that_opens(master.address).await;
    let (mut link, _) = master.registered(true).await;
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let port = listener.local_addr().unwrap().port();
    let well = host.directory.path().join("well");
    serve_securely(listener, well.clone());
    let https = Kind::Http(v1::HttpCheck {
        port: port.into(),
        path: "/ready".into(),
        statuses: Vec::new(),
        tls: true,
    });
    let spec = v1::TaskSpec {
        readiness_check: Some(check(https)),
        ..shell("t", "exec sleep 600")
    };
    link.launch(1, in_hosts_network(spec)).await;
    let updates = link.until("t", |update| update.ready == Some(false)).await;
    let text = &updates.last().unwrap().text;
    assert!(
        text.ends_with("GET /ready: answered with status 503"),
        "{text}"
    );
    std::fs::write(&well, "").unwrap();
    let updates = link.until("t", |update| update.ready == Some(true)).await;
    // The last reported result is shown, with its time.
    let seen = agent.containers().await[0].clone();
    let expected = serde_json::json!({
        "passed": true,
        "since_ms": updates.last().unwrap().wall_ms,
    });
    assert_eq!(seen["ready"], expected);
    assert_eq!(seen.get("healthy"), None, "it has no such check: {seen}");
    for result in ["passed", "failed"] {
        assert!(agent.counted(&checked("readiness", "https", result)).await > 0);
    }
    finish(agent).await;
}

/// Whether a process runs `sleep` for this time.
fn sleeps(seconds: &str) -> bool {
    let all = std::fs::read_dir("/proc").unwrap().flatten();
    let mut lines = all.filter_map(|entry| std::fs::read(entry.path().join("cmdline")).ok());
    let wanted = format!("sleep\0{seconds}\0");
    lines.any(|line| line == wanted.as_bytes())
}

pub(super) async fn a_probe_that_times_out_has_failed_and_is_killed() {
    let (host, mut master) = (TestHost::new(), Master::start().await);
    let agent = host.agent(master.address).await;
    let (mut link, _) = master.registered(true).await;
    let [late, failed] =
        ["timed_out", "failed"].map(|result| checked("readiness", "command", result));
    let before = (agent.counted(&late).await, agent.counted(&failed).await);
    // Its sleep time distinguishes it from all others.
    let seconds = format!("5{}.25", std::process::id());
    let hangs = v1::Check {
        timeout_ms: Some(10_000),
        interval_ms: Some(600_000),
        ..check(line(&format!("echo x > began; exec sleep {seconds}")))
    };
    let spec = v1::TaskSpec {
        readiness_check: Some(hangs),
        ..shell("t", "exec sleep 600")
    };
    link.launch(1, spec).await;
    link.until("t", runs).await;
    content(&host.sandbox("t").join("began")).await;
    let deadline = Instant::now() + TIMEOUT;
    while !sleeps(&seconds) {
        assert!(Instant::now() < deadline, "it does not sleep");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let updates = link.until("t", |update| update.ready == Some(false)).await;
    let text = &updates.last().unwrap().text;
    assert_eq!(text, "not ready: no answer within 10000 ms");
    let deadline = Instant::now() + TIMEOUT;
    while agent.counted(&late).await == before.0 {
        assert!(Instant::now() < deadline, "it is not counted");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert_eq!(agent.counted(&failed).await, before.1, "it counts once");
    let deadline = Instant::now() + TIMEOUT;
    while sleeps(&seconds) {
        assert!(Instant::now() < deadline, "it still sleeps");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    finish(agent).await;
}

pub(super) async fn a_restarted_agent_continues_checks_and_repeats_no_result() {
    let (host, mut master) = (TestHost::new(), Master::start().await);
    let agent = host.agent(master.address).await;
    let (mut link, _) = master.registered(true).await;
    let spec = v1::TaskSpec {
        health_check: Some(healthy_while(&format!("echo x >> looks; {UP}"))),
        ..shell("t", "echo x > up; exec sleep 600")
    };
    link.launch(1, spec).await;
    let known = link.until("t", is_healthy).await.len() as u64;
    agent.stop().await;
    drop(link);
    let looks = host.sandbox("t").join("looks");
    let before = content(&looks).await.len();
    let again = host.agent(master.address).await;
    let (mut link, _) = master.registered(true).await;
    let deadline = Instant::now() + TIMEOUT;
    while content(&looks).await.len() < before + 4 {
        assert!(Instant::now() < deadline, "no probe runs");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    std::fs::remove_file(host.sandbox("t").join("up")).unwrap();
    let updates = link.end_of("t").await;
    // Updates that may not have been committed are repeated; a new update reports the changes
    // since.
    let first = updates.iter().find(|update| update.number > known).unwrap();
    assert_eq!(first.number, known + 1);
    assert_eq!(
        (state(first), first.healthy),
        (v1::TaskState::Running, Some(false))
    );
    let last = updates.last().unwrap();
    assert_eq!(reason(last), v1::Reason::HealthCheckFailed);
    again.is_clear().await;
    again.stop().await;
}
