//! The formation of groups, and its failures.

use std::net::SocketAddr;
use std::time::Duration;

use argosy_raft::StartError;
use tokio::net::{TcpListener, TcpStream};

use crate::host::{HostPlan, PendingNodeStart, addresses, form, leader, three};

#[tokio::test(flavor = "multi_thread")]
async fn group_forms_only_with_every_listed_master() {
    let addresses = addresses(3);
    let mut starting: Vec<_> = addresses
        .iter()
        .take(2)
        .map(|address| PendingNodeStart::begin(HostPlan::new(*address, &addresses)))
        .collect();
    // Long enough for many rounds of requests: this shows that something does not happen.
    tokio::time::sleep(Duration::from_millis(700)).await;
    assert!(starting.iter().all(|one| !one.is_finished()));
    starting.push(PendingNodeStart::begin(HostPlan::new(
        addresses[2],
        &addresses,
    )));
    let mut hosts = Vec::new();
    for one in starting {
        hosts.push(one.finish().await.unwrap());
    }
    let lead = leader(&hosts).await;
    hosts[lead].commit("first").await;
    let mut ids: Vec<u64> = hosts.iter().map(|host| host.node.id()).collect();
    ids.sort_unstable();
    assert_eq!(ids, [1, 2, 3]);
    assert!(
        hosts
            .iter()
            .all(|host| host.node.cluster_key() == hosts[0].node.cluster_key())
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn unequal_lists_of_masters_are_rejected_and_both_are_reported() {
    let addresses = addresses(3);
    let one = PendingNodeStart::begin(HostPlan::new(addresses[0], &addresses));
    let other = PendingNodeStart::begin(HostPlan::new(addresses[1], &addresses[..2]));
    // Both learn of it, whichever asks first.
    for (starting, own, its) in [(one, 3, 2), (other, 2, 3)] {
        match starting.finish().await {
            Err(StartError::UnequalPeers { ours, theirs, .. }) => {
                assert_eq!((ours.len(), theirs.len()), (own, its));
            }
            other => panic!("not refused: {:?}", other.map(|_| ())),
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_master_outside_its_own_list_and_one_without_a_list_are_refused() {
    let addresses = addresses(3);
    let outside = PendingNodeStart::begin(HostPlan::new(addresses[0], &addresses[1..]))
        .finish()
        .await;
    assert!(matches!(
        outside.map(|_| ()),
        Err(StartError::NotListed { .. })
    ));
    let alone = PendingNodeStart::begin(HostPlan::new(addresses[0], &[]))
        .finish()
        .await;
    assert!(matches!(alone.map(|_| ()), Err(StartError::NoPeers)));
}

#[tokio::test(flavor = "multi_thread")]
async fn bootstrap_is_refused_if_a_group_exists() {
    let hosts = three().await;
    let address = addresses(1)[0];
    let plan = HostPlan {
        bootstrap: true,
        ..HostPlan::new(address, &[hosts[0].plan.address, address])
    };
    let refused = PendingNodeStart::begin(plan).finish().await;
    let Err(StartError::AlreadyFormed { peer }) = refused.map(|_| ()) else {
        panic!("not refused")
    };
    assert_eq!(peer, hosts[0].plan.address.to_string());
}

/// Returns the address of a proxy that delays requests to the master behind it, and its answers.
async fn delayed(master: SocketAddr, request: Duration, answer: Duration) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((client, _)) = listener.accept().await {
            tokio::spawn(async move {
                tokio::time::sleep(request).await;
                let master = TcpStream::connect(master).await.unwrap();
                let (mut from_client, mut to_client) = client.into_split();
                let (mut from_master, mut to_master) = master.into_split();
                let answers = async {
                    tokio::time::sleep(answer).await;
                    tokio::io::copy(&mut from_master, &mut to_client).await
                };
                // Each end closes the connection when it has its answer.
                let requests = tokio::io::copy(&mut from_client, &mut to_master);
                let _ = tokio::join!(requests, answers);
            });
        }
    });
    address
}

#[tokio::test(flavor = "multi_thread")]
async fn bootstrap_is_refused_if_a_group_answers_late() {
    let hosts = three().await;
    let late = Duration::from_millis(1_500);
    let slow = delayed(hosts[0].plan.address, Duration::ZERO, late).await;
    let address = addresses(1)[0];
    let plan = HostPlan {
        bootstrap: true,
        ..HostPlan::new(address, &[slow, address])
    };
    let refused = PendingNodeStart::begin(plan).finish().await;
    let Err(StartError::AlreadyFormed { peer }) = refused.map(|_| ()) else {
        panic!("not refused")
    };
    assert_eq!(peer, slow.to_string());
}

#[tokio::test(flavor = "multi_thread")]
async fn masters_that_are_started_together_with_bootstrap_form_at_most_one_group() {
    let addresses = addresses(3);
    // They ask each other when all of them run.
    let (later, at_once) = (Duration::from_millis(700), Duration::ZERO);
    let mut asked = Vec::new();
    for address in &addresses {
        asked.push(delayed(*address, later, at_once).await);
    }
    let starting = (0..3).map(|own| {
        let mut peers = asked.clone();
        peers[own] = addresses[own];
        PendingNodeStart::begin(HostPlan {
            bootstrap: true,
            ..HostPlan::new(addresses[own], &peers)
        })
    });
    let starting: Vec<_> = starting.collect();
    let mut formed = Vec::new();
    for one in starting {
        match one.finish().await {
            Ok(host) => formed.push(host),
            Err(StartError::AlreadyFormed { .. }) => {}
            Err(other) => panic!("{other}"),
        }
    }
    assert!(formed.len() <= 1, "{} groups", formed.len());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_member_with_another_list_does_not_end_an_empty_master() {
    let mut hosts = three().await;
    let mut plan = hosts.remove(2).kill();
    let empty = addresses(1)[0];
    let joining = PendingNodeStart::begin(HostPlan::new(empty, &[plan.address, empty]));
    while TcpStream::connect(empty).await.is_err() {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let listed = hosts.iter().map(|host| host.plan.address);
    let listed = listed.chain([plan.address, empty]);
    plan.peers = listed.map(|address| address.to_string()).collect();
    // It asks the empty master before it can accept it.
    let back = PendingNodeStart::begin(plan).finish().await.unwrap();
    let joined = joining.finish().await.unwrap();
    assert_eq!(joined.node.cluster_key(), back.node.cluster_key());
}

#[tokio::test(flavor = "multi_thread")]
async fn bootstrap_is_refused_while_a_listed_master_is_silent_but_not_if_it_does_not_run() {
    let addresses = addresses(2);
    let plan = |peer| HostPlan {
        bootstrap: true,
        ..HostPlan::new(addresses[0], &[addresses[0], peer])
    };
    let alone = PendingNodeStart::begin(plan(addresses[1])).finish().await;
    leader(&[alone.unwrap()]).await;
    // It accepts connections, and answers nothing.
    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = silent.local_addr().unwrap();
    let refused = PendingNodeStart::begin(plan(address)).finish().await;
    let Err(refused) = refused.map(|_| ()) else {
        panic!("not refused")
    };
    let text = format!("{address} does not answer");
    assert!(refused.to_string().contains(&text), "{refused}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_directory_of_another_cluster_is_refused() {
    let hosts = three().await;
    let address = addresses(1)[0];
    let other = form(vec![HostPlan {
        bootstrap: true,
        ..HostPlan::new(address, &[])
    }])
    .await
    .remove(0);
    leader(std::slice::from_ref(&other)).await;
    let mut plan = other.kill();
    plan.peers = vec![address.to_string(), hosts[0].plan.address.to_string()];
    // A listed master that does not answer within a heartbeat counts as unreachable: then the start
    // succeeds, and is repeated.
    let refused = loop {
        match PendingNodeStart::begin(plan).finish().await {
            Ok(alone) => plan = alone.kill(),
            Err(refused) => break refused,
        }
    };
    assert!(matches!(refused, StartError::ForeignCluster { .. }));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_formed_master_restarts_without_a_list() {
    let mut hosts = three().await;
    let lead = leader(&hosts).await;
    hosts[lead].commit("before").await;
    let mut plan = hosts.remove((lead + 1) % 3).kill();
    plan.peers.clear();
    let back = PendingNodeStart::begin(plan).finish().await.unwrap();
    back.until_registry("what was committed", |registry| registry.has("before"))
        .await;
}
