//! Tests of the store as a whole, on each kind of disk that this build has.

mod async_appends;
mod crash;
mod damage;
mod disk_stall;
#[cfg(feature = "rocksdb")]
mod files;
mod harness;
mod images;
mod power_cuts;
mod process;
mod reads;
#[cfg(feature = "shuttle")]
mod schedules;
mod suite;
mod unwritten;
