//! Masters that join, leave, and return with an empty directory.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use argosy_raft::{MembershipError, MemoryStore, Node, SnapshotPolicy, Timing};
use tokio::task::JoinHandle;

use crate::host::{
    DEADLINE, HostPlan, NodeHost, PendingNodeStart, TIMING, addresses, equal, form, leader, three,
};

#[tokio::test(flavor = "multi_thread")]
async fn a_group_of_one_grows_to_three_and_its_leader_can_be_removed() {
    let addresses = addresses(3);
    let first = HostPlan {
        bootstrap: true,
        ..HostPlan::new(addresses[0], &[])
    };
    let mut hosts = form(vec![first]).await;
    let lead = leader(&hosts).await;
    hosts[lead].commit("alone").await;
    assert!(hosts[lead].node.confirm_read().await.unwrap() <= hosts[lead].registry().index);
    for address in &addresses[1..] {
        // It finds the group by its list, and waits until an operator lets it join.
        let joining = PendingNodeStart::begin(HostPlan::new(*address, &[addresses[0], *address]));
        let id = join(&hosts[0], *address).await;
        let joining = joining.finish().await.unwrap();
        assert_eq!(id, joining.node.id());
        assert!(id > 5, "ids of joined masters are log indexes");
        hosts.push(joining);
    }
    hosts[0]
        .until("three voters", |status| {
            status.voters.len() == 3 && status.learners.is_empty()
        })
        .await;
    let ids: Vec<u64> = hosts.iter().map(|host| host.node.id()).collect();
    assert!(ids[0] < ids[1] && ids[1] < ids[2], "{ids:?}");
    let again = hosts[1].node.join(&addresses[2].to_string()).await;
    assert!(
        matches!(again, Err(MembershipError::Refused(text)) if text.contains("is a voter already"))
    );

    // The request goes to the leader itself, which transfers leadership first.
    hosts[0].node.remove(ids[0]).await.unwrap();
    let gone = hosts.remove(0);
    hosts[0]
        .until("two voters", |status| status.voters.len() == 2)
        .await;
    gone.kill();
    let lead = leader(&hosts).await;
    hosts[lead].commit("without the first").await;
    let members = hosts[lead].node.members();
    assert_eq!(
        members.iter().map(|one| one.id).collect::<Vec<_>>(),
        ids[1..]
    );
    assert_eq!(equal(&hosts).await.count(), 2);
    assert_eq!(
        hosts[lead].node.remove(ids[0]).await,
        Err(MembershipError::UnknownMember(ids[0]))
    );
}

/// Joins the master at `address` as soon as it answers.
async fn join(host: &NodeHost, address: SocketAddr) -> u64 {
    match try_join(&host.node, address).await {
        Ok(id) => id,
        Err(error) => panic!("{address} does not join: {error}"),
    }
}

/// Requests the join of the master at `address` until it answers.
async fn try_join(node: &Node, address: SocketAddr) -> Result<u64, MembershipError> {
    let deadline = Instant::now() + DEADLINE;
    loop {
        match node.join(&address.to_string()).await {
            Err(MembershipError::Unreachable { .. }) if Instant::now() < deadline => {}
            joined => return joined,
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// The time after which a learner without progress is given up.
const LEARNER_STALL: Duration = Duration::from_secs(4);

/// The duration of a write of a slow learner. An install of the registry of [`truncated`] takes
/// about ten writes.
const SLOW_WRITE: Duration = Duration::from_millis(1_000);

/// Returns a group of one whose log lacks its first entries, so that a new master needs a snapshot,
/// and the plan of a slow new master.
async fn truncated() -> (NodeHost, HostPlan) {
    let addresses = addresses(2);
    let first = HostPlan {
        bootstrap: true,
        snapshot: SnapshotPolicy {
            entries: 10_000,
            bytes: 1 << 20,
        },
        timing: Timing {
            learner_stall_ms: LEARNER_STALL.as_millis() as u64,
            ..TIMING
        },
        ..HostPlan::new(addresses[0], &[])
    };
    let mut hosts = form(vec![first]).await;
    leader(&hosts).await;
    let host = hosts.remove(0);
    for number in 0..16_u8 {
        host.propose_large(number).await;
        let count = u64::from(number) + 1;
        host.until_registry("the command", |registry| registry.count() == count)
            .await;
    }
    let deadline = Instant::now() + DEADLINE;
    while host.plan.memory.entry(5).is_some() {
        assert!(Instant::now() < deadline, "the log only grows");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let slow = HostPlan::new(addresses[1], &addresses);
    slow.memory.slow_down(SLOW_WRITE);
    (host, slow)
}

/// Starts the slow new master of [`truncated`] and its join. Returns when it is a learner.
async fn slow_learner() -> (
    NodeHost,
    PendingNodeStart,
    JoinHandle<Result<u64, MembershipError>>,
) {
    let (host, slow) = truncated().await;
    let address = slow.address;
    let joining = PendingNodeStart::begin(slow);
    let node = host.node.clone();
    let join = tokio::spawn(async move { try_join(&node, address).await });
    host.until("the learner", |status| !status.learners.is_empty())
        .await;
    (host, joining, join)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_learner_whose_snapshot_takes_longer_than_a_stall_becomes_a_voter() {
    let (host, joining, join) = slow_learner().await;
    let begun = Instant::now();
    let id = join.await.unwrap().unwrap();
    // Longer than two stalls: an answered block counts as progress once, and no block is answered
    // during the install.
    assert!(begun.elapsed() > 2 * LEARNER_STALL, "{:?}", begun.elapsed());
    let joined = joining.finish().await.unwrap();
    assert_eq!(joined.node.id(), id);
    host.until("two voters", |status| status.voters.len() == 2)
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_learner_that_receives_nothing_more_is_given_up() {
    let (host, joining, join) = slow_learner().await;
    drop(joining);
    let lost = tokio::time::timeout(DEADLINE, join).await;
    let lost = lost.expect("the request ends").unwrap();
    assert!(
        matches!(lost, Err(MembershipError::Lagging { .. })),
        "{lost:?}"
    );
    assert_eq!(host.status().voters.len(), 1);
    host.commit("after").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn empty_master_is_admitted_only_by_an_operator() {
    let addresses = addresses(4);
    let listed = &addresses[..3];
    let plans = listed.iter().map(|address| HostPlan::new(*address, listed));
    let hosts = form(plans.collect()).await;
    let lead = leader(&hosts).await;
    hosts[lead].commit("secret").await;
    let unlisted = PendingNodeStart::begin(HostPlan::new(addresses[3], &addresses));
    // Long enough for it to have sent several requests and been rejected.
    let deadline = Instant::now() + Duration::from_millis(800);
    while Instant::now() < deadline {
        assert!(!unlisted.is_finished());
        assert!(hosts[lead].status().learners.is_empty());
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let id = join(&hosts[lead], addresses[3]).await;
    let joined = unlisted.finish().await.unwrap();
    assert_eq!(joined.node.id(), id);
    joined
        .until_registry("the registry", |registry| registry.has("secret"))
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn wiped_master_rejoins_only_by_an_operator() {
    let mut hosts = three().await;
    let lead = leader(&hosts).await;
    hosts[lead].commit("before").await;
    let former = hosts.remove((lead + 1) % 3);
    let former_id = former.node.id();
    let plan = HostPlan {
        memory: MemoryStore::default(),
        ..former.kill()
    };
    let address = plan.address.to_string();
    let wiped = PendingNodeStart::begin(plan);
    let lead = leader(&hosts).await;
    hosts[lead].commit("meanwhile").await;
    // Long enough for it to have sent several requests and been rejected: it is in no list.
    let deadline = Instant::now() + Duration::from_millis(800);
    while Instant::now() < deadline {
        assert!(!wiped.is_finished());
        assert!(hosts[lead].status().learners.is_empty());
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let deadline = Instant::now() + DEADLINE;
    while tokio::net::TcpStream::connect(&address).await.is_err() {
        assert!(
            Instant::now() < deadline,
            "the wiped master does not listen"
        );
        tokio::time::sleep(Duration::from_millis(20)).await;
    }

    let id = hosts[1 - lead].node.join(&address).await.unwrap();
    assert_ne!(id, former_id);
    let back = wiped.finish().await.unwrap();
    assert_eq!(back.node.id(), id);
    let status = hosts[lead]
        .until("the exchange", |status| {
            status.voters.iter().any(|(one, _)| *one == id)
        })
        .await;
    assert!(
        status.voters.len() == 3 && status.member(former_id).is_none(),
        "{status:?}"
    );
    hosts.push(back);
    let lead = leader(&hosts).await;
    hosts[lead].commit("after").await;
    assert_eq!(equal(&hosts).await.count(), 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn removal_that_loses_the_quorum_is_refused() {
    let mut hosts = three().await;
    let lead = leader(&hosts).await;
    let dead = (lead + 1) % 3;
    let (dead_id, living_id) = (hosts[dead].node.id(), hosts[(lead + 2) % 3].node.id());
    let lead_id = hosts[lead].node.id();
    wait_for_contact(&hosts[lead]).await;
    hosts.remove(dead).kill();
    let lead = hosts
        .iter()
        .position(|host| host.node.id() == lead_id)
        .unwrap();
    silent(&hosts[lead], dead_id).await;
    let refused = hosts[lead].node.remove(living_id).await;
    assert!(
        matches!(
            refused,
            Err(MembershipError::QuorumLost {
                alive: 1,
                voters: 2,
                ..
            })
        ),
        "{refused:?}"
    );
    hosts[lead].node.remove(dead_id).await.unwrap();
    hosts[lead]
        .until("two voters", |status| status.voters.len() == 2)
        .await;
    hosts[lead].commit("after").await;
    equal(&hosts).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn master_that_does_not_run_cannot_join() {
    let hosts = three().await;
    let lead = leader(&hosts).await;
    let nobody = addresses(1)[0].to_string();
    let refused = hosts[lead].node.join(&nobody).await;
    assert!(
        matches!(refused, Err(MembershipError::Unreachable { address, .. }) if address == nobody)
    );
    let unknown = hosts[lead].node.transfer(Some(77)).await;
    assert_eq!(unknown, Err(MembershipError::UnknownMember(77)));
    let dead = (lead + 1) % 3;
    let dead_id = hosts[dead].node.id();
    let term = hosts[lead].status().term;
    wait_for_contact(&hosts[lead]).await;
    let mut hosts = hosts;
    hosts.remove(dead).kill();
    let lead = leader(&hosts).await;
    silent(&hosts[lead], dead_id).await;
    let refused = hosts[lead].node.transfer(Some(dead_id)).await;
    assert!(
        matches!(refused, Err(MembershipError::NotTransferred { .. })),
        "{refused:?}"
    );
    assert_eq!(hosts[lead].status().term, term);
    hosts[lead].commit("after").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_leader_that_is_replaced_in_between_reports_nothing_about_the_others() {
    let mut hosts = three().await;
    let lead = leader(&hosts).await;
    wait_for_contact(&hosts[lead]).await;
    let dead = hosts.remove((lead + 1) % 3);
    let dead_id = dead.node.id();
    dead.kill();
    let lead = leader(&hosts).await;
    let other_id = hosts[1 - lead].node.id();
    silent(&hosts[lead], dead_id).await;
    let (refused, taken) = tokio::join!(
        hosts[lead].node.transfer(Some(dead_id)),
        hosts[lead].node.transfer(Some(other_id)),
    );
    assert_eq!(taken, Ok(other_id));
    assert_eq!(refused, Err(MembershipError::NoLeader), "ask the next one");
}

#[tokio::test(flavor = "multi_thread")]
async fn leadership_without_a_target_is_transferred_to_a_voter_that_answers() {
    let mut hosts = three().await;
    let lead = leader(&hosts).await;
    hosts[lead].commit("before").await;
    hosts[lead]
        .until_progress("equal logs", |progress| {
            progress.lag.len() == 2 && progress.lag.values().all(|lag| *lag == 0)
        })
        .await;
    wait_for_contact(&hosts[lead]).await;
    // By log and id, the follower with the lowest id comes first.
    let followers = (0..3).filter(|place| *place != lead);
    let dead = followers
        .min_by_key(|place| hosts[*place].node.id())
        .unwrap();
    let dead_id = hosts[dead].node.id();
    hosts.remove(dead).kill();
    let lead = leader(&hosts).await;
    let other_id = hosts[1 - lead].node.id();
    silent(&hosts[lead], dead_id).await;
    let lags = hosts[lead].node.progress().lag;
    assert_eq!(lags.get(&dead_id), Some(&0), "nothing was proposed");
    assert_eq!(hosts[lead].node.transfer(None).await, Ok(other_id));
}

/// Waits until this member has not answered the leader for so long that it counts as dead: silence
/// is the only sign.
async fn silent(leader: &NodeHost, id: u64) {
    let deadline = Instant::now() + DEADLINE;
    let limit = Duration::from_millis(2 * TIMING.election_max_ms);
    loop {
        let members = leader.node.members();
        let heard = members.iter().find(|one| one.id == id).unwrap().acked_ago;
        if heard.is_some_and(|ago| ago > limit) {
            return;
        }
        assert!(Instant::now() < deadline, "{id} still answers");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// Waits until every other member has answered the leader once.
async fn wait_for_contact(leader: &NodeHost) {
    let deadline = Instant::now() + DEADLINE;
    let unheard = || {
        let mut members = leader.node.members().into_iter();
        members.any(|one| !one.is_leader && one.acked_ago.is_none())
    };
    while unheard() {
        assert!(Instant::now() < deadline, "{:?}", leader.node.members());
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// A change may take longer than a service manager lets a master stop.
#[tokio::test(flavor = "multi_thread")]
async fn a_stop_does_not_wait_for_a_change_of_the_group() {
    let hosts = three().await;
    let lead = leader(&hosts).await;
    // It accepts connections, and never answers.
    let silent = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = silent.local_addr().unwrap().to_string();
    for host in [(lead + 1) % 3, lead] {
        let node = hosts[host].node.clone();
        let address = address.clone();
        let joining = tokio::spawn(async move { node.join(&address).await });
        let connection = silent.accept().await.unwrap();
        hosts[host].node.stop().await;
        let ended = joining.await.unwrap();
        assert!(
            matches!(&ended, Err(MembershipError::Unfinished { reason }) if reason.contains("stopping")),
            "{ended:?}"
        );
        drop(connection);
    }
}
