//! The queries of requests for JSON, for fuzz targets.

use argosy_proto::v1;
use axum::http::{HeaderMap, Request};

use super::parameters::QueryParameters;
use super::{HistoryFilter, events, explain_request, list, one};

/// Returns whether the query of a request of this kind is accepted.
pub(crate) fn is_request(kind: u8, query: &str) -> bool {
    let Ok(request) = Request::get(format!("/?{query}")).body(()) else {
        return false;
    };
    let (parts, ()) = request.into_parts();
    let Ok(parameters) = QueryParameters::read(&parts) else {
        return false;
    };
    match kind {
        0 => one("agent-1".to_owned(), &parameters).is_ok(),
        1 => list(parameters, HistoryFilter::Included).is_ok_and(|request| is_exact(&request)),
        2 => list(parameters, HistoryFilter::Excluded).is_ok_and(|request| is_exact(&request)),
        3 => explain_request("framework-1".to_owned(), &parameters).is_ok(),
        4 => events::request(&HeaderMap::new(), parameters).is_ok(),
        _ => false,
    }
}

/// Whether a request has one of the known consistencies, and no control parameter as a field.
fn is_exact(request: &v1::ListRequest) -> bool {
    let control = ["consistency", "page_size", "min_revision", "page_token"];
    let is_control = |field: &str| request.filter.contains_key(field);
    assert!(!control.into_iter().any(is_control), "{request:?}");
    v1::Consistency::try_from(request.consistency).is_ok()
}
