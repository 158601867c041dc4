//! Names of the files of a log. They are numbered, and the highest number is the current file.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

/// Returns the name of a file.
pub(super) fn name(number: u64) -> String {
    format!("audit-{number:010}.log")
}

/// Returns the number of the file with this name; `None` if it is not of a log.
#[must_use]
pub fn number_of(file: &OsStr) -> Option<u64> {
    let text = file.to_str()?;
    let digits = text.strip_prefix("audit-")?.strip_suffix(".log")?;
    let number = digits.parse().ok()?;
    // Each file has one name.
    (name(number) == text).then_some(number)
}

/// Returns the files of a log by their numbers.
///
/// # Errors
/// If the directory cannot be read.
pub fn paths(directory: &Path) -> io::Result<BTreeMap<u64, PathBuf>> {
    let mut found = BTreeMap::new();
    for entry in fs::read_dir(directory)? {
        let path = entry?.path();
        if let Some(number) = path.file_name().and_then(number_of) {
            found.insert(number, path);
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_names_of_the_log_have_numbers() {
        for number in [1, 42, u64::MAX] {
            assert_eq!(number_of(OsStr::new(&name(number))), Some(number));
        }
        for other in [
            "audit-1.log",
            "audit-+000000001.log",
            "audit-0000000001.log.gz",
            "lock",
        ] {
            assert_eq!(number_of(OsStr::new(other)), None, "{other}");
        }
    }
}
