//! Whole clusters of real processes: started by `dev`, used, and gone without a trace.

mod cluster;
mod exec;
mod lives;
mod opt_outs;
mod volumes;
mod web;
