//! Files of saved snapshots: reading with verification, a summary for people and programs, and
//! files of keys.

use std::fs::File;
use std::io::{BufRead as _, BufReader, Read};
use std::path::Path;

use argosy_master::{
    EncryptionError, SavedSnapshot, SecretKeys, SnapshotDecryptor, UnusableSnapshot,
};
use argosy_proto::secret_value::SecretValue;
use argosy_raft::SavedSnapshotError;
use argosy_state::Registry;
use argosy_tls::credentials::read_key;
use serde::Serialize;

use crate::exit::Failure;
use crate::output::{self, Row, span_ms, utc};

/// The size of the buffer of a reader, in bytes.
const BUFFER_BYTES: usize = 1 << 20;

/// A saved snapshot that was read from a file and is verified.
pub(crate) struct ReadSnapshot {
    pub(crate) snapshot: SavedSnapshot,
    pub(crate) summary: SnapshotSummary,
}

/// The facts about a saved snapshot, with names as in the JSON mapping of the protocol.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct SnapshotSummary {
    pub(crate) file: String,
    pub(crate) bytes: u64,
    pub(crate) encrypted: bool,
    pub(crate) format: u32,
    pub(crate) cluster_id: String,
    pub(crate) feature_level: u32,
    pub(crate) index: u64,
    pub(crate) term: u64,
    pub(crate) epoch: u64,
    pub(crate) cluster_time_ms: u64,
    pub(crate) saved_at_ms: i64,
    pub(crate) saved_by: String,
    pub(crate) release: String,
    /// The newest last.
    pub(crate) ancestors: Vec<String>,
    pub(crate) records: usize,
    pub(crate) agents: usize,
    pub(crate) frameworks: usize,
    /// Tasks that have not ended.
    pub(crate) live_tasks: usize,
    /// All tasks, with those that have ended and those in the history.
    pub(crate) tasks: usize,
    /// Roles with a weight.
    pub(crate) roles: usize,
    pub(crate) secrets: usize,
    pub(crate) tokens: usize,
}

impl SnapshotSummary {
    pub(crate) fn of(snapshot: &SavedSnapshot, registry: &Registry) -> Self {
        let header = &snapshot.header;
        let ancestors = registry.cluster().ancestors.iter();
        Self {
            file: String::new(),
            bytes: 0,
            encrypted: false,
            format: header.format,
            cluster_id: header.cluster_id.clone(),
            feature_level: header.feature_level,
            index: header.index,
            term: header.term,
            epoch: header.epoch,
            cluster_time_ms: header.cluster_time_ms,
            saved_at_ms: header.saved_at_ms,
            saved_by: header.saved_by.clone(),
            release: header.release.clone(),
            ancestors: ancestors.map(|one| one.id.to_string()).collect(),
            records: snapshot.records.len(),
            agents: registry.agents().len(),
            frameworks: registry.frameworks().len(),
            live_tasks: registry.live_tasks(),
            tasks: registry.tasks().len() + registry.finished_tasks_after(0).count(),
            roles: registry.weights().count(),
            secrets: registry.secrets().len(),
            tokens: registry.access().tokens.len(),
        }
    }

    pub(crate) fn details(&self) -> Vec<(&'static str, String)> {
        let saved_at = match self.saved_at_ms {
            0 => String::new(),
            at => utc(at),
        };
        let (size, encrypted) = match (self.bytes, self.encrypted) {
            // It is in no file yet.
            (0, _) => (String::new(), ""),
            (bytes, false) => (output::bytes(bytes), "no"),
            (bytes, true) => (output::bytes(bytes), "yes"),
        };
        vec![
            ("file", self.file.clone()),
            ("size", size),
            ("encrypted", encrypted.to_owned()),
            ("cluster", self.cluster_id.clone()),
            ("restored from", self.ancestors.join("\n")),
            ("feature level", self.feature_level.to_string()),
            ("log index", format!("{} of term {}", self.index, self.term)),
            ("epoch", self.epoch.to_string()),
            ("cluster time", span_ms(self.cluster_time_ms)),
            ("saved", saved_at),
            ("saved by", self.saved_by.clone()),
            ("release", self.release.clone()),
            ("records", self.records.to_string()),
            ("agents", self.agents.to_string()),
            ("frameworks", self.frameworks.to_string()),
            ("live tasks", self.live_tasks.to_string()),
            ("tasks", self.tasks.to_string()),
            ("roles", self.roles.to_string()),
            ("secrets", self.secrets.to_string()),
            ("tokens", self.tokens.to_string()),
        ]
    }
}

impl Row for SnapshotSummary {
    const HEADINGS: &'static [&'static str] = &["FILE", "CLUSTER", "INDEX", "SAVED"];
    const WIDE: &'static [&'static str] = &[];

    fn cells(&self) -> Vec<String> {
        let index = self.index.to_string();
        vec![
            self.file.clone(),
            self.cluster_id.clone(),
            index,
            utc(self.saved_at_ms),
        ]
    }

    fn wide_cells(&self) -> Vec<String> {
        Vec::new()
    }

    fn name(&self) -> String {
        self.cluster_id.clone()
    }
}

/// Reads a file of keys, as masters have it.
pub(crate) fn keys(path: &Path) -> Result<SecretKeys, Failure> {
    let text = read_key(path).map_err(|error| Failure::of(&error))?;
    let text = SecretValue::new(text);
    let failed = |why: String| {
        Failure::usage(format!("{}: {why}", path.display()))
            .advise("it has lines KEYID:HEX, such as k1:0123… with 64 hexadecimal digits")
    };
    match std::str::from_utf8(text.expose()).map(SecretKeys::parse) {
        Ok(Ok(keys)) => Ok(keys),
        Ok(Err(why)) => Err(failed(why.to_string())),
        Err(_) => Err(failed("it is not text".to_owned())),
    }
}

/// Reads and verifies a saved snapshot. `keys` is needed if it is encrypted.
pub(crate) fn read(path: &Path, keys: Option<&SecretKeys>) -> Result<ReadSnapshot, Failure> {
    let failed =
        |error: std::io::Error| Failure::failed(format!("cannot read {}: {error}", path.display()));
    let file = File::open(path).map_err(failed)?;
    let bytes = file.metadata().map_err(failed)?.len();
    let mut from = BufReader::with_capacity(BUFFER_BYTES, file);
    let begin = from.fill_buf().map_err(failed)?;
    let encrypted = SnapshotDecryptor::<File>::is_encrypted(begin);
    let (snapshot, registry) = match (encrypted, keys) {
        (false, _) => SavedSnapshot::read(from).map_err(|error| unusable(path, &error))?,
        (true, Some(keys)) => decrypted(path, from, keys)?,
        (true, None) => {
            let text = format!("{} is encrypted", path.display());
            return Err(Failure::usage(text).advise("name the file of its key with --key-file"));
        }
    };
    let summary = SnapshotSummary {
        file: path.display().to_string(),
        bytes,
        encrypted,
        ..SnapshotSummary::of(&snapshot, &registry)
    };
    Ok(ReadSnapshot { snapshot, summary })
}

fn decrypted(
    path: &Path,
    from: impl Read,
    keys: &SecretKeys,
) -> Result<(SavedSnapshot, Registry), Failure> {
    let failed = |error: UnusableSnapshot| unusable(path, &error);
    let from = SnapshotDecryptor::new(from, keys);
    let mut from = from.map_err(|error| failed(SavedSnapshotError::Read(error).into()))?;
    let read = SavedSnapshot::read(&mut from).map_err(failed)?;
    Ok(read)
}

/// Returns the failure of a file that is not valid.
pub(crate) fn unusable(path: &Path, error: &UnusableSnapshot) -> Failure {
    let encryption = match error {
        UnusableSnapshot::File(SavedSnapshotError::Read(source)) => source
            .get_ref()
            .and_then(|inner| inner.downcast_ref::<EncryptionError>()),
        _ => None,
    };
    let why = match encryption {
        Some(encryption) => encryption.to_string(),
        None => error.to_string(),
    };
    Failure::failed(format!("{} cannot be used: {why}", path.display()))
}
