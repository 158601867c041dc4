//! Reads of files in the audit log.

use argosy_host::audit::{AuditEvent, verify};

use super::*;

#[tokio::test]
async fn reads_are_in_the_audit_log_with_the_user_of_the_host() {
    let server = FilesServer::start().await;
    fs::write(server.sandbox("1-9-1").join("stdout"), "text").unwrap();
    for name in ["stdout", "missing"] {
        let path = format!("/v1/files/read?path=tasks/framework-1/web/{name}");
        server.text(&path).await;
    }
    let FilesServer {
        directory, audit, ..
    } = server;
    // The rest is written.
    drop(audit);
    let mut lines = Vec::new();
    let log = Paths::new(directory.path()).audit();
    verify(&[log], None, |line| lines.push(line.entry.clone())).unwrap();
    let seen: Vec<_> = lines
        .iter()
        .skip(1)
        .map(|line| (line.event, line.object.as_str(), line.outcome.as_str()))
        .collect();
    let expected = [
        (AuditEvent::FilesRead, "tasks/framework-1/web/stdout", "200"),
        (
            AuditEvent::FilesRead,
            "tasks/framework-1/web/missing",
            "404",
        ),
    ];
    assert_eq!(seen, expected);
    let line = &lines[1];
    assert_eq!(line.principal, "unauthenticated");
    assert_eq!(line.user, Some(nix::unistd::geteuid().as_raw()));
    assert!(line.peer.unwrap().ip().is_loopback());
}
