//! Content for tasks: files by URI, and images. Runs and mounts nothing, and knows no cluster.
//!
//! Reading order: `singleflight`, `fair_slots`, `http_client`, `fetcher`, `images`, `service`.

mod fair_slots;
pub mod fetcher;
mod http_client;
pub mod images;
pub mod service;
mod singleflight;
#[cfg(test)]
mod testing;

use std::error::Error;

pub use fair_slots::{FairSlot, FairSlots};

/// Formats an error with all its causes as one message.
#[must_use]
pub fn error_chain(error: &dyn Error) -> String {
    match (error.to_string(), sources(error)) {
        (own, sources) if sources.is_empty() => own,
        (own, sources) => format!("{own}: {sources}"),
    }
}

/// Formats its causes; empty if it has none.
fn sources(error: &dyn Error) -> String {
    let causes = std::iter::successors(error.source(), |cause: &&dyn Error| (*cause).source());
    let words: Vec<_> = causes.map(ToString::to_string).collect();
    words.join(": ")
}
