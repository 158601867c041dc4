//! Tests with real files and servers.

mod capacity;
mod drafts;
mod https;
mod local;
mod lookups;
mod pins;
mod reach;
mod secrets;
mod stalling;
mod unpacking;

use std::fs;
use std::os::fd::AsRawFd;
use std::os::unix::fs::MetadataExt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use argosy_proto::transport::Dialer;
use axum::Router;
use axum::http::StatusCode;
use axum::routing::get;
use futures::StreamExt as _;
use tokio::net::TcpListener;

use super::download::client;
use super::*;

fn uri(value: impl Into<String>) -> v1::Uri {
    v1::Uri {
        value: value.into(),
        ..v1::Uri::default()
    }
}

/// An extractor that trusts its archives.
struct PlainTar;

impl Extractor for PlainTar {
    fn extract<'a>(
        &'a self,
        archive: fs::File,
        into: fs::File,
        _owner: Option<&'a ContainerUser>,
    ) -> BoxFuture<'a, Result<(), String>> {
        let into = format!("/proc/self/fd/{}", into.as_raw_fd());
        let unpacked = tar::Archive::new(archive).unpack(into);
        Box::pin(std::future::ready(
            unpacked.map_err(|error| error.to_string()),
        ))
    }
}

/// Downloads in this process.
impl Downloader for DownloadClient {
    fn fetch<'a>(
        self: Arc<Self>,
        wanted: RequestedFile<'a>,
        requester: Requester,
        (path, file): (&'a Path, &'a fs::File),
        meter: &'a watch::Sender<FetchProgress>,
    ) -> BoxFuture<'a, Result<(), FetchError>> {
        let mut file = tokio::fs::File::from_std(file.try_clone().unwrap());
        let fetching = async move {
            let place = (path, &mut file);
            Self::fetch(&self, wanted, (requester, None), place, meter).await
        };
        Box::pin(fetching)
    }
}

/// The tests of another file contact agents.
fn without_tls(_: Dialer, _: &ClusterAuthorities) -> Result<Dialer, String> {
    Err("this program has no TLS".to_owned())
}

/// Returns settings with this maximum size, for files of the host that the tests create.
fn settings(limit_bytes: u64) -> FetchSettings {
    FetchSettings {
        limit_bytes,
        directories: vec![std::env::temp_dir()],
        // The network of the tests' servers.
        allow: vec!["127.0.0.0/8".parse().unwrap()],
        masters: Vec::new(),
        api: "127.0.0.1:5051".to_owned(),
        api_port: None,
        task_subnets: None,
    }
}

/// Returns a fetcher whose downloads run in this process.
fn with(downloads: DownloadClient, limit_bytes: u64, cache: Option<FetchCache>) -> Fetcher {
    let downloads = Arc::new(downloads);
    let (settings, slots) = (settings(limit_bytes), FairSlots::new(4));
    Fetcher::new(settings, downloads, Arc::new(PlainTar), slots, cache)
}

fn keeping(limit_bytes: u64, cache: Option<FetchCache>) -> Fetcher {
    with(
        DownloadClient::new(&settings(limit_bytes), without_tls).unwrap(),
        limit_bytes,
        cache,
    )
}

fn fetcher() -> Fetcher {
    keeping(1_000, None)
}

/// Creates a directory that all users may search.
fn open_directory() -> tempfile::TempDir {
    let directory = tempfile::tempdir().unwrap();
    fs::set_permissions(directory.path(), Permissions::from_mode(0o755)).unwrap();
    directory
}

/// Creates a file that all users may read.
fn open_file(text: &str) -> tempfile::NamedTempFile {
    let file = tempfile::NamedTempFile::new().unwrap();
    fs::write(file.path(), text).unwrap();
    fs::set_permissions(file.path(), Permissions::from_mode(0o644)).unwrap();
    file
}

async fn serve(router: Router) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move { axum::serve(listener, router).await });
    format!("http://{address}")
}

fn meter() -> watch::Sender<FetchProgress> {
    watch::channel(FetchProgress::default()).0
}

async fn fetch(fetcher: &Fetcher, uri: v1::Uri) -> (tempfile::TempDir, Result<(), String>) {
    let sandbox = tempfile::tempdir().unwrap();
    let result = fetcher
        .fetch_all(&[uri], sandbox.path(), FetchContext::default(), &meter())
        .await;
    (sandbox, result.map_err(|error| crate::error_chain(&error)))
}

#[tokio::test]
async fn a_local_file_is_copied_under_its_last_part_and_may_be_executable() {
    let source = open_file("#!/bin/sh\n");
    let name = source.path().file_name().unwrap().to_str().unwrap();
    for value in [
        source.path().display().to_string(),
        format!("file://{}", source.path().display()),
    ] {
        let mut wanted = uri(value);
        wanted.executable = true;
        let (sandbox, result) = fetch(&fetcher(), wanted).await;
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
async fn the_file_name_excludes_the_query() {
    let base = serve(Router::new().route("/a/data.txt", get(|| async { "hello" }))).await;
    let (sandbox, result) = fetch(&fetcher(), uri(format!("{base}/a/data.txt?x=/y"))).await;
    result.unwrap();
    assert_eq!(
        fs::read_to_string(sandbox.path().join("data.txt")).unwrap(),
        "hello"
    );
}

#[tokio::test]
async fn a_host_without_certificates_fails_only_https_fetches() {
    let made = AtomicU32::new(0);
    let failing = move || match made.fetch_add(1, Ordering::SeqCst) {
        // An error of the kind that occurs when certificates are needed and none is loaded.
        1 => reqwest::Client::builder().user_agent("\n"),
        _ => client(),
    };
    let fetcher = with(
        DownloadClient::with(failing, &settings(1_000), without_tls).unwrap(),
        1_000,
        None,
    );
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
async fn a_server_that_starts_later_is_retried() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    drop(listener);
    let fetcher = fetcher();
    let fetching =
        tokio::spawn(async move { fetch(&fetcher, uri(format!("http://{address}/late"))).await });
    // Refused at least once before the server listens.
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
async fn a_closed_port_fails_with_uri_and_cause() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    drop(listener);
    let mut downloads = DownloadClient::new(&settings(1_000), without_tls).unwrap();
    downloads.retry_for = Duration::from_millis(150);
    let fetcher = with(downloads, 1_000, None);
    let (_sandbox, result) = fetch(&fetcher, uri(format!("http://{address}/x"))).await;
    let why = result.unwrap_err();
    assert!(why.contains(&format!("http://{address}/x")), "{why}");
    assert!(why.to_lowercase().contains("refused"), "{why}");
}

#[tokio::test]
async fn server_errors_are_retried_and_404_is_not() {
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
    let (_sandbox, result) = fetch(&fetcher(), uri(format!("{base}/flaky"))).await;
    result.unwrap();
    assert_eq!(asked.load(Ordering::SeqCst), 2);
    let (_sandbox, result) = fetch(&fetcher(), uri(format!("{base}/missing"))).await;
    assert!(result.unwrap_err().contains("answered 404"));
}

#[tokio::test]
async fn a_file_above_the_limit_is_rejected_without_leftovers() {
    let base = serve(Router::new().route("/big", get(|| async { "x".repeat(2_000) }))).await;
    let (sandbox, result) = fetch(&fetcher(), uri(format!("{base}/big"))).await;
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
        let (_sandbox, result) = fetch(&fetcher(), wanted).await;
        let why = result.unwrap_err();
        assert!(why.contains(value), "{value} {output}: {why}");
    }
}

fn archive(directory: &Path, bytes: &[u8]) -> String {
    let path = directory.join("site.tar.gz");
    fs::write(&path, bytes).unwrap();
    path.display().to_string()
}

#[tokio::test]
async fn an_archive_becomes_a_directory_or_nothing() {
    let directory = open_directory();
    let mut made = tar::Builder::new(Vec::new());
    let mut header = tar::Header::new_ustar();
    header.set_size(5);
    header.set_mode(0o644);
    made.append_data(&mut header, "in/page", &b"hello"[..])
        .unwrap();
    let bytes = made.into_inner().unwrap();
    let mut wanted = uri(archive(directory.path(), &bytes));
    wanted.extract = true;
    let large = keeping(1 << 20, None);
    let (sandbox, result) = fetch(&large, wanted.clone()).await;
    result.unwrap();
    let page = fs::read_to_string(sandbox.path().join("site/in/page"));
    assert_eq!(page.unwrap(), "hello");
    assert_eq!(
        fs::read_dir(sandbox.path()).unwrap().count(),
        1,
        "neither the archive nor a draft is left"
    );
    archive(directory.path(), &[b'x'; 700]);
    let (sandbox, result) = fetch(&large, wanted).await;
    let why = result.unwrap_err();
    assert!(
        why.contains("cannot extract") && why.contains("site.tar.gz"),
        "{why}"
    );
    assert_eq!(fs::read_dir(sandbox.path()).unwrap().count(), 0);
}

#[tokio::test]
async fn a_digest_mismatch_is_rejected() {
    let source = open_file("");
    let mut wanted = uri(source.path().display().to_string());
    let empty = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
    wanted.sha256 = empty.to_owned();
    fetch(&fetcher(), wanted.clone()).await.1.unwrap();
    fs::write(source.path(), "changed").unwrap();
    let (sandbox, result) = fetch(&fetcher(), wanted).await;
    let why = result.unwrap_err();
    assert!(
        why.contains(empty) && why.contains("is not what was asked for"),
        "{why}"
    );
    assert_eq!(fs::read_dir(sandbox.path()).unwrap().count(), 0);
}

#[test]
fn only_the_archive_extension_is_stripped() {
    for (name, stem) in [
        ("a.tar.gz", "a"),
        ("a-1.2.tgz", "a-1.2"),
        ("a.zip", "a"),
        ("a.txt", "a.txt"),
        (".zip", ".zip"),
    ] {
        assert_eq!(without_ending(name), stem);
    }
}

/// Starts a server of pages of 100 bytes that counts its requests.
async fn pages() -> (String, Arc<AtomicU32>) {
    let asked = Arc::new(AtomicU32::new(0));
    let count = asked.clone();
    let page = move |axum::extract::Path(name): axum::extract::Path<String>| async move {
        count.fetch_add(1, Ordering::SeqCst);
        tokio::time::sleep(Duration::from_millis(50)).await;
        let length = if name == "large" { 300 } else { 100 };
        name.repeat(length)[..length].to_owned()
    };
    (
        serve(Router::new().route("/{name}", get(page))).await,
        asked,
    )
}

/// Starts the same server, with a fetcher that caches 250 bytes.
async fn caching(directory: &Path) -> (String, Arc<AtomicU32>, Arc<Fetcher>) {
    let (base, asked) = pages().await;
    let cache = FetchCache::open(&directory.join("cache"), 250, &[]).unwrap();
    let fetcher = keeping(1_000, Some(cache));
    (base, asked, Arc::new(fetcher))
}

fn kept(value: String) -> v1::Uri {
    v1::Uri {
        cache: true,
        output_file: "page".into(),
        ..uri(value)
    }
}

#[tokio::test]
async fn concurrent_fetches_of_one_file_share_a_download() {
    let directory = tempfile::tempdir().unwrap();
    let (base, asked, fetcher) = caching(directory.path()).await;
    let fetches: Vec<_> = (0..10)
        .map(|_| {
            let (fetcher, uri) = (fetcher.clone(), kept(format!("{base}/a")));
            tokio::spawn(async move { fetch(&fetcher, uri).await })
        })
        .collect();
    for fetching in fetches {
        let (sandbox, result) = fetching.await.unwrap();
        result.unwrap();
        let page = fs::read_to_string(sandbox.path().join("page")).unwrap();
        assert_eq!(page, "a".repeat(100));
    }
    assert_eq!(asked.load(Ordering::SeqCst), 1);
    let mut other = kept(format!("{base}/a"));
    other.sha256 = "0".repeat(64);
    assert!(fetch(&fetcher, other).await.1.is_err());
    assert_eq!(asked.load(Ordering::SeqCst), 2, "it asks for other bytes");
    fetch(&fetcher, kept(format!("{base}/a"))).await.1.unwrap();
    assert_eq!(asked.load(Ordering::SeqCst), 2);
}

#[tokio::test]
async fn the_least_recently_used_file_is_evicted_and_oversized_ones_are_not_cached() {
    let directory = tempfile::tempdir().unwrap();
    let (base, asked, fetcher) = caching(directory.path()).await;
    let bring = async |name: &str| {
        let before = asked.load(Ordering::SeqCst);
        let (_sandbox, result) = fetch(&fetcher, kept(format!("{base}/{name}"))).await;
        result.unwrap();
        asked.load(Ordering::SeqCst) > before
    };
    assert!(bring("a").await && bring("b").await);
    assert!(!bring("a").await, "it is here");
    assert!(bring("c").await, "there is room for two");
    assert!(!bring("a").await && !bring("c").await);
    assert!(bring("b").await, "it had to go");
    assert!(bring("large").await && bring("large").await);
    assert!(!bring("c").await, "nothing had to go for what is not kept");
    let listed = fs::read_dir(directory.path().join("cache")).unwrap();
    assert_eq!(listed.count(), 2, "no draft is left");
}

#[test]
fn partial_downloads_are_removed_at_the_next_start() {
    let directory = tempfile::tempdir().unwrap();
    fs::write(directory.path().join(".draft-7"), "half").unwrap();
    fs::write(directory.path().join("whole"), "whole").unwrap();
    FetchCache::open(directory.path(), 250, &[]).unwrap();
    let listed = fs::read_dir(directory.path()).unwrap();
    assert_eq!(listed.count(), 1);
}

#[tokio::test]
async fn progress_is_reported_to_every_waiter() {
    let directory = tempfile::tempdir().unwrap();
    let gate = Arc::new(tokio::sync::Notify::new());
    let held = gate.clone();
    let half = move || {
        let held = held.clone();
        async move {
            let rest = futures::stream::once(async move {
                held.notified().await;
                Ok::<_, io::Error>("b".repeat(50))
            });
            let all = futures::stream::iter([Ok("a".repeat(50))]).chain(rest);
            let headers = [("content-length", "100")];
            (headers, axum::body::Body::from_stream(all))
        }
    };
    let base = serve(Router::new().route("/half", get(half))).await;
    let cache = FetchCache::open(&directory.path().join("cache"), 250, &[]).unwrap();
    let fetcher = Arc::new(keeping(1_000, Some(cache)));
    let mut waiting = Vec::new();
    for _ in 0..2 {
        let (meter, mut seen) = watch::channel(FetchProgress::default());
        let (fetcher, uris) = (fetcher.clone(), [kept(format!("{base}/half"))]);
        let fetching = tokio::spawn(async move {
            let sandbox = tempfile::tempdir().unwrap();
            let whose = FetchContext::default();
            fetcher
                .fetch_all(&uris, sandbox.path(), whose, &meter)
                .await
        });
        let is_half = |now: &FetchProgress| (now.done_bytes, now.total_bytes) == (50, 100);
        let now = seen.wait_for(is_half).await.unwrap().clone();
        assert_eq!(now.item, Some(ItemKind::File(format!("{base}/half"))));
        waiting.push(fetching);
    }
    gate.notify_one();
    for fetching in waiting {
        fetching.await.unwrap().unwrap();
    }
}
