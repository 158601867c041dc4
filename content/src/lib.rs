//! What tasks get from outside: files by URI, and images. Runs nothing, mounts nothing, knows no cluster.
//!
//! Reading order: `flights`, `http_client`, `fetcher`, `images`, `service`.

pub mod fetcher;
mod http_client;
pub mod images;
pub mod service;
mod singleflight;

use std::error::Error;

/// An error with all its causes, as one sentence.
#[must_use]
pub fn sentence(error: &dyn Error) -> String {
    match (error.to_string(), sources(error)) {
        (own, sources) if sources.is_empty() => own,
        (own, sources) => format!("{own}: {sources}"),
    }
}

/// What its causes say; empty if it has none.
fn sources(error: &dyn Error) -> String {
    let causes = std::iter::successors(error.source(), |cause: &&dyn Error| (*cause).source());
    let words: Vec<_> = causes.map(ToString::to_string).collect();
    words.join(": ")
}
