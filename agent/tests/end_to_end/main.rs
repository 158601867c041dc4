//! An agent with real containers against a master that each test controls.
//!
//! It has its own harness: the same executable is the launcher, which must start before any thread.
//! Runs one test after the other; arguments select those whose name contains one of them.

#[path = "../../../isolation/tests/root/audit.rs"]
mod audit;
mod cases;
mod children;
mod host;
mod layout;
mod master;
mod running;
#[path = "../../../isolation/tests/tls/server.rs"]
mod tls;

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::time::{Duration, Instant};

/// Timeout of one test, so that a hanging one does not block the rest.
const LIMIT: Duration = Duration::from_secs(120);

/// With this argument each filter must match a test: for scripts that name tests.
const EACH_MATCHES: &str = "--each-matches";

fn main() -> ExitCode {
    let argument = std::env::args().nth(1);
    if argument.as_deref() == Some(host::LAUNCHER) {
        host::arm_launcher();
        return match argosy_isolation::launcher::run_from_fd() {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => panic!("{error}"),
        };
    }
    if argument.as_deref() == Some(host::CONTENT) {
        return match argosy_agent::serve_content(host::without_tls) {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => panic!("{error}"),
        };
    }
    if argument.as_deref() == Some(host::AGENT) {
        return host::agent_process();
    }
    if argument.as_deref() == Some(host::DIVIDED) {
        return host::divided_process();
    }
    if argument.as_deref() == Some(cases::JOURNAL) {
        return cases::write_journal();
    }
    if argument.as_deref() == Some(host::EXECUTOR) {
        return host::executor_process();
    }
    if std::env::args().any(|argument| argument == "--list") {
        cases::all().for_each(|(name, _)| println!("{name}: test"));
        return ExitCode::SUCCESS;
    }
    let (options, filters): (Vec<_>, Vec<_>) = std::env::args()
        .skip(1)
        .partition(|argument| argument.starts_with('-'));
    let is_vain = |filter: &&String| !cases::all().any(|case| case.0.contains(*filter));
    if options.iter().any(|option| option == EACH_MATCHES)
        && let Some(filter) = filters.iter().find(is_vain)
    {
        println!("no test has a name with {filter}");
        return ExitCode::FAILURE;
    }
    let is_picked = |name: &str| filters.is_empty() || filters.iter().any(|one| name.contains(one));
    for (name, case) in cases::all().filter(|(name, _)| is_picked(name)) {
        let begun = Instant::now();
        let _limit = limited(LIMIT * cases::length());
        // A panic names the failed test on the line before its message.
        print!("test {name} ... ");
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build();
        let runtime = runtime.expect("a runtime can be made");
        runtime.block_on(case());
        drop(runtime);
        ends_what_it_started();
        println!("ok, {} ms", begun.elapsed().as_millis());
    }
    ExitCode::SUCCESS
}

/// Panics if a case has left a launcher, a service or an agent, which the user would have to find
/// and end.
fn ends_what_it_started() {
    let begun = Instant::now();
    loop {
        let left = processes_of_this_executable();
        if left.is_empty() {
            return;
        }
        assert!(begun.elapsed() < master::TIMEOUT, "left running: {left:?}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Returns the other processes, by id.
fn processes_of_this_executable() -> Vec<u32> {
    let identity = |path: PathBuf| {
        let found = fs::metadata(path).ok()?;
        Some((found.dev(), found.ino()))
    };
    let own = identity("/proc/self/exe".into());
    let entries = fs::read_dir("/proc")
        .expect("processes can be listed")
        .flatten();
    entries
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .filter(|id| *id != std::process::id())
        .filter(|id| own.is_some() && identity(format!("/proc/{id}/exe").into()) == own)
        .collect()
}

/// Ends this process unless the returned sender is dropped in time. A separate thread does this:
/// nothing that hangs, not even the end of a failed case, can prevent it.
fn limited(limit: Duration) -> Sender<()> {
    let (sender, dropped) = channel();
    std::thread::spawn(move || {
        if dropped.recv_timeout(limit) == Err(RecvTimeoutError::Timeout) {
            println!("it did not end in {} s", limit.as_secs());
            std::process::exit(101);
        }
    });
    sender
}
