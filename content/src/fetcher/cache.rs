//! The shared fetch cache: each file is downloaded once for all tasks that request it, and stays
//! until others need its space. The least recently used file is evicted first.
//!
//! A file's name is the digest of its URI and of its required digest, so one task's claim about a
//! file never affects what another task gets. Two kinds are never evicted: files that are being
//! copied, whose space would not be free before the copy ends, and files that the operator has
//! pinned. The limit holds regardless of pins, and includes downloads in progress. The download of
//! a file that does not fit is stopped, and each waiting task downloads it into its own sandbox,
//! where the limit of its disk applies.

#[cfg(test)]
mod testing;

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::{DirBuilderExt, FileExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use argosy_host::crash_point;
use argosy_proto::uri::RedactedUri;
use argosy_proto::v1;
use sha2::{Digest, Sha256};
use tokio::sync::watch;

use super::error::FetchError;
use super::origin::{FetchRights, Origin};
use super::{FetchProgress, draft};
use crate::singleflight::{Singleflight, Waiter};

/// The name prefix of an incomplete file.
const DRAFT: &str = ".draft-";
/// Bytes copied at a time.
const CHUNK_BYTES: usize = 256 * 1024;

/// The result of a download, for all its waiters; `None` if the cache has no space for the file.
type DownloadResult = Result<Option<Arc<File>>, Arc<FetchError>>;

/// The cached files.
pub struct FetchCache {
    directory: PathBuf,
    /// The maximum size of the cache, in bytes.
    capacity_bytes: u64,
    /// Digests of the pinned URIs; the most recently used file of each stays.
    pins: BTreeSet<String>,
    /// A lock, because threads remove files while others start to copy them: the check for use and
    /// the removal are one step.
    usage: Mutex<CacheUsage>,
    serial: AtomicU64,
    downloads: Arc<Singleflight<String, DownloadResult, FetchProgress>>,
}

/// What is never evicted. Bounded by the number of concurrent fetches.
#[derive(Default)]
struct CacheUsage {
    /// Names of files in use, with the number of users.
    leases: BTreeMap<String, usize>,
    /// The bytes that each download in progress has, or will have if its server announced it.
    drafts: BTreeMap<u64, u64>,
}

impl FetchCache {
    /// Opens the directory of an agent that holds its data directory's lock, and removes what a
    /// crash left. Blocks.
    ///
    /// # Errors
    /// If the directory cannot be created, read or written.
    pub fn open(dir: &Path, capacity_bytes: u64, pinned_uris: &[String]) -> io::Result<Self> {
        fs::DirBuilder::new()
            .mode(0o700)
            .recursive(true)
            .create(dir)?;
        for entry in fs::read_dir(dir)? {
            let entry = entry?;
            if entry.file_name().to_string_lossy().starts_with(DRAFT) {
                fs::remove_file(entry.path())?;
            }
        }
        let cache = Self {
            directory: dir.to_owned(),
            capacity_bytes,
            pins: pinned_uris.iter().map(|uri| hex_digest(uri)).collect(),
            usage: Mutex::default(),
            serial: AtomicU64::new(0),
            downloads: Singleflight::new(),
        };
        cache.trim()?;
        Ok(cache)
    }

    /// Enforces the current size limit, which may be lower than in the last run: pinned files are
    /// evicted last.
    fn trim(&self) -> io::Result<()> {
        let mut entries = self.entries()?;
        entries.0.sort_by_key(|entry| entry.is_pinned);
        let mut all = entries.total(|_| true);
        for entry in &entries.0 {
            if all <= self.capacity_bytes {
                break;
            }
            remove(&self.directory.join(&entry.name))?;
            all -= entry.bytes;
        }
        self.entries()?.publish();
        Ok(())
    }

    /// Copies the file of the URI to a new file at `to`; downloads it if it is not cached. Not for
    /// files of this host, nor for tasks that reach no server.
    pub(super) async fn get(
        self: &Arc<Self>,
        origin: &Arc<Origin>,
        uri: &v1::Uri,
        to: &Path,
        rights: &FetchRights,
        meter: &watch::Sender<FetchProgress>,
    ) -> Result<File, FetchError> {
        let name = file_name(uri);
        let path = self.directory.join(&name);
        let used = self.lease(&name);
        let kept = match open(&path) {
            Some(file) => {
                metrics::counter!("argosy_agent_fetch_cache_hits_total").increment(1);
                Some(file)
            }
            None => {
                let (cache, uri) = (Arc::clone(self), uri.clone());
                let (origin, rights) = (Arc::clone(origin), rights.clone());
                let downloading = move |progress, _| async move {
                    // Another download may have ended between the check and the join.
                    match open(&path) {
                        Some(file) => Ok(Some(file)),
                        None => {
                            let to = (path.as_path(), &rights);
                            cache.download(&origin, &uri, to, &progress).await
                        }
                    }
                };
                let seat = self.downloads.join(name, (), downloading);
                await_download(seat, meter)
                    .await
                    .map_err(FetchError::Shared)?
            }
        };
        let Some(kept) = kept else {
            return origin.fetch(uri, to, rights, meter).await;
        };
        let place = to.to_owned();
        let copying = move || {
            let copied = copy(&kept, &place);
            drop(kept);
            // Here, because a copy continues after its fetch is cancelled: until it has ended, an
            // eviction would not free the space of the file.
            drop(used);
            copied
        };
        let copied = tokio::task::spawn_blocking(copying).await;
        copied
            .expect("copying never panics")
            .map_err(|source| FetchError::Write {
                uri: RedactedUri::of(&uri.value),
                path: to.to_owned(),
                source,
            })
    }

    /// Marks a file as in use: it is not removed while the result exists.
    fn lease(self: &Arc<Self>, name: &str) -> CacheLease {
        *self.usage().leases.entry(name.to_owned()).or_default() += 1;
        CacheLease {
            cache: Arc::clone(self),
            name: name.to_owned(),
        }
    }

    fn usage(&self) -> MutexGuard<'_, CacheUsage> {
        // Every change under the lock is one step, so that a panic leaves nothing half-done.
        self.usage.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn draft(self: &Arc<Self>) -> CacheDraft {
        let serial = self.serial.fetch_add(1, Ordering::Relaxed);
        self.usage().drafts.insert(serial, 0);
        CacheDraft {
            cache: Arc::clone(self),
            serial,
            path: self.directory.join(format!("{DRAFT}{serial}")),
        }
    }

    async fn download(
        self: &Arc<Self>,
        origin: &Origin,
        uri: &v1::Uri,
        (path, rights): (&Path, &FetchRights),
        progress: &watch::Sender<FetchProgress>,
    ) -> DownloadResult {
        let draft = self.draft();
        metrics::counter!("argosy_agent_fetch_cache_misses_total").increment(1);
        let file = tokio::select! {
            biased;
            () = self.until_full(draft.serial, &uri.value, progress.subscribe()) => return Ok(None),
            fetched = origin.fetch(uri, &draft.path, rights, progress) => fetched.map_err(Arc::new)?,
        };
        crash_point!("cache.draft-written");
        let (cache, place, wanted) = (Arc::clone(self), path.to_owned(), uri.value.clone());
        let keeping = move || -> io::Result<Option<File>> {
            let bytes = file.metadata()?.len();
            if bytes <= cache.capacity_bytes {
                // Its final name means that it is complete, also after a power cut. Synced before
                // the lock: a disk may take long.
                file.sync_all()?;
                crash_point!("cache.draft-synced");
            }
            match cache.store(&draft, &place, bytes, &wanted) {
                Ok(true) => Ok(Some(file)),
                Ok(false) => Ok(None),
                // It is complete and open: an error of caching does not affect the waiting tasks.
                Err(error) => {
                    warn_not_cached(&wanted, &error);
                    Ok(Some(file))
                }
            }
        };
        let kept = tokio::task::spawn_blocking(keeping).await;
        let kept = kept.expect("keeping a file never panics");
        kept.map(|file| file.map(Arc::new)).map_err(|source| {
            Arc::new(FetchError::Write {
                uri: RedactedUri::of(&uri.value),
                path: path.to_owned(),
                source,
            })
        })
    }

    /// Counts the bytes of a download; returns when there is no space for more of them.
    async fn until_full(
        self: &Arc<Self>,
        serial: u64,
        uri: &str,
        mut progress: watch::Receiver<FetchProgress>,
    ) {
        // The download itself has the sender.
        while progress.changed().await.is_ok() {
            let bytes = {
                let now = progress.borrow_and_update();
                now.done_bytes.max(now.total_bytes)
            };
            let (cache, uri) = (Arc::clone(self), uri.to_owned());
            let counting = tokio::task::spawn_blocking(move || cache.claim(serial, bytes, &uri));
            if !counting.await.expect("counting never panics") {
                return;
            }
        }
    }

    /// Counts these bytes for a download if there is space for them, and returns whether there is.
    /// Blocks.
    fn claim(&self, serial: u64, bytes: u64, uri: &str) -> bool {
        let mut usage = self.usage();
        // None if the download has ended.
        let claimed = usage.drafts.get(&serial).copied();
        if claimed.is_none_or(|claimed| bytes <= claimed) {
            return true;
        }
        let space = self.make_space(&usage, serial, bytes, uri);
        let fits = space.inspect_err(|error| warn_not_cached(uri, error));
        let fits = fits.unwrap_or(false);
        if fits {
            usage.drafts.insert(serial, bytes);
        }
        fits
    }

    /// Gives a complete file its name if there is space for it, and returns whether there is.
    /// Blocks.
    ///
    /// Not by `atomic_file`: the file is as large as any download, is synced before the lock, and
    /// need not keep its name after a power cut.
    fn store(&self, draft: &CacheDraft, place: &Path, bytes: u64, uri: &str) -> io::Result<bool> {
        // Held until it has its name, so that no two files take the same space.
        let mut usage = self.usage();
        if !self.make_space(&usage, draft.serial, bytes, uri)? {
            return Ok(false);
        }
        crash_point!("cache.room-made");
        fs::rename(&draft.path, place)?;
        usage.drafts.remove(&draft.serial);
        crash_point!("cache.kept");
        self.entries()?.publish();
        Ok(true)
    }

    /// Evicts files until the cache has space for these bytes of a download. Returns whether it
    /// has; if files in use, pinned files and other downloads leave too little, nothing is evicted.
    fn make_space(
        &self,
        usage: &CacheUsage,
        serial: u64,
        bytes: u64,
        uri: &str,
    ) -> io::Result<bool> {
        let mark = hex_digest(uri);
        let entries = self.entries()?;
        let stays = |entry: &CacheEntry| {
            usage.leases.contains_key(&entry.name)
                || (entry.is_pinned && !entry.name.starts_with(&mark))
        };
        let others = usage.drafts.iter().filter(|(other, _)| **other != serial);
        let incoming = others
            .map(|(_, bytes)| *bytes)
            .fold(bytes, u64::saturating_add);
        let staying: u64 = entries.total(stays);
        if staying.saturating_add(incoming) > self.capacity_bytes {
            metrics::counter!("argosy_agent_fetch_cache_bypassed_total").increment(1);
            let (is_pinned, capacity_bytes) = (self.pins.contains(&mark), self.capacity_bytes);
            let uri = RedactedUri::of(uri);
            tracing::warn!(
                %uri,
                bytes,
                staying,
                incoming,
                capacity_bytes,
                is_pinned,
                "a fetched file is not cached: pinned files, files in use and downloads leave no space"
            );
            return Ok(false);
        }
        let mut all = entries.total(|_| true);
        for entry in entries.0.iter().filter(|entry| !stays(entry)) {
            if all.saturating_add(incoming) <= self.capacity_bytes {
                break;
            }
            remove(&self.directory.join(&entry.name))?;
            all -= entry.bytes;
        }
        Ok(true)
    }

    /// Returns the cached files, least recently used first.
    fn entries(&self) -> io::Result<CacheState> {
        let mut entries = Vec::new();
        for found in fs::read_dir(&self.directory)? {
            let found = found?;
            let name = found.file_name().to_string_lossy().into_owned();
            if name.starts_with(DRAFT) {
                continue;
            }
            let metadata = match found.metadata() {
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                looked => looked?,
            };
            entries.push(CacheEntry {
                used_at: metadata.modified()?,
                name,
                bytes: metadata.len(),
                is_pinned: false,
            });
        }
        entries.sort();
        // Of several versions of one file only the newest stays pinned.
        let mut seen = BTreeSet::new();
        for entry in entries.iter_mut().rev() {
            let mark = entry.name.split('-').next().unwrap_or_default();
            entry.is_pinned = self.pins.contains(mark) && seen.insert(mark.to_owned());
        }
        Ok(CacheState(entries))
    }
}

/// A cached file.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
struct CacheEntry {
    used_at: SystemTime,
    name: String,
    bytes: u64,
    is_pinned: bool,
}

struct CacheState(Vec<CacheEntry>);

impl CacheState {
    fn total(&self, is_counted: impl Fn(&CacheEntry) -> bool) -> u64 {
        let counted = self.0.iter().filter(|entry| is_counted(entry));
        counted.map(|entry| entry.bytes).sum()
    }

    fn publish(&self) {
        // Far below 2^53.
        metrics::gauge!("argosy_agent_fetch_cache_bytes").set(self.total(|_| true) as f64);
        let pinned_bytes = self.total(|entry| entry.is_pinned);
        metrics::gauge!("argosy_agent_fetch_cache_pinned_bytes").set(pinned_bytes as f64);
    }
}

/// Removes a file; succeeds if it does not exist.
fn remove(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        removed => removed,
    }
}

/// A file in use.
pub(super) struct CacheLease {
    cache: Arc<FetchCache>,
    name: String,
}

impl Drop for CacheLease {
    fn drop(&mut self) {
        let in_use = &mut self.cache.usage().leases;
        if let Some(users) = in_use.get_mut(&self.name) {
            *users -= 1;
            if *users == 0 {
                in_use.remove(&self.name);
            }
        }
    }
}

/// Waits for a download that is shared with others, and reports its progress to each of them.
async fn await_download(
    mut waiter: Waiter<DownloadResult, FetchProgress>,
    meter: &watch::Sender<FetchProgress>,
) -> DownloadResult {
    loop {
        tokio::select! {
            biased;
            end = &mut waiter.work => return end,
            Ok(()) = waiter.progress.changed() => {
                let now = waiter.progress.borrow_and_update().clone();
                meter.send_modify(|shown| {
                    (shown.done_bytes, shown.total_bytes) = (now.done_bytes, now.total_bytes);
                });
            }
        }
    }
}

/// An incomplete file; removed on drop, unless it was renamed.
struct CacheDraft {
    cache: Arc<FetchCache>,
    serial: u64,
    path: PathBuf,
}

impl Drop for CacheDraft {
    fn drop(&mut self) {
        // The next start removes what remains.
        let _ = fs::remove_file(&self.path);
        self.cache.usage().drafts.remove(&self.serial);
    }
}

fn warn_not_cached(uri: &str, error: &io::Error) {
    let uri = RedactedUri::of(uri);
    tracing::warn!(%uri, %error, "a fetched file is not cached");
}

/// Returns the digest of its URI, followed by that of its required digest.
fn file_name(uri: &v1::Uri) -> String {
    format!("{}-{}", hex_digest(&uri.value), hex_digest(&uri.sha256))
}

fn hex_digest(text: &str) -> String {
    let digest = Sha256::digest(text.as_bytes());
    digest.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Opens a cached file, and marks it as used now.
fn open(path: &Path) -> Option<Arc<File>> {
    let file = File::open(path).ok()?;
    // Its time only decides when it is evicted.
    let _ = file.set_modified(SystemTime::now());
    Some(Arc::new(file))
}

/// Copies by offset, because others read the same file concurrently. Returns the copy.
fn copy(from: &File, to: &Path) -> io::Result<File> {
    let to = draft::create_file(to)?;
    let mut buffer = vec![0; CHUNK_BYTES];
    let mut offset = 0;
    loop {
        let length = from.read_at(&mut buffer, offset)?;
        if length == 0 {
            return Ok(to);
        }
        to.write_all_at(&buffer[..length], offset)?;
        offset += length as u64;
    }
}
