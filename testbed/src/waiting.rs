//! Waiting for a condition with a limit, and for processes that must not end before it holds.

use std::time::Duration;

use anyhow::{Result, bail};
use tokio::time::Instant;

use crate::processes::ManagedProcess;

/// Lines of the log of each process that the error of a vain wait has.
const TAIL_LINES: usize = 8;

/// Calls `check` until it succeeds, with this pause after each failure. After `limit` it returns
/// the last error. A check that takes long must have a limit itself.
///
/// # Errors
/// The last error of `check`.
pub async fn poll<T, E>(
    limit: Duration,
    pause: Duration,
    mut check: impl AsyncFnMut() -> Result<T, E>,
) -> Result<T, E> {
    let deadline = Instant::now() + limit;
    loop {
        match check().await {
            Err(_) if Instant::now() < deadline => tokio::time::sleep(pause).await,
            last => return last,
        }
    }
}

/// Does the same while all of these processes run.
///
/// # Errors
/// If a process ends, with its last log lines; the last error of `check`, with those of all
/// processes.
pub async fn poll_running<'a, T>(
    processes: impl IntoIterator<Item = &'a mut ManagedProcess>,
    limit: Duration,
    pause: Duration,
    mut check: impl AsyncFnMut() -> Result<T>,
) -> Result<T> {
    let mut processes: Vec<_> = processes.into_iter().collect();
    let done = poll(limit, pause, async || {
        for process in &mut processes {
            if let Err(ended) = process.expect_running() {
                return Ok(Err(ended));
            }
        }
        check().await.map(Ok)
    })
    .await;
    match done {
        Ok(done) => Ok(done?),
        Err(missing) => {
            let tail = |process: &&mut ManagedProcess| {
                format!("\n{}:\n{}", process.name(), process.log_tail(TAIL_LINES))
            };
            let logs: String = processes.iter().map(tail).collect();
            bail!("not within {limit:?}: {missing:#}{logs}")
        }
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::processes::{LaunchMethod, ProcessSpec};

    const PAUSE: Duration = Duration::from_millis(1);

    fn shell(directory: &Path, name: &str, script: &str) -> ManagedProcess {
        let mut process = ManagedProcess::new(ProcessSpec {
            name: name.to_owned(),
            launch: LaunchMethod::WithParent,
            program: "/bin/sh".into(),
            arguments: ["-c", script].map(str::to_owned).to_vec(),
            log: directory.join(format!("{name}.log")),
        });
        process.start().unwrap();
        process
    }

    #[tokio::test]
    async fn a_condition_is_checked_until_it_holds_or_the_limit_is_reached() {
        let mut checks = 0;
        let mut count = async || {
            checks += 1;
            if checks < 3 { Err(checks) } else { Ok(checks) }
        };
        assert_eq!(poll(Duration::ZERO, PAUSE, &mut count).await, Err(1));
        let limit = Duration::from_secs(10);
        assert_eq!(poll(limit, PAUSE, &mut count).await, Ok(3));
    }

    #[tokio::test]
    async fn a_process_that_ends_ends_the_wait() {
        let directory = tempfile::tempdir().unwrap();
        let mut members = [
            shell(directory.path(), "first", "exec sleep 1000"),
            shell(directory.path(), "second", "echo no disk; exit 3"),
        ];
        let never = async || -> Result<()> { bail!("no leader") };
        let limit = Duration::from_secs(10);
        let waited = poll_running(&mut members, limit, PAUSE, never).await;
        let error = waited.unwrap_err().to_string();
        assert!(error.starts_with("second ended early"), "{error}");
        assert!(error.contains("no disk"), "{error}");
    }

    #[tokio::test]
    async fn a_vain_wait_reports_what_is_missing() {
        let directory = tempfile::tempdir().unwrap();
        let mut members = [shell(directory.path(), "first", "exec sleep 1000")];
        let never = async || -> Result<()> { bail!("no leader") };
        let waited = poll_running(&mut members, Duration::ZERO, PAUSE, never).await;
        let error = waited.unwrap_err().to_string();
        assert!(
            error.starts_with("not within 0ns: no leader\nfirst:"),
            "{error}"
        );
    }
}
