//! The sources of the data: the change feed, and a few small calls for what it does not have.

use std::time::Duration;

use argosy_client::{CallError, Watch};
use argosy_proto::v1;
use argosy_proto::v1::watch_event::Event;
use tokio::sync::{mpsc, watch};
use tokio::time::MissedTickBehavior;

use super::sums::Amounts;
use crate::exit::Failure;
use crate::operator::{ClusterClient, read_failure};

/// Capacity for events of the feed. When it is full, nothing is read from the master, which cuts
/// off a reader that stays slow; the stream is then resumed.
const EVENTS: usize = 1_024;
/// Capacity for answers. When it is full, no call is made.
const ANSWERS: usize = 8;
/// Pause between two turns of calls.
const TURN: Duration = Duration::from_secs(1);

/// News from the change feed.
pub(super) enum FeedNews {
    Event(Box<Event>),
    /// Events come from the master at this API address.
    Master(String),
    /// No master sends events; the search continues.
    Problem(String),
    /// A master rejects the stream.
    Refused(Failure),
}

/// Follows all records until a master rejects the stream.
pub(super) fn follow(operator: &ClusterClient) -> mpsc::Receiver<FeedNews> {
    let watch = operator.watch(v1::WatchRequest::default());
    let (sender, news) = mpsc::channel(EVENTS);
    // A task, because a call of `next` that is dropped begins its search for a master again.
    tokio::spawn(forward(watch, sender));
    news
}

/// Ends when the receiver is gone.
async fn forward(mut watch: Watch, sender: mpsc::Sender<FeedNews>) {
    let mut master = String::new();
    loop {
        let event = watch.next().await;
        let present = watch.master().unwrap_or_default();
        if event.is_ok() && present != master {
            present.clone_into(&mut master);
            if sender.send(FeedNews::Master(master.clone())).await.is_err() {
                return;
            }
        }
        let news = match event {
            Ok(event) => FeedNews::Event(Box::new(event)),
            Err(error @ CallError::Refused(_)) => {
                // The receiver may be gone already.
                let _ = sender.send(FeedNews::Refused(read_failure(error))).await;
                return;
            }
            Err(error) => FeedNews::Problem(read_failure(error).message),
        };
        if sender.send(news).await.is_err() {
            return;
        }
    }
}

/// The data that the present page needs in addition to the feed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Wanted {
    /// The resources on offer.
    pub(super) offers: bool,
    /// The reasons for which these frameworks wait.
    pub(super) reasons: Vec<String>,
}

/// An answer of a master.
pub(super) enum Answer {
    Summary(Box<v1::Cluster>),
    /// `None`: there are too many offers to add them up here.
    Offered(Option<Amounts>),
    Reason {
        framework: String,
        reason: String,
    },
}

/// Makes at most three small calls a second, in a task of the runtime. Failures are not reported:
/// the feed reports that no master answers.
pub(super) fn ask(
    operator: ClusterClient,
    wanted: watch::Receiver<Wanted>,
) -> mpsc::Receiver<Answer> {
    let (sender, answers) = mpsc::channel(ANSWERS);
    tokio::spawn(async move {
        let mut ticks = tokio::time::interval(TURN);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut turn = 0usize;
        loop {
            ticks.tick().await;
            let now = wanted.borrow().clone();
            let mut answers = Vec::new();
            // Masters and totals change rarely: every other turn is enough.
            if turn.is_multiple_of(2) {
                let summary = operator.cluster_at_best().await.ok();
                answers.extend(summary.map(|summary| Answer::Summary(Box::new(summary))));
            } else if now.offers {
                let page = operator.some_offers().await.ok();
                answers.extend(page.map(|page| Answer::Offered(offered(&page))));
            }
            // One framework after the other: an explanation looks at all agents.
            if let Some(framework) = now.reasons.get(turn % now.reasons.len().max(1)) {
                answers.extend(reason(&operator, framework).await);
            }
            turn = turn.wrapping_add(1);
            for answer in answers {
                if sender.send(answer).await.is_err() {
                    return;
                }
            }
            if sender.is_closed() {
                return;
            }
        }
    });
    answers
}

async fn reason(operator: &ClusterClient, framework: &str) -> Option<Answer> {
    let request = v1::ExplainRequest {
        framework_id: framework.to_owned(),
        ..v1::ExplainRequest::default()
    };
    let explanation = operator.explain(request).await.ok()?;
    Some(Answer::Reason {
        framework: framework.to_owned(),
        reason: explanation.summary,
    })
}

/// Adds up the offers of a page, if it has all of them.
fn offered(page: &v1::OfferPage) -> Option<Amounts> {
    if !page.next_page_token.is_empty() {
        return None;
    }
    let mut sum = Amounts::default();
    let offers = page.offers.iter();
    offers.for_each(|offer| sum.add(&Amounts::of(&offer.resources)));
    Some(sum)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn offers_are_added_up_only_if_all_are_known() {
        let offer = v1::Offer {
            resources: argosy_client::resources::resources("cpus:2").unwrap(),
            ..v1::Offer::default()
        };
        let mut page = v1::OfferPage {
            offers: vec![offer.clone(), offer],
            ..v1::OfferPage::default()
        };
        assert_eq!(offered(&page).unwrap().get("cpus"), 4_000);
        page.next_page_token = "more".to_owned();
        assert_eq!(offered(&page), None);
    }
}
