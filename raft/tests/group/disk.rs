//! Groups whose masters keep their data on disk.

use std::path::Path;

use argosy_raft::StartError;

use crate::host::{HostPlan, NodeHost, PendingNodeStart, addresses, equal, form, leader};

fn on_disk(plan: HostPlan, directory: &Path) -> HostPlan {
    let name = plan.address.port().to_string();
    HostPlan {
        directory: Some(directory.join(name)),
        ..plan
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn group_on_disk_restarts_after_a_full_stop() {
    let place = tempfile::tempdir().unwrap();
    let addresses = addresses(3);
    let plan = |address| on_disk(HostPlan::new(address, &addresses), place.path());
    let mut hosts = form(addresses.iter().copied().map(plan).collect()).await;
    let lead = leader(&hosts).await;
    for number in 0..50 {
        hosts[lead].commit(&format!("command-{number}")).await;
    }
    let locked = PendingNodeStart::begin(HostPlan {
        address: self::addresses(1)[0],
        ..hosts[0].plan.clone()
    });
    assert!(matches!(
        locked.finish().await.map(|_| ()),
        Err(StartError::Open(_))
    ));
    let ids: Vec<u64> = hosts.iter().map(|host| host.node.id()).collect();
    for host in &hosts {
        host.node.stop().await;
    }
    let plans: Vec<HostPlan> = hosts.drain(..).map(NodeHost::kill).collect();
    for plan in plans {
        hosts.push(PendingNodeStart::begin(plan).finish().await.unwrap());
    }
    assert_eq!(
        hosts.iter().map(|host| host.node.id()).collect::<Vec<_>>(),
        ids
    );
    let lead = leader(&hosts).await;
    hosts[lead].commit("after").await;
    assert_eq!(equal(&hosts).await.count(), 51);
}
