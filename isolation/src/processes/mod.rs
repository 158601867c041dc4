//! Processes of the host: their identities, and the programs that this one executes.

pub(crate) mod child;
pub mod process;
pub mod spawner;
