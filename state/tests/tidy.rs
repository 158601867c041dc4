//! The rules of the tree that no compiler checks: dependencies of crates, file headers and sizes,
//! names, places of unsafe code, and words that committed text must not contain.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;

mod tree;

use tree::{Source, has_word, root, sources, tree};

/// The allowed dependencies between crates. A new one needs a decision.
const EDGES: [(&str, &[&str]); 21] = [
    ("testing", &[]),
    ("fakes", &["state", "proto"]),
    ("model", &[]),
    (
        "content",
        &["host", "isolation", "network", "proto", "state", "testing"],
    ),
    ("state", &[]),
    ("host", &[]),
    ("isolation", &["host", "network"]),
    ("network", &["host"]),
    ("proto", &["host", "state"]),
    ("tls", &["proto", "state"]),
    ("raft", &["host", "state", "proto"]),
    ("client", &["state", "proto"]),
    ("master", &["raft", "state", "proto"]),
    (
        "agent",
        &[
            "client",
            "content",
            "host",
            "isolation",
            "network",
            "state",
            "proto",
            "testing",
        ],
    ),
    ("frameworks", &["client", "proto", "tls"]),
    (
        "cli",
        &[
            "agent",
            "client",
            "frameworks",
            "host",
            "isolation",
            "master",
            "network",
            "proto",
            "raft",
            "state",
            "testing",
            "tls",
        ],
    ),
    (
        "chaos",
        &[
            "agent",
            "client",
            "frameworks",
            "host",
            "isolation",
            "master",
            "proto",
            "raft",
            "state",
            "testbed",
            "testing",
            "tls",
        ],
    ),
    (
        "bench",
        &[
            "agent",
            "client",
            "host",
            "isolation",
            "master",
            "proto",
            "state",
            "testbed",
        ],
    ),
    (
        "testbed",
        &[
            "client",
            "host",
            "isolation",
            "network",
            "proto",
            "state",
            "tls",
        ],
    ),
    (
        "fuzz",
        &[
            "agent",
            "cli",
            "content",
            "host",
            "isolation",
            "master",
            "network",
            "proto",
            "raft",
            "state",
            "tls",
        ],
    ),
    ("webui", &[]),
];

/// The largest numbers of lines of a source file, and of a file that holds only tests. Files that
/// are longer today may only shrink.
const FILE_LINES: usize = 500;
const TEST_LINES: usize = 700;
const LONGER_FILES: [(&str, usize); 1] = [("master/src/replica.rs", 600)];

/// The only module with unsafe code: a file, and the directory of its parts.
const UNSAFE_FILE: &str = "host/src/sys.rs";
const UNSAFE_DIRECTORY: &str = "host/src/sys/";

/// This file contains the words that it forbids.
const THIS_FILE: &str = "state/tests/tidy.rs";

fn none(found: &[String]) {
    assert!(found.is_empty(), "\n{}\n", found.join("\n"));
}

/// Returns the crates that a manifest names outside of its tests.
fn crates_named(manifest: &str) -> BTreeSet<String> {
    let mut counts = false;
    let mut crates = BTreeSet::new();
    for line in manifest.lines().map(str::trim) {
        if let Some(section) = line.strip_prefix('[') {
            let section = section.trim_end_matches(']');
            counts = section.ends_with("dependencies") && !section.ends_with("dev-dependencies");
        } else if counts && let Some(rest) = line.strip_prefix("argosy-") {
            let end = rest.find(['.', ' ', '=']).unwrap_or(rest.len());
            crates.insert(rest[..end].to_owned());
        }
    }
    crates
}

#[test]
fn crates_depend_only_downward() {
    let edges: BTreeMap<&str, &[&str]> = EDGES.into();
    let mut found = Vec::new();
    let mut manifests = 0;
    for file in tree() {
        let Some(krate) = file.name.strip_suffix("/Cargo.toml") else {
            continue;
        };
        manifests += 1;
        let Some(allowed) = edges.get(krate) else {
            found.push(format!("{krate}: this crate is not in EDGES"));
            continue;
        };
        for other in crates_named(&file.text) {
            if !allowed.contains(&other.as_str()) {
                found.push(format!("{krate} may not depend on {other}"));
            }
        }
    }
    assert!(manifests >= 10);
    none(&found);
}

#[test]
fn a_manifest_with_a_forbidden_edge_is_detected() {
    let manifest = "[dependencies]\nargosy-raft = { path = \"x\" }\n[dev-dependencies]\nargosy-client.workspace = true\n[target.'cfg(unix)'.dependencies]\nargosy-agent.workspace = true\n";
    let wanted: BTreeSet<String> = ["agent".to_owned(), "raft".to_owned()].into();
    assert_eq!(crates_named(manifest), wanted);
}

#[test]
fn every_source_file_has_a_module_comment() {
    let found: Vec<_> = sources()
        .into_iter()
        .filter(|file| !file.text.starts_with("//!"))
        .map(|file| format!("{}: begins without //!", file.name))
        .collect();
    none(&found);
}

#[test]
fn no_source_file_is_too_long() {
    let longer: BTreeMap<&str, usize> = LONGER_FILES.into();
    let mut found = Vec::new();
    for file in sources() {
        let lines = file.text.lines().count();
        let most = longer.get(file.name.as_str()).copied();
        let only_tests = file.name.contains("/tests/") || file.name.ends_with("/tests.rs");
        let usual = if only_tests { TEST_LINES } else { FILE_LINES };
        let most = most.unwrap_or(usual);
        if lines > most {
            found.push(format!("{}: {lines} lines; at most {most}", file.name));
        }
    }
    none(&found);
}

#[test]
fn modules_have_domain_names() {
    let empty = [
        "util", "utils", "common", "helper", "helpers", "manager", "misc",
    ];
    let mut found = Vec::new();
    for file in sources() {
        let mut parts = file.name.trim_end_matches(".rs").split('/');
        if parts.any(|part| empty.contains(&part)) {
            found.push(format!("{}: its name is meaningless", file.name));
        }
    }
    none(&found);
}

#[test]
fn no_todo_comments_remain() {
    let marks = [
        "FIXME",
        "XXX:",
        "TODO",
        "todo!(",
        "unimplemented!(",
        "dbg!(",
    ];
    none(&lines_with(sources(), &marks));
}

#[test]
fn unsafe_code_is_in_one_module() {
    let marks = [
        "unsafe {",
        "unsafe fn",
        "unsafe impl",
        "unsafe extern",
        "allow(unsafe_code",
    ];
    let mut files = sources();
    files.retain(|file| file.name != UNSAFE_FILE && !file.name.starts_with(UNSAFE_DIRECTORY));
    none(&lines_with(files, &marks));
}

#[test]
fn no_text_names_a_private_host_or_registry() {
    let marks = [
        "/work/",
        "/tmp/bash_jobs",
        "crates.io/",
        "static.crates.io",
        "index.crates.io",
        "registry.npmjs.org",
        "pypi.org",
        "files.pythonhosted.org",
        "proxy.golang.org",
        "registry-1.docker.io",
    ];
    none(&lines_with(tree(), &marks));
}

#[test]
fn no_text_describes_its_authors() {
    let marks = [
        "Claude",
        "Anthropic",
        "ChatGPT",
        "OpenAI",
        "Copilot",
        "language model",
        "AI-generated",
        "AI assistant",
        "coding agent",
        "the integrator",
        "design.md section",
    ];
    none(&lines_with(tree(), &marks));
}

#[test]
fn the_state_crate_bans_nondeterminism() {
    let file = root().join("state/clippy.toml");
    let text = fs::read_to_string(file).unwrap();
    for banned in [
        "std::collections::HashMap",
        "std::collections::HashSet",
        "std::time::SystemTime",
        "std::time::Instant",
        "std::env::var",
    ] {
        assert!(text.contains(&format!("\"{banned}\"")), "{banned}");
    }
    // A `clippy.toml` of a crate hides the one at the root, so it must repeat the rules for all
    // crates.
    assert!(text.contains("too-many-lines-threshold = 60"));
}

/// Crates that only generated code, or only a pin of their version, needs.
const NAMED_BY_NO_SOURCE: [&str; 5] = [
    "openraft-macros",
    "openraft-rt",
    "pbjson",
    "prost",
    "tonic-prost",
];

/// Returns the entries of a section in a manifest.
fn listed<'a>(manifest: &'a str, section: &str) -> Vec<&'a str> {
    let begun = manifest
        .lines()
        .skip_while(|line| *line != format!("[{section}]"));
    let lines = begun.skip(1).take_while(|line| !line.starts_with('['));
    let names = lines.filter(|line| !line.starts_with('#'));
    let names = names.map(|line| line.split(['.', ' ', '=']).next().unwrap_or_default());
    names.filter(|name| !name.is_empty()).collect()
}

#[test]
fn every_dependency_is_used() {
    let files = tree();
    let mut found = Vec::new();
    for file in &files {
        let Some(krate) = file.name.strip_suffix("/Cargo.toml") else {
            continue;
        };
        for (section, directories) in [
            ("dependencies", &["src/"][..]),
            ("dev-dependencies", &["src/", "tests/", "examples/"]),
            ("build-dependencies", &["build.rs"]),
        ] {
            for name in listed(&file.text, section) {
                let word = name.replace('-', "_");
                let is_named = files.iter().any(|source| {
                    let below = source.name.strip_prefix(krate).unwrap_or_default();
                    let below = below.strip_prefix('/').unwrap_or_default();
                    below.ends_with(".rs")
                        && directories
                            .iter()
                            .any(|directory| below.starts_with(directory))
                        && has_word(&source.text, &word)
                });
                if !is_named && !NAMED_BY_NO_SOURCE.contains(&name) {
                    found.push(format!("{}: nothing uses {name} in {section}", file.name));
                }
            }
        }
    }
    none(&found);
}

#[test]
fn every_workspace_dependency_is_used() {
    let files = tree();
    let root = fs::read_to_string(root().join("Cargo.toml")).unwrap();
    let shared = listed(&root, "workspace.dependencies");
    assert!(shared.len() > 30, "{shared:?}");
    let mut found = Vec::new();
    for name in shared {
        let is_used = files.iter().any(|file| {
            let mut lines = file.text.lines();
            file.name.ends_with("/Cargo.toml")
                && lines.any(|line| line.split(['.', ' ', '=']).next() == Some(name))
        });
        if !is_used {
            found.push(format!("Cargo.toml: no crate uses {name}"));
        }
    }
    none(&found);
}

#[test]
fn the_cached_rocksdb_library_has_the_locked_version() {
    let root = root();
    let lock = fs::read_to_string(root.join("Cargo.lock")).unwrap();
    let mut lines = lock.lines();
    lines.find(|line| *line == "name = \"librocksdb-sys\"");
    let version = lines.next().unwrap_or_default();
    let version = version.split(['"', '+']).nth(1).unwrap_or_default();
    let settings = fs::read_to_string(root.join("scripts/env.sh")).unwrap();
    assert!(
        !version.is_empty() && settings.contains(&format!("/rocksdb-{version}\"")),
        "scripts/env.sh must name the directory rocksdb-{version}: each version is built separately"
    );
}

/// Returns the versions of each package in a lock file.
fn locked(lock: &str) -> BTreeMap<&str, BTreeSet<&str>> {
    let mut versions: BTreeMap<_, BTreeSet<_>> = BTreeMap::new();
    for package in lock.split("[[package]]").skip(1) {
        let value = |key| {
            let of_key = |line: &'_ str| line.starts_with(key);
            let line = package.lines().find(|line| of_key(line)).unwrap();
            line.split('"').nth(1).unwrap()
        };
        versions
            .entry(value("name"))
            .or_default()
            .insert(value("version"));
    }
    versions
}

#[test]
fn fuzz_targets_are_built_with_the_versions_of_the_product() {
    let read = |name| fs::read_to_string(root().join(name)).unwrap();
    let (product, fuzz) = (read("Cargo.lock"), read("fuzz/Cargo.lock"));
    let product = locked(&product);
    let mut found = Vec::new();
    for (package, versions) in locked(&fuzz) {
        if let Some(known) = product.get(package)
            && !versions.is_subset(known)
        {
            found.push(format!(
                "fuzz/Cargo.lock: {package} {versions:?}, not {known:?}"
            ));
        }
    }
    none(&found);
}

#[test]
fn every_release_is_a_commit_of_the_history() {
    let text = fs::read_to_string(root().join("releases.txt")).unwrap();
    let releases: Vec<_> = text.lines().filter(|line| !line.starts_with('#')).collect();
    assert!(!releases.is_empty());
    let is_ancestor = |commit: &str| {
        let mut git = std::process::Command::new("git");
        git.arg("-C").arg(root());
        git.args(["merge-base", "--is-ancestor", commit, "HEAD"]);
        git.status().expect("git is installed").success()
    };
    let is_wrong = |line: &&&str| match line.split(' ').collect::<Vec<_>>()[..] {
        [version, commit] => {
            let numbers: Vec<_> = version.split('.').map(str::parse::<u32>).collect();
            numbers.len() != 3 || numbers.iter().any(Result::is_err) || !is_ancestor(commit)
        }
        _ => true,
    };
    let wrong: Vec<_> = releases.iter().filter(is_wrong).collect();
    assert!(
        wrong.is_empty(),
        "not VERSION COMMIT of an ancestor: {wrong:?}"
    );
}

#[test]
fn no_file_of_the_tree_is_larger_than_a_mebibyte() {
    let mut waiting = vec![root()];
    let mut found = Vec::new();
    while let Some(directory) = waiting.pop() {
        for entry in fs::read_dir(&directory).unwrap() {
            let path = entry.unwrap().path();
            let name = path.file_name().unwrap().to_string_lossy().into_owned();
            let is_made = ["target", "demo-out", "report.json"].contains(&name.as_str());
            if path.is_symlink() || name == ".git" || is_made {
                continue;
            }
            if path.is_dir() {
                waiting.push(path);
            } else if path.metadata().is_ok_and(|file| file.len() > 1 << 20) {
                found.push(path.display().to_string());
            }
        }
    }
    none(&found);
}

fn lines_with(files: Vec<Source>, marks: &[&str]) -> Vec<String> {
    let mut found = Vec::new();
    for file in files {
        if file.name == THIS_FILE {
            continue;
        }
        for (at, line) in file.text.lines().enumerate() {
            if let Some(mark) = marks.iter().find(|mark| line.contains(**mark)) {
                found.push(format!("{}:{}: {mark}", file.name, at + 1));
            }
        }
    }
    found
}
