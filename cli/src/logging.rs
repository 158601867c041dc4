//! Logs of the services, on standard error for systemd or a file.

use std::io::IsTerminal;

use tracing_subscriber::EnvFilter;

use crate::args::{LogFormat, Logging};
use crate::exit::Failure;

/// Installs the log writer of this process, once.
pub(crate) fn install(logging: &Logging) -> Result<(), Failure> {
    let filter = EnvFilter::try_new(&logging.log).map_err(|error| {
        Failure::usage(format!("--log {:?} is not a filter: {error}", logging.log))
            .advise("write a level or modules with levels, as info or argosy_master=debug,info")
    })?;
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal());
    match logging.log_format {
        LogFormat::Text => builder.init(),
        LogFormat::Json => builder.json().flatten_event(true).init(),
    }
    Ok(())
}
