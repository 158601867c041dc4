//! The logs of simulated processes, in one file, with simulated time.

use std::fmt;
use std::fs::File;
use std::io;
use std::path::Path;

use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::time::FormatTime;

use super::run;

/// The default filter, unless RUST_LOG is set. The simulation adds the host.
const OURS: &str = "argosy_master=debug,argosy_agent=debug,argosy_raft=debug,argosy_client=debug,turmoil::sim=info";

struct SimulatedTime;

impl FormatTime for SimulatedTime {
    fn format_time(&self, writer: &mut Writer<'_>) -> fmt::Result {
        write!(writer, "{:9.3}", run::elapsed().as_secs_f64())
    }
}

/// Writes all further logs to a file.
///
/// # Errors
/// If the file cannot be created.
pub(super) fn write_to(path: &Path) -> io::Result<()> {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new(OURS));
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_timer(SimulatedTime)
        .with_ansi(false)
        .with_writer(File::create(path)?)
        .init();
    Ok(())
}
