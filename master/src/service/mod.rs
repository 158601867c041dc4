//! The gRPC services: convert, send, await, answer. They make no decisions.
//!
//! Any master serves any call: calls that only the leader can answer are forwarded to it, in one
//! hop.

mod access;
mod actor;
pub(crate) mod agent_api;
mod agents;
mod audited;
mod bearer;
mod calls;
mod certificates;
mod explain;
mod failover_exchange;
pub(crate) mod feed;
pub(crate) mod filter_values;
mod forward;
mod forwarded_caller;
mod health;
mod leadership;
mod level;
mod lists;
mod log_filter;
mod membership;
mod operations;
mod operator;
mod peers;
mod permits;
mod rate_limit;
mod reconcile;
mod records;
mod reflection;
mod revocation;
mod scheduler;
mod secrets;
mod snapshots;
mod status_codes;
pub(crate) mod task_access;
mod tickets;
mod views;
mod watch;

use std::borrow::Cow;
use std::sync::Arc;

use argosy_proto::convert::InvalidMessage;
use argosy_proto::excerpt::{STATUS_BYTES, excerpt};
use argosy_proto::http_client::HttpClient;
use argosy_proto::server::callers::ApiAccess;
use argosy_proto::v1;
use argosy_proto::versions::{self, VersionRange};
use metrics::counter;
use tokio::sync::Semaphore;
use tokio_util::task::TaskTracker;
use tonic::Status;
use tonic_types::{ErrorDetails, StatusExt};

use crate::access::{DENIED, UNPROVEN};
use crate::certificate_issuer::CertificateIssuer;
use crate::leader_reply::LeaderReply;
use crate::owner_handle::OwnerHandle;
use crate::principal_limits::JoinRates;
use crate::secret_keys::SecretKeys;

#[cfg(feature = "fuzzing")]
pub(crate) use actor::read as read_actor;
pub(crate) use actor::{account, actor_of_peer};
pub(crate) use agent_api::{AgentEndpoint, client_of_agents, endpoint_of};
pub(crate) use bearer::{check_credential, identify};
pub(crate) use certificates::CERTIFICATE_REQUEST_BYTES;
pub(crate) use failover_exchange::exchange_failovers;
pub(crate) use feed::Feed;
#[cfg(test)]
pub(crate) use feed::Subscription;
pub(crate) use forward::{ReplyHeaders, check_versions, is_referral};
#[cfg(feature = "fuzzing")]
pub(crate) use forwarded_caller::read_credential;
pub(crate) use forwarded_caller::{ForwardedCredential, forwarded_credential, is_forwarded};
pub(crate) use health::health;
pub(crate) use lists::{ListKind, routes as list_routes, spawn_reader};
#[cfg(feature = "fuzzing")]
pub(crate) use operations::operate;
pub(crate) use peers::MasterConnections;
pub(crate) use permits::{denied, here, permit};
pub(crate) use records::{cluster, one_agent};
pub(crate) use reflection::reflection;
pub(crate) use revocation::{WatchedCredential, until_revoked};
pub(crate) use snapshots::SAVES;
pub(crate) use status_codes::correct;
pub(crate) use views::masters;
pub(crate) use watch::{routes as watch_routes, stream as watch_stream};

/// All services of `argosy.v1`; cheap to clone.
#[derive(Clone)]
pub(crate) struct Services {
    pub(crate) owner: OwnerHandle,
    pub(crate) peers: MasterConnections,
    /// The client for requests to agents.
    pub(crate) agents: HttpClient,
    /// The callers that may access tasks.
    pub(crate) access: ApiAccess,
    /// The subscribers of changes.
    pub(crate) feed: Feed,
    /// The keys that seal secrets, if this master has some.
    pub(crate) secret_keys: Option<Arc<SecretKeys>>,
    /// The certificate authority for hosts that join, if this master has one.
    pub(crate) issuer: Option<CertificateIssuer>,
    /// The rates at which hosts request certificates.
    pub(crate) join_rates: Arc<JoinRates>,
    /// The places of snapshots that are being sent.
    pub(crate) saves: Arc<Semaphore>,
    /// Tasks that read streams; they end with their streams.
    pub(crate) tasks: TaskTracker,
}

/// Maximum size of a message in either direction, in bytes.
pub(crate) const MESSAGE_BYTES: usize = 4 << 20;
/// Maximum size of a call that changes state, in bytes.
pub(crate) const CALL_BYTES: usize = 1 << 20;

/// Returns the size of a call that changes state. Rejects a call that is too large.
fn bounded(bytes: usize) -> Result<usize, Status> {
    if bytes <= CALL_BYTES {
        return Ok(bytes);
    }
    let text = format!(
        "the call takes {bytes} bytes; at most {CALL_BYTES}: split it, or use uris for data"
    );
    Err(refused("invalid", &text))
}

/// Returns the part of a text that a status may have.
fn in_status(text: &str) -> Cow<'_, str> {
    excerpt(text, STATUS_BYTES)
}

/// Returns the status for a message of the wrong shape.
fn malformed(why: &InvalidMessage) -> Status {
    let (field, text) = (in_status(&why.field), in_status(&why.text));
    let details = ErrorDetails::with_bad_request_violation(field, text);
    let message = why.to_string();
    let message = in_status(&message);
    Status::with_error_details(tonic::Code::InvalidArgument, message, details)
}

/// Returns the status for a rejection, with its machine-readable code.
pub(crate) fn refused(code: &str, message: &str) -> Status {
    let kind = match code {
        "unknown-agent" | "unknown-framework" | "unknown-task" | "unknown-token" => {
            tonic::Code::NotFound
        }
        DENIED => tonic::Code::PermissionDenied,
        UNPROVEN => tonic::Code::Unauthenticated,
        "invalid" | "call-reused" | "request-reused" | "too-many-operations" => {
            tonic::Code::InvalidArgument
        }
        "too-many-answers" | "too-many-unacknowledged" | "too-many-requests" | "registry-full" => {
            tonic::Code::ResourceExhausted
        }
        // The outcome is unknown: the caller must retry.
        "stale-epoch" | "repeated" => tonic::Code::Unavailable,
        // The call had no effect: another master may be able to serve it.
        "no-leader" => tonic::Code::Unavailable,
        "internal" => tonic::Code::Internal,
        _ => tonic::Code::FailedPrecondition,
    };
    if matches!(code, DENIED | UNPROVEN) {
        counter!("argosy_requests_refused_total", "reason" => "caller").increment(1);
    }
    let details = ErrorDetails::with_error_info(code, "argosy", []);
    Status::with_error_details(kind, in_status(message), details)
}

/// Returns the status of a rejection, or any other answer.
fn accepted(answer: LeaderReply) -> Result<LeaderReply, Status> {
    match answer {
        LeaderReply::Refused { code, message } => Err(refused(code, &message)),
        LeaderReply::Called { .. }
        | LeaderReply::Acknowledged
        | LeaderReply::Declined
        | LeaderReply::HeartbeatRecorded
        | LeaderReply::Forwarded
        | LeaderReply::Reconciled { .. }
        | LeaderReply::Operated { .. } => Ok(answer),
    }
}

fn not_found(what: &str, id: &str, near: &[String]) -> Status {
    let hint = if near.is_empty() {
        String::new()
    } else {
        format!("; did you mean {}?", near.join(", "))
    };
    let code = format!("unknown-{what}");
    let details = ErrorDetails::with_error_info(code, "argosy", []);
    let message = format!("no {what} {id:?}{hint}");
    Status::with_error_details(tonic::Code::NotFound, in_status(&message), details)
}

/// Returns the newest protocol version that this master and a peer support.
fn check_protocol(peer: &str, protocol: Option<&v1::Protocol>) -> Result<u32, Status> {
    let Some(protocol) = protocol else {
        let why = InvalidMessage::new("protocol", "name the protocol version");
        return Err(malformed(&why));
    };
    let agreed = VersionRange::OWN.negotiate(peer, protocol);
    agreed.map_err(|why| refused(versions::CODE, &why.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Reports a version without a range, as release 0.1.0 does.
    fn protocol(version: u32, release: &str) -> Option<v1::Protocol> {
        Some(v1::Protocol {
            version,
            release: release.to_owned(),
            ..v1::Protocol::default()
        })
    }

    fn check(protocol: Option<v1::Protocol>) -> Result<u32, Status> {
        check_protocol("the scheduler", protocol.as_ref())
    }

    #[test]
    fn protocol_version_is_checked_and_release_is_ignored() {
        let version = VersionRange::OWN.newest;
        for release in ["", "0.2.0", "0.1", "what my framework calls itself"] {
            assert_eq!(check(protocol(version, release)).unwrap(), version);
        }
        let refused = check(protocol(version + 1, "9.9")).unwrap_err();
        let text = refused.message();
        assert!(
            text.contains(&(version + 1).to_string()) && text.contains("\"9.9\""),
            "{text}"
        );
        let absent = check(None).unwrap_err();
        assert_eq!(absent.code(), tonic::Code::InvalidArgument);
        assert!(absent.message().contains("protocol"), "{absent}");
    }

    /// A status is a header of the answer, and a long one ends the connection that other calls
    /// share.
    #[test]
    fn the_length_of_a_status_does_not_depend_on_the_length_of_the_call() {
        let long = "é".repeat(1 << 19);
        let malformed_value = InvalidMessage::new("filter", format!("{long:?} is unknown"));
        for status in [
            malformed(&malformed_value),
            malformed(&InvalidMessage::new(long.as_str(), "it is missing")),
            refused("invalid", &long),
            not_found("agent", &long, &[]),
            not_found("agent", "a", std::slice::from_ref(&long)),
            check(protocol(VersionRange::OWN.newest + 1, &long)).unwrap_err(),
        ] {
            assert!(
                status.message().len() <= 2_048,
                "{}",
                status.message().len()
            );
            assert!(
                status.details().len() <= 8_192,
                "{}",
                status.details().len()
            );
        }
    }

    #[test]
    fn a_version_range_is_accepted_if_it_overlaps_with_that_of_this_master() {
        let range = |oldest, newest| Some(VersionRange { oldest, newest }.first_message());
        let newest = VersionRange::OWN.newest;
        assert_eq!(check(range(newest, newest + 5)).unwrap(), newest);
        let refused = check(range(newest + 1, newest + 5)).unwrap_err();
        assert_eq!(refused.code(), tonic::Code::FailedPrecondition);
        let text = refused.message();
        assert!(text.contains("upgrade this program"), "{text}");
    }
}
