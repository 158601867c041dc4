//! Changes of the cluster: batches of operations, and the group of masters.

use argosy_proto::v1;
use argosy_proto::v1::write_operation::Operation;

use super::ClusterClient;
use super::failures::{change_failure, next_step, refused, write_failure};
use crate::exit::Failure;
use crate::random;

/// The principal of every call. There are no accounts yet.
const PRINCIPAL: &str = "operator";

impl ClusterClient {
    /// Makes one change. Repeating it with the same request id has no further effect.
    pub(crate) async fn write(
        &self,
        request_id: Option<&String>,
        operation: Operation,
    ) -> Result<(), Failure> {
        self.write_all(request_id, vec![operation]).await
    }

    /// Makes several changes in one batch. The failure is that of the first rejected one; the
    /// others are made nevertheless.
    pub(crate) async fn write_all(
        &self,
        request_id: Option<&String>,
        operations: Vec<Operation>,
    ) -> Result<(), Failure> {
        let request_id = match request_id {
            Some(id) => id.clone(),
            None => random::request_id()?,
        };
        let next_step = next_step(&operations, &request_id);
        let of = |operation| v1::WriteOperation {
            operation: Some(operation),
        };
        let batch = v1::WriteBatch {
            request_id,
            principal: PRINCIPAL.to_owned(),
            operations: operations.into_iter().map(of).collect(),
        };
        let reply = self
            .client
            .write(batch)
            .await
            .map_err(|error| write_failure(error, next_step))?;
        match reply.outcomes.into_iter().find(|outcome| !outcome.done) {
            Some(outcome) => Err(refused(&outcome.code, outcome.message)),
            None => Ok(()),
        }
    }

    pub(crate) async fn join_master(
        &self,
        raft_address: String,
    ) -> Result<v1::MembershipReply, Failure> {
        let request = v1::JoinMasterRequest { raft_address };
        self.client
            .join_master(request)
            .await
            .map_err(change_failure)
    }

    pub(crate) async fn remove_master(
        &self,
        node_id: String,
    ) -> Result<v1::MembershipReply, Failure> {
        let request = v1::RemoveMasterRequest { node_id };
        self.client
            .remove_master(request)
            .await
            .map_err(change_failure)
    }

    pub(crate) async fn raise_level(&self, level: u32) -> Result<v1::RaiseLevelReply, Failure> {
        let request = v1::RaiseLevelRequest { level };
        let reply = self.client.raise_level(request).await;
        reply.map_err(change_failure)
    }

    pub(crate) async fn transfer_leader(
        &self,
        node_id: String,
    ) -> Result<v1::MembershipReply, Failure> {
        let request = v1::TransferLeaderRequest { node_id };
        let reply = self.client.transfer_leader(request).await;
        reply.map_err(change_failure)
    }
}
