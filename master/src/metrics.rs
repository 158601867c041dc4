//! Metrics for `/metrics`: what the owner and the services record. `samples`, `usage` and `gauges`
//! are what the owner measures at each tick, and `decisions` counts what passes the leader.

mod decisions;
mod gauges;
mod samples;
#[cfg(test)]
mod tests;
mod usage;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{PoisonError, RwLock};
use std::time::Duration;

use argosy_proto::v1;
use argosy_raft::ProposeError;
use axum::http::{HeaderMap, StatusCode};
use metrics::{Counter, Gauge, Histogram, counter, gauge, histogram};
use tonic::Code;

use crate::checks::SliceSummary;
use crate::comparison::ComparisonResult;
use crate::leader::PRESENTATION_RESULTS;

pub(crate) use decisions::DecisionMetrics;
pub(crate) use gauges::OwnerCounts;
pub(crate) use samples::OwnerState;

/// The path prefix of calls of `argosy.v1`.
pub(crate) const CALLS: &str = "/argosy.v1.";

/// A later phase was not delayed by the change of leader: there was no demand for an offer, or a
/// launch.
const FAILOVER_MS: u64 = 60_000;

/// The owner's metrics, as handles, so that recording costs next to nothing.
pub(crate) struct OwnerMetrics {
    /// Duration of one request of raft to apply entries, effects included.
    pub(crate) applied: Histogram,
    queued: Counter,
    full: Counter,
    too_large: Counter,
    not_leader: Counter,
    /// Commands that could not be decoded again: a defect.
    pub(crate) unreadable: Counter,
    checked: [Counter; 3],
    lag: Histogram,
    inbox: Gauge,
}

impl OwnerMetrics {
    pub(crate) fn new() -> Self {
        // An increase is only seen after a first sample.
        for result in PRESENTATION_RESULTS {
            presented_offers(result).increment(0);
        }
        let proposals =
            |result: &'static str| counter!("argosy_raft_proposals_total", "result" => result);
        Self {
            applied: histogram!("argosy_raft_apply_duration_seconds"),
            queued: proposals("queued"),
            full: counter!("argosy_queue_full_total", "queue" => "proposals"),
            too_large: proposals("too-large"),
            not_leader: proposals("not-leader"),
            unreadable: proposals("unreadable"),
            checked: ["records", "offers", "left-out"]
                .map(|what| counter!("argosy_invariant_checks_total", "what" => what)),
            lag: histogram!("argosy_runtime_loop_lag_seconds"),
            inbox: gauge!("argosy_queue_depth", "queue" => "registry"),
        }
    }

    pub(crate) fn proposed(&self, taken: &Result<(), ProposeError>) {
        match taken {
            Ok(()) => self.queued.increment(1),
            Err(ProposeError::Full) => self.full.increment(1),
            Err(ProposeError::TooLarge { .. }) => self.too_large.increment(1),
            Err(ProposeError::NotLeader | ProposeError::Stopped) => self.not_leader.increment(1),
        }
    }

    /// Counts offers that frameworks presented when they subscribed.
    pub(crate) fn presented(&self, results: BTreeMap<&'static str, u64>) {
        for (result, count) in results {
            presented_offers(result).increment(count);
        }
    }

    pub(crate) fn checked(&self, checked: SliceSummary) {
        let counts = [checked.records, checked.offers, checked.left_out];
        for (counter, count) in self.checked.iter().zip(counts) {
            counter.increment(count as u64);
        }
    }

    /// Records a tick: its delay, and the number of messages that wait for the owner.
    #[allow(clippy::cast_precision_loss, reason = "gauges are floating point")]
    pub(crate) fn tick(&self, after: Duration, wanted: Duration, waiting: usize) {
        self.lag.record(after.saturating_sub(wanted));
        self.inbox.set(waiting as f64);
    }
}

fn presented_offers(result: &'static str) -> Counter {
    counter!("argosy_offers_revalidated_total", "result" => result)
}

/// Counts the logged digests that this master has compared with its own, or could not compare.
pub(crate) fn compared(all: &[ComparisonResult]) {
    for compared in all {
        let result = match compared {
            ComparisonResult::Equal => "equal",
            ComparisonResult::Unknown => "not-known",
        };
        counter!("argosy_digest_comparisons_total", "result" => result).increment(1);
    }
}

/// Records that a phase of a change of leader was reached at this wall time. The duration starts
/// when this master detected the failure of the former leader, or else at the election. The first
/// election of a cluster and a leader that resumes are no changes.
pub(crate) fn failover(phase: &'static str, failover: &v1::Failover, at_ms: i64) {
    if failover.kind() != v1::FailoverKind::Election {
        return;
    }
    let from_ms = match failover.dead_seen_ms {
        0 => failover.elected_ms,
        seen => seen,
    };
    let took_ms = u64::try_from(at_ms - from_ms).unwrap_or(0);
    if took_ms <= FAILOVER_MS {
        histogram!("argosy_failover_duration_seconds", "phase" => phase)
            .record(Duration::from_millis(took_ms));
    }
}

/// Durations of gRPC calls. A stream is timed to its opening; a rejection after its headers is not
/// seen.
pub(crate) struct CallTimes {
    /// The paths of all methods: callers may request any other path.
    served: BTreeSet<String>,
    /// Durations of successful calls of served methods, by path. The lock is held for a lookup.
    done: RwLock<BTreeMap<String, Histogram>>,
}

impl Default for CallTimes {
    fn default() -> Self {
        Self {
            served: argosy_proto::call_paths(),
            done: RwLock::default(),
        }
    }
}

impl CallTimes {
    /// Records a stream whose client was referred to the leader, as it has requested: no failure.
    pub(crate) fn record_referral(&self, path: &str, took: Duration) {
        let path = if self.served.contains(path) { path } else { "" };
        of_calls(path, "Referred").record(took);
    }

    /// Records a call of this path that was answered with this status and these headers.
    pub(crate) fn record(
        &self,
        path: &str,
        status: StatusCode,
        headers: &HeaderMap,
        took: Duration,
    ) {
        let code = match headers.get("grpc-status") {
            Some(code) => Code::from_bytes(code.as_bytes()),
            None if status.is_success() => Code::Ok,
            None => Code::Unknown,
        };
        let path = if self.served.contains(path) { path } else { "" };
        let name = format!("{code:?}");
        if code != Code::Ok {
            return of_calls(path, &name).record(took);
        }
        let known = self.done.read().unwrap_or_else(PoisonError::into_inner);
        if let Some(times) = known.get(path) {
            return times.record(took);
        }
        drop(known);
        let times = of_calls(path, &name);
        times.record(took);
        let mut known = self.done.write().unwrap_or_else(PoisonError::into_inner);
        known.insert(path.to_owned(), times);
    }
}

fn of_calls(path: &str, code: &str) -> Histogram {
    let names = path
        .strip_prefix(CALLS)
        .and_then(|names| names.split_once('/'));
    let (service, method) = names.unwrap_or(("other", "other"));
    let (service, method) = (service.to_owned(), method.to_owned());
    histogram!("argosy_rpc_duration_seconds", "service" => service, "method" => method, "code" => code.to_owned())
}
