//! Ends of real processes: killed in the middle of work, or aborted after a fatal error.
//!
//! A test starts itself again as the process that is to end.

use std::env;
use std::io;
use std::os::unix::process::ExitStatusExt;
use std::process::{Command, Stdio};

use crate::fatal::{self, FatalError};

/// Marks the second start of a test, and names its directory.
const CHILD: &str = "ARGOSY_RAFT_TEST_CHILD";

fn this_test(name: &str, place: &str) -> Command {
    let mut command = Command::new(env::current_exe().unwrap());
    let name = format!("tests::process::{name}");
    command.args(["--exact", &name, "--nocapture"]);
    command
        .env(CHILD, place)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    command
}

#[test]
fn fatal_error_is_logged_and_the_process_aborts_at_once() {
    if env::var_os(CHILD).is_some() {
        fatal::abort()(&FatalError {
            path: "/data/master".into(),
            what: "write to",
            source: io::Error::from_raw_os_error(28),
        });
        return;
    }
    let name = "fatal_error_is_logged_and_the_process_aborts_at_once";
    let output = this_test(name, "yes").output().unwrap();
    let words = String::from_utf8_lossy(&output.stderr);
    let expected = "argosy: cannot write to /data/master: No space left on device (os error 28); stopping immediately: make room on the disk, then start this master again";
    assert!(words.contains(expected), "{words}");
    // SIGABRT.
    assert_eq!(output.status.signal(), Some(6));
}

#[cfg(feature = "rocksdb")]
mod killed {
    use std::io::{BufRead, BufReader};
    use std::path::PathBuf;

    use openraft::RaftLogReader;
    use openraft::storage::{RaftLogStorage, RaftLogStorageExt};

    use super::super::harness::{entries, open, start, vote};
    use super::{CHILD, env, this_test};
    use crate::storage::store::StoreLocation;

    /// Votes and appends endlessly, and prints each acknowledgement to standard output.
    async fn work(place: StoreLocation) {
        let mut opened = open(&place).await;
        for index in 0.. {
            if index % 10 == 0 {
                opened.log.save_vote(&vote(index, 1)).await.unwrap();
            }
            let entry = entries(index..index + 1);
            opened.log.blocking_append(entry.clone()).await.unwrap();
            opened
                .log
                .save_committed(Some(entry[0].log_id))
                .await
                .unwrap();
            opened.apply(entry).await;
            println!("answered {index}");
        }
    }

    #[tokio::test]
    async fn acknowledged_writes_survive_a_kill_of_the_process() {
        if let Some(path) = env::var_os(CHILD) {
            return work(StoreLocation::Directory(path.into())).await;
        }
        let directory = tempfile::tempdir().unwrap();
        let path: PathBuf = directory.path().join("master");
        let name = "killed::acknowledged_writes_survive_a_kill_of_the_process";
        let mut child = this_test(name, path.to_str().unwrap()).spawn().unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let mut answered = None;
        for line in lines {
            let line = line.unwrap();
            if let Some(index) = line.strip_prefix("answered ") {
                answered = Some(index.parse::<u64>().unwrap());
            }
            if answered == Some(200) {
                child.kill().unwrap();
            }
        }
        child.wait().unwrap();
        let answered = answered.unwrap();
        assert!(answered >= 200);

        let place = StoreLocation::Directory(path);
        let mut opened = open(&place).await;
        let last = start(&mut opened).await.unwrap();
        assert!(last >= answered, "{last} of {answered}");
        let read = opened.log.try_get_log_entries(..).await.unwrap();
        assert_eq!(read, entries(0..last + 1));
        let term = opened
            .log
            .read_vote()
            .await
            .unwrap()
            .unwrap()
            .leader_id
            .term;
        assert!(term >= answered / 10 * 10);
        // The commit of the last one waits for the next append; all before it are applied.
        let records = opened.owner.records().len() as u64;
        assert!(
            (answered..=last + 1).contains(&records),
            "{records} of {answered}"
        );
        opened.close().await;
    }
}
