//! Detection of missing packet filter rules of bridge networks. A reload of the host's firewall
//! often removes the rules of all programs.

use std::sync::Arc;
use std::time::Duration;

use metrics::counter;

use super::RunnerState;

/// The longest time for which tasks are not isolated after a removal of the rules. A check is one
/// query of the kernel.
const CHECK_INTERVAL: Duration = Duration::from_secs(5);

impl RunnerState {
    /// Restores the rules whenever they are missing, and reports it, also if a start or an end of a
    /// container has restored them. Logs only the first of successive failures.
    pub(super) async fn watch_network_rules(self: Arc<Self>) {
        let mut has_failed = false;
        loop {
            tokio::time::sleep(CHECK_INTERVAL).await;
            let shared = Arc::clone(&self);
            let check = move || shared.broker.restore_network_rules();
            let checked = tokio::task::spawn_blocking(check).await;
            let checked = checked.expect("a request to the broker never panics");
            match &checked {
                Ok(true) => {
                    counter!("argosy_agent_network_rules_restored_total").increment(1);
                    tracing::warn!(
                        "other software has removed the nft table of this agent, and it is restored: until now bridge networks did not isolate tasks from the host and from each other"
                    );
                }
                Err(why) if !has_failed => tracing::error!(
                    why,
                    "the nft table of this agent cannot be checked or restored: bridge networks may not isolate tasks; retrying"
                ),
                Ok(false) | Err(_) => {}
            }
            has_failed = checked.is_err();
        }
    }
}
