//! Which program an agent's launcher is: `argosy-launcher` beside the agent's own, or else that one itself.
//!
//! The small one makes containers cheaper, since each begins with copies of it; the other one is always there. It is opened
//! once: should somebody install a new release meanwhile, this agent's launchers stay those that it speaks to.

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::path::Path;
use std::process::{Command, Stdio};

use argosy_agent::{LauncherCommand, ServiceCommand};

/// The file's name.
const PROGRAM: &str = "argosy-launcher";
/// The hidden verb under which this program is the launcher.
pub(crate) const VERB: &str = "launcher";

/// The hidden verb under which this program is what asks servers and registries for an agent.
pub(crate) const CONTENT_VERB: &str = "content";

/// This very program, whatever its name means by then.
pub(crate) fn content() -> ServiceCommand {
    ServiceCommand {
        program: "/proc/self/exe".into(),
        arguments: vec![CONTENT_VERB.into()],
    }
}

/// A launcher's program.
#[derive(Debug)]
pub(crate) struct Chosen {
    pub(crate) command: LauncherCommand,
    /// What the command names: to be held as long as it may be executed.
    file: Option<File>,
}

impl Chosen {
    /// What must be open where the command is executed.
    pub(crate) fn file(&self) -> Option<&File> {
        self.file.as_ref()
    }
}

/// Why the program beside is not used.
#[derive(Debug, PartialEq, Eq)]
enum Unfit {
    /// There is none.
    Missing,
    /// In words.
    Other(String),
}

/// Chooses for this very program, and logs what was not as it should be.
pub(crate) fn choose() -> Chosen {
    match beside() {
        Ok((file, command)) => {
            return Chosen {
                command,
                file: Some(file),
            };
        }
        Err(Unfit::Missing) => tracing::info!(
            program = PROGRAM,
            "not installed beside this program, which is its own launcher: containers cost more to start"
        ),
        Err(Unfit::Other(why)) => tracing::warn!(
            program = PROGRAM,
            why,
            "cannot be used: install it with this program, of the same release"
        ),
    }
    Chosen {
        command: LauncherCommand {
            program: "/proc/self/exe".into(),
            arguments: vec![VERB.into()],
        },
        file: None,
    }
}

/// Whether an agent of this very program would use the small one; if not, why, in words.
pub(crate) fn look() -> Result<(), String> {
    match beside() {
        Ok(_) => Ok(()),
        Err(Unfit::Missing) => Err("not beside this program".to_owned()),
        Err(Unfit::Other(why)) => Err(why),
    }
}

fn beside() -> Result<(File, LauncherCommand), Unfit> {
    let own = std::env::current_exe().map_err(in_words)?;
    open(&own.with_file_name(PROGRAM))
}

/// Opens it and has it say of which release it is.
fn open(path: &Path) -> Result<(File, LauncherCommand), Unfit> {
    let (file, command) = hold(path)?;
    let mut asked = Command::new(&command.program);
    asked.arg("--version").env_clear().stdin(Stdio::null());
    let answer = asked.output().map_err(in_words)?.stdout;
    let wanted = format!("{PROGRAM} {}", env!("CARGO_PKG_VERSION"));
    let found = String::from_utf8_lossy(&answer);
    if found.trim_end() == wanted {
        Ok((file, command))
    } else {
        let found: String = found.trim_end().chars().take(80).collect();
        Err(Unfit::Other(format!("it says {found:?}, not {wanted:?}")))
    }
}

/// A command by the descriptor, which every child has when it executes: the very file, whatever its name means by then.
fn hold(path: &Path) -> Result<(File, LauncherCommand), Unfit> {
    let file = File::open(path).map_err(|error| match error.kind() {
        io::ErrorKind::NotFound => Unfit::Missing,
        _ => in_words(error),
    })?;
    let command = LauncherCommand {
        program: format!("/proc/self/fd/{}", file.as_raw_fd()).into(),
        arguments: Vec::new(),
    };
    Ok((file, command))
}

fn in_words(error: io::Error) -> Unfit {
    Unfit::Other(error.to_string())
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;
    use std::path::PathBuf;

    use super::*;

    /// Stands for the program of another release.
    const ANOTHER: &str = "/bin/true";

    fn place() -> (tempfile::TempDir, PathBuf) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(PROGRAM);
        (folder, path)
    }

    fn why(path: &Path) -> String {
        match open(path) {
            Err(Unfit::Other(why)) => why,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_launcher_of_another_release_is_not_used() {
        let (_folder, path) = place();
        symlink(ANOTHER, &path).unwrap();
        assert!(why(&path).contains("not \"argosy-launcher "));
    }

    #[test]
    fn what_cannot_be_executed_is_not_used() {
        let (_folder, path) = place();
        fs::write(&path, "").unwrap();
        assert!(why(&path).contains("Permission denied"));
    }

    #[test]
    fn without_one_this_program_is_the_launcher() {
        let (_folder, path) = place();
        assert_eq!(open(&path).unwrap_err(), Unfit::Missing);
        // No test stands beside one.
        let chosen = choose();
        assert_eq!(chosen.command.program, Path::new("/proc/self/exe"));
        assert_eq!(chosen.command.arguments, [VERB]);
    }

    #[test]
    fn what_is_executed_stays_the_file_that_was_opened() {
        let (_folder, path) = place();
        symlink(ANOTHER, &path).unwrap();
        let (_file, command) = hold(&path).unwrap();
        fs::remove_file(&path).unwrap();
        fs::write(&path, "no program").unwrap();
        for _ in 0..2 {
            let status = Command::new(&command.program).env_clear().status();
            assert!(status.unwrap().success());
        }
    }
}
