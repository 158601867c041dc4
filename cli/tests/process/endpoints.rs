//! Answers of every master's port other than gRPC calls: health, reflection, JSON, and rejections.

use std::time::Duration;

use argosy_proto::v1;
use argosy_proto::v1::scheduler_client::SchedulerClient;
use argosy_testbed::command_lines::{MasterFlags, MemberTransport};
use argosy_testbed::loopback::free_addresses;
use futures::stream;
use tonic::transport::{Channel, Endpoint};
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;
use tonic_reflection::pb::v1::ServerReflectionRequest;
use tonic_reflection::pb::v1::server_reflection_client::ServerReflectionClient;
use tonic_reflection::pb::v1::server_reflection_request::MessageRequest;
use tonic_reflection::pb::v1::server_reflection_response::MessageResponse;

use crate::cluster::{Cluster, member, wait_until};
use crate::test_framework::TestFramework;

const LONG: Duration = Duration::from_secs(30);

const SERVICES: [&str; 5] = [
    "argosy.v1.Agents",
    "argosy.v1.Leadership",
    "argosy.v1.Operator",
    "argosy.v1.Reigns",
    "argosy.v1.Scheduler",
];

#[tokio::test(flavor = "multi_thread")]
async fn every_master_reports_its_services_and_rejects_other_protocols() {
    let cluster = Cluster::start(1).await;
    let framework = TestFramework::start(cluster.masters_list(), "asker").await;
    for master in &cluster.masters {
        let endpoint = Endpoint::from_shared(format!("http://{}", master.api())).unwrap();
        let channel = endpoint.connect().await.unwrap();
        healthy(channel.clone()).await;
        reflected(channel.clone()).await;
        another_protocol_is_refused(channel).await;
        json_errors_have_one_shape(&master.api()).await;
        json_explains(&master.api(), &framework.id()).await;
        shows_itself(&master.api()).await;
    }
    shows_itself(&format!("{}:5051", cluster.agents[0].address)).await;
}

async fn healthy(channel: Channel) {
    let mut client = HealthClient::new(channel);
    for service in SERVICES {
        let request = HealthCheckRequest {
            service: service.to_owned(),
        };
        wait_until(&format!("{service} is served"), LONG, async || {
            let reply = client.check(request.clone()).await.unwrap().into_inner();
            (reply.status() == ServingStatus::Serving).then_some(())
        })
        .await;
    }
}

async fn reflected(channel: Channel) {
    let question = ServerReflectionRequest {
        host: String::new(),
        message_request: Some(MessageRequest::ListServices(String::new())),
    };
    let mut answers = ServerReflectionClient::new(channel)
        .server_reflection_info(stream::iter([question]))
        .await
        .unwrap()
        .into_inner();
    let answer = answers.message().await.unwrap().expect("an answer comes");
    let Some(MessageResponse::ListServicesResponse(list)) = answer.message_response else {
        panic!("{answer:?}");
    };
    for service in SERVICES {
        let is_named = list.service.iter().any(|found| found.name == service);
        assert!(is_named, "{service} is not in {list:?}");
    }
}

async fn another_protocol_is_refused(channel: Channel) {
    let request = v1::SubscribeRequest {
        protocol: Some(v1::Protocol {
            version: 99,
            release: "9.9.9".to_owned(),
            ..Default::default()
        }),
        ..Default::default()
    };
    let status = SchedulerClient::new(channel)
        .subscribe(request)
        .await
        .expect_err("version 99 is not spoken");
    let output = status.message();
    assert!(
        output.contains("version 99") && output.contains("9.9.9") && output.contains("version 1:"),
        "{status}"
    );
}

/// Returns the answer of a master, with retries: on a busy machine, an election is possible at any
/// moment.
async fn get(url: &str) -> reqwest::Response {
    wait_until("a master answers", LONG, async || {
        let answer = reqwest::get(url).await.unwrap();
        (answer.status() != 503).then_some(answer)
    })
    .await
}

async fn json_errors_have_one_shape(api: &str) {
    for (path, status, code) in [
        ("/v1/agents/agent-99", 404, "NotFound"),
        ("/v1/agents/agent-99/files/browse", 404, "NotFound"),
        ("/v1/tasks?page_size=x", 400, "InvalidArgument"),
        ("/v1/frameworks/framework-99/explain", 404, "NotFound"),
        (
            "/v1/frameworks/framework-1/explain?wanted=cpus",
            400,
            "InvalidArgument",
        ),
        (
            "/v1/frameworks/framework-1/explain?cpus=1",
            400,
            "InvalidArgument",
        ),
    ] {
        let answer = get(&format!("http://{api}{path}")).await;
        assert_eq!(answer.status(), status, "{path}");
        let body: serde_json::Value =
            serde_json::from_str(&answer.text().await.unwrap()).expect("errors are JSON");
        assert_eq!(body["code"], code, "{path}: {body}");
        assert!(body["message"].as_str().is_some(), "{path}: {body}");
    }
}

/// The JSON equivalent of `Explain`: a demand that no agent here can ever meet, and one that it
/// can.
async fn json_explains(api: &str, framework: &str) {
    for (wanted, reason, is_there) in [
        ("?wanted=cpus:9999;mem:64", "too-small", true),
        ("?wanted=cpus:1;mem:64", "too-small", false),
        ("", "too-small", false),
    ] {
        let url = format!("http://{api}/v1/frameworks/{framework}/explain{wanted}");
        let answer = get(&url).await;
        assert_eq!(answer.status(), 200, "{wanted}");
        let body: serde_json::Value = serde_json::from_str(&answer.text().await.unwrap()).unwrap();
        assert!(
            body["summary"]
                .as_str()
                .is_some_and(|text| !text.is_empty()),
            "{body}"
        );
        let counts = body["counts"].as_array().expect("one agent is counted");
        let found = counts.iter().any(|count| count["reason"] == reason);
        assert_eq!(found, is_there, "{wanted}: {body}");
    }
}

/// Checks the build information, and the usual process metrics of Prometheus.
async fn shows_itself(address: &str) {
    let answer = reqwest::get(format!("http://{address}/metrics"))
        .await
        .unwrap();
    let text = answer.text().await.unwrap();
    for name in [
        "argosy_build_info{version=\"",
        "process_start_time_seconds ",
        "process_resident_memory_bytes ",
        "process_open_fds ",
        "process_max_fds ",
        "process_cpu_seconds_total ",
    ] {
        let is_there = text.lines().any(|line| line.starts_with(name));
        assert!(is_there, "{address}: no {name} in {text}");
    }
}

#[test]
fn a_master_without_a_group_answers_immediately() {
    use std::io::Read;
    use std::net::{Ipv4Addr, TcpStream};
    use std::time::{Duration, Instant};

    let addresses = free_addresses("127.0.0.1", 4).unwrap();
    let directory = tempfile::tempdir().unwrap();
    let flags = MasterFlags {
        listen: &addresses[0],
        peers: &addresses[1..].join(","),
        data_dir: &directory.path().join("data"),
        transport: &MemberTransport::Plaintext,
    };
    let mut master = member(
        directory.path(),
        "master".to_owned(),
        Ipv4Addr::LOCALHOST,
        flags.arguments(&["--raft-listen", &addresses[1]]),
    );
    master.start();
    let deadline = Instant::now() + Duration::from_secs(20);
    let mut connection = loop {
        match TcpStream::connect(&addresses[0]) {
            Ok(connection) => break connection,
            Err(error) => assert!(Instant::now() < deadline, "it does not listen: {error}"),
        }
        std::thread::sleep(Duration::from_millis(20));
    };
    connection
        .set_read_timeout(Some(Duration::from_secs(5)))
        .unwrap();
    let events = connection.read(&mut [0; 16]);
    master.kill();
    let kind = events.as_ref().map_err(std::io::Error::kind);
    let is_over = matches!(kind, Ok(0) | Err(std::io::ErrorKind::ConnectionReset));
    assert!(is_over, "{events:?}");
}
