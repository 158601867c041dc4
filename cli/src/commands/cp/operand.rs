//! The source and destination of a copy. Pure.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt as _;
use std::path::PathBuf;

use crate::exit::Failure;

/// A source or a destination.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Operand {
    /// Standard input or output.
    Standard,
    Local(PathBuf),
    InTask {
        task: String,
        path: SandboxPath,
    },
}

/// A path in the sandbox of a task.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct SandboxPath {
    /// Empty for the sandbox itself. None is `.`, `..` or empty.
    pub(super) parts: Vec<String>,
    /// Whether only the content of the directory is copied: `a/.`, or the sandbox.
    pub(super) is_content: bool,
    /// Whether it ends with a slash: `a/`.
    pub(super) is_directory: bool,
}

/// An argument in a sandbox, of which the last component may be incomplete.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct SandboxPrefix {
    pub(crate) task: String,
    /// The components of the directory.
    pub(crate) directory: Vec<String>,
    /// The part of the argument before the last component, as `web:logs/`.
    pub(crate) before: String,
}

impl SandboxPrefix {
    /// Returns `None` if the argument is no path in a task, or invalid.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let path = text.find(':')? + 1;
        let last = text[path..]
            .rfind('/')
            .map_or(path, |slash| path + slash + 1);
        let before = &text[..last];
        match Operand::parse(OsStr::new(before)) {
            Ok(Operand::InTask { task, path }) => Some(Self {
                task,
                directory: path.parts,
                before: before.to_owned(),
            }),
            Ok(Operand::Standard | Operand::Local(_)) | Err(_) => None,
        }
    }
}

/// The two sides of a copy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum CopyRequest {
    FromTask {
        task: String,
        path: SandboxPath,
        /// `None`: standard output.
        to: Option<PathBuf>,
    },
    ToTask {
        /// `None`: standard input.
        from: Option<PathBuf>,
        task: String,
        path: SandboxPath,
    },
}

impl CopyRequest {
    pub(super) fn of(source: &OsStr, destination: &OsStr) -> Result<Self, Failure> {
        let local = |operand| match operand {
            Operand::Standard => None,
            Operand::Local(path) => Some(path),
            Operand::InTask { .. } => unreachable!("the caller has matched it"),
        };
        match (Operand::parse(source)?, Operand::parse(destination)?) {
            (Operand::InTask { .. }, Operand::InTask { .. }) => Err(Failure::usage(
                "both source and destination are in tasks",
            )
            .advise("argosy cp TASK:PATH - | argosy cp - TASK:PATH copies a file between them")),
            (Operand::InTask { task, path }, to) => Ok(Self::FromTask {
                task,
                path,
                to: local(to),
            }),
            (from, Operand::InTask { task, path }) => Ok(Self::ToTask {
                from: local(from),
                task,
                path,
            }),
            _ => Err(
                Failure::usage("neither source nor destination is in a task")
                    .advise("write TASK:PATH for a path in the sandbox of a task"),
            ),
        }
    }
}

impl Operand {
    /// Parses an argument. It names a task if it has a colon and does not begin as a path: a file
    /// with a colon in its name is written with `./` before it.
    fn parse(text: &OsStr) -> Result<Self, Failure> {
        let bytes = text.as_bytes();
        if bytes == b"-" {
            return Ok(Self::Standard);
        }
        if bytes.is_empty() {
            return Err(Failure::usage(
                "a path is empty; write . for the present directory",
            ));
        }
        let is_path = bytes.starts_with(b"/") || bytes.starts_with(b".");
        if is_path || !bytes.contains(&b':') {
            return Ok(Self::Local(text.into()));
        }
        let Some(text) = text.to_str() else {
            return Err(Failure::usage(format!(
                "{text:?} is not UTF-8: a task cannot be named so"
            ))
            .advise("write ./ before the path of a file whose name has a colon"));
        };
        let (task, path) = text.split_once(':').unwrap_or((text, ""));
        if task.is_empty() {
            return Err(Failure::usage(format!(
                "{text:?} names no task before the colon"
            )));
        }
        Ok(Self::InTask {
            task: task.to_owned(),
            path: SandboxPath::parse(path)?,
        })
    }
}

impl SandboxPath {
    fn parse(text: &str) -> Result<Self, Failure> {
        if text.starts_with('/') {
            return Err(Failure::usage(format!(
                "{text:?} is absolute: a path in a task is relative to its sandbox"
            ))
            .advise("argosy exec TASK -- cat PATH reads other files of a running task"));
        }
        if text.contains('\0') {
            return Err(Failure::usage(format!("{text:?} contains a NUL byte")));
        }
        let all: Vec<&str> = text.split('/').collect();
        if all.contains(&"..") {
            return Err(Failure::usage(format!(
                "{text:?} contains ..: a path in a task is inside its sandbox"
            )));
        }
        let parts = all.iter().filter(|part| !part.is_empty() && **part != ".");
        let parts: Vec<_> = parts.map(|part| (*part).to_owned()).collect();
        let last = all.last().copied().unwrap_or_default();
        Ok(Self {
            is_content: parts.is_empty() || last == ".",
            is_directory: last.is_empty() || last == ".",
            parts,
        })
    }

    /// Returns the last component; `None` for the sandbox.
    pub(super) fn name(&self) -> Option<&str> {
        self.parts.last().map(String::as_str)
    }
}

/// Returns why an entry that a task has created is not copied under its name.
pub(super) fn refusal_of_name(name: &str) -> Option<&'static str> {
    if name.is_empty() || name == "." || name == ".." || name.contains(['/', '\0']) {
        return Some("its name is no name of a file");
    }
    if name.contains(char::REPLACEMENT_CHARACTER) {
        return Some("its name is not UTF-8");
    }
    if name.contains(char::is_control) {
        return Some("its name has control characters");
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn copy(source: &str, destination: &str) -> Result<CopyRequest, String> {
        CopyRequest::of(OsStr::new(source), OsStr::new(destination))
            .map_err(|failure| failure.message)
    }

    fn path(parts: &[&str], is_content: bool, is_directory: bool) -> SandboxPath {
        SandboxPath {
            parts: parts.iter().map(|part| (*part).to_owned()).collect(),
            is_content,
            is_directory,
        }
    }

    #[test]
    fn one_side_of_a_copy_is_in_a_task() {
        let from = copy("f/web:a/./b", "./x:y").unwrap();
        let expected = CopyRequest::FromTask {
            task: "f/web".to_owned(),
            path: path(&["a", "b"], false, false),
            to: Some("./x:y".into()),
        };
        assert_eq!(from, expected);
        let to = copy("-", "web:in:put").unwrap();
        let expected = CopyRequest::ToTask {
            from: None,
            task: "web".to_owned(),
            path: path(&["in:put"], false, false),
        };
        assert_eq!(to, expected);
        for (source, destination, expected) in [
            ("a", "b", "neither"),
            ("-", "/a:b", "neither"),
            ("web:a", "db:b", "both"),
            (":a", "b", "names no task"),
            ("", "web:b", "empty"),
        ] {
            let refused = copy(source, destination).unwrap_err();
            assert!(
                refused.contains(expected),
                "{source} {destination}: {refused}"
            );
        }
    }

    #[test]
    fn paths_in_a_task_stay_in_its_sandbox() {
        for (text, expected) in [
            ("", path(&[], true, true)),
            (".", path(&[], true, true)),
            ("a//b/", path(&["a", "b"], false, true)),
            ("./a/.", path(&["a"], true, true)),
            ("..a", path(&["..a"], false, false)),
        ] {
            assert_eq!(SandboxPath::parse(text).unwrap(), expected, "{text}");
        }
        for (text, expected) in [
            ("/etc/passwd", "is absolute"),
            ("../x", "contains .."),
            ("a/../../x", "contains .."),
            ("a\0", "NUL"),
        ] {
            let refused = SandboxPath::parse(text).unwrap_err().message;
            assert!(refused.contains(expected), "{text}: {refused}");
        }
    }

    #[test]
    fn an_incomplete_argument_has_a_task_and_a_directory() {
        let parsed = |text| {
            let prefix = SandboxPrefix::parse(text)?;
            let directory = prefix.directory.join(" ");
            Some((prefix.task, directory, prefix.before))
        };
        for (text, task, directory, before) in [
            ("web:", "web", "", "web:"),
            ("web:re", "web", "", "web:"),
            ("f/web:a/./b/re", "f/web", "a b", "f/web:a/./b/"),
            ("web:in:p", "web", "", "web:"),
            ("web:a:b/c", "web", "a:b", "web:a:b/"),
        ] {
            let expected = [task, directory, before].map(str::to_owned).into();
            assert_eq!(parsed(text), Some(expected), "{text}");
        }
        for text in [
            "",
            "-",
            "web",
            "./a:b",
            "/a:b",
            ":a",
            "web:/etc/p",
            "web:../a",
        ] {
            assert_eq!(parsed(text), None, "{text}");
        }
    }

    #[test]
    fn an_argument_that_is_not_utf_8_is_a_path() {
        let text = OsStr::from_bytes(b"./a\xff:b");
        assert_eq!(Operand::parse(text), Ok(Operand::Local(text.into())));
        assert!(Operand::parse(OsStr::from_bytes(b"a\xff:b")).is_err());
    }

    #[test]
    fn hostile_names_are_refused_with_the_reason() {
        for (name, expected) in [
            ("..", Some("no name")),
            ("a/b", Some("no name")),
            ("", Some("no name")),
            ("bad\u{fffd}", Some("UTF-8")),
            ("a\u{1b}[2J", Some("control")),
            ("a\nb", Some("control")),
            ("ä b&c %", None),
            ("...", None),
        ] {
            let found = refusal_of_name(name);
            let fits = match (found, expected) {
                (Some(found), Some(expected)) => found.contains(expected),
                (found, expected) => found == expected,
            };
            assert!(fits, "{name:?}: {found:?}");
        }
    }
}
