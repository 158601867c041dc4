//! Requests to the HTTP API of agents.

use std::time::Duration;

use argosy_proto::v1;
use axum::http::uri::Authority;
use tonic::Status;

use super::one_agent;
use crate::owner_handle::OwnerHandle;
use crate::reads;

/// Returns a client for requests to agents.
pub(crate) fn client_of_agents() -> reqwest::Client {
    let client = reqwest::Client::builder()
        .no_proxy()
        // Agents speak plain HTTP: a host without CA certificates is no obstacle.
        .tls_certs_only([])
        // A redirect of an agent is not followed.
        .redirect(reqwest::redirect::Policy::none())
        .connect_timeout(Duration::from_secs(2));
    client.build().expect("the settings are constant")
}

/// Returns the API address of the requested agent.
pub(crate) async fn address_of(
    owner: &OwnerHandle,
    request: v1::GetRequest,
) -> Result<String, Status> {
    let id = request.id.clone();
    let agent = reads::detached(one_agent(owner, request)).await?;
    let address = agent.info.unwrap_or_default().address;
    if is_host_and_port(&address) {
        return Ok(address);
    }
    Err(Status::failed_precondition(format!(
        "{id} reports the address {address:?}, which is not host:port"
    )))
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
