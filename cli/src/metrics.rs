//! The recorder of metrics: one a process, installed here and nowhere else.

use std::time::Duration;

use anyhow::Context;
use metrics_exporter_prometheus::{PrometheusBuilder, PrometheusHandle};
use tokio_util::sync::CancellationToken;

/// Seconds: 1, 2.5, 5 times a power of ten, from half a millisecond to a minute.
const BUCKETS: [f64; 16] = [
    0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 25.0,
    60.0,
];
/// How often histograms are drained: undrained they would grow between scrapes.
const UPKEEP: Duration = Duration::from_secs(5);

/// Installs the recorder; the handle renders what it holds.
pub(crate) fn install() -> anyhow::Result<PrometheusHandle> {
    let recorder = PrometheusBuilder::new()
        .set_buckets(&BUCKETS)?
        .build_recorder();
    let handle = recorder.handle();
    metrics::set_global_recorder(recorder).context("a recorder of metrics is installed already")?;
    metrics::describe_gauge!("argosy_build_info", "Always 1; the version is a label.");
    metrics::gauge!("argosy_build_info", "version" => env!("CARGO_PKG_VERSION")).set(1.0);
    Ok(handle)
}

/// Keeps the recorder small until told to stop.
pub(crate) async fn keep(handle: PrometheusHandle, stop: CancellationToken) {
    while stop
        .run_until_cancelled(tokio::time::sleep(UPKEEP))
        .await
        .is_some()
    {
        handle.run_upkeep();
    }
}
