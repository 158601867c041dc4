//! The order of the top-level modules of each crate: each one imports only from modules below it.
//!
//! The compiler rejects cycles between crates, but not within one, so this test does.

use std::collections::{BTreeMap, BTreeSet};

mod tree;

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

/// Returns the crate whose root a source file is.
fn root_of(name: &str) -> Option<&str> {
    let (krate, file) = name.split_once("/src/")?;
    matches!(file, "lib.rs" | "main.rs").then_some(krate)
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

/// Returns the items that the root of a crate takes from its modules, each with its module. An
/// import of such an item from the root is one from the module.
fn root_items(code: &str) -> BTreeMap<String, String> {
    let uses = code.split(';').filter_map(|item| {
        let (_, path) = item.trim_start().split_once("use ")?;
        let (module, items) = path.split_once("::")?;
        Some((module.trim_start_matches("crate::").trim(), items))
    });
    let mut found = BTreeMap::new();
    for (module, items) in uses {
        for item in items.split(['{', ',', '}']) {
            let last = item.rsplit("::").next().unwrap_or_default();
            let name = last.rsplit(" as ").next().unwrap_or_default();
            found.insert(identifier(name.trim()).to_owned(), module.to_owned());
        }
    }
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
    let mut roots = BTreeMap::<&str, BTreeMap<String, String>>::new();
    for file in &sources {
        if let Some(krate) = root_of(&file.name) {
            let items = roots.entry(krate).or_default();
            items.extend(root_items(&code(&file.text)));
        }
    }
    let mut all = BTreeMap::<String, Uses>::new();
    for (krate, parts, text) in &modules {
        let named = names(&code(text), parts.len());
        let items = roots.get(krate);
        let modules = named.iter().map(|name| {
            let module = items.and_then(|items| items.get(name));
            if tops[krate].contains(name) {
                name
            } else {
                module.unwrap_or(name)
            }
        });
        let others = modules.filter(|name| **name != parts[0] && tops[krate].contains(*name));
        let others = others.cloned();
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
fn no_module_imports_from_one_above_it() {
    let all = uses();
    let cycles = all
        .iter()
        .map(|(name, uses)| (name, modules_in_cycles(uses)));
    let wrong = cycles.filter(|(_, found)| !found.is_empty());
    let wrong: Vec<String> = wrong
        .map(|(name, found)| format!("{name}: {}", found.join(" ")))
        .collect();
    assert!(
        wrong.is_empty(),
        "these modules import from each other in a cycle:\n{}",
        wrong.join("\n")
    );
}

#[test]
fn the_core_of_the_agent_uses_neither_its_rim_nor_wire_messages() {
    let uses = uses();
    let rim = uses["agent"]["core"].iter();
    assert_eq!(rim.collect::<Vec<_>>(), Vec::<&String>::new());
    let is_core = |name: &str| {
        module_of(name).is_some_and(|(krate, parts)| (krate, parts[0]) == ("agent", "core"))
    };
    let mut files = 0;
    for file in tree::sources().iter().filter(|file| is_core(&file.name)) {
        files += 1;
        let code = code(&file.text);
        assert!(!code.contains("argosy_proto"), "{}: use `wire`", file.name);
    }
    assert!(files > 20, "only {files} files were found");
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

#[test]
fn an_item_of_the_root_belongs_to_its_module() {
    let root =
        "mod a;\npub mod b;\npub use a::One;\npub(crate) use b::{inner::Two, Three as Four};\n";
    let found = root_items(root);
    let pairs = [("Four", "b"), ("One", "a"), ("Two", "b")];
    for (item, module) in pairs {
        assert_eq!(found.get(item).map(String::as_str), Some(module), "{item}");
    }
}
