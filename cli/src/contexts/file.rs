//! The file of the contexts: JSON, readable only by its user.
//!
//! The file may contain tokens, and it decides to which hosts commands are sent. So a file that
//! others may read, or that another user owns, is refused. A change is made under a lock, because
//! several clusters on one host add and remove theirs.

use std::collections::BTreeMap;
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Read as _};
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use argosy_host::atomic_file::{self, Durability, WriteOptions};
use serde::{Deserialize, Serialize};

use super::{Context, Contexts, RawContext};
use crate::exit::Failure;
use crate::parsers::ContextName;

/// The names in the directory for the configuration of all programs.
const DIRECTORY: &str = "argosy";
const FILE: &str = "contexts.json";
const DRAFT: &str = "contexts.new";
const LOCK: &str = "contexts.lock";
/// The version of the format.
const FORMAT: u32 = 1;
/// The maximum size of the file, in bytes.
const FILE_BYTES: u64 = 1 << 20;
/// All permissions of users other than the owner.
const OTHERS: u32 = 0o077;
/// The permission of others to change what is in a directory.
const WRITE_BY_OTHERS: u32 = 0o022;

/// The file of the contexts of a user.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ContextFile {
    directory: PathBuf,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct RawContexts {
    format: u32,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    current: Option<ContextName>,
    contexts: BTreeMap<ContextName, RawContext>,
}

impl ContextFile {
    /// Returns the file of this user: in `argosy` below `$XDG_CONFIG_HOME`, else below `~/.config`.
    ///
    /// # Errors
    /// The environment names no directory.
    pub(crate) fn of_user() -> Result<Self, Failure> {
        let variable = |name: &str| std::env::var_os(name).map(PathBuf::from);
        Self::by_variables(variable).ok_or_else(|| {
            Failure::failed("there is no place for contexts: HOME is not an absolute path")
                .advise("set HOME or XDG_CONFIG_HOME, or name the masters with --masters")
        })
    }

    /// A relative path counts as unset, as the base directory specification requires.
    pub(super) fn by_variables(variable: impl Fn(&str) -> Option<PathBuf>) -> Option<Self> {
        let absolute = |name: &str| variable(name).filter(|path| path.is_absolute());
        let base = absolute("XDG_CONFIG_HOME");
        let base = base.or_else(|| Some(absolute("HOME")?.join(".config")))?;
        Some(Self {
            directory: base.join(DIRECTORY),
        })
    }

    pub(crate) fn path(&self) -> PathBuf {
        self.directory.join(FILE)
    }

    /// Reads the contexts; there are none without a file.
    ///
    /// # Errors
    /// The file cannot be read, is not private, or is malformed.
    pub(crate) fn read(&self) -> Result<Contexts, Failure> {
        let path = self.path();
        let shown = path.display();
        let opened = OpenOptions::new()
            .read(true)
            // A pipe in its place would block.
            .custom_flags(nix::libc::O_NONBLOCK)
            .open(&path);
        let file = match opened {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Ok(Contexts::default());
            }
            Err(error) => return Err(cannot("read", &path, &error)),
        };
        check_private(&file, &path)?;
        let mut text = String::new();
        let read = file.take(FILE_BYTES + 1).read_to_string(&mut text);
        let length = read.map_err(|error| cannot("read", &path, &error))?;
        if length as u64 > FILE_BYTES {
            return Err(Failure::failed(format!("{shown} is larger than 1 MiB"))
                .advise("remove it, and add the contexts again with argosy context add"));
        }
        parse(&text).map_err(|why| {
            Failure::failed(format!("{shown} is not a file of contexts: {why}")).advise(
                "correct it, or remove it and add the contexts again with argosy context add",
            )
        })
    }

    /// Changes the contexts, unless the change fails.
    ///
    /// # Errors
    /// The file cannot be read or written, or the change fails.
    pub(crate) fn change<T>(
        &self,
        change: impl FnOnce(&mut Contexts) -> Result<T, Failure>,
    ) -> Result<T, Failure> {
        self.create_directory()?;
        let lock = self.directory.join(LOCK);
        let opened = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(&lock);
        let locked = opened.and_then(|file| file.lock().map(|()| file));
        let locked = locked.map_err(|error| cannot("lock", &lock, &error))?;
        let mut contexts = self.read()?;
        let former = contexts.clone();
        let changed = change(&mut contexts)?;
        if contexts != former {
            self.write(contexts)?;
        }
        // Until here no other process changes the file.
        drop(locked);
        Ok(changed)
    }

    fn write(&self, contexts: Contexts) -> Result<(), Failure> {
        let path = self.path();
        let all = contexts.all.into_iter();
        let raw = RawContexts {
            format: FORMAT,
            current: contexts.current,
            contexts: all.map(|(name, context)| (name, context.into())).collect(),
        };
        let text = serde_json::to_string_pretty(&raw);
        let text =
            text.map_err(|error| Failure::failed(format!("cannot write contexts: {error}")))?;
        if text.len() as u64 > FILE_BYTES {
            let shown = path.display();
            return Err(
                Failure::failed(format!("{shown} would be larger than 1 MiB"))
                    .advise("remove contexts with argosy context remove"),
            );
        }
        let options = WriteOptions {
            mode: 0o600,
            durability: Durability::Synced,
        };
        let draft = self.directory.join(DRAFT);
        let written = atomic_file::replace(&path, &draft, (text + "\n").as_bytes(), options);
        written.map_err(|error| cannot("write", &path, &error))
    }

    /// Creates the directory, which only this user may enter, or checks that only this user may
    /// change the existing one.
    fn create_directory(&self) -> Result<(), Failure> {
        let path = &self.directory;
        let failed = |error: io::Error| cannot("create", path, &error);
        let mut builder = DirBuilder::new();
        let created = builder.recursive(true).mode(0o700).create(path);
        created.map_err(failed)?;
        let found = fs::metadata(path).map_err(failed)?;
        check_owner(found.uid(), path)?;
        if found.mode() & WRITE_BY_OTHERS != 0 {
            return Err(exposed(path, "change what is in", "go-w"));
        }
        Ok(())
    }
}

fn cannot(what: &str, path: &Path, error: &io::Error) -> Failure {
    Failure::failed(format!("cannot {what} {}: {error}", path.display()))
        .advise("correct this, or name the masters with --masters")
}

fn exposed(path: &Path, what: &str, mode: &str) -> Failure {
    let path = path.display();
    Failure::failed(format!("other users of this host may {what} {path}"))
        .advise(format!("run: chmod {mode} {path}"))
}

fn check_owner(owner: u32, path: &Path) -> Result<(), Failure> {
    let own = nix::unistd::geteuid().as_raw();
    if owner == own {
        return Ok(());
    }
    let path = path.display();
    Err(Failure::failed(format!(
        "{path} belongs to the user {owner}, and this command runs as the user {own}"
    ))
    .advise("set HOME or XDG_CONFIG_HOME to a directory of this user"))
}

fn check_private(file: &File, path: &Path) -> Result<(), Failure> {
    let found = file.metadata();
    let found = found.map_err(|error| cannot("read", path, &error))?;
    if !found.is_file() {
        return Err(Failure::failed(format!("{} is not a file", path.display())));
    }
    check_owner(found.uid(), path)?;
    if found.mode() & OTHERS != 0 {
        return Err(exposed(path, "read or change", "600"));
    }
    Ok(())
}

/// Parses the content of a file. Errors name the line.
pub(crate) fn parse(text: &str) -> Result<Contexts, String> {
    let raw: RawContexts = serde_json::from_str(text).map_err(|error| error.to_string())?;
    if raw.format != FORMAT {
        let found = raw.format;
        return Err(format!(
            "it has the format {found}, and this release reads the format {FORMAT}"
        ));
    }
    let all = raw.contexts.into_iter().map(|(name, context)| {
        let checked = Context::try_from(context);
        match checked {
            Ok(context) => Ok((name, context)),
            Err(why) => Err(format!("line {}, {name}: {why}", line_of(text, &name))),
        }
    });
    Ok(Contexts {
        current: raw.current,
        all: all.collect::<Result<_, String>>()?,
    })
}

/// Returns the number of the line at which a context begins.
fn line_of(text: &str, name: &ContextName) -> usize {
    let key = format!("\"{name}\"");
    let begins = |line: &str| {
        let mut after = line.split(&key).skip(1);
        after.any(|rest| rest.trim_start().starts_with(':'))
    };
    text.lines().position(begins).map_or(0, |at| at + 1)
}
