//! A cluster of fake masters in this process: scripted offers, losses, repeats, changes of leader.
//!
//! It serves tests of the client library, which it does not use, and of frameworks. It follows the
//! rules of the protocol and makes none of a cluster's decisions.
//!
//! A feature of the client library would have the agent and the command line built twice: for the
//! shipped executables without it, and for tests with it.

mod cluster;
mod messages;
mod service;

use std::sync::{Arc, Mutex};
use std::time::Duration;

use argosy_proto::v1;
use argosy_proto::v1::leadership_server::LeadershipServer;
use argosy_proto::v1::scheduler_server::SchedulerServer;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio_stream::wrappers::TcpListenerStream;
use tokio_util::sync::CancellationToken;
use tonic::Status;

use cluster::FakeState;
pub use cluster::{CallFault, ReceivedInput};

/// Time that [`FakeCluster::wait`] waits before it fails the test.
const WAIT_TIMEOUT: Duration = Duration::from_secs(20);

/// Masters that share one registry, each with a separate port; one of them leads.
pub struct FakeCluster {
    state: Arc<Mutex<FakeState>>,
    servers: Vec<FakeServer>,
}

struct FakeServer {
    address: String,
    stop: CancellationToken,
    task: JoinHandle<()>,
}

impl FakeCluster {
    /// Starts `masters` masters on loopback ports; the first leads.
    ///
    /// # Panics
    /// If no port is available.
    pub async fn start(masters: usize) -> Self {
        let state = Arc::new(Mutex::new(FakeState::default()));
        let mut servers = Vec::new();
        for index in 0..masters {
            let listener = TcpListener::bind("127.0.0.1:0")
                .await
                .expect("loopback has a free port");
            let address = listener.local_addr().expect("it is bound").to_string();
            state
                .lock()
                .expect("no test panicked in it")
                .addresses
                .push(address.clone());
            let stop = CancellationToken::new();
            let task = tokio::spawn(serve(listener, (state.clone(), index), stop.clone()));
            servers.push(FakeServer {
                address,
                stop,
                task,
            });
        }
        Self { state, servers }
    }

    /// Returns the addresses of the masters.
    #[must_use]
    pub fn addresses(&self) -> Vec<String> {
        let addresses = self.servers.iter().map(|server| &server.address);
        addresses.cloned().collect()
    }

    /// Offers `resources` of `agent`; sent immediately. Returns the id of the offer.
    pub fn offer(&self, agent: &str, resources: &str) -> String {
        self.state().offer(agent, resources)
    }

    /// Rescinds an offer.
    pub fn rescind(&self, offer_id: &str) {
        self.state().rescind(offer_id);
    }

    /// Changes the state of a task; sent immediately, and again at each subscription until
    /// acknowledged.
    pub fn update(&self, task_id: &str, state: v1::TaskState) {
        self.state().update(task_id, state);
    }

    /// Reports that an unreachable task has stopped itself; sent like [`Self::update`].
    pub fn stop(&self, task_id: &str) {
        self.state().stop(task_id);
    }

    /// Makes every task launched from now on pass through these states immediately.
    pub fn script(&self, states: &[v1::TaskState]) {
        self.state().script = states.to_vec();
    }

    /// Sets the API address of every agent from now on.
    pub fn set_agent_address(&self, address: &str) {
        address.clone_into(&mut self.state().agent_address);
    }

    /// Returns the tasks launched since the last call, for a test that runs them.
    #[must_use]
    pub fn take_launched(&self) -> Vec<v1::TaskSpec> {
        std::mem::take(&mut self.state().launched)
    }

    /// Injects this fault into the next `times` unary calls.
    pub fn fault(&self, fault: CallFault, times: usize) {
        self.state()
            .faults
            .extend(std::iter::repeat_n(fault, times));
    }

    /// Ends all injected faults.
    pub fn end_faults(&self) {
        self.state().faults.clear();
    }

    /// Sends every update twice.
    pub fn repeat_updates(&self) {
        self.state().repeats_updates = true;
    }

    /// Breaks every stream; the leader stays.
    pub fn drop_streams(&self) {
        self.state().link = None;
    }

    /// Ends the stream as a leader does when the key of the scheduler's connection is revoked.
    pub fn revoke_key(&self) {
        if let Some(link) = self.state().link.take() {
            let refused = Status::unauthenticated("the key of this certificate was revoked");
            // The scheduler may have closed the stream.
            let _ = link.try_send(Err(refused));
        }
    }

    /// Announces heartbeats every 100 ms instead of every 10 s, from the next subscription on.
    pub fn announce_short_interval(&self) {
        self.state().heartbeat_ms = Some(100);
    }

    /// Stops sending heartbeats, but leaves the streams open.
    pub fn stop_heartbeats(&self) {
        self.state().is_silent = true;
    }

    /// Answers reconciliations in pages of `statuses` statuses, for callers that support pages.
    pub fn answer_in_pages_of(&self, statuses: usize) {
        self.state().page = Some(statuses);
    }

    /// Makes the leader expect heartbeats of the scheduler at this interval, from the next
    /// subscription on.
    pub fn expect_heartbeats(&self, interval: Duration) {
        self.state().scheduler_heartbeat_ms =
            u64::try_from(interval.as_millis()).unwrap_or(u64::MAX);
    }

    /// Returns the number of heartbeats that the scheduler has sent.
    #[must_use]
    pub fn heartbeats(&self) -> usize {
        self.state().heartbeats
    }

    /// Makes another master lead from now on, in a new epoch. Of the open offers, it knows only
    /// those that are presented to it.
    pub fn change_leader(&self) {
        self.state().change_leader();
    }

    /// Like [`Self::change_leader`], but the former leader does not notice: its streams stay open,
    /// and it continues to send heartbeats.
    pub fn depose_leader(&self) {
        self.state().depose_leader();
    }

    /// Ends the leading master permanently, including its connections; the next one leads.
    ///
    /// # Panics
    /// If its task panicked.
    pub async fn kill_leader(&mut self) {
        let leader = self.state().leader;
        let server = &mut self.servers[leader];
        server.stop.cancel();
        server.task.abort();
        // The abort is intended.
        let _ = (&mut server.task).await;
        self.state().change_leader();
    }

    /// Ends the session as if another scheduler had taken over.
    pub fn supersede(&self) {
        self.state().supersede();
    }

    /// Returns all inputs so far.
    #[must_use]
    pub fn received(&self) -> Vec<ReceivedInput> {
        self.state().received.clone()
    }

    /// Returns the ids of the offers that are open at the leader.
    #[must_use]
    pub fn open_offers(&self) -> Vec<String> {
        self.state().open_offers.keys().cloned().collect()
    }

    /// Returns the launched tasks, with the number of launches of each: one, unless there is an
    /// error.
    #[must_use]
    pub fn launches(&self) -> Vec<(String, usize)> {
        self.state().launches.clone().into_iter().collect()
    }

    /// Waits until the inputs satisfy `done`.
    ///
    /// # Panics
    /// After 20 s, with all inputs.
    pub async fn wait(&self, what: &str, done: impl Fn(&[ReceivedInput]) -> bool) {
        let started = tokio::time::Instant::now();
        // A copy, so that `done` may call the cluster as well.
        while !done(&self.received()) {
            if started.elapsed() > WAIT_TIMEOUT {
                panic!("waited in vain for {what}; came in: {:#?}", self.received());
            }
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    }

    fn state(&self) -> std::sync::MutexGuard<'_, FakeState> {
        self.state.lock().expect("no test panicked in it")
    }
}

impl Drop for FakeCluster {
    fn drop(&mut self) {
        for server in &self.servers {
            server.stop.cancel();
            server.task.abort();
        }
    }
}

async fn serve(
    listener: TcpListener,
    (brain, place): (Arc<Mutex<FakeState>>, usize),
    stop: CancellationToken,
) {
    let master = service::FakeMaster::new(brain, place, stop.clone());
    let streams = TcpListenerStream::new(listener);
    let served = tonic::transport::Server::builder()
        .add_service(SchedulerServer::new(master.clone()))
        .add_service(LeadershipServer::new(master))
        .serve_with_incoming_shutdown(streams, stop.cancelled());
    if let Err(error) = served.await {
        tracing::warn!(%error, "a fake master ended");
    }
}
