//! TLS between the processes of a cluster, identities by certificates, and the certificate
//! authority.
//!
//! Wraps a [`Listener`](argosy_proto::transport::Listener) or a
//! [`Dialer`](argosy_proto::transport::Dialer) of another transport. Whether an authenticated peer
//! may make a call is not decided here. Reading order: `application` (what is spoken on a port),
//! `peers` (which certificates are accepted), `credentials` (the files of a process) and `store`
//! (the newest of them), then `listener` with `handshakes` and `plaintext`, and `dialer`.
//! `explanation` has the sentences for failed handshakes. `authority` and `request` issue
//! certificates; `description` shows them. `joining` is for hosts that have no certificate yet.

#![warn(missing_docs)]

pub mod application;
pub mod authority;
pub mod credentials;
pub mod description;
pub mod dialer;
mod explanation;
mod handshakes;
pub mod joining;
pub mod listener;
pub mod peers;
mod plaintext;
pub mod request;
pub mod store;

#[cfg(test)]
mod tests;

/// A time at which certificates are verified.
pub use rustls::pki_types::UnixTime as Time;

/// Whether a process speaks and accepts plaintext too.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PlaintextPolicy {
    /// TLS only.
    Rejected,
    /// While a cluster moves from plaintext to TLS: a listener accepts both, and a dialer uses
    /// plaintext with a peer that has no TLS. Any host between two processes can then cause
    /// plaintext.
    Accepted,
}
