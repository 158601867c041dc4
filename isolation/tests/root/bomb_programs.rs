//! The bombs inside their containers. This program is copied into the sandbox: it needs only a C
//! library.

use std::fs::{self, File};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, UdpSocket};
use std::os::unix::net::UnixStream;
use std::process::{Command, ExitCode, Stdio};
use std::time::Duration;

use nix::errno::Errno;
use nix::sys::signal::{Signal, kill};
use nix::unistd::{Pid, setsid};

/// The verb with which this program is a bomb.
pub(crate) const VERB: &str = "inside";
/// The text that each bomb writes when it has reached its limit.
pub(crate) const DONE: &str = "done";

/// Runs a bomb; returns only when it is done.
pub(crate) fn main(arguments: &[String]) -> ExitCode {
    match arguments.first().map(String::as_str) {
        Some("bind") => bind(&arguments[1..]),
        Some("forks") => forks(),
        Some("threads") => threads(),
        Some("memory") => memory(),
        Some("descriptors") => descriptors(),
        Some("files") => files(&arguments[1]),
        Some("fill") => fill(&arguments[1]),
        Some("zombies") => zombies(),
        Some("daemons") => daemons(),
        Some("daemon") => daemon(),
        Some("sleep") => sleep(),
        Some("signals") => signals(),
        Some("flood") => flood(),
        Some("deep") => deep(),
        _ => ExitCode::FAILURE,
    }
}

/// Tries to bind one port after another, each closed immediately: a protocol, then its port.
fn bind(asked: &[String]) -> ExitCode {
    for pair in asked.chunks_exact(2) {
        let (protocol, port) = (pair[0].as_str(), pair[1].parse().unwrap());
        let here: IpAddr = match protocol.ends_with('6') {
            false => Ipv4Addr::UNSPECIFIED.into(),
            true => Ipv6Addr::UNSPECIFIED.into(),
        };
        let here = SocketAddr::from((here, port));
        let bound = match protocol.starts_with("tcp") {
            true => TcpListener::bind(here).map(drop),
            false => UdpSocket::bind(here).map(drop),
        };
        match bound {
            Ok(()) => report("bound"),
            Err(error) => report(&format!(
                "{:?}",
                Errno::from_raw(error.raw_os_error().unwrap())
            )),
        }
    }
    ExitCode::SUCCESS
}

fn itself(verb: &str) -> Command {
    let mut command = Command::new("./inside");
    command.args([VERB, verb]).stdin(Stdio::null());
    command
}

fn report(what: &str) {
    use std::io::Write;
    // A process beyond all limits may not be able to write either.
    let _ = writeln!(std::io::stdout(), "{what}");
}

fn sleep() -> ExitCode {
    loop {
        std::thread::sleep(Duration::from_secs(1_000));
    }
}

/// Each process forks for as long as it can.
fn forks() -> ExitCode {
    let mut made = Vec::new();
    loop {
        match itself("forks").spawn() {
            Ok(child) => made.push(child),
            Err(_) => {
                report(DONE);
                std::thread::sleep(Duration::from_millis(20));
            }
        }
    }
}

fn threads() -> ExitCode {
    loop {
        let thread = std::thread::Builder::new().stack_size(16 * 1024);
        if thread.spawn(sleep).is_err() {
            report(DONE);
            sleep();
        }
    }
}

fn memory() -> ExitCode {
    let mut held: Vec<Vec<u8>> = Vec::new();
    loop {
        // Filled with data, or the kernel maps the same page repeatedly.
        held.push(vec![held.len() as u8 | 1; 1 << 20]);
    }
}

fn descriptors() -> ExitCode {
    let (mut files, mut pairs) = (Vec::new(), Vec::new());
    while let Ok(file) = File::open("/dev/null") {
        files.push(file);
    }
    let count = files.len();
    files.truncate(count / 2);
    while let Ok(pair) = UnixStream::pair() {
        pairs.push(pair);
    }
    report(&format!("{count} files, {} pairs", pairs.len()));
    report(DONE);
    sleep()
}

/// Creates empty files in a directory until the limit.
fn files(directory: &str) -> ExitCode {
    let mut count = 0_u64;
    while count < 1_000_000 && File::create(format!("{directory}/{count}")).is_ok() {
        count += 1;
    }
    report(&format!("{count}"));
    report(DONE);
    sleep()
}

/// Fills one file until the limit.
fn fill(directory: &str) -> ExitCode {
    use std::io::Write;
    let mut bytes = 0_usize;
    if let Ok(mut file) = File::create(format!("{directory}/fill")) {
        while let Ok(count) = file.write(&[1; 65_536]) {
            bytes += count;
        }
    }
    report(&format!("{bytes}"));
    report(DONE);
    sleep()
}

/// Creates a thousand processes that have ended and are not reaped.
fn zombies() -> ExitCode {
    let mut made = Vec::new();
    while made.len() < 1_000 {
        // Of the smallest kind.
        match Command::new("true").stdin(Stdio::null()).spawn() {
            Ok(child) => made.push(child),
            Err(error) => {
                report(&error.to_string());
                return ExitCode::FAILURE;
            }
        }
    }
    report(DONE);
    sleep()
}

/// Creates fifty processes without parents, in separate sessions.
fn daemons() -> ExitCode {
    for _ in 0..50 {
        let ended = itself("daemon").status();
        if !ended.is_ok_and(|status| status.success()) {
            return ExitCode::FAILURE;
        }
    }
    report(DONE);
    ExitCode::SUCCESS
}

fn daemon() -> ExitCode {
    let left = setsid().is_ok();
    let made = itself("sleep")
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn();
    ExitCode::from(u8::from(!left || made.is_err()))
}

/// Sends every signal that can be handled, to every visible process.
fn signals() -> ExitCode {
    for _ in 0..300 {
        for signal in Signal::iterator() {
            if ![Signal::SIGKILL, Signal::SIGSTOP].contains(&signal) {
                // There may be no process to which it may send one.
                let _ = kill(Pid::from_raw(-1), signal);
                let _ = kill(Pid::from_raw(1), signal);
            }
        }
    }
    report(DONE);
    ExitCode::from(7)
}

fn flood() -> ExitCode {
    use std::io::Write;
    let line = [b'x'; 65_536];
    loop {
        // An exit of the supervisor would end this as well.
        if std::io::stdout().write_all(&line).is_err() {
            return ExitCode::FAILURE;
        }
    }
}

/// Creates nested directories, deeper than any path, and a hundred thousand files.
fn deep() -> ExitCode {
    let mut made = fs::create_dir("many").is_ok();
    for number in 0..100_000 {
        made &= File::create(format!("many/{number}")).is_ok();
    }
    for _ in 0..5_000 {
        made &= fs::create_dir("deeper").is_ok() && std::env::set_current_dir("deeper").is_ok();
    }
    ExitCode::from(u8::from(!made))
}
