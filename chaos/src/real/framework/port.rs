//! A task that listens on the port that it was given, records that, and answers each connection
//! with its name. Two on one host cannot listen on the same port.

use std::fs::OpenOptions;
use std::io::{ErrorKind, Write as _};
use std::net::{Ipv4Addr, TcpListener};
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use clap::Args;

/// File in which tasks record that they hold their port, or found it taken.
pub(crate) const PORTS: &str = "ports";
/// Pause between two lines of output.
const COUNT_INTERVAL: Duration = Duration::from_secs(1);
/// Timeout of an answer.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(1);
/// The word for a held port.
pub(crate) const HELD: &str = "held";
/// The word for a port that another process holds.
pub(crate) const TAKEN: &str = "taken";

/// Arguments of the hidden command.
#[derive(Debug, Clone, Args)]
pub struct HoldArguments {
    /// The port to listen on
    #[arg(long)]
    port: u16,
    /// The file to record it in
    #[arg(long)]
    witness: PathBuf,
    /// Framework and task, as in the witness file
    #[arg(long)]
    task: String,
}

/// Holds the port until this process is ended, answers connections, and counts in its output, as
/// other services do.
///
/// # Errors
/// If another process has the port, or it cannot be recorded.
pub fn hold(arguments: &HoldArguments) -> Result<()> {
    let held = TcpListener::bind((Ipv4Addr::UNSPECIFIED, arguments.port));
    let word = match &held {
        Ok(_) => HELD,
        Err(error) if error.kind() == ErrorKind::AddrInUse => TAKEN,
        Err(error) => bail!("cannot listen on port {}: {error}", arguments.port),
    };
    let line = format!("{} {} {word}\n", arguments.task, arguments.port);
    let mut options = OpenOptions::new();
    let mut file = options.append(true).create(true).open(&arguments.witness)?;
    // One write, so that lines of several tasks do not mix.
    file.write_all(line.as_bytes())
        .context("cannot write to the witness file")?;
    let (held, name) = (held?, format!("{}\n", arguments.task));
    std::thread::spawn(move || {
        for stream in held.incoming().flatten() {
            // A client that does not read would hold up the others.
            let mut stream = stream;
            let limited = stream.set_write_timeout(Some(ANSWER_TIMEOUT));
            // It finds out itself that its answer is not whole.
            let _ = limited.and_then(|()| stream.write_all(name.as_bytes()));
        }
    });
    let mut output = std::io::stdout();
    for number in 0_u64.. {
        writeln!(output, "{number}").context("cannot write to the output")?;
        std::thread::sleep(COUNT_INTERVAL);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_in_use_is_reported_as_taken() {
        let directory = tempfile::tempdir().unwrap();
        let other = TcpListener::bind((Ipv4Addr::UNSPECIFIED, 0)).unwrap();
        let arguments = HoldArguments {
            port: other.local_addr().unwrap().port(),
            witness: directory.path().join(PORTS),
            task: "f/t".to_owned(),
        };
        assert!(hold(&arguments).is_err());
        let output = std::fs::read_to_string(&arguments.witness).unwrap();
        assert_eq!(output, format!("f/t {} {TAKEN}\n", arguments.port));
    }
}
