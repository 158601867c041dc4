//! What an agent tells of the use of its tasks.

use std::time::Duration;

use super::runs;
use crate::host::{Agent, Host, content};
use crate::master::{FRAMEWORK, Master, kill, shell};

/// The processor time that Prometheus is told of a task; `None` if it is told nothing.
async fn told(agent: &Agent, task: &str) -> Option<f64> {
    let (status, text) = agent.get("/metrics").await;
    assert_eq!(status, 200, "{text}");
    let begin =
        format!("argosy_task_cpu_seconds_total{{framework=\"{FRAMEWORK}\",task=\"{task}\"}} ");
    let value = text.lines().find_map(|line| line.strip_prefix(&begin));
    value.map(|value| value.parse().unwrap())
}

pub(super) async fn what_a_task_uses_is_told_to_people_and_to_prometheus_while_it_runs() {
    let (host, mut master) = (Host::new(), Master::start().await);
    let agent = host.agent(master.address).await;
    let (mut link, _) = master.registered(true).await;
    link.launch(1, shell("t", "echo up > up; while :; do :; done"))
        .await;
    link.until("t", runs).await;
    content(&host.sandbox("t").join("up")).await;
    let usage = agent.containers().await[0]["usage"].clone();
    if nix::unistd::geteuid().is_root() {
        let first = usage["cpu_us"].as_u64().unwrap();
        for name in ["memory_bytes", "io", "pids", "cpu_pressure", "network"] {
            assert!(usage.get(name).is_some(), "{name} is not in {usage}");
        }
        assert!(usage["network"].is_null(), "it is in the host's: {usage}");
        let before = told(&agent, "t").await.unwrap();
        assert!(before >= first as f64 / 1e6, "{before} s after {first} us");
        while told(&agent, "t").await.unwrap() < before + 0.01 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    } else {
        // Nobody counts what a plain process uses.
        assert!(usage.is_null(), "{usage}");
    }
    link.order(2, kill("t", 0)).await;
    link.end_of("t").await;
    agent.is_clear().await;
    assert_eq!(told(&agent, "t").await, None, "one that has ended is gone");
    agent.stop().await;
}
