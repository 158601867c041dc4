//! Pollers: each reads all agents and all tasks, page by page, at a fixed interval.
//!
//! They represent programs on other machines, so their threads have the lowest priority. Otherwise
//! the cost of decoding their lists would appear as a cost of reading for the masters.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use argosy_proto::v1;
use tokio::runtime::{Builder, Handle, Runtime};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::Instant;
use tonic::Code;

use crate::cluster::{MasterClient, channel};

/// The number of records in a page.
const PAGE: u32 = 1_000;
/// Pause after a read that was refused because the queue of readers is full.
const PAUSE: Duration = Duration::from_millis(100);
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

/// Niceness of the pollers' threads, the lowest priority.
const NICENESS: i32 = 19;

/// A separate runtime for the pollers.
struct PollerThreads(Option<Runtime>);

impl PollerThreads {
    fn start() -> Result<(Self, Handle)> {
        let runtime = Builder::new_multi_thread()
            .worker_threads(2)
            .thread_name("pollers")
            .on_thread_start(|| {
                if let Err(error) = rustix::process::nice(NICENESS) {
                    eprintln!("state-read: pollers have the priority of the masters: {error}");
                }
            })
            .enable_all()
            .build()?;
        let handle = runtime.handle().clone();
        Ok((Self(Some(runtime)), handle))
    }
}

impl Drop for PollerThreads {
    fn drop(&mut self) {
        // A runtime must not wait for its threads inside another one.
        if let Some(runtime) = self.0.take() {
            runtime.shutdown_background();
        }
    }
}

/// Running pollers; they end with the value.
pub(super) struct Pollers {
    tasks: JoinSet<Result<ListResults>>,
    /// Nothing is begun any more once it is true.
    stop: watch::Sender<bool>,
    started: Instant,
    _threads: PollerThreads,
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
        let (threads, runtime) = PollerThreads::start()?;
        let _inside = runtime.enter();
        for (number, api) in (0..).zip(apis.cycle().take(count)) {
            let client =
                MasterClient::new(channel(api)?.connect_lazy()).max_decoding_message_size(8 << 20);
            let poller = Poller {
                client,
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
    client: MasterClient,
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
            let agents = self.agents().await?;
            let tasks = self.tasks().await?;
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

    async fn agents(&mut self) -> Result<usize> {
        let (mut count, mut token) = (0, String::new());
        loop {
            let page = match self.client.list_agents(request(&token)).await {
                Err(status) if status.code() == Code::ResourceExhausted => {
                    tokio::time::sleep(PAUSE).await;
                    continue;
                }
                page => page?.into_inner(),
            };
            count += page.agents.len();
            if page.next_page_token.is_empty() {
                return Ok(count);
            }
            token = page.next_page_token;
        }
    }

    async fn tasks(&mut self) -> Result<usize> {
        let (mut count, mut token) = (0, String::new());
        loop {
            let started = Instant::now();
            let page = match self.client.list_tasks(request(&token)).await {
                Err(status) if status.code() == Code::ResourceExhausted => {
                    tokio::time::sleep(PAUSE).await;
                    continue;
                }
                page => page?.into_inner(),
            };
            count += page.tasks.len();
            if page.tasks.len() == PAGE as usize {
                self.lists
                    .page_ms
                    .push(started.elapsed().as_secs_f64() * 1e3);
            }
            if page.next_page_token.is_empty() {
                return Ok(count);
            }
            token = page.next_page_token;
        }
    }
}

fn request(token: &str) -> v1::ListRequest {
    v1::ListRequest {
        page_size: PAGE,
        page_token: token.to_owned(),
        ..Default::default()
    }
}
