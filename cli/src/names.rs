//! Two-word names for tasks without a name: `brave-otter`. Pure: the randomness is an argument.

const QUALITIES: [&str; 64] = [
    "able", "agile", "amber", "bold", "brave", "brisk", "calm", "clear", "clever", "cosy", "crisp",
    "daring", "deft", "eager", "early", "easy", "fair", "fleet", "fond", "frank", "fresh",
    "gentle", "glad", "grand", "happy", "hardy", "honest", "humble", "jolly", "keen", "kind",
    "lively", "loyal", "lucid", "lucky", "mellow", "merry", "mild", "modest", "neat", "nimble",
    "noble", "patient", "plain", "polite", "proud", "quick", "quiet", "ready", "royal", "sharp",
    "silent", "sleek", "smart", "snug", "solid", "steady", "sunny", "swift", "tidy", "true",
    "vivid", "warm", "wise",
];

const ANIMALS: [&str; 64] = [
    "albatross",
    "badger",
    "beaver",
    "bison",
    "cormorant",
    "crab",
    "crane",
    "curlew",
    "deer",
    "dolphin",
    "dove",
    "duck",
    "eagle",
    "eider",
    "elk",
    "falcon",
    "ferret",
    "finch",
    "fox",
    "frog",
    "gannet",
    "goose",
    "gull",
    "hare",
    "hawk",
    "hedgehog",
    "heron",
    "ibis",
    "jay",
    "kestrel",
    "kite",
    "lark",
    "lemur",
    "lynx",
    "marten",
    "mink",
    "mole",
    "newt",
    "ocelot",
    "osprey",
    "otter",
    "owl",
    "panda",
    "pelican",
    "petrel",
    "plover",
    "puffin",
    "quail",
    "rabbit",
    "raven",
    "robin",
    "salmon",
    "seal",
    "shrew",
    "sparrow",
    "stork",
    "swan",
    "tern",
    "thrush",
    "turtle",
    "vole",
    "walrus",
    "whale",
    "wren",
];

/// Returns the name of this number. Two live tasks may get the same name: each `run` is its own
/// framework, task ids must be unique only within one, and lookups list both.
pub(crate) fn name(random: u64) -> String {
    let quality = QUALITIES[(random % 64) as usize];
    let animal = ANIMALS[((random >> 6) % 64) as usize];
    format!("{quality}-{animal}")
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn a_number_always_has_the_same_name() {
        assert_eq!(name(4 + (40 << 6)), "brave-otter");
        assert_eq!(name(6 + (26 << 6)), "calm-heron");
    }

    #[test]
    fn all_4096_names_differ_and_are_task_ids() {
        let names: BTreeSet<_> = (0..4_096).map(name).collect();
        assert_eq!(names.len(), 4_096);
        for name in names {
            assert!(argosy_state::ids::TaskId::new(&name).is_ok(), "{name}");
        }
    }
}
