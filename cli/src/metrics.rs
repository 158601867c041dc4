//! The metrics recorder, one per process, which is installed only here.

use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::Context;
use metrics::{counter, gauge};
use metrics_exporter_prometheus::{PrometheusBuilder, PrometheusHandle};
use nix::sys::resource::{Resource, UsageWho, getrlimit, getrusage};
use nix::unistd::{SysconfVar, sysconf};
use tokio_util::sync::CancellationToken;

/// Seconds: 1, 2.5, 5 times a power of ten, from half a millisecond to a minute.
const BUCKETS: [f64; 16] = [
    0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 25.0,
    60.0,
];
/// Interval at which histograms are drained and the process is measured. Histograms would grow
/// between scrapes.
const UPKEEP_INTERVAL: Duration = Duration::from_secs(5);

/// Installs the recorder. The handle renders its content.
pub(crate) fn install() -> anyhow::Result<PrometheusHandle> {
    let recorder = PrometheusBuilder::new()
        .set_buckets(&BUCKETS)?
        .build_recorder();
    let handle = recorder.handle();
    metrics::set_global_recorder(recorder).context("a recorder of metrics is installed already")?;
    argosy_proto::metric_list::describe();
    gauge!(
        "argosy_build_info",
        "version" => env!("CARGO_PKG_VERSION"),
        "protocol" => argosy_proto::versions::VersionRange::OWN.newest.to_string()
    )
    .set(1.0);
    // A process installs the recorder at its start.
    let started = SystemTime::now().duration_since(UNIX_EPOCH);
    gauge!("process_start_time_seconds").set(started.unwrap_or_default().as_secs_f64());
    sample();
    Ok(handle)
}

/// Drains the recorder until the stop. Measures the process, and the disk with `directory`.
pub(crate) async fn run(
    handle: PrometheusHandle,
    directory: Option<PathBuf>,
    stop: CancellationToken,
) {
    loop {
        // The kernel counts descriptors by listing them, and a disk may be slow to answer.
        let directory = directory.clone();
        let measured = tokio::task::spawn_blocking(move || {
            sample();
            directory.as_deref().map(sample_disk);
        });
        let paused = stop.run_until_cancelled(tokio::time::sleep(UPKEEP_INTERVAL));
        if measured.await.is_err() || paused.await.is_none() {
            return;
        }
        handle.run_upkeep();
    }
}

/// Measures the disk with this directory. Values that the kernel does not report stay as they were.
#[allow(clippy::cast_precision_loss, reason = "gauges are floating point")]
fn sample_disk(directory: &Path) {
    if let Ok((free, total)) = argosy_host::disk_space(directory) {
        gauge!("argosy_disk_free_bytes").set(free as f64);
        gauge!("argosy_disk_total_bytes").set(total as f64);
    }
}

/// Measures this process, under the names of Prometheus' client libraries. Values that the kernel
/// does not report stay as they were.
#[allow(clippy::cast_precision_loss, reason = "gauges are floating point")]
fn sample() {
    if let Ok(usage) = getrusage(UsageWho::RUSAGE_SELF) {
        let (user, system) = (usage.user_time(), usage.system_time());
        let micros = user.tv_usec() + system.tv_usec();
        let seconds = user.tv_sec() + system.tv_sec() + micros / 1_000_000;
        // A counter holds whole numbers, which is precise enough for rates over minutes.
        counter!("process_cpu_seconds_total").absolute(seconds.try_into().unwrap_or(0));
    }
    let pages = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
    let pages: Vec<f64> = pages
        .split_ascii_whitespace()
        .filter_map(|word| word.parse().ok())
        .collect();
    if let (Ok(Some(page)), [size, resident, ..]) = (sysconf(SysconfVar::PAGE_SIZE), &pages[..]) {
        gauge!("process_virtual_memory_bytes").set(size * page as f64);
        gauge!("process_resident_memory_bytes").set(resident * page as f64);
    }
    if let Ok(open) = std::fs::read_dir("/proc/self/fd") {
        // One of them is that of the list.
        gauge!("process_open_fds").set(open.count().saturating_sub(1) as f64);
    }
    if let Ok((soft, _hard)) = getrlimit(Resource::RLIMIT_NOFILE) {
        gauge!("process_max_fds").set(soft as f64);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn process_metrics_are_those_of_prometheus_clients() {
        let recorder = PrometheusBuilder::new().build_recorder();
        let handle = recorder.handle();
        let kept: Vec<_> = (0..40)
            .map(|_| std::fs::File::open("/proc/self/stat").unwrap())
            .collect();
        metrics::with_local_recorder(&recorder, || {
            argosy_proto::metric_list::describe();
            sample();
        });
        let text = handle.render();
        let figure = |name: &str| {
            let value = text.lines().find_map(|line| line.strip_prefix(name));
            let value = value.and_then(|value| value.trim().parse::<f64>().ok());
            value.unwrap_or_else(|| panic!("{name} is not in {text}"))
        };
        let resident = figure("process_resident_memory_bytes ");
        assert!((1e5..1e11).contains(&resident), "{resident}");
        assert!(figure("process_virtual_memory_bytes ") >= resident);
        let open = figure("process_open_fds ");
        assert!(open > kept.len() as f64 && open < figure("process_max_fds "));
        assert!(figure("process_cpu_seconds_total ") >= 0.0);
        assert!(
            text.contains("# TYPE process_cpu_seconds_total counter"),
            "{text}"
        );
    }
}
