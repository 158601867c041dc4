//! Tests of the ports that tasks publish on their agent's host.

use std::net::{Ipv4Addr, UdpSocket};
use std::process::Command;
use std::time::{Duration, Instant};

use argosy_proto::v1;
use argosy_proto::v1::network::Mode;

use super::{on_a_host_of_its_own, runs};
use crate::host::TestHost;
use crate::master::{Master, TIMEOUT, is_terminal, kill, shell};

super::cases!("published_ports":
    a_udp_client_reaches_the_task_that_publishes_its_port_now,
    a_port_is_published_again_as_soon_as_its_task_has_ended,
);

/// The address of the host and of its client. Not loopback: the kernel itself forgets flows that it
/// masquerades, as those from loopback, when the device of their container is removed.
const HOST: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);
const PORT: u16 = 8053;

/// Answers each datagram with its name.
const SERVE: &str = "import socket, sys
served = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
served.bind((\"\", 53))
while True:
    client = served.recvfrom(100)[1]
    served.sendto(sys.argv[1].encode(), client)";

/// Returns a task that answers with its name at the host's UDP port.
fn named_by_udp(task: &str) -> v1::TaskSpec {
    let command = format!("exec /usr/bin/python3 -c '{SERVE}' {task}");
    publishing(task, PORT, &command)
}

/// Returns a task to whose UDP port 53 this port of the host leads.
pub(super) fn publishing(task: &str, host_port: u16, command: &str) -> v1::TaskSpec {
    let published = v1::PublishedPort {
        host_port: u32::from(host_port),
        container_port: 53,
        udp: true,
    };
    let mode = Some(Mode::Bridge(v1::BridgeNetwork {
        published: vec![published],
    }));
    let container = v1::ContainerSpec {
        network: Some(v1::Network { mode }),
        ..v1::ContainerSpec::default()
    };
    let port = u64::from(host_port);
    let range = vec![v1::Range {
        begin: port,
        end: port,
    }];
    v1::TaskSpec {
        container: Some(container),
        resources: vec![v1::Resource {
            name: "ports".into(),
            value: Some(v1::resource::Value::Ranges(v1::Ranges { range })),
            ..v1::Resource::default()
        }],
        ..shell(task, command)
    }
}

/// Sends from the client's port until this task answers.
async fn reached(client: &UdpSocket, task: &str) {
    let deadline = Instant::now() + TIMEOUT;
    let mut answer = [0; 100];
    loop {
        // The first fails while no task has the port, the second while the task starts.
        let received = client.send(b"who").and_then(|_| client.recv(&mut answer));
        if received.is_ok_and(|length| &answer[..length] == task.as_bytes()) {
            return;
        }
        assert!(Instant::now() < deadline, "{task} is not reached");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

pub(super) async fn a_udp_client_reaches_the_task_that_publishes_its_port_now() {
    // The broker of an agent that has given up root may make fewer system calls.
    on_a_host_of_its_own(followed).await;
}

pub(super) async fn a_port_is_published_again_as_soon_as_its_task_has_ended() {
    on_a_host_of_its_own(relaunched).await;
}

/// The masters offer the ports of a task once its end is reported, before its container is removed.
/// The removals of many containers wait for each other.
async fn relaunched() {
    const TASKS: u64 = 24;
    let (host, mut master) = (TestHost::new(), Master::start().await);
    let agent = host.divided(master.address);
    let (mut link, _) = master.registered(true).await;
    let named = |generation: &str, port: u64| {
        let host_port = u16::try_from(port).unwrap() + PORT;
        publishing(&format!("{generation}-{port}"), host_port, "exec sleep 600")
    };
    for port in 1..=TASKS {
        link.launch(port, named("former", port)).await;
    }
    for port in 1..=TASKS {
        link.until(&format!("former-{port}"), runs).await;
    }
    for port in 1..=TASKS {
        let killed = kill(&format!("former-{port}"), 0);
        link.order(TASKS + port, killed).await;
    }
    let (mut orders, mut running) = (2 * TASKS, 0);
    while running < TASKS {
        for update in link.news().await {
            let (generation, port) = update.task_id.split_once('-').unwrap();
            if generation == "former" && is_terminal(&update) {
                orders += 1;
                link.launch(orders, named("next", port.parse().unwrap()))
                    .await;
            } else if generation == "next" {
                assert!(!is_terminal(&update), "{port}: {}", update.text);
                running += u64::from(runs(&update));
            }
        }
    }
    for port in 1..=TASKS {
        orders += 1;
        link.order(orders, kill(&format!("next-{port}"), 0)).await;
    }
    for port in 1..=TASKS {
        link.end_of(&format!("next-{port}")).await;
    }
    agent.stop().await;
}

async fn followed() {
    let mut addressed = Command::new("ip");
    addressed.args(["address", "add", &format!("{HOST}/32"), "dev", "lo"]);
    assert!(addressed.status().unwrap().success());
    let (host, mut master) = (TestHost::new(), Master::start().await);
    let agent = host.divided(master.address);
    let (mut link, _) = master.registered(true).await;
    let client = UdpSocket::bind((HOST, 0)).unwrap();
    let limit = Some(Duration::from_millis(100));
    client.set_read_timeout(limit).unwrap();
    client.connect((HOST, PORT)).unwrap();
    for (index, task) in [(1, "first"), (3, "second")] {
        link.launch(index, named_by_udp(task)).await;
        let started = |update: &v1::NumberedUpdate| runs(update) || is_terminal(update);
        let updates = link.until(task, started).await;
        let last = updates.last().unwrap();
        assert!(runs(last), "{}", last.text);
        reached(&client, task).await;
        link.order(index + 1, kill(task, 0)).await;
        link.end_of(task).await;
        agent.is_clear().await;
    }
    agent.stop().await;
}
