//! Tests of the list of metrics against the code that records them, in both directions, and against
//! the page of metrics (`UPDATE_EXPECT=1` rewrites it).

#[path = "../../state/tests/tree/mod.rs"]
mod tree;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::fs;

use argosy_proto::metric_list::{self, Metric};

const PAGE: &str = "docs/operate/metrics.md";
/// The crates that may record the metrics of each process.
const CRATES: [(&str, &[&str]); 5] = [
    ("every", &["agent", "cli", "master", "proto", "tls"]),
    ("master", &["master", "raft"]),
    ("leader", &["master"]),
    ("agent", &["agent", "content"]),
    ("task", &["agent"]),
];
/// Names in the code that look like those of metrics: system calls and former names.
const NOT_METRICS: [&str; 2] = ["isolation/src/confinement/", "proto/src/metric_names.rs"];

/// The code of a file of the product, without its tests.
struct ProductFile {
    krate: String,
    name: String,
    text: String,
}

fn product() -> Vec<ProductFile> {
    let crates: BTreeSet<&str> = CRATES
        .iter()
        .flat_map(|(_, crates)| *crates)
        .copied()
        .collect();
    let files = tree::sources().into_iter().filter_map(|file| {
        let krate = file.name.split('/').next().unwrap_or_default().to_owned();
        let is_code =
            file.name.starts_with(&format!("{krate}/src/")) && !file.name.contains("tests");
        let is_excluded = NOT_METRICS.iter().any(|start| file.name.starts_with(start));
        let code = file.text.split("#[cfg(test)]\nmod tests {").next();
        (crates.contains(krate.as_str()) && is_code && !is_excluded).then(|| ProductFile {
            krate,
            text: code.unwrap_or_default().to_owned(),
            name: file.name,
        })
    });
    files.collect()
}

/// Returns the quoted names of metrics in a text, with the positions after them.
fn names(text: &str) -> Vec<(&str, usize)> {
    let mut names = Vec::new();
    for prefix in ["\"argosy_", "\"process_"] {
        for (at, _) in text.match_indices(prefix) {
            let rest = &text[at + 1..];
            let is_part =
                |letter: char| letter.is_ascii_lowercase() || "_0123456789".contains(letter);
            let end = rest.find(|letter| !is_part(letter)).unwrap_or(rest.len());
            let is_crate = rest[..end].matches('_').count() == 1 && prefix == "\"argosy_";
            let is_known = metric_list::find(&rest[..end]).is_some();
            if rest[end..].starts_with('"') && (is_known || !is_crate) {
                names.push((&rest[..end], at + 1 + end + 1));
            }
        }
    }
    names
}

fn none(wrong: &[String]) {
    assert!(wrong.is_empty(), "\n{}\n", wrong.join("\n"));
}

#[test]
fn every_recorded_metric_is_listed_and_every_listed_metric_is_recorded() {
    let files = product();
    let mut crates: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    let mut wrong = Vec::new();
    for file in &files {
        for (name, _) in names(&file.text) {
            crates.entry(name).or_default().insert(&file.krate);
            if metric_list::find(name).is_none() {
                wrong.push(format!(
                    "{}: {name} is not in proto/src/metrics.txt",
                    file.name
                ));
            }
        }
    }
    let allowed: BTreeMap<&str, &[&str]> = CRATES.into();
    for metric in metric_list::all() {
        let found = crates.get(metric.name);
        let fits = found.is_some_and(|found| {
            found
                .iter()
                .any(|krate| allowed[metric.process].contains(krate))
        });
        if !fits {
            wrong.push(format!(
                "{} is not recorded by {:?}: {found:?}",
                metric.name, allowed[metric.process]
            ));
        }
    }
    none(&wrong);
}

/// Macros of the library, whose arguments name the labels.
#[test]
fn types_and_labels_of_the_code_are_those_of_the_list() {
    let mut wrong = Vec::new();
    let mut checked = 0;
    for file in product() {
        for (name, end) in names(&file.text) {
            let before = file.text[..end - name.len() - 2].trim_end();
            let called = ["counter", "gauge", "histogram"]
                .into_iter()
                .find(|one| before.ends_with(&format!("{one}!(")));
            let (Some(called), Some(metric)) = (called, metric_list::find(name)) else {
                continue;
            };
            checked += 1;
            if metric.kind.name() != called {
                wrong.push(format!("{}: {name} is a {called}", file.name));
            }
            for label in labels(&file.text[end..]) {
                if !metric.labels.contains(&label) {
                    wrong.push(format!("{}: {name} has a label {label:?}", file.name));
                }
            }
        }
    }
    assert!(checked > 50, "{checked}");
    none(&wrong);
}

/// Returns the labels in the arguments of a macro after its name.
fn labels(arguments: &str) -> Vec<&str> {
    let mut depth = 1;
    let end = arguments.find(|letter| {
        depth += match letter {
            '(' => 1,
            ')' => -1,
            _ => 0,
        };
        depth == 0
    });
    let mut parts: Vec<&str> = arguments[..end.unwrap_or(0)].split(" =>").collect();
    // A value follows the last arrow.
    parts.pop();
    let quoted = parts.into_iter().map(|part| part.trim_end_matches('"'));
    quoted.filter_map(|part| part.rsplit('"').next()).collect()
}

#[test]
fn the_labels_of_a_macro_are_found() {
    let arguments = ", \"port\" => port(1), \"reason\" => \"late\").increment(1); x(\"y\" => 1)";
    assert_eq!(labels(arguments), ["port", "reason"]);
    assert_eq!(labels(").set(1)"), [""; 0]);
}

/// The tables of the page: title, sentence, processes.
const TABLES: [(&str, &str, &[&str]); 4] = [
    (
        "Every process",
        "Masters and agents have these metrics.",
        &["every"],
    ),
    (
        "Masters",
        "Every master has these metrics. Those with *leader* in the last column exist only at the \
         active\nleader; they end with its leadership.",
        &["master", "leader"],
    ),
    ("Agents", "Every agent has these metrics.", &["agent"]),
    (
        "Tasks",
        "Each agent has these metrics of the tasks that it runs. They end with the task.",
        &["task"],
    ),
];

fn row(metric: &Metric) -> String {
    let labels: Vec<String> = metric
        .labels
        .iter()
        .map(|label| format!("`{label}`"))
        .collect();
    let since = match metric.process {
        "leader" => format!("{}, *leader*", metric.since),
        _ => metric.since.to_owned(),
    };
    let Metric { name, help, .. } = metric;
    let (kind, unit, labels) = (metric.kind.name(), metric.unit(), labels.join(", "));
    format!("| `{name}` | {kind} | {unit} | {labels} | {help} | {since} |\n")
}

#[test]
fn the_page_shows_every_metric() {
    let path = tree::root().join(PAGE);
    let present = fs::read_to_string(&path).unwrap();
    let mark = "<!-- The tables are made from proto/src/metrics.txt. -->\n";
    let (head, _) = present.split_once(mark).expect("the page marks its tables");
    let mut page = format!("{head}{mark}");
    for (title, sentence, processes) in TABLES {
        let _ = write!(page, "\n## {title}\n\n{sentence}\n\n");
        page.push_str(
            "| Name | Type | Unit | Labels | Meaning | Since |\n|---|---|---|---|---|---|\n",
        );
        let shown = metric_list::all()
            .iter()
            .filter(|metric| processes.contains(&metric.process));
        shown.for_each(|metric| page.push_str(&row(metric)));
    }
    if std::env::var_os("UPDATE_EXPECT").is_some() {
        fs::write(&path, &page).unwrap();
        return;
    }
    assert!(
        page == present,
        "{PAGE} is not made from the list: run this test with UPDATE_EXPECT=1"
    );
}
