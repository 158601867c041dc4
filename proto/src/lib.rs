//! The wire: generated messages, and their translation to and from `state`; what carries them.
//!
//! Shape is judged here and nowhere else; permission and meaning are not. Reading order: `v1`
//! (generated from `proto/argosy/v1`, its services with `codec`), then `convert`; `exec` are frames that are no gRPC; `transport` and
//! `clock` are what a process is given by whoever starts it, so that all of it can be simulated; `server`
//! serves HTTP on a listener and bounds what its peers may hold; `codec` encodes messages of gRPC; `uri` hides the secrets of URIs; `versions` negotiates; `remedy` says
//! what helps against errors of a host.

/// Generated from `proto/argosy/v1/*.proto`; documented there.
#[allow(missing_docs, clippy::all, clippy::pedantic, reason = "generated code")]
pub mod v1 {
    tonic::include_proto!("argosy.v1");
    include!(concat!(env!("OUT_DIR"), "/argosy.v1.serde.rs"));
}

pub mod clock;
pub mod codec;
pub mod convert;
pub mod exec;
pub mod remedy;
pub mod server;
pub mod transport;
pub mod uri;
pub mod versions;

/// The compiled descriptors of `argosy.v1`, for gRPC reflection.
pub const DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/descriptors.bin"));

/// The ports on which masters and agents serve by default: API, agents and raft.
pub const CLUSTER_PORTS: std::ops::RangeInclusive<u16> = 5050..=5052;
