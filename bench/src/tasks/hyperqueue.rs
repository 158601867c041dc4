//! The same tasks on HyperQueue: its server and one worker, started as its handbook describes.
//!
//! It isolates, replicates and syncs nothing.

use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use argosy_testbed::processes::{LaunchMethod, ManagedProcess, ProcessSpec};

use crate::cpu::tree_seconds;

const PROGRAM: &str = "hq";
/// Time for server and worker to become available.
const START_TIMEOUT: Duration = Duration::from_secs(30);

/// The results of one case.
pub(super) struct HyperQueueResult {
    /// Time from before `submit` until it has seen the last end.
    pub(super) duration: Duration,
    /// Processor time of server, worker and tasks.
    pub(super) core_seconds: f64,
}

/// Returns the version of the installed HyperQueue.
///
/// # Errors
/// If it is not installed.
pub(crate) fn version() -> Result<String> {
    let output = Command::new(PROGRAM).arg("--version").output().context(
        "HyperQueue's `hq` is not on the PATH: its project publishes executables, or leave out --peer hyperqueue",
    )?;
    let text = String::from_utf8_lossy(&output.stdout);
    let version = text.trim().rsplit(' ').next().unwrap_or_default();
    Ok(format!("HyperQueue {version}"))
}

/// Runs this number of /bin/true, at most `slots` together.
///
/// # Errors
/// If it does not start, or a task fails.
pub(super) fn run(directory: &Path, slots: u32, tasks: u32) -> Result<HyperQueueResult> {
    let directory = tempfile::Builder::new()
        .prefix("hyperqueue-")
        .tempdir_in(directory)
        .context("cannot make a directory for HyperQueue")?;
    let own = HyperQueue {
        directory: directory.path(),
    };
    let mut server = own.start(&["server", "start", "--host", "127.0.0.1"], "server")?;
    own.wait_for(&mut server, &["server", "info"], "tcp://|127.0.0.1|Host")?;
    let cpus = slots.to_string();
    let mut worker = own.start(&["worker", "start", "--cpus", &cpus], "worker")?;
    own.wait_for(&mut worker, &["worker", "list"], "RUNNING")?;
    let seconds = || {
        let pids = [&server, &worker]
            .into_iter()
            .filter_map(ManagedProcess::pid);
        pids.map(tree_seconds).sum::<f64>()
    };
    let (before, started) = (seconds(), Instant::now());
    let array = format!("1-{tasks}");
    let streams = ["--stdout=none", "--stderr=none", "--wait"];
    let mut args = vec!["submit", "--array", array.as_str()];
    args.extend(streams);
    args.push("/bin/true");
    let output = own.run_program(&args)?;
    let took = started.elapsed();
    if !output.status.success() {
        bail!(
            "HyperQueue's submit failed: {}",
            String::from_utf8_lossy(&output.stderr)
        );
    }
    Ok(HyperQueueResult {
        duration: took,
        core_seconds: seconds() - before,
    })
}

struct HyperQueue<'a> {
    directory: &'a Path,
}

impl HyperQueue<'_> {
    fn place(&self) -> String {
        self.directory.join("server").display().to_string()
    }

    fn start(&self, args: &[&str], name: &str) -> Result<ManagedProcess> {
        let mut arguments = vec!["--server-dir".to_owned(), self.place()];
        arguments.extend(args.iter().map(|word| (*word).to_owned()));
        let mut process = ManagedProcess::new(ProcessSpec {
            name: name.to_owned(),
            launch: LaunchMethod::WithParent,
            program: PROGRAM.into(),
            arguments,
            log: self.directory.join(format!("{name}.log")),
        });
        process.start()?;
        Ok(process)
    }

    fn run_program(&self, args: &[&str]) -> Result<Output> {
        Command::new(PROGRAM)
            .args(["--server-dir", &self.place()])
            .args(args)
            .current_dir(self.directory)
            .stdin(Stdio::null())
            .output()
            .context("cannot start hq")
    }

    fn wait_for(&self, process: &mut ManagedProcess, args: &[&str], any_of: &str) -> Result<()> {
        let end = Instant::now() + START_TIMEOUT;
        loop {
            let output = self.run_program(args)?;
            let text = String::from_utf8_lossy(&output.stdout);
            if output.status.success() && any_of.split('|').any(|word| text.contains(word)) {
                return Ok(());
            }
            process.expect_running()?;
            if Instant::now() > end {
                bail!("HyperQueue's {} does not report it: {text}", args.join(" "));
            }
            std::thread::sleep(Duration::from_millis(50));
        }
    }
}
