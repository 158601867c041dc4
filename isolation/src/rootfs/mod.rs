//! The root file system of a container: its mounts and its image.

pub mod image;
pub(crate) mod mount_calls;
pub(crate) mod mounts;
