//! The metrics of the agent's loop, which it publishes once a second. Other modules record their
//! own.

use metrics::{counter, gauge};

use crate::core::{ContainerView, JournalRecord};
use crate::inbox::RegistrationStatus;

/// The name of the filters that close ports and addresses to tasks, also among what an agent
/// reports as missing.
pub(crate) const EGRESS: &str = "egress";

/// Sets which limits are enforced, and which of the second isolation layers. `missing` names what
/// the host lacks.
pub(crate) fn limits_enforced(missing: &[String]) {
    let gauge_of = |is_missing: &dyn Fn(&str) -> bool| {
        let is_there = !missing.iter().any(|name| is_missing(name));
        f64::from(u8::from(is_there))
    };
    for controller in ["cpu", "memory", "pids"] {
        gauge!("argosy_agent_limits_enforced", "controller" => controller)
            .set(gauge_of(&|name| name == controller));
    }
    // Ports are missing in part if only one of two filters works: `udp-ports`.
    for layer in [EGRESS, "ports", "devices"] {
        gauge!("argosy_agent_isolation_enforced", "layer" => layer)
            .set(gauge_of(&|name| name.ends_with(layer)));
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
    publish_containers(containers);
}

pub(crate) fn publish_containers(containers: &[ContainerView]) {
    for state in crate::core::PHASES {
        let count = containers
            .iter()
            .filter(|view| view.state == *state)
            .count();
        gauge!("argosy_agent_containers", "state" => *state).set(count as f64);
    }
    let quarantined = containers.iter().filter(|view| view.quarantined).count();
    gauge!("argosy_agent_quarantined_containers").set(quarantined as f64);
}

#[cfg(test)]
mod tests {
    use metrics_exporter_prometheus::PrometheusBuilder;

    use super::*;

    #[test]
    fn a_layer_is_reported_by_the_name_by_which_it_is_missing() {
        let recorder = PrometheusBuilder::new().build_recorder();
        let missing = [EGRESS.to_owned(), "udp-ports".to_owned()];
        ::metrics::with_local_recorder(&recorder, || limits_enforced(&missing));
        let page = recorder.handle().render();
        for (layer, value) in [("egress", 0), ("ports", 0), ("devices", 1)] {
            let line = format!("argosy_agent_isolation_enforced{{layer=\"{layer}\"}} {value}");
            assert!(page.contains(&line), "{line} is not in {page}");
        }
    }
}
