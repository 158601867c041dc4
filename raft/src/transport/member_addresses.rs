//! The addresses of the members, as the membership has them now. The clients of openraft follow
//! them, and connections to addresses that leave the group are closed.

use std::collections::BTreeMap;

use openraft::async_runtime::WatchReceiver as _;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::connections::Peers;
use crate::state_machine::Consensus;

/// The Raft addresses of the members by id.
pub(crate) type MemberAddresses = BTreeMap<u64, String>;

/// Publishes the addresses of the members, and closes the shared connections to each address that
/// leaves the group, until the node stops. The master behind it may keep them open, and a host
/// without power ends nothing.
pub(crate) async fn follow_members(
    raft: Consensus,
    peers: Peers,
    addresses: watch::Sender<MemberAddresses>,
    stop: CancellationToken,
) {
    let mut metrics = raft.server_metrics();
    loop {
        let members: MemberAddresses = {
            let metrics = metrics.borrow_watched();
            let members = metrics.membership_config.nodes();
            members
                .map(|(id, member)| (*id, member.raft_address.clone()))
                .collect()
        };
        let known = addresses.send_replace(members.clone());
        let has_left = |address: &&String| !members.values().any(|member| member == *address);
        let former = known.values().filter(has_left);
        former.for_each(|address| peers.close(address));
        match stop.run_until_cancelled(metrics.changed()).await {
            Some(Ok(())) => {}
            // Consensus or the node has stopped.
            Some(Err(_)) | None => return,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::Duration;

    use argosy_proto::transport::PeerIdentity;
    use tokio::io::copy_bidirectional;
    use tokio::net::{TcpListener, TcpStream};

    use crate::port::tests::TestPort;

    /// Longer than any step here takes on a busy machine.
    const TIMEOUT: Duration = Duration::from_secs(60);

    /// An address whose connections are forwarded and counted.
    struct Relay {
        address: String,
        /// Each open connection has a clone.
        open: Arc<()>,
    }

    impl Relay {
        async fn to(target: String) -> Relay {
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let address = listener.local_addr().unwrap().to_string();
            let open = Arc::new(());
            let counted = open.clone();
            tokio::spawn(async move {
                while let Ok((mut near, _)) = listener.accept().await {
                    let (target, counted) = (target.clone(), counted.clone());
                    tokio::spawn(async move {
                        let mut far = TcpStream::connect(target).await.unwrap();
                        // A reset end has ended, too.
                        copy_bidirectional(&mut near, &mut far).await.ok();
                        drop(counted);
                    });
                }
            });
            Relay { address, open }
        }

        /// Returns the number of open connections.
        fn open(&self) -> usize {
            // This end and the listener have one each.
            Arc::strong_count(&self.open) - 2
        }
    }

    #[tokio::test]
    async fn a_leader_closes_its_connections_to_a_removed_member() {
        let leader = TestPort::start().await;
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let relay = Relay::to(listener.local_addr().unwrap().to_string()).await;
        let anyone = PeerIdentity::unauthenticated(None);
        let peers = vec![leader.address.clone(), relay.address.clone()];
        let joining = TestPort::start_at(listener, relay.address.clone(), peers, anyone);
        let joining = tokio::spawn(joining);
        let id = leader.node.join(&relay.address).await.unwrap();
        let joined = joining.await.unwrap();
        assert_eq!(joined.node.id(), id);
        assert!(relay.open() > 0, "the leader replicates to it");
        leader.node.remove(id).await.unwrap();
        let closed = async {
            while relay.open() > 0 {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        let closed = tokio::time::timeout(TIMEOUT, closed).await;
        assert!(closed.is_ok(), "{} connections stay open", relay.open());
    }
}
