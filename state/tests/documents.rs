//! The documents against the tree: links lead somewhere, the map names files that exist, and the
//! protocol lists every code.

use std::fs;
use std::path::{Path, PathBuf};

use argosy_state::command::Rejection;

fn root() -> PathBuf {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR"));
    folder.parent().unwrap().to_owned()
}

fn read(name: &str) -> String {
    fs::read_to_string(root().join(name)).unwrap_or_else(|error| panic!("{name}: {error}"))
}

/// Every page of the documentation, from the root.
fn pages() -> Vec<PathBuf> {
    let mut pages = Vec::new();
    for folder in ["", "docs", "docs/adr", "docs/operate"] {
        for entry in fs::read_dir(root().join(folder)).into_iter().flatten() {
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

/// Whether `name` is a file or folder that a paragraph about `room` may mean.
fn is_there(room: &str, name: &str) -> bool {
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
            .any(|folder| root.join(room).join(folder).join(name).exists())
        || ["src/service", "src/allocator"]
            .iter()
            .any(|folder| root.join(room).join(folder).join(name).exists())
}

#[test]
fn the_map_names_files_that_exist() {
    for page in ["ARCHITECTURE.md", "CONTRIBUTING.md"] {
        let mut room = String::new();
        let mut wrong = Vec::new();
        let mut seen = 0;
        for line in read(page).lines() {
            if let Some(rest) = line.strip_prefix("**`") {
                room = rest.split('/').next().unwrap_or_default().to_owned();
            }
            if line.starts_with('#') {
                room.clear();
            }
            for name in line.split('`').skip(1).step_by(2) {
                let is_path = name.ends_with(".rs") || name.ends_with('/') || name.ends_with(".md");
                if is_path && !name.contains(' ') && !name.contains('*') && !name.contains('{') {
                    seen += 1;
                    if !is_there(&room, name) {
                        wrong.push(format!("{page}: {room}: no {name}"));
                    }
                }
            }
        }
        assert!(seen > 10, "{page} names {seen} files");
        none(&wrong);
    }
}

#[test]
fn the_map_is_short_enough_to_be_read() {
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
    let reasons = read("master/src/allocator/reason.rs");
    let code = reasons.split("pub fn code(").nth(1).unwrap_or_default();
    let code = code.split("pub fn ").next().unwrap_or_default();
    let names: Vec<_> = code.split('"').skip(1).step_by(2).collect();
    assert!(names.len() >= 18, "{names:?}");
    wrong.extend(
        names
            .into_iter()
            .filter(|name| !is_listed(name))
            .map(|name| format!("no reason {name}")),
    );
    none(&wrong);
}

#[test]
fn the_protocol_tells_of_every_call() {
    let page = read("docs/protocol.md");
    let mut wrong = Vec::new();
    let mut seen = 0;
    for service in ["agents", "operator", "scheduler"] {
        let file = format!("proto/proto/argosy/v1/{service}.proto");
        for line in read(&file).lines() {
            let Some(rest) = line.trim().strip_prefix("rpc ") else {
                continue;
            };
            seen += 1;
            let name = rest.split('(').next().unwrap_or_default();
            // As `Name` or as part of `Service.Name(…)`.
            let is_told = page.split('`').skip(1).step_by(2).any(|code| {
                let code = code.split('(').next().unwrap_or_default();
                code.rsplit('.').next() == Some(name)
            });
            if !is_told && !page.contains(&format!(".{name}(")) {
                wrong.push(format!("{file}: nothing tells of {name}"));
            }
        }
    }
    assert!(seen >= 24, "only {seen} calls were found");
    none(&wrong);
}

#[test]
fn every_dependency_has_its_line_in_the_decision() {
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

/// Where a limit stands in the sources, and what the protocol's page says of it.
const LIMITS: &[(&str, &str, &str)] = &[
    (
        "master/src/service/mod.rs",
        "MESSAGE_BYTES: usize = 4 << 20",
        "| a message | 4 MiB |",
    ),
    (
        "master/src/service/mod.rs",
        "CALL_BYTES: usize = 1 << 20",
        "the `info` of a subscription | 1 MiB |",
    ),
    (
        "master/src/service/calls.rs",
        "FILTER_BYTES: usize = 64 * 1024",
        "| `filters` of a subscription | 64 KiB |",
    ),
    (
        "master/src/service/scheduler.rs",
        "if bytes > MESSAGE_BYTES",
        "| the answer to `Reconcile` | 4 MiB |",
    ),
    (
        "master/src/leader/calls.rs",
        "REPEATS: usize = 16",
        "numbered call that wait | 16 |",
    ),
    (
        "master/src/leader/calls.rs",
        "accept.offers.len() > limits::RECORDS_PER_COMMAND",
        "| offers and tasks in an `Accept`",
    ),
    (
        "master/src/desk.rs",
        "CONFIRMED: Duration = Duration::from_secs(1)",
        "confirmed by a quorum within one second",
    ),
    (
        "master/src/links.rs",
        "LINK_MESSAGES: usize = 8_192",
        "holds 8,192 unread messages",
    ),
    (
        "master/src/service/lists.rs",
        "LARGEST_PAGE: usize = 10_000",
        "(default 1,000, at most 10,000)",
    ),
    (
        "state/src/limits.rs",
        "RECORDS_PER_COMMAND: usize = 1_000",
        "acknowledgements in a call, offers in an event | 1,000 |",
    ),
    (
        "state/src/limits.rs",
        "TASKS_PER_ACCEPT: usize = 1_000",
        "At most 1,000 tasks a call",
    ),
    (
        "state/src/limits.rs",
        "TASK_SPEC_BYTES: usize = 512 * 1024",
        "| one task's description | 512 KiB |",
    ),
    (
        "state/src/limits.rs",
        "ANSWERS_PER_FRAMEWORK: usize = 1_024",
        "at most 1,024 a framework",
    ),
    (
        "state/src/limits.rs",
        "PAST_SESSIONS: usize = 64",
        "The 64 newest former sessions",
    ),
    (
        "state/src/limits.rs",
        "OPERATOR_ANSWERS: usize = 100_000",
        "100,000 are kept",
    ),
    (
        "state/src/limits.rs",
        "OPERATIONS_PER_BATCH: usize = 256",
        "up to 256 operations",
    ),
    (
        "state/src/limits.rs",
        "FINISHED_TASKS: usize = 10_000",
        "kept in the history | 10,000,",
    ),
    (
        "state/src/limits.rs",
        "FINISHED_TASK_BYTES: u64 = 64 << 20",
        "kept in the history | 10,000, and 64 MiB |",
    ),
    (
        "state/src/limits.rs",
        "FINISHED_TEXT_BYTES: usize = 1024",
        "1,024 bytes each of name, user, command and all labels",
    ),
    (
        "state/src/limits.rs",
        "ARGUMENT_BYTES: usize = 131_071",
        "one `NAME=value` of an environment | 131,071 bytes",
    ),
    (
        "state/src/limits.rs",
        "TASK_BYTES: u64 = 1 << 30",
        "of one framework, of all | 768 MiB, 1 GiB ",
    ),
    (
        "state/src/limits.rs",
        "TASK_BYTES_PER_FRAMEWORK: u64 = 768 << 20",
        "of one framework, of all | 768 MiB, 1 GiB ",
    ),
    (
        "state/src/limits.rs",
        "FRAMEWORKS_PER_PRINCIPAL: usize = 5_000",
        "| frameworks of one principal | 5,000 |",
    ),
    (
        "state/src/limits.rs",
        "FRAMEWORKS: usize = 10_000",
        "their descriptions | 10,000; 256 MiB |",
    ),
    (
        "state/src/limits.rs",
        "FRAMEWORK_BYTES: u64 = 256 << 20",
        "their descriptions | 10,000; 256 MiB |",
    ),
    (
        "state/src/limits.rs",
        "AGENTS: usize = 100_000",
        "their descriptions | 100,000; 512 MiB |",
    ),
    (
        "state/src/limits.rs",
        "AGENT_BYTES: u64 = 512 << 20",
        "their descriptions | 100,000; 512 MiB |",
    ),
    (
        "state/src/limits.rs",
        "WEIGHTS: usize = 10_000",
        "| roles with a weight | 10,000 |",
    ),
    (
        "state/src/limits.rs",
        "pub const ANSWERS: usize = 500_000",
        "| answers kept of all frameworks | 500,000 |",
    ),
    (
        "state/src/limits.rs",
        "OPERATOR_ANSWER_BYTES: u64 = 64 << 20",
        "100,000 are kept, and 64 MiB of them",
    ),
    (
        "master/src/links.rs",
        "LINK_BYTES: usize = 64 << 20",
        "8,192 unread messages, or 64 MiB of them",
    ),
    (
        "master/src/allocator/offering.rs",
        "const OFFERS: usize = 2",
        "at most two offers of one agent in one role",
    ),
    (
        "master/src/allocator/offering.rs",
        "JOIN_MS: u64 = 1_000",
        "waits until both have been open for a second",
    ),
    (
        "state/src/limits.rs",
        "FINISHED_FRAMEWORKS: usize = 1_000",
        "| removed frameworks kept | 1,000 |",
    ),
    (
        "state/src/limits.rs",
        "USED_OFFERS: usize = 64",
        "across reigns | 64 |",
    ),
    (
        "state/src/limits.rs",
        "UNACKNOWLEDGED_TASKS: usize = 100_000",
        "At 100,000 unacknowledged ended tasks",
    ),
    (
        "proto/src/exec.rs",
        "DATA_LIMIT_BYTES: usize = 32 * 1024",
        "a payload of at most 32 KiB",
    ),
    (
        "proto/src/exec.rs",
        "INPUT_WINDOW_BYTES: usize = 128 * 1024",
        "At most 128 KiB of input may be untaken",
    ),
    (
        "isolation/src/init.rs",
        "ENTRIES: usize = 64",
        "at a time | 64, 512, 1,024 |",
    ),
    (
        "agent/src/exec/mod.rs",
        "SESSIONS: usize = 512",
        "at a time | 64, 512, 1,024 |",
    ),
    (
        "master/src/exec.rs",
        "STREAMS: usize = 1024",
        "at a time | 64, 512, 1,024 |",
    ),
    (
        "state/src/limits.rs",
        "NAME_BYTES: usize = 255",
        "| ids, names | 255 bytes; roles 128 |",
    ),
    (
        "state/src/limits.rs",
        "ROLE_BYTES: usize = 128",
        "| role | 1 to 128 letters",
    ),
    (
        "state/src/limits.rs",
        "MESSAGE_BYTES: usize = 1024",
        "| text of an update | 1,024 bytes |",
    ),
    (
        "state/src/limits.rs",
        "IMAGE_BYTES: usize = 1024",
        "| name of an image | 1,024 bytes |",
    ),
    (
        "state/src/limits.rs",
        "PUBLISHED_PORTS: usize = 256",
        "| published ports of a task | 256 |",
    ),
    (
        "state/src/limits.rs",
        "VOLUMES: usize = 64",
        "| volumes of a task; the path of one | 64; 1,024 bytes |",
    ),
    (
        "state/src/limits.rs",
        "VOLUME_PATH_BYTES: usize = 1024",
        "| volumes of a task; the path of one | 64; 1,024 bytes |",
    ),
    (
        "state/src/limits.rs",
        "TMPFS_LEAST_BYTES: u64 = 4096",
        "| a file system in memory | 4 KiB to 1 TiB",
    ),
    (
        "state/src/limits.rs",
        "TMPFS_BYTES: u64 = 1 << 40",
        "| a file system in memory | 4 KiB to 1 TiB",
    ),
    (
        "state/src/limits.rs",
        "EXECUTOR_GRACE_MS: u64 = 60_000",
        "| grace of an executor | 60,000 ms |",
    ),
    (
        "state/src/limits.rs",
        "CHECK_TIME_MS: u64 = 86_400_000",
        "| times of a check | 100 ms (interval), 1 ms (timeout) to a day |",
    ),
    (
        "state/src/limits.rs",
        "CHECK_INTERVAL_MS: u64 = 100",
        "| times of a check | 100 ms (interval), 1 ms (timeout) to a day |",
    ),
    (
        "state/src/limits.rs",
        "CHECK_COMMAND_BYTES: usize = 16 * 1024",
        "of a check | 16 KiB, 2,048 bytes, 64 |",
    ),
    (
        "state/src/limits.rs",
        "CHECK_PATH_BYTES: usize = 2_048",
        "of a check | 16 KiB, 2,048 bytes, 64 |",
    ),
    (
        "state/src/limits.rs",
        "CHECK_STATUSES: usize = 64",
        "of a check | 16 KiB, 2,048 bytes, 64 |",
    ),
    (
        "state/src/limits.rs",
        "EXECUTOR_MESSAGE_BYTES: usize = 64 * 1024",
        "| a message to or from an executor | 64 KiB |",
    ),
    (
        "state/src/limits.rs",
        "TASKS_PER_GROUP: usize = 16",
        "| tasks of a group | 16 |",
    ),
    (
        "state/src/limits.rs",
        "OPERATOR_ANSWER_MS: u64 = 600_000",
        "remembered for ten minutes of cluster time",
    ),
    (
        "state/src/limits.rs",
        "CNI_NAME_BYTES: usize = 128",
        "| name of a CNI network | 128 bytes |",
    ),
    (
        "state/src/limits.rs",
        "LOST_AGENTS: usize = 10_000",
        "| lost agents that are remembered | 10,000, for two weeks |",
    ),
    (
        "state/src/limits.rs",
        "LOST_AGENT_MS: u64 = 14 * 24 * 3_600_000",
        "| lost agents that are remembered | 10,000, for two weeks |",
    ),
    (
        "state/src/limits.rs",
        "RESOURCE_PARTS: usize = 4_096",
        "of one agent or task, together | 4,096 |",
    ),
    (
        "state/src/limits.rs",
        "DISK_LIMITS: usize = 16",
        "| disks of which a task limits the use | 16 |",
    ),
    (
        "state/src/limits.rs",
        "MISSING_CONTROLLERS: usize = 64",
        "| missing controllers of an agent | 64 |",
    ),
    (
        "state/src/limits.rs",
        "REFUSAL_BYTES: usize = 160",
        "| the sentence of a remembered refusal | 160 bytes |",
    ),
    (
        "state/src/limits.rs",
        "ATTRIBUTES: usize = 256",
        "| attributes of an agent; a value | 256; 4,096 bytes |",
    ),
    (
        "state/src/limits.rs",
        "ATTRIBUTE_BYTES: usize = 4 * 1024",
        "| attributes of an agent; a value | 256; 4,096 bytes |",
    ),
    (
        "state/src/limits.rs",
        "ROLES_PER_FRAMEWORK: usize = 64",
        "| roles of a framework | 64 |",
    ),
    (
        "state/src/limits.rs",
        "FAILOVER_TIMEOUT_MS: u64 = 7 * 24 * 3_600_000",
        "(absent: one\nweek;",
    ),
    (
        "state/src/limits.rs",
        "OFFER_TIMEOUT_MS: u64 = 60_000",
        "(0: 60,000)",
    ),
    (
        "state/src/limits.rs",
        "SCALAR_MILLI: i64 = 1_000_000_000_000",
        "| one amount | 1,000,000,000 units |",
    ),
    (
        "state/src/apply/calls.rs",
        "REFUSED_KEPT: usize = 64",
        "| refused positions of a remembered answer | 64, without sentences |",
    ),
    (
        "state/src/apply/frameworks.rs",
        "labels > 64 * 1024",
        "| labels of a framework | 64 KiB together |",
    ),
    (
        "master/src/service/calls.rs",
        "HELD_OFFERS: usize = 10_000",
        "| `held` of a subscription | 10,000 offers;",
    ),
    (
        "client/src/scheduler/offers.rs",
        "HELD_OFFERS: usize = 10_000",
        "SDK presents at most 10,000 offers and 3 MiB",
    ),
    (
        "client/src/scheduler/offers.rs",
        "HELD_BYTES: usize = 3 * 1024 * 1024",
        "SDK presents at most 10,000 offers and 3 MiB",
    ),
    (
        "master/src/service/operator.rs",
        "BATCHES: usize = 64",
        "| batches of one `Write` stream on their way | 64 |",
    ),
    (
        "master/src/links.rs",
        "BACKLOG_BYTES: usize = 1 << 20",
        "8,192; offers pause at 1 MiB",
    ),
    (
        "master/src/leader/delivery.rs",
        "IN_FLIGHT: usize = 1_000",
        "| tasks with updates in flight on a stream | 1,000 |",
    ),
    (
        "master/src/leader/messages.rs",
        "BYTES_A_SECOND: usize = 1024 * 1024",
        "and to one framework | 1 MiB a second |",
    ),
    (
        "master/src/allocator/mod.rs",
        "LONGEST_FILTER_MS: u64 = 365 * 24 * 3_600_000",
        "| longest filter | 365 days |",
    ),
    (
        "master/src/allocator/mod.rs",
        "DECLINE_CODE: usize = 64",
        "of a decline | 64, 200 characters |",
    ),
    (
        "master/src/allocator/eligibility.rs",
        "cpus:0.01|mem:32",
        "is 0.01 `cpus` or 32 MiB of `mem`",
    ),
];

/// Bounds of the registry that no client meets.
const INNER_LIMITS: [&str; 1] = ["TASKS_PER_SWEEP"];

#[test]
fn every_bound_of_the_registry_is_in_the_protocol() {
    let sources = read("state/src/limits.rs");
    let names = sources
        .lines()
        .filter_map(|line| line.strip_prefix("pub const ")?.split(':').next());
    let stated = |name: &str| {
        let of = |source: &str| source.starts_with(&format!("{name}: "));
        let limits = LIMITS.iter();
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
                "{name} is not in LIMITS: say in docs/protocol.md what happens at the bound"
            ));
        }
    }
    assert!(seen > 40, "only {seen} bounds were found");
    none(&wrong);
}

#[test]
fn the_first_call_of_the_protocol_is_the_example() {
    let page = read("docs/protocol.md");
    let example = read("examples/python/first_call.py");
    assert!(page.contains(example.trim_end()));
}

#[test]
fn the_protocol_states_the_limits_that_the_sources_have() {
    let page = read("docs/protocol.md");
    let mut wrong = Vec::new();
    for &(file, source, said) in LIMITS {
        if !read(file).contains(source) {
            wrong.push(format!("{file} has no {source}"));
        }
        if !page.contains(said) {
            wrong.push(format!(
                "docs/protocol.md does not say {said:?} of {source}"
            ));
        }
    }
    none(&wrong);
}

/// Stages of the gate and their budgets in seconds, as the Makefile has them.
fn stages() -> Vec<(String, u64)> {
    let makefile = read("Makefile");
    let stages = makefile
        .lines()
        .filter_map(|line| line.trim().strip_prefix("$(STAGE) "));
    let stages = stages.map(|line| {
        let words: Vec<&str> = line.split(' ').collect();
        let [name, budget, command @ ..] = &words[..] else {
            panic!("{line} has no budget");
        };
        // As a person calls it: `make NAME`, unless the stage runs another target.
        let called = match command {
            ["make", target] => target,
            _ => name,
        };
        let budget = budget.parse().expect("a budget is a number of seconds");
        ((*called).to_owned(), budget)
    });
    stages.collect()
}

#[test]
fn the_budgets_of_the_gate_are_those_that_contributors_are_promised() {
    let page = read("CONTRIBUTING.md");
    let row = |command: &str| {
        let begin = format!("| `make {command}` |");
        let line = page.lines().find(|line| line.starts_with(&begin));
        line.unwrap_or_else(|| panic!("no row for make {command}"))
    };
    let stages = stages();
    assert!(stages.len() >= 5, "{stages:?}");
    for (name, budget) in &stages {
        let line = row(name);
        assert!(line.ends_with(&format!("| {budget} s |")), "{line}");
    }
    let sum: u64 = stages.iter().map(|(_, budget)| budget).sum();
    let whole = format!("| {sum} s, which is {} min |", sum / 60);
    assert!(row("test").ends_with(&whole), "{sum} s: {}", row("test"));
}
