//! Arguments that all frameworks of this crate share, and their end on a signal.

use argosy_client::scheduler::SchedulerDriver;
use argosy_client::{Masters, SchedulerConfig};
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

/// The address of the cluster, and the role of the framework.
#[derive(Debug, Clone, clap::Args)]
pub struct ClusterArguments {
    /// API addresses of the masters, as 10.0.0.1:5050,10.0.0.2:5050
    #[arg(long, env = "ARGOSY_MASTERS", value_name = "ADDRESSES")]
    pub masters: Masters,
    /// Role in which the framework receives offers
    #[arg(long, env = "ARGOSY_ROLE", default_value = "*")]
    pub role: String,
}

impl ClusterArguments {
    /// Returns a configuration for a framework called `name` whose tasks outlive it for
    /// `failover_timeout_ms`.
    #[must_use]
    pub fn config(&self, name: &str, failover_timeout_ms: u64) -> SchedulerConfig {
        let mut config = SchedulerConfig::new(self.masters.clone(), name);
        config.info.roles = vec![self.role.clone()];
        config.info.failover_timeout_ms = Some(failover_timeout_ms);
        config
    }
}

/// Tears the framework down on the first INT or TERM. On the second, or ten seconds later, stops
/// waiting for the masters.
///
/// # Errors
/// If signals cannot be watched.
pub fn teardown_on_signal(driver: SchedulerDriver) -> anyhow::Result<CancellationToken> {
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    let stop = CancellationToken::new();
    let token = stop.clone();
    // Ends with the program, because it waits for signals only.
    tokio::spawn(async move {
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
        }
        driver.teardown();
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
            () = tokio::time::sleep(std::time::Duration::from_secs(10)) => {}
        }
        token.cancel();
    });
    Ok(stop)
}
