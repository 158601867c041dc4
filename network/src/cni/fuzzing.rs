//! The decoders of CNI, for fuzz targets. Only with the feature `fuzzing`.
//!
//! Each function decodes bytes, checks what must hold for the result, and returns whether the bytes
//! were accepted.

use serde_json::Value;

use super::list::{NetworkConfList, kind};
use super::{CniRecord, addresses};
use crate::{PortPublication, Protocol};

const PORT: PortPublication = PortPublication {
    name: String::new(),
    protocol: Protocol::Tcp,
    host_port: 31_000,
    container_port: 80,
};

/// A list of plugins of an operator, and the result of a plugin.
#[must_use]
pub fn configuration(list: &str, result: &str) -> bool {
    let result: Option<Value> = serde_json::from_str(result).ok();
    let list = match NetworkConfList::parse(list) {
        Ok(list) => list,
        Err(why) => {
            assert!(!why.is_empty());
            return false;
        }
    };
    check(&list, result.as_ref());
    let record = CniRecord {
        version: 1,
        list,
        ports: vec![PORT],
        result,
    };
    let written = serde_json::to_vec(&record).expect("a record becomes JSON");
    assert!(stored_record(&written), "a written record is read");
    true
}

/// The record of a container's network.
#[must_use]
pub fn stored_record(bytes: &[u8]) -> bool {
    let Ok(record) = serde_json::from_slice::<CniRecord>(bytes) else {
        return false;
    };
    check(&record.list, record.result.as_ref());
    true
}

fn check(list: &NetworkConfList, result: Option<&Value>) {
    assert!(!list.plugins.is_empty() && !list.name().is_empty());
    for plugin in &list.plugins {
        let name = kind(plugin).expect("each plugin names its executable");
        assert!(!name.is_empty() && !name.contains('/'), "{name:?}");
        let input = list.input(plugin, &[PORT], result);
        assert_eq!(input.get("name").and_then(Value::as_str), Some(list.name()));
    }
    let addresses = result.map(addresses).unwrap_or_default();
    let text = result.map_or(0, |result| result.to_string().len());
    assert!(addresses.len() <= text, "more addresses than characters");
}
