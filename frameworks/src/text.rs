//! Detection of text files: those that `LC_ALL=C grep -Iq . FILE` accepts.
//!
//! GNU grep reads a file in buffers of 96 KiB. A buffer with a NUL, or a file with a hole, makes
//! the file binary; a line with at least one character in it makes it text. The first of these
//! decides, so a NUL after the first buffer is rarely found. (In the C locale every byte is a
//! character.)

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

/// Bytes that grep 3.8 reads in one call.
const BUFFER: usize = 96 * 1024;

/// Returns whether `grep -Iq .` accepts the file as text. An empty file, or one of empty lines, is
/// not text.
///
/// # Errors
/// If the file cannot be opened or read.
pub fn is_text(path: &Path) -> io::Result<bool> {
    let file = File::open(path)?;
    let size = file.metadata()?.len();
    let mut file = FileSource { file, size };
    check(&mut file)
}

trait TextSource: Read {
    /// Returns whether bytes after the first buffer are not stored, and so are NULs.
    fn has_hole(&mut self, read: usize) -> bool;
}

struct FileSource {
    file: File,
    size: u64,
}

impl Read for FileSource {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.file.read(buffer)
    }
}

impl TextSource for FileSource {
    fn has_hole(&mut self, read: usize) -> bool {
        use std::os::unix::fs::MetadataExt;
        // Fewer blocks than bytes: grep finds the hole by seeking to it.
        let blocks = self.file.metadata().map(|metadata| metadata.blocks() * 512);
        self.size > read as u64 && blocks.is_ok_and(|stored| stored < self.size)
    }
}

fn check(source: &mut impl TextSource) -> io::Result<bool> {
    let mut buffer = vec![0; BUFFER];
    let mut is_first = true;
    // Whether the line that continues in the next buffer has a character yet.
    let mut line_has_character = false;
    loop {
        let read = fill(source, &mut buffer)?;
        if read == 0 {
            return Ok(line_has_character);
        }
        let bytes = &buffer[..read];
        if bytes.contains(&0) || (is_first && source.has_hole(read)) {
            return Ok(false);
        }
        is_first = false;
        for byte in bytes {
            if *byte != b'\n' {
                line_has_character = true;
            } else if line_has_character {
                return Ok(true);
            }
        }
    }
}

fn fill(source: &mut impl Read, buffer: &mut [u8]) -> io::Result<usize> {
    let mut filled = 0;
    while filled < buffer.len() {
        match source.read(&mut buffer[filled..]) {
            Ok(0) => break,
            Ok(read) => filled += read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(filled)
}

#[cfg(test)]
mod tests {
    use std::process::{Command, Stdio};

    use super::*;

    fn grep_says(path: &Path) -> bool {
        let mut grep = Command::new("grep");
        grep.args(["-Iq", "."])
            .arg(path)
            .env("LC_ALL", "C")
            .stderr(Stdio::null());
        grep.status().expect("grep is installed").success()
    }

    #[test]
    fn text_files_are_classified_as_by_grep() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("file");
        let late_nul = |at: usize| {
            let mut bytes = b"word\n".repeat(at / 5 + 1);
            bytes.truncate(at);
            bytes.extend_from_slice(b"\0tail\n");
            bytes
        };
        let long_line = |length: usize, tail: &[u8]| [&vec![b'a'; length][..], tail].concat();
        for (name, bytes) in [
            ("empty", Vec::new()),
            ("empty lines", b"\n\n\n".to_vec()),
            (
                "many empty lines, then one",
                [&vec![b'\n'; 300_000][..], b"x"].concat(),
            ),
            ("no newline at the end", b"abc".to_vec()),
            ("one line", b"abc\n".to_vec()),
            ("latin", b"caf\xe9\n".to_vec()),
            ("broken utf-8", b"\xff\xfe\xfd\n".to_vec()),
            ("nul at once", b"\0abc\n".to_vec()),
            ("nul in the first buffer", late_nul(98_303)),
            ("nul behind the first buffer", late_nul(98_304)),
            ("nul far behind", late_nul(500_000)),
            ("a line over two buffers", long_line(150_000, b"\n")),
            (
                "a line over two buffers, then nul",
                long_line(100_000, b"\n\0\n"),
            ),
            ("a long line without an end", long_line(250_000, b"")),
            (
                "empty lines, then nul in the second buffer",
                [&vec![b'\n'; 98_304][..], b"\0\nabc\n"].concat(),
            ),
        ] {
            std::fs::write(&path, &bytes).unwrap();
            assert_eq!(is_text(&path).unwrap(), grep_says(&path), "{name}");
        }
    }

    #[test]
    fn sparse_files_are_classified_as_by_grep() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("sparse");
        std::fs::write(&path, b"abc\n".repeat(30_000)).unwrap();
        File::options()
            .append(true)
            .open(&path)
            .unwrap()
            .set_len(2_000_000)
            .unwrap();
        assert_eq!(is_text(&path).unwrap(), grep_says(&path));
    }
}
