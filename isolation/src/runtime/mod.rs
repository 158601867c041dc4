//! The life of a container: its launch, supervision, commands and output, its adoption by a
//! restarted agent, and its removal.

pub mod adoption;
pub mod attachment;
pub(crate) mod command;
pub mod container;
pub mod exec;
pub(crate) mod init;
pub mod launcher;
pub mod messages;
pub mod namespaces;
pub mod output;
pub mod removal;
pub(crate) mod supervisor;
pub(crate) mod termination;
