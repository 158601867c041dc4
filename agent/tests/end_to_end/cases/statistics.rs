//! Tests of an agent's reports of the resource usage of its tasks.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpStream};
use std::time::Duration;

use argosy_proto::v1;
use argosy_proto::v1::network::Mode;

use super::{on_a_host_of_its_own, runs};
use crate::host::TestHost;
use crate::master::{FRAMEWORK, Master, TIMEOUT, in_hosts_network, kill, shell};
use crate::running::{Agent, content};

super::cases!("statistics":
    network_traffic_of_a_task_is_reported_in_json_and_metrics,
    resource_usage_of_a_running_task_is_reported_in_json_and_metrics,
);

/// Returns a task's processor time in the Prometheus output; `None` if it is missing.
async fn metric_of(agent: &Agent, task: &str) -> Option<f64> {
    metric(agent, "argosy_task_cpu_seconds_total", task, "").await
}

/// Returns a task's metric in the Prometheus output, with these further labels.
async fn metric(agent: &Agent, name: &str, task: &str, labels: &str) -> Option<f64> {
    let (status, text) = agent.get("/metrics").await;
    assert_eq!(status, 200, "{text}");
    let begin = format!("{name}{{framework=\"{FRAMEWORK}\",task=\"{task}\"{labels}}} ");
    let value = text.lines().find_map(|line| line.strip_prefix(&begin));
    value.map(|value| value.parse().unwrap())
}

pub(super) async fn resource_usage_of_a_running_task_is_reported_in_json_and_metrics() {
    let (host, mut master) = (TestHost::new(), Master::start().await);
    let agent = host.agent_that_opens(master.address).await;
    let (mut link, _) = master.registered(true).await;
    let busy = shell("t", "echo up > up; while :; do :; done");
    link.launch(1, in_hosts_network(busy)).await;
    link.until("t", runs).await;
    content(&host.sandbox("t").join("up")).await;
    let usage = agent.containers().await[0]["usage"].clone();
    if nix::unistd::geteuid().is_root() {
        let first = usage["cpu_us"].as_u64().unwrap();
        for name in ["memory_bytes", "io", "pids", "cpu_pressure", "network"] {
            assert!(usage.get(name).is_some(), "{name} is not in {usage}");
        }
        assert!(usage["network"].is_null(), "it is in the host's: {usage}");
        let before = metric_of(&agent, "t").await.unwrap();
        assert!(before >= first as f64 / 1e6, "{before} s after {first} us");
        while metric_of(&agent, "t").await.unwrap() < before + 0.01 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    } else {
        // The usage of a plain process is not counted.
        assert!(usage.is_null(), "{usage}");
    }
    link.order(2, kill("t", 0)).await;
    link.end_of("t").await;
    agent.is_clear().await;
    assert_eq!(
        metric_of(&agent, "t").await,
        None,
        "one that has ended is gone"
    );
    agent.stop().await;
}

/// Receives 100,000 bytes and sends 50,000, once.
const TRADER: &str = r#"exec python3 -c "
import socket
hearing = socket.create_server(('', 8080))
open('up', 'w').write('up')
trade, _ = hearing.accept()
left = 100000
while left: left -= len(trade.recv(left))
trade.sendall(b'x' * 50000)
trade.recv(1)
hearing.accept()
""#;
const PUBLISHED: u16 = 31_080;

fn trade() {
    let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, PUBLISHED)).unwrap();
    stream.set_read_timeout(Some(TIMEOUT)).unwrap();
    stream.write_all(&[b'x'; 100_000]).unwrap();
    stream.read_exact(&mut [0; 50_000]).unwrap();
}

/// Checks the changes in the traffic counters of the only task.
async fn traded(agent: &Agent) {
    let before = agent.containers().await[0]["usage"]["network"].clone();
    let bytes = |network: &serde_json::Value, way: &str| network[way]["bytes"].as_u64().unwrap();
    assert!(bytes(&before, "received") < 50_000, "{before}");
    tokio::task::spawn_blocking(trade).await.unwrap();
    let after = agent.containers().await[0]["usage"]["network"].clone();
    let grown = |way: &str| bytes(&after, way) - bytes(&before, way);
    // With headers and acknowledgements, and each direction separately.
    assert!((100_000..150_000).contains(&grown("received")), "{after}");
    assert!((50_000..100_000).contains(&grown("sent")), "{after}");
    for (way, direction) in [("received", "receive"), ("sent", "send")] {
        let labels = format!(",direction=\"{direction}\"");
        let name = "argosy_task_network_bytes_total";
        let reported = metric(agent, name, "t", &labels).await.unwrap();
        // Only the end of the exchange follows.
        let least = bytes(&after, way) as f64;
        assert!(
            (least..least + 10_000.0).contains(&reported),
            "{reported} {after}"
        );
        let packets = after[way]["packets"].as_u64().unwrap() as f64;
        let name = "argosy_task_network_packets_total";
        let reported = metric(agent, name, "t", &labels).await.unwrap();
        assert!(reported >= packets && packets > 3.0, "{reported} {after}");
    }
}

async fn usage_is_reported() {
    let (host, mut master) = (TestHost::new(), Master::start().await);
    let agent = host.agent(master.address).await;
    let (mut link, _) = master.registered(true).await;
    let bridge = v1::BridgeNetwork {
        published: vec![v1::PublishedPort {
            host_port: PUBLISHED.into(),
            container_port: 8080,
            udp: false,
        }],
    };
    let spec = v1::TaskSpec {
        container: Some(v1::ContainerSpec {
            network: Some(v1::Network {
                mode: Some(Mode::Bridge(bridge)),
            }),
            ..v1::ContainerSpec::default()
        }),
        ..shell("t", TRADER)
    };
    link.launch(1, spec).await;
    link.until("t", runs).await;
    let up = host.sandbox("t").join("up");
    let all = async {
        content(&up).await;
        traded(&agent).await;
    };
    link.answer_during(all).await;
    link.order(2, kill("t", 0)).await;
    link.end_of("t").await;
    agent.is_clear().await;
    let labels = ",direction=\"send\"";
    let reported = metric(&agent, "argosy_task_network_bytes_total", "t", labels).await;
    assert_eq!(reported, None, "one that has ended is gone");
    agent.stop().await;
}

pub(super) async fn network_traffic_of_a_task_is_reported_in_json_and_metrics() {
    on_a_host_of_its_own(usage_is_reported).await;
}
