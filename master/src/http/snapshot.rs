//! A copy of the registry as a file.

use argosy_proto::v1;
use axum::body::Body;
use axum::extract::State;
use axum::http::header;
use axum::response::{IntoResponse, Response};
use futures::StreamExt as _;

use super::caller::RequestPeer;
use super::parameters::QueryParameters;
use super::{Http, problem};

/// `GET /v1/snapshot`. An answer that breaks off is incomplete: the file ends with its checksum.
pub(super) async fn save(
    State(http): State<Http>,
    caller: RequestPeer,
    parameters: QueryParameters,
) -> Response {
    let request = parameters
        .only(&["consistency"])
        .and_then(|()| parameters.consistency())
        .map(|consistency| v1::SaveSnapshotRequest { consistency });
    let begun = match request {
        Ok(request) => http.services.begin_save(caller.request(request)).await,
        Err(status) => Err(status),
    };
    match begun {
        Ok(blocks) => {
            let headers = [
                (header::CONTENT_TYPE, "application/octet-stream"),
                (header::CACHE_CONTROL, "no-store"),
            ];
            let bytes = blocks.map(|block| block.map(|block| block.data));
            (headers, Body::from_stream(bytes)).into_response()
        }
        Err(status) => problem(&status),
    }
}
