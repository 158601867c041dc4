//! Tests of the core, one input at a time, with a journal that syncs at the test's command.

mod check_schedule;
mod checks;
mod damage;
mod disk;
mod executors;
mod explanations;
mod following;
mod groups;
mod limits;
mod links;
mod predecessors;
mod random_runs;
mod restarts;
mod secrets;
mod stop_after;
mod stopping;
mod tasks;
mod world;
