//! Every rule in the sources of the checks has a damage.

use std::collections::{BTreeMap, BTreeSet};

use super::super::slices::tests::{SLICE_DAMAGES, TASK_DAMAGES};
use super::DAMAGES;
use super::indexes::ROLE_DAMAGES;

const SOURCES: [(&str, &str); 6] = [
    ("access", include_str!("../access.rs")),
    ("executors", include_str!("../executors.rs")),
    ("groups", include_str!("../groups.rs")),
    ("roles", include_str!("../roles.rs")),
    ("slices", include_str!("../slices.rs")),
    ("updates", include_str!("../updates.rs")),
];
const ROOT: &str = include_str!("../mod.rs");

/// Returns the string literals of a source without placeholders: the rules, and the names of
/// subjects and indexes. Comments and attributes are left out.
fn literals(source: &'static str) -> impl Iterator<Item = &'static str> {
    let is_code = |line: &&str| !line.trim_start().starts_with(['/', '#']);
    let quoted = |line: &'static str| line.split('"').skip(1).step_by(2);
    let all = source.lines().filter(is_code).flat_map(quoted);
    all.filter(|text| !text.contains('{'))
}

#[test]
fn every_source_is_read() {
    let modules = ROOT.lines().filter_map(|line| {
        let name = line.strip_prefix("mod ")?.strip_suffix(';')?;
        (name != "tests").then_some(name)
    });
    let read = SOURCES.iter().map(|(name, _)| *name);
    assert_eq!(modules.collect::<Vec<_>>(), read.collect::<Vec<_>>());
    for (name, source) in SOURCES.into_iter().chain([("mod", ROOT)]) {
        // Otherwise, the quotes that enclose a literal would not be found.
        assert!(
            !source.contains("\\\"") && !source.contains("'\"'"),
            "{name}"
        );
    }
}

/// A text that is in several places needs as many damages with different subjects.
#[test]
fn every_rule_has_a_damage() {
    let damages = DAMAGES.into_iter().flatten().chain(ROLE_DAMAGES);
    let damages = damages.chain(SLICE_DAMAGES).chain(TASK_DAMAGES);
    let expected: BTreeSet<&str> = damages.map(|(expected, _)| *expected).collect();
    let mut covered: BTreeMap<&str, usize> = BTreeMap::new();
    for text in expected {
        for part in text.split(": ") {
            *covered.entry(part).or_default() += 1;
        }
    }
    let mut places: BTreeMap<&str, usize> = BTreeMap::new();
    let sources = SOURCES.iter().map(|(_, source)| *source);
    for text in sources.chain([ROOT]).flat_map(literals) {
        *places.entry(text).or_default() += 1;
    }
    assert!(places.len() > 100, "only {} texts were found", places.len());
    let missing: Vec<_> = places
        .iter()
        .filter(|(text, places)| covered.get(*text).unwrap_or(&0) < *places)
        .collect();
    assert!(
        missing.is_empty(),
        "no damage breaks these rules: {missing:#?}"
    );
    for kind in ["index", "overlap", "usage"] {
        assert!(covered.contains_key(kind), "{kind}");
    }
}
