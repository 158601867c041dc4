//! Tests that secrets in a URI are in no error, status text or log line, whatever the result of the
//! fetch.

use std::sync::OnceLock;

use axum::response::Redirect;

use super::*;
use argosy_testing::Log;

/// Occurs in each part of a URI that may be secret.
const CANARY: &str = "c4n4ry";

/// Returns the log of this process, of all threads.
fn log() -> &'static Log {
    static LOG: OnceLock<Log> = OnceLock::new();
    LOG.get_or_init(|| {
        let log = Log::default();
        tracing::subscriber::set_global_default(log.clone()).unwrap();
        log
    })
}

/// Returns a URI with a user, a password, a query and a fragment.
fn secret(base: &str, page: &str) -> v1::Uri {
    let server = base.strip_prefix("http://").unwrap();
    uri(format!(
        "http://{CANARY}:{CANARY}@{server}/{page}?key={CANARY}#{CANARY}"
    ))
}

/// Returns the texts of a failing fetch and of its progress.
async fn texts(fetcher: &Fetcher, uri: v1::Uri, sandbox: &Path) -> String {
    let meter = meter();
    let uris = [uri];
    let fetched = fetcher.fetch_all(&uris, sandbox, FetchContext::default(), &meter);
    let error = fetched.await.expect_err("it fails");
    let debug = format!("{error:?}");
    let what = meter.borrow().item.clone();
    format!("{} {what:?} {debug}", crate::error_chain(&error))
}

/// Starts a server of pages that each fail in a different way.
async fn failing() -> String {
    let to = |target: &'static str| get(move || async move { Redirect::temporary(target) });
    let silence = || futures::future::pending::<&'static str>();
    let router = Router::new()
        .route("/page", get(|| async { "text" }))
        .route("/large", get(|| async { "x".repeat(2_000) }))
        .route("/gone", get(|| async { (StatusCode::GONE, "") }))
        .route("/again", to("/again"))
        .route("/away", to("http://169.254.169.254/c4n4ry?c4n4ry"))
        .route("/silent", get(silence));
    serve(router).await
}

/// Returns a fetcher without retries and with this timeout.
fn impatient(stall_limit: Duration) -> Fetcher {
    let mut downloads = DownloadClient::new(&settings(1_000), without_tls).unwrap();
    (downloads.stall_limit, downloads.retry_for) = (stall_limit, Duration::ZERO);
    with(downloads, 1_000, None)
}

#[tokio::test]
async fn no_secret_of_a_uri_is_in_the_text_of_any_failure() {
    let base = failing().await;
    let closed = {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        format!("http://{}", listener.local_addr().unwrap())
    };
    let mut other = secret(&base, "page");
    other.sha256 = "0".repeat(64);
    let mut archive = secret(&base, "page");
    archive.extract = true;
    let mut misnamed = secret(&base, "page");
    misnamed.output_file = "a/b".to_owned();
    let directory = tempfile::tempdir().unwrap();
    for (uri, part) in [
        (secret(&base, "large"), "larger"),
        (secret(&base, "gone"), "410"),
        (secret(&base, "again"), "redirects too often"),
        (secret(&base, "away"), "--fetch-allow"),
        (secret(&base, "silent"), "nothing came"),
        (secret(&closed, "page"), "efused"),
        (secret("http://10.0.0.1:port", "page"), "it is not a URL"),
        (other, "SHA-256"),
        (archive, "extract"),
        (misnamed, "output_file"),
    ] {
        let value = uri.value.clone();
        let limit = match value.contains("/silent?") {
            true => Duration::from_millis(300),
            false => Duration::from_secs(60),
        };
        let text = texts(&impatient(limit), uri, directory.path()).await;
        assert!(text.contains(part), "{value}: {text}");
        assert!(!text.contains(CANARY), "{value}: {text}");
    }
    let nowhere = directory.path().join("missing");
    let fetcher = impatient(Duration::from_secs(60));
    let text = texts(&fetcher, secret(&base, "page"), &nowhere).await;
    assert!(text.contains("missing") && !text.contains(CANARY), "{text}");
}

#[tokio::test]
async fn no_secret_of_a_uri_is_in_the_log() {
    let lines = log();
    let base = failing().await;
    let directory = tempfile::tempdir().unwrap();
    // A cache without space logs that.
    let cache = FetchCache::open(&directory.path().join("cache"), 1, &[]).unwrap();
    let keeping = Fetcher {
        cache: Some(Arc::new(cache)),
        ..fetcher()
    };
    let mut kept = secret(&base, "large");
    kept.cache = true;
    let text = texts(&keeping, kept.clone(), directory.path()).await;
    assert!(text.contains("larger") && !text.contains(CANARY), "{text}");
    kept.value = kept.value.replace("large", "page");
    let (_sandbox, result) = fetch(&keeping, kept).await;
    result.unwrap();
    let lines = lines.0.lock().unwrap();
    let reported = lines.iter().find(|line| line.contains("is not cached"));
    assert!(reported.is_some(), "{lines:?}");
    let leaked = lines.iter().find(|line| line.contains(CANARY));
    assert_eq!(leaked, None);
}
