//! Collections: ordered maps whose copies share equal parts, and lists that are nearly always
//! empty.

pub mod persistent;
pub mod thin_vec;
