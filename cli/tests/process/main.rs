//! Failover and bad input on real processes: the release executable, killed, frozen and restarted.
//!
//! Needs root (namespaces, cgroups) and the executable, named by ARGOSY_BIN or built next to this
//! test. ARGOSY_KILLS sets how many leaders the long tests kill (default 20). Every process is
//! ended by its id; nothing is left behind.

mod absences;
mod bad_input;
mod bars;
mod cluster;
mod damage;
mod divergence;
mod doors;
mod failover;
mod floods;
mod freezes;
mod kills;
mod limits;
mod offers;
mod partitions;
mod rejoin;
mod returns;
mod singletons;
mod standstill;
mod subscriptions;
mod synced;
mod upgrade;
mod work;
