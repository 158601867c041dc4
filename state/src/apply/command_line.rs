//! Validation of commands and environments that the kernel would not execute.
//!
//! The bound on the size of a description bounds their total. It is far below the maximum of
//! `execve` (a quarter of the stack limit, 2 MiB).

use std::collections::BTreeMap;

use crate::level::Level;
use crate::limits;
use crate::task::{CommandSpec, TaskSpec};

/// The name of an invalid field, and a message that names the remedy.
type FieldError = (String, String);

/// Validates the command of a task and its environment.
pub(super) fn check(spec: &TaskSpec, level: Level) -> Result<(), FieldError> {
    // Release 0.1.0 did not limit the longest argument itself.
    let most = match level >= Level::RELEASE_0_2 {
        true => limits::ARGUMENT_BYTES,
        false => usize::MAX,
    };
    check_run(&spec.run, most)?;
    check_environment(&spec.environment, most)
}

fn check_run(run: &CommandSpec, most: usize) -> Result<(), FieldError> {
    let (empty, words) = match run {
        CommandSpec::Image => return Ok(()),
        CommandSpec::Shell(line) => (line.trim().is_empty(), std::slice::from_ref(line)),
        CommandSpec::Argv(words) => (words.first().is_none_or(String::is_empty), &words[..]),
    };
    if empty || words.iter().any(|word| word.contains('\0')) {
        let text = "it is empty or contains NUL: give shell a line or argv a program";
        return Err(("command".to_owned(), text.to_owned()));
    }
    match words.iter().position(|word| word.len() > most) {
        None => Ok(()),
        Some(at) => {
            let field = match run {
                CommandSpec::Argv(_) => format!("command.argv[{at}]"),
                CommandSpec::Shell(_) | CommandSpec::Image => "command.shell".to_owned(),
            };
            let bytes = words[at].len();
            let text = format!(
                "it takes {bytes} bytes; Linux executes at most {most} in one argument: bring a file with uris"
            );
            Err((field, text))
        }
    }
}

fn check_environment(
    environment: &BTreeMap<String, String>,
    most: usize,
) -> Result<(), FieldError> {
    for (name, value) in environment {
        if name.is_empty() || name.contains(['=', '\0']) || value.contains('\0') {
            let text = "a name is empty or contains = or NUL, or a value contains NUL";
            return Err(("environment".to_owned(), text.to_owned()));
        }
        let bytes = name.len() + 1 + value.len();
        if bytes > most {
            let name: String = name.chars().take(64).collect();
            let text = format!(
                "{name}=… takes {bytes} bytes; Linux executes at most {most} in one variable: bring a file with uris"
            );
            return Err(("environment".to_owned(), text));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing;

    fn check_args(run: CommandSpec, variable: Option<(&str, usize)>) -> Result<(), FieldError> {
        let environment = variable.map(|(name, bytes)| (name.to_owned(), "v".repeat(bytes)));
        let spec = TaskSpec {
            run,
            environment: environment.into_iter().collect(),
            ..testing::spec("t", "cpus:1")
        };
        check(&spec, Level::NEWEST)
    }

    fn field(run: CommandSpec, variable: Option<(&str, usize)>) -> Option<String> {
        check_args(run, variable).err().map(|(field, _)| field)
    }

    #[test]
    fn the_longest_argument_that_linux_executes_is_the_limit() {
        let most = 131_071;
        let shell = |bytes| CommandSpec::Shell("x".repeat(bytes));
        let argv = |bytes| CommandSpec::Argv(vec!["true".to_owned(), "x".repeat(bytes)]);
        assert_eq!(field(shell(most), None), None);
        assert_eq!(field(argv(most), Some(("A", most - 2))), None);
        assert_eq!(field(CommandSpec::Image, Some(("A", most - 2))), None);
        let named = |field: &str| Some(field.to_owned());
        assert_eq!(field(shell(most + 1), None), named("command.shell"));
        assert_eq!(field(argv(most + 1), None), named("command.argv[1]"));
        let found = field(CommandSpec::Image, Some(("A", most - 1)));
        assert_eq!(found, named("environment"));
    }

    #[test]
    fn the_rejection_contains_the_size_the_bound_and_an_alternative() {
        let (_, text) = check_args(CommandSpec::Shell("x".repeat(200_000)), None).unwrap_err();
        let wanted = "it takes 200000 bytes; Linux executes at most 131071 in one argument: bring a file with uris";
        assert_eq!(text, wanted);
    }

    /// The bound is that of this host's kernel: one more byte is not executed.
    #[test]
    #[allow(clippy::disallowed_methods, reason = "the kernel is what is asked")]
    fn the_argument_bound_is_that_of_the_kernel() {
        let run = |bytes: usize| {
            std::process::Command::new("/bin/true")
                .arg("x".repeat(bytes))
                .status()
        };
        assert!(run(limits::ARGUMENT_BYTES).unwrap().success());
        let why = run(limits::ARGUMENT_BYTES + 1).unwrap_err();
        assert_eq!(why.kind(), std::io::ErrorKind::ArgumentListTooLong);
    }
}
