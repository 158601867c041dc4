//! Rejection of command lines that Linux would not execute, before an offer is requested. Pure.
//!
//! The masters make the same check when a task is launched, but by then its offer is used.

use argosy_state::limits;

use crate::args::Run;
use crate::exit::Failure;

/// Advice for every case.
const ADVICE: &str = "pass large values as a file with --uri";

/// Checks the command and the variables of a task.
pub(super) fn check(arguments: &Run) -> Result<(), Failure> {
    let from_image = arguments.image.is_some() && arguments.command.is_empty();
    if !from_image && arguments.command.first().is_none_or(String::is_empty) {
        return Err(Failure::usage(
            "the command is empty; write it after --, as in: argosy run -- echo hello",
        ));
    }
    let most = limits::ARGUMENT_BYTES;
    let mut args = arguments.command.iter().enumerate();
    if let Some((at, word)) = args.find(|(_, word)| word.len() > most) {
        let bytes = word.len();
        return Err(Failure::usage(format!(
            "the command: its word {at} takes {bytes} bytes; Linux executes at most {most} in one argument"
        ))
        .advise(ADVICE));
    }
    let size = |(name, value): &(String, String)| name.len() + 1 + value.len();
    let mut variables = arguments.environment.iter();
    if let Some(variable) = variables.find(|variable| size(variable) > most) {
        let (name, bytes) = (&variable.0, size(variable));
        return Err(Failure::usage(format!(
            "--env {name}: it takes {bytes} bytes; Linux executes at most {most} in one variable"
        ))
        .advise(ADVICE));
    }
    let args = arguments.command.iter().map(String::len);
    let bytes: usize = args.chain(arguments.environment.iter().map(size)).sum();
    if bytes > limits::TASK_SPEC_BYTES {
        let limit = limits::TASK_SPEC_BYTES / 1024;
        return Err(Failure::usage(format!(
            "the command and --env take {} KiB together, the limit is {limit} KiB",
            bytes / 1024
        ))
        .advise(ADVICE));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use crate::exit::FailureCode;
    use crate::run::job::tests::job;

    fn refusal(args: &[&str]) -> String {
        let failure = job(args).unwrap_err();
        assert_eq!(failure.code, FailureCode::Usage, "{args:?}");
        failure.to_string()
    }

    #[test]
    fn command_lines_too_long_for_linux_are_rejected_before_any_request() {
        assert!(refusal(&["--", ""]).contains("command is empty"));
        let longest = "x".repeat(131_071);
        job(&["--", "echo", &longest]).unwrap();
        let word = "x".repeat(131_072);
        let refused = refusal(&["--", "echo", &word]);
        let figures = "its word 1 takes 131072 bytes; Linux executes at most 131071";
        assert!(refused.contains(figures), "{refused}");
        let variable = format!("A={}", &longest[2..]);
        job(&["-e", &variable, "--", "true"]).unwrap();
        let variable = format!("A={}", &longest[1..]);
        let refused = refusal(&["-e", &variable, "--", "true"]);
        assert!(refused.contains("--env A: it takes 131072"), "{refused}");
        let part = "x".repeat(120_000);
        let many = ["--", "echo", &part, &part, &part, &part];
        job(&many).unwrap();
        let refused = refusal(&[&many[..], &[&part]].concat());
        assert!(refused.contains("take 585 KiB together"), "{refused}");
    }
}
