//! Cyclic dependencies between the top-level modules of each crate.
//!
//! The compiler rejects cycles between crates, but not within one, so this test counts them. A
//! number here may only decrease. A crate that is not listed has no cycle.

use std::collections::{BTreeMap, BTreeSet};

mod tree;

/// The number of top-level modules of a crate that are part of a cycle.
const IN_CYCLES: [(&str, usize); 1] = [
    // Registry, commands and encoding refer to each other by design: facts, and rules over them.
    ("state", 13),
];

type Uses = BTreeMap<String, BTreeSet<String>>;

/// Returns crate and module path of a source file; `None` for tests and for the roots of a crate.
fn module_of(name: &str) -> Option<(&str, Vec<&str>)> {
    let (krate, path) = name.strip_suffix(".rs")?.split_once("/src/")?;
    let mut parts: Vec<&str> = path.split('/').collect();
    if parts.iter().any(|part| matches!(*part, "tests" | "bin")) {
        return None;
    }
    parts.pop_if(|last| *last == "mod");
    match parts.as_slice() {
        ["lib" | "main"] => None,
        _ => Some((krate, parts)),
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
    // Tests of other files may use such a module: `pub(crate) mod tests`.
    let tests = kept.match_indices("#[cfg(test)]\n").find(|(at, mark)| {
        let next = kept[at + mark.len()..].lines().next();
        next.is_some_and(|line| line.ends_with("mod tests {"))
    });
    match tests {
        Some((at, _)) => kept[..at].to_owned(),
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

/// Returns the top-level modules of each crate, each with those that it uses.
fn uses() -> BTreeMap<String, Uses> {
    let sources = tree::sources();
    let modules = sources.iter();
    let modules: Vec<(&str, Vec<&str>, &str)> = modules
        .filter_map(|file| {
            let (krate, parts) = module_of(&file.name)?;
            Some((krate, parts, file.text.as_str()))
        })
        .collect();
    let mut tops = BTreeMap::<&str, BTreeSet<String>>::new();
    for (krate, parts, _) in &modules {
        let tops = tops.entry(krate).or_default();
        tops.insert(parts[0].to_owned());
    }
    let mut all = BTreeMap::<String, Uses>::new();
    for (krate, parts, text) in &modules {
        let named = names(&code(text), parts.len());
        let others = named.intersection(&tops[krate]);
        let others = others.filter(|name| *name != parts[0]).cloned();
        let uses = all.entry((*krate).to_owned()).or_default();
        uses.entry(parts[0].to_owned()).or_default().extend(others);
    }
    all
}

/// Returns all modules that can be reached from a module.
fn reachable(uses: &Uses, from: &str) -> BTreeSet<String> {
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
fn modules_in_cycles(uses: &Uses) -> Vec<&str> {
    let all = uses.keys().map(String::as_str);
    all.filter(|module| reachable(uses, module).contains(*module))
        .collect()
}

#[test]
fn cycles_of_modules_only_shrink() {
    let allowed = BTreeMap::from(IN_CYCLES);
    let mut wrong = Vec::new();
    for (name, uses) in uses() {
        let found = modules_in_cycles(&uses);
        let most = allowed.get(name.as_str()).copied().unwrap_or(0);
        if found.len() != most {
            wrong.push(format!(
                "{name}: {} modules in cycles, {most} are noted: {}",
                found.len(),
                found.join(" ")
            ));
        }
    }
    assert!(
        wrong.is_empty(),
        "remove the cycle, or lower the number:\n{}",
        wrong.join("\n")
    );
}

#[test]
fn cycles_are_detected_and_chains_are_not() {
    let uses = |pairs: &[(&str, &str)]| {
        let mut uses = Uses::new();
        for (from, to) in pairs {
            uses.entry((*to).to_owned()).or_default();
            let used = uses.entry((*from).to_owned()).or_default();
            used.insert((*to).to_owned());
        }
        uses
    };
    assert!(modules_in_cycles(&uses(&[("a", "b"), ("b", "c")])).is_empty());
    let cycle = uses(&[("a", "b"), ("b", "c"), ("c", "b")]);
    assert_eq!(modules_in_cycles(&cycle), ["b", "c"]);
}

#[test]
fn names_come_from_paths_and_not_from_text() {
    let text = "//! crate::comment\nuse crate::{one::A, two};\nfn f() { crate::three::g(\"crate::text\") }\n\
        use super::super::four::B;\n#[cfg(test)]\npub(crate) mod tests {\n use crate::five;\n}\n";
    let found = names(&code(text), 2);
    let found: Vec<&str> = found.iter().map(String::as_str).collect();
    assert_eq!(found, ["four", "one", "three", "two"]);
}
