//! Failures of calls to the masters, as text with a next step each.

use argosy_client::{CallError, MasterRejection, NoMaster};
use argosy_proto::v1::write_operation::Operation;

use crate::exit::{Failure, FailureCode};

/// Converts a failed read.
pub(crate) fn read_failure(error: CallError) -> Failure {
    match error {
        CallError::Refused(refusal) if refusal.code == tonic::Code::Unimplemented => Failure::new(
            FailureCode::Failed,
            "the called master runs an earlier release, which does not support this",
        )
        .advise("upgrade all masters first; argosy master list shows what each one supports")
        .advise(PORTS),
        CallError::Refused(refusal) if is_from_another_server(&refusal) => {
            let text = "the server at this address is no master";
            Failure::failed(text).advise(format!("check --masters: {PORTS}"))
        }
        CallError::Refused(refusal) => refusal_failure(refusal.code, refusal.message),
        CallError::NoMaster(causes) if causes.some_answered() => no_leader(&causes),
        CallError::NoMaster(causes) if causes.some_busy() => busy(&causes),
        CallError::NoMaster(causes) if causes.some_untrusted() => {
            Failure::new(FailureCode::Unavailable, causes.to_string()).advise(TRUST)
        }
        CallError::NoMaster(causes) => no_master(causes.to_string()),
        CallError::Unanswered { causes, .. } if causes.some_answered() => no_leader(&causes),
        CallError::Unanswered { causes, .. } if causes.some_busy() => busy(&causes),
        CallError::Unanswered { after_ms, causes } => Failure::new(
            FailureCode::Unavailable,
            format!(
                "no answer in {}: {causes}",
                crate::output::span_ms(after_ms)
            ),
        )
        .advise("argosy status shows the state of the cluster; --timeout waits longer"),
    }
}

/// The ports of masters, a remedy for a wrong address.
const PORTS: &str =
    "masters serve their API at port 5050, agents theirs at 5051; 5052 is for masters only";

/// The remedy if an identity is rejected.
const TRUST: &str = "compare the context or --tls-ca with the CA of the cluster; docs/security.md lists causes by message";

/// Returns whether an HTTP server that does not know gRPC has answered.
fn is_from_another_server(refusal: &MasterRejection) -> bool {
    refusal.reason.is_empty()
        && [
            "invalid compression flag",
            "while receiving response with status",
        ]
        .iter()
        .any(|part| refusal.message.contains(part))
}

/// Returns the failure of a call that masters have received, but that needs a leader.
fn no_leader(causes: &NoMaster) -> Failure {
    Failure::new(FailureCode::Unavailable, causes.to_string())
        .advise("start the masters that are down: more than half must be up and reach each other")
        .advise("argosy status and argosy master list show their state; running tasks keep running")
}

/// Returns the failure of a call that exceeds a limit of the masters or of its caller.
fn busy(causes: &NoMaster) -> Failure {
    Failure::new(FailureCode::Unavailable, causes.to_string())
        .advise("repeat the command later, or call less often")
        .advise("docs/operate/limits.md states how an operator changes the limits of a caller")
}

/// Returns the failure of a call that no master has answered.
fn no_master(causes: String) -> Failure {
    let failure = Failure::new(FailureCode::Unavailable, causes);
    if std::env::var_os("ARGOSY_MASTERS").is_some() {
        failure.advise("check ARGOSY_MASTERS, or name the masters with --masters")
    } else {
        failure.advise(
            "name the masters with --masters or --context (argosy context list), or start a cluster with argosy dev",
        )
    }
}

/// Converts a failed change. If its outcome is unknown, the advice is this next step.
pub(super) fn write_failure(error: CallError, next_step: String) -> Failure {
    match error {
        CallError::Unanswered { after_ms, .. } => Failure::new(
            FailureCode::Unavailable,
            format!(
                "no answer in {}; the change may still happen",
                crate::output::span_ms(after_ms)
            ),
        )
        .advise(next_step),
        other => read_failure(other),
    }
}

/// Returns what to do if the outcome of these changes is unknown.
pub(super) fn next_step(operations: &[Operation], request_id: &str) -> String {
    let args = arguments();
    match operations {
        // A repeat would create another token, whose secret is not that of this one.
        [Operation::CreateToken(create)] => {
            let id = &create.token_id;
            format!(
                "outcome unknown: argosy token revoke {id} revokes it if it exists; then create another"
            )
        }
        // One of several: the command has no request id, and repeats those that are left.
        [Operation::ResealSecret(_)] => {
            format!("outcome unknown, repeat safely: {}", quoted(&args))
        }
        _ => format!(
            "outcome unknown, repeat safely: {}",
            repeat_line(&args, request_id)
        ),
    }
}

pub(super) fn change_failure(error: CallError) -> Failure {
    match error {
        CallError::Unanswered { after_ms, .. } => Failure::new(
            FailureCode::Unavailable,
            format!(
                "no answer in {}; the change may still happen",
                crate::output::span_ms(after_ms)
            ),
        )
        .advise("argosy master list shows the current state; repeating the change is safe"),
        other => read_failure(other),
    }
}

/// Returns the command line that repeats this very change.
fn repeat_line(args: &[String], request_id: &str) -> String {
    let line = quoted(args);
    match args.iter().any(|word| word.starts_with("--request-id")) {
        true => line,
        false => format!("{line} --request-id {request_id}"),
    }
}

/// Returns the command line of this program for a shell.
fn quoted(args: &[String]) -> String {
    let words = args.iter().skip(1).map(|word| quote(word));
    let line: Vec<_> = std::iter::once("argosy".to_owned()).chain(words).collect();
    line.join(" ")
}

/// Returns the command line of this process. A path may be no UTF-8: its other bytes are replaced.
pub(crate) fn arguments() -> Vec<String> {
    let words = std::env::args_os();
    words
        .map(|word| word.to_string_lossy().into_owned())
        .collect()
}

/// Quotes a word for a shell.
pub(crate) fn quote(word: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_./:,=@%+".contains(&byte);
    if !word.is_empty() && word.bytes().all(plain) {
        word.to_owned()
    } else {
        format!("'{}'", word.replace('\'', r"'\''"))
    }
}

pub(super) fn refused(code: &str, message: String) -> Failure {
    let message = match (message.as_str(), code) {
        ("", "") => "the masters refused the change without a reason".to_owned(),
        ("", code) => format!("the masters refused the change, with the code {code} only"),
        _ => message,
    };
    if code.starts_with("unknown-") {
        return Failure::new(FailureCode::NotFound, message);
    }
    Failure::new(FailureCode::Refused, message)
}

/// Converts a rejection of the masters by its status code.
pub(crate) fn refusal_failure(code: tonic::Code, message: String) -> Failure {
    let code = match code {
        tonic::Code::InvalidArgument | tonic::Code::OutOfRange => FailureCode::Usage,
        tonic::Code::NotFound => FailureCode::NotFound,
        tonic::Code::FailedPrecondition
        | tonic::Code::PermissionDenied
        | tonic::Code::Unauthenticated
        | tonic::Code::AlreadyExists
        | tonic::Code::Aborted
        | tonic::Code::ResourceExhausted => FailureCode::Refused,
        tonic::Code::Unavailable | tonic::Code::DeadlineExceeded => FailureCode::Unavailable,
        tonic::Code::Ok
        | tonic::Code::Cancelled
        | tonic::Code::Unknown
        | tonic::Code::Unimplemented
        | tonic::Code::Internal
        | tonic::Code::DataLoss => FailureCode::Failed,
    };
    Failure::new(code, message)
}

#[cfg(test)]
mod tests {
    use argosy_proto::v1;

    use super::*;

    #[test]
    fn refusals_get_the_documented_exit_codes() {
        let table = [
            (tonic::Code::InvalidArgument, FailureCode::Usage),
            (tonic::Code::NotFound, FailureCode::NotFound),
            (tonic::Code::FailedPrecondition, FailureCode::Refused),
            (tonic::Code::ResourceExhausted, FailureCode::Refused),
            (tonic::Code::Unavailable, FailureCode::Unavailable),
            (tonic::Code::Internal, FailureCode::Failed),
        ];
        for (grpc, code) in table {
            assert_eq!(refusal_failure(grpc, "x".into()).code, code, "{grpc:?}");
        }
    }

    #[test]
    fn a_change_that_is_refused_without_a_message_is_a_sentence() {
        let text = |code, message: &str| refused(code, message.to_owned()).message;
        assert_eq!(
            text("", ""),
            "the masters refused the change without a reason"
        );
        let found = text("task-ended", "");
        assert_eq!(
            found,
            "the masters refused the change, with the code task-ended only"
        );
        assert_eq!(text("task-ended", "it has ended"), "it has ended");
        assert_eq!(
            refused("unknown-task", String::new()).code,
            FailureCode::NotFound
        );
    }

    #[test]
    fn a_server_that_is_no_master_is_recognized() {
        let text = "protocol error: received message with invalid compression flag: 123 (valid flags are 0 and 1) while receiving response with status: 404 Not Found";
        let failure = read_failure(CallError::Refused(MasterRejection {
            code: tonic::Code::Internal,
            reason: String::new(),
            message: text.to_owned(),
            details: Default::default(),
        }));
        assert_eq!(failure.message, "the server at this address is no master");
        assert!(failure.to_string().contains("port 5050"), "{failure}");
    }

    /// Returns the errors of a call that was sent, and of one that was not.
    fn without_answer(causes: NoMaster) -> [CallError; 2] {
        let unanswered = CallError::Unanswered {
            after_ms: 10_000,
            causes: causes.clone(),
        };
        [unanswered, CallError::NoMaster(causes)]
    }

    #[test]
    fn a_call_without_a_quorum_names_each_master_and_the_remedy() {
        use argosy_client::leader::MasterFailure;
        let why = "the leader could not confirm the read: too few masters answer it";
        let causes = NoMaster {
            causes: vec![
                (
                    "10.0.0.1:5050".to_owned(),
                    MasterFailure::Unavailable(why.to_owned()),
                ),
                ("10.0.0.2:5050".to_owned(), MasterFailure::Refused),
            ],
        };
        for error in without_answer(causes) {
            let failure = read_failure(error);
            assert_eq!(failure.code, FailureCode::Unavailable);
            assert_eq!(
                failure.message,
                format!(
                    "no leader answers: 10.0.0.1:5050 cannot serve the call ({why}), 10.0.0.2:5050 refused"
                )
            );
            let text = failure.to_string();
            assert!(
                text.contains("\n  start the masters that are down"),
                "{text}"
            );
        }
    }

    #[test]
    fn the_remedy_for_too_many_calls_is_not_to_start_masters() {
        use argosy_client::leader::MasterFailure;
        let why = "this principal calls more often than it may";
        let limited = MasterFailure::Busy(why.to_owned());
        let causes = NoMaster {
            causes: vec![("10.0.0.1:5050".to_owned(), limited)],
        };
        for error in without_answer(causes) {
            let failure = read_failure(error);
            assert_eq!(failure.code, FailureCode::Unavailable);
            let expected = format!(
                "no master accepts the call: 10.0.0.1:5050 does not accept the call now ({why})"
            );
            assert_eq!(failure.message, expected);
            let text = failure.to_string();
            assert!(text.contains("\n  repeat the command later"), "{text}");
            assert!(!text.contains("start the masters"), "{text}");
        }
    }

    #[test]
    fn an_unanswered_change_is_reported_with_the_command_to_repeat() {
        let args = ["argosy", "task", "kill", "my task"].map(str::to_owned);
        assert_eq!(
            repeat_line(&args, "01ab"),
            "argosy task kill 'my task' --request-id 01ab"
        );
        let args = ["argosy", "task", "kill", "web", "--request-id=7"].map(str::to_owned);
        assert_eq!(
            repeat_line(&args, "7"),
            "argosy task kill web --request-id=7"
        );
    }

    #[test]
    fn a_command_without_a_request_id_is_repeated_as_it_is() {
        let name = "eng/db".to_owned();
        let again = [Operation::ResealSecret(v1::ResealSecret { name })];
        let text = next_step(&again, "01ab");
        assert!(text.contains("repeat safely: argosy"), "{text}");
        assert!(!text.contains("--request-id"), "{text}");
    }

    #[test]
    fn arguments_are_quoted_for_a_shell() {
        assert_eq!(quote("a-b/c"), "a-b/c");
        assert_eq!(quote(""), "''");
        assert_eq!(quote("it's"), r"'it'\''s'");
    }
}
