//! Reads from the change feed.

use argosy_client::watch::Watch;
use argosy_proto::v1;
use argosy_proto::v1::watch_event::Event;
use argosy_proto::v1::watch_record::Record;

use super::{ClusterClient, read_failure};
use crate::exit::{Failure, FailureCode};
use crate::output::span_ms;

impl ClusterClient {
    /// Follows changes of records.
    pub(crate) fn watch(&self, request: v1::WatchRequest) -> Watch {
        self.client.watch(request)
    }

    /// Returns a task with its history, at least as new as a log index.
    pub(crate) async fn task_as_of(
        &self,
        framework_id: &str,
        task_id: &str,
        min_revision: u64,
    ) -> Result<Option<v1::Task>, Failure> {
        let request = v1::GetRequest {
            id: task_id.to_owned(),
            framework_id: framework_id.to_owned(),
            consistency: v1::Consistency::Local.into(),
            min_revision,
        };
        super::known(self.client.get_task(request).await)
    }

    /// Returns the first page of the open offers.
    pub(crate) async fn some_offers(&self) -> Result<v1::OfferPage, Failure> {
        let request = v1::ListRequest {
            page_size: super::lists::PAGE,
            ..v1::ListRequest::default()
        };
        self.client.list_offers(request).await.map_err(read_failure)
    }

    /// Returns the roles whose weight is not the default, by name, and the log index of this list,
    /// which is as new as this call.
    pub(crate) async fn weights(&self) -> Result<(Vec<v1::RoleWeight>, u64), Failure> {
        let now = self.cluster(v1::Consistency::Linearizable).await?;
        let watch = self.watch(v1::WatchRequest {
            kinds: vec!["role".to_owned()],
            min_revision: now.applied_index,
            ..v1::WatchRequest::default()
        });
        let read = tokio::time::timeout(self.timeout, snapshot(watch));
        let (records, revision) = read.await.map_err(|_| {
            let waited = span_ms(self.timeout.as_millis() as u64);
            let text = format!("the weights of roles did not arrive in {waited}");
            Failure::new(FailureCode::Unavailable, text).advise("--timeout waits longer")
        })??;
        let role = |record| match record {
            Record::Role(role) => Some(role),
            _ => None,
        };
        let mut weights: Vec<_> = records.into_iter().filter_map(role).collect();
        weights.sort_by(|left, right| left.role.cmp(&right.role));
        Ok((weights, revision))
    }
}

/// Returns the records of the first complete snapshot, and its log index.
async fn snapshot(mut watch: Watch) -> Result<(Vec<Record>, u64), Failure> {
    let mut records = Vec::new();
    loop {
        match watch.next().await.map_err(read_failure)? {
            // The former one broke off.
            Event::SnapshotBegin(_) => records.clear(),
            Event::Record(found) => records.extend(found.record),
            Event::SnapshotEnd(end) => return Ok((records, end.revision)),
            Event::Change(_) | Event::HistoryLost(_) | Event::Progress(_) => {}
        }
    }
}
