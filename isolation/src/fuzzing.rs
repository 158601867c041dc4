//! The decoders of this crate, for fuzz targets. Only with the feature `fuzzing`.
//!
//! Each function decodes bytes, checks what must hold for the result, and returns whether the bytes
//! were accepted.

use std::collections::BTreeSet;

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::image::{find, home_of};
use crate::output::{OutputRecord, StreamName, decode_times, encode_times};
use crate::runtime::exec::evaluate_response;
use crate::spec::UserSpec;
use crate::spec::profile::CONTAINER_IDS;
use crate::state_dir::{Exit, HandleFile};

/// A file that a container or its supervisor leaves for an agent: the first byte selects its kind.
#[must_use]
pub fn hand_off_file(bytes: &[u8]) -> bool {
    let Some((kind, content)) = bytes.split_first() else {
        return false;
    };
    match kind {
        b'h' => json::<HandleFile>(content).is_some(),
        b'e' => json::<Exit>(content).is_some(),
        b'o' => OutputRecord::from_bytes(content).is_some_and(|read| {
            let ends = [StreamName::Stdout, StreamName::Stderr].map(|name| read.of(name).end);
            let written = serde_json::to_vec(&read).expect("a record becomes JSON");
            assert_eq!(OutputRecord::from_bytes(&written), Some(read));
            ends.into_iter().all(|end| end <= 1 << 62)
        }),
        b't' => {
            let spans = decode_times(content);
            assert!(spans.len() <= content.len(), "more spans than bytes");
            assert_eq!(decode_times(&encode_times(&spans)), spans);
            !spans.is_empty()
        }
        b's' => evaluate_response(content, &BTreeSet::new()).is_ok(),
        _ => false,
    }
}

fn json<T: Serialize + DeserializeOwned + PartialEq + std::fmt::Debug>(bytes: &[u8]) -> Option<T> {
    let read: T = serde_json::from_slice(bytes).ok()?;
    let written = serde_json::to_vec(&read).expect("a state file becomes JSON");
    let again: T = serde_json::from_slice(&written).expect("a written state file is read");
    assert_eq!(again, read);
    Some(read)
}

/// The accounts of a container's root, and the user of an image.
#[must_use]
pub fn accounts(user: &str, passwd: &str, group: &str) -> bool {
    let Some(spec) = UserSpec::parse(user) else {
        return false;
    };
    let home = home_of(passwd, &spec);
    assert!(home.starts_with('/') && !home.contains('\0'), "{home:?}");
    match find(passwd, group, &spec) {
        Ok(found) => {
            let mut ids = [found.uid, found.gid].into_iter().chain(found.groups);
            assert!(ids.all(|id| id < CONTAINER_IDS), "an id of no container");
            true
        }
        Err(why) => {
            assert!(!why.is_empty());
            false
        }
    }
}
