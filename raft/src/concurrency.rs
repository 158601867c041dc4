//! The threads and locks of the storage: those of the standard library, or those of shuttle.
//!
//! With the feature `shuttle`, tests run the same code under thousands of schedules of its threads
//! (`tests/schedules.rs`, `proposer/schedules.rs`). Nothing else works in such a build.

#[cfg(not(feature = "shuttle"))]
mod primitives {
    pub(crate) use std::sync::atomic::AtomicU64;
    pub(crate) use std::sync::{Mutex, MutexGuard};
    pub(crate) use std::thread::{Builder, JoinHandle};
    use std::time::Duration;

    use tokio::sync::mpsc;

    /// Returns the next message, or `None` if there is no sender. Blocks the thread.
    pub(crate) fn receive<T>(inbox: &mut mpsc::Receiver<T>) -> Option<T> {
        inbox.blocking_recv()
    }

    pub(crate) async fn pause(duration: Duration) {
        tokio::time::sleep(duration).await;
    }

    /// Runs `work` on a thread that may block.
    pub(crate) async fn run_blocking<T: Send + 'static>(
        work: impl FnOnce() -> T + Send + 'static,
    ) -> T {
        match tokio::task::spawn_blocking(work).await {
            Ok(done) => done,
            Err(failed) => std::panic::resume_unwind(failed.into_panic()),
        }
    }
}

#[cfg(feature = "shuttle")]
mod primitives {
    pub(crate) use shuttle::sync::atomic::AtomicU64;
    pub(crate) use shuttle::sync::{Mutex, MutexGuard};
    pub(crate) use shuttle::thread::{Builder, JoinHandle};
    use std::time::Duration;

    use tokio::sync::{mpsc, oneshot};

    pub(crate) fn receive<T>(inbox: &mut mpsc::Receiver<T>) -> Option<T> {
        shuttle::future::block_on(inbox.recv())
    }

    /// There is no time: other threads may run first.
    pub(crate) async fn pause(_duration: Duration) {
        shuttle::future::yield_now().await;
    }

    pub(crate) async fn run_blocking<T: Send + 'static>(
        work: impl FnOnce() -> T + Send + 'static,
    ) -> T {
        let (sender, receiver) = oneshot::channel();
        shuttle::thread::spawn(move || {
            // A dropped caller does not need the result.
            let _ = sender.send(work());
        });
        receiver.await.expect("the thread sends its result")
    }
}

pub(crate) use primitives::{
    AtomicU64, Builder, JoinHandle, Mutex, MutexGuard, pause, receive, run_blocking,
};

/// Runs `test` under schedules of its threads: some that switch at random, and some that switch
/// seldom (PCT, [Burckhardt et al. 2010](https://doi.org/10.1145/1736020.1736040)). A failure
/// prints its schedule, which `shuttle::replay` repeats.
#[cfg(all(test, feature = "shuttle"))]
pub(crate) fn explore(test: impl Fn() + Send + Sync + Copy + 'static) {
    let times = if std::env::var_os("ARGOSY_LONG").is_some() {
        10
    } else {
        1
    };
    shuttle::check_random(test, 2_000 * times);
    shuttle::check_pct(test, 1_000 * times, 3);
    shuttle::check_pct(test, 1_000 * times, 10);
}
