//! The decoders of this crate, for fuzz targets. Only with the feature `fuzzing`.
//!
//! Each function decodes bytes, checks what must hold for the result, and returns whether the bytes
//! were accepted.

use serde_json::Value;

use crate::args::filters::{LabelFilter, agent_mode, task_state};
use crate::commands::bundle::scrubbed_text;
use crate::commands::cp::SandboxPrefix;
use crate::contexts;
use crate::parsers::{self, ContextName, PointInTime};
use crate::run::GroupFile;

/// The most bytes that an error adds to the value that it repeats with escapes.
const ERROR_BYTES: usize = 400;
/// A password that must be hidden.
const PASSWORD: &str = "c0rrecthorse";

/// The value of a flag: the first byte selects the flag.
#[must_use]
pub fn flag_value(bytes: &[u8]) -> bool {
    let Some((kind, value)) = bytes.split_first() else {
        return false;
    };
    let Ok(text) = std::str::from_utf8(value) else {
        return false;
    };
    let read = match kind {
        b'0'..=b'9' => amount(*kind, text),
        b'a'..=b'h' => place(*kind, text),
        b'i'..=b'r' => other(*kind, text),
        _ => return false,
    };
    if let Err(why) = &read {
        let most = 12 * text.len() + ERROR_BYTES;
        assert!(!why.is_empty() && why.len() <= most, "{why}");
    }
    read.is_ok()
}

/// Sizes and times.
fn amount(kind: u8, text: &str) -> Result<(), String> {
    let is_positive = |amount: parsers::Milli| assert!(amount.0 > 0, "{amount:?}");
    match kind {
        b'0' => parsers::cpus(text).map(is_positive),
        b'1' => parsers::weight(text).map(is_positive),
        b'2' => parsers::size(text).map(is_positive),
        b'3' => parsers::memory(text).map(is_positive),
        b'4' => parsers::demand(text).map(|demand| assert!(!demand.0.is_empty())),
        b'5' => parsers::duration(text).map(drop),
        b'6' => parsers::timeout(text).map(|time| assert!(!time.is_zero())),
        b'7' => parsers::point_in_time(text).map(|point| {
            let year = 366 * 24 * 3_600_000_i64;
            let is_at = matches!(point, PointInTime::At(ms) if ms.abs() > 10_000 * year);
            assert!(!is_at, "{point:?}");
        }),
        b'8' => parsers::cluster_size(text).map(|size| assert!(size.agents <= 50)),
        _ => parsers::port(text).map(|port| assert!(port > 0)),
    }
}

/// Addresses, files and volumes.
fn place(kind: u8, text: &str) -> Result<(), String> {
    match kind {
        b'a' => parsers::address(text, parsers::API_PORT).map(|address| {
            let again = parsers::address(&address, parsers::RAFT_PORT);
            assert_eq!(again.as_ref(), Ok(&address));
        }),
        b'b' => parsers::peers(text).map(|list| {
            let again = parsers::peers(&list.to_string());
            assert_eq!(again, Ok(list));
        }),
        b'c' => parsers::masters(text).map(|masters| {
            let again = parsers::masters(&masters.addresses().join(","));
            assert_eq!(again.map(|again| again == masters), Ok(true));
        }),
        b'd' => parsers::device(text).map(|(_, paths)| {
            assert!(paths.iter().all(|path| path.starts_with("/dev")));
        }),
        b'e' => parsers::uri(text).map(drop),
        b'f' => parsers::volume(text).map(drop),
        b'g' => parsers::tmpfs(text).map(drop),
        _ => parsers::secret(text).map(drop),
    }
}

fn other(kind: u8, text: &str) -> Result<(), String> {
    match kind {
        b'i' => parsers::pair(text).map(|(name, _)| assert!(!name.is_empty())),
        b'j' => parsers::http_check(text).map(drop),
        b'k' => parsers::https_check(text).map(|check| assert!(check.tls)),
        b'l' => parsers::metrics_port(text).map(drop),
        b'm' => parsers::published_port(text).map(drop),
        b'n' => parsers::switch(text).map(drop),
        b'o' => LabelFilter::parse(text).map(|filter| {
            assert_eq!(LabelFilter::parse(&filter.to_string()), Ok(filter));
        }),
        b'p' => task_state(text).map(drop),
        b'q' => agent_mode(text).map(drop),
        _ => match SandboxPrefix::parse(text) {
            Some(_) => Ok(()),
            None => Err("no path in a task".to_owned()),
        },
    }
}

/// The file of contexts. An error does not repeat a token.
#[must_use]
pub fn context_file(bytes: &[u8]) -> bool {
    let Ok(text) = std::str::from_utf8(bytes) else {
        return false;
    };
    match contexts::parse_file(text) {
        Ok(contexts) => {
            for (name, context) in &contexts.all {
                let again: Result<ContextName, _> = name.to_string().parse();
                assert!(again.is_ok_and(|again| again == *name));
                assert!(!context.masters.addresses().is_empty());
            }
            true
        }
        Err(why) => {
            assert!(!why.is_empty());
            for token in tokens(text) {
                assert!(!why.contains(&token), "{why}");
            }
            false
        }
    }
}

/// Returns the tokens of a file that are long, and are nothing else in it.
fn tokens(text: &str) -> Vec<String> {
    let value: Value = serde_json::from_str(text).unwrap_or_default();
    let contexts = value.get("contexts").and_then(Value::as_object);
    let contexts = contexts.into_iter().flat_map(|contexts| contexts.values());
    let tokens = contexts.filter_map(|context| context.get("token")?.as_str());
    let is_secret = |token: &&str| token.len() >= 24 && text.matches(*token).count() == 1;
    tokens.filter(is_secret).map(str::to_owned).collect()
}

/// The file of a group of tasks.
#[must_use]
pub fn group_file(bytes: &[u8]) -> bool {
    let Ok(text) = std::str::from_utf8(bytes) else {
        return false;
    };
    match GroupFile::read("group.json", text) {
        Ok(read) => {
            assert!(!read.tasks.is_empty());
            true
        }
        Err(why) => {
            assert!(why.message.starts_with("group.json: "), "{}", why.message);
            false
        }
    }
}

/// A line of a log in a debug bundle, with a password in the middle. It is hidden.
#[must_use]
pub fn scrubbed_line(before: &str, after: &str) -> bool {
    drop(scrubbed_text(before));
    if before.contains(PASSWORD) || after.contains(PASSWORD) {
        return false;
    }
    let line = format!("{before}\nGET https://user:{PASSWORD}@host/{after}");
    let shown = scrubbed_text(&line);
    assert!(!shown.contains(PASSWORD), "{shown}");
    assert!(shown.len() <= 16 * line.len(), "{shown}");
    shown != line
}
