//! The root file system of a container: its mounts and its image, and the removal of directories
//! that a container could change.

pub mod image;
pub(crate) mod mount_calls;
pub(crate) mod mounts;
pub mod remove_tree;
