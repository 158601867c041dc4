//! `argosy.v1.Certificates`: certificates for hosts that join by a token.
//!
//! The leader commits the use of the token, which binds the identity to its key, before it signs.
//! So a repetition after a lost answer, also at another leader, finds the binding.

use std::net::IpAddr;

use argosy_proto::convert::InvalidMessage;
use argosy_proto::transport::PeerIdentity;
use argosy_proto::v1;
use argosy_proto::v1::certificates_client::CertificatesClient;
use argosy_proto::v1::certificates_server::Certificates;
use argosy_state::access::{AccessOperation, TokenId, TokenSecret};
use argosy_state::actor::{Actor, PrincipalKind};
use argosy_state::command::{Operate, OperatorOperation};
use tonic::{Extensions, Request, Response, Status};
use tracing::{info, warn};

use super::bearer::{is_join_token, unproven};
use super::forward::FORWARDED;
use super::{Services, accepted, malformed, refused};
use crate::certificate_issuer::{CertificateIssuer, RequestedCertificate};
use crate::leader::Input;
use crate::leader_reply::LeaderReply;
use crate::principal_limits::LimitReached;

/// Maximum size of a request, in bytes: a certificate request with 64 hosts is a tenth of it.
pub(crate) const CERTIFICATE_REQUEST_BYTES: usize = 64 << 10;

/// The refusal of every token that is not accepted. A caller does not learn which tokens exist.
const REFUSED_TOKEN: &str = "the join token is not accepted: it is unknown, expired, used up, revoked, or for another kind of \
     member; create another one with argosy token create --for agent or --for master";

#[tonic::async_trait]
impl Certificates for Services {
    async fn list_authorities(
        &self,
        _: Request<v1::ListAuthoritiesRequest>,
    ) -> Result<Response<v1::Authorities>, Status> {
        let issuer = self.issuer()?;
        Ok(Response::new(v1::Authorities {
            cluster: issuer.cluster().to_owned(),
            certificates: issuer.authorities(),
        }))
    }

    async fn issue(
        &self,
        mut request: Request<v1::IssueCertificateRequest>,
    ) -> Result<Response<v1::IssuedCertificate>, Status> {
        let peer = request.extensions().get::<PeerIdentity>().cloned();
        let is_forwarded = request.metadata().contains_key(FORWARDED);
        if !(is_forwarded && is_master(request.extensions())) {
            let admitted = self.join_rates.admit(peer.as_ref());
            admitted.map_err(LimitReached::refuse)?;
            let address = peer.as_ref().and_then(PeerIdentity::address);
            let address = address.map(|address| address.ip().to_canonical().to_string());
            request.get_mut().joining_address = address.unwrap_or_default();
        }
        let local = |request, _| self.issue_here(request);
        self.route(request, local, |channel, request| async move {
            CertificatesClient::new(channel).issue(request).await
        })
        .await
    }
}

fn is_master(extensions: &Extensions) -> bool {
    let peer = extensions.get::<PeerIdentity>();
    let principal = peer.and_then(PeerIdentity::principal);
    principal.is_some_and(|one| one.kind == PrincipalKind::Master)
}

impl Services {
    fn issuer(&self) -> Result<&CertificateIssuer, Status> {
        let text = "this master issues no certificates: start all masters with --ca-key, or sign the request with argosy ca sign";
        self.issuer
            .as_ref()
            .ok_or_else(|| refused("no-authority", text))
    }

    /// Issues a certificate at the leader.
    async fn issue_here(
        &self,
        request: v1::IssueCertificateRequest,
    ) -> Result<v1::IssuedCertificate, Status> {
        let issuer = self.issuer()?;
        let parsed = request.token.parse::<TokenSecret>();
        let secret = parsed.map_err(|_| unproven(REFUSED_TOKEN))?;
        // Before anything else is read: only the holder of a token may cause more work.
        if !is_join_token(&self.owner, &secret).await? {
            return Err(unproven(REFUSED_TOKEN));
        }
        let invalid = |text: String| malformed(&InvalidMessage::new("request", text));
        let (wanted, sign) = issuer.read(&request.request).map_err(invalid)?;
        check_hosts(&wanted, &request.joining_address).map_err(invalid)?;
        self.bind(secret.id, &wanted).await?;
        let certificate = sign().map_err(|why| {
            warn!(principal = %wanted.principal, why, "cannot issue a certificate");
            refused("internal", &format!("cannot sign the certificate: {why}"))
        })?;
        let (principal, token) = (&wanted.principal, secret.id);
        let address = &request.joining_address;
        info!(%principal, %token, key = %wanted.key, address, "issued a certificate");
        Ok(v1::IssuedCertificate { certificate })
    }

    /// Commits the use of a token, unless the identity is bound to the same key already.
    async fn bind(&self, token: TokenId, wanted: &RequestedCertificate) -> Result<(), Status> {
        let operation = AccessOperation::UseJoinToken {
            token,
            principal: wanted.principal.clone(),
            key: wanted.key,
        };
        let operate = Operate {
            request: None,
            hash: 0,
            operations: vec![OperatorOperation::Access(operation)],
            wall_ms: self.owner.node.wall_clock().now_ms(),
        };
        // The host has no identity that could be the actor: its token is the permission.
        let asked = self.owner.ask(move |request| Input::Operate {
            request,
            actor: Actor::Cluster,
            operate,
        });
        let LeaderReply::Operated { outcomes, .. } = accepted(asked.await?)? else {
            return Err(refused("internal", "an answer of another kind"));
        };
        match outcomes.into_iter().next() {
            Some(Ok(())) => Ok(()),
            Some(Err((code @ ("unknown-token" | "token-refused"), why))) => {
                info!(%token, principal = %wanted.principal, code, why, "refused a join token");
                Err(unproven(REFUSED_TOKEN))
            }
            Some(Err((code @ ("key-bound" | "key-revoked" | "agent-bound"), why))) => {
                info!(%token, principal = %wanted.principal, code, why, "refused a host that joins");
                Err(refused(code, &why))
            }
            Some(Err((code, why))) => Err(refused(code, &why)),
            None => Err(refused("internal", "an answer without an outcome")),
        }
    }
}

/// Checks the hosts in a request. Clients such as browsers trust a certificate for the names in it,
/// so that of an agent must not have the name of another host. A master is trusted as all masters.
fn check_hosts(wanted: &RequestedCertificate, joining_address: &str) -> Result<(), String> {
    if wanted.principal.kind == PrincipalKind::Master {
        return Ok(());
    }
    let address = |text: &str| text.parse::<IpAddr>().ok().map(|ip| ip.to_canonical());
    let own = address(joining_address);
    let is_foreign = |host: &&String| own.is_none() || address(host) != own;
    match wanted.hosts.iter().find(is_foreign) {
        None => Ok(()),
        Some(host) => Err(format!(
            "a certificate by a token may name only the address from which the host joins, {joining_address:?}, and not {host:?}: omit it, or sign the request with argosy ca sign"
        )),
    }
}

#[cfg(test)]
mod tests {
    use argosy_state::access::KeyHash;

    use super::*;

    fn wanted(principal: &str, hosts: &[&str]) -> RequestedCertificate {
        RequestedCertificate {
            principal: principal.parse().unwrap(),
            key: KeyHash([1; 32]),
            hosts: hosts.iter().map(|host| (*host).to_owned()).collect(),
        }
    }

    #[test]
    fn an_agent_may_name_only_the_address_from_which_it_joins() {
        let check = |hosts: &[&str], address| check_hosts(&wanted("agent/a7", hosts), address);
        assert_eq!(check(&[], ""), Ok(()));
        assert_eq!(check(&["10.0.0.7"], "10.0.0.7"), Ok(()));
        assert_eq!(check(&["::ffff:10.0.0.7"], "10.0.0.7"), Ok(()));
        for (hosts, address) in [
            (&["10.0.0.8"][..], "10.0.0.7"),
            (&["10.0.0.7", "m1.example"], "10.0.0.7"),
            (&["m1.example"], "m1.example"),
            (&["10.0.0.7"], ""),
        ] {
            let refused = check(hosts, address).unwrap_err();
            assert!(refused.contains("argosy ca sign"), "{refused}");
        }
        let master = wanted("master/m4", &["m4.example"]);
        assert_eq!(check_hosts(&master, "10.0.0.7"), Ok(()));
    }
}
