//! The encoding of values as bytes: stored messages, and the canonical bytes of fingerprints.
//!
//! The stored form of a type is next to the type, and is written with what is here: the macro in
//! `stored` defines a message by its fields, and the kinds of fields are in `scalars`, `parts` and
//! `text_form`. No type of the cluster is known here.

pub(crate) mod canonical;
pub(crate) mod error;
pub(crate) mod message;
pub(crate) mod parts;
pub(crate) mod scalars;
pub(crate) mod stored;
pub(crate) mod text_form;
pub(crate) mod wire;
