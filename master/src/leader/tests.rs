//! Tests of the leader: inputs in, effects compared as text.
//!
//! Every fact passes through the real `apply`. `UPDATE_EXPECT=1` rewrites the expected output;
//! review the difference like any other. Reading order: `fixture`, `messages_text`, `scenarios`,
//! then one file for each subject. A test is a scenario file, unless it needs a loop, an invalid
//! value or a part of an output: then it is a function.

mod access;
mod access_changes;
mod actors;
mod admission;
mod agents;
mod calls;
mod checks;
mod deadlines;
mod disclosure;
mod epochs;
mod fixture;
mod following;
mod forgotten_tasks;
mod level;
mod limits;
mod mass_loss;
mod messages;
mod messages_text;
mod offers;
mod pruning;
mod races;
mod registration_queue;
mod revoked_keys;
mod scenarios;
mod secrets;
mod stopping;
mod turns;
mod updates;
