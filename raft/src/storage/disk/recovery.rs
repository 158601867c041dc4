//! Checks of a RocksDB directory before RocksDB opens it.
//!
//! RocksDB creates a new store where `CURRENT` is missing, drops the last edits of a damaged
//! manifest, and drops everything after a damaged record of a write-ahead log. After that the loss
//! cannot be detected. The files are therefore checked here first. A torn end is truncated and the
//! rest is synced: it never appears torn again, whatever is written after it.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use super::frames::{self, WalRead};
use super::high_water::{HighWaterRecord, Manifest};
use super::store_files::{CURRENT, current_manifest, damaged, manifest_path, name, numbered};
use super::wal::{WalCheckResult, WalChecker, WalPosition};
use crate::storage::directory::OpenError;

/// The write-ahead logs that were found, for messages.
#[derive(Debug, Default)]
pub(super) struct WalFiles {
    /// Oldest first.
    paths: Vec<PathBuf>,
    truncation: Option<WalTruncation>,
    /// The newest log that existed before.
    newest: Option<u64>,
}

/// The truncated end of a log.
#[derive(Debug)]
struct WalTruncation {
    path: PathBuf,
    offset: u64,
    bytes: u64,
}

impl WalFiles {
    /// Returns the names, as in "the write-ahead logs …".
    pub(super) fn names(&self) -> String {
        let names: Vec<_> = self.paths.iter().map(|path| name(path)).collect();
        let mut text = match names.is_empty() {
            true => "(none)".to_owned(),
            false => names.join(", "),
        };
        if let Some(cut) = &self.truncation {
            let name = name(&cut.path);
            text = format!(
                "{text} ({} unreadable bytes at byte {} of {name} were truncated)",
                cut.bytes, cut.offset
            );
        }
        if let Some(newest) = self.newest {
            text = format!("{text}; the newest one was {newest:06}.log");
        }
        text
    }
}

/// Checks the files of the store. Nothing is changed unless all of them may be used.
pub(super) fn prepare(
    store: &Path,
    noted: Option<&HighWaterRecord>,
) -> Result<WalFiles, OpenError> {
    let mut logs = numbered(store, ".log")?;
    let tables = numbered(store, ".sst")?;
    logs.sort_unstable();
    let manifest = current_manifest(store)?;
    match &manifest {
        None if logs.is_empty() && tables.is_empty() && noted.is_none() => {}
        None => return Err(damaged(&store.join(CURRENT), "it is missing".to_owned())),
        Some(number) => check_manifest(store, *number, noted)?,
    }
    let paths = logs.into_iter().map(|(_, path)| path).collect();
    check_logs(store, paths, noted)
}

/// Checks the manifest. RocksDB itself takes a manifest that ends early for one whose last edit was
/// interrupted.
fn check_manifest(
    store: &Path,
    number: u64,
    noted: Option<&HighWaterRecord>,
) -> Result<(), OpenError> {
    let Some(Manifest { number: of, bytes }) = noted.and_then(|noted| noted.manifest) else {
        return Ok(());
    };
    if number < of {
        let what = format!("it names manifest {number}, and manifest {of} was in use before");
        return Err(damaged(&store.join(CURRENT), what));
    }
    if number > of {
        return Ok(());
    }
    let path = manifest_path(store, number);
    let content = fs::read(&path).map_err(OpenError::io("read", &path))?;
    let mut at = 0;
    while (at as u64) < bytes {
        match frames::next(&content, at) {
            WalRead::Record { end, .. } => at = end,
            WalRead::End => {
                let what = format!("it has {at} bytes, and {bytes} were synced before");
                return Err(damaged(&path, what));
            }
            WalRead::Broken { at } => {
                let what = format!(
                    "the data at byte {at} is not what was written, and {bytes} bytes were synced before"
                );
                return Err(damaged(&path, what));
            }
        }
    }
    Ok(())
}

fn check_logs(
    store: &Path,
    paths: Vec<PathBuf>,
    noted: Option<&HighWaterRecord>,
) -> Result<WalFiles, OpenError> {
    let key = noted.map(|noted| noted.key);
    let mut checker = WalChecker::new(key, noted.map(|noted| noted.sequence));
    for path in &paths {
        // One at a time: together they may be 64 MiB.
        let bytes = fs::read(path).map_err(OpenError::io("read", path))?;
        checker.read(&bytes);
    }
    let cut = match checker.result() {
        WalCheckResult::Intact => None,
        WalCheckResult::Torn(at) => Some(cut_off(&paths, at)?),
        WalCheckResult::Damaged { at, lost, witness } => {
            return Err(refusal(&paths, at, lost, witness));
        }
    };
    for path in &paths {
        sync(path).map_err(OpenError::io("sync", path))?;
    }
    if !paths.is_empty() {
        sync(store).map_err(OpenError::io("sync", store))?;
    }
    let newest = noted.map(|noted| noted.newest_log).filter(|log| *log > 0);
    Ok(WalFiles {
        paths,
        truncation: cut,
        newest,
    })
}

fn sync(path: &Path) -> io::Result<()> {
    File::open(path)?.sync_all()
}

fn refusal(
    paths: &[PathBuf],
    at: WalPosition,
    lost: u64,
    witness: Option<WalPosition>,
) -> OpenError {
    let shown_by = match witness {
        Some(spot) => format!(
            "the valid record at byte {} of {}",
            spot.offset,
            name(&paths[spot.file])
        ),
        None => "the high-water record".to_owned(),
    };
    let what = format!(
        "the data at byte {} of this write-ahead log is not what was written (write {lost} is missing), \
         and {shown_by} shows that it had been synced, so no power cut explains it",
        at.offset
    );
    damaged(&paths[at.file], what)
}

/// Truncates what a power cut left of unacknowledged writes: everything from `at` on, and all later
/// logs.
fn cut_off(paths: &[PathBuf], at: WalPosition) -> Result<WalTruncation, OpenError> {
    let mut dropped = 0;
    // The last log comes first: until the truncation is complete, the next start finds the damage
    // at the same place.
    for (file, path) in paths.iter().enumerate().skip(at.file).rev() {
        let keep = match file == at.file {
            true => at.offset as u64,
            false => 0,
        };
        let cut = || -> io::Result<u64> {
            let file = File::options().write(true).open(path)?;
            let length = file.metadata()?.len();
            file.set_len(keep)?;
            file.sync_all()?;
            Ok(length.saturating_sub(keep))
        };
        dropped += cut().map_err(OpenError::io("truncate the torn end of", path))?;
    }
    let cut = WalTruncation {
        path: paths[at.file].clone(),
        offset: at.offset as u64,
        bytes: dropped,
    };
    tracing::warn!(
        path = %cut.path.display(),
        offset = cut.offset,
        bytes = cut.bytes,
        "the write-ahead log ends in an unsynced write that a power cut interrupted; it was truncated"
    );
    Ok(cut)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::storage::disk::frames::tests::FrameWriter;
    use crate::storage::disk::wal;

    const KEY: u64 = 7;

    /// Creates the directory of a store with this manifest and these logs.
    fn store(manifest: &[u8], logs: &[(u64, &[u8])]) -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path();
        fs::write(path.join(CURRENT), "MANIFEST-000005\n").unwrap();
        fs::write(manifest_path(path, 5), manifest).unwrap();
        for (number, bytes) in logs {
            fs::write(path.join(format!("{number:06}.log")), bytes).unwrap();
        }
        dir
    }

    fn frames(records: &[&[u8]]) -> Vec<u8> {
        let mut writer = FrameWriter::default();
        records.iter().for_each(|record| writer.record(record));
        writer.0
    }

    /// Returns a batch of one change, written when everything up to `synced` was synced.
    fn batch(sequence: u64, synced: u64) -> Vec<u8> {
        let mut batch = sequence.to_le_bytes().to_vec();
        batch.extend(1_u32.to_le_bytes());
        batch.extend(wal::MARK_HEAD);
        batch.extend(wal::mark(KEY, synced));
        batch.extend([0x5a; 100]);
        batch
    }

    fn record(sequence: u64, manifest: Option<Manifest>) -> HighWaterRecord {
        HighWaterRecord {
            key: KEY,
            sequence,
            manifest,
            ..HighWaterRecord::default()
        }
    }

    fn refused(dir: &tempfile::TempDir, noted: &HighWaterRecord) -> String {
        prepare(dir.path(), Some(noted)).unwrap_err().to_string()
    }

    fn length(dir: &tempfile::TempDir, number: u64) -> u64 {
        let path = dir.path().join(format!("{number:06}.log"));
        fs::metadata(path).unwrap().len()
    }

    #[test]
    fn torn_end_is_truncated_with_all_later_logs_once() {
        let whole = frames(&[&batch(1, 0), &batch(2, 1)]);
        let torn = &frames(&[&batch(1, 0), &batch(2, 1), &batch(3, 2)])[..whole.len() + 50];
        let later = frames(&[&batch(4, 2)]);
        let dir = store(b"", &[(8, torn), (11, &later)]);
        let noted = record(2, None);
        let logs = prepare(dir.path(), Some(&noted)).unwrap();
        assert_eq!((length(&dir, 8), length(&dir, 11)), (whole.len() as u64, 0));
        let cut = format!(
            "unreadable bytes at byte {} of 000008.log were truncated",
            whole.len()
        );
        assert!(logs.names().contains(&cut), "{}", logs.names());
        // Later writes go to a newer log, which records that this one was synced. The old logs may
        // reappear after a power cut.
        let next = frames(&[&batch(3, 2), &batch(4, 3), &batch(5, 4)]);
        fs::write(dir.path().join("000014.log"), next).unwrap();
        let logs = prepare(dir.path(), Some(&self::record(4, None))).unwrap();
        assert_eq!(logs.names(), "000008.log, 000011.log, 000014.log");
    }

    #[test]
    fn rejected_logs_are_left_unchanged() {
        let mut damaged = frames(&[&batch(1, 0), &batch(2, 1), &batch(3, 2)]);
        damaged[60] ^= 1;
        let dir = store(b"", &[(8, &damaged), (11, &frames(&[&batch(4, 3)]))]);
        let text = refused(&dir, &record(0, None));
        assert!(
            text.contains("000008.log is damaged: the data at byte 0"),
            "{text}"
        );
        assert_eq!(length(&dir, 8), damaged.len() as u64);
        assert!(length(&dir, 11) > 0);
    }

    #[test]
    fn a_manifest_that_lost_a_synced_edit_is_refused() {
        let manifest = frames(&[b"the first edit", b"the second edit"]);
        let bytes = manifest.len() as u64;
        let all = record(0, Some(Manifest { number: 5, bytes }));
        prepare(store(&manifest, &[]).path(), Some(&all)).unwrap();
        // After the synced part, any bytes are allowed.
        let longer = [&manifest[..], b"half"].concat();
        prepare(store(&longer, &[]).path(), Some(&all)).unwrap();
        let first = frames(&[b"the first edit"]);
        let text = refused(&store(&first, &[]), &all);
        assert!(
            text.contains("MANIFEST-000005 is damaged: it has 21 bytes"),
            "{text}"
        );
        let mut flipped = manifest;
        *flipped.last_mut().unwrap() ^= 1;
        let text = refused(&store(&flipped, &[]), &all);
        assert!(
            text.contains("MANIFEST-000005 is damaged: the data at byte 21"),
            "{text}"
        );
        let newer = record(0, Some(Manifest { number: 6, bytes }));
        let text = refused(&store(&first, &[]), &newer);
        assert!(text.contains("manifest 6 was in use before"), "{text}");
    }

    /// RocksDB would create a new store over the existing files.
    #[test]
    fn only_an_empty_directory_may_lack_current() {
        let empty = tempfile::tempdir().unwrap();
        prepare(empty.path(), None).unwrap();
        prepare(&empty.path().join("not-there"), None).unwrap();
        assert!(refused(&empty, &record(0, None)).contains("CURRENT is damaged: it is missing"));
        fs::write(empty.path().join("000004.sst"), b"").unwrap();
        assert!(prepare(empty.path(), None).is_err());
        let dir = store(b"", &[]);
        for text in [
            "",
            "MANIFEST-000004\n",
            "MANIFEST-000005",
            "MANIFEST-00000\u{75}\n",
        ] {
            fs::write(dir.path().join(CURRENT), text).unwrap();
            let text = refused(&dir, &record(0, None));
            assert!(text.contains("CURRENT is damaged"), "{text}");
        }
    }
}
