//! Tests of eviction: files that are in use, and files that an operator has pinned, stay in the
//! cache.

use std::path::Path;
use std::sync::Arc;

use super::{FetchCache, Fetcher, fetch, fetcher, fs, kept, pages};

/// Returns a fetcher that caches 250 bytes, with the files of `pinned` always kept.
fn keeping(directory: &Path, pinned: &[String]) -> (Fetcher, Arc<FetchCache>) {
    let cache = Arc::new(FetchCache::open(&directory.join("cache"), 250, pinned).unwrap());
    let fetcher = Fetcher {
        cache: Some(cache.clone()),
        ..fetcher()
    };
    (fetcher, cache)
}

async fn bring(fetcher: &Fetcher, value: &str) {
    let (sandbox, result) = fetch(fetcher, kept(value.to_owned())).await;
    result.unwrap();
    assert!(
        sandbox.path().join("page").exists(),
        "kept or not, it is there"
    );
}

fn held(cache: &FetchCache) -> (u64, u64) {
    cache.sizes().unwrap()
}

#[tokio::test]
async fn pinned_files_survive_evictions_and_restarts_within_the_cache_size() {
    let directory = tempfile::tempdir().unwrap();
    let (base, asked) = pages().await;
    let page = |name: &str| format!("{base}/{name}");
    let count = || asked.load(std::sync::atomic::Ordering::SeqCst);
    let (fetcher, cache) = keeping(directory.path(), &[page("a"), page("c"), page("d")]);
    for name in ["a", "b", "e", "f"] {
        bring(&fetcher, &page(name)).await;
    }
    assert_eq!(held(&cache), (200, 100));
    assert_eq!(count(), 4);
    bring(&fetcher, &page("a")).await;
    assert_eq!(count(), 4, "it is here although it was used longest ago");
    // The next agent knows the pinned files as well.
    let (fetcher, cache) = keeping(directory.path(), &[page("a"), page("c"), page("d")]);
    assert_eq!(held(&cache), (200, 100));
    bring(&fetcher, &page("c")).await;
    assert_eq!(held(&cache), (200, 200), "what is not pinned made room");
    // No space is left: later files are fetched into the sandbox and not cached.
    for name in ["d", "b", "d"] {
        let before = count();
        bring(&fetcher, &page(name)).await;
        assert_eq!(count(), before + 2, "{name}");
        assert_eq!(held(&cache), (200, 200));
    }
    // Without its pin a file has no priority.
    let (fetcher, cache) = keeping(directory.path(), &[page("c")]);
    bring(&fetcher, &page("b")).await;
    assert_eq!(held(&cache), (200, 100));
    // An agent with a smaller cache enforces its limit from the start: pinned files are evicted
    // last.
    for (bytes, left) in [(150, (100, 100)), (50, (0, 0))] {
        let pinned = [page("c")];
        let cache = FetchCache::open(&directory.path().join("cache"), bytes, &pinned).unwrap();
        assert_eq!(held(&cache), left);
    }
}

#[tokio::test]
async fn only_the_last_used_version_of_a_pinned_file_is_kept() {
    let directory = tempfile::tempdir().unwrap();
    let (base, _) = pages().await;
    let (fetcher, cache) = keeping(directory.path(), &[format!("{base}/a")]);
    bring(&fetcher, &format!("{base}/a")).await;
    let mut by_digest = kept(format!("{base}/a"));
    by_digest.sha256 = "2816597888e4a0d3a36b82b83316ab32680eb8f00f8cd3b904d681246d285a0e".into();
    fetch(&fetcher, by_digest).await.1.unwrap();
    assert_eq!(held(&cache), (200, 100));
    bring(&fetcher, &format!("{base}/b")).await;
    assert_eq!(held(&cache), (200, 100));
}

#[tokio::test]
async fn a_file_that_is_being_copied_is_not_evicted() {
    let directory = tempfile::tempdir().unwrap();
    let (base, asked) = pages().await;
    let (fetcher, cache) = keeping(directory.path(), &[]);
    for name in ["a", "b"] {
        bring(&fetcher, &format!("{base}/{name}")).await;
    }
    let in_use = cache.used_by_uri(&kept(format!("{base}/a")));
    for name in ["c", "d"] {
        bring(&fetcher, &format!("{base}/{name}")).await;
    }
    bring(&fetcher, &format!("{base}/a")).await;
    let count = || asked.load(std::sync::atomic::Ordering::SeqCst);
    assert_eq!(count(), 4, "a is still here");
    drop(in_use);
    for name in ["e", "f"] {
        bring(&fetcher, &format!("{base}/{name}")).await;
    }
    bring(&fetcher, &format!("{base}/a")).await;
    assert_eq!(count(), 7, "no copy was in progress");
    assert_eq!(
        fs::read_dir(directory.path().join("cache"))
            .unwrap()
            .count(),
        2
    );
}
