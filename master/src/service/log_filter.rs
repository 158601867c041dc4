//! The log filter of the answering master, or of an agent, which the master calls over HTTP.

use std::time::Duration;

use argosy_proto::log_filter::{self, FilterError};
use argosy_proto::{trace, v1};
use argosy_state::actor::Actor;
use axum::body::Body;
use axum::http::Request;
use tonic::{Code, Status};

use super::{AgentEndpoint, Services, endpoint_of, in_status};

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
        let AgentEndpoint { address, expected } = endpoint_of(&self.owner, wanted).await?;
        let body = serde_json::json!({ "filter": request.filter, "actor": actor.to_string() });
        let mut asked = Request::put("/v1/log-filter").header("content-type", "application/json");
        if let Some(context) = trace::request_header() {
            asked = asked.header(trace::HEADER, context);
        }
        let fails = |why: &dyn std::fmt::Display| {
            Status::unavailable(format!("{id} at {address} fails: {why}"))
        };
        let asked = asked.body(Body::from(body.to_string()));
        let asked = asked.map_err(|why| fails(&why))?;
        let asking = async {
            let answer = self.agents.send(&address, &expected, asked).await;
            let (answered, body) = answer.map_err(|why| fails(&why))?.into_parts();
            // The announced length may be missing or wrong.
            let body = axum::body::to_bytes(body, ANSWER_BYTES).await;
            Ok::<_, Status>((answered.status, body.map_err(|why| fails(&why))?))
        };
        let asked = tokio::time::timeout(AGENT_TIMEOUT, asking).await;
        let late = |_| Err(fails(&"no answer in time"));
        let (status, body) = asked.unwrap_or_else(late)?;
        let code = match status.as_u16() {
            200 => Code::Ok,
            400 => Code::InvalidArgument,
            403 => Code::PermissionDenied,
            404 => Code::Unimplemented,
            _ => Code::Unavailable,
        };
        let parsed: serde_json::Value = serde_json::from_slice(&body).unwrap_or_default();
        let field = |name: &str| parsed[name].as_str().unwrap_or_default().to_owned();
        if code != Code::Ok {
            let message = format!("{id}: {}", field("message"));
            return Err(Status::new(code, in_status(&message)));
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
