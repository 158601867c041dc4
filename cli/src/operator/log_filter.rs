//! The log filter of a master or an agent.

use argosy_proto::v1;

use super::ClusterClient;
use super::failures::change_failure;
use crate::exit::Failure;

impl ClusterClient {
    /// Changes the log filter of the agent of this id, or of the master that answers.
    pub(crate) async fn set_log_filter(
        &self,
        agent_id: String,
        filter: Option<String>,
    ) -> Result<v1::LogFilter, Failure> {
        let request = v1::SetLogFilterRequest { agent_id, filter };
        let reply = self.client.set_log_filter(request).await;
        reply.map_err(change_failure)
    }
}
