//! Commands whose output is not read.

use std::io::Write as _;
use std::os::fd::AsFd;
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use argosy_testbed::processes::end;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use rustix::io::ioctl_fionread;

use crate::cluster::{DevCluster, STEP_TIMEOUT, wait_for};

/// Longer than the time after which masters remove a framework that sends no heartbeats.
const SILENCE: Duration = Duration::from_secs(25);
/// Fills both streams.
const FILL: &str = "head -c 1000000 /dev/zero >&2 & head -c 1000000 /dev/zero; wait;";

/// The capacity of a pipe, and the size of its parts, in bytes.
const PIPE: usize = 65_536;
const PAGE: usize = 4_096;

/// Starts a run whose output is not read, and returns it when both pipes are full.
fn start_unread(cluster: &DevCluster, name: &str, rest: &str) -> Child {
    let script = format!("{FILL} {rest}");
    let words = ["run", "--name", name, "--", "sh", "-c", &script];
    let mut command = cluster.argosy(&words);
    let running = command.stdout(Stdio::piped()).stderr(Stdio::piped());
    let running = running.spawn().unwrap();
    let is_full = |pipe: &dyn AsFd| ioctl_fionread(pipe.as_fd()).unwrap() > 60_000;
    wait_for("the pipes to be full", || {
        is_full(running.stdout.as_ref().unwrap()) && is_full(running.stderr.as_ref().unwrap())
    });
    running
}

#[test]
fn a_task_continues_while_its_output_is_not_read() {
    let cluster = DevCluster::start(41, "1x1", &[]);
    let mut running = start_unread(&cluster, "unread", "exec sleep 1000");
    let until = Instant::now() + SILENCE;
    while Instant::now() < until {
        let tasks = cluster.run(&["ps"]).1;
        assert!(tasks.contains("running"), "{tasks}");
        std::thread::sleep(Duration::from_millis(500));
    }
    end(&mut running, Signal::SIGKILL, STEP_TIMEOUT).unwrap();
}

#[test]
fn signals_end_a_run_whose_output_is_not_read() {
    let cluster = DevCluster::start(42, "1x1", &[]);
    let mut running = start_unread(&cluster, "first", "exit 0");
    wait_for("the end of the task", || {
        cluster.run(&["ps", "--all"]).1.contains("finished")
    });
    let status = end(&mut running, Signal::SIGTERM, STEP_TIMEOUT).unwrap();
    assert_eq!(status.code(), Some(130));

    // The first signal ends a running task, the second one the run.
    let mut running = start_unread(&cluster, "second", "exec sleep 1000");
    kill(Pid::from_raw(running.id() as i32), Signal::SIGTERM).unwrap();
    wait_for("the end of the task", || {
        cluster.run(&["ps", "--all"]).1.contains("killed")
    });
    let status = end(&mut running, Signal::SIGTERM, STEP_TIMEOUT).unwrap();
    assert_eq!(status.code(), Some(130));
}

#[test]
fn signals_end_copies_to_a_standard_output_that_is_not_read() {
    let cluster = DevCluster::start(46, "1x1", &[]);
    let script = "head -c 1000000 /dev/zero > part; mv part large; exec sleep 1000";
    // The registry has the arguments, so that a snapshot does not fit into the rest of the pipe.
    let filler = "x".repeat(10 * PAGE);
    let run = ["run", "--name", "copied", "--detach", "--"];
    let command = ["sh", "-c", script, &filler];
    assert_eq!(cluster.run(&[&run[..], &command].concat()).0, 0);
    wait_for("the file", || {
        cluster.run(&["cp", "copied:large", "-"]).0 == 0
    });
    for words in [["cp", "copied:large", "-"], ["snapshot", "save", "-"]] {
        let (reader, mut writer) = std::io::pipe().unwrap();
        writer.write_all(&[0; PIPE - PAGE]).unwrap();
        let mut copying = cluster.argosy(&words).stdout(writer).spawn().unwrap();
        wait_for("the pipe to be full", || {
            ioctl_fionread(&reader).unwrap() == PIPE as u64
        });
        let status = end(&mut copying, Signal::SIGTERM, STEP_TIMEOUT).unwrap();
        assert_eq!(status.code(), Some(143), "{words:?}");
    }
}
