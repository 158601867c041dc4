//! `argosy wait cluster --for healthy`: until every voting master is up and agrees with the leader.
//!
//! The judgement is pure. It does not use the feed, which has no masters.

use std::time::{Duration, Instant};

use argosy_client::Masters;
use argosy_proto::v1;
use futures::future::join_all;

use crate::args::Wait;
use crate::contexts::ChosenCluster;
use crate::exit::{DONE, Failure, VerbResult};
use crate::operator::ClusterClient;
use crate::output::{StatusLine, StatusMode, note, span_ms};

/// Time for which the cluster must be healthy under one leader.
const STABLE: Duration = Duration::from_secs(5);
/// Time between two readings.
pub(super) const INTERVAL: Duration = Duration::from_millis(500);
/// Timeout of a call to one master.
const CALL_TIMEOUT: Duration = Duration::from_secs(3);
/// Number of entries behind the leader from which a master is not up to date.
const BEHIND: u64 = 100;
/// Time without an answer to the leader after which a master counts as down, in milliseconds.
const SILENT_MS: u64 = 2_000;

/// The view of the cluster that one voting master has, or the reason why there is none.
struct Answer {
    node_id: String,
    shown: String,
    view: Result<v1::Cluster, String>,
}

/// The state of the whole cluster.
#[derive(Debug, PartialEq, Eq)]
enum Health {
    /// All of it holds, in this epoch.
    Healthy(u64),
    /// Not yet, for this reason.
    Pending(String),
    /// It never will without an operator, for this reason.
    Never(String),
}

pub(super) async fn run(arguments: &Wait) -> VerbResult {
    let ChosenCluster { masters, transport } = ChosenCluster::of(&arguments.cluster)?;
    let operator = match arguments.timeout {
        Some(_) => ClusterClient::to(masters, CALL_TIMEOUT, transport),
        None => ClusterClient::of_running(masters, CALL_TIMEOUT, transport),
    };
    let started = Instant::now();
    let mut line = StatusLine::new(StatusMode::Shown);
    let mut healthy_since: Option<(u64, Instant)> = None;
    let mut why = "no master has answered yet".to_owned();
    loop {
        let health = match within(arguments.timeout, started, read(&operator)).await {
            None => return Err(not_healthy(arguments.timeout, &why)),
            Some(Ok(answers)) => judge(&answers),
            // Without a timeout, a cluster that does not run is a failure, as for other objects.
            Some(Err(failure)) if arguments.timeout.is_none() && healthy_since.is_none() => {
                return Err(failure);
            }
            Some(Err(failure)) => Health::Pending(failure.message),
        };
        match health {
            Health::Never(reason) => return Err(Failure::failed(reason)),
            Health::Pending(reason) => {
                healthy_since = None;
                why = reason;
            }
            Health::Healthy(epoch) => {
                let since = healthy_since.filter(|(former, _)| *former == epoch);
                let (_, since) = *healthy_since.insert(since.unwrap_or((epoch, Instant::now())));
                if since.elapsed() >= STABLE {
                    let took = span_ms(started.elapsed().as_millis() as u64);
                    note(&format!("the cluster is healthy, after {took}"));
                    return Ok(DONE);
                }
                why = format!("it is healthy for {}", text_of(since.elapsed()));
            }
        }
        line.show(|_| format!("waiting until the cluster is healthy: {why}"));
        if within(arguments.timeout, started, tokio::time::sleep(INTERVAL))
            .await
            .is_none()
        {
            return Err(not_healthy(arguments.timeout, &why));
        }
    }
}

pub(super) fn text_of(time: Duration) -> String {
    span_ms(time.as_millis() as u64)
}

fn not_healthy(timeout: Option<Duration>, why: &str) -> Failure {
    let waited = text_of(timeout.unwrap_or_default());
    Failure::failed(format!("the cluster is not healthy after {waited}: {why}"))
        .advise("argosy doctor --cluster names remedies; --timeout waits longer")
}

/// Returns the result of the work, or `None` if the time of the command ends first.
pub(super) async fn within<T>(
    timeout: Option<Duration>,
    started: Instant,
    work: impl Future<Output = T>,
) -> Option<T> {
    let Some(timeout) = timeout else {
        return Some(work.await);
    };
    let left = timeout.saturating_sub(started.elapsed());
    tokio::time::timeout(left, work).await.ok()
}

/// Asks every voting master.
async fn read(operator: &ClusterClient) -> Result<Vec<Answer>, Failure> {
    let cluster = operator.cluster(v1::Consistency::Linearizable).await?;
    let voters = cluster.masters.into_iter().filter(|master| master.voter);
    Ok(join_all(voters.map(|master| ask(operator, master))).await)
}

async fn ask(operator: &ClusterClient, master: v1::Master) -> Answer {
    let view = match Masters::new([&master.api_address]) {
        Ok(address) => {
            let itself = operator.at(address, CALL_TIMEOUT);
            let view = itself.cluster(v1::Consistency::Local).await;
            view.map_err(|failure| failure.message)
        }
        Err(why) => Err(why.to_string()),
    };
    Answer {
        shown: format!("{} ({})", master.node_id, master.api_address),
        node_id: master.node_id,
        view,
    }
}

fn judge(answers: &[Answer]) -> Health {
    let mut views = Vec::new();
    for answer in answers {
        match &answer.view {
            Err(why) => {
                return Health::Pending(format!("{} does not answer: {why}", answer.shown));
            }
            Ok(view) if view.leader.is_empty() || view.without_leader_ms > 0 => {
                return Health::Pending(format!("{} knows no leader", answer.shown));
            }
            Ok(view) => views.push((answer, view)),
        }
    }
    let Some((_, first)) = views.first() else {
        return Health::Pending("the group has no voting master".to_owned());
    };
    for (answer, view) in &views {
        if view.leader != first.leader || view.epoch != first.epoch {
            let former = (view.leader.as_str(), view.epoch);
            return Health::Pending(format!(
                "{} follows {} in epoch {}, others {} in epoch {}",
                answer.shown, former.0, former.1, first.leader, first.epoch
            ));
        }
    }
    if let Some(why) = differing(&views) {
        return Health::Never(why);
    }
    let Some((_, leader)) = views.iter().find(|(one, _)| one.node_id == first.leader) else {
        return Health::Pending(format!("{} leads, and is no voting master", first.leader));
    };
    let followers = leader.masters.iter();
    let mut followers = followers.filter(|one| one.voter && one.node_id != leader.leader);
    match followers.find_map(lagging) {
        Some(why) => Health::Pending(why),
        None => Health::Healthy(leader.epoch),
    }
}

/// Returns why a follower is not up to date; `None` if it is.
fn lagging(master: &v1::Master) -> Option<String> {
    let shown = format!("{} ({})", master.node_id, master.api_address);
    match (master.lag, master.last_contact_ms) {
        (None, _) | (_, None) => Some(format!("the leader has not heard from {shown} yet")),
        (_, Some(silent)) if silent > SILENT_MS => Some(format!(
            "{shown} has not answered the leader for {}",
            span_ms(silent)
        )),
        (Some(lag), _) if lag >= BEHIND => Some(format!("{shown} is {lag} entries behind")),
        (Some(_), Some(_)) => None,
    }
}

/// Returns which masters differ at one index of the log; `None` if no two are known to.
fn differing(views: &[(&Answer, &v1::Cluster)]) -> Option<String> {
    let known = views.iter().filter(|(_, view)| !view.digest.is_empty());
    let known: Vec<_> = known.collect();
    for (at, (answer, view)) in known.iter().enumerate() {
        let same_index = known[at + 1..].iter();
        let mut same_index =
            same_index.filter(|(_, next)| next.applied_index == view.applied_index);
        if let Some((other, _)) = same_index.find(|(_, next)| next.digest != view.digest) {
            return Some(format!(
                "the registries of {} and {} differ at index {}; see docs/operate/recovery.md",
                answer.shown, other.shown, view.applied_index
            ));
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn view(leader: &str) -> v1::Cluster {
        let master = |number: u32| v1::Master {
            node_id: format!("master-{number}"),
            api_address: format!("10.0.0.{number}:5050"),
            voter: true,
            lag: Some(3),
            last_contact_ms: Some(40),
            ..v1::Master::default()
        };
        v1::Cluster {
            leader: leader.to_owned(),
            epoch: 4,
            masters: (1..=3).map(master).collect(),
            applied_index: 90,
            digest: b"digest".to_vec(),
            ..v1::Cluster::default()
        }
    }

    fn healthy() -> Vec<Answer> {
        let answer = |number: u32| Answer {
            node_id: format!("master-{number}"),
            shown: format!("master-{number} (10.0.0.{number}:5050)"),
            view: Ok(view("master-2")),
        };
        (1..=3).map(answer).collect()
    }

    /// Judges the healthy cluster after a change of what one master answers.
    fn after(number: usize, change: impl FnOnce(&mut v1::Cluster)) -> Health {
        let mut answers = healthy();
        change(answers[number - 1].view.as_mut().unwrap());
        judge(&answers)
    }

    fn pending(text: &str) -> Health {
        Health::Pending(text.to_owned())
    }

    #[test]
    fn a_cluster_is_healthy_if_all_voters_follow_one_leader() {
        assert_eq!(judge(&healthy()), Health::Healthy(4));
        // Only the leader knows the state of the others.
        let unknown = after(1, |view| view.masters[2].lag = None);
        assert_eq!(unknown, Health::Healthy(4));
        // A master that has applied less may have another digest.
        let behind = after(3, |view| {
            view.applied_index = 89;
            view.digest = b"other".to_vec();
        });
        assert_eq!(behind, Health::Healthy(4));
        // A learner does not vote.
        let learner = after(2, |view| {
            view.masters[2].voter = false;
            view.masters[2].lag = Some(9_000);
        });
        assert_eq!(learner, Health::Healthy(4));
    }

    #[test]
    fn each_defect_has_its_reason() {
        let mut silent = healthy();
        silent[2].view = Err("connection refused".to_owned());
        assert_eq!(
            judge(&silent),
            pending("master-3 (10.0.0.3:5050) does not answer: connection refused")
        );
        assert_eq!(judge(&[]), pending("the group has no voting master"));
        let lost = pending("master-1 (10.0.0.1:5050) knows no leader");
        assert_eq!(after(1, |view| view.without_leader_ms = 9), lost);
        assert_eq!(after(1, |view| view.leader.clear()), lost);
        assert_eq!(
            after(3, |view| view.epoch = 3),
            pending(
                "master-3 (10.0.0.3:5050) follows master-2 in epoch 3, others master-2 in epoch 4"
            )
        );
        assert_eq!(
            after(2, |view| view.masters[0].lag = Some(100)),
            pending("master-1 (10.0.0.1:5050) is 100 entries behind")
        );
        assert_eq!(
            after(2, |view| view.masters[0].last_contact_ms = Some(2_001)),
            pending("master-1 (10.0.0.1:5050) has not answered the leader for 2 s")
        );
        assert_eq!(
            after(2, |view| view.masters[2].last_contact_ms = None),
            pending("the leader has not heard from master-3 (10.0.0.3:5050) yet")
        );
    }

    #[test]
    fn registries_that_differ_are_not_waited_for() {
        let Health::Never(why) = after(3, |view| view.digest = b"other".to_vec()) else {
            panic!("they differ");
        };
        assert!(
            why.contains("master-1 (10.0.0.1:5050) and master-3"),
            "{why}"
        );
        assert!(why.contains("at index 90"), "{why}");
    }
}
