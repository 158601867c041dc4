//! Records for their names: one page each, from the master that answers, which may be outdated.

use argosy_proto::v1;

use super::{ClusterClient, EndedObjects, read_failure};
use crate::exit::Failure;

/// Number of records: those that fit into one answer.
const PAGE: u32 = 10_000;

impl ClusterClient {
    pub(crate) async fn task_names(&self, ended: EndedObjects) -> Result<Vec<v1::Task>, Failure> {
        let page = self.client.list_tasks(request(ended)).await;
        Ok(page.map_err(read_failure)?.tasks)
    }

    pub(crate) async fn agent_names(&self) -> Result<Vec<v1::Agent>, Failure> {
        let page = self
            .client
            .list_agents(request(EndedObjects::Excluded))
            .await;
        Ok(page.map_err(read_failure)?.agents)
    }

    pub(crate) async fn framework_names(&self) -> Result<Vec<v1::Framework>, Failure> {
        let page = self
            .client
            .list_frameworks(request(EndedObjects::Excluded))
            .await;
        Ok(page.map_err(read_failure)?.frameworks)
    }
}

fn request(ended: EndedObjects) -> v1::ListRequest {
    v1::ListRequest {
        page_size: PAGE,
        consistency: v1::Consistency::Local.into(),
        include_ended: ended == EndedObjects::Included,
        ..v1::ListRequest::default()
    }
}
