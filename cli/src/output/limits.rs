//! Limits of tasks as text.

use argosy_proto::v1;

use super::amounts::{bytes, milli};

/// Formats the limits in addition to resources: `cpus 1.5, memory 64 MiB`.
pub(crate) fn limits_text(limits: &v1::Limits) -> String {
    let mut words = Vec::new();
    if let Some(most) = limits.cpu_millis {
        let most = i64::try_from(most).unwrap_or(i64::MAX);
        words.push(format!("cpus {}", milli(most)));
    }
    if let Some(most) = limits.memory_bytes {
        words.push(format!("memory {}", bytes(most)));
    }
    if let Some(most) = limits.pids {
        words.push(format!("pids {most}"));
    }
    if let Some(weight) = limits.io_weight {
        words.push(format!("io weight {weight}"));
    }
    words.extend(limits.io.iter().map(disk));
    if limits.exclusive_cpus {
        words.push("exclusive cpus".to_owned());
    }
    match words.is_empty() {
        true => "no limits except its resources".to_owned(),
        false => words.join(", "),
    }
}

fn disk(limit: &v1::DiskLimit) -> String {
    let name = match limit.disk.as_str() {
        "" => "sandbox's disk",
        disk => disk,
    };
    let mut words = vec![name.to_owned()];
    let rates = [("read", limit.read_bytes), ("written", limit.write_bytes)];
    let rates = rates
        .into_iter()
        .filter_map(|(what, most)| Some((what, most?)));
    words.extend(rates.map(|(what, most)| format!("{} {what}/s", bytes(most))));
    let counts = [
        ("reads", limit.read_operations),
        ("writes", limit.write_operations),
    ];
    let counts = counts
        .into_iter()
        .filter_map(|(what, most)| Some((what, most?)));
    words.extend(counts.map(|(what, most)| format!("{most} {what}/s")));
    words.join(" ")
}

/// Returns the result of the newest change of the limits, empty if they were never changed.
pub(crate) fn limits_status(status: Option<&v1::LimitsStatus>) -> String {
    match status {
        None => String::new(),
        Some(status) if status.in_force => "in force".to_owned(),
        Some(status) if !status.refusal.is_empty() => format!("refused: {}", status.refusal),
        Some(_) => "requested, not in force yet".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_are_formatted() {
        assert_eq!(
            limits_text(&v1::Limits::default()),
            "no limits except its resources"
        );
        let limits = v1::Limits {
            cpu_millis: Some(1_500),
            memory_bytes: Some(64 << 20),
            pids: Some(20),
            io: vec![v1::DiskLimit {
                write_bytes: Some(1 << 20),
                read_operations: Some(9),
                ..v1::DiskLimit::default()
            }],
            ..v1::Limits::default()
        };
        assert_eq!(
            limits_text(&limits),
            "cpus 1.5, memory 64 MiB, pids 20, sandbox's disk 1 MiB written/s 9 reads/s"
        );
    }

    #[test]
    fn a_change_is_requested_then_in_force_or_refused() {
        let asked = v1::LimitsStatus::default();
        let held = v1::LimitsStatus {
            in_force: true,
            ..asked.clone()
        };
        let refused = v1::LimitsStatus {
            refusal: "too little".to_owned(),
            ..asked.clone()
        };
        let words = [None, Some(&asked), Some(&held), Some(&refused)].map(limits_status);
        let expected = [
            "",
            "requested, not in force yet",
            "in force",
            "refused: too little",
        ];
        assert_eq!(words, expected);
    }
}
