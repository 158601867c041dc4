//! One QEMU virtual machine, from power on to its end or to the cut.
//!
//! Software emulation only: it needs and uses no virtualization. It has no network. A machine does
//! not outlive the program that started it.

use std::collections::VecDeque;
use std::io::{BufRead, BufReader, Read};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use super::disk::Disk;
use super::nbd;
use super::report::GuestReport;

/// Reports that wait to be read. When full, the guest's serial port blocks.
const REPORTS: usize = 4_096;
/// Lines of the console that are kept. The oldest are dropped first.
const CONSOLE_LINES: usize = 400;
/// Timeout for QEMU to connect.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(60);

/// The hardware of a machine.
#[derive(Debug, Clone)]
pub(crate) struct Hardware {
    /// The kernel's image.
    pub(crate) kernel: PathBuf,
    /// The initramfs, which is the only root file system.
    pub(crate) initramfs: PathBuf,
    pub(crate) memory_mib: u32,
    pub(crate) processors: Processors,
    /// The time source.
    pub(crate) clock: ClockSource,
}

/// The time source of a machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum ClockSource {
    /// The host's clock
    Host,
    /// Executed instructions, with one processor: no deadline passes because the host is busy, and
    /// waiting takes no time
    Instructions,
}

impl ClockSource {
    fn options(self) -> &'static [&'static str] {
        match self {
            Self::Host => &["-accel", "tcg,thread=multi"],
            // Two nanoseconds for each instruction.
            Self::Instructions => &[
                "-accel",
                "tcg,thread=single",
                "-icount",
                "shift=1,sleep=off",
            ],
        }
    }
}

/// The number of processors of a machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Processors {
    /// Needed where the kernel patches its code while it runs: an agent attaches filters to
    /// cgroups, and thereby enables a branch of the system call `connect`. If another processor
    /// executes that code at this moment, QEMU 7.2 may keep the translated breakpoint of the patch,
    /// and both processors repeat it without end. With the clock [`ClockSource::Instructions`],
    /// QEMU hangs when it starts a second processor.
    One,
    Two,
}

/// A disk that the machine shares with the code that cuts its power.
pub(crate) type SharedDisk = Arc<Mutex<Disk>>;

/// The reason why a machine cannot be started.
#[derive(Debug, thiserror::Error)]
pub(crate) enum MachineError {
    /// A file or socket on the host's side cannot be used.
    #[error("cannot use {path}")]
    Host {
        path: PathBuf,
        source: std::io::Error,
    },
    /// QEMU cannot be started.
    #[error("cannot start qemu-system-x86_64 (install it with: scripts/setup)")]
    Qemu { source: std::io::Error },
    /// QEMU ended immediately, or hangs.
    #[error("qemu-system-x86_64 has not connected: {words}")]
    NotConnected { words: String },
}

/// The result of waiting for a report.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum ReportWait {
    Report(GuestReport),
    /// No report until the deadline.
    Silence,
    /// The machine is off.
    Ended,
}

/// A running machine. Its power is cut when this value is dropped.
pub(crate) struct VirtualMachine {
    qemu: Child,
    reports: Receiver<GuestReport>,
    console: Console,
    /// One server for each disk. Each ends with QEMU's connection.
    servers: Vec<JoinHandle<()>>,
}

/// The last lines of the guest's console.
#[derive(Debug, Clone, Default)]
struct Console(Arc<Mutex<VecDeque<String>>>);

impl VirtualMachine {
    /// Switches a machine on. `words` are appended to the kernel's command line. `work` is a
    /// directory for sockets.
    ///
    /// # Errors
    /// [`MachineError`] if QEMU or a resource of the host is not available.
    pub(crate) fn start(
        hardware: &Hardware,
        disks: &[SharedDisk],
        args: &str,
        work: &Path,
    ) -> Result<Self, MachineError> {
        let report_socket = work.join("report");
        let listener = bind(&report_socket)?;
        let mut command = qemu(hardware, args, &report_socket);
        let mut sockets = Vec::new();
        for (number, disk) in disks.iter().enumerate() {
            let socket = work.join(format!("disk-{}", number + 1));
            let listener = bind(&socket)?;
            command.args(device(number, &socket));
            sockets.push((listener, disk.clone()));
        }
        let mut qemu = command
            .spawn()
            .map_err(|source| MachineError::Qemu { source })?;
        let console = Console::default();
        console.follow(qemu.stdout.take().expect("it is piped"));
        console.follow(qemu.stderr.take().expect("it is piped"));
        let servers = sockets
            .into_iter()
            .map(|(listener, disk)| std::thread::spawn(move || serve(&listener, &disk)))
            .collect();
        let (sender, reports) = sync_channel(REPORTS);
        let mut machine = Self {
            qemu,
            reports,
            console,
            servers,
        };
        machine.connect(&listener, sender)?;
        Ok(machine)
    }

    /// Waits for QEMU to open the serial port of the reports.
    fn connect(
        &mut self,
        listener: &UnixListener,
        sender: SyncSender<GuestReport>,
    ) -> Result<(), MachineError> {
        let deadline = Instant::now() + CONNECT_TIMEOUT;
        let console = self.console.clone();
        loop {
            match listener.accept() {
                Ok((stream, _)) => {
                    // Systems differ in whether the stream inherits the mode of the listener.
                    let usable = stream.set_nonblocking(false);
                    usable.map_err(|source| MachineError::Host {
                        path: "the report socket".into(),
                        source,
                    })?;
                    std::thread::spawn(move || read_reports(stream, &sender, &console));
                    return Ok(());
                }
                Err(_) if Instant::now() < deadline && matches!(self.qemu.try_wait(), Ok(None)) => {
                    std::thread::sleep(Duration::from_millis(5));
                }
                Err(_) => {
                    let words = self.console.last(5).join("; ");
                    return Err(MachineError::NotConnected { words });
                }
            }
        }
    }

    /// Returns the next report, or what else happened until the deadline.
    pub(crate) fn wait_for_report(&self, deadline: Instant) -> ReportWait {
        let left = deadline.saturating_duration_since(Instant::now());
        match self.reports.recv_timeout(left) {
            Ok(report) => ReportWait::Report(report),
            Err(RecvTimeoutError::Timeout) => ReportWait::Silence,
            Err(RecvTimeoutError::Disconnected) => ReportWait::Ended,
        }
    }

    /// Sends SIGKILL: the guest's memory is lost. Returns the reports until now.
    pub(crate) fn cut(&mut self) -> Vec<GuestReport> {
        // A machine that has ended by itself is only waited for.
        let _ = self.qemu.kill();
        let _ = self.qemu.wait();
        // The reader of the port ends with the connection, so this loop ends.
        let output = self.reports.iter().collect();
        // Data that QEMU had already sent to a disk is still written to its cache. After this, no
        // server may write.
        for server in self.servers.drain(..) {
            server.join().expect("a disk's server does not panic");
        }
        output
    }

    /// Returns how long the machine has waited for a processor of this host.
    pub(crate) fn waited_for_processor(&self) -> Duration {
        waited_for_processor(self.qemu.id())
    }

    /// Returns the last lines of the console.
    pub(crate) fn console(&self, lines: usize) -> Vec<String> {
        self.console.last(lines)
    }
}

impl Drop for VirtualMachine {
    fn drop(&mut self) {
        let _ = self.qemu.kill();
        let _ = self.qemu.wait();
    }
}

/// Returns the longest time that a thread of this process was ready and did not run; zero if the
/// kernel does not report it.
fn waited_for_processor(pid: u32) -> Duration {
    let threads = std::fs::read_dir(format!("/proc/{pid}/task"));
    let threads = threads.into_iter().flatten().flatten();
    let waited_ns = threads.filter_map(|thread| {
        // Nanoseconds on a processor, nanoseconds on a queue for one, the number of time slices.
        let text = std::fs::read_to_string(thread.path().join("schedstat")).ok()?;
        text.split(' ').nth(1)?.parse().ok()
    });
    Duration::from_nanos(waited_ns.max().unwrap_or(0))
}

fn bind(path: &Path) -> Result<UnixListener, MachineError> {
    let failed = |source| MachineError::Host {
        path: path.to_owned(),
        source,
    };
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(failed(error)),
        Ok(()) | Err(_) => {}
    }
    let listener = UnixListener::bind(path).map_err(failed)?;
    listener.set_nonblocking(true).map_err(failed)?;
    Ok(listener)
}

fn qemu(hardware: &Hardware, args: &str, report_socket: &Path) -> Command {
    // setpriv: the machine is killed whenever this program ends, for any reason.
    let mut command = Command::new("setpriv");
    command.args(["--pdeathsig", "KILL", "qemu-system-x86_64"]);
    command.args(["-machine", "q35", "-cpu", "max"]);
    command.args(hardware.clock.options());
    let processors = match hardware.processors {
        Processors::One => "1",
        Processors::Two => "2",
    };
    command.args(["-smp", processors]);
    command.args(["-m", &hardware.memory_mib.to_string()]);
    command.args([
        "-nodefaults",
        "-no-reboot",
        "-display",
        "none",
        "-nic",
        "none",
    ]);
    command.args(["-serial", "stdio"]);
    let channel = format!("socket,id=report,path={}", report_socket.display());
    command.args(["-chardev", &channel, "-serial", "chardev:report"]);
    command.arg("-kernel").arg(&hardware.kernel);
    command.arg("-initrd").arg(&hardware.initramfs);
    // An emulator that gets no CPU time for a while must not appear as broken hardware to the
    // kernel.
    let slow_clock = "no_timer_check nowatchdog rcupdate.rcu_cpu_stall_suppress=1";
    let append = format!("console=ttyS0 quiet panic=-1 rdinit=/init {slow_clock} {args}");
    command.args(["-append", &append]);
    command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    command
}

/// Returns the options of a disk whose errors reach the guest, and whose cache the guest has to
/// flush.
fn device(number: usize, socket: &Path) -> [String; 4] {
    let node = format!(
        "driver=nbd,node-name=disk{number},server.type=unix,server.path={}",
        socket.display()
    );
    let device =
        format!("virtio-blk-pci,drive=disk{number},write-cache=on,werror=report,rerror=report");
    ["-blockdev".into(), node, "-device".into(), device]
}

/// Serves one client, QEMU, for as long as it is connected.
fn serve(listener: &UnixListener, disk: &SharedDisk) {
    let deadline = Instant::now() + CONNECT_TIMEOUT;
    loop {
        match listener.accept() {
            Ok((stream, _)) => {
                let served = stream
                    .set_nonblocking(false)
                    .and_then(|()| nbd::serve(stream, disk));
                if let Err(error) = served {
                    eprintln!("disk server failed: {error}");
                }
                return;
            }
            Err(_) if Instant::now() < deadline => std::thread::sleep(Duration::from_millis(5)),
            // QEMU did not connect. The code that started it reports that.
            Err(_) => return,
        }
    }
}

fn read_reports(stream: impl Read, sender: &SyncSender<GuestReport>, console: &Console) {
    let mut lines = BufReader::new(stream);
    let mut line = Vec::new();
    while lines
        .read_until(b'\n', &mut line)
        .is_ok_and(|read| read > 0)
    {
        // A line without its end was truncated by the cut.
        if line.ends_with(b"\n") {
            let text = String::from_utf8_lossy(&line);
            match text.parse() {
                Ok(report) => {
                    if sender.send(report).is_err() {
                        return;
                    }
                }
                Err(error) => console.push(error.to_string()),
            }
        }
        line.clear();
    }
}

impl Console {
    fn push(&self, line: String) {
        let mut lines = self.0.lock().expect("no holder of the lock panics");
        if lines.len() == CONSOLE_LINES {
            lines.pop_front();
        }
        lines.push_back(line);
    }

    fn last(&self, count: usize) -> Vec<String> {
        let lines = self.0.lock().expect("no holder of the lock panics");
        let skipped = lines.len().saturating_sub(count);
        lines.iter().skip(skipped).cloned().collect()
    }

    fn follow(&self, from: impl Read + Send + 'static) {
        let console = self.clone();
        std::thread::spawn(move || {
            let mut lines = BufReader::new(from);
            let mut line = Vec::new();
            while lines
                .read_until(b'\n', &mut line)
                .is_ok_and(|read| read > 0)
            {
                let text = String::from_utf8_lossy(&line);
                let text: String = text.chars().filter(|letter| !letter.is_control()).collect();
                if !text.is_empty() {
                    console.push(text);
                }
                line.clear();
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn complete_report_lines_are_parsed_and_other_output_goes_to_the_console() {
        let (sender, reports) = sync_channel(8);
        let console = Console::default();
        let output = &b"mounted\r\nnonsense\nack 1 2 3\nack 1 3"[..];
        read_reports(output, &sender, &console);
        drop(sender);
        let heard: Vec<String> = reports.iter().map(|report| report.to_string()).collect();
        assert_eq!(heard, ["mounted", "ack 1 2 3"]);
        assert!(console.last(9)[0].contains("nonsense"));
    }

    #[test]
    fn the_console_keeps_the_newest_lines() {
        let console = Console::default();
        (0..CONSOLE_LINES + 3).for_each(|line| console.push(line.to_string()));
        assert_eq!(console.last(2), ["401", "402"]);
        assert_eq!(console.last(9_999)[0], "3");
    }

    #[test]
    fn a_disk_reports_its_errors_and_has_a_cache() {
        let words = device(1, Path::new("/run/d")).join(" ");
        assert!(words.contains("write-cache=on,werror=report"), "{words}");
    }

    #[test]
    fn a_process_that_competes_for_a_processor_has_waited() {
        let busy = || {
            Command::new("taskset")
                .args(["--cpu-list", "0", "sh", "-c", "while :; do :; done"])
                .spawn()
                .unwrap()
        };
        let mut both = [busy(), busy()];
        let deadline = Instant::now() + Duration::from_secs(60);
        while waited_for_processor(both[0].id()) < Duration::from_millis(100) {
            assert!(Instant::now() < deadline, "it has not waited");
            std::thread::sleep(Duration::from_millis(20));
        }
        for process in &mut both {
            process.kill().unwrap();
            process.wait().unwrap();
        }
        assert_eq!(waited_for_processor(0), Duration::ZERO, "no such process");
    }
}
