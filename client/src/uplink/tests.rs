//! Tests of masters that refer an agent to the leader, and of a leader that an agent cannot reach.

use std::pin::Pin;
use std::sync::Mutex;

use argosy_proto::v1::agents_server::{Agents, AgentsServer};
use tokio::net::TcpListener;
use tokio_stream::wrappers::TcpListenerStream;
use tokio_stream::{Stream, pending};
use tokio_util::task::AbortOnDropHandle;
use tonic::Response;

use super::*;
use crate::connector::ConnectorConfig;

const STEP_TIMEOUT: Duration = Duration::from_secs(20);

/// A master that opens streams, or refers clients that request it to the leader.
struct ReferringMaster {
    address: String,
    /// For each requested stream: whether it asked for a referral.
    referrals: Arc<Mutex<Vec<bool>>>,
    _task: AbortOnDropHandle<()>,
}

struct ReferringService {
    leader: Option<String>,
    referrals: Arc<Mutex<Vec<bool>>>,
}

#[tonic::async_trait]
impl Agents for ReferringService {
    type ConnectStream = Pin<Box<dyn Stream<Item = Result<v1::ToAgent, Status>> + Send>>;

    async fn connect(
        &self,
        request: Request<Streaming<v1::FromAgent>>,
    ) -> Result<Response<Self::ConnectStream>, Status> {
        let refers = request.metadata().contains_key(REFER);
        self.referrals.lock().unwrap().push(refers);
        let Some(leader) = self.leader.as_ref().filter(|_| refers) else {
            return Ok(Response::new(Box::pin(pending())));
        };
        let mut status = Status::unavailable("another master leads");
        let leader = leader.parse().unwrap();
        status.metadata_mut().insert(LEADER_HEADER, leader);
        Err(status)
    }
}

impl ReferringMaster {
    async fn start(leader: Option<&str>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let asked = Arc::default();
        let service = ReferringService {
            leader: leader.map(str::to_owned),
            referrals: Arc::clone(&asked),
        };
        let task = tokio::spawn(async move {
            let server =
                tonic::transport::Server::builder().add_service(AgentsServer::new(service));
            let streams = TcpListenerStream::new(listener);
            server.serve_with_incoming(streams).await.unwrap();
        });
        Self {
            address,
            referrals: asked,
            _task: AbortOnDropHandle::new(task),
        }
    }

    fn referrals(&self) -> Vec<bool> {
        self.referrals.lock().unwrap().clone()
    }
}

/// Returns the address at which an agent that lists one master gets its stream.
async fn connected(listed: &ReferringMaster) -> String {
    let masters = listed.address.parse().unwrap();
    let uplink = AgentUplink::new(Connector::new(masters, ConnectorConfig::default()));
    let link = uplink.connect(v1::Hello::default(), STEP_TIMEOUT).await;
    link.unwrap().address
}

#[tokio::test]
async fn an_agent_connects_to_the_leader_that_a_master_names() {
    let leader = ReferringMaster::start(None).await;
    let follower = ReferringMaster::start(Some(&leader.address)).await;
    assert_eq!(connected(&follower).await, leader.address);
    assert_eq!(follower.referrals(), [true]);
    assert_eq!(leader.referrals().len(), 1);
}

#[tokio::test]
async fn the_stream_of_an_agent_that_cannot_reach_the_leader_is_forwarded() {
    let nobody = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = nobody.local_addr().unwrap().to_string();
    drop(nobody);
    let follower = ReferringMaster::start(Some(&address)).await;
    assert_eq!(connected(&follower).await, follower.address);
    assert_eq!(follower.referrals(), [true, false]);
}
