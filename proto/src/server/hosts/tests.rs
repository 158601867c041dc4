//! Tests with requests of web pages and other clients, on a real socket.

use std::net::SocketAddr;
use std::time::Duration;

use axum::routing::{get, post};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::CancellationToken;

use super::*;
use crate::server::{PortLimits, serve};
use crate::transport::Listener;

/// Longer than any step here takes on a busy machine.
const STEP_TIMEOUT: Duration = Duration::from_secs(60);

async fn started() -> SocketAddr {
    let socket = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = socket.local_addr().unwrap();
    let router = Router::new()
        .route("/", get(async || "here"))
        .route("/argosy.v1.Operator/ListTasks", post(async || "here"));
    let hosts = AllowedHosts::new(["Master-1.example:5050", "10.0.0.7:5050", "second.example."]);
    let router = hosts.guard(router);
    let limits = PortLimits::of_descriptors("test", 10_000);
    let stop = CancellationToken::new();
    tokio::spawn(serve(Listener::tcp(socket), router, limits, stop));
    address
}

/// Returns the whole answer to a request of HTTP/1.1, which is sent as given.
async fn answer(address: SocketAddr, request: &str) -> String {
    let asked = async {
        let mut stream = TcpStream::connect(address).await?;
        stream.write_all(request.as_bytes()).await?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await?;
        Ok::<_, std::io::Error>(answer)
    };
    let answer = tokio::time::timeout(STEP_TIMEOUT, asked).await;
    answer.expect("it answers").unwrap()
}

/// Returns the status of the answer to `GET target` with these header lines.
async fn status(address: SocketAddr, target: &str, lines: &[&str]) -> u16 {
    let head = lines
        .iter()
        .fold(String::new(), |head, line| head + line + "\r\n");
    let request = format!("GET {target} HTTP/1.1\r\n{head}connection: close\r\n\r\n");
    let answer = answer(address, &request).await;
    let status = answer.split(' ').nth(1);
    status
        .unwrap_or_else(|| panic!("{answer:?}"))
        .parse()
        .unwrap()
}

#[tokio::test]
async fn requests_by_address_or_own_name_are_answered() {
    let address = started().await;
    for host in [
        "127.0.0.1",
        "127.0.0.1:5050",
        "10.9.8.7:1",
        "[::1]",
        "[::1]:5050",
        "[fe80::1%25eth0]:5050",
        "localhost",
        "LocalHost:5050",
        "localhost.",
        "localhost.:5050",
        "master-1.example",
        "MASTER-1.Example:80",
        "master-1.example.:5050",
        "second.example",
    ] {
        let found = status(address, "/", &[&format!("Host: {host}")]).await;
        assert_eq!(found, 200, "{host}");
    }
}

#[tokio::test]
async fn other_names_are_refused_with_the_flag_that_allows_them() {
    let address = started().await;
    for host in [
        "rebound.example",
        "rebound.example:5050",
        "REBOUND.example.",
        "127.0.0.1.rebound.example",
        "localhost.rebound.example",
        "example",
        "a.master-1.example",
    ] {
        let request = format!("GET / HTTP/1.1\r\nHost: {host}\r\nconnection: close\r\n\r\n");
        let answer = answer(address, &request).await;
        assert!(answer.starts_with("HTTP/1.1 421 "), "{host}: {answer}");
        let (_, body) = answer.split_once("\r\n\r\n").unwrap();
        let body: serde_json::Value = serde_json::from_str(body).unwrap();
        assert_eq!(body["code"], "PermissionDenied");
        let name = host
            .trim_end_matches(":5050")
            .trim_end_matches('.')
            .to_lowercase();
        let message = body["message"].as_str().unwrap();
        assert!(
            message.contains(&format!("--allow-host {name}")),
            "{message}"
        );
    }
}

#[tokio::test]
async fn requests_without_exactly_one_valid_host_are_rejected() {
    let address = started().await;
    assert_eq!(status(address, "/", &[]).await, 400);
    let two = ["Host: 127.0.0.1", "Host: 127.0.0.1"];
    assert_eq!(status(address, "/", &two).await, 400);
    let two = ["Host: 127.0.0.1", "Host: rebound.example"];
    assert_eq!(status(address, "/", &two).await, 400);
    for host in [
        "",
        "127.0.0.1@rebound.example",
        "rebound.example@127.0.0.1",
        "127.0.0.1, rebound.example",
        "127.0.0.1:5050:5050",
        "127.0.0.1:port",
        "[::1",
        "[::1]rebound.example",
        "::1",
        "rebound.example/",
    ] {
        let found = status(address, "/", &[&format!("Host: {host}")]).await;
        assert!(matches!(found, 400 | 421), "{host}: {found}");
    }
}

#[tokio::test]
async fn the_host_of_an_absolute_uri_and_the_host_header_are_both_checked() {
    let address = started().await;
    let rebound = "http://rebound.example/";
    assert_eq!(status(address, rebound, &["Host: 127.0.0.1"]).await, 421);
    let own = "http://127.0.0.1/";
    assert_eq!(status(address, own, &["Host: rebound.example"]).await, 421);
    assert_eq!(status(address, own, &["Host: 127.0.0.1"]).await, 200);
    assert_eq!(status(address, own, &[]).await, 400);
}

#[tokio::test]
async fn a_web_page_with_a_grpc_content_type_gets_a_grpc_error() {
    let address = started().await;
    let request = "POST /argosy.v1.Operator/ListTasks HTTP/1.1\r\nHost: rebound.example\r\ncontent-length: 0\r\n\
                   content-type: application/grpc\r\nconnection: close\r\n\r\n";
    let answer = answer(address, request).await.to_lowercase();
    assert!(answer.starts_with("http/1.1 421 "), "{answer}");
    assert!(answer.contains("grpc-status: 7\r\n"), "{answer}");
    assert!(answer.contains("--allow-host"), "{answer}");
}

#[tokio::test]
async fn programs_may_use_any_name_and_web_pages_cannot_pose_as_programs() {
    let address = started().await;
    let other = "Host: rebound.example";
    let client = format!("{CLIENT_HEADER}: test");
    assert_eq!(status(address, "/", &[other, &client]).await, 200);
    for header in [
        "Origin: http://rebound.example",
        "Sec-Fetch-Site: same-origin",
    ] {
        let found = status(address, "/", &[other, &client, header]).await;
        assert_eq!(found, 421, "{header}");
    }
}

#[test]
fn http_2_without_a_browser_s_headers_passes_under_any_name() {
    let hosts = AllowedHosts::new(["master-1.example"]);
    let request = |headers: &[(&str, &str)]| {
        let mut request = http::Request::builder()
            .version(Version::HTTP_2)
            .uri("http://any.example:5050/argosy.v1.Operator/ListTasks");
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        request.body(Body::empty()).unwrap()
    };
    let grpc = ("content-type", "application/grpc");
    assert_eq!(hosts.check(&request(&[grpc])), Ok(()));
    for header in [
        ("origin", "http://any.example:5050"),
        ("sec-fetch-mode", "cors"),
    ] {
        let refused = hosts.check(&request(&[grpc, header]));
        assert_eq!(
            refused,
            Err(HostHeaderError::Unknown("any.example".to_owned()))
        );
    }
}

#[test]
fn host_names_contain_no_scheme_and_no_port() {
    assert_eq!(host_name("Node-1.Example.").unwrap(), "node-1.example");
    for text in [
        "",
        ".",
        "a..b",
        "http://a",
        "a:5050",
        "*",
        "a b",
        "ä.example",
    ] {
        assert!(host_name(text).is_err(), "{text}");
    }
}
