//! What tasks get from outside: files by URI, and images. Runs nothing, mounts nothing, knows no cluster.
//!
//! Reading order: `flights`, `http_client`, `fetcher`, `images`, `service`.

pub mod fetcher;
mod flights;
mod http_client;
pub mod images;
pub mod service;

use std::error::Error;

/// An error with all its causes, as one sentence.
#[must_use]
pub fn sentence(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(inner) = cause {
        text.push_str(": ");
        text.push_str(&inner.to_string());
        cause = inner.source();
    }
    text
}
