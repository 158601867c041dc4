//! Headers with which a browser runs no answer as a page. Masters have no pages, but some answers
//! have bytes that agents and tasks choose, and a browser may hold the certificate of an operator.

use axum::http::{HeaderMap, HeaderValue, header};

/// Forbids browsers to guess another type, and to run or load anything.
pub(crate) fn forbid_scripts(headers: &mut HeaderMap) {
    let no_sniff = HeaderValue::from_static("nosniff");
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, no_sniff);
    let policy = HeaderValue::from_static("default-src 'none'; sandbox");
    headers.insert(header::CONTENT_SECURITY_POLICY, policy);
}
