//! A server of a few of the operator's calls, whose answers a test chooses.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};

use argosy_proto::v1;
use argosy_proto::v1::operator_server::{Operator, OperatorServer};
use futures::stream::Empty;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tonic::transport::Server;
use tonic::transport::server::TcpIncoming;
use tonic::{Request, Response, Status, Streaming};

/// The server. Dropping it ends it.
pub(super) struct FakeMaster {
    address: String,
    answers: Arc<Mutex<FakeAnswers>>,
    task: JoinHandle<()>,
}

/// The answers of each call, in turn. The last one is repeated.
#[derive(Default)]
struct FakeAnswers {
    clusters: VecDeque<v1::Cluster>,
    /// Tokens of pages with one record each.
    tokens: VecDeque<String>,
    pages: u64,
}

struct FakeService(Arc<Mutex<FakeAnswers>>);

fn next_of<T: Clone>(answers: &mut VecDeque<T>) -> Result<T, Status> {
    let answer = match answers.len() {
        0 | 1 => answers.front().cloned(),
        _ => answers.pop_front(),
    };
    answer.ok_or_else(|| Status::unimplemented("the test has no answer"))
}

impl FakeMaster {
    /// Starts a master on a loopback port.
    pub(super) async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let answers = Arc::default();
        let service = OperatorServer::new(FakeService(Arc::clone(&answers)));
        let served = Server::builder()
            .add_service(service)
            .serve_with_incoming(TcpIncoming::from(listener));
        let task = tokio::spawn(async { served.await.unwrap() });
        Self {
            address,
            answers,
            task,
        }
    }

    pub(super) fn address(&self) -> &str {
        &self.address
    }

    /// Reports these states of the cluster from now on.
    pub(super) fn report(&self, clusters: impl IntoIterator<Item = v1::Cluster>) {
        self.answers.lock().unwrap().clusters = clusters.into_iter().collect();
    }

    /// Sends pages of agents with these tokens from now on.
    pub(super) fn send_pages(&self, tokens: &[&str]) {
        let mut answers = self.answers.lock().unwrap();
        answers.tokens = tokens.iter().map(|token| (*token).to_owned()).collect();
        answers.pages = 0;
    }
}

impl Drop for FakeMaster {
    fn drop(&mut self) {
        self.task.abort();
    }
}

macro_rules! serve {
    ($($unsupported:ident($request:ident) -> $reply:ident;)*) => {
        #[tonic::async_trait]
        impl Operator for FakeService {
            type WriteStream = Empty<Result<v1::WriteReply, Status>>;
            type WatchStream = Empty<Result<v1::WatchEvent, Status>>;
            type SaveSnapshotStream = Empty<Result<v1::SnapshotBlock, Status>>;

            async fn get_cluster(
                &self,
                _: Request<v1::GetClusterRequest>,
            ) -> Result<Response<v1::Cluster>, Status> {
                let mut answers = self.0.lock().unwrap();
                next_of(&mut answers.clusters).map(Response::new)
            }

            async fn list_agents(
                &self,
                _: Request<v1::ListRequest>,
            ) -> Result<Response<v1::AgentPage>, Status> {
                let mut answers = self.0.lock().unwrap();
                answers.pages += 1;
                let (index, position) = (answers.pages, 0);
                // Without tokens, the list is empty.
                let next_page_token = next_of(&mut answers.tokens).unwrap_or_default();
                Ok(Response::new(v1::AgentPage {
                    agents: vec![v1::Agent::default()],
                    next_page_token,
                    revision: Some(v1::Revision { index, position }),
                }))
            }

            async fn write(
                &self,
                _: Request<Streaming<v1::WriteBatch>>,
            ) -> Result<Response<Self::WriteStream>, Status> {
                Err(Status::unimplemented("no test writes"))
            }

            async fn watch(
                &self,
                _: Request<v1::WatchRequest>,
            ) -> Result<Response<Self::WatchStream>, Status> {
                Err(Status::unimplemented("no test watches"))
            }

            async fn save_snapshot(
                &self,
                _: Request<v1::SaveSnapshotRequest>,
            ) -> Result<Response<Self::SaveSnapshotStream>, Status> {
                Err(Status::unimplemented("no test saves"))
            }

            $(async fn $unsupported(
                &self,
                _: Request<v1::$request>,
            ) -> Result<Response<v1::$reply>, Status> {
                Err(Status::unimplemented("no test makes this call"))
            })*
        }
    };
}

serve! {
    write_one(WriteBatch) -> WriteReply;
    get_agent(GetRequest) -> Agent;
    list_frameworks(ListRequest) -> FrameworkPage;
    get_framework(GetRequest) -> Framework;
    list_tasks(ListRequest) -> TaskPage;
    get_task(GetRequest) -> Task;
    list_offers(ListRequest) -> OfferPage;
    list_secrets(ListSecretsRequest) -> SecretList;
    explain(ExplainRequest) -> Explanation;
    join_master(JoinMasterRequest) -> MembershipReply;
    remove_master(RemoveMasterRequest) -> MembershipReply;
    transfer_leader(TransferLeaderRequest) -> MembershipReply;
    raise_level(RaiseLevelRequest) -> RaiseLevelReply;
    set_log_filter(SetLogFilterRequest) -> LogFilter;
    get_policy(GetPolicyRequest) -> Policy;
    list_tokens(ListRequest) -> TokenPage;
    list_revoked_keys(ListRequest) -> RevokedKeyPage;
    list_rate_limits(ListRequest) -> SubjectLimitPage;
    issue_tickets(IssueTicketsRequest) -> IssuedTickets;
}
