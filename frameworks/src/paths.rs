//! The selection of files to count, and the encoding of a path in an argument.
//!
//! **The rule, for verification of the result:** all regular files below the given directories
//! (links are not followed; a file may be given as well), sorted by the bytes of their paths. Of
//! these the text files (`LC_ALL=C grep -Iq .`). Of these whole files from the first on, up to the
//! first that would make the sum of sizes exceed the limit. Each file is counted separately, so its
//! end ends a word: by hand `grep -ah ''` adds the newline that some files lack. In a shell: `find
//! -P DIR… -type f -print0 | LC_ALL=C sort -zu`, `LC_ALL=C grep -Iq .`, `stat -c %s`.

use std::ffi::OsString;
use std::fs;
use std::io;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use crate::text::is_text;

/// A file to be counted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InputFile {
    /// The path of the file.
    pub path: PathBuf,
    /// The size in bytes.
    pub size: u64,
}

/// A file or directory that cannot be read.
#[derive(Debug, thiserror::Error)]
#[error("cannot read {path}")]
pub struct UnreadablePath {
    /// The path of the file or directory.
    pub path: PathBuf,
    /// The cause.
    pub source: io::Error,
}

/// Collects the input by the rule above; `limit` is in bytes.
///
/// # Errors
/// [`UnreadablePath`] names the first file or directory that cannot be read.
pub fn collect(roots: &[PathBuf], limit: u64) -> Result<Vec<InputFile>, UnreadablePath> {
    let mut files = Vec::new();
    for root in roots {
        walk(root, &mut files)?;
    }
    files.sort_by(|a, b| a.0.as_os_str().as_bytes().cmp(b.0.as_os_str().as_bytes()));
    files.dedup_by(|a, b| a.0 == b.0);
    let (mut chosen, mut total) = (Vec::new(), 0_u64);
    for (path, size) in files {
        let is_text = is_text(&path).map_err(|source| UnreadablePath {
            path: path.clone(),
            source,
        })?;
        if !is_text {
            continue;
        }
        total = total.saturating_add(size);
        if total > limit {
            break;
        }
        chosen.push(InputFile { path, size });
    }
    Ok(chosen)
}

fn walk(path: &Path, files: &mut Vec<(PathBuf, u64)>) -> Result<(), UnreadablePath> {
    let unreadable = |source| UnreadablePath {
        path: path.to_owned(),
        source,
    };
    let metadata = fs::symlink_metadata(path).map_err(unreadable)?;
    if metadata.is_file() {
        files.push((path.to_owned(), metadata.len()));
    } else if metadata.is_dir() {
        for entry in fs::read_dir(path).map_err(unreadable)? {
            walk(&entry.map_err(unreadable)?.path(), files)?;
        }
    }
    Ok(())
}

/// Returns a path as plain ASCII without spaces. Other bytes, and `%`, are written as `%XX`.
#[must_use]
pub fn escape(path: &Path) -> String {
    let mut text = String::new();
    for byte in path.as_os_str().as_bytes() {
        match byte {
            b'!'..=b'~' if *byte != b'%' => text.push(char::from(*byte)),
            other => text.push_str(&format!("%{other:02X}")),
        }
    }
    text
}

/// Returns the path that [`escape`] wrote. `None` if a `%` is not followed by two digits.
#[must_use]
pub fn unescape(text: &str) -> Option<PathBuf> {
    let mut bytes = Vec::new();
    let mut rest = text.as_bytes();
    while let Some((byte, after)) = rest.split_first() {
        rest = after;
        if *byte == b'%' {
            let digits = std::str::from_utf8(rest.get(..2)?).ok()?;
            bytes.push(u8::from_str_radix(digits, 16).ok()?);
            rest = &rest[2..];
        } else {
            bytes.push(*byte);
        }
    }
    Some(PathBuf::from(OsString::from_vec(bytes)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::Command;

    #[test]
    fn files_are_listed_in_byte_order_without_links_up_to_the_limit() {
        let directory = tempfile::tempdir().unwrap();
        let root = directory.path();
        fs::create_dir(root.join("a")).unwrap();
        for (name, text) in [
            ("a/z", "12345"),
            ("a.b", "123"),
            ("B", "x\0"),
            ("c", "1234"),
            ("d", "1"),
        ] {
            fs::write(root.join(name), text).unwrap();
        }
        std::os::unix::fs::symlink(root.join("c"), root.join("a/link")).unwrap();
        std::os::unix::fs::symlink(root, root.join("a/loop")).unwrap();
        let names = |limit| {
            let inputs = collect(&[root.to_owned()], limit).unwrap();
            let name = |input: InputFile| {
                input
                    .path
                    .strip_prefix(root)
                    .unwrap()
                    .to_str()
                    .unwrap()
                    .to_owned()
            };
            inputs.into_iter().map(name).collect::<Vec<_>>()
        };
        assert_eq!(names(1_000), ["a.b", "a/z", "c", "d"]);
        assert_eq!(names(11), ["a.b", "a/z"], "d would fit, but c comes first");
        let by_hand = "find -P \"$1\" -type f -print0 | LC_ALL=C sort -zu | \
            while IFS= read -r -d '' file; do LC_ALL=C grep -Iq . \"$file\" && printf '%s\\n' \"$file\"; done";
        let shell = Command::new("bash")
            .args(["-c", by_hand, "bash"])
            .arg(root)
            .output()
            .unwrap();
        let mine = collect(&[root.to_owned()], 1_000).unwrap();
        let mine: String = mine
            .iter()
            .map(|input| format!("{}\n", input.path.display()))
            .collect();
        assert_eq!(mine, String::from_utf8(shell.stdout).unwrap());
    }

    #[test]
    fn any_path_round_trips_through_an_argument() {
        for bytes in [
            &b"/usr/share/doc/a b"[..],
            b"/x/100%",
            b"/new\nline",
            b"/\xff\xfe",
            b"/plain",
        ] {
            let path = PathBuf::from(OsString::from_vec(bytes.to_vec()));
            let text = escape(&path);
            assert!(text.bytes().all(|byte| byte.is_ascii_graphic()), "{text}");
            assert_eq!(unescape(&text), Some(path));
        }
        assert_eq!(unescape("/x%4"), None);
        assert_eq!(unescape("/x%zz"), None);
    }
}
