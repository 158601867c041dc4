//! The journal of a framework: its id, and the launches that it requested. It survives a kill.
//!
//! Lines are appended before the call that they announce leaves the process.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

/// An error that prevents the use of the journal.
#[derive(Debug, thiserror::Error)]
#[error("cannot use the journal {path}")]
pub(super) struct JournalError {
    path: PathBuf,
    source: io::Error,
}

/// The request for one task, and the known facts about it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct TaskRecord {
    pub(super) ended: bool,
    pub(super) kill_requested: bool,
}

pub(super) struct FrameworkJournal {
    path: PathBuf,
    file: File,
    framework_id: Option<String>,
    tasks: BTreeMap<String, TaskRecord>,
    incarnation: u64,
}

impl FrameworkJournal {
    /// Reads the lines of earlier incarnations, and begins a new one.
    pub(super) fn open(path: &Path) -> Result<Self, JournalError> {
        let failed = |source| JournalError {
            path: path.to_owned(),
            source,
        };
        let text = match fs::read_to_string(path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => String::new(),
            Err(source) => return Err(failed(source)),
        };
        let file = File::options().create(true).append(true).open(path);
        let mut journal = Self {
            path: path.to_owned(),
            file: file.map_err(failed)?,
            framework_id: None,
            tasks: BTreeMap::new(),
            incarnation: 1,
        };
        for line in text.lines() {
            journal.read(line);
        }
        journal.write("life")?;
        Ok(journal)
    }

    fn read(&mut self, line: &str) {
        let (verb, rest) = line.split_once(' ').unwrap_or((line, ""));
        let task = rest.to_owned();
        match verb {
            "life" => self.incarnation += 1,
            "framework" => self.framework_id = Some(task),
            "launch" => drop(self.tasks.insert(task, TaskRecord::default())),
            "kill" => self.tasks.entry(task).or_default().kill_requested = true,
            "ended" => self.tasks.entry(task).or_default().ended = true,
            // A truncated last line announces a call that was never sent.
            _ => {}
        }
    }

    fn write(&mut self, line: &str) -> Result<(), JournalError> {
        let written = self.file.write_all(format!("{line}\n").as_bytes());
        written.map_err(|source| JournalError {
            path: self.path.clone(),
            source,
        })
    }

    fn note(&mut self, line: &str) {
        self.read(line);
        // A framework without its journal must stop. The harness notices its end.
        self.write(line)
            .expect("the directory of the run is writable");
    }

    /// Returns how often the journal was opened, from 1.
    pub(super) fn incarnation(&self) -> u64 {
        self.incarnation
    }

    pub(super) fn framework_id(&self) -> Option<&str> {
        self.framework_id.as_deref()
    }

    pub(super) fn tasks(&self) -> &BTreeMap<String, TaskRecord> {
        &self.tasks
    }

    pub(super) fn registered(&mut self, framework_id: &str) {
        if self.framework_id.as_deref() != Some(framework_id) {
            self.note(&format!("framework {framework_id}"));
        }
    }

    pub(super) fn launch(&mut self, task: &str) {
        self.note(&format!("launch {task}"));
    }

    pub(super) fn kill(&mut self, task: &str) {
        self.note(&format!("kill {task}"));
    }

    pub(super) fn ended(&mut self, task: &str) {
        if self.tasks.get(task).is_none_or(|entry| !entry.ended) {
            self.note(&format!("ended {task}"));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_restarted_framework_reads_its_earlier_requests() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("journal");
        let mut journal = FrameworkJournal::open(&path).unwrap();
        journal.registered("framework-4");
        journal.launch("a");
        journal.launch("b");
        journal.kill("b");
        journal.ended("a");
        drop(journal);
        let later = FrameworkJournal::open(&path).unwrap();
        assert_eq!(later.incarnation(), 2);
        assert_eq!(later.framework_id(), Some("framework-4"));
        assert!(later.tasks()["a"].ended && !later.tasks()["b"].ended);
        assert!(later.tasks()["b"].kill_requested);
    }
}
