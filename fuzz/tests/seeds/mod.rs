//! The generated seeds: inputs that their targets accept.

mod binary;
mod text;

use std::collections::BTreeMap;

/// Returns the seeds of each target.
pub(crate) fn all() -> BTreeMap<&'static str, Vec<Vec<u8>>> {
    let mut seeds: BTreeMap<&'static str, Vec<Vec<u8>>> = BTreeMap::new();
    for (target, text) in text::SEEDS {
        let all = seeds.entry(target).or_default();
        all.push(text.as_bytes().to_vec());
    }
    for (target, generated) in binary::seeds() {
        seeds.entry(target).or_default().extend(generated);
    }
    seeds
}
