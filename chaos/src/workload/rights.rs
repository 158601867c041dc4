//! Changes of rights by tokens, and calls that need a right, each at one master. The rule
//! `AccessEnforcement` compares them.

use argosy_proto::v1::create_token::Purpose;
use argosy_proto::v1::operator_client::OperatorClient;
use argosy_proto::v1::write_operation::Operation as Write;
use argosy_proto::{convert, v1};
use argosy_state::access::{TokenId, TokenSecret};
use sha2::{Digest as _, Sha256};
use tonic::metadata::MetadataValue;
use tonic::transport::Channel;
use tonic::{Code, Request, Status};

use crate::history::{DecidedBy, Operation, OperationResponse, Recorder};
use crate::invariants::DENIED;

/// The agent whose attribute is set. The registers may be attributes of the same agent.
const AGENT: &str = "agent-1";
/// No other process uses the attribute: it is no register, and the history has no writes to it.
pub(crate) const ATTRIBUTE: &str = "probe";

/// Whether a call was refused because of its caller.
pub(crate) fn is_denial(code: Code) -> bool {
    matches!(code, Code::PermissionDenied | Code::Unauthenticated)
}

/// Returns the name of the right that a token gives.
pub(crate) fn token_name(number: u64) -> String {
    format!("token-{number}")
}

/// Returns the secret of a token.
pub(crate) fn token_secret(number: u64) -> TokenSecret {
    let mut secret = [0; 32];
    secret[..8].copy_from_slice(&number.to_be_bytes());
    TokenSecret {
        id: TokenId(number),
        secret,
    }
}

/// Returns the change that creates a token of a principal.
pub(crate) fn creation(number: u64, principal: &str) -> Write {
    let TokenSecret { id, secret } = token_secret(number);
    let hash = Sha256::digest(secret);
    Write::CreateToken(v1::CreateToken {
        token_id: id.to_string(),
        secret_hash: hash.iter().map(|byte| format!("{byte:02x}")).collect(),
        purpose: Some(Purpose::Principal(principal.to_owned())),
        ..Default::default()
    })
}

/// Returns the change that revokes a token.
pub(crate) fn revocation(number: u64) -> Write {
    let token_id = TokenId(number).to_string();
    Write::RevokeToken(v1::RevokeToken { token_id })
}

/// A call that needs a right.
pub(crate) struct RightProbe {
    pub(crate) right: String,
    /// The number of the token with which it is made; `None`: with the certificate alone.
    pub(crate) token: Option<u64>,
    pub(crate) call: ProbeCall,
}

#[derive(Debug, Clone, Copy)]
pub(crate) enum ProbeCall {
    /// Sets the attribute to this value.
    SetAttribute(u64),
    ListAgents(DecidedBy),
}

impl RightProbe {
    /// Makes the call at one master, and records its end. Returns whether it was served; `None` if
    /// it had another end.
    pub(crate) async fn perform(
        self,
        recorder: &Recorder,
        process: &str,
        master: Channel,
    ) -> Option<bool> {
        let decided_by = match self.call {
            ProbeCall::SetAttribute(_) => DecidedBy::Leader,
            ProbeCall::ListAgents(decided_by) => decided_by,
        };
        let right = self.right.clone();
        let call = recorder.invoke(process, Operation::UseRight { right, decided_by });
        match self.send(OperatorClient::new(master)).await {
            Ok(revision) => {
                let revision = convert::revision_from(revision);
                recorder.ok(call, OperationResponse::Done, Some(revision));
                Some(true)
            }
            Err(status) if is_denial(status.code()) => {
                recorder.fail(call, DENIED);
                Some(false)
            }
            Err(status) => {
                recorder.info(call, status.message());
                None
            }
        }
    }

    async fn send(
        &self,
        mut client: OperatorClient<Channel>,
    ) -> Result<Option<v1::Revision>, Status> {
        match self.call {
            ProbeCall::SetAttribute(value) => {
                let operation = Write::SetAttribute(v1::SetAttribute {
                    agent_id: AGENT.to_owned(),
                    name: ATTRIBUTE.to_owned(),
                    value: format!("{value:x}"),
                });
                let batch = v1::WriteBatch {
                    operations: vec![v1::WriteOperation {
                        operation: Some(operation),
                    }],
                    ..Default::default()
                };
                let reply = client.write_one(self.request(batch)?).await?;
                Ok(reply.into_inner().revision)
            }
            ProbeCall::ListAgents(decided_by) => {
                let (consistency, min_revision) = match decided_by {
                    DecidedBy::Leader => (v1::Consistency::Linearizable, 0),
                    DecidedBy::Master { min_index } => (v1::Consistency::Local, min_index),
                };
                let list = v1::ListRequest {
                    page_size: 1,
                    consistency: consistency.into(),
                    min_revision,
                    ..Default::default()
                };
                let page = client.list_agents(self.request(list)?).await?;
                Ok(page.into_inner().revision)
            }
        }
    }

    /// Returns a request with the token.
    fn request<T>(&self, message: T) -> Result<Request<T>, Status> {
        let mut request = Request::new(message);
        if let Some(number) = self.token {
            let value = MetadataValue::try_from(format!("Bearer {}", token_secret(number)));
            let value = value.map_err(|why| Status::internal(why.to_string()))?;
            request.metadata_mut().insert("authorization", value);
        }
        Ok(request)
    }
}
