//! Restrictions of processes: system calls, files, devices, ports and destinations; and the
//! processes without root among which an agent divides its work.

pub mod device_filter;
pub mod division;
pub(crate) mod drop_privileges;
pub(crate) mod ebpf;
pub mod port_filter;
pub mod reach_filter;
pub(crate) mod seccomp;
pub mod service;
