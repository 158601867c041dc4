//! Communication with other masters: connections, messages, frames of entries, snapshot transfer.
//! The requests of other masters are served by `port`.
//!
//! Reading order: `wire` and `codec` (the messages), `versions` (negotiation), `connections`,
//! `network`, `peer_progress` and `frames` (towards a peer), `member_addresses`,
//! `snapshot_transfer` and `transfer_counts`, `rtt` (round-trip times).

pub(crate) mod codec;
pub(crate) mod connections;
pub(crate) mod frames;
pub(crate) mod member_addresses;
pub(crate) mod network;
pub(crate) mod peer_progress;
pub(crate) mod rtt;
pub(crate) mod snapshot_transfer;
pub(crate) mod transfer_counts;
pub(crate) mod versions;
pub(crate) mod wire;
