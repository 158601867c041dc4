//! Processes in separate runtimes, which use the network of a simulated host. Such a process can be
//! paused while everything around it continues. It then resumes as if no time had passed.
//!
//! They run in turn after each step of the network, in the order of their hosts' names.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use futures::future::LocalBoxFuture;
use tokio::runtime::{Builder, RngSeed, Runtime, UnhandledPanic};
use tokio::sync::oneshot;
use tokio::task::LocalSet;

/// The duration of a step of the simulated network. It runs a third faster than with steps of 1 ms.
pub(super) const STEP: Duration = Duration::from_millis(2);

/// The main function of a process. It returns the reason of its end.
pub(super) type ProcessMain = Box<dyn FnOnce() -> LocalBoxFuture<'static, String> + Send>;

/// Processes that hosts have started and that do not run yet. Cheap to clone.
#[derive(Clone, Default)]
// One thread runs the simulation. The lock satisfies the types of asynchronous code.
pub(super) struct StartQueue(Arc<Mutex<Vec<StartRequest>>>);

struct StartRequest {
    host: String,
    /// The seed of tokio's random choices.
    seed: u64,
    main: ProcessMain,
    exit: oneshot::Sender<String>,
}

impl StartQueue {
    fn requests(&self) -> MutexGuard<'_, Vec<StartRequest>> {
        self.0.lock().expect("no holder of the lock panics")
    }

    /// Starts a process on this host. Returns only if the process ends by itself, with its reason.
    pub(super) async fn run(&self, host: &str, seed: u64, main: ProcessMain) -> String {
        match self.enqueue(host, seed, main).await {
            Ok(words) => words,
            // It was killed, and its host is about to be killed.
            Err(_) => std::future::pending().await,
        }
    }

    fn enqueue(&self, host: &str, seed: u64, main: ProcessMain) -> oneshot::Receiver<String> {
        let (exit, end) = oneshot::channel();
        self.requests().push(StartRequest {
            host: host.to_owned(),
            seed,
            main,
            exit,
        });
        end
    }
}

/// All running processes, by their hosts.
#[derive(Default)]
pub(super) struct SimProcesses {
    pub(super) starts: StartQueue,
    by_host: BTreeMap<String, SimProcess>,
}

struct SimProcess {
    // Dropped before the runtime, because its tasks belong to both.
    local: LocalSet,
    runtime: Runtime,
    /// The time since which it is paused.
    paused_since: Option<Duration>,
}

impl SimProcesses {
    /// Runs one step of every process that is not paused.
    pub(super) fn step(&mut self) {
        let starts =
            std::mem::take(&mut *self.starts.0.lock().expect("no holder of the lock panics"));
        for start in starts {
            let host = start.host.clone();
            self.by_host.insert(host, SimProcess::new(start));
        }
        self.by_host.values().for_each(SimProcess::step);
    }

    /// Kills the process on this host. Everything that is not on its disk is lost.
    pub(super) fn kill(&mut self, host: &str) {
        self.by_host.remove(host);
        self.starts.requests().retain(|start| start.host != host);
    }

    /// Pauses the process until it is resumed. Returns false if there is none, or it is paused
    /// already.
    pub(super) fn stall(&mut self, host: &str, now: Duration) -> bool {
        match self.by_host.get_mut(host) {
            Some(process) if process.paused_since.is_none() => {
                process.paused_since = Some(now);
                true
            }
            Some(_) | None => false,
        }
    }

    /// Resumes the process, whose clock has advanced during the pause. Has no effect if it was
    /// killed.
    pub(super) fn resume(&mut self, host: &str, now: Duration) {
        if let Some(process) = self.by_host.get_mut(host)
            && let Some(since) = process.paused_since.take()
        {
            let missed = now.saturating_sub(since);
            let late = process
                .local
                .run_until(async { tokio::time::advance(missed).await });
            process.runtime.block_on(late);
        }
    }
}

impl SimProcess {
    fn new(start: StartRequest) -> Self {
        let mut seed = [0; 32];
        seed[..8].copy_from_slice(&start.seed.to_be_bytes());
        let runtime = Builder::new_current_thread()
            .unhandled_panic(UnhandledPanic::ShutdownRuntime)
            .rng_seed(RngSeed::from_bytes(&seed))
            .enable_time()
            .start_paused(true)
            .build()
            .expect("a runtime without threads and sockets always starts");
        let mut local = LocalSet::new();
        local.unhandled_panic(UnhandledPanic::ShutdownRuntime);
        // Timers have whole milliseconds, and from here on the clock has, too.
        runtime.block_on(async { tokio::time::sleep(Duration::from_millis(1)).await });
        let StartRequest {
            main, exit: ended, ..
        } = start;
        runtime.block_on(local.run_until(async {
            tokio::task::spawn_local(async move {
                // The receiver is gone if its host is gone.
                let _ = ended.send(main().await);
            });
        }));
        Self {
            local,
            runtime,
            paused_since: None,
        }
    }

    fn step(&self) {
        if self.paused_since.is_none() {
            let step = self
                .local
                .run_until(async { tokio::time::sleep(STEP).await });
            self.runtime.block_on(step);
        }
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt as _;
    use tokio::time::Instant;

    use super::*;

    #[test]
    fn a_resumed_process_continues_with_its_clock_advanced() {
        let mut processes = SimProcesses::default();
        let beats: Arc<Mutex<Vec<u128>>> = Arc::default();
        let seen = beats.clone();
        let main = async move {
            let began = Instant::now();
            loop {
                tokio::time::sleep(Duration::from_millis(10)).await;
                seen.lock().unwrap().push(began.elapsed().as_millis());
            }
        };
        let main = Box::new(move || main.boxed_local());
        let mut end = processes.starts.enqueue("host-1", 7, main);
        let run = |processes: &mut SimProcesses, ms: u128| {
            for _ in 0..ms / STEP.as_millis() {
                processes.step();
            }
            std::mem::take(&mut *beats.lock().unwrap())
        };
        assert_eq!(run(&mut processes, 32), [10, 20, 30]);
        let at = Duration::from_millis(32);
        assert!(processes.stall("host-1", at));
        assert!(!processes.stall("host-1", at), "it is paused already");
        assert!(!processes.stall("host-2", at), "there is no process");
        assert_eq!(run(&mut processes, 500), []);
        processes.resume("host-1", Duration::from_millis(532));
        let late = run(&mut processes, 20);
        assert!(late.len() >= 2 && late[0] >= 500, "{late:?}");
        assert!(end.try_recv().is_err(), "it lives");
        processes.kill("host-1");
        assert_eq!(run(&mut processes, 100), []);
        assert!(!processes.stall("host-1", at));
    }

    #[test]
    fn the_exit_reason_of_a_process_is_returned() {
        let mut processes = SimProcesses::default();
        let main = Box::new(|| async { "no more".to_owned() }.boxed_local());
        let mut end = processes.starts.enqueue("host-1", 7, main);
        assert!(end.try_recv().is_err(), "it has not run yet");
        processes.step();
        assert_eq!(end.try_recv().unwrap(), "no more");
    }
}
