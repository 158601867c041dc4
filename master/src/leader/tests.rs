//! Tests of the leader: inputs in, effects compared as text.
//!
//! Every fact passes through the real `apply`. `UPDATE_EXPECT=1` rewrites the expected output;
//! review the difference like any other. Reading order: `world`, `messages_text`, then one file for
//! each subject.

mod actors;
mod admission;
mod agents;
mod calls;
mod checks;
mod deadlines;
mod epochs;
mod fixture;
mod frameworks;
mod level;
mod limits;
mod mass_loss;
mod messages;
mod messages_text;
mod offers;
mod pruning;
mod races;
mod registration_queue;
mod silent_schedulers;
mod stopping;
mod turns;
mod updates;
