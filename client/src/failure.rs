//! Failures of calls: rejected, unanswered, or no master reachable.
//!
//! Only a rejection is certain; in all other cases the call may still have taken effect.

use std::collections::BTreeMap;
use std::error::Error as _;
use std::time::Duration;

use argosy_proto::v1;
use argosy_proto::versions::{self, NoCommonVersion};
use tonic::{Code, Status};
use tonic_types::StatusExt as _;

use crate::leader::{MasterFailure, NoMaster};

/// A master's rejection, with its reason. The client itself rejects calls that masters would not
/// read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct MasterRejection {
    /// The gRPC code.
    pub code: Code,
    /// Machine-readable code of a closed set, such as "offer-used"; empty if the master gave none.
    pub reason: String,
    /// The error and its remedy, in one sentence.
    pub message: String,
    /// Names and numbers that belong to the reason.
    pub details: BTreeMap<String, String>,
}

impl MasterRejection {
    /// Returns the rejection of a master that supports none of this program's versions.
    pub(crate) fn of_versions(why: &NoCommonVersion) -> Self {
        Self {
            code: Code::FailedPrecondition,
            reason: versions::CODE.to_owned(),
            message: why.to_string(),
            details: BTreeMap::new(),
        }
    }

    /// Converts a status that a master sent.
    #[must_use]
    pub fn from_status(status: &Status) -> Self {
        let info = status.get_details_error_info();
        let (reason, metadata) = info
            .map(|info| (info.reason, info.metadata))
            .unwrap_or_default();
        Self {
            code: status.code(),
            reason,
            message: explained(status.message(), status.code()),
            details: metadata.into_iter().collect(),
        }
    }

    /// Converts the outcome of an operation that was not done.
    pub(crate) fn of_operation(outcome: v1::WriteOutcome) -> Self {
        let code = Code::FailedPrecondition;
        Self {
            code,
            reason: outcome.code,
            message: explained(&outcome.message, code),
            details: BTreeMap::new(),
        }
    }
}

/// Returns the message of a rejection. If there is none, what the code means.
fn explained(message: &str, code: Code) -> String {
    if !message.is_empty() {
        return message.to_owned();
    }
    let (name, meaning) = match code {
        Code::Ok => ("OK", "the call was done"),
        Code::Cancelled => ("CANCELLED", "the call was cancelled"),
        Code::Unknown => ("UNKNOWN", "an unknown error"),
        Code::InvalidArgument => ("INVALID_ARGUMENT", "the request is malformed"),
        Code::DeadlineExceeded => ("DEADLINE_EXCEEDED", "the time for the call was too short"),
        Code::NotFound => ("NOT_FOUND", "the object does not exist"),
        Code::AlreadyExists => ("ALREADY_EXISTS", "the object exists already"),
        Code::PermissionDenied => ("PERMISSION_DENIED", "the caller may not do this"),
        Code::ResourceExhausted => ("RESOURCE_EXHAUSTED", "a limit of the master is reached"),
        Code::FailedPrecondition => {
            let meaning = "the present state of the cluster does not permit this";
            ("FAILED_PRECONDITION", meaning)
        }
        Code::Aborted => ("ABORTED", "another change came first"),
        Code::OutOfRange => ("OUT_OF_RANGE", "a value is beyond what the master has"),
        Code::Unimplemented => ("UNIMPLEMENTED", "the master does not support this"),
        Code::Internal => ("INTERNAL", "an error in the master"),
        Code::Unavailable => ("UNAVAILABLE", "the master cannot serve the call now"),
        Code::DataLoss => ("DATA_LOSS", "the master has lost data"),
        Code::Unauthenticated => ("UNAUTHENTICATED", "the caller has not proved its identity"),
    };
    format!(
        "the call was rejected without a reason, with the code {name}: {meaning}; the log of the master may have the reason"
    )
}

/// The reason for which a call has no successful answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CallError {
    /// A master rejected the call, or it is too large to be sent: it had no effect.
    #[error(transparent)]
    Refused(MasterRejection),
    /// No master could be called in time: the call had no effect.
    #[error("{0}")]
    NoMaster(NoMaster),
    /// The call was sent, and no answer came: it may have taken effect, or still do so.
    #[error("no answer in {after_ms} ms; it may still happen ({causes})")]
    Unanswered {
        /// The time waited, in milliseconds.
        after_ms: u64,
        /// The last failure of each master.
        causes: NoMaster,
    },
}

impl CallError {
    /// Returns the error of a call whose last attempt was refused. If only its caller was refused,
    /// an attempt that was sent before may have been processed: `unanswered` makes that error.
    pub(crate) fn refused(
        refusal: MasterRejection,
        was_sent: bool,
        unanswered: impl FnOnce(MasterFailure) -> Self,
    ) -> Self {
        match refusal.code {
            Code::Unauthenticated if was_sent => {
                unanswered(MasterFailure::Untrusted(refusal.message))
            }
            // Masters check the rules before they search for the answer to a repeat.
            Code::PermissionDenied if was_sent => {
                unanswered(MasterFailure::Unavailable(refusal.message))
            }
            _ => Self::Refused(refusal),
        }
    }

    /// Returns the error of a call without an answer.
    pub(crate) fn unanswered(waited: Duration, was_sent: bool, causes: NoMaster) -> Self {
        if was_sent {
            Self::Unanswered {
                after_ms: u64::try_from(waited.as_millis()).unwrap_or(u64::MAX),
                causes,
            }
        } else {
            Self::NoMaster(causes)
        }
    }
}

/// The meaning of a failed attempt for the search.
#[derive(Debug)]
pub(crate) enum AttemptError {
    /// The master's own answer.
    Refused(MasterRejection),
    /// Another master is to be called. `sent`: the request may have reached a master.
    TryNext { cause: MasterFailure, sent: bool },
}

/// Classifies the status of an attempt that was given `timeout_ms`.
pub(crate) fn classify(status: &Status, timeout_ms: u64) -> AttemptError {
    // A status that the local transport created has a source; one that a master sent has none.
    let local = status.source().is_some();
    match status.code() {
        Code::Unavailable if local => {
            let cause = cause_of(status, timeout_ms);
            // A connection that was never established has carried nothing.
            let sent = !never_connected(status);
            AttemptError::TryNext { cause, sent }
        }
        // A numbered call or one with a request id is repeated unchanged, so "sent" is harmless. A
        // master that reports that it knows no leader has done nothing.
        Code::Unavailable => AttemptError::TryNext {
            cause: MasterFailure::Unavailable(short(status.message())),
            sent: MasterRejection::from_status(status).reason != "no-leader",
        },
        // The call had no effect. Another master may have capacity, or this one later. A master
        // gives no reason if it has not read the call, or not begun a stream.
        Code::ResourceExhausted
            if !local
                && matches!(
                    MasterRejection::from_status(status).reason.as_str(),
                    "" | "too-many-reads" | "rate-limited"
                ) =>
        {
            AttemptError::TryNext {
                cause: MasterFailure::Busy(short(status.message())),
                sent: false,
            }
        }
        Code::DeadlineExceeded | Code::Cancelled => AttemptError::TryNext {
            cause: MasterFailure::TimedOut(timeout_ms),
            sent: true,
        },
        _ if local => AttemptError::TryNext {
            cause: cause_of(status, timeout_ms),
            sent: true,
        },
        _ => AttemptError::Refused(MasterRejection::from_status(status)),
    }
}

fn never_connected(status: &Status) -> bool {
    let mut next = status.source();
    while let Some(error) = next {
        if error.is::<tonic::ConnectError>() {
            return true;
        }
        next = error.source();
    }
    false
}

/// Returns the innermost cause of an error as a cause of the search.
pub(crate) fn cause_of(
    error: &(dyn std::error::Error + 'static),
    timeout_ms: u64,
) -> MasterFailure {
    let mut last = error.to_string();
    let mut next = Some(error);
    while let Some(error) = next {
        if let Some(io) = error.downcast_ref::<std::io::Error>() {
            match io.kind() {
                std::io::ErrorKind::ConnectionRefused => return MasterFailure::Refused,
                std::io::ErrorKind::TimedOut => return MasterFailure::TimedOut(timeout_ms),
                // Dialers report so that an identity is rejected, at either end.
                std::io::ErrorKind::PermissionDenied => {
                    return MasterFailure::Untrusted(short(&io.to_string()));
                }
                _ if io.to_string().contains("failed to lookup address") => {
                    return MasterFailure::NoHost(short(&io.to_string()));
                }
                _ => {}
            }
        }
        if error.is::<tokio::time::error::Elapsed>() {
            return MasterFailure::TimedOut(timeout_ms);
        }
        last = error.to_string();
        next = error.source();
    }
    MasterFailure::Broken(short(&last))
}

fn short(text: &str) -> String {
    text.chars().take(160).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use tonic_types::ErrorDetails;

    #[test]
    fn a_rejection_contains_reason_and_details() {
        let numbers = [("offer".to_owned(), "12.7".to_owned())];
        let details = ErrorDetails::with_error_info("offer-used", "argosy", numbers);
        let status =
            Status::with_error_details(Code::FailedPrecondition, "offer 12.7 is used", details);
        let AttemptError::Refused(refusal) = classify(&status, 10) else {
            panic!("not a refusal");
        };
        assert_eq!(refusal.reason, "offer-used");
        assert_eq!(refusal.details["offer"], "12.7");
        assert_eq!(refusal.to_string(), "offer 12.7 is used");
    }

    #[test]
    fn a_rejection_without_a_message_is_a_sentence() {
        for code in (0..17).map(Code::from_i32) {
            let text = MasterRejection::from_status(&Status::new(code, "")).message;
            assert!(
                text.starts_with("the call was rejected without a reason"),
                "{text}"
            );
            assert!(!text.contains(&format!("{code:?}:")), "{text}");
        }
        let refusal = MasterRejection::of_operation(v1::WriteOutcome::default());
        assert!(
            refusal.to_string().contains("FAILED_PRECONDITION"),
            "{refusal}"
        );
        let unavailable = classify(&Status::unavailable(""), 10);
        let AttemptError::TryNext { cause, .. } = unavailable else {
            panic!("another master is tried");
        };
        assert_eq!(cause.to_string(), "cannot serve the call");
    }

    #[test]
    fn a_call_without_a_leader_was_not_applied() {
        let details = ErrorDetails::with_error_info("no-leader", "argosy", []);
        let status = Status::with_error_details(Code::Unavailable, "there is no leader", details);
        let result = classify(&status, 10);
        assert!(matches!(result, AttemptError::TryNext { sent: false, .. }));
    }

    #[test]
    fn a_rate_limited_call_is_repeated() {
        let details = ErrorDetails::with_error_info("rate-limited", "argosy", []);
        let code = Code::ResourceExhausted;
        let status = Status::with_error_details(code, "too many calls", details);
        let AttemptError::TryNext { cause, sent: false } = classify(&status, 10) else {
            panic!("it is repeated, and was not processed");
        };
        assert_eq!(cause, MasterFailure::Busy("too many calls".to_owned()));
        let details = ErrorDetails::with_error_info("registry-full", "argosy", []);
        let status = Status::with_error_details(code, "the registry is full", details);
        assert!(matches!(classify(&status, 10), AttemptError::Refused(_)));
    }

    #[test]
    fn a_call_that_a_busy_master_has_not_read_is_repeated() {
        let status = Status::resource_exhausted("too many bytes of incomplete messages");
        let result = classify(&status, 10);
        assert!(
            matches!(result, AttemptError::TryNext { sent: false, .. }),
            "{result:?}"
        );
    }

    #[test]
    fn a_sent_call_whose_caller_is_refused_later_has_an_unknown_result() {
        for code in [Code::Unauthenticated, Code::PermissionDenied] {
            for was_sent in [false, true] {
                let refusal = MasterRejection::from_status(&Status::new(code, "no"));
                let error = CallError::refused(refusal, was_sent, |cause| {
                    let causes = vec![("m1:1".to_owned(), cause)];
                    CallError::unanswered(Duration::ZERO, true, NoMaster { causes })
                });
                let is_unknown = matches!(error, CallError::Unanswered { .. });
                assert_eq!(is_unknown, was_sent, "{error:?}");
            }
        }
    }

    #[test]
    fn an_exceeded_deadline_is_an_unknown_result_and_not_a_rejection() {
        for code in [Code::DeadlineExceeded, Code::Unavailable, Code::Cancelled] {
            let result = classify(&Status::new(code, "x"), 10);
            assert!(
                matches!(result, AttemptError::TryNext { sent: true, .. }),
                "{code:?}"
            );
        }
    }
}
