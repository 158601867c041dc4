//! The log filter of the answering master, or of an agent, which the master calls over HTTP.

use std::time::Duration;

use argosy_proto::log_filter::{self, FilterError};
use argosy_proto::{trace, v1};
use argosy_state::actor::Actor;
use tonic::{Code, Status};

use super::{Services, address_of, client_of_agents};

/// Timeout of an agent's answer.
const AGENT_TIMEOUT: Duration = Duration::from_secs(5);
/// Maximum length of an agent's answer, in bytes.
const ANSWER_BYTES: usize = 64 << 10;

impl Services {
    pub(super) async fn change_log_filter(
        &self,
        request: v1::SetLogFilterRequest,
        actor: &Actor,
    ) -> Result<v1::LogFilter, Status> {
        if !request.agent_id.is_empty() {
            return self.change_filter_of_agent(request, actor).await;
        }
        let changed = log_filter::change(request.filter.as_deref(), &actor.to_string());
        let changed = changed.map_err(|why| refused(&why))?;
        Ok(v1::LogFilter {
            id: format!("master-{}", self.owner.node.id()),
            filter: changed.filter,
            former: changed.former,
        })
    }

    async fn change_filter_of_agent(
        &self,
        request: v1::SetLogFilterRequest,
        actor: &Actor,
    ) -> Result<v1::LogFilter, Status> {
        let id = request.agent_id;
        let wanted = v1::GetRequest {
            id: id.clone(),
            consistency: v1::Consistency::Local.into(),
            ..Default::default()
        };
        let address = address_of(&self.owner, wanted).await?;
        let body = serde_json::json!({ "filter": request.filter, "actor": actor.to_string() });
        let mut asked = client_of_agents()
            .put(format!("http://{address}/v1/log-filter"))
            .timeout(AGENT_TIMEOUT)
            .header("content-type", "application/json")
            .body(body.to_string());
        if let Some(context) = trace::request_header() {
            asked = asked.header(trace::HEADER, context);
        }
        let silent =
            |why: reqwest::Error| Status::unavailable(format!("{id} at {address} fails: {why}"));
        let mut answer = asked.send().await.map_err(silent)?;
        let code = match answer.status().as_u16() {
            200 => Code::Ok,
            400 => Code::InvalidArgument,
            403 => Code::PermissionDenied,
            404 => Code::Unimplemented,
            _ => Code::Unavailable,
        };
        let mut body = Vec::new();
        // The announced length may be missing or wrong.
        while let Some(part) = answer.chunk().await.map_err(silent)? {
            if body.len() + part.len() > ANSWER_BYTES {
                let text = format!("the answer of {id} is longer than {ANSWER_BYTES} bytes");
                return Err(Status::unavailable(text));
            }
            body.extend_from_slice(&part);
        }
        let parsed: serde_json::Value = serde_json::from_slice(&body).unwrap_or_default();
        let field = |name: &str| parsed[name].as_str().unwrap_or_default().to_owned();
        if code != Code::Ok {
            return Err(Status::new(code, format!("{id}: {}", field("message"))));
        }
        Ok(v1::LogFilter {
            filter: field("filter"),
            former: field("former"),
            id,
        })
    }
}

fn refused(why: &FilterError) -> Status {
    let code = match why {
        FilterError::Fixed => Code::FailedPrecondition,
        FilterError::TooLong(_) | FilterError::Malformed { .. } => Code::InvalidArgument,
    };
    Status::new(code, why.to_string())
}
