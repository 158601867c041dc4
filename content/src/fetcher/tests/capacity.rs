//! Tests of the size of the cache while downloads are in progress.

use std::path::PathBuf;
use std::sync::mpsc;

use futures::FutureExt as _;
use tokio::sync::Semaphore;

use super::*;
use crate::testing::eventually;

/// A fetcher that caches 250 bytes, and a server whose pages end when there is a permit.
struct CapacityFixture {
    directory: tempfile::TempDir,
    base: String,
    gate: Arc<Semaphore>,
    fetcher: Arc<Fetcher>,
}

/// The form of a page.
#[derive(Clone, Copy, PartialEq, Eq)]
enum PageLength {
    Announced,
    Unknown,
}

impl CapacityFixture {
    /// Starts a server of pages of so many bytes, all but one of which are sent immediately.
    async fn new(bytes: usize, length: PageLength) -> Self {
        let gate = Arc::new(Semaphore::new(0));
        let held = gate.clone();
        let page = move || {
            let held = held.clone();
            async move {
                let last = futures::stream::once(async move {
                    held.acquire().await.unwrap().forget();
                    Ok::<_, io::Error>("b".to_owned())
                });
                let all = futures::stream::iter([Ok("a".repeat(bytes - 1))]).chain(last);
                let response = axum::response::Response::builder();
                let response = match length {
                    PageLength::Announced => response.header("content-length", bytes),
                    PageLength::Unknown => response,
                };
                response.body(axum::body::Body::from_stream(all)).unwrap()
            }
        };
        let directory = tempfile::tempdir().unwrap();
        let cache = FetchCache::open(&directory.path().join("cache"), 250, &[]).unwrap();
        Self {
            base: serve(Router::new().route("/{name}", get(page))).await,
            directory,
            gate,
            fetcher: Arc::new(keeping(1_000, Some(cache))),
        }
    }

    /// Starts a fetch of a page into a sandbox of this name.
    fn start(&self, page: &str, sandbox: &str) -> tokio::task::JoinHandle<Result<(), FetchError>> {
        let (fetcher, uris) = (
            self.fetcher.clone(),
            [kept(format!("{}/{page}", self.base))],
        );
        let sandbox = self.directory.path().join(sandbox);
        fs::create_dir(&sandbox).unwrap();
        tokio::spawn(async move {
            let context = FetchContext::default();
            fetcher.fetch_all(&uris, &sandbox, context, &meter()).await
        })
    }

    fn files(&self, directory: &str) -> Vec<PathBuf> {
        let entries = fs::read_dir(self.directory.path().join(directory)).unwrap();
        entries.map(|entry| entry.unwrap().path()).collect()
    }

    fn bytes(&self, directory: &str) -> u64 {
        let files = self.files(directory).into_iter();
        files
            .filter_map(|path| Some(fs::metadata(path).ok()?.len()))
            .sum()
    }
}

#[tokio::test]
async fn a_file_that_is_too_large_for_the_cache_goes_to_the_sandboxes() {
    for length in [PageLength::Announced, PageLength::Unknown] {
        let world = CapacityFixture::new(300, length).await;
        let sandboxes = ["one", "two"];
        let fetches = sandboxes.map(|sandbox| world.start("large", sandbox));
        for sandbox in sandboxes {
            eventually(|| world.bytes(sandbox) == 299).await;
        }
        assert_eq!(world.files("cache").len(), 0);
        world.gate.add_permits(2);
        for (fetching, sandbox) in fetches.into_iter().zip(sandboxes) {
            fetching.await.unwrap().unwrap();
            assert_eq!(world.bytes(sandbox), 300);
        }
        assert_eq!(world.files("cache").len(), 0);
    }
}

#[tokio::test]
async fn concurrent_downloads_stay_within_the_cache_size() {
    for length in [PageLength::Announced, PageLength::Unknown] {
        let world = CapacityFixture::new(100, length).await;
        let mut fetches = vec![world.start("a", "a"), world.start("b", "b")];
        eventually(|| world.bytes("cache") == 198).await;
        fetches.push(world.start("c", "c"));
        eventually(|| world.bytes("c") == 99).await;
        assert_eq!(world.bytes("cache"), 198);
        world.gate.add_permits(3);
        for fetching in fetches {
            fetching.await.unwrap().unwrap();
        }
        assert_eq!(world.bytes("cache"), 200);
        for page in ["a", "b", "c"] {
            assert_eq!(world.bytes(page), 100);
        }
        // A download that has ended leaves its space.
        world.gate.add_permits(1);
        world.start("d", "d").await.unwrap().unwrap();
        assert_eq!(world.bytes("cache"), 200);
        world.gate.add_permits(1);
        world.start("c", "again").await.unwrap().unwrap();
        assert_eq!(world.gate.available_permits(), 0, "it was not cached");
    }
}

#[test]
fn a_file_is_in_use_until_the_copy_of_a_cancelled_fetch_has_ended() {
    let mut runtime = tokio::runtime::Builder::new_current_thread();
    let runtime = runtime.enable_all().max_blocking_threads(1).build();
    runtime.unwrap().block_on(async {
        let directory = tempfile::tempdir().unwrap();
        let (base, _, fetcher) = caching(directory.path()).await;
        let uri = kept(format!("{base}/a"));
        fetch(&fetcher, uri.clone()).await.1.unwrap();
        let cache = fetcher.cache.as_ref().unwrap();
        assert!(!cache.is_in_use(&uri));
        // The only thread for copies waits until the sender is dropped.
        let (go, held) = mpsc::channel::<()>();
        let waiting = tokio::task::spawn_blocking(move || held.recv().is_err());
        let (copy, meter) = (directory.path().join("copy"), meter());
        let rights = FetchRights {
            reader: ReadIdentity::of(None),
            requester: Requester::default(),
        };
        let mut fetching = Box::pin(cache.get(&fetcher.origin, &uri, &copy, &rights, &meter));
        assert!(fetching.as_mut().now_or_never().is_none());
        drop(fetching);
        assert!(cache.is_in_use(&uri));
        drop(go);
        assert!(waiting.await.unwrap());
        eventually(|| !cache.is_in_use(&uri)).await;
        assert_eq!(fs::metadata(&copy).unwrap().len(), 100);
    });
}
