//! The master: one task owns the registry. Links, offers, allocator and deadlines are pure, and the
//! services at the edge make no decisions.
//!
//! Reading order: `secret_keys`, `certificate_issuer`, `config`, `run`, `inbox`, `replica`,
//! `turns`, `lag`, `step_downs`, `comparison`, `checks`, `clock`, `failovers`, `watchdog`,
//! `peer_revocation`, `access`, `saved_snapshot`, `leader`, `offers`, `allocator`, `leader_reply`,
//! `links`, `link_memory`, `ticket_keys`, `token_confirmations`, `owner_handle`, `views`,
//! `change_ring`, `reads`, `encodings`, `api_router`, `service`, `http`, `metrics`, `error`.

mod access;
pub mod allocator;
mod api_router;
mod certificate_issuer;
mod change_ring;
mod checks;
mod clock;
mod comparison;
mod config;
mod encodings;
mod error;
mod failovers;
#[cfg(feature = "fuzzing")]
#[doc(hidden)]
pub mod fuzzing;
mod http;
mod inbox;
mod lag;
mod leader;
mod leader_reply;
mod link_memory;
mod links;
mod metrics;
pub mod offers;
mod owner_handle;
mod peer_revocation;
mod principal_limits;
mod reads;
mod replica;
mod run;
mod saved_snapshot;
mod secret_keys;
mod service;
mod step_downs;
mod ticket_keys;
mod token_confirmations;
mod turns;
mod views;
mod watchdog;

pub use access::{Expectation, InvalidExpectation};
pub use certificate_issuer::{CertificateIssuer, RequestedCertificate, SignCertificate};
pub use comparison::Divergence;
pub use config::MasterConfig;
pub use error::MasterError;
pub use run::{MasterParts, run};
pub use saved_snapshot::{
    EncryptionError, SavedSnapshot, SnapshotDecryptor, SnapshotEncryptor, UnusableSnapshot,
};
pub use secret_keys::{InvalidSecretKeys, SecretKeys};
pub use watchdog::TurnCounter;
