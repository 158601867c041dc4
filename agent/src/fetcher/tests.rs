//! Against real files and a real server.

use std::fs;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use axum::Router;
use axum::http::StatusCode;
use axum::routing::get;
use tokio::net::TcpListener;

use super::*;

fn uri(value: impl Into<String>) -> v1::Uri {
    v1::Uri {
        value: value.into(),
        executable: false,
        output_file: String::new(),
    }
}

async fn serve(router: Router) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move { axum::serve(listener, router).await });
    format!("http://{address}")
}

async fn fetch(fetcher: &Fetcher, uri: v1::Uri) -> (tempfile::TempDir, Result<(), String>) {
    let sandbox = tempfile::tempdir().unwrap();
    let result = fetcher
        .fetch_all(&[uri], sandbox.path(), Whose::default())
        .await;
    (
        sandbox,
        result.map_err(|error| crate::error::sentence(&error)),
    )
}

#[tokio::test]
async fn a_local_file_is_copied_under_its_last_part_and_may_be_executable() {
    let source = tempfile::NamedTempFile::new().unwrap();
    fs::write(source.path(), "#!/bin/sh\n").unwrap();
    let name = source.path().file_name().unwrap().to_str().unwrap();
    for value in [
        source.path().display().to_string(),
        format!("file://{}", source.path().display()),
    ] {
        let mut wanted = uri(value);
        wanted.executable = true;
        let (sandbox, result) = fetch(&Fetcher::new(1_000), wanted).await;
        result.unwrap();
        let copied = sandbox.path().join(name);
        assert_eq!(fs::read_to_string(&copied).unwrap(), "#!/bin/sh\n");
        assert_eq!(fs::metadata(&copied).unwrap().mode() & 0o777, 0o755);
        assert_eq!(
            fs::read_dir(sandbox.path()).unwrap().count(),
            1,
            "no draft is left"
        );
    }
}

#[tokio::test]
async fn a_page_is_fetched_and_named_without_its_query() {
    let base = serve(Router::new().route("/a/data.txt", get(|| async { "hello" }))).await;
    let (sandbox, result) =
        fetch(&Fetcher::new(1_000), uri(format!("{base}/a/data.txt?x=/y"))).await;
    result.unwrap();
    assert_eq!(
        fs::read_to_string(sandbox.path().join("data.txt")).unwrap(),
        "hello"
    );
}

#[tokio::test]
async fn a_host_without_certificates_fetches_all_but_https() {
    // An error of the kind that loading no certificate at all makes.
    let failed = reqwest::Client::builder().user_agent("\n").build();
    let fetcher = Fetcher::with(failed, 1_000);
    let base = serve(Router::new().route("/page", get(|| async { "here" }))).await;
    let (sandbox, result) = fetch(&fetcher, uri(format!("{base}/page"))).await;
    result.unwrap();
    assert_eq!(
        fs::read_to_string(sandbox.path().join("page")).unwrap(),
        "here"
    );
    let (_, result) = fetch(&fetcher, uri(base.replace("http:", "https:") + "/page")).await;
    let why = result.unwrap_err();
    assert!(why.contains("install ca-certificates"), "{why}");
}

#[tokio::test]
async fn a_server_that_comes_up_later_is_waited_for() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    drop(listener);
    let fetcher = Fetcher::new(1_000);
    let fetching =
        tokio::spawn(async move { fetch(&fetcher, uri(format!("http://{address}/late"))).await });
    // Refused at least once before it is there.
    assert!(tokio::net::TcpStream::connect(address).await.is_err());
    let listener = TcpListener::bind(address).await.unwrap();
    let router = Router::new().route("/late", get(|| async { "there" }));
    tokio::spawn(async move { axum::serve(listener, router).await });
    let (sandbox, result) = fetching.await.unwrap();
    result.unwrap();
    assert_eq!(
        fs::read_to_string(sandbox.path().join("late")).unwrap(),
        "there"
    );
}

#[tokio::test]
async fn a_refused_port_is_given_up_in_the_end_with_uri_and_cause() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    drop(listener);
    let fetcher = Fetcher {
        retry_for: Duration::from_millis(150),
        ..Fetcher::new(1_000)
    };
    let (_sandbox, result) = fetch(&fetcher, uri(format!("http://{address}/x"))).await;
    let why = result.unwrap_err();
    assert!(why.contains(&format!("http://{address}/x")), "{why}");
    assert!(why.to_lowercase().contains("refused"), "{why}");
}

#[tokio::test]
async fn a_server_error_is_tried_again_and_a_missing_page_is_not() {
    let asked = Arc::new(AtomicU32::new(0));
    let counter = asked.clone();
    let flaky = move || async move {
        if counter.fetch_add(1, Ordering::SeqCst) == 0 {
            (StatusCode::SERVICE_UNAVAILABLE, "later")
        } else {
            (StatusCode::OK, "now")
        }
    };
    let base = serve(Router::new().route("/flaky", get(flaky))).await;
    let (_sandbox, result) = fetch(&Fetcher::new(1_000), uri(format!("{base}/flaky"))).await;
    result.unwrap();
    assert_eq!(asked.load(Ordering::SeqCst), 2);
    let (_sandbox, result) = fetch(&Fetcher::new(1_000), uri(format!("{base}/missing"))).await;
    assert!(result.unwrap_err().contains("answered 404"));
}

#[tokio::test]
async fn a_file_above_the_limit_is_refused_and_leaves_nothing() {
    let base = serve(Router::new().route("/big", get(|| async { "x".repeat(2_000) }))).await;
    let (sandbox, result) = fetch(&Fetcher::new(1_000), uri(format!("{base}/big"))).await;
    assert!(
        result
            .unwrap_err()
            .contains("larger than the limit of 1000 bytes")
    );
    assert_eq!(fs::read_dir(sandbox.path()).unwrap().count(), 0);
}

#[tokio::test]
async fn names_that_leave_the_sandbox_are_refused() {
    for (value, output) in [
        ("/etc/hostname", "../up"),
        ("/etc/hostname", "a/b"),
        ("/etc/hostname", ".."),
        ("/etc/hostname", "stdout"),
        ("http://localhost", ""),
        ("relative/path", ""),
        ("ftp://host/file", ""),
        ("/", ""),
        ("/proc/self", "folder"),
    ] {
        let mut wanted = uri(value);
        wanted.output_file = output.to_owned();
        let (_sandbox, result) = fetch(&Fetcher::new(1_000), wanted).await;
        let why = result.unwrap_err();
        assert!(why.contains(value), "{value} {output}: {why}");
    }
}

#[test]
fn a_user_borrows_no_rights_of_the_agent() {
    let folder = tempfile::tempdir().unwrap();
    fs::set_permissions(folder.path(), Permissions::from_mode(0o755)).unwrap();
    let file = folder.path().join("secret");
    fs::write(&file, "").unwrap();
    let nobody = User {
        uid: 65_534,
        gid: 65_534,
        groups: vec![],
    };
    fs::set_permissions(&file, Permissions::from_mode(0o600)).unwrap();
    assert!(!may_read(&file, &nobody).unwrap());
    fs::set_permissions(&file, Permissions::from_mode(0o644)).unwrap();
    assert!(may_read(&file, &nobody).unwrap());
    fs::set_permissions(folder.path(), Permissions::from_mode(0o700)).unwrap();
    assert!(!may_read(&file, &nobody).unwrap());
}
