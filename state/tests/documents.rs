//! Tests of the documents against the tree: links resolve, the map names existing files, and the
//! protocol lists every code.

#[path = "documents/access_limits.rs"]
mod access_limits;
#[path = "documents/host_limits.rs"]
mod host_limits;
#[path = "documents/limits.rs"]
mod limits;
#[path = "documents/task_limits.rs"]
mod task_limits;

use std::fs;
use std::path::{Path, PathBuf};

use argosy_state::capability::{AgentCapability, FrameworkCapability};
use argosy_state::command::Rejection;

use access_limits::ACCESS_LIMITS;
use host_limits::HOST_LIMITS;
use limits::LIMITS;
use task_limits::TASK_LIMITS;

fn root() -> PathBuf {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR"));
    directory.parent().unwrap().to_owned()
}

fn read(name: &str) -> String {
    fs::read_to_string(root().join(name)).unwrap_or_else(|error| panic!("{name}: {error}"))
}

/// Returns every page of the documentation, from the root.
fn pages() -> Vec<PathBuf> {
    let mut pages = Vec::new();
    for directory in [
        "",
        "docs",
        "docs/adr",
        "docs/operate",
        "docs/operate/runbooks",
    ] {
        for entry in fs::read_dir(root().join(directory)).into_iter().flatten() {
            let path = entry.unwrap().path();
            if path.extension().is_some_and(|extension| extension == "md") {
                pages.push(path);
            }
        }
    }
    assert!(pages.len() >= 10, "{pages:?}");
    pages
}

fn none(wrong: &[String]) {
    assert!(wrong.is_empty(), "\n{}\n", wrong.join("\n"));
}

#[test]
fn every_link_leads_to_a_file() {
    let mut wrong = Vec::new();
    for page in pages() {
        let text = fs::read_to_string(&page).unwrap();
        for part in text.split("](").skip(1) {
            let target = part.split([')', '#']).next().unwrap_or_default();
            let is_file = !target.is_empty() && !target.contains("://");
            if is_file && !page.parent().unwrap().join(target).exists() {
                wrong.push(format!("{}: {target}", page.display()));
            }
        }
    }
    none(&wrong);
}

/// Returns whether `name` is a file or directory to which a paragraph about the crate `krate` may
/// refer. `line` is the line of the paragraph: directories that it names may contain the file.
fn exists(krate: &str, name: &str, line: &str) -> bool {
    let root = root();
    let name = name.trim_end_matches('/');
    let below = [
        "",
        "src",
        "src/leader",
        "src/core",
        "src/scheduler",
        "src/command",
        "src/offers",
    ];
    root.join(name).exists()
        || below
            .iter()
            .any(|directory| root.join(krate).join(directory).join(name).exists())
        || ["src/service", "src/allocator"]
            .iter()
            .any(|directory| root.join(krate).join(directory).join(name).exists())
        || line.split('`').skip(1).step_by(2).any(|other| {
            let directory = root.join(krate).join("src").join(other);
            other.ends_with('/') && directory.join(name).exists()
        })
}

#[test]
fn every_file_in_the_crate_map_exists() {
    for page in ["ARCHITECTURE.md", "CONTRIBUTING.md"] {
        let mut krate = String::new();
        let mut wrong = Vec::new();
        let mut seen = 0;
        for line in read(page).lines() {
            if let Some(rest) = line.strip_prefix("**`") {
                krate = rest.split('/').next().unwrap_or_default().to_owned();
            }
            if line.starts_with('#') {
                krate.clear();
            }
            for name in line.split('`').skip(1).step_by(2) {
                let is_path = name.ends_with(".rs") || name.ends_with('/') || name.ends_with(".md");
                if is_path && !name.contains(' ') && !name.contains('*') && !name.contains('{') {
                    seen += 1;
                    if !exists(&krate, name, line) {
                        wrong.push(format!("{page}: {krate}: no {name}"));
                    }
                }
            }
        }
        assert!(seen > 10, "{page} names {seen} files");
        none(&wrong);
    }
}

#[test]
fn the_crate_map_is_short() {
    let lines = read("ARCHITECTURE.md").lines().count();
    assert!(lines <= 300, "{lines} lines");
}

#[test]
fn the_protocol_lists_every_code() {
    let page = read("docs/protocol.md");
    let is_listed = |code: &str| page.contains(&format!("`{code}`"));
    let mut wrong = Vec::new();
    for number in 0..=u8::MAX {
        let code = Rejection::code_of(number);
        if code != "refused" && !is_listed(code) {
            wrong.push(format!("no refusal {code}"));
        }
    }
    let reasons = read("master/src/allocator/skip_reason.rs");
    let code = reasons.split("pub fn code(").nth(1).unwrap_or_default();
    let code = code.split("pub fn ").next().unwrap_or_default();
    let names: Vec<_> = code.split('"').skip(1).step_by(2).collect();
    assert!(names.len() >= 17, "{names:?}");
    wrong.extend(
        names
            .into_iter()
            .filter(|name| !is_listed(name))
            .map(|name| format!("no reason {name}")),
    );
    none(&wrong);
}

#[test]
fn the_protocol_lists_every_reason_of_updates() {
    let page = read("docs/protocol.md");
    let section = page.split("\n### Reasons of updates\n").nth(1).unwrap();
    let section = section.split("\n### ").next().unwrap();
    let types = read("proto/proto/argosy/v1/types.proto");
    let reasons = types.split("\nenum Reason {").nth(1).unwrap();
    let reasons = reasons.split("\n}").next().unwrap().lines();
    let names: Vec<_> = reasons
        .filter_map(|line| line.trim().strip_prefix("REASON_")?.split(' ').next())
        .collect();
    assert!(names.len() >= 31, "{names:?}");
    let missing: Vec<_> = names
        .into_iter()
        .filter(|name| !section.contains(&format!("`{name}`")))
        .map(ToOwned::to_owned)
        .collect();
    none(&missing);
}

#[test]
fn the_protocol_lists_every_capability() {
    let page = read("docs/protocol.md");
    let section = page.split("\n## Capabilities\n").nth(1).unwrap();
    let section = section.split("\n## ").next().unwrap();
    let parts: Vec<_> = section
        .split("\n### Capabilities of frameworks\n")
        .collect();
    let [agents, frameworks] = parts[..] else {
        panic!("two lists");
    };
    let named = |list: &str| {
        let rows = list.lines().filter_map(|line| line.strip_prefix("| `"));
        let names = rows.filter_map(|row| row.split('`').next());
        names.map(ToOwned::to_owned).collect::<Vec<_>>()
    };
    let names: Vec<_> = AgentCapability::all().map(AgentCapability::name).collect();
    assert_eq!(named(agents), names);
    let names = FrameworkCapability::ALL.map(FrameworkCapability::name);
    assert_eq!(named(frameworks), names);
}

#[test]
fn the_protocol_describes_every_call() {
    let page = read("docs/protocol.md");
    let mut wrong = Vec::new();
    let mut seen = 0;
    for service in [
        "agents",
        "certificates",
        "leadership",
        "operator",
        "scheduler",
    ] {
        let file = format!("proto/proto/argosy/v1/{service}.proto");
        for line in read(&file).lines() {
            let Some(rest) = line.trim().strip_prefix("rpc ") else {
                continue;
            };
            seen += 1;
            let name = rest.split('(').next().unwrap_or_default();
            // As `GroupKey` or as part of `Service.Name(…)`.
            let is_documented = page.split('`').skip(1).step_by(2).any(|code| {
                let code = code.split('(').next().unwrap_or_default();
                code.rsplit('.').next() == Some(name)
            });
            if !is_documented && !page.contains(&format!(".{name}(")) {
                wrong.push(format!("{file}: {name} is not documented"));
            }
        }
    }
    assert!(seen >= 24, "only {seen} calls were found");
    none(&wrong);
}

#[test]
fn every_dependency_is_listed_in_the_decision() {
    let decision = read("docs/adr/0003-dependencies.md");
    let named: Vec<&str> = decision
        .split(|letter: char| !(letter.is_ascii_alphanumeric() || letter == '-' || letter == '_'))
        .collect();
    let manifest = read("Cargo.toml");
    let listed = manifest
        .split("[workspace.dependencies]")
        .nth(1)
        .unwrap_or_default();
    let listed = listed.split("\n[").next().unwrap_or_default();
    let mut wrong = Vec::new();
    let mut seen = 0;
    for line in listed.lines() {
        let Some((name, _)) = line.split_once(" = ") else {
            continue;
        };
        if name.starts_with('#') || name.starts_with("argosy-") {
            continue;
        }
        seen += 1;
        if !named.contains(&name) {
            wrong.push(format!("docs/adr/0003-dependencies.md: no {name}"));
        }
    }
    assert!(seen > 30, "only {seen} dependencies were found");
    none(&wrong);
}

/// The bounds of the registry that are not visible to clients.
const INNER_LIMITS: [&str; 7] = [
    "TASKS_PER_SWEEP",
    "CHANGED_RECORDS",
    "UPDATES_PER_COMMAND",
    "DROPPED_RECORDS",
    "TASKS_PER_ACCEPT",
    "ACKNOWLEDGEMENTS_PER_COMMAND",
    // Of the file of keys of a master.
    "SECRET_KEY_ID_BYTES",
];

#[test]
fn every_bound_of_the_registry_is_in_the_protocol() {
    let sources = read("state/src/limits.rs");
    let names = sources
        .lines()
        .filter_map(|line| line.strip_prefix("pub const ")?.split(':').next());
    let stated = |name: &str| {
        let of = |source: &str| source.starts_with(&format!("{name}: "));
        let limits = LIMITS.iter().chain(ACCESS_LIMITS).chain(TASK_LIMITS);
        limits
            .filter(|(file, ..)| *file == "state/src/limits.rs")
            .any(|(_, source, _)| of(source))
    };
    let mut seen = 0;
    let mut wrong = Vec::new();
    for name in names {
        seen += 1;
        if !stated(name) && !INNER_LIMITS.contains(&name) {
            wrong.push(format!(
                "{name} is not in LIMITS: document the behaviour at the bound in docs/protocol.md"
            ));
        }
    }
    assert!(seen > 40, "only {seen} bounds were found");
    none(&wrong);
}

#[test]
fn the_first_call_of_the_protocol_page_matches_the_example() {
    let page = read("docs/protocol.md");
    let example = read("examples/python/first_call.py");
    assert!(page.contains(example.trim_end()));
}

#[test]
fn the_protocol_page_states_the_limits_of_the_sources() {
    // A paragraph may be wrapped anywhere.
    let words = |text: &str| text.split_whitespace().collect::<Vec<_>>().join(" ");
    let page = words(&read("docs/protocol.md"));
    let mut wrong = Vec::new();
    for (file, source, output) in [LIMITS, ACCESS_LIMITS, HOST_LIMITS, TASK_LIMITS].concat() {
        if !read(file).contains(source) {
            wrong.push(format!("{file} has no {source}"));
        }
        if !page.contains(&words(output)) {
            wrong.push(format!(
                "docs/protocol.md does not state {output:?} of {source}"
            ));
        }
    }
    none(&wrong);
}

/// A stage of the gate, from the Makefile.
#[derive(Debug)]
struct GateStage {
    name: String,
    /// In seconds, warm and cold.
    budgets: [u64; 2],
    /// Whether other stages run at the same time.
    in_background: bool,
}

fn stages() -> Vec<GateStage> {
    let makefile = read("Makefile");
    let stages = makefile
        .lines()
        .filter_map(|line| line.trim().strip_prefix("$(STAGE) "))
        .filter(|line| *line != "summary");
    let stages = stages.map(|line| {
        let words: Vec<&str> = line.split(' ').collect();
        let [name, budget, command @ ..] = &words[..] else {
            panic!("{line} has no budget");
        };
        // The command for a person is `make NAME`, unless the stage runs another target.
        let called = match command {
            ["make", target] => target,
            _ => name,
        };
        // A third number is its limit.
        let budgets = budget.split('/').take(2);
        let budgets: Vec<u64> = budgets.map(|seconds| seconds.parse().unwrap()).collect();
        GateStage {
            name: (*called).to_owned(),
            budgets: budgets.try_into().expect("a warm and a cold budget"),
            in_background: line.contains(" & "),
        }
    });
    stages.collect()
}

#[test]
fn the_stage_budgets_match_the_contributing_page() {
    let page = read("CONTRIBUTING.md");
    let row = |command: &str| {
        let begin = format!("| `make {command}` |");
        let line = page.lines().find(|line| line.starts_with(&begin));
        line.unwrap_or_else(|| panic!("no row for make {command}"))
    };
    let stages = stages();
    assert!(stages.len() >= 5, "{stages:?}");
    for stage in &stages {
        let (line, [warm, cold]) = (row(&stage.name), stage.budgets);
        assert!(line.ends_with(&format!("| {warm} s, {cold} s |")), "{line}");
    }
    let [warm, cold] = [0, 1].map(|place| {
        let budgets = stages.iter().filter(|stage| !stage.in_background);
        budgets.map(|stage| stage.budgets[place]).sum::<u64>()
    });
    let whole = format!(
        "| {warm} s, {cold} s: {} min, {} min |",
        warm / 60,
        cold / 60
    );
    assert!(row("test").ends_with(&whole), "{whole}: {}", row("test"));
    assert!(cold <= 70 * 60, "the first run takes {cold} s");
}
