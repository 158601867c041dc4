//! Tests of the store as a whole, each on every kind of disk that this build has.

mod bench;
mod crash;
mod harness;
mod images;
mod suite;
