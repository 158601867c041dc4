//! Tests of the responses to requests for things that do not exist, and to malformed messages.

use std::pin::Pin;

use argosy_proto::v1::agents_client::AgentsClient;
use argosy_proto::v1::operator_client::OperatorClient;
use argosy_proto::v1::{Consistency, FromAgent, GetClusterRequest, Hello, from_agent, to_agent};
use argosy_proto::versions::{self, VersionRange};
use axum::body::HttpBody as _;
use prost::Message as _;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout};
use tokio_stream::wrappers::ReceiverStream;
use tonic::codegen::Service as _;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Status};
use tonic_reflection::pb::v1alpha::server_reflection_client::ServerReflectionClient;
use tonic_reflection::pb::v1alpha::server_reflection_response::MessageResponse;
use tonic_reflection::pb::v1alpha::{ServerReflectionRequest, ServerReflectionResponse};
use tonic_types::StatusExt as _;

use super::rtt::TestMasters;
use super::*;

fn channel(address: &str) -> Channel {
    let endpoint = Endpoint::from_shared(format!("http://{address}")).unwrap();
    endpoint.connect_lazy()
}

fn client() -> reqwest::Client {
    let client = reqwest::Client::builder().no_proxy().tls_certs_only([]);
    client.build().unwrap()
}

/// Returns a gRPC message with these bytes.
fn framed(bytes: &[u8]) -> Vec<u8> {
    let length = u32::try_from(bytes.len()).unwrap();
    [&[0], &length.to_be_bytes()[..], bytes].concat()
}

/// Returns the status of a call with this body from a master that can answer: a busy host may
/// change leaders.
async fn called(channel: &mut Channel, path: &str, body: Vec<u8>) -> Status {
    let deadline = Instant::now() + TIMEOUT;
    loop {
        let (status, _) = called_once(channel, path, body.clone()).await;
        if status.code() != Code::Unavailable || Instant::now() > deadline {
            return status;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// The same for HTTP.
async fn asked(request: reqwest::RequestBuilder) -> reqwest::Response {
    let deadline = Instant::now() + TIMEOUT;
    loop {
        let answer = request.try_clone().unwrap().send().await.unwrap();
        if answer.status().as_u16() != 503 || Instant::now() > deadline {
            return answer;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// Returns the status of a call with this body, whether in the headers or trailers, and the
/// messages before it.
async fn called_once(channel: &mut Channel, path: &str, body: Vec<u8>) -> (Status, Vec<u8>) {
    let request = axum::http::Request::post(path)
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .body(tonic::body::Body::new(axum::body::Body::from(body)))
        .unwrap();
    std::future::poll_fn(|context| channel.poll_ready(context))
        .await
        .unwrap();
    let response = timeout(TIMEOUT, channel.call(request))
        .await
        .expect("it answers")
        .unwrap();
    if let Some(status) = Status::from_header_map(response.headers()) {
        return (status, Vec::new());
    }
    let mut body = response.into_body();
    let mut messages = Vec::new();
    loop {
        let frame = std::future::poll_fn(|context| Pin::new(&mut body).poll_frame(context));
        let frame = timeout(TIMEOUT, frame).await.expect("it ends");
        let frame = frame.expect("it ends with a status").unwrap();
        if let Some(status) = frame.trailers_ref().and_then(Status::from_header_map) {
            return (status, messages);
        }
        messages.extend(frame.into_data().unwrap_or_default());
    }
}

#[allow(clippy::too_many_lines, reason = "most of them are a table")]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn missing_and_mistyped_http_paths_get_a_json_error() {
    let masters = TestMasters::start_timed(Timing::wan()).await;
    let (leader, _) = masters.leader().await;
    let (base, client) = (format!("http://{}", masters.api[leader]), client());
    let long = format!("/v1/tasks?name={}", "x".repeat(65_100));
    for (path, status, code, expected) in [
        ("/v1/nothing", 404, "NotFound", "/v1/nothing"),
        ("/v1/cluster/", 404, "NotFound", "/v1/cluster/"),
        ("/argosy.v1.Nothing/Call", 404, "NotFound", "Nothing"),
        ("/v1/tasks/%ff/%fe", 400, "InvalidArgument", "UTF-8"),
        (
            "/v1/tasks?state=nonsense",
            400,
            "InvalidArgument",
            "staging, starting, running",
        ),
        (
            "/v1/agents?mode=up",
            400,
            "InvalidArgument",
            "registered, unreachable",
        ),
        (
            "/v1/tasks?consistency=bogus",
            400,
            "InvalidArgument",
            "linearizable, local",
        ),
        (
            "/v1/tasks?include_ended=maybe",
            400,
            "InvalidArgument",
            "include_ended",
        ),
        (
            "/v1/tasks?page_size=1&page_size=2",
            400,
            "InvalidArgument",
            "twice",
        ),
        ("/v1/cluster?bogus=1", 400, "InvalidArgument", "bogus"),
        (
            "/v1/agents/agent-1?bogus=1",
            400,
            "InvalidArgument",
            "bogus",
        ),
        (
            "/v1/agents?include_ended=true",
            400,
            "InvalidArgument",
            "\"include_ended\" is none of agent_id, host_name, mode",
        ),
        (
            "/v1/offers?include_ended=0",
            400,
            "InvalidArgument",
            "\"include_ended\" is none of framework_id, agent_id, role",
        ),
        ("/v1/agents?agent_id=x", 400, "InvalidArgument", "agent-N"),
        (
            "/v1/frameworks?framework_id=web",
            400,
            "InvalidArgument",
            "framework-N",
        ),
        (
            "/v1/tasks?framework_id=web",
            400,
            "InvalidArgument",
            "framework-N",
        ),
        (
            "/v1/tasks?task_id=a/b",
            400,
            "InvalidArgument",
            "letters, digits",
        ),
        ("/v1/offers?agent_id=x", 400, "InvalidArgument", "agent-N"),
        // This process has no metrics recorder.
        ("/metrics", 404, "NotFound", "records no metrics"),
        (&long, 414, "InvalidArgument", "at most 65000"),
    ] {
        let answer = asked(client.get(format!("{base}{path}"))).await;
        let shown = &path[..path.len().min(60)];
        assert_eq!(answer.status().as_u16(), status, "{shown}");
        let body: serde_json::Value = serde_json::from_str(&answer.text().await.unwrap()).unwrap();
        assert_eq!(body["code"], code, "{shown}");
        assert!(
            body["message"].as_str().unwrap().contains(expected),
            "{shown}: {body}"
        );
    }
    let posted = client
        .post(format!("{base}/v1/cluster"))
        .send()
        .await
        .unwrap();
    assert_eq!(posted.status().as_u16(), 405);
    let text = posted.text().await.unwrap();
    assert!(
        text.contains("\"code\"") && text.contains("use GET\""),
        "{text}"
    );
    let read = crate::http::ROUTES
        .iter()
        .filter(|route| route.method == "GET");
    let without_variables = read.map(|route| route.path);
    let mut there: Vec<_> = without_variables
        .filter(|path| !path.contains('{'))
        .collect();
    // This process records no metrics, and a stream of events does not end.
    there.retain(|path| !["/metrics", "/v1/events"].contains(path));
    there.extend([
        "/",
        "/v1",
        "/healthz?from=prometheus",
        "/readyz?from=prometheus",
        "/v1/tasks?state=TASK_STATE_RUNNING",
        "/v1/tasks?state=Running&include_ended=1",
    ]);
    for path in there {
        let answer = asked(client.get(format!("{base}{path}"))).await;
        assert_eq!(answer.status().as_u16(), 200, "{path}");
    }
    let page = client
        .get(format!("{base}/"))
        .send()
        .await
        .unwrap()
        .text()
        .await
        .unwrap();
    assert!(
        page.contains("/v1/frameworks") && page.contains("docs/protocol.md"),
        "{page}"
    );
    masters.end().await;
}

/// Beyond 65,534 bytes the HTTP library itself answers. The documented bound, with a JSON answer,
/// is lower.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_path_that_http_1_1_cannot_hold_is_answered_414_without_a_body() {
    let masters = TestMasters::start_timed(Timing::wan()).await;
    let (leader, _) = masters.leader().await;
    for (bytes, has_body) in [(65_534, true), (65_535, false)] {
        let path = format!("/v1/tasks?name={}", "x".repeat(bytes - 15));
        // No client library accepts such a path.
        let mut stream = TcpStream::connect(&masters.api[leader]).await.unwrap();
        let request =
            format!("GET {path} HTTP/1.1\r\nhost: 127.0.0.1\r\nconnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        let read = stream.read_to_string(&mut answer);
        timeout(TIMEOUT, read).await.expect("it ends").unwrap();
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        assert!(head.starts_with("HTTP/1.1 414 "), "{head}");
        assert_eq!(!body.is_empty(), has_body, "{bytes}: {body}");
    }
    masters.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_master_rejects_undecodable_messages_as_invalid_argument() {
    let masters = TestMasters::start_timed(Timing::wan()).await;
    let (leader, _) = masters.leader().await;
    // A field of five bytes, of which one is present.
    let unreadable = framed(&[0x0a, 5, b'x']);
    for place in [leader, (leader + 1) % 3] {
        let mut channel = channel(&masters.api[place]);
        for call in [
            "Operator/WriteOne",
            "Operator/Write",
            "Scheduler/Subscribe",
            "Agents/Connect",
        ] {
            let path = format!("http://{}/argosy.v1.{call}", masters.api[place]);
            let status = called(&mut channel, &path, unreadable.clone()).await;
            assert_eq!(status.code(), Code::InvalidArgument, "{call}: {status}");
            assert!(
                status.get_details_bad_request().is_some(),
                "{call}: {status}"
            );
        }
        for (call, body, code, expected) in [
            (
                "argosy.v1.Operator/WriteOne",
                Vec::new(),
                Code::InvalidArgument,
                "Missing",
            ),
            (
                "argosy.v1.Operator/WriteOne",
                framed(&vec![0; 5 << 20]),
                Code::ResourceExhausted,
                "split the call",
            ),
            (
                "argosy.v1.Operator/Nothing",
                framed(&[]),
                Code::Unimplemented,
                "",
            ),
            (
                "argosy.v1.Nothing/Call",
                framed(&[]),
                Code::Unimplemented,
                "Nothing",
            ),
        ] {
            let path = format!("http://{}/{call}", masters.api[place]);
            let status = called(&mut channel, &path, body).await;
            assert_eq!(status.code(), code, "{call}: {status}");
            assert!(status.message().contains(expected), "{call}: {status}");
        }
    }
    masters.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_without_a_common_version_is_rejected_with_the_masters_range() {
    let masters = TestMasters::start_timed(Timing::wan()).await;
    let (leader, _) = masters.leader().await;
    let own = VersionRange::OWN;
    for place in [leader, (leader + 1) % 3] {
        let ask = async |range: Option<&str>| {
            let mut operator = OperatorClient::new(channel(&masters.api[place]));
            let mut request = tonic::Request::new(GetClusterRequest {
                consistency: Consistency::Local.into(),
            });
            if let Some(range) = range {
                let range = range.try_into().unwrap();
                request.metadata_mut().insert(versions::HEADER, range);
            }
            let answer = operator.get_cluster(request).await;
            answer.map(|answer| answer.metadata().get(versions::HEADER).unwrap().clone())
        };
        // As a client of release 0.1.0, of this one and of a later one.
        let later = format!("1-{}", own.newest + 1);
        for range in [None, Some(own.header()), Some(later)] {
            let named = ask(range.as_deref()).await.unwrap();
            assert_eq!(named, own.header());
        }
        let status = ask(Some("7-9")).await.unwrap_err();
        assert_eq!(status.code(), Code::FailedPrecondition, "{status}");
        let info = status.get_details_error_info().unwrap();
        assert_eq!(info.reason, versions::CODE);
        let text = status.message();
        assert!(
            text.contains("versions 7 to 9") && text.ends_with("upgrade this program"),
            "{text}"
        );
        let status = ask(Some("new")).await.unwrap_err();
        assert_eq!(status.code(), Code::InvalidArgument, "{status}");
    }
    masters.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_agent_without_a_common_version_is_rejected_with_both_ranges() {
    let masters = TestMasters::start_timed(Timing::wan()).await;
    let (leader, _) = masters.leader().await;
    let (oldest, newest) = (7, 9);
    let hello = Hello {
        protocol: Some(VersionRange { oldest, newest }.first_message()),
        ..Hello::default()
    };
    let message = Some(from_agent::Message::Hello(hello));
    let mut agent = AgentsClient::new(channel(&masters.api[leader]));
    let output = futures::stream::iter([FromAgent { message }]);
    let output = futures::StreamExt::chain(output, futures::stream::pending());
    let mut stream = agent.connect(output).await.unwrap().into_inner();
    let first = stream.message().await.unwrap().unwrap();
    let Some(to_agent::Message::Refused(refused)) = first.message else {
        panic!("{first:?}");
    };
    assert_eq!(refused.code, versions::CODE);
    assert!(refused.text.contains("versions 7 to 9"), "{}", refused.text);
    masters.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_agent_stream_closed_by_its_master_ends_with_unavailable() {
    let masters = TestMasters::start_timed(Timing::wan()).await;
    let (leader, _) = masters.leader().await;
    let mut streams = Vec::new();
    for place in [leader, (leader + 1) % 3] {
        let mut agent = AgentsClient::new(channel(&masters.api[place]));
        let deadline = Instant::now() + TIMEOUT;
        let opened = loop {
            match agent.connect(futures::stream::pending()).await {
                Ok(opened) => break opened,
                Err(status) => assert!(Instant::now() < deadline, "{status}"),
            }
        };
        streams.push(opened.into_inner());
    }
    let mut operator = OperatorClient::new(channel(&masters.api[leader]));
    let transfer = argosy_proto::v1::TransferLeaderRequest::default();
    operator.transfer_leader(transfer).await.unwrap();
    for mut stream in streams {
        let last = timeout(TIMEOUT, async {
            loop {
                match stream.message().await {
                    Ok(Some(_)) => {}
                    last => return last,
                }
            }
        });
        let status = last
            .await
            .expect("it ends")
            .expect_err("it ends as if the agent had ended it");
        assert_eq!(status.code(), Code::Unavailable, "{status}");
    }
    masters.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn unknown_consistency_is_rejected() {
    let masters = TestMasters::start_timed(Timing::wan()).await;
    let (leader, _) = masters.leader().await;
    // Field 1, or 3, is 7.
    let (of_the_cluster, of_the_rest) = (framed(&[0x08, 7]), framed(&[0x18, 7]));
    for place in [leader, (leader + 1) % 3] {
        let mut channel = channel(&masters.api[place]);
        for (call, body) in [
            ("GetCluster", &of_the_cluster),
            ("ListAgents", &of_the_rest),
            ("ListFrameworks", &of_the_rest),
            ("ListTasks", &of_the_rest),
            ("ListOffers", &of_the_rest),
            ("GetAgent", &of_the_rest),
        ] {
            let path = format!("http://{}/argosy.v1.Operator/{call}", masters.api[place]);
            let status = called(&mut channel, &path, body.clone()).await;
            assert_eq!(status.code(), Code::InvalidArgument, "{call}: {status}");
            assert!(
                status.message().contains("consistency: 7"),
                "{call}: {status}"
            );
        }
    }
    masters.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn reflection_lists_the_services_in_both_versions() {
    let masters = TestMasters::start_timed(Timing::wan()).await;
    let (leader, _) = masters.leader().await;
    let mut channel = channel(&masters.api[leader]);
    // `list_services`, field 7, of everything.
    let list = framed(&[0x3a, 1, b'*']);
    for version in ["v1", "v1alpha"] {
        let method = format!("grpc.reflection.{version}.ServerReflection/ServerReflectionInfo");
        let path = format!("http://{}/{method}", masters.api[leader]);
        let (status, message) = called_once(&mut channel, &path, list.clone()).await;
        assert_eq!(status.code(), Code::Ok, "{version}: {status}");
        // Both versions are identical on the wire.
        let answer = ServerReflectionResponse::decode(&message[5..]).unwrap();
        let Some(MessageResponse::ListServicesResponse(list)) = answer.message_response else {
            panic!("{version}: {answer:?}");
        };
        for service in ["Agents", "Leadership", "Operator", "Reigns", "Scheduler"] {
            let name = format!("argosy.v1.{service}");
            let is_named = list.service.iter().any(|found| found.name == name);
            assert!(is_named, "{version}: {name} is not in {list:?}");
        }
    }
    masters.end().await;
}

/// A stream of reflection that stays open until it is dropped.
struct Reflection {
    _requests: mpsc::Sender<ServerReflectionRequest>,
    _answers: tonic::Streaming<ServerReflectionResponse>,
}

impl Reflection {
    async fn open(api: &str) -> Result<Self, Status> {
        let (requests, receiver) = mpsc::channel(1);
        let mut client = ServerReflectionClient::new(channel(api));
        let opened = client.server_reflection_info(ReceiverStream::new(receiver));
        let answers = timeout(TIMEOUT, opened).await.expect("it answers")?;
        Ok(Self {
            _requests: requests,
            _answers: answers.into_inner(),
        })
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn reflection_streams_are_bounded() {
    let masters = TestMasters::start_timed(Timing::wan()).await;
    let (leader, _) = masters.leader().await;
    let api = &masters.api[leader];
    let mut open = Vec::new();
    for _ in 0..64 {
        open.push(Reflection::open(api).await.unwrap());
    }
    let refused = Reflection::open(api)
        .await
        .err()
        .expect("it is one too many");
    assert_eq!(refused.code(), Code::ResourceExhausted, "{refused}");
    open.pop();
    let deadline = Instant::now() + TIMEOUT;
    while let Err(status) = Reflection::open(api).await {
        assert!(Instant::now() < deadline, "{status}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    masters.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn web_pages_under_other_names_are_rejected_and_grpc_is_always_served() {
    let masters = TestMasters::start_timed(Timing::wan()).await;
    let (leader, _) = masters.leader().await;
    let (base, client) = (format!("http://{}", masters.api[leader]), client());
    for path in [
        "/",
        "/v1/tasks",
        "/metrics",
        "/v1/agents/agent-1/exec",
        "/none",
    ] {
        let request = client.get(format!("{base}{path}"));
        let answer = asked(request.header("host", "rebound.example:5050")).await;
        assert_eq!(answer.status(), 421, "{path}");
        let text = answer.text().await.unwrap();
        let error: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert_eq!(error["code"], "PermissionDenied");
        let message = error["message"].as_str().unwrap();
        assert!(
            message.contains("--allow-host rebound.example"),
            "{message}"
        );
    }
    // The raft port does not answer web pages either.
    let raft = format!("http://{}/argosy.raft.v1.Raft/Append", masters.raft[leader]);
    let request = client.post(raft).header("content-type", "application/grpc");
    let answer = asked(request.header("host", "rebound.example:5052")).await;
    assert_eq!(answer.status(), 421);
    assert_eq!(answer.headers()["grpc-status"], "7");
    let request = client.get(format!("{base}/v1/cluster"));
    let answer = asked(request.header("host", "LOCALHOST.:5050")).await;
    assert_eq!(answer.status(), 200);
    let endpoint = Endpoint::from_shared(base).unwrap();
    let named = endpoint.origin("http://any.example:5050".parse().unwrap());
    let mut channel = named.connect_lazy();
    let path = "http://any.example:5050/argosy.v1.Operator/GetCluster";
    let status = called(&mut channel, path, framed(&[])).await;
    assert_eq!(status.code(), Code::Ok, "{status}");
    masters.end().await;
}
