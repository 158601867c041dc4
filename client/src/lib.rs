//! The client library: finding the leader, retrying, resuming; the framework SDK and the operator
//! client.
//!
//! The library contains no rules of the cluster: masters decide what is allowed. Reading order:
//! `masters`, `leader`, `failure`, `connector`, `operator`, `certificates`, `watch`, `uplink`,
//! `resources`, `scheduler`, `executor`.

#![warn(missing_docs)]

pub mod certificates;
pub mod connector;
pub mod executor;
pub mod failure;
pub mod leader;
pub mod masters;
pub mod operator;
pub mod resources;
pub mod scheduler;
pub mod uplink;
pub mod watch;

pub use certificates::CertificatesClient;
pub use connector::{Connector, ConnectorConfig, Dialer, ExpectedPeer, PeerIdentity, TokenSecret};
pub use failure::{CallError, MasterRejection};
pub use leader::NoMaster;
pub use masters::{InvalidMasters, Masters};
pub use operator::OperatorClient;
pub use scheduler::{Scheduler, SchedulerConfig, SchedulerDriver};
pub use uplink::AgentUplink;
pub use watch::{Watch, WatchPosition};
// Frameworks use the same arithmetic as the masters, and depend on this crate only.
pub use argosy_state::resources::{InvalidResources, Resources};
