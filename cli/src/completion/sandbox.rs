//! Candidates for the arguments of `argosy cp`: files of this host, tasks, and paths in the
//! sandboxes of tasks, which agents list through the masters.

use std::ffi::OsStr;

use clap_complete::engine::{CompletionCandidate, PathCompleter, ValueCompleter as _};

use super::names::{self, NameKind, Names, is_plain};
use crate::commands::cp::SandboxPrefix;
use crate::exit::Failure;
use crate::files::{EntryKind, FileLocation, FileReader, ListedEntry};
use crate::operator::{ClusterClient, EndedObjects, pick_task};

/// Returns the candidates for an argument; no task and no path of one if nothing answers in time.
pub(super) fn candidates(line: &[String], current: &str) -> Vec<CompletionCandidate> {
    if let Some(prefix) = SandboxPrefix::parse(current) {
        let read = async move |operator: ClusterClient| entries(&operator, &prefix).await;
        return names::read(line, current, read);
    }
    let files = PathCompleter::any().complete(OsStr::new(current));
    // Shells complete other names by themselves, if there is no candidate.
    let fits = |file: &CompletionCandidate| file.get_value().to_str().is_some_and(is_plain);
    let mut all: Vec<_> = files.into_iter().filter(fits).collect();
    all.truncate(names::MAX_CANDIDATES);
    // An argument that begins as a path names no task.
    if !current.starts_with(['.', '/', '-']) {
        let prefix = current.to_owned();
        let read = async move |operator: ClusterClient| {
            let tasks = names::names_of(&operator, NameKind::Tasks, &prefix).await?;
            let tasks = tasks.into_iter();
            Ok(tasks.map(|(name, help)| (name + ":", help)).collect())
        };
        all.extend(names::read(line, current, read));
    }
    all
}

/// Returns the entries of the directory of an argument, as it would be written with them.
async fn entries(operator: &ClusterClient, prefix: &SandboxPrefix) -> Result<Names, Failure> {
    let mut tasks = operator.task_names(EndedObjects::Included).await?;
    let name = match prefix.task.split_once('/') {
        Some((framework, name)) => {
            tasks.retain(|task| task.framework_id == framework);
            name
        }
        None => &prefix.task,
    };
    let task = pick_task(tasks, name)?;
    let mut files = FileReader::new(operator.http_masters());
    let location = FileLocation::of(&task, &prefix.directory.join("/"));
    let listing = files.browse(&location).await;
    let listing = listing.map_err(|error| Failure::of(&error))?;
    Ok(names_of_entries(&prefix.before, &listing.entries))
}

/// Directories end with a slash. Links and special files are left out: they are not copied.
fn names_of_entries(before: &str, entries: &[ListedEntry]) -> Names {
    let named = entries.iter().filter_map(|entry| {
        let end = match entry.kind() {
            EntryKind::File => "",
            EntryKind::Directory => "/",
            EntryKind::Link | EntryKind::Other => return None,
        };
        // A name that is none would lead out of the directory.
        let is_name = !entry.name.contains('/') && entry.name != "." && entry.name != "..";
        is_name.then(|| (format!("{before}{}{end}", entry.name), String::new()))
    });
    named.collect()
}

#[cfg(test)]
mod tests {
    use std::io::{Read as _, Write as _};
    use std::net::TcpListener;

    use super::*;

    fn values(candidates: Vec<CompletionCandidate>) -> Vec<String> {
        let values = candidates.iter().map(CompletionCandidate::get_value);
        values
            .map(|value| value.to_string_lossy().into_owned())
            .collect()
    }

    /// Returns a line that names a master which accepts connections and answers this to each.
    fn line_with_server(answer: &'static str) -> Vec<String> {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let mut stream = stream.unwrap();
                // What the client sends does not matter.
                let _ = stream.read(&mut [0; 1_024]);
                let _ = stream.write_all(answer.as_bytes());
            }
        });
        let line = format!("argosy cp --masters {address}");
        line.split(' ').map(str::to_owned).collect()
    }

    #[test]
    fn files_of_this_host_are_candidates_also_without_a_master() {
        let directory = tempfile::tempdir().unwrap();
        std::fs::write(directory.path().join("result.csv"), "").unwrap();
        let line = line_with_server("HTTP/1.1 400 no\r\n\r\n");
        let path = format!("{}/re", directory.path().display());
        let found = values(candidates(&line, &path));
        assert_eq!(found, [format!("{path}sult.csv")]);
        assert!(candidates(&line, "web:re").is_empty());
        assert!(candidates(&line, "web:../").is_empty());
    }

    #[test]
    fn entries_are_written_as_arguments_without_links_and_hostile_names() {
        let text = r#"[{"name": "out", "kind": "directory"}, {"name": "out.csv", "kind": "file"},
            {"name": "link", "kind": "link"}, {"name": "..", "kind": "directory"},
            {"name": "a/b", "kind": "file"}]"#;
        let entries: Vec<ListedEntry> = serde_json::from_str(text).unwrap();
        let names: Vec<_> = names_of_entries("web:logs/", &entries)
            .into_keys()
            .collect();
        assert_eq!(names, ["web:logs/out.csv", "web:logs/out/"]);
    }
}
