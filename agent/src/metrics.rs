//! Names and descriptions of the agent's metrics; other modules set their values, and this one does
//! once a second.

use metrics::{counter, describe_counter, describe_gauge, describe_histogram, gauge};

use crate::core::{ContainerView, JournalRecord};
use crate::inbox::RegistrationStatus;

/// Registers the descriptions of all metrics.
pub(crate) fn describe() {
    argosy_proto::server::describe();
    describe_gauge!(
        "argosy_agent_registered",
        "1 while a master has registered this agent."
    );
    describe_gauge!("argosy_agent_epoch", "Highest epoch seen.");
    describe_gauge!(
        "argosy_agent_broker_responds",
        "1 while the broker answers, 0 once a heartbeat has gone unanswered for ten seconds. Missing if the agent has no broker."
    );
    describe_counter!(
        "argosy_agent_reconnects_total",
        "Streams to a master that were opened."
    );
    describe_gauge!("argosy_agent_containers", "Containers by state.");
    describe_histogram!(
        "argosy_agent_launch_duration_seconds",
        "Time of one step of a launch."
    );
    describe_counter!(
        "argosy_agent_launch_failures_total",
        "Launches that failed in a step."
    );
    describe_counter!(
        "argosy_agent_repeated_starts_total",
        "Containers that were started although their task had been started before: a defect."
    );
    // An increase is only seen after a first sample.
    counter!("argosy_agent_repeated_starts_total").increment(0);
    describe_counter!(
        "argosy_agent_oom_kills_total",
        "Containers that reached their memory limit."
    );
    describe_disks();
    describe_counter!(
        "argosy_agent_checks_total",
        "Probes of checks, by check, by kind of probe, and by result: passed, failed, timed_out."
    );
    describe_counter!(
        "argosy_agent_health_kills_total",
        "Tasks that were ended because their health check failed too often."
    );
    describe_recoveries();
    describe_fetches();
    describe_gauge!(
        "argosy_agent_exec_sessions",
        "Exec sessions with a connected client."
    );
    describe_gauge!(
        "argosy_agent_attach_sessions",
        "Clients that are attached to tasks' own commands."
    );
    describe_histogram!(
        "argosy_agent_journal_sync_duration_seconds",
        "Time of one sync of the journal."
    );
    describe_counter!(
        "argosy_agent_journal_corruptions_total",
        "Corrupt parts of the journal that were found at a start; the log has their offsets."
    );
    describe_gauge!(
        "argosy_agent_limits_enforced",
        "1 if the host has this cgroup controller."
    );
}

/// Describes the metrics of full disks.
fn describe_disks() {
    describe_counter!(
        "argosy_agent_disk_kills_total",
        "Containers killed for exceeding their disk limit."
    );
    describe_counter!(
        "argosy_agent_disk_evictions_total",
        "Tasks that were evicted because the disk was almost full."
    );
    describe_gauge!(
        "argosy_agent_journal_reserve_bytes",
        "Space of the disk that is reserved for the journal and not used yet."
    );
    describe_gauge!(
        "argosy_agent_journal_full",
        "1 while the disk has no space for the journal but the reserve; no task is started then."
    );
}

/// Describes the metrics of recoveries after a crash, and of hanging parts of a host.
fn describe_recoveries() {
    describe_counter!(
        "argosy_agent_orphans_removed_total",
        "Orphaned containers that were removed."
    );
    describe_gauge!(
        "argosy_agent_unresolved",
        "Remains of an earlier run of the agent that it cannot resolve yet: orphans (containers that do not end) and \
         networks (1 while those of earlier containers cannot be adopted). The log has the reason."
    );
    describe_counter!(
        "argosy_agent_launchers_replaced_total",
        "Launchers that were replaced because they accepted no requests."
    );
    describe_counter!(
        "argosy_agent_forced_kills_total",
        "Containers that were ended without their supervisors, which had not ended them in time."
    );
}

fn describe_fetches() {
    describe_counter!(
        "argosy_agent_content_services_replaced_total",
        "Content services that ended or did not respond, and were replaced."
    );
    describe_counter!(
        "argosy_agent_fetch_cache_hits_total",
        "Files for tasks that were in the cache."
    );
    describe_counter!(
        "argosy_agent_fetch_cache_misses_total",
        "Files that were downloaded into the fetch cache."
    );
    describe_counter!(
        "argosy_agent_fetch_cache_bypassed_total",
        "Files that were downloaded and not cached, since pinned and used files left no space for them."
    );
    describe_gauge!(
        "argosy_agent_fetch_cache_bytes",
        "Size of the files in the fetch cache."
    );
    describe_gauge!(
        "argosy_agent_fetch_cache_pinned_bytes",
        "Size of the pinned files in the fetch cache, which are never evicted."
    );
}

/// Sets which limits are enforced.
pub(crate) fn limits_enforced(missing: &[String]) {
    for controller in ["cpu", "memory", "pids"] {
        let kept = !missing.iter().any(|name| name == controller);
        gauge!("argosy_agent_limits_enforced", "controller" => controller)
            .set(f64::from(u8::from(kept)));
    }
}

/// Counts a new record of the journal.
pub(crate) fn count_record(record: &JournalRecord) {
    match record {
        JournalRecord::Updated { update, .. } if update.is_unhealthy() => {
            counter!("argosy_agent_health_kills_total").increment(1);
        }
        _ => {}
    }
}

/// Publishes the loop's present state.
pub(crate) fn publish(registration: &RegistrationStatus, containers: &[ContainerView]) {
    gauge!("argosy_agent_registered").set(f64::from(u8::from(registration.registered)));
    // Epochs are log indexes: far below 2^53.
    gauge!("argosy_agent_epoch").set(registration.epoch as f64);
    for state in crate::core::PHASES {
        let count = containers
            .iter()
            .filter(|view| view.state == *state)
            .count();
        gauge!("argosy_agent_containers", "state" => *state).set(count as f64);
    }
}
