//! A reconciliation that the SDK never sends: for a task whose acceptance is still in flight.
//! UNKNOWN guarantees that the task will never start. So the acceptance is either known by then
//! or rejected forever.

use std::time::Duration;

use argosy_proto::transport::ExpectedPeer;
use argosy_proto::v1::scheduler_client::SchedulerClient;
use argosy_proto::{convert, v1};
use argosy_state::ids::TaskKey;
use tonic::transport::Endpoint;

use super::task_oracle::UnknownGuarantee;
use super::world::World;
use crate::sim::network;

/// Timeout of the connection and of the request, each.
const TIMEOUT: Duration = Duration::from_secs(2);

/// The sender and the task of the request.
#[derive(Clone)]
pub(super) struct EarlyReconcile {
    pub(super) world: World,
    /// The host that sends it.
    pub(super) host: String,
    pub(super) request: v1::ReconcileRequest,
    pub(super) task: TaskKey,
    /// The delay before it is sent.
    pub(super) delay: Duration,
}

impl EarlyReconcile {
    /// Sends it to every master: only the leader answers.
    pub(super) fn send_to_all(&self) {
        for master in self.world.masters() {
            let question = self.clone();
            tokio::spawn(async move {
                tokio::time::sleep(question.delay).await;
                question.send(master).await;
            });
        }
    }

    /// Sends it to one master. Returns `None` if there is no answer.
    async fn send(self, master: String) -> Option<()> {
        let endpoint = Endpoint::from_shared(format!("http://{master}")).ok()?;
        let connector =
            network::dialer(&self.host, &self.world.cuts).connector(TIMEOUT, ExpectedPeer::MASTER);
        let endpoint = endpoint.timeout(TIMEOUT);
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
            let guarantee = UnknownGuarantee {
                session: self.request.session,
                below_call: self.request.next_number,
                index: convert::revision_from(reply.revision).index,
            };
            self.world.oracle.unknown(&self.task, guarantee);
        }
        Some(())
    }
}
