//! Tests of tickets: the text, its validity, and what each opens.

use super::*;

const NOW_MS: u64 = 1_000_000;
const CLUSTER: ClusterId = ClusterId(0x0123_4567_89ab_cdef_0011_2233_4455_6677);
const OWN: AgentId = AgentId(7);

fn key_of_agent(agent: u64) -> TicketKey {
    TicketKey::derive(1, &[7; 32], CLUSTER, AgentId(agent))
}

fn task(framework: u64, task: &str) -> TaskKey {
    TaskKey {
        framework: FrameworkId(framework),
        task: TaskId::new(task).unwrap(),
    }
}

fn path(of: &str) -> TicketScope {
    TicketScope::Path(task(3, "map-001-1"), SandboxPath::new(of).unwrap())
}

fn ticket() -> Ticket {
    Ticket {
        agent: OWN,
        verb: TicketVerb::ReadFiles,
        scope: path("out/part-0.tsv"),
        holder: "framework/wordcount".parse().unwrap(),
        expires_ms: NOW_MS + DEFAULT_VALIDITY_MS,
        request: 0xdead_beef,
    }
}

fn open(text: &str) -> Result<Ticket, TicketError> {
    Ticket::open(text, OWN, &[key_of_agent(7)], NOW_MS)
}

#[test]
fn a_ticket_is_valid_at_its_agent_repeatedly() {
    for scope in [
        TicketScope::Agent,
        TicketScope::Task(task(u64::MAX, "t")),
        path("a"),
    ] {
        let ticket = Ticket { scope, ..ticket() };
        let text = ticket.sign(&key_of_agent(7));
        assert_eq!(open(&text), Ok(ticket.clone()));
        assert_eq!(open(&text), Ok(ticket), "it is no one-time password");
    }
}

#[test]
fn the_text_of_a_known_ticket_never_changes() {
    // Made by a program in another language. Another value means that masters and agents of
    // different releases reject each other's tickets.
    assert_eq!(ticket().sign(&key_of_agent(7)), GOLDEN);
}

const GOLDEN: &str = "\
    AQEAAAAAAAAABwEAAAAAABAsoAAAAAAAAAAAAAAAAN6tvu8AE2ZyYW1ld29yay93b3JkY291bnQCAAAA\
    AAAAAAMACW1hcC0wMDEtMQAOb3V0L3BhcnQtMC50c3baoWDtUQPt3rYTUbLL0FQ74POX1fif-OR18A3x\
    h2iksQ";

#[test]
fn a_ticket_with_any_bit_flipped_is_rejected() {
    let text = ticket().sign(&key_of_agent(7));
    let bytes = base64url::decode(&text).unwrap();
    for bit in 0..bytes.len() * 8 {
        let mut changed = bytes.clone();
        changed[bit / 8] ^= 1 << (bit % 8);
        open(&base64url::encode(&changed)).unwrap_err();
    }
    for at in 0..text.len() {
        for symbol in ['A', 'B', '-', '=', '%', '\n', '\0'] {
            let mut changed = text.clone();
            changed.replace_range(at..=at, &symbol.to_string());
            if changed != text {
                open(&changed).unwrap_err();
            }
        }
        open(&text[..at]).unwrap_err();
    }
    open(&format!("{text}A")).unwrap_err();
    open(&format!("{text}AAAA")).unwrap_err();
    open(&"A".repeat(MAX_TEXT_BYTES + 1)).unwrap_err();
}

#[test]
fn a_ticket_of_another_agent_cluster_or_key_is_rejected() {
    let text = ticket().sign(&key_of_agent(8));
    assert_eq!(open(&text), Err(TicketError::Forged(OWN)));
    let other = Ticket {
        agent: AgentId(8),
        ..ticket()
    };
    let rejected = open(&other.sign(&key_of_agent(8))).unwrap_err();
    assert_eq!(
        rejected.to_string(),
        "the ticket is for agent-8, and this is agent-7"
    );
    for key in [
        TicketKey::derive(2, &[7; 32], CLUSTER, OWN),
        TicketKey::derive(1, &[8; 32], CLUSTER, OWN),
        TicketKey::derive(1, &[7; 32], ClusterId(1), OWN),
    ] {
        assert_eq!(
            open(&ticket().sign(&key)),
            Err(TicketError::Forged(OWN)),
            "{key:?}"
        );
    }
    let text = ticket().sign(&key_of_agent(7));
    let none = Ticket::open(&text, OWN, &[], NOW_MS);
    assert_eq!(none, Err(TicketError::Forged(OWN)));
    // A key is still accepted after it was replaced, as long as the agent has both.
    let both = [
        TicketKey::derive(2, &[9; 32], CLUSTER, OWN),
        key_of_agent(7),
    ];
    Ticket::open(&text, OWN, &both, NOW_MS).unwrap();
}

#[test]
fn a_ticket_ends_with_its_validity_and_is_never_valid_for_long() {
    let open_at = |expires_ms, now_ms| {
        let ticket = Ticket {
            expires_ms,
            ..ticket()
        };
        let text = ticket.sign(&key_of_agent(7));
        Ticket::open(&text, OWN, &[key_of_agent(7)], now_ms).map(drop)
    };
    assert_eq!(open_at(1_000, 999), Ok(()));
    assert_eq!(open_at(1_000, 1_000), Err(TicketError::Expired));
    assert_eq!(open_at(0, 0), Err(TicketError::Expired));
    let most = MAX_VALIDITY_MS + CLOCK_TOLERANCE_MS;
    assert_eq!(open_at(5 + most, 5), Ok(()));
    assert_eq!(open_at(6 + most, 5), Err(TicketError::TooLong));
    assert_eq!(open_at(u64::MAX, 5), Err(TicketError::TooLong));
}

#[test]
fn a_ticket_opens_only_its_verb_and_its_objects() {
    let whole = || TicketScope::Task(task(3, "map-001-1"));
    let check = |scope: TicketScope, object: TicketScope| {
        let ticket = Ticket { scope, ..ticket() };
        let verb = TicketVerb::ReadFiles;
        ticket.check(&TicketUse { verb, object }).is_ok()
    };
    let other = TicketScope::Task(task(3, "map-001-2"));
    let foreign = TicketScope::Task(task(4, "map-001-1"));
    assert!(check(whole(), whole()));
    assert!(check(whole(), path("a")));
    assert!(check(path("a/b"), path("a/b")));
    assert!(check(TicketScope::Agent, TicketScope::Agent));
    for (scope, object) in [
        (path("a/b"), path("a")),
        (path("a"), path("a/b")),
        (path("a"), path("b")),
        (path("a"), whole()),
        (path("a"), TicketScope::Agent),
        (whole(), other.clone()),
        (whole(), foreign),
        (whole(), TicketScope::Agent),
        (TicketScope::Agent, whole()),
        (TicketScope::Agent, path("a")),
        (other, path("a")),
    ] {
        assert!(!check(scope.clone(), object.clone()), "{scope} {object}");
    }
    for verb in TicketVerb::ALL {
        let object = path("out/part-0.tsv");
        let checked = ticket().check(&TicketUse { verb, object });
        assert_eq!(checked.is_ok(), verb == TicketVerb::ReadFiles, "{verb}");
    }
}

#[test]
fn paths_are_compared_in_their_normalized_form() {
    let same = SandboxPath::new("a/b").unwrap();
    for spelled in ["a/b", "/a/b", "a//b", "./a/./b/", "a/b/."] {
        assert_eq!(SandboxPath::new(spelled), Some(same.clone()), "{spelled}");
    }
    for different in ["a/B", "a%2Fb", "a\\b", "a/b ", "a"] {
        assert_ne!(SandboxPath::new(different), Some(same.clone()));
    }
    let long = "a".repeat(MAX_PATH_BYTES + 1);
    for invalid in ["", "/", ".", "..", "a/../b", "a/..", "a\0b", &long] {
        assert_eq!(SandboxPath::new(invalid), None, "{invalid:?}");
    }
    let name = argosy_state::limits::NAME_BYTES;
    let longest = Ticket {
        scope: TicketScope::Path(
            task(u64::MAX, &"t".repeat(name)),
            SandboxPath::new(&long[1..]).unwrap(),
        ),
        holder: format!("framework/{}", "f".repeat(name)).parse().unwrap(),
        ..ticket()
    };
    let text = longest.sign(&key_of_agent(7));
    assert!(text.len() <= MAX_TEXT_BYTES, "{}", text.len());
    assert_eq!(open(&text), Ok(longest));
}

#[test]
fn a_key_is_not_shown() {
    let key = key_of_agent(7);
    assert_eq!(format!("{key:?}"), "TicketKey { number: 1, .. }");
    assert_eq!(TicketKey::received(1, key.secret()).as_ref(), Some(&key));
    assert_eq!(TicketKey::received(256, key.secret()), None);
    assert_eq!(TicketKey::received(1, &key.secret()[1..]), None);
}
