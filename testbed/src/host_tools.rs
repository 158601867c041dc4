//! Programs of the host that the harness needs, such as ip, nft and nsenter.
//!
//! It reports what is missing in one message and never installs anything.

use std::ffi::OsStr;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

/// An error of a program of the host.
#[derive(Debug, thiserror::Error)]
pub enum ToolError {
    /// It cannot be started.
    #[error("cannot execute {program}")]
    Start {
        program: String,
        source: std::io::Error,
    },
    /// It ended with an error.
    #[error("{line} failed: {reported}")]
    Failed {
        /// The command line.
        line: String,
        /// The end of its output.
        reported: String,
    },
}

/// Runs a program to its end.
///
/// # Errors
/// [`ToolError`]
pub fn run<T: AsRef<OsStr>>(program: &str, args: &[T]) -> Result<String, ToolError> {
    run_with_input(program, args, "")
}

/// Runs a program to its end with `input` as its standard input. Returns its output.
///
/// # Errors
/// [`ToolError`]
pub fn run_with_input<T: AsRef<OsStr>>(
    program: &str,
    args: &[T],
    input: &str,
) -> Result<String, ToolError> {
    let start = |source| ToolError::Start {
        program: program.to_owned(),
        source,
    };
    let mut child = Command::new(path(program))
        .args(args)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(start)?;
    if let Some(mut stdin) = child.stdin.take() {
        // A program that does not read its input reports the reason by its status.
        let _ = stdin.write_all(input.as_bytes());
    }
    let output = child.wait_with_output().map_err(start)?;
    check_status(program, args, &output)
}

fn check_status<T: AsRef<OsStr>>(
    program: &str,
    args: &[T],
    output: &Output,
) -> Result<String, ToolError> {
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    let words: Vec<_> = args
        .iter()
        .map(|word| word.as_ref().to_string_lossy())
        .collect();
    let reported = String::from_utf8_lossy(&output.stderr);
    let reported = reported.trim().lines().last().unwrap_or("no reason given");
    Err(ToolError::Failed {
        line: format!("{program} {}", words.join(" ")),
        reported: reported.to_owned(),
    })
}

/// Returns the path of a program, if it is installed.
pub fn find(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let usual = ["/usr/sbin", "/sbin", "/usr/bin", "/bin"].map(PathBuf::from);
    std::env::split_paths(&path)
        .chain(usual)
        .map(|directory| directory.join(program))
        .find(|candidate| candidate.is_file())
}

/// Returns the path of a program, or its name if it is not installed. Executing the name then
/// reports that.
pub fn path(program: &str) -> PathBuf {
    find(program).unwrap_or_else(|| program.into())
}

/// Returns the path of the library that fakes wall clocks, if it is installed.
pub fn fake_clock() -> Option<PathBuf> {
    let directories = [
        "/usr/lib/x86_64-linux-gnu/faketime",
        "/usr/lib/aarch64-linux-gnu/faketime",
        "/usr/lib/faketime",
    ];
    directories
        .iter()
        .map(|directory| Path::new(directory).join("libfaketimeMT.so.1"))
        .find(|candidate| candidate.is_file())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failed_program_is_reported_with_its_last_output() {
        let error = run("sh", &["-c", "echo first >&2; echo no room >&2; exit 3"]).unwrap_err();
        let text = error.to_string();
        assert!(
            text.starts_with("sh -c") && text.ends_with("no room"),
            "{text}"
        );
    }

    #[test]
    fn a_program_receives_its_input_and_its_output_is_returned() {
        assert_eq!(run_with_input("cat", &["-"], "rules").unwrap(), "rules");
        assert!(find("sh").is_some() && find("no-such-program").is_none());
    }
}
