//! A question that the SDK would never ask: for a task whose acceptance is still on its way. UNKNOWN is a promise
//! that the task will never start, so the acceptance is either known by then or refused for ever.

use std::time::Duration;

use argosy_proto::transport::Expected;
use argosy_proto::v1::scheduler_client::SchedulerClient;
use argosy_proto::{convert, v1};
use argosy_state::ids::TaskKey;
use tonic::transport::Endpoint;

use super::task_oracle::Promise;
use super::world::World;
use crate::sim::network;

/// How long connecting and asking may take, each.
const PATIENCE: Duration = Duration::from_secs(2);

/// Who asks for what.
#[derive(Clone)]
pub(super) struct Question {
    pub(super) world: World,
    /// The host that sends it.
    pub(super) host: String,
    pub(super) request: v1::ReconcileRequest,
    /// The one task that is asked for.
    pub(super) task: TaskKey,
    /// How much later it is asked.
    pub(super) after: Duration,
}

impl Question {
    /// Asks every master: only one that leads answers.
    pub(super) fn spread(&self) {
        for master in self.world.masters() {
            let question = self.clone();
            tokio::spawn(async move {
                tokio::time::sleep(question.after).await;
                question.send(master).await;
            });
        }
    }

    /// `None` if nobody answers.
    async fn send(self, master: String) -> Option<()> {
        let endpoint = Endpoint::from_shared(format!("http://{master}")).ok()?;
        let connector =
            network::dialer(&self.host, &self.world.cuts).connector(PATIENCE, Expected::MASTER);
        let endpoint = endpoint.timeout(PATIENCE);
        let channel = endpoint.connect_with_connector(connector).await.ok()?;
        let mut client = SchedulerClient::new(channel);
        let reply = client.reconcile(self.request.clone()).await.ok()?;
        self.world.notes.count("questions past the SDK answered");
        let unknown: i32 = v1::TaskState::Unknown.into();
        let reply = reply.into_inner();
        if reply.statuses.iter().any(|one| one.state == unknown) {
            self.world
                .notes
                .count("questions past the SDK answered by UNKNOWN");
            let promise = Promise {
                session: self.request.session,
                below: self.request.next_number,
                index: convert::revision_from(reply.revision).index,
            };
            self.world.ledger.unknown(&self.task, promise);
        }
        Some(())
    }
}
