//! `argosy.v1.Leadership`: reports the leader, and each change of it immediately, to its
//! subscribers. `argosy.v1.Reigns` is the same under its former name.
//!
//! It reports applied state only: an epoch is reported when it is committed.

use std::pin::Pin;

use argosy_proto::v1;
use argosy_proto::v1::leadership_server::Leadership;
use argosy_proto::v1::reigns_server::Reigns;
use futures::{Stream, StreamExt, stream};
use tokio::sync::watch;
use tonic::{Request, Response, Status};

use super::Services;
use crate::inbox::LeaderStatus;

type LeadershipStream = Pin<Box<dyn Stream<Item = Result<v1::Reign, Status>> + Send>>;

#[tonic::async_trait]
impl Leadership for Services {
    type WatchStream = LeadershipStream;

    async fn watch(
        &self,
        _: Request<v1::WatchReigns>,
    ) -> Result<Response<LeadershipStream>, Status> {
        let own = self.owner.own_address.clone();
        let reported = epochs(self.owner.leader_status.clone(), own).map(Ok);
        Ok(Response::new(reported.boxed()))
    }
}

#[tonic::async_trait]
impl Reigns for Services {
    type WatchStream = LeadershipStream;

    async fn watch(
        &self,
        request: Request<v1::WatchReigns>,
    ) -> Result<Response<LeadershipStream>, Status> {
        Leadership::watch(self, request).await
    }
}

/// Returns each epoch once. A slow reader misses epochs that have ended by then. The stream ends
/// with this master's owner.
fn epochs(
    leader_status: watch::Receiver<LeaderStatus>,
    own: String,
) -> impl Stream<Item = v1::Reign> + Send {
    stream::unfold((leader_status, 0), move |(mut leadership, reported)| {
        let own = own.clone();
        async move {
            let news = leadership
                .wait_for(|status| epoch_message(status, &own).is_some_and(|r| r.epoch > reported));
            let epoch_record = epoch_message(&*news.await.ok()?, &own)?;
            let epoch = epoch_record.epoch;
            Some((epoch_record, (leadership, epoch)))
        }
    })
}

fn epoch_message(status: &LeaderStatus, own: &str) -> Option<v1::Reign> {
    let leader_address = if status.is_local {
        own.to_owned()
    } else {
        status.leader.clone()?
    };
    Some(v1::Reign {
        epoch: status.epoch,
        leader_address,
        here: status.is_local,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status_of(epoch: u64, leader: Option<&str>) -> LeaderStatus {
        LeaderStatus {
            is_local: leader == Some("me:1"),
            leader: leader.filter(|leader| *leader != "me:1").map(str::to_owned),
            epoch,
            term: 0,
        }
    }

    #[tokio::test]
    async fn each_epoch_is_sent_once_when_its_leader_is_known() {
        let (sender, receiver) = watch::channel(status_of(0, None));
        let mut reported = Box::pin(epochs(receiver, "me:1".to_owned()));
        assert!(
            futures::poll!(reported.next()).is_pending(),
            "no master leads yet"
        );
        sender.send_replace(status_of(5, Some("a:1")));
        let first = reported.next().await.unwrap();
        assert_eq!(
            (first.epoch, first.leader_address.as_str(), first.here),
            (5, "a:1", false)
        );
        // A candidate that has not opened its epoch is not reported, and the former epoch is not
        // repeated.
        sender.send_replace(status_of(5, None));
        sender.send_replace(status_of(5, Some("b:1")));
        assert!(futures::poll!(reported.next()).is_pending());
        sender.send_replace(status_of(9, Some("me:1")));
        let next = reported.next().await.unwrap();
        assert_eq!(
            (next.epoch, next.leader_address.as_str(), next.here),
            (9, "me:1", true)
        );
        drop(sender);
        assert!(reported.next().await.is_none());
    }
}
