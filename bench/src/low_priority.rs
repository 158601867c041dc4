//! Threads of the lowest priority, for clients that represent programs on other machines.
//!
//! At the usual priority, the work of such clients would appear as a cost for the masters.

use std::io;

use tokio::runtime::{Builder, Handle, Runtime};

/// The lowest priority.
const NICENESS: i32 = 19;
const THREADS: usize = 2;

/// A separate runtime on such threads. What runs on it ends with the value.
pub(crate) struct LowPriorityThreads(Option<Runtime>);

impl LowPriorityThreads {
    /// # Errors
    /// If no thread can be started.
    pub(crate) fn start(name: &'static str) -> io::Result<(Self, Handle)> {
        let runtime = Builder::new_multi_thread()
            .worker_threads(THREADS)
            .thread_name(name)
            .on_thread_start(move || {
                if let Err(error) = rustix::process::nice(NICENESS) {
                    eprintln!("{name} have the priority of the masters: {error}");
                }
            })
            .enable_all()
            .build()?;
        let handle = runtime.handle().clone();
        Ok((Self(Some(runtime)), handle))
    }
}

impl Drop for LowPriorityThreads {
    fn drop(&mut self) {
        // A runtime must not wait for its threads inside another one.
        if let Some(runtime) = self.0.take() {
            runtime.shutdown_background();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn its_threads_have_the_lowest_priority_and_the_others_keep_theirs() {
        let own = || {
            let stat = std::fs::read_to_string("/proc/thread-self/stat").unwrap();
            let (_, fields) = stat.rsplit_once(')').unwrap();
            fields.split_whitespace().nth(16).unwrap().parse::<i32>()
        };
        let before = own();
        let (_threads, handle) = LowPriorityThreads::start("test").unwrap();
        let niceness = handle.spawn(async move { own() }).await.unwrap();
        assert_eq!(niceness, Ok(NICENESS));
        assert_eq!(own(), before);
    }
}
