//! The list of all metrics: `metrics.txt`. It has their help texts, and tests compare it with what
//! the code records.

use std::sync::LazyLock;

use metrics::{describe_counter, describe_gauge, describe_histogram};

/// The type of a metric.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MetricType {
    /// A number that only grows, except when its process restarts.
    Counter,
    /// A number that goes up and down.
    Gauge,
    /// Counts of values by size.
    Histogram,
}

impl MetricType {
    /// Returns the name of the type in the text format of Prometheus.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Counter => "counter",
            Self::Gauge => "gauge",
            Self::Histogram => "histogram",
        }
    }
}

/// A metric of the list.
#[derive(Clone, Debug)]
pub struct Metric {
    /// The name.
    pub name: &'static str,
    /// The type.
    pub kind: MetricType,
    /// The names of its labels. Samples may leave some out.
    pub labels: Vec<&'static str>,
    /// The process that has it: `every`, `master`, `leader` (only the active leader), `agent`, or
    /// `task` (the agent that runs the task).
    pub process: &'static str,
    /// The first release that has it.
    pub since: &'static str,
    /// The help text.
    pub help: &'static str,
}

impl Metric {
    /// Returns the unit in which the values are, by the name; empty for a plain number.
    #[must_use]
    pub fn unit(&self) -> &'static str {
        let name = self.name.strip_suffix("_total").unwrap_or(self.name);
        let name = name.strip_suffix("_limit").unwrap_or(name);
        let units = ["seconds", "bytes", "ratio"];
        let of_name = units.into_iter().find(|unit| name.ends_with(unit));
        of_name.unwrap_or_default()
    }
}

/// Returns all metrics.
#[must_use]
pub fn all() -> &'static [Metric] {
    static METRICS: LazyLock<Vec<Metric>> = LazyLock::new(|| {
        let lines = include_str!("metrics.txt").lines();
        let lines = lines.filter(|line| !line.starts_with('#') && !line.is_empty());
        lines.map(parse).collect()
    });
    &METRICS
}

/// Returns the metric of this name.
#[must_use]
pub fn find(name: &str) -> Option<&'static Metric> {
    all().iter().find(|metric| metric.name == name)
}

/// Registers the help texts of all metrics. Call it once per process, after the recorder is
/// installed.
pub fn describe() {
    for Metric {
        name, kind, help, ..
    } in all()
    {
        match kind {
            MetricType::Counter => describe_counter!(*name, *help),
            MetricType::Gauge => describe_gauge!(*name, *help),
            MetricType::Histogram => describe_histogram!(*name, *help),
        }
    }
}

fn parse(line: &'static str) -> Metric {
    let fields: Vec<&str> = line.split(" | ").collect();
    let [name, kind, labels, process, since, help] = fields[..] else {
        panic!("{line:?} has not six fields");
    };
    let kind = match kind {
        "counter" => MetricType::Counter,
        "gauge" => MetricType::Gauge,
        "histogram" => MetricType::Histogram,
        other => panic!("{name} has no type {other:?}"),
    };
    let labels = labels.split(',').filter(|label| *label != "-").collect();
    Metric {
        name,
        kind,
        labels,
        process,
        since,
        help,
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn names_follow_the_conventions_of_prometheus() {
        let mut names = BTreeSet::new();
        for metric in all() {
            let name = metric.name;
            assert!(names.insert(name), "{name} is listed twice");
            let is_counter = metric.kind == MetricType::Counter;
            assert_eq!(name.ends_with("_total"), is_counter, "{name}");
            let prefixed = name.starts_with("argosy_") || name.starts_with("process_");
            assert!(prefixed && !name.contains("__"), "{name}");
            let processes = ["every", "master", "leader", "agent", "task"];
            assert!(processes.contains(&metric.process), "{name}");
            // Only gauges end with leadership: a counter of what a process did remains true.
            let is_gauge = metric.kind == MetricType::Gauge;
            assert!(is_gauge || metric.process != "leader", "{name}");
            let is_task = name.starts_with("argosy_task_") && metric.process == "task";
            assert_eq!(is_task, metric.labels.starts_with(&["framework", "task"]));
            assert!(!metric.help.ends_with('.'), "{name}");
        }
        assert!(names.len() > 100, "{}", names.len());
    }
}
