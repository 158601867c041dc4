//! A process of the former release that applies entries, and the comparison with the records of
//! this release.

use std::io::{BufReader, BufWriter, Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use argosy_testing::{Release, ReleaseError};

/// A written record by its key. A record without a value is deleted.
pub(crate) type WrittenRecord = (Vec<u8>, Option<Vec<u8>>);

/// The records that the former release has written for an entry.
pub(crate) struct FormerWrites {
    pub(crate) digest: u128,
    pub(crate) writes: Vec<WrittenRecord>,
}

/// Returns release 0.1.0; `None` if this clone has no history.
pub(crate) fn release() -> Option<Release> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    let temporary = Path::new(env!("CARGO_TARGET_TMPDIR"));
    match Release::unpacked("0.1.0", root, temporary) {
        Ok(release) => Some(release),
        Err(error @ ReleaseError::NoHistory(_)) => {
            argosy_testing::skip(&error.to_string());
            None
        }
        Err(error) => panic!("{error}"),
    }
}

/// Builds the driver against the `state` crate of release 0.1.0; `None` if this clone has no
/// history.
pub(crate) fn executable() -> Option<PathBuf> {
    let release = release()?;
    let main = Path::new("state/src/bin/driver.rs");
    let source = Some((main, include_str!("driver.rs")));
    match release.executable("argosy-state", "driver", source) {
        Ok(executable) => Some(executable),
        Err(error) => panic!("{error}"),
    }
}

/// A registry of the former release.
pub(crate) struct FormerRegistry {
    child: Child,
    input: BufWriter<ChildStdin>,
    output: BufReader<ChildStdout>,
}

impl FormerRegistry {
    pub(crate) fn start(executable: &Path) -> Self {
        let mut child = Command::new(executable)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        Self {
            input: BufWriter::new(child.stdin.take().unwrap()),
            output: BufReader::new(child.stdout.take().unwrap()),
            child,
        }
    }

    pub(crate) fn apply(&mut self, index: u64, at: u64, commands: &[Vec<u8>]) -> FormerWrites {
        let count = u32::try_from(commands.len()).unwrap();
        self.input.write_all(&index.to_le_bytes()).unwrap();
        self.input.write_all(&at.to_le_bytes()).unwrap();
        self.input.write_all(&count.to_le_bytes()).unwrap();
        for command in commands {
            let length = u32::try_from(command.len()).unwrap();
            self.input.write_all(&length.to_le_bytes()).unwrap();
            self.input.write_all(command).unwrap();
        }
        self.input.flush().unwrap();
        let digest = u128::from_le_bytes(self.number());
        let count = u32::from_le_bytes(self.number());
        let writes = (0..count).map(|_| self.write()).collect();
        FormerWrites { digest, writes }
    }

    fn write(&mut self) -> WrittenRecord {
        let key = self.text();
        let [is_there] = self.number();
        let value = self.text();
        (key, (is_there == 1).then_some(value))
    }

    fn text(&mut self) -> Vec<u8> {
        let length = u32::from_le_bytes(self.number()) as usize;
        let mut bytes = vec![0; length];
        self.output.read_exact(&mut bytes).unwrap();
        bytes
    }

    fn number<const N: usize>(&mut self) -> [u8; N] {
        let mut bytes = [0; N];
        let read = self.output.read_exact(&mut bytes);
        read.expect("the former release is running: its error is above");
        bytes
    }
}

impl Drop for FormerRegistry {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Returns the records that differ, by key.
pub(crate) fn difference(ours: &[WrittenRecord], theirs: &[WrittenRecord]) -> String {
    let mut text = String::new();
    let show = |write: Option<&WrittenRecord>| match write {
        None => "not written".to_owned(),
        Some((_, None)) => "deleted".to_owned(),
        Some((_, Some(value))) => String::from_utf8_lossy(value).escape_debug().to_string(),
    };
    let keys: std::collections::BTreeSet<_> =
        ours.iter().chain(theirs).map(|(key, _)| key).collect();
    for key in keys {
        let find = |writes: &[WrittenRecord]| show(writes.iter().find(|(known, _)| known == key));
        let (one, other) = (find(ours), find(theirs));
        if one != other {
            let name = String::from_utf8_lossy(key).escape_debug().to_string();
            text += &format!("{name}\n  0.1.0: {other}\n  this:  {one}\n");
        }
    }
    text
}
