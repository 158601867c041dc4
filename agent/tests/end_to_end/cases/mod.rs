//! The cases; each is a sentence about the agent.

mod attach;
mod blocked_threads;
mod bombs;
mod callers;
mod checks;
mod cni;
mod compaction;
mod crashes;
mod cycles;
mod disks;
mod exec;
mod executors;
mod fetching;
mod full_disk;
mod groups;
mod host_paths;
mod images;
mod leftovers;
mod limits;
mod links;
mod nft;
mod privilege_drop;
mod published_ports;
mod restarts;
mod security_options;
mod silent_clients;
mod sizes;
mod statistics;
mod stopped_processes;
mod tasks;
mod volumes;

use std::path::Path;
use std::pin::Pin;
use std::process::Command;

use argosy_proto::v1;
use argosy_testing::skip;
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};

pub(crate) use self::compaction::{VERB as JOURNAL, writer as write_journal};

type TestCase = (&'static str, fn() -> Pin<Box<dyn Future<Output = ()>>>);

/// Lists the tests of a file, in the order in which they run.
macro_rules! cases {
    ($file:literal: $($name:ident),+ $(,)?) => {
        pub(super) const CASES: &[super::TestCase] =
            &[$((concat!($file, "::", stringify!($name)), || Box::pin($name()))),+];
    };
}

pub(super) use cases;

/// The tests of each file.
const FILES: &[&[TestCase]] = &[
    exec::CASES,
    attach::CASES,
    callers::CASES,
    executors::CASES,
    tasks::CASES,
    fetching::CASES,
    silent_clients::CASES,
    statistics::CASES,
    full_disk::CASES,
    restarts::CASES,
    leftovers::CASES,
    stopped_processes::CASES,
    security_options::CASES,
    host_paths::CASES,
    sizes::CASES,
    privilege_drop::CASES,
    published_ports::CASES,
    crashes::CASES,
    compaction::CASES,
    cycles::CASES,
    groups::CASES,
    checks::CASES,
    volumes::CASES,
    disks::CASES,
    images::CASES,
    cni::CASES,
    limits::CASES,
    links::CASES,
    blocked_threads::CASES,
    bombs::CASES,
    nft::CASES,
];

/// Returns all tests with their names, in the order in which they run.
pub(crate) fn all() -> impl Iterator<Item = &'static TestCase> {
    FILES.iter().copied().flatten()
}

/// Returns the factor by which tests are longer than usual, if it is set.
pub(crate) fn length() -> u32 {
    u32::try_from(cycles::count().div_ceil(cycles::USUAL)).unwrap_or(u32::MAX)
}

/// Runs a test in a separate network namespace, which becomes a host of containers.
async fn on_a_host_of_its_own<F: Future<Output = ()>>(test: impl FnOnce() -> F + Send + 'static) {
    with_namespaces(CloneFlags::CLONE_NEWNET, test).await;
}

/// Does the same with namespaces of these kinds. Mounts in a new mount namespace are private.
async fn with_namespaces<F: Future<Output = ()>>(
    kinds: CloneFlags,
    test: impl FnOnce() -> F + Send + 'static,
) {
    if !nix::unistd::geteuid().is_root() {
        return skip("needs root");
    }
    let needed = ["/usr/sbin/nft", "/usr/sbin/ip", "/usr/bin/python3"];
    if needed.iter().any(|program| !Path::new(program).exists()) {
        return skip("needs the packages nftables, iproute2 and python3");
    }
    let host = std::thread::spawn(move || {
        // Before the thread has others, which would not be included.
        unshare(kinds).unwrap();
        if kinds.contains(CloneFlags::CLONE_NEWNS) {
            let none = None::<&str>;
            let private = MsFlags::MS_REC | MsFlags::MS_PRIVATE;
            mount(none, "/", none, private, none).unwrap();
        }
        let raised = Command::new("ip")
            .args(["link", "set", "lo", "up"])
            .status();
        assert!(raised.unwrap().success());
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build();
        runtime.unwrap().block_on(test());
    });
    let joined = tokio::task::spawn_blocking(|| host.join()).await.unwrap();
    joined.expect("it passes on its own host, too");
}

pub(super) fn state(update: &v1::NumberedUpdate) -> v1::TaskState {
    v1::TaskState::try_from(update.state).unwrap()
}

pub(super) fn reason(update: &v1::NumberedUpdate) -> v1::Reason {
    v1::Reason::try_from(update.reason).unwrap()
}

pub(super) fn code(update: &v1::NumberedUpdate) -> Option<v1::exit::How> {
    update.exit.and_then(|exit| exit.how)
}

pub(super) fn runs(update: &v1::NumberedUpdate) -> bool {
    state(update) == v1::TaskState::Running
}
