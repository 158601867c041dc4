//! Resource usage of tasks in the text format of Prometheus.
//!
//! Generated for each scrape and not kept by the recorder, which never forgets a label: a task that
//! has ended disappears from here, and fractions of seconds are included.

use std::collections::BTreeMap;
use std::fmt::Write;

use argosy_isolation::disk::DiskUsage;
use argosy_isolation::{CgroupStats, IoStats, Pressure, StallShares};
use argosy_network::LinkCounters;

use super::ContainerUsage;

/// One task and its usage.
pub(super) struct TaskSample {
    pub(super) framework: String,
    pub(super) task: String,
    pub(super) usage: ContainerUsage,
}

/// A metric of tasks.
struct MetricFamily {
    name: &'static str,
    kind: MetricType,
    help: &'static str,
    of: fn(&ContainerUsage) -> Vec<MetricValue>,
}

#[derive(Clone, Copy)]
enum MetricType {
    Counter,
    Gauge,
}

/// The values of a metric of a task: one value, or one for each of a few labels.
struct MetricValue {
    /// `name="value"` pairs, separated by commas, which need no escapes.
    labels: &'static str,
    number: SampleNumber,
}

#[derive(Clone, Copy)]
enum SampleNumber {
    Number(u64),
    /// Exported in seconds.
    Microseconds(u64),
}

fn number(value: Option<u64>) -> Vec<MetricValue> {
    labelled([("", value)])
}

fn seconds(microseconds: Option<u64>) -> Vec<MetricValue> {
    let value = microseconds.map(|figure| MetricValue {
        labels: "",
        number: SampleNumber::Microseconds(figure),
    });
    value.into_iter().collect()
}

fn labelled<const N: usize>(values: [(&'static str, Option<u64>); N]) -> Vec<MetricValue> {
    let values = values.into_iter().filter_map(|(labels, value)| {
        let number = SampleNumber::Number(value?);
        Some(MetricValue { labels, number })
    });
    values.collect()
}

fn io(
    usage: &ContainerUsage,
    read: fn(&IoStats) -> u64,
    written: fn(&IoStats) -> u64,
) -> Vec<MetricValue> {
    let io = usage.stats.io.as_ref();
    labelled([
        ("direction=\"read\"", io.map(read)),
        ("direction=\"write\"", io.map(written)),
    ])
}

fn disk(usage: &ContainerUsage, of: fn(&DiskUsage) -> u64) -> Vec<MetricValue> {
    number(usage.disk.as_ref().map(of))
}

fn network(usage: &ContainerUsage, of: fn(&LinkCounters) -> u64) -> Vec<MetricValue> {
    let network = usage.network.as_ref();
    labelled([
        (
            "direction=\"receive\"",
            network.map(|traffic| of(&traffic.received)),
        ),
        (
            "direction=\"send\"",
            network.map(|traffic| of(&traffic.sent)),
        ),
    ])
}

fn pressure(usage: &ContainerUsage) -> Vec<MetricValue> {
    let stats: &CgroupStats = &usage.stats;
    let some = |pressure: Option<Pressure>| pressure.map(|pressure| pressure.some);
    let full = |pressure: Option<Pressure>| pressure.and_then(|pressure| pressure.full);
    let all: [(&'static str, Option<StallShares>); 6] = [
        ("resource=\"cpu\",share=\"some\"", some(stats.cpu_pressure)),
        ("resource=\"cpu\",share=\"full\"", full(stats.cpu_pressure)),
        (
            "resource=\"memory\",share=\"some\"",
            some(stats.memory_pressure),
        ),
        (
            "resource=\"memory\",share=\"full\"",
            full(stats.memory_pressure),
        ),
        ("resource=\"io\",share=\"some\"", some(stats.io_pressure)),
        ("resource=\"io\",share=\"full\"", full(stats.io_pressure)),
    ];
    let reported = all.into_iter().filter_map(|(labels, stall)| {
        let number = SampleNumber::Microseconds(stall?.total_us);
        Some(MetricValue { labels, number })
    });
    reported.collect()
}

const FAMILIES: &[MetricFamily] = &[
    MetricFamily {
        name: "argosy_task_cpu_seconds_total",
        kind: MetricType::Counter,
        help: "Processor time.",
        of: |usage| seconds(usage.stats.cpu_us),
    },
    MetricFamily {
        name: "argosy_task_cpu_user_seconds_total",
        kind: MetricType::Counter,
        help: "Processor time in user mode.",
        of: |usage| seconds(usage.stats.cpu_user_us),
    },
    MetricFamily {
        name: "argosy_task_cpu_system_seconds_total",
        kind: MetricType::Counter,
        help: "Processor time in kernel mode.",
        of: |usage| seconds(usage.stats.cpu_system_us),
    },
    MetricFamily {
        name: "argosy_task_cpu_periods_total",
        kind: MetricType::Counter,
        help: "Periods of its processor limit in which it had runnable threads.",
        of: |usage| number(usage.stats.cpu_periods),
    },
    MetricFamily {
        name: "argosy_task_cpu_throttled_periods_total",
        kind: MetricType::Counter,
        help: "Periods in which its processor limit throttled it.",
        of: |usage| number(usage.stats.cpu_throttled_periods),
    },
    MetricFamily {
        name: "argosy_task_cpu_throttled_seconds_total",
        kind: MetricType::Counter,
        help: "Time for which its processor limit throttled it.",
        of: |usage| seconds(usage.stats.cpu_throttled_us),
    },
    MetricFamily {
        name: "argosy_task_memory_bytes",
        kind: MetricType::Gauge,
        help: "Memory, page cache included.",
        of: |usage| number(usage.stats.memory_bytes),
    },
    MetricFamily {
        name: "argosy_task_memory_peak_bytes",
        kind: MetricType::Gauge,
        help: "Peak memory.",
        of: |usage| number(usage.stats.memory_peak_bytes),
    },
    MetricFamily {
        name: "argosy_task_memory_limit_bytes",
        kind: MetricType::Gauge,
        help: "Memory limit.",
        of: |usage| number(usage.stats.memory_limit_bytes),
    },
    MetricFamily {
        name: "argosy_task_memory_anonymous_bytes",
        kind: MetricType::Gauge,
        help: "Anonymous memory of the task.",
        of: |usage| number(usage.stats.memory_anonymous_bytes),
    },
    MetricFamily {
        name: "argosy_task_memory_file_bytes",
        kind: MetricType::Gauge,
        help: "Page cache and memory file systems.",
        of: |usage| number(usage.stats.memory_file_bytes),
    },
    MetricFamily {
        name: "argosy_task_memory_kernel_bytes",
        kind: MetricType::Gauge,
        help: "Kernel memory of the task.",
        of: |usage| number(usage.stats.memory_kernel_bytes),
    },
    MetricFamily {
        name: "argosy_task_memory_high_events_total",
        kind: MetricType::Counter,
        help: "Times it was slowed for being near its memory limit.",
        of: |usage| number(usage.stats.memory_high_events),
    },
    MetricFamily {
        name: "argosy_task_memory_max_events_total",
        kind: MetricType::Counter,
        help: "Times its memory was reclaimed at its memory limit.",
        of: |usage| number(usage.stats.memory_max_events),
    },
    MetricFamily {
        name: "argosy_task_out_of_memory_kills_total",
        kind: MetricType::Counter,
        help: "Processes of the task that were killed for lack of memory.",
        of: |usage| number(usage.stats.out_of_memory_kills),
    },
    MetricFamily {
        name: "argosy_task_io_bytes_total",
        kind: MetricType::Counter,
        help: "Bytes read from and written to disks.",
        of: |usage| io(usage, |io| io.read_bytes, |io| io.written_bytes),
    },
    MetricFamily {
        name: "argosy_task_io_operations_total",
        kind: MetricType::Counter,
        help: "Reads from and writes to disks.",
        of: |usage| io(usage, |io| io.reads, |io| io.writes),
    },
    MetricFamily {
        name: "argosy_task_disk_bytes",
        kind: MetricType::Gauge,
        help: "Space that its files use of a disk with a limit.",
        of: |usage| disk(usage, |disk| disk.used_bytes),
    },
    MetricFamily {
        name: "argosy_task_disk_limit_bytes",
        kind: MetricType::Gauge,
        help: "Space that its files may use of a disk with a limit.",
        of: |usage| disk(usage, |disk| disk.limit_bytes),
    },
    MetricFamily {
        name: "argosy_task_disk_files",
        kind: MetricType::Gauge,
        help: "Files on a disk with a limit.",
        of: |usage| disk(usage, |disk| disk.files),
    },
    MetricFamily {
        name: "argosy_task_disk_files_limit",
        kind: MetricType::Gauge,
        help: "Maximum number of files on a disk with a limit.",
        of: |usage| disk(usage, |disk| disk.files_limit),
    },
    MetricFamily {
        name: "argosy_task_pids",
        kind: MetricType::Gauge,
        help: "Processes and threads.",
        of: |usage| number(usage.stats.pids),
    },
    MetricFamily {
        name: "argosy_task_pids_max_events_total",
        kind: MetricType::Counter,
        help: "Times its limit of processes prevented another one.",
        of: |usage| number(usage.stats.pids_max_events),
    },
    MetricFamily {
        name: "argosy_task_pressure_seconds_total",
        kind: MetricType::Counter,
        help: "Time in which some, or all, of its processes waited for a resource.",
        of: pressure,
    },
    MetricFamily {
        name: "argosy_task_network_bytes_total",
        kind: MetricType::Counter,
        help: "Bytes that passed the link of its private network.",
        of: |usage| network(usage, |flow| flow.bytes),
    },
    MetricFamily {
        name: "argosy_task_network_packets_total",
        kind: MetricType::Counter,
        help: "Packets that passed the link of its private network.",
        of: |usage| network(usage, |flow| flow.packets),
    },
    MetricFamily {
        name: "argosy_task_network_drops_total",
        kind: MetricType::Counter,
        help: "Packets that the link of its private network dropped.",
        of: |usage| network(usage, |flow| flow.drops),
    },
];

/// Returns all metrics of these tasks. Unavailable values are omitted.
pub(super) fn text(samples: impl IntoIterator<Item = TaskSample>) -> String {
    // A duplicate name would make the whole scrape invalid.
    let tasks: BTreeMap<_, _> = samples
        .into_iter()
        .map(|sample| {
            let labels = format!(
                "framework=\"{}\",task=\"{}\"",
                escaped(&sample.framework),
                escaped(&sample.task)
            );
            (labels, sample.usage)
        })
        .collect();
    let mut text = String::new();
    for family in FAMILIES {
        let mut is_described = false;
        for (labels, usage) in &tasks {
            for value in (family.of)(usage) {
                if !is_described {
                    describe(&mut text, family);
                    is_described = true;
                }
                write_sample(&mut text, family.name, labels, &value);
            }
        }
    }
    text
}

fn describe(text: &mut String, family: &MetricFamily) {
    let kind = match family.kind {
        MetricType::Counter => "counter",
        MetricType::Gauge => "gauge",
    };
    let (name, help) = (family.name, family.help);
    // Writing to a string never fails; neither below.
    let _ = writeln!(text, "# HELP {name} {help}\n# TYPE {name} {kind}");
}

fn write_sample(text: &mut String, name: &str, labels: &str, value: &MetricValue) {
    let comma = if value.labels.is_empty() { "" } else { "," };
    let further = value.labels;
    let _ = match value.number {
        SampleNumber::Number(number) => {
            writeln!(text, "{name}{{{labels}{comma}{further}}} {number}")
        }
        SampleNumber::Microseconds(us) => {
            let (whole, part) = (us / 1_000_000, us % 1_000_000);
            writeln!(text, "{name}{{{labels}{comma}{further}}} {whole}.{part:06}")
        }
    };
}

/// Escapes a label's value.
fn escaped(value: &str) -> String {
    let mut escaped = String::with_capacity(value.len());
    for letter in value.chars() {
        match letter {
            '\\' => escaped.push_str("\\\\"),
            '"' => escaped.push_str("\\\""),
            '\n' => escaped.push_str("\\n"),
            other => escaped.push(other),
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use argosy_network::LinkStats;

    use super::*;

    fn sample(task: &str, usage: ContainerUsage) -> TaskSample {
        TaskSample {
            framework: "7-1".into(),
            task: task.into(),
            usage,
        }
    }

    fn used(cpu_us: u64) -> ContainerUsage {
        ContainerUsage {
            stats: CgroupStats {
                cpu_us: Some(cpu_us),
                ..CgroupStats::default()
            },
            network: None,
            disk: None,
        }
    }

    #[test]
    fn tasks_are_exported_by_metric_with_one_description() {
        let mut busy = used(1_000_001);
        busy.stats.memory_bytes = Some(4096);
        let reported = text([sample("web", used(2_500_000)), sample("api", busy)]);
        let expected = "\
            # HELP argosy_task_cpu_seconds_total Processor time.\n\
            # TYPE argosy_task_cpu_seconds_total counter\n\
            argosy_task_cpu_seconds_total{framework=\"7-1\",task=\"api\"} 1.000001\n\
            argosy_task_cpu_seconds_total{framework=\"7-1\",task=\"web\"} 2.500000\n\
            # HELP argosy_task_memory_bytes Memory, page cache included.\n\
            # TYPE argosy_task_memory_bytes gauge\n\
            argosy_task_memory_bytes{framework=\"7-1\",task=\"api\"} 4096\n";
        assert_eq!(reported, expected);
        assert_eq!(text([]), "");
    }

    #[test]
    fn directions_and_resources_are_labels() {
        let stall = |total_us| StallShares {
            average_10s_percent: 0.0,
            average_60s_percent: 0.0,
            average_300s_percent: 0.0,
            total_us,
        };
        let flow = |bytes| LinkCounters {
            bytes,
            packets: 1,
            drops: 0,
        };
        let usage = ContainerUsage {
            stats: CgroupStats {
                io: Some(IoStats {
                    read_bytes: 10,
                    written_bytes: 20,
                    reads: 1,
                    writes: 2,
                }),
                memory_pressure: Some(Pressure {
                    some: stall(1_500_000),
                    full: None,
                }),
                ..CgroupStats::default()
            },
            network: Some(LinkStats {
                received: flow(300),
                sent: flow(400),
            }),
            disk: Some(DiskUsage {
                used_bytes: 30,
                limit_bytes: 40,
                files: 5,
                files_limit: 6,
            }),
        };
        let reported = text([sample("web", usage)]);
        for line in [
            "argosy_task_disk_bytes{framework=\"7-1\",task=\"web\"} 30",
            "argosy_task_disk_files_limit{framework=\"7-1\",task=\"web\"} 6",
            "argosy_task_io_bytes_total{framework=\"7-1\",task=\"web\",direction=\"write\"} 20\n",
            "argosy_task_io_operations_total{framework=\"7-1\",task=\"web\",direction=\"read\"} 1\n",
            "argosy_task_network_bytes_total{framework=\"7-1\",task=\"web\",direction=\"receive\"} 300\n",
            "argosy_task_network_bytes_total{framework=\"7-1\",task=\"web\",direction=\"send\"} 400\n",
            "argosy_task_pressure_seconds_total{framework=\"7-1\",task=\"web\",resource=\"memory\",share=\"some\"} 1.500000\n",
        ] {
            assert!(reported.contains(line), "{line} is not in\n{reported}");
        }
        assert!(!reported.contains("resource=\"cpu\""), "{reported}");
        assert!(!reported.contains("full"), "{reported}");
    }

    #[test]
    fn metric_labels_are_unique_and_escaped() {
        let reported = text([sample("a\"}\n\\", used(1)), sample("a\"}\n\\", used(2))]);
        let lines: Vec<_> = reported.lines().skip(2).collect();
        assert_eq!(
            lines,
            [r#"argosy_task_cpu_seconds_total{framework="7-1",task="a\"}\n\\"} 0.000002"#]
        );
    }

    #[test]
    fn names_and_kinds_agree() {
        let mut names = std::collections::BTreeSet::new();
        for family in FAMILIES {
            let counts = matches!(family.kind, MetricType::Counter);
            assert_eq!(family.name.ends_with("_total"), counts, "{}", family.name);
            assert!(family.help.ends_with('.') && !family.help.contains('\n'));
            assert!(names.insert(family.name), "{} is there twice", family.name);
        }
    }
}
