//! Reads the resources of a host from /proc, /sys and nft. Anything that vanishes during the scan
//! is left out.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::{fs, io};

use super::{Inventory, ObjectKind};

/// Namespaces of a process that a container may have to itself.
const NAMESPACES: [&str; 7] = ["cgroup", "ipc", "mnt", "net", "pid", "user", "uts"];

/// The reason why a host cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum AuditError {
    /// A part of /proc or /sys that every host has cannot be read.
    #[error("cannot read {path}")]
    Read { path: PathBuf, source: io::Error },
}

type InventoryMap = BTreeMap<String, String>;

/// Returns everything that this host holds now.
///
/// # Errors
/// If /proc cannot be read. Kinds that a host does not have at all are empty.
pub fn take() -> Result<Inventory, AuditError> {
    let (processes, namespaces) = processes()?;
    let mounts = mounts()?;
    let mut inventory = Inventory::default();
    inventory
        .objects
        .insert(ObjectKind::Cgroup, cgroups(&mounts));
    let reported = |(id, mount): (String, MountEntry)| (id, mount.description);
    let mounts = mounts.into_iter().map(reported).collect();
    for (kind, things) in [
        (ObjectKind::Process, processes),
        (ObjectKind::Mount, mounts),
        (ObjectKind::Namespace, namespaces),
        (ObjectKind::Interface, names_in(Path::new("/sys/class/net"))),
        (ObjectKind::LoopDevice, loop_devices()),
        (ObjectKind::RuleTable, rule_tables()),
    ] {
        inventory.objects.insert(kind, things);
    }
    Ok(inventory)
}

fn read(path: &str) -> Result<String, AuditError> {
    fs::read_to_string(path).map_err(|source| AuditError::Read {
        path: path.into(),
        source,
    })
}

/// Returns the processes by pid and start time, and the namespaces that they are in.
fn processes() -> Result<(InventoryMap, InventoryMap), AuditError> {
    let path = Path::new("/proc");
    let entries = fs::read_dir(path).map_err(|source| AuditError::Read {
        path: path.to_owned(),
        source,
    })?;
    let (mut processes, mut namespaces) = (InventoryMap::new(), InventoryMap::new());
    for entry in entries.flatten() {
        let Some(pid) = entry
            .file_name()
            .to_str()
            .and_then(|name| name.parse::<u32>().ok())
        else {
            continue;
        };
        let directory = entry.path();
        let Some(start) = fs::read_to_string(directory.join("stat"))
            .ok()
            .as_deref()
            .and_then(start_time)
        else {
            continue;
        };
        processes.insert(format!("{pid}/{start}"), describe(pid, &directory));
        for kind in NAMESPACES {
            if let Ok(name) = fs::read_link(directory.join("ns").join(kind)) {
                let name = name.to_string_lossy().into_owned();
                let reported = format!("{name} of process {}", describe(pid, &directory));
                namespaces.entry(name).or_insert(reported);
            }
        }
    }
    Ok((processes, namespaces))
}

/// Returns the pid, the command line, and the sandbox directory if one is named. These attribute a
/// process to a run.
fn describe(pid: u32, directory: &Path) -> String {
    let words = |file: &str| fs::read(directory.join(file)).unwrap_or_default();
    let command = String::from_utf8_lossy(&words("cmdline")).replace('\0', " ");
    let environment = String::from_utf8_lossy(&words("environ")).into_owned();
    let sandbox = environment
        .split('\0')
        .find(|word| word.starts_with("ARGOSY_SANDBOX="))
        .unwrap_or_default();
    format!("{pid} {} {sandbox}", command.trim())
        .trim_end()
        .to_owned()
}

/// Returns field 22 of /proc/PID/stat. A zombie counts as ended: only its parent has not reaped it.
fn start_time(stat: &str) -> Option<u64> {
    // The name in parentheses may contain any character, including spaces and parentheses.
    let after_name = &stat[stat.rfind(')')? + 1..];
    let mut fields = after_name.split_whitespace();
    (fields.next()? != "Z").then(|| fields.nth(18)?.parse().ok())?
}

struct MountEntry {
    description: String,
    point: String,
    is_cgroup: bool,
}

fn mounts() -> Result<BTreeMap<String, MountEntry>, AuditError> {
    let text = read("/proc/self/mountinfo")?;
    Ok(text.lines().filter_map(mount).collect())
}

fn mount(line: &str) -> Option<(String, MountEntry)> {
    let (before, after) = line.split_once(" - ")?;
    let mut fields = before.split(' ');
    let id = fields.next()?.to_owned();
    let point = fields.nth(3)?.to_owned();
    let kind = after.split(' ').next()?;
    let mount = MountEntry {
        description: format!("{point} ({kind})"),
        is_cgroup: kind == "cgroup2",
        point: point.clone(),
    };
    // Mount ids are reused. Together with the mount point they are unambiguous.
    Some((format!("{id} {point}"), mount))
}

/// Returns every directory of the cgroup trees.
fn cgroups(mounts: &BTreeMap<String, MountEntry>) -> InventoryMap {
    let roots = mounts.values().filter(|mount| mount.is_cgroup);
    let mut waiting: Vec<PathBuf> = roots.map(|mount| mount.point.clone().into()).collect();
    let mut found = InventoryMap::new();
    while let Some(directory) = waiting.pop() {
        for entry in fs::read_dir(&directory).into_iter().flatten().flatten() {
            if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                let name = entry.path().to_string_lossy().into_owned();
                found.insert(name.clone(), name);
                waiting.push(entry.path());
            }
        }
    }
    found
}

fn names_in(directory: &Path) -> InventoryMap {
    let entries = fs::read_dir(directory).into_iter().flatten().flatten();
    let names = entries.map(|entry| entry.file_name().to_string_lossy().into_owned());
    names.map(|name| (name.clone(), name)).collect()
}

/// Returns the loop devices that are backed by a file.
fn loop_devices() -> InventoryMap {
    let names = names_in(Path::new("/sys/block")).into_keys();
    let file = |name: String| {
        let path = format!("/sys/block/{name}/loop/backing_file");
        let backing = fs::read_to_string(path).ok()?;
        let reported = format!("{name} on {}", backing.trim());
        Some((reported.clone(), reported))
    };
    names.filter_map(file).collect()
}

/// Returns the tables of nft, or none if nft is missing or may not be used.
fn rule_tables() -> InventoryMap {
    let Ok(listed) = Command::new("nft").args(["list", "tables"]).output() else {
        return InventoryMap::new();
    };
    let text = String::from_utf8_lossy(&listed.stdout).into_owned();
    let lines = text.lines().map(str::trim).filter(|line| !line.is_empty());
    lines
        .map(|line| (line.to_owned(), line.to_owned()))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn processes_are_identified_by_start_time_and_zombies_are_skipped() {
        let rest: Vec<String> = (4..=52).map(|field| field.to_string()).collect();
        let stat = |state: &str| format!("12 (a ) b) {state} {}", rest.join(" "));
        assert_eq!(start_time(&stat("S")), Some(22));
        assert_eq!(start_time(&stat("Z")), None);
        assert_eq!(start_time("12"), None);
    }

    #[test]
    fn a_mountinfo_line_is_parsed() {
        let line = "36 35 98:0 /a /mnt/x rw,noatime shared:1 - cgroup2 cgroup2 rw";
        let (id, mount) = mount(line).unwrap();
        assert_eq!(
            (id.as_str(), mount.point.as_str(), mount.is_cgroup),
            ("36 /mnt/x", "/mnt/x", true)
        );
        assert_eq!(mount.description, "/mnt/x (cgroup2)");
    }
}
