//! The former names of metrics. `/metrics` shows them in addition to the present ones for one more
//! release. Code that records a metric knows only its present name.

/// Former and present names of metrics.
const NAMES: [(&str, &str); 4] = [
    (
        "argosy_agent_checkpoint_duration_seconds",
        "argosy_agent_journal_sync_duration_seconds",
    ),
    (
        "argosy_agent_journal_damages_total",
        "argosy_agent_journal_corruptions_total",
    ),
    (
        "argosy_agent_fetch_cache_passed_by_total",
        "argosy_agent_fetch_cache_bypassed_total",
    ),
    ("argosy_raft_in_office", "argosy_master_is_active_leader"),
];
/// Metrics with a renamed label value: the metric, the former label and the present one.
const LABELS: [(&str, &str, &str); 2] = [
    (
        "argosy_queue_depth",
        "queue=\"owner\"",
        "queue=\"registry\"",
    ),
    (
        "argosy_failover_duration_seconds",
        "phase=\"in-office\"",
        "phase=\"leading\"",
    ),
];
/// Suffixes of the lines of a histogram or summary.
const SUFFIXES: [&str; 4] = ["", "_bucket", "_sum", "_count"];

/// Returns the rendered metrics with those that were renamed under their former names too.
#[must_use]
pub fn with_former_names(text: &str) -> String {
    let mut all = String::with_capacity(text.len() + 4_096);
    // A metric with a former name is a family of lines, and follows all others. A line with a
    // former label belongs to the same family as its present form.
    let (mut families, mut labelled) = (String::new(), String::new());
    for line in text.lines() {
        if line.is_empty() {
            all.push_str(&std::mem::take(&mut labelled));
        }
        push_line(&mut all, line);
        if let Some(former) = former_name(line) {
            push_line(&mut families, &former);
        } else if let Some(former) = former_label(line) {
            push_line(&mut labelled, &former);
        }
    }
    all.push_str(&labelled);
    all.push_str(&families);
    all
}

fn push_line(text: &mut String, line: &str) {
    text.push_str(line);
    text.push('\n');
}

/// Returns a line of a renamed metric under its former name.
fn former_name(line: &str) -> Option<String> {
    if let Some(help) = line.strip_prefix("# HELP ") {
        let (name, _) = help.split_once(' ')?;
        let (former, present) = NAMES.iter().find(|(_, present)| *present == name)?;
        return Some(format!("# HELP {former} Former name of {present}."));
    }
    if let Some(kind) = line.strip_prefix("# TYPE ") {
        let (name, kind) = kind.split_once(' ')?;
        let (former, _) = NAMES.iter().find(|(_, present)| *present == name)?;
        return Some(format!("# TYPE {former} {kind}"));
    }
    NAMES.iter().find_map(|(former, present)| {
        let rest = line.strip_prefix(present)?;
        sample_of(rest).then(|| format!("{former}{rest}"))
    })
}

/// Returns a line of a metric whose label value was renamed, with the former value.
fn former_label(line: &str) -> Option<String> {
    LABELS.iter().find_map(|(name, former, present)| {
        let rest = line.strip_prefix(name)?;
        let is_renamed = sample_of(rest) && rest.contains(present);
        is_renamed.then(|| line.replacen(present, former, 1))
    })
}

/// Returns whether a line that begins with a metric's name is one of its samples; `rest` follows
/// the name. A longer name may begin with it.
fn sample_of(rest: &str) -> bool {
    let suffix = rest.split(['{', ' ']).next().unwrap_or_default();
    SUFFIXES.contains(&suffix)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_renamed_metric_has_both_names() {
        let rendered = r#"# HELP argosy_agent_journal_sync_duration_seconds Time of one sync of the journal.
# TYPE argosy_agent_journal_sync_duration_seconds histogram
argosy_agent_journal_sync_duration_seconds_bucket{le="0.1"} 2
argosy_agent_journal_sync_duration_seconds_sum 0.3
argosy_agent_journal_sync_duration_seconds_count 2

# TYPE argosy_queue_depth gauge
argosy_queue_depth{queue="registry"} 3
argosy_queue_depth{queue="reads"} 1

# TYPE argosy_master_is_active_leader gauge
argosy_master_is_active_leader 1

argosy_master_is_active_leader_of_another_name 1

"#;
        let expected = r#"# HELP argosy_agent_journal_sync_duration_seconds Time of one sync of the journal.
# TYPE argosy_agent_journal_sync_duration_seconds histogram
argosy_agent_journal_sync_duration_seconds_bucket{le="0.1"} 2
argosy_agent_journal_sync_duration_seconds_sum 0.3
argosy_agent_journal_sync_duration_seconds_count 2

# TYPE argosy_queue_depth gauge
argosy_queue_depth{queue="registry"} 3
argosy_queue_depth{queue="reads"} 1
argosy_queue_depth{queue="owner"} 3

# TYPE argosy_master_is_active_leader gauge
argosy_master_is_active_leader 1

argosy_master_is_active_leader_of_another_name 1

# HELP argosy_agent_checkpoint_duration_seconds Former name of argosy_agent_journal_sync_duration_seconds.
# TYPE argosy_agent_checkpoint_duration_seconds histogram
argosy_agent_checkpoint_duration_seconds_bucket{le="0.1"} 2
argosy_agent_checkpoint_duration_seconds_sum 0.3
argosy_agent_checkpoint_duration_seconds_count 2
# TYPE argosy_raft_in_office gauge
argosy_raft_in_office 1
"#;
        assert_eq!(with_former_names(rendered), expected);
    }

    #[test]
    fn every_renamed_metric_and_label_is_exported_under_both_names() {
        for (former, present) in NAMES {
            let text = with_former_names(&format!("{present} 1\n"));
            assert_eq!(text, format!("{present} 1\n{former} 1\n"));
        }
        for (name, former, present) in LABELS {
            let text = with_former_names(&format!("{name}_sum{{{present}}} 1\n"));
            assert_eq!(
                text,
                format!("{name}_sum{{{present}}} 1\n{name}_sum{{{former}}} 1\n")
            );
        }
    }
}
