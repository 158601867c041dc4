//! Corrects statuses that the gRPC layer creates before a service sees the message, so that they
//! follow this protocol.

use axum::response::Response;
use tonic::{Code, Status};
use tonic_types::{ErrorDetails, StatusExt};

/// Prefixes of the gRPC layer's messages about undecodable requests.
const UNREADABLE: [&str; 3] = [
    "failed to decode Protobuf message",
    "Missing request message",
    "protocol error: received message with",
];

/// Prefixes of the gRPC layer's messages about messages that are too large.
const TOO_LARGE: [&str; 2] = [
    "Error, decoded message length too large",
    "Error, encoded message length too large",
];

/// Corrects the status of a call of `argosy.v1` that was rejected before it reached its service.
pub(crate) fn correct(response: Response) -> Response {
    let status = Status::from_header_map(response.headers());
    match status.as_ref().and_then(corrected) {
        Some(status) => status.into_http(),
        None => response,
    }
}

/// Corrects the status of a message of a stream in the same way.
pub(super) fn correct_status(status: Status) -> Status {
    corrected(&status).unwrap_or(status)
}

fn corrected(status: &Status) -> Option<Status> {
    let output = status.message();
    match status.code() {
        Code::OutOfRange if TOO_LARGE.iter().any(|begin| output.starts_with(begin)) => {
            let text = format!("{output}; split the call, or use uris for data");
            let details = ErrorDetails::with_error_info("message-too-large", "argosy", []);
            Some(Status::with_error_details(
                Code::ResourceExhausted,
                text,
                details,
            ))
        }
        Code::Internal if UNREADABLE.iter().any(|begin| output.starts_with(begin)) => {
            let text = format!("the message cannot be read: {output}");
            let details = ErrorDetails::with_bad_request_violation("message", output);
            Some(Status::with_error_details(
                Code::InvalidArgument,
                text,
                details,
            ))
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_status_of_a_service_is_unchanged() {
        for status in [
            Status::internal("a service failed"),
            Status::unavailable("no leader"),
            Status::resource_exhausted("too many"),
            Status::out_of_range("revision 9 is after 3, the newest one of this cluster"),
        ] {
            assert!(corrected(&status).is_none(), "{status}");
        }
    }
}
