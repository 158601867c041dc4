//! The part inside the machine: three masters on three disks, an agent on a fourth, load, and
//! reading back; and tasks without a memory request.
//!
//! It leaves all checks that are possible outside to the host: a cut may come at any line.

mod agent;
mod background;
mod cluster;
mod disks;
mod flakey;
mod images;
mod kernel_args;
mod load;
mod power;
mod reading;
mod tasks;

use std::fs::File;
use std::io::Write;
use std::sync::{Arc, Mutex};

use anyhow::{Context, bail};

use super::report::GuestReport;
use kernel_args::KernelArgs;

/// Masters, each on its own disk.
pub(crate) const DISKS: usize = 3;
/// The disk of the agent, counted from 1.
pub(crate) const AGENT_DISK: u64 = 4;
/// The serial port of reports.
const PORT: &str = "/dev/ttyS1";
/// The console, whose last lines the host shows after a failure.
const CONSOLE: &str = "/dev/console";

/// Runs one case.
///
/// # Errors
/// The reason of the result.
pub(crate) fn run(case: &str) -> anyhow::Result<()> {
    let words = KernelArgs::read()?;
    let voice = ReportPort::open()?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .context("cannot start threads")?;
    runtime.block_on(async {
        match case {
            "power" => power::run(&words, &voice).await,
            "unasked" => background::run().await,
            "flakey-errors" => flakey::run(flakey::DiskFault::Errors).await,
            "flakey-drops" => flakey::run(flakey::DiskFault::Drops).await,
            _ => bail!("there is no case named {case:?}"),
        }
    })
}

/// Writes a line to the console. The output of a case is printed when it ends, before which the
/// host may switch the machine off.
fn show(line: &str) {
    let console = File::options().write(true).open(CONSOLE);
    // It informs people, and decides nothing.
    _ = console.and_then(|mut console| writeln!(console, "{line}"));
}

/// The serial port, line by line.
#[derive(Debug, Clone)]
struct ReportPort {
    // A lock, because many writers report. It is held until the line has left the machine.
    port: Arc<Mutex<File>>,
}

impl ReportPort {
    fn open() -> anyhow::Result<Self> {
        let port = File::options().write(true).open(PORT);
        let port = port.with_context(|| format!("cannot open {PORT}"))?;
        Ok(Self {
            port: Arc::new(Mutex::new(port)),
        })
    }

    /// Sends a report and waits until it has left the machine. Otherwise a cut loses reports in the
    /// kernel's buffer, while the writers that they are about have continued.
    fn send(&self, report: &GuestReport) -> anyhow::Result<()> {
        let mut port = self.port.lock().expect("no holder of the lock panics");
        let written = port.write_all(format!("{report}\n").as_bytes());
        written.with_context(|| format!("cannot write to {PORT}"))?;
        nix::sys::termios::tcdrain(&*port).with_context(|| format!("cannot drain {PORT}"))
    }
}
