//! Whole clusters of real processes: started by `dev`, used, and gone without a trace.

mod attach;
mod cluster;
mod desk;
mod exec;
mod executors;
mod groups;
mod limits;
mod lives;
mod opt_outs;
mod plugged;
mod volumes;
mod web;
