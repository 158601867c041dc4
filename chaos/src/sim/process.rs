//! Processes with a runtime of their own, beside the simulated hosts whose network they use: such a process can be
//! made to stand still while everything around it goes on, and then goes on itself as if nothing had been.
//!
//! They run in turn after each step of the network, in the order of their hosts' names.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use futures::future::LocalBoxFuture;
use tokio::runtime::{Builder, RngSeed, Runtime, UnhandledPanic};
use tokio::sync::oneshot;
use tokio::task::LocalSet;

use super::run::STEP;

/// What a process does, and the words with which it ends by itself.
pub(super) type Life = Box<dyn FnOnce() -> LocalBoxFuture<'static, String> + Send>;

/// Processes that hosts have started and that nobody has run yet. Cheap to clone.
#[derive(Clone, Default)]
// One thread runs the simulation; the lock is for the types of asynchronous code.
pub(super) struct Starts(Arc<Mutex<Vec<Start>>>);

struct Start {
    host: String,
    /// Of what tokio leaves to chance.
    seed: u64,
    life: Life,
    ended: oneshot::Sender<String>,
}

impl Starts {
    fn waiting(&self) -> MutexGuard<'_, Vec<Start>> {
        self.0.lock().expect("no holder of the lock panics")
    }

    /// Starts a process on this host. Returns only if it ends by itself: with what it said.
    pub(super) async fn run(&self, host: &str, seed: u64, life: Life) -> String {
        match self.begin(host, seed, life).await {
            Ok(words) => words,
            // It was killed, and its host is about to be.
            Err(_) => std::future::pending().await,
        }
    }

    fn begin(&self, host: &str, seed: u64, life: Life) -> oneshot::Receiver<String> {
        let (ended, end) = oneshot::channel();
        self.waiting().push(Start {
            host: host.to_owned(),
            seed,
            life,
            ended,
        });
        end
    }
}

/// All that run, by their hosts.
#[derive(Default)]
pub(super) struct Processes {
    pub(super) starts: Starts,
    by_host: BTreeMap<String, Process>,
}

struct Process {
    // Dropped before the runtime: its tasks belong to both.
    local: LocalSet,
    runtime: Runtime,
    /// Since when it stands still.
    stalled: Option<Duration>,
}

impl Processes {
    /// One step of every process that does not stand still.
    pub(super) fn step(&mut self) {
        let starts =
            std::mem::take(&mut *self.starts.0.lock().expect("no holder of the lock panics"));
        for start in starts {
            let host = start.host.clone();
            self.by_host.insert(host, Process::new(start));
        }
        self.by_host.values().for_each(Process::step);
    }

    /// The process on this host is gone, with everything that was not on a disk.
    pub(super) fn kill(&mut self, host: &str) {
        self.by_host.remove(host);
        self.starts.waiting().retain(|start| start.host != host);
    }

    /// It does not run until it is resumed. False if there is none, or it stands still already.
    pub(super) fn stall(&mut self, host: &str, now: Duration) -> bool {
        match self.by_host.get_mut(host) {
            Some(process) if process.stalled.is_none() => {
                process.stalled = Some(now);
                true
            }
            Some(_) | None => false,
        }
    }

    /// It goes on, and finds that its clock did so all the time. Not if it was killed meanwhile.
    pub(super) fn resume(&mut self, host: &str, now: Duration) {
        if let Some(process) = self.by_host.get_mut(host)
            && let Some(since) = process.stalled.take()
        {
            let missed = now.saturating_sub(since);
            let late = process
                .local
                .run_until(async { tokio::time::advance(missed).await });
            process.runtime.block_on(late);
        }
    }
}

impl Process {
    fn new(start: Start) -> Self {
        let mut seed = [0; 32];
        seed[..8].copy_from_slice(&start.seed.to_be_bytes());
        let runtime = Builder::new_current_thread()
            .unhandled_panic(UnhandledPanic::ShutdownRuntime)
            .rng_seed(RngSeed::from_bytes(&seed))
            .enable_time()
            .start_paused(true)
            .build()
            .expect("a runtime without threads and sockets needs nothing");
        let mut local = LocalSet::new();
        local.unhandled_panic(UnhandledPanic::ShutdownRuntime);
        // Timers have whole milliseconds: from here on so has its clock.
        runtime.block_on(async { tokio::time::sleep(Duration::from_millis(1)).await });
        let Start { life, ended, .. } = start;
        runtime.block_on(local.run_until(async {
            tokio::task::spawn_local(async move {
                // Nobody waits if its host is gone.
                let _ = ended.send(life().await);
            });
        }));
        Self {
            local,
            runtime,
            stalled: None,
        }
    }

    fn step(&self) {
        if self.stalled.is_none() {
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
    fn a_process_that_stood_still_goes_on_later_with_its_clock_ahead() {
        let mut processes = Processes::default();
        let beats: Arc<Mutex<Vec<u128>>> = Arc::default();
        let seen = beats.clone();
        let life = async move {
            let began = Instant::now();
            loop {
                tokio::time::sleep(Duration::from_millis(10)).await;
                seen.lock().unwrap().push(began.elapsed().as_millis());
            }
        };
        let life = Box::new(move || life.boxed_local());
        let mut end = processes.starts.begin("host-1", 7, life);
        let run = |processes: &mut Processes, ms: u128| {
            for _ in 0..ms / STEP.as_millis() {
                processes.step();
            }
            std::mem::take(&mut *beats.lock().unwrap())
        };
        assert_eq!(run(&mut processes, 32), [10, 20, 30]);
        let at = Duration::from_millis(32);
        assert!(processes.stall("host-1", at));
        assert!(!processes.stall("host-1", at), "it stands still already");
        assert!(!processes.stall("host-2", at), "nobody is there");
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
    fn what_a_process_says_at_its_end_is_told_once_it_has_run() {
        let mut processes = Processes::default();
        let life = Box::new(|| async { "no more".to_owned() }.boxed_local());
        let mut end = processes.starts.begin("host-1", 7, life);
        assert!(end.try_recv().is_err(), "nobody has run it yet");
        processes.step();
        assert_eq!(end.try_recv().unwrap(), "no more");
    }
}
