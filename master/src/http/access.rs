//! The facts of access as JSON.

use argosy_proto::v1;
use argosy_proto::v1::operator_server::Operator as _;
use argosy_proto::v1::write_operation::Operation;
use axum::extract::State;
use axum::response::Response;

use super::caller::RequestPeer;
use super::parameters::{PathSegments, QueryParameters};
use super::writes::{Change, JsonBody};
use super::{HistoryFilter, Http, answer, json, list, problem};

pub(super) async fn policy(
    State(http): State<Http>,
    caller: RequestPeer,
    parameters: QueryParameters,
) -> Response {
    let request = || {
        parameters.only(&["consistency", "min_revision"])?;
        Ok(v1::GetPolicyRequest {
            consistency: parameters.consistency()?,
            min_revision: parameters.number("min_revision")?.unwrap_or_default(),
        })
    };
    match request() {
        Ok(request) => json(answer(
            http.services.get_policy(caller.request(request)).await,
        )),
        Err(status) => problem(&status),
    }
}

pub(super) async fn set_policy(
    State(http): State<Http>,
    change: Change,
    JsonBody(set): JsonBody<v1::SetPolicy>,
) -> Response {
    change.operate(http, Operation::SetPolicy(set)).await
}

pub(super) async fn tokens(
    State(http): State<Http>,
    caller: RequestPeer,
    parameters: QueryParameters,
) -> Response {
    match list(parameters, HistoryFilter::Excluded) {
        Ok(request) => json(answer(
            http.services.list_tokens(caller.request(request)).await,
        )),
        Err(status) => problem(&status),
    }
}

pub(super) async fn create_token(
    State(http): State<Http>,
    change: Change,
    JsonBody(create): JsonBody<v1::CreateToken>,
) -> Response {
    change.operate(http, Operation::CreateToken(create)).await
}

pub(super) async fn revoke_token(
    State(http): State<Http>,
    PathSegments(token_id): PathSegments<String>,
    change: Change,
) -> Response {
    let revoke = v1::RevokeToken { token_id };
    change.operate(http, Operation::RevokeToken(revoke)).await
}

pub(super) async fn revoked_keys(
    State(http): State<Http>,
    caller: RequestPeer,
    parameters: QueryParameters,
) -> Response {
    match list(parameters, HistoryFilter::Excluded) {
        Ok(request) => json(answer(
            http.services
                .list_revoked_keys(caller.request(request))
                .await,
        )),
        Err(status) => problem(&status),
    }
}

pub(super) async fn revoke_key(
    State(http): State<Http>,
    PathSegments(key_hash): PathSegments<String>,
    change: Change,
) -> Response {
    let revoke = v1::RevokeKey { key_hash };
    change.operate(http, Operation::RevokeKey(revoke)).await
}

pub(super) async fn rate_limits(
    State(http): State<Http>,
    caller: RequestPeer,
    parameters: QueryParameters,
) -> Response {
    match list(parameters, HistoryFilter::Excluded) {
        Ok(request) => json(answer(
            http.services
                .list_rate_limits(caller.request(request))
                .await,
        )),
        Err(status) => problem(&status),
    }
}

pub(super) async fn set_rate_limit(
    State(http): State<Http>,
    change: Change,
    JsonBody(set): JsonBody<v1::SetRateLimit>,
) -> Response {
    change.operate(http, Operation::SetRateLimit(set)).await
}
