//! Leader: inputs in, effects compared, word for word.
//!
//! Every fact goes through the real `apply`; `UPDATE_EXPECT=1` rewrites the outputs, the difference
//! is then read like any other. Reading order: `world`, `words`, then one file a subject.

mod actors;
mod admission;
mod agents;
mod calls;
mod checks;
mod deadlines;
mod epochs;
mod frameworks;
mod level;
mod limits;
mod mass_loss;
mod messages;
mod messages_text;
mod offers;
mod pruning;
mod races;
mod registering;
mod silence;
mod stopping;
mod turns;
mod updates;
mod world;
