//! Clusters of real processes under test, for tests, the chaos harness and the benchmarks: started,
//! awaited, ended and removed in one place.
//!
//! `cluster` has its hosts in network namespaces on one bridge. Clusters at other addresses use the
//! same processes, command lines, check of health and removal. This crate injects no faults by
//! itself, records no history and checks nothing.
//!
//! Reading order: `testbed` (the environment of a run), `cluster`, `members` (its processes),
//! `schedulers`, `command_lines` (of masters and agents), `certificates` (of all of them),
//! `transport` (of the harness), `processes` (one process), `terminal` (a command on a terminal),
//! `waiting`, `network` and `partitions` (hosts), `loopback` (addresses without namespaces),
//! `watch` (the leader), `health` (of all members), `leftovers` (of killed members),
//! `run_directory` (the files of a run, and its removal), `tracer` (slow and failing syncs),
//! `reboot` (of the host of an agent), `programs` and `host_tools` (what a host must have),
//! `arguments`, `clock`, `progress`.

pub mod arguments;
pub mod certificates;
pub mod clock;
pub mod cluster;
pub mod command_lines;
pub mod health;
pub mod host_tools;
pub mod leftovers;
pub mod loopback;
pub mod members;
pub mod network;
pub mod partitions;
pub mod processes;
pub mod programs;
pub mod progress;
pub mod reboot;
pub mod run_directory;
pub mod schedulers;
pub mod terminal;
pub mod testbed;
pub mod tracer;
pub mod transport;
pub mod waiting;
pub mod watch;
