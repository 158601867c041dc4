//! The wire protocol: generated messages, their conversion to and from `state`, and their
//! transport.
//!
//! The shape of messages is checked only here; permissions and meaning are not checked here.
//! Reading order: `v1` (generated from `proto/argosy/v1`, its services with `codec`), then
//! `convert`. `exec` defines frames outside gRPC, `file_path` the paths of tasks' files,
//! `host_path` those of their hosts.
//! `transport` and `clock` are the environment that a process is started with, so that all of it
//! can be simulated. `server` serves HTTP on a listener and limits the resources of its peers;
//! `http_client` requests from one. `codec` encodes gRPC messages; `uri` hides the secrets in URIs,
//! `secret_value` those of tasks; `trace` has the ids of requests, `log_filter` the level of the
//! log; `versions` negotiates; `watch` has the times of the change feed. `excerpt` cuts texts in
//! errors; `remedy` suggests remedies for errors of a host; `ticket` has the proofs that agents
//! accept; `metric_list` lists all metrics, and `metric_names` adds the former names of some.

#![warn(missing_docs)]

use std::collections::BTreeSet;

use prost::Message as _;

/// Generated from `proto/argosy/v1/*.proto`; documented there.
#[allow(missing_docs, clippy::all, clippy::pedantic, reason = "generated code")]
pub mod v1 {
    tonic::include_proto!("argosy.v1");
    include!(concat!(env!("OUT_DIR"), "/argosy.v1.serde.rs"));
    include!(concat!(env!("OUT_DIR"), "/strict/argosy.v1.serde.rs"));
}

pub mod clock;
pub mod codec;
pub mod convert;
pub mod excerpt;
pub mod exec;
pub mod file_path;
pub mod host_path;
pub mod http_client;
pub mod log_filter;
pub mod metric_list;
pub mod metric_names;
pub mod remedy;
pub mod secret_value;
pub mod server;
pub mod ticket;
pub mod trace;
pub mod transport;
pub mod uri;
pub mod versions;
pub mod watch;

/// The compiled descriptors of `argosy.v1`, for gRPC reflection.
pub const DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/descriptors.bin"));

/// Returns the paths of all calls, such as `/argosy.v1.Operator/GetTask`.
///
/// # Panics
/// If the descriptors of this build cannot be decoded.
#[must_use]
pub fn call_paths() -> BTreeSet<String> {
    let decoded = prost_types::FileDescriptorSet::decode(DESCRIPTORS);
    let files = decoded.expect("the build has encoded them").file;
    let mut paths = BTreeSet::new();
    for file in &files {
        for service in &file.service {
            for method in &service.method {
                let (service, method) = (service.name(), method.name());
                paths.insert(format!("/{}.{service}/{method}", file.package()));
            }
        }
    }
    paths
}

/// The default ports of masters and agents: API, agents and raft.
pub const CLUSTER_PORTS: std::ops::RangeInclusive<u16> = 5050..=5052;
