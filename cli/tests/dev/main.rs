//! Whole clusters of real processes: started by `dev`, used, and removed without a trace.

mod administration;
mod attach;
mod closed;
mod cluster;
mod cni;
mod copies;
mod diagnosis;
mod events;
mod exec;
mod executors;
mod groups;
mod lifecycle;
mod limits;
mod lists;
mod logs;
mod official_images;
mod outside;
mod preparation;
mod privilege_drop;
mod registry;
mod security_options;
mod terminal;
mod top;
mod volumes;
mod waits;
mod web;
