//! Tests of the store as a whole, on each kind of disk that this build has.

mod crash;
mod cuts;
mod damage;
mod early;
#[cfg(feature = "rocksdb")]
mod files;
mod harness;
mod images;
mod process;
mod reads;
mod suite;
mod unwritten;
