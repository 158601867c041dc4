//! The data of a master on disk: the log, the vote and the registry in RocksDB, and snapshots in
//! files.
//!
//! Reading order: `directory` (the lock, and the required content of a directory), `rejoin` (data
//! that must not be served), `restored` and `restoration` (directories made of records),
//! `durable_file`, `disk`, `store` and `parts` (RocksDB), `record`, `entry` and `log` (entries),
//! `registry`, `unwritten` and `writer` (writes in one thread), `snapshot`, `image` and
//! `snapshot_store` (snapshots), `saved_snapshot`, `install`, `usage` (space on the disk).

pub(crate) mod directory;
pub(crate) mod disk;
pub(crate) mod durable_file;
pub(crate) mod entry;
pub(crate) mod image;
pub(crate) mod install;
pub(crate) mod log;
pub(crate) mod parts;
pub(crate) mod record;
pub(crate) mod registry;
pub(crate) mod rejoin;
pub(crate) mod restoration;
pub(crate) mod restored;
pub(crate) mod saved_snapshot;
pub(crate) mod snapshot;
pub(crate) mod snapshot_store;
pub(crate) mod store;
pub(crate) mod unwritten;
pub(crate) mod usage;
pub(crate) mod writer;
