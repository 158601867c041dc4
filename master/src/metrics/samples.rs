//! Samples of what the owner measures, and the state that they are measured of.

use std::borrow::Cow;
use std::time::Duration;

use argosy_raft::{LogProgress, RaftStatus, StoreUsage};
use argosy_state::Registry;
use argosy_state::ids::Timestamp;

use crate::leader::Leader;
use crate::links::Outbox;

/// The state of the owner that is measured.
pub(crate) struct OwnerState<'a> {
    pub(crate) registry: &'a Registry,
    pub(crate) leader: Option<&'a Leader>,
    /// Cluster time.
    pub(crate) now: Timestamp,
    pub(crate) status: &'a RaftStatus,
    pub(crate) progress: &'a LogProgress,
    /// The time since the newest contact with other masters, by id.
    pub(crate) contacts: &'a [(u64, Duration)],
    pub(crate) store: &'a StoreUsage,
    pub(crate) links: &'a Outbox,
}

/// The name and the value of a label.
pub(super) type SampleLabel = (&'static str, Cow<'static, str>);

/// The labels and values of one metric.
pub(super) type Samples = Vec<(Vec<SampleLabel>, f64)>;

pub(super) fn flag(flag: bool) -> f64 {
    if flag { 1.0 } else { 0.0 }
}

#[allow(clippy::cast_precision_loss, reason = "gauges are floating point")]
pub(super) fn number(number: u64) -> f64 {
    number as f64
}

pub(super) fn count(count: usize) -> f64 {
    number(count as u64)
}

/// Returns a sample for each value of one label.
pub(super) fn by(
    label: &'static str,
    values: impl IntoIterator<Item = (&'static str, f64)>,
) -> Samples {
    let values = values.into_iter();
    values
        .map(|(name, value)| (vec![(label, name.into())], value))
        .collect()
}

/// Writes labels in the text format of Prometheus.
pub(super) fn write_labels(text: &mut String, labels: &[SampleLabel]) {
    let mut before = '{';
    for (name, value) in labels {
        text.push(before);
        before = ',';
        text.push_str(name);
        text.push_str("=\"");
        for letter in value.chars() {
            match letter {
                '\\' => text.push_str("\\\\"),
                '"' => text.push_str("\\\""),
                '\n' => text.push_str("\\n"),
                other => text.push(other),
            }
        }
        text.push('"');
    }
    if !labels.is_empty() {
        text.push('}');
    }
}
