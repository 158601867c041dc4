//! Write latency of a disk: small synced appends, as in the log of a master.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::Path;
use std::time::{Duration, Instant};

/// Number of synced writes that are measured.
const WRITES: usize = 40;
/// Bytes of one write, about one small entry.
const BLOCK: [u8; 4_096] = [0x5a; 4_096];

/// Durations of synced writes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct SyncLatency {
    pub(super) median: Duration,
    pub(super) slowest: Duration,
}

/// Measures with a temporary file.
pub(super) fn measure(directory: &Path) -> io::Result<SyncLatency> {
    let path = directory.join(format!(".argosy-doctor-{}", std::process::id()));
    let file = File::create_new(&path)?;
    let measured = write(file);
    fs::remove_file(&path)?;
    measured
}

fn write(mut file: File) -> io::Result<SyncLatency> {
    let mut times = Vec::with_capacity(WRITES);
    for _ in 0..WRITES {
        let started = Instant::now();
        file.write_all(&BLOCK)?;
        file.sync_data()?;
        times.push(started.elapsed());
    }
    times.sort();
    Ok(SyncLatency {
        median: times[WRITES / 2],
        slowest: times[WRITES - 1],
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_disk_is_measured_without_leftovers() {
        let directory = tempfile::tempdir().unwrap();
        let syncs = measure(directory.path()).unwrap();
        assert!(syncs.median <= syncs.slowest);
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 0);
    }
}
