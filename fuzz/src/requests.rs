//! Requests over HTTP: queries, bodies and headers of masters and agents.

use argosy_agent::fuzzing::TaskRequest;
use argosy_master::Expectation;
use argosy_master::SecretKeys;
use argosy_proto::file_path::{FileTarget, MAX_BYTES};
use argosy_proto::server::hosts::host_name;
use argosy_proto::ticket::SandboxPath;
use argosy_proto::trace::TraceContext;
use argosy_proto::transport::certificate_identity::{CertificateIdentity, ClusterName};
use argosy_proto::uri::RedactedUri;
use argosy_proto::versions::VersionRange;

use crate::property::{check_error, text};

/// A password that must be hidden.
const PASSWORD: &str = "c0rrecthorse";

/// The query of a request for JSON at a master.
pub fn http_query(bytes: &[u8]) -> bool {
    argosy_master::fuzzing::http_query(bytes)
}

/// A batch of changes by an operator.
pub fn write_batch(bytes: &[u8]) -> bool {
    argosy_master::fuzzing::write_batch(bytes)
}

/// The query of a request that a master forwards to an agent: the first byte selects its kind. Both
/// find the same task in it.
pub fn forwarded_query(bytes: &[u8]) -> bool {
    let Some((kind, query)) = bytes.split_first() else {
        return false;
    };
    let Ok(query) = std::str::from_utf8(query) else {
        return false;
    };
    let request = match kind {
        b'f' => TaskRequest::Files,
        b'e' => TaskRequest::Exec,
        b'a' => TaskRequest::Attach,
        _ => return false,
    };
    let Some(served) = argosy_agent::fuzzing::requested_task(request, query) else {
        return false;
    };
    let is_file = request == TaskRequest::Files;
    let checked = argosy_master::fuzzing::checked_task(is_file, query);
    assert_eq!(checked, Some(served), "the master has checked another task");
    true
}

/// A header, or a part of one: the first byte selects it.
pub fn headers(bytes: &[u8]) -> bool {
    let Some((kind, value)) = bytes.split_first() else {
        return false;
    };
    if let b'0' | b'1' = kind {
        let forwarded = [&[kind - b'0'], value].concat();
        return argosy_master::fuzzing::forwarded_headers(&forwarded);
    }
    let Ok(value) = std::str::from_utf8(value) else {
        return false;
    };
    match kind {
        b't' => TraceContext::parse(value).is_some_and(|context| {
            let again = TraceContext::parse(&context.to_string());
            assert_eq!(again, Some(context));
            true
        }),
        b'v' => match value.parse::<VersionRange>() {
            Ok(range) => {
                assert_eq!(range.header().parse(), Ok(range));
                true
            }
            Err(_) => false,
        },
        b'h' => host_name(value).is_ok_and(|name| {
            assert_eq!(host_name(&name), Ok(name));
            true
        }),
        b'i' => text::<CertificateIdentity>(value),
        b'c' => text::<ClusterName>(value),
        _ => false,
    }
}

/// A path of the API for files.
pub fn file_path(bytes: &[u8]) -> bool {
    let Ok(path) = std::str::from_utf8(bytes) else {
        return false;
    };
    if let Some(inside) = SandboxPath::new(path) {
        assert_eq!(SandboxPath::new(inside.as_str()).as_ref(), Some(&inside));
    }
    match FileTarget::parse(path) {
        Ok(FileTarget::Sandbox(task, parts)) => {
            assert!(path.len() <= MAX_BYTES);
            let is_plain = |part: &String| !part.is_empty() && part != "." && part != "..";
            assert!(parts.iter().all(is_plain), "{parts:?}");
            let written = format!("tasks/{task}/{}", parts.join("/"));
            if written.len() <= MAX_BYTES {
                let again = FileTarget::parse(&written);
                assert_eq!(again, Ok(FileTarget::Sandbox(task, parts)));
            }
            true
        }
        Ok(FileTarget::Frameworks | FileTarget::Tasks(_)) => true,
        Err(rule) => {
            check_error(&rule, path.len());
            false
        }
    }
}

/// A URI, in which a password is hidden.
pub fn redacted_uri(bytes: &[u8]) -> bool {
    let Ok(rest) = std::str::from_utf8(bytes) else {
        return false;
    };
    drop(RedactedUri::of(rest));
    if rest.contains(PASSWORD) {
        return false;
    }
    let uri = format!("https://user:{PASSWORD}@host/{rest}");
    let shown = RedactedUri::of(&uri).to_string();
    assert!(!shown.contains(PASSWORD), "{shown}");
    shown.contains("host")
}

/// A file of keys for secrets. Neither an error nor its debug output contains a key.
pub fn secret_keys(bytes: &[u8]) -> bool {
    let Ok(text) = std::str::from_utf8(bytes) else {
        return false;
    };
    match SecretKeys::parse(text) {
        Ok(keys) => {
            let ids: Vec<&str> = keys.ids().collect();
            assert!((1..=16).contains(&ids.len()));
            assert_eq!(format!("{keys:?}"), format!("{ids:?}"), "more than the ids");
            true
        }
        Err(error) => {
            check_error(&error, 0);
            false
        }
    }
}

/// A file of expectations about access rules.
pub fn expectations(bytes: &[u8]) -> bool {
    let Ok(text) = std::str::from_utf8(bytes) else {
        return false;
    };
    match Expectation::read_all(text) {
        Ok(all) => {
            for one in &all {
                let again = Expectation::read_all(&one.to_string());
                let again = again.expect("a written expectation is read");
                assert_eq!(again.len(), 1);
                assert_eq!(again[0].to_string(), one.to_string());
            }
            !all.is_empty()
        }
        Err(error) => {
            check_error(&error, text.len());
            false
        }
    }
}
