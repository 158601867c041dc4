//! Prints what a process sees of itself and its environment, as JSON on standard output.
//!
//! It uses only `std`, so that one compiler call turns this file into a static program that runs in
//! an empty root (`seen.rs`). It finds writable files by trying, and changes nothing that it finds.

use std::fs::{self, File, OpenOptions};
use std::path::{Path, PathBuf};

/// The depth of the search for writable directories.
const DEPTH: usize = 2;

/// The whole program.
pub(crate) fn main() {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let field = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name));
        text(&words(line.unwrap_or("absent")))
    };
    // First, before this program opens more.
    let descriptors = descriptors();
    let sets = ["CapInh:", "CapPrm:", "CapEff:", "CapBnd:", "CapAmb:"];
    let sets = sets.map(|name| (name.trim_end_matches(':').to_owned(), field(name)));
    let facts = [
        ("user", field("Uid:")),
        ("groups", field("Groups:")),
        ("uid_map", file("/proc/self/uid_map")),
        ("gid_map", file("/proc/self/gid_map")),
        ("capabilities", object(sets.into())),
        ("no_new_privileges", field("NoNewPrivs:")),
        ("seccomp", field("Seccomp:")),
        ("traced_by", field("TracerPid:")),
        ("oom_score_adj", file("/proc/self/oom_score_adj")),
        ("namespaces", links("/proc/self/ns")),
        ("mounts", mounts()),
        ("writable", list(writable())),
        ("processes", list(processes())),
        ("devices", devices()),
        ("descriptors", descriptors),
        (
            "working_directory",
            text(
                &std::env::current_dir()
                    .unwrap_or_default()
                    .display()
                    .to_string(),
            ),
        ),
        ("limits", limits()),
        ("control_group", file("/proc/self/cgroup")),
        ("control_group_files", list(names("/sys/fs/cgroup"))),
    ];
    let facts = facts
        .into_iter()
        .map(|(name, value)| (name.to_owned(), value));
    println!("{}", object(facts.collect()));
}

fn words(line: &str) -> String {
    line.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// Formats a JSON string.
fn text(plain: &str) -> String {
    let escaped = plain.chars().map(|letter| match letter {
        '"' | '\\' => format!("\\{letter}"),
        letter if u32::from(letter) < 32 => format!("\\u{:04x}", u32::from(letter)),
        letter => letter.to_string(),
    });
    format!("\"{}\"", escaped.collect::<String>())
}

fn list(mut all: Vec<String>) -> String {
    all.sort();
    let all: Vec<_> = all.iter().map(|each| text(each)).collect();
    format!("[{}]", all.join(","))
}

fn object(fields: Vec<(String, String)>) -> String {
    let fields = fields
        .iter()
        .map(|(name, value)| format!("{}:{value}", text(name)));
    format!("{{{}}}", fields.collect::<Vec<_>>().join(","))
}

fn names(directory: &str) -> Vec<String> {
    let entries = fs::read_dir(directory).into_iter().flatten().flatten();
    entries
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .collect()
}

fn file(path: &str) -> String {
    match fs::read_to_string(path) {
        Ok(content) => text(&words(&content)),
        Err(error) => text(&error.kind().to_string()),
    }
}

fn links(directory: &str) -> String {
    let mut all: Vec<_> = names(directory)
        .into_iter()
        .map(|name| {
            let to = fs::read_link(format!("{directory}/{name}")).unwrap_or_default();
            (name, text(&to.display().to_string()))
        })
        .collect();
    all.sort();
    object(all)
}

fn descriptors() -> String {
    let mut open: Vec<_> = names("/proc/self/fd")
        .into_iter()
        .filter_map(|number| {
            // The last is that of the listing itself, closed by now.
            let to = fs::read_link(format!("/proc/self/fd/{number}")).ok()?;
            Some((number, text(&to.display().to_string())))
        })
        .collect();
    open.sort();
    object(open)
}

/// Lists mount point, type and restrictions.
fn mounts() -> String {
    let table = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let mounts = table.lines().filter_map(|line| {
        let (left, right) = line.split_once(" - ")?;
        let left: Vec<_> = left.split(' ').collect();
        let rules = ["ro", "rw", "nosuid", "nodev", "noexec"];
        let options: Vec<_> = left
            .get(5)?
            .split(',')
            .filter(|option| rules.contains(option))
            .collect();
        Some(format!(
            "{} {} {}",
            left.get(4)?,
            right.split(' ').next()?,
            options.join(",")
        ))
    });
    list(mounts.collect())
}

/// Lists directories in which it can create a file, and other files that it can open for writing.
fn writable() -> Vec<String> {
    let mut found = Vec::new();
    let mut waiting = vec![(PathBuf::from("/"), 0)];
    while let Some((directory, depth)) = waiting.pop() {
        let own = directory.join(".written-by-a-test");
        if File::create_new(&own).is_ok() {
            // This program created it a moment ago.
            let _ = fs::remove_file(&own);
            found.push(format!(
                "{}/",
                directory.display().to_string().trim_end_matches('/')
            ));
            continue;
        }
        for name in names(&directory.display().to_string()) {
            let path = directory.join(name);
            let Ok(kind) = fs::symlink_metadata(&path) else {
                continue;
            };
            let is_process = directory == Path::new("/proc") && !path.ends_with("sys");
            if kind.is_dir() && depth < DEPTH && !is_process {
                waiting.push((path, depth + 1));
            } else if kind.is_file() && OpenOptions::new().append(true).open(&path).is_ok() {
                found.push(path.display().to_string());
            }
        }
    }
    found
}

fn processes() -> Vec<String> {
    names("/proc")
        .into_iter()
        .filter(|name| name.parse::<u32>().is_ok())
        .collect()
}

/// Lists whether each can be opened for reading and for writing.
fn devices() -> String {
    let mut all: Vec<_> = names("/dev")
        .into_iter()
        .filter_map(|name| {
            let path = Path::new("/dev").join(&name);
            let kind = fs::symlink_metadata(&path).ok()?;
            if kind.is_dir() || kind.is_symlink() {
                return None;
            }
            // Opening a terminal without a peer would block.
            let opens = |write: bool| {
                OpenOptions::new()
                    .read(!write)
                    .write(write)
                    .open(&path)
                    .is_ok()
            };
            let rights = [("r", opens(false)), ("w", opens(true))];
            let rights: String = rights
                .iter()
                .filter(|(_, may)| *may)
                .map(|(letter, _)| *letter)
                .collect();
            Some((name, text(&rights)))
        })
        .collect();
    all.sort();
    object(all)
}

fn limits() -> String {
    let table = fs::read_to_string("/proc/self/limits").unwrap_or_default();
    let limits = table.lines().skip(1).map(|line| {
        // The name has blanks; what follows it starts in one column.
        let (name, rest) = line.split_at(line.len().min(26));
        let both: Vec<_> = rest.split_whitespace().take(2).collect();
        (name.trim().to_owned(), text(&both.join(" ")))
    });
    object(limits.collect())
}
