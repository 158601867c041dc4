//! Pollers: each reads all agents and all tasks, page by page, at a fixed interval.
//!
//! They represent programs on other machines, so their threads have the lowest priority. Otherwise
//! the cost of decoding their lists would appear as a cost of reading for the masters.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::low_priority::LowPriorityThreads;
use crate::pages::PageReader;

/// Timeout for the lists that are in progress at the end.
const END_TIMEOUT: Duration = Duration::from_secs(60);

/// The measurements of pollers.
#[derive(Debug, Default)]
pub(super) struct ListResults {
    /// Milliseconds of each full list.
    pub(super) list_ms: Vec<f64>,
    /// Milliseconds of each full page of tasks.
    pub(super) page_ms: Vec<f64>,
    pub(super) records: u64,
    pub(super) seconds: f64,
}

impl ListResults {
    pub(super) fn extend(&mut self, other: Self) {
        self.list_ms.extend(other.list_ms);
        self.page_ms.extend(other.page_ms);
        self.records += other.records;
        self.seconds += other.seconds;
    }
}

/// Running pollers; they end with the value.
pub(super) struct Pollers {
    tasks: JoinSet<Result<ListResults>>,
    /// Nothing is begun any more once it is true.
    stop: watch::Sender<bool>,
    started: Instant,
    _threads: LowPriorityThreads,
}

impl Pollers {
    /// Starts pollers at these masters in turn, spread over the time from one list to the next.
    /// Each list must hold at least so many agents and tasks.
    ///
    /// # Errors
    /// If an address is malformed, or no thread can be started.
    pub(super) fn start<'a>(
        apis: impl Iterator<Item = &'a str> + Clone,
        count: usize,
        every: Duration,
        expected: (usize, usize),
    ) -> Result<Self> {
        let mut tasks = JoinSet::new();
        let (ending, seen) = watch::channel(false);
        let spread = every / u32::try_from(count)?;
        let expected = Arc::new(expected);
        let (threads, runtime) = LowPriorityThreads::start("pollers")?;
        let _inside = runtime.enter();
        for (number, api) in (0..).zip(apis.cycle().take(count)) {
            let poller = Poller {
                reader: PageReader::new(api)?,
                expected: Arc::clone(&expected),
                lists: ListResults::default(),
            };
            let polled = poller.poll((spread * number, every), seen.clone());
            tasks.spawn_on(polled, &runtime);
        }
        Ok(Self {
            tasks,
            stop: ending,
            started: Instant::now(),
            _threads: threads,
        })
    }

    /// Waits until the lists that were begun are read.
    ///
    /// # Errors
    /// The first error of a poller, or a list that is not whole.
    pub(super) async fn end(mut self) -> Result<ListResults> {
        self.stop.send_replace(true);
        let mut all = ListResults::default();
        let end = Instant::now() + END_TIMEOUT;
        while let Some(joined) = tokio::time::timeout_at(end, self.tasks.join_next())
            .await
            .context("lists that were begun do not end")?
        {
            all.extend(joined.context("a poller panicked")??);
        }
        all.seconds = self.started.elapsed().as_secs_f64();
        Ok(all)
    }
}

struct Poller {
    reader: PageReader,
    expected: Arc<(usize, usize)>,
    lists: ListResults,
}

impl Poller {
    async fn poll(
        mut self,
        (first, every): (Duration, Duration),
        mut ending: watch::Receiver<bool>,
    ) -> Result<ListResults> {
        let mut due = Instant::now() + first;
        loop {
            tokio::select! {
                _ = ending.wait_for(|ending| *ending) => return Ok(self.lists),
                () = tokio::time::sleep_until(due) => {}
            }
            let started = Instant::now();
            let agents = self.reader.agents().await?;
            let tasks = self.reader.tasks(&mut self.lists.page_ms).await?;
            let (some_agents, some_tasks) = *self.expected;
            ensure!(
                agents >= some_agents && tasks >= some_tasks,
                "a list of {agents} agents and {tasks} tasks lacks some"
            );
            self.lists.records += (agents + tasks) as u64;
            self.lists
                .list_ms
                .push(started.elapsed().as_secs_f64() * 1e3);
            due = (started + every).max(Instant::now());
        }
    }
}
