//! Whole clusters of real processes: started by `dev`, used, and removed without a trace.

mod attach;
mod cluster;
mod desk;
mod division;
mod exec;
mod executors;
mod groups;
mod limits;
mod lives;
mod official;
mod opt_outs;
mod outside;
mod plugged;
mod registry;
mod volumes;
mod web;
