//! Frameworks of the workloads, on the public SDK: many tasks, single tasks, a stream of single
//! tasks, sleepers.

mod flood;
mod single;
mod sleepers;
mod trickle;

pub(crate) use flood::flood;
pub(crate) use single::{StartScheduler, fresh_start};
pub(crate) use sleepers::{SleepingTasks, sleepers};
pub(crate) use trickle::{LongestGap, Trickle};

use argosy_client::scheduler::SchedulerConfig;
use argosy_proto::v1;

use crate::cluster::MasterAccess;

/// Resources of every task.
const TASK_RESOURCES: &str = "cpus:1;mem:32";

/// Returns the configuration of a framework that is removed when its process is gone.
fn config(masters: &MasterAccess, name: &str) -> SchedulerConfig {
    let mut config = SchedulerConfig::new(masters.masters().clone(), name);
    config.connector = masters.config();
    config.info.failover_timeout_ms = Some(0);
    config
}

/// Returns a task in this network, or in the default one.
fn task(task_id: String, argv: &[&str], network: Option<&v1::Network>) -> v1::TaskSpec {
    v1::TaskSpec {
        container: network.map(|network| v1::ContainerSpec {
            network: Some(network.clone()),
            ..Default::default()
        }),
        task_id,
        resources: argosy_client::resources::resources(TASK_RESOURCES).expect("the text is ours"),
        argv: argv.iter().map(|word| (*word).to_owned()).collect(),
        ..Default::default()
    }
}

/// Returns how many tasks one call launches on an offer.
fn room(offer: &v1::Offer) -> usize {
    let mut left = argosy_client::resources::Remainder::of(offer);
    let wanted = TASK_RESOURCES.parse().expect("the text is ours");
    std::iter::repeat_with(|| left.take(&wanted))
        .take_while(|taken| *taken)
        .take(argosy_state::limits::TASKS_PER_CALL)
        .count()
}
