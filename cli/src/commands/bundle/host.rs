//! What a bundle has of this host: the logs and flags of masters and agents that run here.

use std::fs::{self, File};
use std::io::{Read as _, Seek as _, SeekFrom};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

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
];
/// The number of lines of the journal.
const JOURNAL_LINES: &str = "20000";

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

/// Returns the last lines of a log file.
fn end_of(path: &Path, limit: usize) -> Result<String, String> {
    let read = || {
        let mut file = File::open(path)?;
        let length = file.metadata()?.len();
        file.seek(SeekFrom::Start(length.saturating_sub(limit as u64)))?;
        let mut bytes = Vec::new();
        file.take(limit as u64).read_to_end(&mut bytes)?;
        Ok(bytes)
    };
    let bytes: std::io::Result<Vec<u8>> = read();
    let bytes = bytes.map_err(|error| format!("cannot read {}: {error}", path.display()))?;
    Ok(scrub::text(&String::from_utf8_lossy(&bytes)))
}

/// Returns the newest lines of units whose names begin with `argosy`.
fn journal(limit: usize) -> Result<String, String> {
    let mut command = Command::new("journalctl");
    command.args(["--no-pager", "--output", "short-iso-precise"]);
    command.args(["--unit", "argosy*", "--lines", JOURNAL_LINES]);
    let output = command
        .stdin(Stdio::null())
        .output()
        .map_err(|error| format!("journalctl: {error}"))?;
    if !output.status.success() {
        let why = String::from_utf8_lossy(&output.stderr);
        return Err(format!("journalctl: {}", why.trim()));
    }
    let excess = output.stdout.len().saturating_sub(limit);
    let text = String::from_utf8_lossy(&output.stdout[excess..]);
    Ok(scrub::text(&text))
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
        assert_eq!(end_of(&path, 5).unwrap(), " now\n");
        let missing = end_of(&directory.path().join("none"), 5).unwrap_err();
        assert!(missing.contains("none"), "{missing}");
    }
}
