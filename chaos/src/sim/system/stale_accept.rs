//! An acceptance of a used offer, which the SDK never sends. Every leader must reject it.

use std::time::Duration;

use argosy_proto::transport::ExpectedPeer;
use argosy_proto::v1;
use argosy_proto::v1::scheduler_client::SchedulerClient;
use tonic::Code;
use tonic::transport::Endpoint;

use super::world::World;
use crate::history::{CallId, OperationResponse, RejectedLaunch};
use crate::sim::network;

/// Timeout of the connection and of the request, each.
const TIMEOUT: Duration = Duration::from_secs(2);

/// The sender and the content of the acceptance.
pub(super) struct StaleAccept {
    pub(super) world: World,
    /// The host that sends it.
    pub(super) host: String,
    /// The master that receives it.
    pub(super) master: String,
    pub(super) request: v1::AcceptRequest,
    /// The framework's index, and the one task to launch.
    pub(super) index: usize,
    pub(super) task: String,
    pub(super) invoked: Option<CallId>,
}

impl StaleAccept {
    /// Sends it once and records the end.
    pub(super) async fn send(self) {
        let ended = self.call().await;
        let is_refused = match &ended {
            Ok(reply) => !reply.refused.is_empty(),
            Err(why) => why.is_certain,
        };
        if is_refused {
            let mut state = self.world.state();
            if let Some(stored) = state.frameworks.get_mut(&self.index) {
                stored.tasks.insert(self.task.clone(), true);
            }
        }
        let recorder = &self.world.notes.recorder;
        let Some(invoked) = self.invoked else {
            return;
        };
        match ended {
            Ok(reply) => {
                let refusal = |one: v1::Refused| RejectedLaunch {
                    position: one.position,
                    code: one.code,
                };
                let refused = reply.refused.into_iter().map(refusal).collect();
                let revision = argosy_proto::convert::revision_from(reply.revision);
                recorder.ok(
                    invoked,
                    OperationResponse::Accepted { refused },
                    Some(revision),
                );
            }
            // The certainty of a status is ignored: an unknown outcome is enough here.
            Err(why) => recorder.info(invoked, why.text),
        }
    }

    async fn call(&self) -> Result<v1::AcceptReply, AcceptFailure> {
        let endpoint = Endpoint::from_shared(format!("http://{}", self.master));
        let endpoint = endpoint.map_err(AcceptFailure::unknown)?.timeout(TIMEOUT);
        let connector =
            network::dialer(&self.host, &self.world.cuts).connector(TIMEOUT, ExpectedPeer::MASTER);
        let channel = endpoint.connect_with_connector(connector).await;
        let channel = channel.map_err(AcceptFailure::unknown)?;
        let mut client = SchedulerClient::new(channel);
        let reply = client.accept(self.request.clone()).await;
        self.world.notes.count("used offers accepted again");
        reply
            .map(tonic::Response::into_inner)
            .map_err(|status| AcceptFailure {
                is_certain: matches!(
                    status.code(),
                    Code::FailedPrecondition
                        | Code::InvalidArgument
                        | Code::NotFound
                        | Code::Aborted
                ),
                text: status.message().to_owned(),
            })
    }
}

/// The reason of a rejection, as far as is known.
struct AcceptFailure {
    /// Whether it certainly never takes effect.
    is_certain: bool,
    text: String,
}

impl AcceptFailure {
    fn unknown(error: impl ToString) -> Self {
        Self {
            is_certain: false,
            text: error.to_string(),
        }
    }
}
