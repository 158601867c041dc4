//! The agent's end of its broker: requests of operations that need root, and the connection on
//! which they travel. `broker` performs them.
//!
//! Reading order: `request`, `link`, `connections`, `heartbeat`, `client` with `ending`,
//! `containers`, `networks` and `layers`.

mod client;
mod connections;
mod containers;
mod ending;
mod heartbeat;
mod layers;
pub(crate) mod link;
mod networks;
pub(crate) mod request;

pub(crate) use self::client::{AdoptedContainer, BrokerClient};
pub(crate) use self::layers::BrokerLayerDirs;
pub use self::link::BrokerLink;
pub(crate) use self::request::{
    BlockedEndpoints, DirectoryAccess, MeasureStep, QuotaScope, ScanProgress, ScanState,
};
