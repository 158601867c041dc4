//! Processes of the host: their identities, copies of this one, the programs that it executes, and
//! messages between them.

pub(crate) mod child;
pub(crate) mod fork;
pub(crate) mod packets;
pub mod process;
pub mod spawner;
