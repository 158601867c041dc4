//! The files of the whole tree, for the tests of its rules.

#![allow(dead_code, reason = "each test program uses a part")]

use std::fs;
use std::path::{Path, PathBuf};

/// A text file of the tree.
pub(crate) struct Source {
    /// The path relative to the root, with `/`.
    pub(crate) name: String,
    pub(crate) text: String,
}

pub(crate) fn root() -> PathBuf {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR"));
    directory.parent().unwrap().to_owned()
}

/// Returns every text file of the tree.
pub(crate) fn tree() -> Vec<Source> {
    let root = root();
    let mut waiting = vec![root.clone()];
    let mut files = Vec::new();
    while let Some(directory) = waiting.pop() {
        for entry in fs::read_dir(&directory).unwrap() {
            let path = entry.unwrap().path();
            let name = path.file_name().unwrap().to_string_lossy().into_owned();
            if path.is_symlink() || name.starts_with('.') || name == "target" || name == "demo-out"
            {
                continue;
            }
            if path.is_dir() {
                waiting.push(path);
            } else if name != "Cargo.lock"
                && let Ok(text) = fs::read_to_string(&path)
            {
                let name = path.strip_prefix(&root).unwrap();
                files.push(Source {
                    name: name.to_string_lossy().replace('\\', "/"),
                    text,
                });
            }
        }
    }
    files.sort_by(|a, b| a.name.cmp(&b.name));
    assert!(files.len() > 50, "the tree is at {root:?}");
    files
}

pub(crate) fn sources() -> Vec<Source> {
    let mut files = tree();
    files.retain(|file| file.name.ends_with(".rs"));
    files
}

/// Returns whether the text contains this whole word.
pub(crate) fn has_word(text: &str, word: &str) -> bool {
    let is_part = |letter: char| letter.is_ascii_alphanumeric() || letter == '_';
    text.match_indices(word).any(|(at, _)| {
        !text[..at].ends_with(is_part) && !text[at + word.len()..].starts_with(is_part)
    })
}
