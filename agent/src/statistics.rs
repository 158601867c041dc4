//! What running containers use, looked at now and then: for people and for Prometheus.
//!
//! Reads cgroup files outside the loop; never more than so many containers a round.

use std::time::Duration;

use argosy_isolation::{ContainerId, Stats, Tree};
use metrics::{counter, gauge};

use crate::core::ContainerName;
use crate::inbox::{Asker, ContainerView};

/// How often.
const EVERY: Duration = Duration::from_secs(5);
/// Tasks with metrics of their own at a time; of more only the first are shown.
const TASKS: usize = 500;
const MICROS: u64 = 1_000_000;

/// What one container uses now; `None` without a cgroup of its own.
pub(crate) fn look(tree: Option<&Tree>, name: ContainerName) -> Option<Stats> {
    let id = ContainerId::new(name.to_string()).expect("digits and dashes make a name");
    tree.map(|tree| tree.group(&id).stats())
}

/// Runs until the agent stops.
pub(crate) async fn run(tree: Option<Tree>, asker: Asker) {
    let mut turn = tokio::time::interval(EVERY);
    turn.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        turn.tick().await;
        let Some(containers) = asker.containers().await else {
            return;
        };
        let tree = tree.clone();
        let publish = move || {
            let running = containers.iter().filter(|view| view.state == "running");
            for view in running.take(TASKS) {
                if let Some(stats) = look(tree.as_ref(), view.name) {
                    publish(view, &stats);
                }
            }
        };
        let published = tokio::task::spawn_blocking(publish).await;
        published.expect("reading statistics never panics");
    }
}

fn publish(view: &ContainerView, stats: &Stats) {
    let labels = [
        ("framework", view.framework_id.clone()),
        ("task", view.task_id.clone()),
    ];
    // A counter holds whole numbers: seconds are precise enough for rates over minutes.
    if let Some(cpu_us) = stats.cpu_us {
        counter!("argosy_task_cpu_seconds_total", &labels).absolute(cpu_us / MICROS);
    }
    if let Some(throttled_us) = stats.cpu_throttled_us {
        counter!("argosy_task_cpu_throttled_seconds_total", &labels)
            .absolute(throttled_us / MICROS);
    }
    if let Some(bytes) = stats.memory_bytes {
        gauge!("argosy_task_memory_bytes", &labels).set(bytes as f64);
    }
    if let Some(count) = stats.pids {
        gauge!("argosy_task_pids", &labels).set(count as f64);
    }
}

/// The same for people.
pub(crate) fn as_json(stats: &Stats) -> serde_json::Value {
    serde_json::json!({
        "cpu_us": stats.cpu_us,
        "cpu_throttled_us": stats.cpu_throttled_us,
        "memory_bytes": stats.memory_bytes,
        "memory_peak_bytes": stats.memory_peak_bytes,
        "pids": stats.pids,
        "out_of_memory_kills": stats.out_of_memory_kills,
    })
}
