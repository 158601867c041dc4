//! Failover and bad input on real processes: the release executable, killed, frozen and restarted.
//!
//! Needs root (namespaces, cgroups) and the executable, named by ARGOSY_BIN or built next to this
//! test. ARGOSY_KILLS sets how many leaders the long tests kill (default 20). Every process is
//! ended by its id; nothing is left behind.

mod bad_input;
mod cluster;
mod core_dumps;
mod damage;
mod disaster;
mod divergence;
mod durability;
mod endpoints;
mod failover;
mod failover_bounds;
mod floods;
mod freezes;
mod joining;
mod kills;
mod limits;
mod metrics;
mod offers;
mod outage;
mod partitions;
mod rejoin;
mod returning_agents;
mod singletons;
mod stalls;
mod subscriptions;
mod test_framework;
mod test_hooks;
mod tls;
mod tls_attacks;
mod upgrade;
