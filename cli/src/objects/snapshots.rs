//! `snapshot save|inspect|restore`: copies of the whole registry in files.

use std::fs::{self, File, OpenOptions};
use std::io::{self, BufWriter, Write};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use argosy_host::atomic_file::sync_directory;
use argosy_master::{SecretKeys, SnapshotEncryptor};
use argosy_raft::LockedDirectory;
use argosy_state::ids::ClusterId;
use clap::{Args, Subcommand};
use rustix::fs::{CWD, RenameFlags, renameat_with};
use rustix::io::Errno;
use tokio::task::spawn_blocking;

use super::{ObjectCommand, in_a_task};
use crate::args::{ConnectionArguments, OutputArguments};
use crate::commands::exec::by_signal;
use crate::commands::interruption;
use crate::exit::{DONE, Failure, VerbResult};
use crate::operator::ClusterClient;
use crate::output::{self, StatusLine, StatusMode, note};
use crate::random;
use crate::snapshot_file::{self, ReadSnapshot, SnapshotSummary, unusable};

#[derive(Debug, Subcommand)]
pub(crate) enum SnapshotCommand {
    /// Save a copy of the whole registry, from any master
    #[command(after_help = "Examples:
  argosy snapshot save /srv/backup/argosy-2026-11-28.snapshot
  argosy snapshot save --key-file backup.key - > argosy.snapshot

The copy has every change that was acknowledged before the command. It is verified before it gets
its name; an existing file is not replaced. It has what lists show of tasks, such as their commands
and environments, and the hashes of tokens, but neither values of secrets nor keys of masters. Only
its owner can read the file.")]
    Save(SnapshotSave),
    /// Verify a saved copy, and show what it has
    #[command(after_help = "Examples:
  argosy snapshot inspect argosy.snapshot
  argosy snapshot inspect --key-file backup.key argosy.snapshot -o json

Everything is verified: checksums, and that a master can load the records. The exit code is 1 if the
file is not valid.")]
    Inspect(SnapshotInspect),
    /// Make the data directory of a new cluster of a saved copy
    #[command(after_help = "Examples:
  argosy snapshot restore argosy.snapshot --data-dir /var/lib/argosy/master
  argosy snapshot restore --key-file backup.key argosy.snapshot --data-dir /var/lib/argosy/master

Run it on the host of one master, as the user of the master. That master, started as usual, forms a
group of one with a new cluster id. Masters with empty directories and the same --peers can then
join. If the command is interrupted, no master starts on the directory: run it again.")]
    Restore(SnapshotRestore),
}

/// The key of an encrypted file.
#[derive(Debug, Args)]
struct KeyArguments {
    /// File with lines KEYID:HEX, as of --secrets-key: the first key encrypts, and each decrypts
    #[arg(long, env = "ARGOSY_SNAPSHOT_KEY_FILE", value_name = "FILE")]
    key_file: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub(crate) struct SnapshotSave {
    /// File to write; - writes to standard output, after all of it is verified
    #[arg(value_name = "FILE")]
    file: PathBuf,
    #[command(flatten)]
    key: KeyArguments,
    /// Copy what the answering master has, even without a quorum: the newest changes may be missing
    #[arg(long)]
    local: bool,
    #[command(flatten)]
    show: OutputArguments,
    #[command(flatten)]
    reach: ConnectionArguments,
}

#[derive(Debug, Args)]
pub(crate) struct SnapshotInspect {
    /// File to verify
    #[arg(value_name = "FILE")]
    file: PathBuf,
    #[command(flatten)]
    key: KeyArguments,
    #[command(flatten)]
    show: OutputArguments,
}

#[derive(Debug, Args)]
pub(crate) struct SnapshotRestore {
    /// File to restore
    #[arg(value_name = "FILE")]
    file: PathBuf,
    #[command(flatten)]
    key: KeyArguments,
    /// Directory of the new master, empty or absent
    #[arg(long, env = "ARGOSY_MASTER_DATA_DIR", value_name = "DIR")]
    data_dir: PathBuf,
    #[command(flatten)]
    show: OutputArguments,
}

impl KeyArguments {
    fn keys(&self) -> Result<Option<SecretKeys>, Failure> {
        self.key_file
            .as_deref()
            .map(snapshot_file::keys)
            .transpose()
    }
}

impl ObjectCommand for SnapshotCommand {
    const ABOUT: &str = "Copies of the whole registry: save, inspect, restore";
    const EXAMPLES: &str = "Examples:
  argosy snapshot save /srv/backup/argosy-2026-11-28.snapshot
  argosy snapshot inspect /srv/backup/argosy-2026-11-28.snapshot";

    fn run(&self) -> VerbResult {
        match self {
            Self::Save(arguments) => in_a_task(save(arguments)),
            Self::Inspect(arguments) => inspect(arguments),
            Self::Restore(arguments) => restore(arguments),
        }
    }

    fn output(&self) -> Option<OutputArguments> {
        Some(match self {
            Self::Save(arguments) => arguments.show,
            Self::Inspect(arguments) => arguments.show,
            Self::Restore(arguments) => arguments.show,
        })
    }
}

/// A file without its final name. Removed on drop.
struct DraftFile(PathBuf);

impl DraftFile {
    fn create(directory: &Path) -> Result<(Self, File), Failure> {
        let name = format!(".argosy-snapshot-{:016x}", random::number()?);
        let path = directory.join(name);
        let mut options = OpenOptions::new();
        let file = options.write(true).create_new(true).mode(0o600).open(&path);
        let file = file.with_context(|| format!("cannot write into {}", directory.display()))?;
        Ok((Self(path), file))
    }
}

impl DraftFile {
    /// Gives the file its name. Fails if there is a file of that name by now.
    fn publish(&self, path: &Path) -> io::Result<()> {
        match renameat_with(CWD, &self.0, CWD, path, RenameFlags::NOREPLACE) {
            // A file system without such renames, as NFS. The draft's name is removed on drop.
            Err(Errno::INVAL) => fs::hard_link(&self.0, path),
            renamed => Ok(renamed?),
        }
    }
}

impl Drop for DraftFile {
    fn drop(&mut self) {
        // After the rename there is none.
        let _ = fs::remove_file(&self.0);
    }
}

/// Where a saved copy goes.
enum Destination<'a> {
    StandardOutput,
    File(&'a Path),
}

impl<'a> Destination<'a> {
    fn of(path: &'a Path) -> Result<Self, Failure> {
        if path == Path::new("-") {
            return Ok(Self::StandardOutput);
        }
        if fs::symlink_metadata(path).is_ok() {
            return Err(exists(path));
        }
        Ok(Self::File(path))
    }

    /// Returns the directory of the draft.
    fn directory(&self) -> PathBuf {
        match self {
            Self::StandardOutput => std::env::temp_dir(),
            Self::File(path) => match path.parent() {
                Some(parent) if parent != Path::new("") => parent.to_owned(),
                _ => PathBuf::from("."),
            },
        }
    }
}

fn exists(path: &Path) -> Failure {
    let text = format!("{} exists, and is not replaced", path.display());
    Failure::usage(text).advise("choose another name, or remove that file")
}

async fn save(arguments: &SnapshotSave) -> VerbResult {
    tokio::select! {
        // The signals are awaited before there is a draft, which is removed when the copy is
        // dropped.
        biased;
        signal = interruption() => Ok(by_signal(signal?)),
        saved = save_copy(arguments) => saved,
    }
}

async fn save_copy(arguments: &SnapshotSave) -> VerbResult {
    let destination = Destination::of(&arguments.file)?;
    let keys = arguments.key.keys()?;
    let directory = destination.directory();
    let (draft, file) = DraftFile::create(&directory)?;
    let operator = ClusterClient::open(&arguments.reach)?;
    let out = BufWriter::new(file);
    let out = match &keys {
        Some(keys) => {
            let out = SnapshotEncryptor::new(out, keys, random::bytes()?);
            let mut out = out.context("cannot write the snapshot")?;
            receive(arguments, &operator, &mut out).await?;
            out.finish().context("cannot write the snapshot")?
        }
        None => {
            let mut out = out;
            receive(arguments, &operator, &mut out).await?;
            out
        }
    };
    let file = out.into_inner().map_err(io::IntoInnerError::into_error);
    let synced = file.and_then(|file| file.sync_all());
    synced.context("cannot write the snapshot")?;
    let ReadSnapshot { summary, .. } = snapshot_file::read(&draft.0, keys.as_ref())?;
    match destination {
        Destination::File(path) => {
            match draft.publish(path) {
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                    return Err(exists(path));
                }
                published => published
                    .and_then(|()| sync_directory(&directory))
                    .with_context(|| format!("cannot write {}", path.display()))?,
            }
            let file = path.display().to_string();
            show(&arguments.show, &SnapshotSummary { file, ..summary })
        }
        Destination::StandardOutput => {
            print(&draft.0)
                .await
                .context("cannot write to standard output")?;
            note(&format!(
                "saved {} at log index {}, {}",
                summary.cluster_id,
                summary.index,
                output::bytes(summary.bytes)
            ));
            Ok(DONE)
        }
    }
}

/// Copies a file to standard output, on a thread that may wait for its reader.
async fn print(path: &Path) -> io::Result<()> {
    let mut file = File::open(path)?;
    let copy = spawn_blocking(move || {
        let mut out = io::stdout().lock();
        io::copy(&mut file, &mut out)?;
        out.flush()
    });
    copy.await?
}

/// Writes the bytes that a master sends.
async fn receive(
    arguments: &SnapshotSave,
    operator: &ClusterClient,
    out: &mut impl Write,
) -> Result<(), Failure> {
    let mode = StatusMode::unless(arguments.show.output.is_json());
    let mut line = StatusLine::new(mode);
    let mut blocks = operator.save_snapshot(arguments.local).await?;
    let mut received = 0;
    loop {
        let text = format!("receiving the snapshot: {}", output::bytes(received));
        let Some(block) = line.during(&text, blocks.next()).await? else {
            line.clear();
            return Ok(());
        };
        received += block.len() as u64;
        out.write_all(&block).context("cannot write the snapshot")?;
    }
}

fn show(format: &OutputArguments, summary: &SnapshotSummary) -> VerbResult {
    output::one(format.output, summary, &summary.details())
}

fn inspect(arguments: &SnapshotInspect) -> VerbResult {
    let keys = arguments.key.keys()?;
    let read = snapshot_file::read(&arguments.file, keys.as_ref())?;
    show(&arguments.show, &read.summary)
}

fn restore(arguments: &SnapshotRestore) -> VerbResult {
    let keys = arguments.key.keys()?;
    let ReadSnapshot { snapshot, summary } = snapshot_file::read(&arguments.file, keys.as_ref())?;
    let former = snapshot.header.cluster_id.clone();
    let id = ClusterId(u128::from_be_bytes(random::bytes()?));
    let restored = snapshot.restored(id, random::bytes()?);
    let restored = restored.map_err(|error| unusable(&arguments.file, &error))?;
    let directory = LockedDirectory::open(&arguments.data_dir);
    let directory = directory.map_err(|error| Failure::of(&error))?;
    let made = directory.restore(&restored.records, restored.position());
    made.map_err(|error| Failure::of(&error))?;
    let mut ancestors = summary.ancestors.clone();
    ancestors.push(former);
    note("start the master of this directory as usual: it forms a group of one, which others join");
    let cluster_id = id.to_string();
    show(
        &arguments.show,
        &SnapshotSummary {
            cluster_id,
            ancestors,
            ..summary
        },
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_draft_replaces_no_file() {
        let directory = tempfile::tempdir().unwrap();
        let names = || {
            let entries = fs::read_dir(directory.path()).unwrap().flatten();
            let mut names: Vec<_> = entries.map(|entry| entry.file_name()).collect();
            names.sort();
            names
        };
        let (first, second) = (directory.path().join("a"), directory.path().join("b"));
        fs::write(&first, "older").unwrap();
        let (draft, _) = DraftFile::create(directory.path()).unwrap();
        let refused = draft.publish(&first).unwrap_err();
        assert_eq!(refused.kind(), io::ErrorKind::AlreadyExists);
        draft.publish(&second).unwrap();
        drop(draft);
        assert_eq!(fs::read(&first).unwrap(), b"older");
        assert_eq!(names(), ["a", "b"]);
    }
}
