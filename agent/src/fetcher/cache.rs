//! Files that tasks want to be kept on this host: each is downloaded once for all who want it, and stays until others
//! need its room, the one that was used longest ago first.
//!
//! A file is named by the digest of its URI and of the digest that it must have, so that what one task says of a file
//! never gives another task something else than it asked for. Whoever copies a file holds it open: that it is removed
//! meanwhile changes nothing for the copy.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::{DirBuilderExt, FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::SystemTime;

use argosy_isolation::crash;
use argosy_proto::v1;
use sha2::{Digest, Sha256};
use tokio::sync::watch;

use super::Progress;
use super::error::FetchError;
use super::origin::Origin;
use crate::flights::{Flights, Seat};

/// What begins the name of a file that is not whole.
const DRAFT: &str = ".draft-";
/// Bytes copied at a time.
const CHUNK_BYTES: usize = 256 * 1024;

/// How a download ends for all who wait for it.
type End = Result<Arc<File>, Arc<FetchError>>;

/// The files that are kept.
pub(crate) struct Cache {
    folder: PathBuf,
    /// How much is kept, in bytes. A file that is larger is brought for those who wait for it, and not kept.
    capacity_bytes: u64,
    serial: AtomicU64,
    downloads: Arc<Flights<String, End, Progress>>,
}

impl Cache {
    /// Opens the folder of an agent that holds its directory's lock, and clears away what a crash left. Blocks.
    pub(crate) fn open(folder: &Path, capacity_bytes: u64) -> io::Result<Self> {
        fs::DirBuilder::new()
            .mode(0o700)
            .recursive(true)
            .create(folder)?;
        for entry in fs::read_dir(folder)? {
            let entry = entry?;
            if entry.file_name().to_string_lossy().starts_with(DRAFT) {
                fs::remove_file(entry.path())?;
            }
        }
        Ok(Self {
            folder: folder.to_owned(),
            capacity_bytes,
            serial: AtomicU64::new(0),
            downloads: Flights::new(),
        })
    }

    /// Copies what the URI names to `to`; it is downloaded if it is not here.
    pub(super) async fn bring(
        self: &Arc<Self>,
        origin: &Arc<Origin>,
        uri: &v1::Uri,
        to: &Path,
        meter: &watch::Sender<Progress>,
    ) -> Result<(), FetchError> {
        let name = name(uri);
        let path = self.folder.join(&name);
        let kept = match open(&path) {
            Some(file) => {
                metrics::counter!("argosy_agent_fetch_cache_hits_total").increment(1);
                file
            }
            None => {
                let (cache, origin, uri) = (Arc::clone(self), Arc::clone(origin), uri.clone());
                let seat = self.downloads.join(name, move |progress| async move {
                    // Another may have ended between our look and our joining.
                    match open(&path) {
                        Some(file) => Ok(file),
                        None => {
                            let brought = cache.download(&origin, &uri, &path, &progress).await;
                            brought.map_err(Arc::new)
                        }
                    }
                });
                watched(seat, meter).await.map_err(FetchError::Shared)?
            }
        };
        let place = to.to_owned();
        let copied = tokio::task::spawn_blocking(move || copy(&kept, &place)).await;
        copied
            .expect("copying never panics")
            .map_err(|source| FetchError::Write {
                uri: uri.value.clone(),
                path: to.to_owned(),
                source,
            })
    }

    async fn download(
        &self,
        origin: &Origin,
        uri: &v1::Uri,
        path: &Path,
        progress: &watch::Sender<Progress>,
    ) -> Result<Arc<File>, FetchError> {
        let serial = self.serial.fetch_add(1, Ordering::Relaxed);
        let draft = Draft(self.folder.join(format!("{DRAFT}{serial}")));
        metrics::counter!("argosy_agent_fetch_cache_misses_total").increment(1);
        origin.bring(uri, &draft.0, None, progress).await?;
        crash::passed("cache.draft-written");
        let (folder, capacity_bytes) = (self.folder.clone(), self.capacity_bytes);
        let place = path.to_owned();
        let keeping = move || -> io::Result<File> {
            let file = File::open(&draft.0)?;
            let bytes = file.metadata()?.len();
            if bytes <= capacity_bytes {
                // By its name it counts as whole, also after a cut of power.
                file.sync_all()?;
                crash::passed("cache.draft-synced");
                make_room(&folder, capacity_bytes - bytes)?;
                crash::passed("cache.room-made");
                fs::rename(&draft.0, &place)?;
                crash::passed("cache.kept");
            }
            Ok(file)
        };
        let kept = tokio::task::spawn_blocking(keeping).await;
        let kept = kept.expect("keeping a file never panics");
        kept.map(Arc::new).map_err(|source| FetchError::Write {
            uri: uri.value.clone(),
            path: path.to_owned(),
            source,
        })
    }
}

/// Awaits a download that others may wait for, too, and shows each of them how far it is.
async fn watched(mut seat: Seat<End, Progress>, meter: &watch::Sender<Progress>) -> End {
    loop {
        tokio::select! {
            biased;
            end = &mut seat.work => return end,
            Ok(()) = seat.progress.changed() => {
                let now = seat.progress.borrow_and_update().clone();
                meter.send_modify(|shown| {
                    (shown.done_bytes, shown.total_bytes) = (now.done_bytes, now.total_bytes);
                });
            }
        }
    }
}

/// A file that is not whole; it goes with this, unless it was renamed.
struct Draft(PathBuf);

impl Drop for Draft {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}

fn name(uri: &v1::Uri) -> String {
    let mut hash = Sha256::new();
    hash.update(uri.value.as_bytes());
    hash.update([0]);
    hash.update(uri.sha256.as_bytes());
    let digest = hash.finalize();
    digest.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// A kept file, which counts as used now.
fn open(path: &Path) -> Option<Arc<File>> {
    let file = File::open(path).ok()?;
    // Its time decides only how soon it goes.
    let _ = file.set_modified(SystemTime::now());
    Some(Arc::new(file))
}

/// Removes what was used longest ago until no more than `most_bytes` are left. Several may do so at a time: then more
/// goes than must.
fn make_room(folder: &Path, most_bytes: u64) -> io::Result<()> {
    let mut kept = Vec::new();
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        if entry.file_name().to_string_lossy().starts_with(DRAFT) {
            continue;
        }
        // Another may just have removed it.
        if let Ok(found) = entry.metadata() {
            kept.push((found.modified()?, entry.path(), found.len()));
        }
    }
    kept.sort();
    let mut bytes: u64 = kept.iter().map(|(_, _, bytes)| bytes).sum();
    for (_, path, size) in kept {
        if bytes <= most_bytes {
            break;
        }
        match fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            Ok(()) | Err(_) => bytes -= size,
        }
    }
    Ok(())
}

/// By places, since others read the same file at the same time.
fn copy(from: &File, to: &Path) -> io::Result<()> {
    let mut options = fs::OpenOptions::new();
    options.write(true).create(true).truncate(true).mode(0o600);
    options.custom_flags(nix::libc::O_NOFOLLOW);
    let to = options.open(to)?;
    let mut buffer = vec![0; CHUNK_BYTES];
    let mut offset = 0;
    loop {
        let length = from.read_at(&mut buffer, offset)?;
        if length == 0 {
            return Ok(());
        }
        to.write_all_at(&buffer[..length], offset)?;
        offset += length as u64;
    }
}
