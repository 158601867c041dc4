//! Tests of the selection and of the text of lines.

use super::*;

fn entry() -> AuditEntry {
    AuditEntry {
        principal: "operator/alice".to_owned(),
        user: Some(1_001),
        peer: Some("10.0.0.1:4711".parse().unwrap()),
        action: "exec".to_owned(),
        object: "framework-1/web".to_owned(),
        outcome: "101".to_owned(),
        ..AuditEntry::new(5_000, AuditEvent::Exec)
    }
}

fn arguments() -> AuditShow {
    AuditShow {
        places: Vec::new(),
        since: None,
        principal: None,
        events: Vec::new(),
        head: false,
        json: false,
    }
}

#[test]
fn lines_are_selected_by_time_caller_and_event() {
    let principal = |name: &str| AuditShow {
        principal: Some(name.to_owned()),
        ..arguments()
    };
    let events = |events: Vec<AuditEvent>| AuditShow {
        events,
        ..arguments()
    };
    let all = arguments();
    assert!(all.picks(&entry(), None) && all.picks(&entry(), Some(5_000)));
    assert!(!all.picks(&entry(), Some(5_001)));
    assert!(principal("operator/alice").picks(&entry(), None));
    assert!(!principal("operator/bob").picks(&entry(), None));
    let forwarded = AuditEntry {
        principal: "master/m1".to_owned(),
        on_behalf_of: "operator/bob".to_owned(),
        ..entry()
    };
    assert!(principal("operator/bob").picks(&forwarded, None));
    use AuditEvent::{Attach, Exec};
    assert!(events(vec![Attach, Exec]).picks(&entry(), None));
    assert!(!events(vec![Attach]).picks(&entry(), None));
}

#[test]
fn a_line_for_people_has_its_parts_and_no_control_characters() {
    let line = AuditLine {
        serial: 3,
        entry: AuditEntry {
            object: "framework-1/web\u{1b}[2J".to_owned(),
            count: 7,
            ..entry()
        },
        file: None,
    };
    let text = shown(&line);
    assert!(!text.contains('\u{1b}'), "{text}");
    let expected = "1970-01-01T00:00:05.000Z exec               operator/alice user 1001 \
                    from 10.0.0.1:4711 action exec object framework-1/web";
    assert!(text.starts_with(expected), "{text}");
    assert!(text.ends_with("outcome 101 (7 times)"), "{text}");
}

#[test]
fn a_break_is_a_failure_with_its_place() {
    let broken = |reason| {
        failure(&Break {
            file: "audit/audit-0000000002.log".into(),
            line: 17,
            reason,
        })
    };
    let changed = broken(BreakReason::Chain);
    assert_eq!(changed.code, FailureCode::Failed);
    let expected = "audit/audit-0000000002.log, line 17: the chain value does not match";
    assert!(changed.message.starts_with(expected), "{changed}");
    assert_eq!(broken(BreakReason::NoFiles).code, FailureCode::NotFound);
}
