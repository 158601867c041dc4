//! Requests to the HTTP API of agents.

use std::time::Duration;

use argosy_proto::http_client::HttpClient;
use argosy_proto::transport::{Dialer, ExpectedPeer};
use argosy_proto::v1;
use argosy_state::actor::PrincipalKind;
use argosy_state::ids::AgentId;
use axum::http::uri::Authority;
use tonic::Status;

use super::one_agent;
use crate::access::Reader;
use crate::owner_handle::OwnerHandle;
use crate::reads;

/// The timeout for opening a connection to an agent.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);

/// The API of an agent, and the agent that must be there.
#[derive(Debug)]
pub(crate) struct AgentEndpoint {
    /// `host:port`, as the agent reports it.
    pub(crate) address: String,
    /// The principal that registered the agent; any agent, if it proved none. The address alone
    /// could be that of another agent, whose tasks the caller must not reach.
    pub(crate) expected: ExpectedPeer,
}

/// Returns a client for requests to agents.
pub(crate) fn client_of_agents(dialer: Dialer) -> HttpClient {
    HttpClient::new(dialer, CONNECT_TIMEOUT)
}

/// Returns the API of the requested agent, whatever its caller may see.
pub(crate) async fn endpoint_of(
    owner: &OwnerHandle,
    request: v1::GetRequest,
) -> Result<AgentEndpoint, Status> {
    let id = request.id.clone();
    let agent = reads::detached(one_agent(owner, Reader::Unrestricted, request)).await?;
    let address = agent.info.unwrap_or_default().address;
    if !is_host_and_port(&address) {
        return Err(Status::failed_precondition(format!(
            "{id} reports the address {address:?}, which is not host:port"
        )));
    }
    let known: Option<AgentId> = id.parse().ok();
    let principal = owner.query(move |facts| {
        let agent = facts.registry.agent(known?)?;
        agent.principal.as_ref().map(|one| one.name.clone())
    });
    let expected = ExpectedPeer {
        kind: PrincipalKind::Agent,
        name: principal.await?,
    };
    Ok(AgentEndpoint { address, expected })
}

/// Returns whether an agent's reported address is a host and a port and nothing else.
pub(crate) fn is_host_and_port(address: &str) -> bool {
    let authority = address.parse::<Authority>();
    authority.is_ok_and(|place| !address.contains('@') && place.port_u16().is_some())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn agent_address_cannot_redirect_file_requests() {
        for good in ["127.0.0.1:5051", "agent-7.example:5051", "[::1]:5051"] {
            assert!(is_host_and_port(good), "{good}");
        }
        for bad in [
            "",
            "host",
            "host:1/admin?x=",
            "a@host:1",
            "host:1#",
            "http://host:1",
            "host:99999",
        ] {
            assert!(!is_host_and_port(bad), "{bad}");
        }
    }
}
