//! Tests of the slots for look-ups of names, which frameworks share.

use super::super::take_slots;
use super::*;

/// Fetches the page as a task of a framework.
fn fetch_for(
    fetcher: &Arc<Fetcher>,
    page: &str,
    framework: FrameworkId,
) -> tokio::task::JoinHandle<Result<(), FetchError>> {
    let (fetcher, uris) = (Arc::clone(fetcher), [uri(page.to_owned())]);
    tokio::spawn(async move {
        let sandbox = tempfile::tempdir().unwrap();
        let context = FetchContext {
            framework,
            ..FetchContext::default()
        };
        let meter = meter();
        let fetching = fetcher.fetch_all(&uris, sandbox.path(), context, &meter);
        fetching.await
    })
}

#[tokio::test]
async fn waiting_for_a_look_up_is_not_a_timeout_and_delays_one_framework() {
    let limit = Duration::from_secs(2);
    let base = serve(Router::new().route("/page", get(|| async { "text" }))).await;
    let page = base.replace("127.0.0.1", "localhost") + "/page";
    let server = page.strip_prefix("http://").unwrap();
    let server = server.strip_suffix("/page").unwrap();
    let mut settings = settings(1_000);
    settings.allow.push(server.parse().unwrap());
    let hasty = move || client().connect_timeout(limit);
    let mut downloads = DownloadClient::with(hasty, &settings, without_tls).unwrap();
    (downloads.stall_limit, downloads.retry_for) = (limit, Duration::ZERO);
    let (downloads, slots) = (Arc::new(downloads), FairSlots::new(4));
    let fetcher = Fetcher::new(settings, downloads, Arc::new(PlainTar), slots, None);
    let fetcher = Arc::new(fetcher);
    let (busy, other) = (FrameworkId(77), FrameworkId(78));
    let taken = take_slots(busy).await;
    let waiting = fetch_for(&fetcher, &page, busy);
    fetch_for(&fetcher, &page, other).await.unwrap().unwrap();
    tokio::time::sleep(limit + Duration::from_millis(500)).await;
    assert!(!waiting.is_finished(), "it waits for a slot");
    drop(taken);
    waiting.await.unwrap().unwrap();
}
