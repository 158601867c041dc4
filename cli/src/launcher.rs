//! Choice of the launcher program: `argosy-launcher` in the directory of the agent's program, else
//! that program itself.
//!
//! The small program makes containers cheaper, since each begins with copies of it; the other
//! program is always available. The file is opened once. If a new release is installed later, the
//! launchers of this agent stay those of its own release.

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::path::Path;
use std::process::{Command, Stdio};

use argosy_agent::{LauncherCommand, ServiceCommand};

/// The file name of the program.
const PROGRAM: &str = "argosy-launcher";
/// The hidden command under which this program is the launcher.
pub(crate) const VERB: &str = "launcher";

/// The hidden command under which this program fetches from servers and registries for an agent.
pub(crate) const CONTENT_VERB: &str = "content";

/// Returns the command of this very program, even if its file name is reused later.
pub(crate) fn content() -> ServiceCommand {
    ServiceCommand {
        program: "/proc/self/exe".into(),
        arguments: vec![CONTENT_VERB.into()],
    }
}

/// The chosen launcher program.
#[derive(Debug)]
pub(crate) struct LauncherProgram {
    pub(crate) command: LauncherCommand,
    /// The file that the command names. It must stay open as long as the command may be executed.
    file: Option<File>,
}

impl LauncherProgram {
    /// Returns the file that must be open where the command is executed.
    pub(crate) fn file(&self) -> Option<&File> {
        self.file.as_ref()
    }
}

/// The reason why the separate launcher program is not used.
#[derive(Debug, PartialEq, Eq)]
enum LauncherProgramError {
    /// The file does not exist.
    Missing,
    /// Another reason, as text.
    Other(String),
}

/// Chooses the launcher for this very program, and logs why the separate one is not used.
pub(crate) fn choose() -> LauncherProgram {
    match find_program() {
        Ok((file, command)) => {
            return LauncherProgram {
                command,
                file: Some(file),
            };
        }
        Err(LauncherProgramError::Missing) => tracing::info!(
            program = PROGRAM,
            "not installed next to this program, which is its own launcher: containers cost more to start"
        ),
        Err(LauncherProgramError::Other(why)) => tracing::warn!(
            program = PROGRAM,
            why,
            "cannot be used: install it with this program, of the same release"
        ),
    }
    LauncherProgram {
        command: LauncherCommand {
            program: "/proc/self/exe".into(),
            arguments: vec![VERB.into()],
        },
        file: None,
    }
}

/// Checks whether an agent of this very program would use the separate launcher; returns the reason
/// if not.
pub(crate) fn check() -> Result<(), String> {
    match find_program() {
        Ok(_) => Ok(()),
        Err(LauncherProgramError::Missing) => Err("not next to this program".to_owned()),
        Err(LauncherProgramError::Other(why)) => Err(why),
    }
}

fn find_program() -> Result<(File, LauncherCommand), LauncherProgramError> {
    let own = std::env::current_exe().map_err(describe)?;
    open(&own.with_file_name(PROGRAM))
}

/// Opens the program and checks its release with `--version`.
fn open(path: &Path) -> Result<(File, LauncherCommand), LauncherProgramError> {
    let (file, command) = hold(path)?;
    let mut asked = Command::new(&command.program);
    asked.arg("--version").env_clear().stdin(Stdio::null());
    let answer = asked.output().map_err(describe)?.stdout;
    let wanted = format!("{PROGRAM} {}", env!("CARGO_PKG_VERSION"));
    let found = String::from_utf8_lossy(&answer);
    if found.trim_end() == wanted {
        Ok((file, command))
    } else {
        let found: String = found.trim_end().chars().take(80).collect();
        Err(LauncherProgramError::Other(format!(
            "it reports {found:?}, not {wanted:?}"
        )))
    }
}

/// Returns a command that names the open descriptor, which every child has when it executes. It
/// stays the same file even if the path is replaced.
fn hold(path: &Path) -> Result<(File, LauncherCommand), LauncherProgramError> {
    let file = File::open(path).map_err(|error| match error.kind() {
        io::ErrorKind::NotFound => LauncherProgramError::Missing,
        _ => describe(error),
    })?;
    let command = LauncherCommand {
        program: format!("/proc/self/fd/{}", file.as_raw_fd()).into(),
        arguments: Vec::new(),
    };
    Ok((file, command))
}

fn describe(error: io::Error) -> LauncherProgramError {
    LauncherProgramError::Other(error.to_string())
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;
    use std::path::PathBuf;

    use super::*;

    /// Substitute for the program of another release.
    const OTHER_PROGRAM: &str = "/bin/true";

    fn directory() -> (tempfile::TempDir, PathBuf) {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join(PROGRAM);
        (directory, path)
    }

    fn why(path: &Path) -> String {
        match open(path) {
            Err(LauncherProgramError::Other(why)) => why,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_launcher_of_another_release_is_not_used() {
        let (_directory, path) = directory();
        symlink(OTHER_PROGRAM, &path).unwrap();
        assert!(why(&path).contains("not \"argosy-launcher "));
    }

    #[test]
    fn a_file_that_cannot_be_executed_is_not_used() {
        let (_directory, path) = directory();
        fs::write(&path, "").unwrap();
        assert!(why(&path).contains("Permission denied"));
    }

    #[test]
    fn without_a_launcher_program_this_executable_is_the_launcher() {
        let (_directory, path) = directory();
        assert_eq!(open(&path).unwrap_err(), LauncherProgramError::Missing);
        // The directory of the test program contains no launcher.
        let chosen = choose();
        assert_eq!(chosen.command.program, Path::new("/proc/self/exe"));
        assert_eq!(chosen.command.arguments, [VERB]);
    }

    #[test]
    fn the_opened_file_is_executed_even_if_it_is_replaced() {
        let (_directory, path) = directory();
        symlink(OTHER_PROGRAM, &path).unwrap();
        let (_file, command) = hold(&path).unwrap();
        fs::remove_file(&path).unwrap();
        fs::write(&path, "no program").unwrap();
        for _ in 0..2 {
            let status = Command::new(&command.program).env_clear().status();
            assert!(status.unwrap().success());
        }
    }
}
