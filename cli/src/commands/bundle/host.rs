//! The part of a bundle about this host: the logs and flags of masters and agents that run here.

use std::fs::{self, OpenOptions};
use std::io::{self, Read, Seek as _, SeekFrom};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread;

use nix::libc::{O_NOCTTY, O_NONBLOCK};

use super::scrub;

/// Flags whose values are names, numbers, addresses or paths, and never secret. Of others, only the
/// name is kept.
const SHOWN_FLAGS: &[&str] = &[
    "--allow-exec",
    "--allow-files",
    "--allow-host",
    "--allow-host-network",
    "--allow-missing-controllers",
    "--api-user",
    "--bootstrap",
    "--data-dir",
    "--disk-enforcement",
    "--insecure-plaintext",
    "--isolation",
    "--listen",
    "--log",
    "--log-format",
    "--masters",
    "--peers",
    "--resources",
    "--timing",
    "--tls",
];
/// The number of lines of the journal.
const JOURNAL_LINES: &str = "20000";
/// Number of bytes that are kept of a program's errors.
const ERROR_BYTES: usize = 4 << 10;
/// Number of bytes that are read at a time.
const READ_BYTES: usize = 64 << 10;

/// The name of a file in the archive, and its content or the reason why there is none.
type Collected = (String, Result<String, String>);

/// Returns flags, and logs: those of the journal, and the ends of the named files.
pub(super) fn collect(logs: &[PathBuf], limit: usize) -> Vec<Collected> {
    let mut all = vec![
        ("host/processes.txt".to_owned(), Ok(processes())),
        ("host/journal.txt".to_owned(), journal(limit)),
    ];
    for (number, path) in logs.iter().enumerate() {
        let file = path.file_name().unwrap_or_default().to_string_lossy();
        let name = format!("host/logs/{number}-{}", super::file_name(&file));
        all.push((name, end_of(path, limit)));
    }
    all
}

/// The last bytes of a text.
struct Tail {
    bytes: Vec<u8>,
    /// True if there were bytes before them.
    is_cut: bool,
}

impl Tail {
    /// Returns the complete lines. Of a line without its start, no secret would be recognized.
    fn lines(&self) -> String {
        let mut whole = &self.bytes[..];
        if self.is_cut {
            let end = whole.iter().position(|byte| *byte == b'\n');
            whole = &whole[end.map_or(whole.len(), |end| end + 1)..];
        }
        scrub::text(&String::from_utf8_lossy(whole))
    }
}

/// Reads to the end, and keeps no more than the last `limit` bytes.
fn tail(from: &mut impl Read, limit: usize) -> io::Result<Tail> {
    let mut part = vec![0; READ_BYTES];
    let mut bytes = Vec::new();
    let mut is_cut = false;
    loop {
        let length = match from.read(&mut part) {
            Ok(length) => length,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(error),
        };
        bytes.extend_from_slice(&part[..length]);
        let excess = bytes.len().saturating_sub(limit);
        // Rarely, because the rest is moved.
        if length == 0 || excess >= limit.max(READ_BYTES) {
            is_cut |= excess > 0;
            bytes.drain(..excess);
        }
        if length == 0 {
            return Ok(Tail { bytes, is_cut });
        }
    }
}

/// Returns the last lines of a log file.
fn end_of(path: &Path, limit: usize) -> Result<String, String> {
    let read = || {
        let mut options = OpenOptions::new();
        // A named pipe must not wait for a writer, nor a terminal become that of this process.
        options.read(true).custom_flags(O_NONBLOCK | O_NOCTTY);
        let mut file = options.open(path)?;
        let found = file.metadata()?;
        if !found.is_file() {
            return Err(io::Error::other("it is not a regular file"));
        }
        let begin = found.len().saturating_sub(limit as u64);
        file.seek(SeekFrom::Start(begin))?;
        let mut bytes = Vec::new();
        file.take(limit as u64).read_to_end(&mut bytes)?;
        let is_cut = begin > 0;
        Ok(Tail { bytes, is_cut })
    };
    let end: io::Result<Tail> = read();
    let end = end.map_err(|error| format!("cannot read {}: {error}", path.display()))?;
    Ok(end.lines())
}

/// Runs a program, and returns the end of its output.
fn output_of(command: &mut Command, limit: usize) -> Result<Tail, String> {
    let program = command.get_program().to_string_lossy().into_owned();
    let failed = |error: io::Error| format!("{program}: {error}");
    command.stdin(Stdio::null());
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().map_err(failed)?;
    let (Some(mut output), Some(mut errors)) = (child.stdout.take(), child.stderr.take()) else {
        return Err(format!("{program}: no output"));
    };
    // A thread, because the program would stall if the pipe of its errors were full.
    let errors = thread::spawn(move || tail(&mut errors, ERROR_BYTES));
    let end = tail(&mut output, limit);
    // After a failed read, the program must not wait for a reader.
    drop(output);
    let errors = errors.join();
    let status = child.wait().map_err(failed)?;
    let end = end.map_err(failed)?;
    if status.success() {
        return Ok(end);
    }
    let why = errors.ok().and_then(Result::ok);
    let why = why.map(|tail| tail.bytes).unwrap_or_default();
    let why = scrub::text(&String::from_utf8_lossy(&why));
    Err(format!("{program}: {}", why.trim()))
}

/// Returns the newest lines of units whose names begin with `argosy`.
fn journal(limit: usize) -> Result<String, String> {
    let mut command = Command::new("journalctl");
    command.args(["--no-pager", "--output", "short-iso-precise"]);
    command.args(["--unit", "argosy*", "--lines", JOURNAL_LINES]);
    Ok(output_of(&mut command, limit)?.lines())
}

/// Returns the command lines of the services that run here, one per line.
fn processes() -> String {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    let mut lines: Vec<_> = entries
        .filter_map(|entry| {
            let pid: u32 = entry.file_name().to_str()?.parse().ok()?;
            let line = fs::read(entry.path().join("cmdline")).ok()?;
            Some((pid, service(&line)?))
        })
        .collect();
    lines.sort();
    let lines = lines.iter().map(|(pid, line)| format!("{pid} {line}\n"));
    lines.collect()
}

/// Returns the flags of a service of this program, from its arguments with a zero after each.
fn service(arguments: &[u8]) -> Option<String> {
    let words = arguments.split(|byte| *byte == 0);
    let words = words.map(|word| String::from_utf8_lossy(word).into_owned());
    let words: Vec<_> = words.filter(|word| !word.is_empty()).collect();
    let program = Path::new(words.first()?).file_name()?.to_str()?;
    let [object, verb] = [words.get(1)?.as_str(), words.get(2).map_or("", |word| word)];
    let is_service = matches!((object, verb), ("master" | "agent", "start") | ("dev", _));
    if program != "argosy" || !is_service {
        return None;
    }
    let rest = if object == "dev" { 2 } else { 3 };
    let mut line = words[..rest].join(" ");
    let mut shows_values = false;
    for word in &words[rest..] {
        let (name, value) = word.split_once('=').unwrap_or((word, ""));
        if name.starts_with("--") {
            shows_values = SHOWN_FLAGS.contains(&name);
            line.push_str(&format!(" {name}"));
            if !value.is_empty() {
                line.push('=');
                line.push_str(if shows_values { value } else { "…" });
            }
        } else {
            line.push(' ');
            line.push_str(if shows_values { word } else { "…" });
        }
    }
    Some(scrub::text(&line))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(line: &[&str]) -> Option<String> {
        service(line.join("\0").as_bytes())
    }

    #[test]
    fn only_harmless_flags_of_services_are_shown() {
        let line = [
            "/usr/bin/argosy",
            "agent",
            "start",
            "--masters",
            "10.0.0.1,10.0.0.2",
            "--log=debug",
            "--fetch-allow",
            "https://u:hunter2@host/",
            "--insecure-plaintext",
            "--secret=hunter2",
            "hunter2",
        ];
        let expected = "/usr/bin/argosy agent start --masters 10.0.0.1,10.0.0.2 --log=debug \
                        --fetch-allow … --insecure-plaintext --secret=… …";
        assert_eq!(shown(&line).as_deref(), Some(expected));
        assert_eq!(shown(&["argosy", "run", "--", "echo", "hunter2"]), None);
        assert_eq!(shown(&["/bin/other", "master", "start"]), None);
        assert_eq!(shown(&["argosy"]), None);
        assert_eq!(shown(&[]), None);
    }

    #[test]
    fn the_end_of_a_log_is_kept() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("agent.log");
        fs::write(&path, "first line\nfetching https://u:hunter2@host/x now\n").unwrap();
        let end = end_of(&path, 1_000).unwrap();
        assert_eq!(end, "first line\nfetching https://host/x now\n");
        // A user or password without the start of its URI would not be recognized.
        assert_eq!(end_of(&path, 30).unwrap(), "");
        fs::write(&path, "https://u:hunter2@host/x\nlast\n").unwrap();
        assert_eq!(end_of(&path, 20).unwrap(), "last\n");
        let missing = end_of(&directory.path().join("none"), 5).unwrap_err();
        assert!(missing.contains("none"), "{missing}");
    }

    #[test]
    fn a_named_pipe_is_not_read() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("pipe");
        nix::unistd::mkfifo(&path, nix::sys::stat::Mode::S_IRWXU).unwrap();
        let (sender, receiver) = std::sync::mpsc::channel();
        thread::spawn(move || sender.send(end_of(&path, 1_000)));
        let limit = std::time::Duration::from_secs(10);
        let read = receiver.recv_timeout(limit).expect("it waits for a writer");
        let why = read.unwrap_err();
        assert!(why.contains("not a regular file"), "{why}");
        assert!(end_of(directory.path(), 1_000).is_err());
    }

    #[test]
    fn no_more_than_the_end_of_an_output_is_kept() {
        let end = tail(&mut io::repeat(b'x').take(10 << 20), 1_000).unwrap();
        assert_eq!((end.bytes.len(), end.is_cut), (1_000, true));
        let kept = end.bytes.capacity();
        assert!(kept <= 8 * READ_BYTES, "{kept} bytes were kept");
        let run = |script: &str| output_of(Command::new("sh").args(["-c", script]), 20);
        // Both pipes would be full.
        let end = run("seq 1 100000 >&2; seq 1 100000").unwrap();
        assert_eq!(end.lines(), "99998\n99999\n100000\n");
        let whole = run("echo token=hunter2").unwrap();
        assert_eq!(whole.lines(), "token=…\n");
        let why = run("seq 1 100000 >&2; echo wrong >&2; exit 3").map(|end| end.lines());
        let why = why.unwrap_err();
        assert!(
            why.ends_with("wrong") && why.len() < 2 * ERROR_BYTES,
            "{why}"
        );
    }
}
