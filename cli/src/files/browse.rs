//! Directories and whole files of a sandbox.

use serde::Deserialize;

use super::busy::BusyWait;
use super::request::{FileAnswer, FileCall};
use super::{ChunkSink, FileChunk, FileLocation, FileReader, ReadError};

/// Maximum size of a listing: it has at most 10,000 entries, each with a name and a path.
const LISTING_BYTES: usize = 64 * 1024 * 1024;

/// A directory of a sandbox.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub(crate) struct DirectoryListing {
    pub(crate) entries: Vec<ListedEntry>,
    /// Number of entries that the agent does not list.
    #[serde(default)]
    pub(crate) left_out: u64,
}

/// An entry of a directory.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub(crate) struct ListedEntry {
    pub(crate) name: String,
    kind: String,
    /// Octal digits.
    #[serde(default)]
    mode: String,
}

/// The kinds of entries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum EntryKind {
    File,
    Directory,
    Link,
    Other,
}

impl ListedEntry {
    pub(crate) fn kind(&self) -> EntryKind {
        match self.kind.as_str() {
            "file" => EntryKind::File,
            // Agents of earlier releases write the former word.
            "directory" | "folder" => EntryKind::Directory,
            "link" => EntryKind::Link,
            _ => EntryKind::Other,
        }
    }

    /// Returns the permission bits, without setuid, setgid and sticky.
    pub(crate) fn mode(&self) -> Option<u32> {
        let mode = u32::from_str_radix(&self.mode, 8).ok()?;
        Some(mode & 0o777)
    }
}

impl FileReader {
    /// Returns the entries of a directory.
    pub(crate) async fn browse(
        &mut self,
        location: &FileLocation,
    ) -> Result<DirectoryListing, ReadError> {
        let mut attempts = self.attempts();
        loop {
            match self.browse_once(location).await {
                Err(ReadError::Broken(_)) if attempts > 1 => {
                    attempts -= 1;
                    self.use_next_master().await;
                }
                listed => return listed,
            }
        }
    }

    async fn browse_once(
        &mut self,
        location: &FileLocation,
    ) -> Result<DirectoryListing, ReadError> {
        let mut answer = self.send_when_free(FileCall::Browse, location).await?;
        let body = answer.body(LISTING_BYTES).await?;
        serde_json::from_slice(&body)
            .map_err(|error| ReadError::Broken(format!("the list is invalid: {error}")))
    }

    /// Sends one request, and repeats it while no master or agent has capacity for it.
    async fn send_when_free(
        &mut self,
        call: FileCall,
        location: &FileLocation,
    ) -> Result<FileAnswer, ReadError> {
        let mut busy = BusyWait::default();
        loop {
            match self.send(call, location, "").await {
                Err(ReadError::Busy { text, pause }) => {
                    let pause = busy.refused(&text, pause)?;
                    self.use_next_master_after(pause).await;
                }
                answer => return answer,
            }
        }
    }

    /// Passes on a whole file, which the agent opens once. All bytes of it arrive, or the result is
    /// an error; a repetition begins with the first byte.
    pub(crate) async fn download_once(
        &mut self,
        location: &FileLocation,
        sink: ChunkSink<'_>,
    ) -> Result<(), ReadError> {
        let mut answer = self.send_when_free(FileCall::Download, location).await?;
        let mut offset = answer.offset().unwrap_or(0);
        let size = answer.size();
        if offset > 0 {
            sink(FileChunk::Missing(offset)).map_err(ReadError::Sink)?;
        }
        while let Some(bytes) = answer.next().await? {
            sink(FileChunk::Bytes(&bytes)).map_err(ReadError::Sink)?;
            offset += bytes.len() as u64;
        }
        match size {
            Some(size) if offset != size => Err(ReadError::Broken(format!(
                "the file ended after {offset} of {size} bytes"
            ))),
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn listings_have_kinds_and_permissions() {
        let text = r#"{"path": "tasks/f/t", "left_out": 0, "entries": [
            {"name": "a", "path": "tasks/f/t/a", "kind": "file", "size": 1, "mode": "4755",
             "modified_ms": 5},
            {"name": "b", "path": "b", "kind": "folder", "size": 1, "mode": "0700",
             "modified_ms": 5},
            {"name": "c", "kind": "directory", "mode": "x"}, {"name": "d", "kind": "socket"}]}"#;
        let listing: DirectoryListing = serde_json::from_str(text).unwrap();
        let found = listing.entries.iter();
        let found: Vec<_> = found.map(|entry| (entry.kind(), entry.mode())).collect();
        assert_eq!(
            found,
            [
                (EntryKind::File, Some(0o755)),
                (EntryKind::Directory, Some(0o700)),
                (EntryKind::Directory, None),
                (EntryKind::Other, None),
            ]
        );
    }
}
