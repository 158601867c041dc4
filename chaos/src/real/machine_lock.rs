//! One run of this machine at a time. Its hosts are network namespaces that share the directory of
//! the machine below /run, and so the records of published ports: the tasks of a second run could
//! not publish the same ports.

use std::fs::{File, TryLockError};
use std::path::Path;

use anyhow::{Context, Result};
use argosy_testbed::progress::ProgressDisplay;

const LOCK: &str = "/run/argosy-chaos.lock";

/// Waits until no other run uses this machine. The result keeps others waiting until it is dropped,
/// or its process ends.
pub(super) fn lock_machine(screen: &ProgressDisplay) -> Result<File> {
    lock(Path::new(LOCK), || {
        screen.print("waiting for the end of another run on this machine");
    })
}

fn lock(path: &Path, report: impl FnOnce()) -> Result<File> {
    let failed = || format!("cannot lock {}", path.display());
    let opened = File::options().create(true).append(true).open(path);
    let file = opened.with_context(failed)?;
    match file.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => {
            report();
            file.lock().with_context(failed)?;
        }
        Err(TryLockError::Error(error)) => return Err(error).with_context(failed),
    }
    Ok(file)
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    #[test]
    fn a_second_run_waits_for_the_end_of_the_first() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("lock");
        let first = lock(&path, || panic!("nothing holds it")).unwrap();
        let (waits, waiting) = mpsc::channel();
        let second = std::thread::spawn(move || lock(&path, || waits.send("waits").unwrap()));
        assert_eq!(waiting.recv().unwrap(), "waits");
        assert!(!second.is_finished());
        drop(first);
        assert!(second.join().unwrap().is_ok());
    }
}
