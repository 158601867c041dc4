//! Completions: the script of a shell, and the words that it may complete a command line with.
//!
//! The script calls this program with a variable set. Whatever happens then, the answer arrives
//! within half a second, and a failure is an answer without names: a shell has no place to show it.

mod bash;
mod names;
mod sandbox;

use std::ffi::{OsStr, OsString};
use std::panic::{self, AssertUnwindSafe};
use std::sync::Arc;

use anyhow::Context;
use argosy_proto::v1;
use clap_complete::engine::{ArgValueCompleter, CompletionCandidate};
use clap_complete::env::Shells;

use crate::contexts::ContextFile;
use crate::exit::{Failure, VerbResult};
use crate::objects::LISTS;
use crate::output::{self, mode_word, state_word};
use crate::verbs;
use bash::BashLine;
use names::NameKind;

/// The variable by which a script calls this program; its value is the shell.
const VARIABLE: &str = "ARGOSY_COMPLETE";
/// The name of this program in scripts.
const PROGRAM: &str = "argosy";

/// The candidates for an argument.
#[derive(Debug, Clone, Copy)]
enum Source {
    /// Names of objects of the cluster.
    Names(NameKind),
    /// The object of `argosy wait`, whose kind is the word before.
    Waited,
    /// A file of this host, a task, or a path in the sandbox of a task.
    Copied,
    /// Words that do not depend on the cluster.
    Words(fn() -> Vec<String>),
}

/// The arguments that have candidates: command, id of the argument, source.
const ARGUMENTS: &[(&[&str], &str, Source)] = &[
    (&["master", "remove"], "master", MASTERS),
    (&["master", "transfer"], "master", MASTERS),
    (&["master", "log-level"], "id", MASTERS),
    (&["agent", "show"], "id", AGENTS),
    (&["agent", "attribute"], "agent", AGENTS),
    (&["agent", "deactivate"], "agent", AGENTS),
    (&["agent", "reactivate"], "agent", AGENTS),
    (&["agent", "gone"], "agent", AGENTS),
    (&["agent", "log-level"], "id", AGENTS),
    (&["agent", "list"], "states", Source::Words(modes)),
    (&["task", "show"], "id", ALL_TASKS),
    (&["task", "kill"], "task", TASKS),
    (&["task", "list"], "framework", FRAMEWORKS),
    (&["task", "list"], "agent", AGENTS),
    (&["task", "list"], "role", ROLES),
    (&["task", "list"], "states", Source::Words(states)),
    (&["ps"], "framework", FRAMEWORKS),
    (&["ps"], "agent", AGENTS),
    (&["ps"], "role", ROLES),
    (&["ps"], "states", Source::Words(states)),
    (&["group", "run"], "role", ROLES),
    (&["group", "kill"], "group", GROUPS),
    (&["framework", "show"], "id", FRAMEWORKS),
    (&["framework", "teardown"], "framework", FRAMEWORKS),
    (&["framework", "list"], "role", ROLES),
    (&["weight", "set"], "role", ROLES),
    (&["secret", "list"], "role", ROLES),
    (&["secret", "reseal"], "role", ROLES),
    (&["run"], "role", ROLES),
    (&["logs"], "task", ALL_TASKS),
    (&["logs"], "framework", FRAMEWORKS),
    (&["cp"], "source", Source::Copied),
    (&["cp"], "destination", Source::Copied),
    (&["exec"], "task", TASKS),
    (&["attach"], "task", TASKS),
    (&["update"], "task", TASKS),
    (
        &["explain"],
        "id",
        Source::Names(NameKind::TasksAndFrameworks),
    ),
    (&["context", "use"], "name", Source::Words(contexts)),
    (&["context", "remove"], "name", Source::Words(contexts)),
    (&["context", "show"], "name", Source::Words(contexts)),
    (&["context", "env"], "name", Source::Words(contexts)),
    (&["wait"], "name", Source::Waited),
    (&["wait"], "condition", Source::Words(conditions)),
];

const MASTERS: Source = Source::Names(NameKind::Masters);
const AGENTS: Source = Source::Names(NameKind::Agents);
const TASKS: Source = Source::Names(NameKind::LiveTasks);
const ALL_TASKS: Source = Source::Names(NameKind::Tasks);
const FRAMEWORKS: Source = Source::Names(NameKind::Frameworks);
const GROUPS: Source = Source::Names(NameKind::Groups);
const ROLES: Source = Source::Names(NameKind::Roles);

fn states() -> Vec<String> {
    let states = (1..).map_while(|number| v1::TaskState::try_from(number).ok());
    states.map(|state| state_word(state.into())).collect()
}

fn modes() -> Vec<String> {
    let modes = (1..).map_while(|number| v1::AgentMode::try_from(number).ok());
    modes.map(|mode| mode_word(mode.into())).collect()
}

/// Returns the names of the contexts; none if the file cannot be read.
fn contexts() -> Vec<String> {
    let read = ContextFile::of_user().and_then(|file| file.read());
    let names = read.map(|contexts| contexts.all.into_keys());
    names
        .into_iter()
        .flatten()
        .map(|name| name.to_string())
        .collect()
}

/// Returns the conditions of `argosy wait`.
fn conditions() -> Vec<String> {
    let mut all: Vec<_> = [
        "connected",
        "ended",
        "healthy",
        "idle",
        "leading",
        "ready",
        "removed",
    ]
    .map(str::to_owned)
    .into();
    all.extend(states());
    all.extend(modes());
    all.sort();
    all.dedup();
    all
}

/// Prints the script of a shell.
pub(crate) fn script(shell: clap_complete::Shell) -> VerbResult {
    let shells = Shells::builtins();
    let completer = shells.completer(&shell.to_string());
    let completer =
        completer.ok_or_else(|| Failure::usage(format!("there are no completions for {shell}")))?;
    let mut script = Vec::new();
    completer
        .write_registration(VARIABLE, PROGRAM, PROGRAM, PROGRAM, &mut script)
        .context("cannot write the completions")?;
    let text = String::from_utf8(script).context("the completions are not UTF-8")?;
    output::print(&bash::with_line(&text))
}

/// Answers a script, and returns whether one has called this program.
pub(crate) fn answer() -> bool {
    let Ok(shell) = std::env::var(VARIABLE) else {
        return false;
    };
    let words = std::env::args_os().skip_while(|word| word != "--").skip(1);
    let words: Vec<OsString> = words.collect();
    if words.is_empty() {
        return false;
    }
    // The engine may panic on an unusual line.
    panic::set_hook(Box::new(|_| {}));
    let answer = panic::catch_unwind(AssertUnwindSafe(|| completed(&shell, words)));
    if let Ok(Some(text)) = answer {
        // The shell may be gone.
        let _ = output::print(&text);
    }
    true
}

/// Returns the candidates in the format of a shell.
fn completed(shell: &str, words: Vec<OsString>) -> Option<String> {
    if shell == "bash"
        && let Some(line) = BashLine::passed(&words)
    {
        return line.completed();
    }
    let shells = Shells::builtins();
    let shell = shells.completer(shell)?;
    let mut command = command(&words);
    let here = std::env::current_dir().ok();
    let mut answer = Vec::new();
    let written = shell.write_complete(&mut command, words, here.as_deref(), &mut answer);
    written.ok()?;
    String::from_utf8(answer).ok()
}

/// Returns the definition of the command line with the sources of candidates.
fn command(words: &[OsString]) -> clap::Command {
    let line: Vec<_> = words
        .iter()
        .map(|word| word.to_string_lossy().into_owned())
        .collect();
    let line = Arc::new(line);
    let of_lists = LISTS.iter().flat_map(|(path, columns)| {
        ["sort", "columns"].map(|argument| (*path, argument, Source::Words(*columns)))
    });
    let arguments = ARGUMENTS.iter().copied().chain(of_lists);
    arguments.fold(verbs::command(), |command, (path, argument, source)| {
        let line = Arc::clone(&line);
        let complete = move |current: &OsStr| candidates(source, &line, current);
        let completer = ArgValueCompleter::new(complete);
        with_completer(command, path, argument, completer)
    })
}

fn with_completer(
    command: clap::Command,
    path: &[&str],
    argument: &str,
    completer: ArgValueCompleter,
) -> clap::Command {
    match path {
        // Unlike `mut_arg`, this keeps the order of arguments without flags.
        [] => command.mut_args(|found| match found.get_id() == argument {
            true => found.add(completer.clone()),
            false => found,
        }),
        [first, rest @ ..] => command.mut_subcommand(first, |inner| {
            with_completer(inner, rest, argument, completer)
        }),
    }
}

fn candidates(source: Source, line: &[String], current: &OsStr) -> Vec<CompletionCandidate> {
    let Some(current) = current.to_str() else {
        return Vec::new();
    };
    let kind = match source {
        Source::Words(words) => {
            // No name stands in the place of NAME.
            let is_word = |word: &String| word.starts_with(current) && !word.ends_with(".NAME");
            let matching = words().into_iter().filter(is_word);
            return matching.map(CompletionCandidate::new).collect();
        }
        Source::Names(kind) => Some(kind),
        Source::Waited => names::waited(line),
        Source::Copied => return sandbox::candidates(line, current),
    };
    kind.map_or_else(Vec::new, |kind| names::candidates(kind, line, current))
}

#[cfg(test)]
mod tests {
    use clap_complete::engine::complete;

    use super::*;

    fn words(line: &str) -> Vec<OsString> {
        line.split(' ').map(OsString::from).collect()
    }

    /// Returns the candidates for the last word.
    fn found(line: &str) -> Vec<String> {
        let words = words(line);
        let last = words.len() - 1;
        let candidates = complete(&mut command(&words), words, last, None).unwrap();
        let values = candidates.iter().map(CompletionCandidate::get_value);
        values
            .map(|value| value.to_string_lossy().into_owned())
            .collect()
    }

    #[test]
    fn commands_flags_and_values_are_completed() {
        assert_eq!(found("argosy frame"), ["framework"]);
        assert_eq!(found("argosy framework tear"), ["teardown"]);
        assert_eq!(found("argosy ps --wat"), ["--watch"]);
        assert_eq!(
            found("argosy ps --state running,unr"),
            ["running,unreachable"]
        );
        assert_eq!(found("argosy ps --sort cha"), ["changed"]);
        assert_eq!(found("argosy offer list --columns hos"), ["host"]);
        assert!(found("argosy ps --columns lab").is_empty());
        assert_eq!(found("argosy ps -o nd"), ["ndjson"]);
        assert_eq!(found("argosy agent list --state dea"), ["deactivated"]);
        assert_eq!(found("argosy wait task web --for hea"), ["healthy"]);
        assert_eq!(found("argosy top --page fra"), ["frameworks"]);
    }

    #[test]
    fn conditions_are_those_of_wait() {
        use crate::args::WaitKind::{Agent, Framework, Master, Task};
        for condition in conditions() {
            let mut kinds = [Task, Agent, Framework, Master].into_iter();
            let is_known = kinds.any(|kind| crate::commands::wait::is_condition(kind, &condition));
            assert!(is_known, "{condition}");
        }
    }

    #[test]
    fn a_line_that_cannot_be_completed_has_no_answer() {
        let answer = completed("fish", words("argosy framework tear")).unwrap();
        assert!(answer.starts_with("teardown\t"), "{answer}");
        assert_eq!(completed("tcsh", words("argosy framework tear")), None);
    }
}
