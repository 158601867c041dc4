//! Tests of what is recorded about requests.

use std::path::Path;

use argosy_host::audit::{AuditLine, verify};
use axum::body::Body;
use axum::response::IntoResponse as _;
use axum::routing::get;
use axum::{Extension, Router};
use tower::ServiceExt as _;

use super::*;
use crate::server::callers::AllowedCallers;
use crate::trace::TraceIds;

/// Opens a log in this directory.
fn open(directory: &Path) -> (Audit, AuditWriter) {
    let settings = AuditSettings::below(directory, 1);
    let (audit, writer) = Audit::open(settings.as_ref()).unwrap();
    (audit, writer.unwrap())
}

/// Returns the lines of the log in this directory, without the first.
fn lines(directory: &Path) -> Vec<AuditEntry> {
    let mut lines: Vec<AuditLine> = Vec::new();
    verify(&[directory.join("audit")], None, |line| {
        lines.push(line.clone())
    })
    .unwrap();
    lines.into_iter().skip(1).map(|line| line.entry).collect()
}

fn request(uri: &str, principal: Option<&str>) -> Request {
    let address = "10.0.0.1:4711".parse().unwrap();
    let peer = match principal {
        Some(principal) => PeerIdentity::authenticated(principal.parse().unwrap(), Some(address)),
        None => PeerIdentity::unauthenticated(Some(address)),
    };
    let request = Request::get(uri).extension(peer);
    request.body(Body::empty()).unwrap()
}

/// Sends requests to a part that only users of this host may use, and operators.
async fn ask(directory: &Path, part: ApiPart, requests: Vec<Request>) -> Vec<AuditEntry> {
    let (audit, writer) = open(directory);
    let answer = |uri: Uri| async move {
        match uri.query().is_some_and(|query| query.contains("missing")) {
            true => StatusCode::NOT_FOUND.into_response(),
            false => "in".into_response(),
        }
    };
    let router = Router::new().route("/{*path}", get(answer));
    let router = AllowedCallers::users([]).guard_master(part, router);
    let router: Router = router.layer(Extension(audit));
    for request in requests {
        let _ = router.clone().oneshot(request).await.unwrap();
    }
    drop(writer);
    lines(directory)
}

#[tokio::test]
async fn accepted_and_refused_commands_are_recorded_without_their_arguments() {
    let directory = tempfile::tempdir().unwrap();
    let uri = "/v1/exec?task=framework-1%2Fweb&argument=secret";
    let attach = "/v1/agents/agent-3/attach?task=framework-1/web";
    let requests = vec![
        request(uri, Some("operator/alice")),
        request(uri, None),
        request(attach, Some("operator/alice")),
        request(attach, Some("framework/web")),
    ];
    let lines = ask(directory.path(), ApiPart::Exec, requests).await;
    let seen: Vec<_> = lines
        .iter()
        .map(|line| (line.event, line.principal.as_str(), line.object.as_str()))
        .collect();
    use AuditEvent::{Attach, Exec, ExecRefused};
    let (web, at) = ("framework-1/web", "framework-1/web at agent-3");
    let expected = [
        (Exec, "operator/alice", web),
        (ExecRefused, "unauthenticated", web),
        (Attach, "operator/alice", at),
        (ExecRefused, "framework/web", at),
    ];
    assert_eq!(seen, expected);
    let first = &lines[0];
    assert_eq!(first.peer, Some("10.0.0.1:4711".parse().unwrap()));
    assert_eq!(
        (first.action.as_str(), first.outcome.as_str()),
        ("exec", "200")
    );
    assert_eq!(lines[1].outcome, "403");
    let text = std::fs::read_to_string(directory.path().join("audit/audit-0000000001.log"));
    assert!(!text.unwrap().contains("secret"));
}

#[tokio::test]
async fn reads_of_files_are_recorded_with_their_outcome() {
    let directory = tempfile::tempdir().unwrap();
    let requests = ["tasks/framework-1/web/stdout", "missing"].map(|path| {
        let uri = format!("/v1/files/read?offset=0&path={path}");
        request(&uri, Some("operator/alice"))
    });
    let lines = ask(directory.path(), ApiPart::Files, requests.into()).await;
    let seen: Vec<_> = lines
        .iter()
        .map(|line| (line.event, line.object.as_str(), line.outcome.as_str()))
        .collect();
    let expected = [
        (AuditEvent::FilesRead, "tasks/framework-1/web/stdout", "200"),
        (AuditEvent::FilesRead, "missing", "404"),
    ];
    assert_eq!(seen, expected);
}

#[tokio::test]
async fn a_use_whose_client_disconnects_before_the_answer_is_recorded() {
    let directory = tempfile::tempdir().unwrap();
    let (audit, writer) = open(directory.path());
    let mut asked = request("/v1/exec?task=framework-1/web", Some("operator/alice"));
    asked.extensions_mut().insert(audit);
    let used = Audit::begin_use(&asked, ApiPart::Exec);
    drop(used);
    drop(writer);
    let lines = lines(directory.path());
    assert_eq!(lines.len(), 1);
    assert_eq!(lines[0].event, AuditEvent::Exec);
    assert_eq!(lines[0].outcome, "client-gone");
}

#[test]
fn refusals_of_calls_are_recorded_once_with_the_id_of_their_request() {
    let directory = tempfile::tempdir().unwrap();
    let (audit, writer) = open(directory.path());
    let context = TraceIds::new(1).next();
    let mut forwarded = request("/argosy.v1.Operator/WriteOne", Some("master/m2"));
    let actor = "operator/bob".parse().unwrap();
    forwarded.headers_mut().insert(FORWARDED_ACTOR, actor);
    let caller = audit.caller(&forwarded).unwrap();
    let grpc = |code: Code| tonic::Status::new(code, "").into_http::<Body>();
    let mut recorded = grpc(Code::PermissionDenied);
    recorded.extensions_mut().insert(Recorded);
    let answers = [
        (grpc(Code::PermissionDenied), false),
        (grpc(Code::Unauthenticated), true),
        (grpc(Code::Unauthenticated), false),
        (StatusCode::FORBIDDEN.into_response(), false),
        (grpc(Code::NotFound), false),
        (StatusCode::OK.into_response(), true),
        (recorded, false),
    ];
    trace::within(Some(context), || {
        for (response, has_token) in &answers {
            audit.record_refusal(&caller, (forwarded.uri(), *has_token), response);
        }
    });
    drop(writer);
    let lines = lines(directory.path());
    let seen: Vec<_> = lines
        .iter()
        .map(|line| (line.event, line.outcome.as_str(), line.count))
        .collect();
    use AuditEvent::{CallRefused, TokenRefused};
    let expected = [
        (CallRefused, "PermissionDenied", 1),
        (TokenRefused, "Unauthenticated", 1),
        (CallRefused, "Unauthenticated", 1),
        // The second one of the same kind.
        (CallRefused, "PermissionDenied", 1),
    ];
    assert_eq!(seen, expected);
    assert_eq!(lines[0].action, "/argosy.v1.Operator/WriteOne");
    assert_eq!(lines[0].principal, "master/m2");
    assert_eq!(lines[0].on_behalf_of, "operator/bob");
    assert_eq!(lines[0].request_id, context.id().to_string());
}

#[test]
fn only_masters_name_other_actors() {
    let mut direct = request("/", Some("operator/alice"));
    let actor = "operator/bob".parse().unwrap();
    direct.headers_mut().insert(FORWARDED_ACTOR, actor);
    assert_eq!(AuditedCaller::of(&direct).on_behalf_of, "");
}

#[test]
fn a_server_without_a_log_records_nothing() {
    let (audit, writer) = Audit::open(None).unwrap();
    assert!(writer.is_none());
    assert!(audit.caller(&request("/", None)).is_none());
    let mut asked = request("/v1/exec", None);
    asked.extensions_mut().insert(audit);
    assert!(Audit::begin_use(&asked, ApiPart::Exec).is_none());
    assert_eq!(AuditSettings::below(Path::new("/data"), 0), None);
}
