//! Processes of the host: their identities, copies of this one, the programs that it executes, and
//! messages between them.

pub mod child;
pub mod fork;
pub mod packets;
pub mod process;
pub mod spawner;
