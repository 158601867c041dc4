//! The copy of the registry that a master sends.

use std::time::Duration;

use argosy_proto::v1;
use tonic::Streaming;

use super::failures::refusal_failure;
use super::{ClusterClient, read_failure};
use crate::exit::{Failure, FailureCode};

/// The time for which a master may send no block.
const BLOCK_TIMEOUT: Duration = Duration::from_secs(60);

/// The blocks of a copy, in order.
pub(crate) struct SnapshotBlocks(Streaming<v1::SnapshotBlock>);

impl ClusterClient {
    /// Begins to receive a copy of the registry. A local one may be older, and needs no quorum.
    pub(crate) async fn save_snapshot(&self, is_local: bool) -> Result<SnapshotBlocks, Failure> {
        let consistency = match is_local {
            true => v1::Consistency::Local,
            false => v1::Consistency::Linearizable,
        };
        let request = v1::SaveSnapshotRequest {
            consistency: consistency.into(),
        };
        let begun = self.client.save_snapshot(request).await;
        begun.map(SnapshotBlocks).map_err(read_failure)
    }
}

impl SnapshotBlocks {
    /// Returns the next bytes; `None` at the end.
    pub(crate) async fn next(&mut self) -> Result<Option<Vec<u8>>, Failure> {
        let read = tokio::time::timeout(BLOCK_TIMEOUT, self.0.message()).await;
        let silent = || {
            let text = "the master has stopped sending the snapshot";
            Failure::new(FailureCode::Unavailable, text).advise("try again")
        };
        match read.map_err(|_| silent())? {
            Ok(block) => Ok(block.map(|block| block.data)),
            Err(status) => {
                let failed = refusal_failure(status.code(), status.message().to_owned());
                Err(failed.advise("the snapshot is incomplete and was not kept; try again"))
            }
        }
    }
}
