//! Replays the committed corpora of all fuzz targets, with the compiler of the project.
//!
//! `UPDATE_EXPECT=1` writes the generated seeds. Inputs that were found are files of any other
//! name.

mod seeds;

use std::collections::BTreeSet;
use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};

use argosy_fuzz::targets::{TARGETS, Target};

/// The largest file, and the largest sum of all, in bytes.
const FILE_BYTES: u64 = 8 << 10;
const ALL_BYTES: u64 = 300 << 10;
/// The names of generated seeds.
const PREFIX: &str = "seed-";

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn corpus(target: &str) -> Vec<PathBuf> {
    let directory = root().join("corpora").join(target);
    let entries = fs::read_dir(&directory).unwrap_or_else(|error| panic!("{directory:?}: {error}"));
    let mut files: Vec<_> = entries.map(|entry| entry.unwrap().path()).collect();
    files.sort();
    files
}

/// Runs a target, and names the input if it panics.
fn run(target: Target, name: &dyn std::fmt::Debug, bytes: &[u8]) -> bool {
    let accepted = catch_unwind(AssertUnwindSafe(|| target(bytes)));
    accepted.unwrap_or_else(|_| panic!("{name:?} is a finding"))
}

fn names_in(directory: &str, ending: &str) -> BTreeSet<String> {
    let entries = fs::read_dir(root().join(directory)).unwrap();
    let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let names = names.map(|name| name.strip_suffix(ending).unwrap_or(&name).to_owned());
    names.collect()
}

#[test]
fn every_target_has_an_executable_and_a_corpus() {
    let names: BTreeSet<String> = TARGETS.iter().map(|(name, _)| (*name).to_owned()).collect();
    assert_eq!(names.len(), TARGETS.len());
    assert!(TARGETS.is_sorted_by_key(|(name, _)| *name));
    assert_eq!(names, names_in("fuzz_targets", ".rs"));
    assert_eq!(names, names_in("corpora", ""));
    let manifest = fs::read_to_string(root().join("Cargo.toml")).unwrap();
    let list = fs::read_to_string(root().join("src/targets.rs")).unwrap();
    for name in names {
        let path = format!("fuzz_targets/{name}.rs");
        let row = format!("name = \"{name}\"\npath = \"{path}\"\nrequired-features");
        assert!(
            manifest.contains(&row),
            "Cargo.toml has no executable {name}"
        );
        let source = fs::read_to_string(root().join(&path)).unwrap();
        let (_, function) = source.split_once("fuzz_target!(argosy_fuzz::").unwrap();
        let function = function.trim_end_matches(");\n");
        let row = format!("(\"{name}\", {function})");
        assert!(
            list.contains(&row),
            "{path} runs another target: {function}"
        );
    }
}

#[test]
fn every_corpus_is_replayed_and_has_an_accepted_seed() {
    let mut all = 0;
    for (name, target) in TARGETS {
        let mut accepted = 0;
        for path in corpus(name) {
            let bytes = fs::read(&path).unwrap();
            let length = bytes.len() as u64;
            assert!(length <= FILE_BYTES, "{path:?} has {length} bytes");
            all += length;
            accepted += usize::from(run(*target, &path, &bytes));
        }
        assert!(accepted > 0, "{name} accepts no seed");
    }
    assert!(all <= ALL_BYTES, "{all} bytes are in corpora");
}

#[test]
fn every_target_refuses_damaged_seeds_without_a_panic() {
    for (name, target) in TARGETS {
        for path in corpus(name) {
            let bytes = fs::read(&path).unwrap();
            // A few cuts and flipped bits; the fuzzer tries all others.
            for at in (0..bytes.len()).step_by(bytes.len() / 16 + 1) {
                run(*target, &(&path, "cut", at), &bytes[..at]);
                let mut flipped = bytes.clone();
                flipped[at] ^= 1 << (at % 8);
                run(*target, &(&path, "flipped", at), &flipped);
            }
        }
        run(*target, name, b"");
    }
}

#[test]
fn every_generated_seed_is_accepted() {
    let mut refused = Vec::new();
    for (name, generated) in seeds::all() {
        let (_, target) = TARGETS.iter().find(|(known, _)| *known == name).unwrap();
        let directory = root().join("corpora").join(name);
        if std::env::var_os("UPDATE_EXPECT").is_some() {
            fs::create_dir_all(&directory).unwrap();
            let is_seed = |path: &PathBuf| path.to_string_lossy().contains(PREFIX);
            let former = corpus(name).into_iter().filter(is_seed);
            former.for_each(|path| fs::remove_file(path).unwrap());
            for (at, bytes) in generated.iter().enumerate() {
                fs::write(directory.join(format!("{PREFIX}{at:02}")), bytes).unwrap();
            }
        }
        assert!(!generated.is_empty(), "{name}");
        for (at, bytes) in generated.iter().enumerate() {
            if !run(*target, &(name, at), bytes) {
                refused.push(format!("{name} {at}: {}", String::from_utf8_lossy(bytes)));
            }
        }
    }
    assert!(refused.is_empty(), "\n{}", refused.join("\n"));
}
