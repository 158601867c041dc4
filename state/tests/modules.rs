//! Cyclic dependencies between the top-level modules of each crate.
//!
//! The compiler rejects cycles between crates, but not within one, so this test counts them. A
//! number here may only decrease. A crate that is not listed has no cycle.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

/// The number of top-level modules of a crate that are part of a cycle.
const IN_CIRCLES: [(&str, usize); 9] = [
    ("agent", 20),
    ("bench", 15),
    ("chaos", 3),
    ("cli", 3),
    ("client", 2),
    ("content", 3),
    ("isolation", 30),
    ("master", 6),
    ("raft", 15),
];
/// Registry, commands and their encoding refer to each other by design: they are facts and the
/// rules over them.
const STATE: (&str, usize) = ("state", 13);

type Uses = BTreeMap<String, BTreeSet<String>>;

fn root() -> PathBuf {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    here.parent().expect("the crate is in the tree").to_owned()
}

fn rust_files(folder: &Path, found: &mut Vec<PathBuf>) {
    let Ok(entries) = fs::read_dir(folder) else {
        return;
    };
    for entry in entries {
        let path = entry.unwrap().path();
        if path.is_dir() {
            rust_files(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
}

/// Returns the module path of a file below `src`; `None` for tests and for the roots of a crate.
fn module_of(file: &Path) -> Option<Vec<String>> {
    let mut parts: Vec<String> = file
        .with_extension("")
        .iter()
        .map(|part| part.to_string_lossy().into_owned())
        .collect();
    if parts.iter().any(|part| part == "tests" || part == "bin") {
        return None;
    }
    if parts.last().is_some_and(|last| last == "mod") {
        parts.pop();
    }
    match parts.as_slice() {
        [only] if only == "lib" || only == "main" => None,
        _ => Some(parts),
    }
}

/// Returns the code of a file, without comments, strings, and modules of tests.
fn code(text: &str) -> String {
    let mut kept = String::new();
    for line in text.lines() {
        let line = line.split("//").next().unwrap_or_default();
        let mut quoted = line.split('"');
        kept.push_str(quoted.next().unwrap_or_default());
        quoted
            .skip(1)
            .step_by(2)
            .for_each(|part| kept.push_str(part));
        kept.push('\n');
    }
    match kept.find("#[cfg(test)]\nmod tests {") {
        Some(at) => kept[..at].to_owned(),
        None => kept,
    }
}

fn identifier(text: &str) -> &str {
    let end = text.find(|c: char| c != '_' && !c.is_ascii_alphanumeric());
    &text[..end.unwrap_or(text.len())]
}

/// Returns the top-level names to which a file refers, through `crate::` or through `depth` times
/// `super::`.
fn names(code: &str, depth: usize) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    let mut paths = |mark: &str| {
        for (at, _) in code.match_indices(mark) {
            let before = code[..at].chars().next_back();
            if before.is_some_and(|c| c == ':' || c == '_' || c.is_alphanumeric()) {
                continue;
            }
            let rest = &code[at + mark.len()..];
            match rest.strip_prefix('{') {
                Some(group) => {
                    let group = group.split(';').next().unwrap_or_default();
                    let names = group.split(',').map(|part| identifier(part.trim()));
                    found.extend(names.map(str::to_owned));
                }
                None => drop(found.insert(identifier(rest).to_owned())),
            }
        }
    };
    paths("crate::");
    paths(&"super::".repeat(depth));
    found
}

/// Returns the top-level modules that each one uses.
fn uses(src: &Path) -> Uses {
    let mut files = Vec::new();
    rust_files(src, &mut files);
    let modules: Vec<(Vec<String>, &PathBuf)> = files
        .iter()
        .filter_map(|file| Some((module_of(file.strip_prefix(src).ok()?)?, file)))
        .collect();
    let tops: BTreeSet<String> = modules.iter().map(|(parts, _)| parts[0].clone()).collect();
    let mut all = Uses::new();
    for (parts, file) in &modules {
        let named = names(&code(&fs::read_to_string(file).unwrap()), parts.len());
        let others = named.intersection(&tops).filter(|name| **name != parts[0]);
        all.entry(parts[0].clone())
            .or_default()
            .extend(others.cloned());
    }
    all
}

/// Returns all modules that can be reached from a module.
fn reached(uses: &Uses, from: &str) -> BTreeSet<String> {
    let mut seen = BTreeSet::new();
    let mut next = vec![from];
    while let Some(module) = next.pop() {
        for used in uses.get(module).into_iter().flatten() {
            if seen.insert(used.clone()) {
                next.push(used);
            }
        }
    }
    seen
}

/// Returns the modules that can be reached from themselves.
fn in_circles(uses: &Uses) -> Vec<&str> {
    let all = uses.keys().map(String::as_str);
    all.filter(|module| reached(uses, module).contains(*module))
        .collect()
}

#[test]
fn circles_of_modules_only_shrink() {
    let allowed: BTreeMap<&str, usize> = IN_CIRCLES.into_iter().chain([STATE]).collect();
    let mut wrong = Vec::new();
    for entry in fs::read_dir(root()).unwrap() {
        let folder = entry.unwrap().path();
        let name = folder.file_name().unwrap().to_string_lossy().into_owned();
        if !folder.join("Cargo.toml").is_file() {
            continue;
        }
        let uses = uses(&folder.join("src"));
        let found = in_circles(&uses);
        let most = allowed.get(name.as_str()).copied().unwrap_or(0);
        if found.len() != most {
            wrong.push(format!(
                "{name}: {} modules in circles, {most} are noted: {}",
                found.len(),
                found.join(" ")
            ));
        }
    }
    assert!(
        wrong.is_empty(),
        "remove the circle, or lower the number:\n{}",
        wrong.join("\n")
    );
}

#[test]
fn a_circle_is_found_and_a_chain_is_none() {
    let uses = |pairs: &[(&str, &str)]| {
        let mut uses = Uses::new();
        for (from, to) in pairs {
            uses.entry((*to).to_owned()).or_default();
            let used = uses.entry((*from).to_owned()).or_default();
            used.insert((*to).to_owned());
        }
        uses
    };
    assert!(in_circles(&uses(&[("a", "b"), ("b", "c")])).is_empty());
    let circle = uses(&[("a", "b"), ("b", "c"), ("c", "b")]);
    assert_eq!(in_circles(&circle), ["b", "c"]);
}

#[test]
fn names_come_from_paths_and_not_from_text() {
    let text = "//! crate::comment\nuse crate::{one::A, two};\nfn f() { crate::three::g(\"crate::text\") }\n\
        use super::super::four::B;\n#[cfg(test)]\nmod tests { use crate::five; }\n";
    let found = names(&code(text), 2);
    let found: Vec<&str> = found.iter().map(String::as_str).collect();
    assert_eq!(found, ["four", "one", "three", "two"]);
}
