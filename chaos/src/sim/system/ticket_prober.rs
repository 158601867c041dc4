//! Requests to agents with tickets: one for the path of a ticket, and one for another path.

use std::time::Duration;

use argosy_proto::http_client::HttpClient;
use argosy_proto::ticket::PARAMETER;
use argosy_proto::transport::{Dialer, ExpectedPeer};
use argosy_proto::v1;
use argosy_proto::v1::operator_client::OperatorClient;
use tonic::transport::Channel;

use super::world::World;
use crate::history::{DecidedBy, Operation, OperationResponse};
use crate::invariants::DENIED;

/// Timeout of a request, with its connection.
const TIMEOUT: Duration = Duration::from_secs(1);
/// The task whose files are requested. It need not exist: agents check tickets first.
const FRAMEWORK: &str = "framework-1";
const TASK: &str = "t1";
/// The path of each ticket, and another one.
const PATH: &str = "out";
const OTHER_PATH: &str = "key";
/// Maximum size of an answer.
const ANSWER_BYTES: usize = 64 << 10;
const FORBIDDEN: u16 = 403;

/// A ticket of a master, and its use.
pub(super) struct TicketProbe {
    pub(super) world: World,
    /// The process that makes the requests, and its connections.
    pub(super) name: &'static str,
    pub(super) dialer: Dialer,
    /// The number of the ticket.
    pub(super) number: u64,
    pub(super) agent: String,
}

impl TicketProbe {
    /// Gets a ticket of one master and uses it, and records the end of each request. Returns `None`
    /// if the master issues none.
    pub(super) async fn run(self, master: Channel) -> Option<()> {
        let target = v1::TicketTarget {
            framework_id: FRAMEWORK.to_owned(),
            task_id: TASK.to_owned(),
            path: PATH.to_owned(),
        };
        let wanted = v1::IssueTicketsRequest {
            agent_id: self.agent.clone(),
            verb: v1::TicketVerb::ReadFiles.into(),
            targets: vec![target],
            valid_ms: 0,
        };
        let issued = OperatorClient::new(master).issue_tickets(wanted).await;
        let issued = issued.ok()?.into_inner();
        let ticket = issued.tickets.first()?;
        for (path, is_allowed) in [(PATH, true), (OTHER_PATH, false)] {
            let right = format!("ticket-{} for {path}", self.number);
            let recorder = &self.world.notes.recorder;
            let given = Operation::SetRight {
                right: right.clone(),
                is_allowed,
            };
            let call = recorder.invoke(self.name, given);
            recorder.ok(call, OperationResponse::Done, None);
            self.request(right, path, ticket, &issued.agent_address)
                .await;
        }
        Some(())
    }

    /// Requests a path from the agent, and records the end.
    async fn request(&self, right: String, path: &str, ticket: &str, address: &str) {
        let recorder = &self.world.notes.recorder;
        let decided_by = DecidedBy::Leader;
        let call = recorder.invoke(self.name, Operation::UseRight { right, decided_by });
        let uri = format!(
            "/v1/files/read?path=tasks/{FRAMEWORK}/{TASK}/{path}&offset=0&{PARAMETER}={ticket}"
        );
        let client = HttpClient::new(self.dialer.clone(), TIMEOUT);
        let expected = ExpectedPeer::AGENT;
        let answered = client.get(address, &expected, &uri, ANSWER_BYTES);
        match tokio::time::timeout(TIMEOUT, answered).await {
            // After a jump of a clock, the ticket is not valid at all.
            Ok(Ok((FORBIDDEN, _))) if path == PATH => {
                recorder.info(call, "the agent refused the ticket");
            }
            Ok(Ok((FORBIDDEN, _))) => recorder.fail(call, DENIED),
            // There is no such file, or there is: the ticket was accepted.
            Ok(Ok((200 | 400 | 404, _))) => {
                self.world.notes.count("tickets accepted");
                recorder.ok(call, OperationResponse::Done, None);
            }
            Ok(Ok((status, _))) => recorder.info(call, format!("status {status}")),
            Ok(Err(why)) => recorder.info(call, why.to_string()),
            Err(_) => recorder.info(call, "no answer in time"),
        }
    }
}
