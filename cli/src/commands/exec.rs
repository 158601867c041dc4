//! `argosy exec`: one more command in a running task, through any master.
//!
//! The command ends with this program, however that ends; nothing is left in the task.

pub(crate) mod attached;
pub(crate) mod connection;
mod detach_keys;
mod terminal;
pub(crate) mod transfer;

use std::io::IsTerminal as _;

use argosy_proto::exec::{ExecResult, TerminalSize};
use argosy_proto::v1;

use crate::args::Exec;
use crate::exit::{DONE, Failure, FailureCode, NEVER_STARTED, VerbResult};
use crate::files::executor_of;
use crate::operator::{ClusterClient, is_terminal};
use crate::output::{note, state_word};
use attached::{ClientSessionEnd, StreamMode};
use connection::{OpenError, SessionKind, SessionRequest};

/// The exit code that a shell gives a command whose reader is gone: SIGPIPE.
pub(super) const READER_GONE: u8 = 128 + 13;
/// The variable that names the terminal type.
const TERM: &str = "TERM";

pub(crate) async fn run(arguments: &Exec) -> VerbResult {
    let types_here = arguments.tty && arguments.interactive;
    if types_here && !std::io::stdin().is_terminal() {
        return Err(
            Failure::usage("--tty --interactive: standard input is not a terminal")
                .advise("omit --tty to forward a file or pipe"),
        );
    }
    let operator = ClusterClient::open(&arguments.reach)?;
    let task = operator.find_task(&arguments.task).await?;
    let shown = format!("{}/{}", task.framework_id, task.task_id);
    may_be_entered(&task, &shown)?;
    let wanted = SessionRequest {
        call: SessionKind::Exec,
        agent_id: &task.agent_id,
        parameters: parameters(arguments, &shown, terminal::size()),
    };
    let socket = match connection::open(&operator.http_masters(), &wanted).await {
        Ok(socket) => socket,
        Err(OpenError::NotStarted(why)) => {
            note(&format!("never started in {shown}: {why}"));
            return Ok(NEVER_STARTED);
        }
        Err(error) => return Err(failure(error, &shown)),
    };
    let what = "the command runs in the container of the executor and all its tasks";
    note_executor(&task, &shown, what);
    let mode = match (arguments.tty, arguments.interactive) {
        (true, true) => StreamMode::Terminal,
        (true, false) => StreamMode::TerminalWithoutInput,
        (false, true) => StreamMode::Pipes,
        (false, false) => StreamMode::PipesWithoutInput,
    };
    match attached::run(socket, mode).await? {
        ClientSessionEnd::Ended(ExecResult::Code(code)) => Ok(code as u8),
        ClientSessionEnd::Ended(ExecResult::Signal(signal)) => Ok(by_signal(signal)),
        ClientSessionEnd::Ended(ExecResult::Lost(why)) => Err(Failure::new(
            FailureCode::Unavailable,
            format!("the result of the command in {shown} is unknown: {why}"),
        )),
        ClientSessionEnd::Broken(why) => Err(Failure::new(
            FailureCode::Unavailable,
            format!("the connection to the command in {shown} was lost: {why}"),
        )
        .advise("the command is killed, at the latest when its agent detects the lost connection")),
        // An exec session cannot be detached.
        ClientSessionEnd::Detached => Ok(DONE),
        ClientSessionEnd::ReaderGone => Ok(READER_GONE),
        ClientSessionEnd::Signalled(signal) => Ok(by_signal(signal)),
    }
}

/// Returns the exit code for a signal, as shells do.
pub(crate) fn by_signal(signal: i32) -> u8 {
    128u8.saturating_add(u8::try_from(signal).unwrap_or(127))
}

/// Reports that a task of an executor is reached in the executor's container.
pub(super) fn note_executor(task: &v1::Task, shown: &str, what: &str) {
    if let Some(executor) = executor_of(task) {
        note(&format!("{shown} is run by executor {executor}: {what}"));
    }
}

/// Checks what the masters already know, without a call to the agent.
pub(super) fn may_be_entered(task: &v1::Task, shown: &str) -> Result<(), Failure> {
    if is_terminal(task.state) {
        let state = state_word(task.state);
        let text = format!("{shown} is no longer running: {state}");
        return Err(Failure::new(FailureCode::Refused, text));
    }
    if task.agent_id.is_empty() {
        let text = format!("{shown} is not running yet: it has no agent");
        let failure = Failure::new(FailureCode::Refused, text);
        return Err(failure.advise(format!("argosy explain {shown} shows why")));
    }
    Ok(())
}

/// Returns the parameters of the call to the agent.
fn parameters(
    arguments: &Exec,
    task: &str,
    size: Option<TerminalSize>,
) -> Vec<(&'static str, String)> {
    let mut all = vec![("task", task.to_owned())];
    all.extend(
        arguments
            .command
            .iter()
            .map(|word| ("argument", word.clone())),
    );
    let mut environment = arguments.environment.clone();
    if arguments.tty {
        all.push(("tty", true.to_string()));
        if let Some(size) = size {
            all.push(("rows", size.rows.to_string()));
            all.push(("columns", size.columns.to_string()));
        }
        let own = std::env::var(TERM).ok();
        if let Some(own) = own.filter(|_| environment.iter().all(|(name, _)| name != TERM)) {
            environment.push((TERM.to_owned(), own));
        }
    }
    let environment = environment.into_iter();
    all.extend(environment.map(|(name, value)| ("env", format!("{name}={value}"))));
    all.extend(arguments.user.iter().map(|user| ("user", user.clone())));
    all.extend(
        arguments
            .workdir
            .iter()
            .map(|directory| ("workdir", directory.clone())),
    );
    all
}

/// Returns the failure of a command that was not started.
pub(super) fn failure(error: OpenError, shown: &str) -> Failure {
    let cannot = |code, text: &str| Failure::new(code, format!("cannot exec in {shown}: {text}"));
    match error {
        OpenError::NotStarted(text) => cannot(FailureCode::Failed, &text),
        OpenError::NotFound(text) => cannot(FailureCode::NotFound, &text),
        OpenError::Refused(text) => cannot(FailureCode::Refused, &text),
        OpenError::Unavailable(text) => cannot(FailureCode::Unavailable, &text)
            .advise("argosy status shows the state of the cluster"),
        OpenError::TooLong { bytes } => Failure::usage(format!(
            "arguments and environment take {bytes} bytes when encoded, and the limit is {}",
            connection::URL_LIMIT_BYTES
        ))
        .advise("pass data by standard input: --interactive"),
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;
    use crate::verbs::{Arguments, Verb};

    fn exec(args: &[&str]) -> Exec {
        let args = [&["argosy", "exec"], args].concat();
        match Arguments::try_parse_from(args).unwrap().verb {
            Verb::Exec(exec) => *exec,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn all_given_options_are_sent_to_the_agent() {
        let typed = exec(&[
            "-it",
            "-u",
            "web:docs",
            "-e",
            "TERM=dumb",
            "-e",
            "A=b=c",
            "-w",
            "/usr",
            "web",
            "--",
            "sh",
            "-c",
            "ls -l",
        ]);
        assert!(typed.interactive && typed.tty);
        let size = TerminalSize {
            rows: 50,
            columns: 120,
        };
        let asked = parameters(&typed, "framework-1/web", Some(size));
        let expected = [
            ("task", "framework-1/web"),
            ("argument", "sh"),
            ("argument", "-c"),
            ("argument", "ls -l"),
            ("tty", "true"),
            ("rows", "50"),
            ("columns", "120"),
            ("env", "TERM=dumb"),
            ("env", "A=b=c"),
            ("user", "web:docs"),
            ("workdir", "/usr"),
        ];
        assert_eq!(
            asked,
            expected.map(|(name, value)| (name, value.to_owned()))
        );
    }

    #[test]
    fn omitted_options_are_not_sent() {
        let asked = parameters(&exec(&["web", "--", "true"]), "framework-1/web", None);
        let expected = [("task", "framework-1/web"), ("argument", "true")];
        assert_eq!(
            asked,
            expected.map(|(name, value)| (name, value.to_owned()))
        );
    }

    #[test]
    fn exec_in_a_task_that_does_not_run_is_rejected_with_a_message() {
        let task = |state: v1::TaskState, agent_id: &str| v1::Task {
            state: state.into(),
            agent_id: agent_id.to_owned(),
            ..v1::Task::default()
        };
        let running = task(v1::TaskState::Running, "agent-1");
        may_be_entered(&running, "f/web").unwrap();
        let ended = task(v1::TaskState::Finished, "agent-1");
        let failure = may_be_entered(&ended, "f/web").unwrap_err();
        assert_eq!(failure.code, FailureCode::Refused);
        assert_eq!(failure.message, "f/web is no longer running: finished");
        let waiting = task(v1::TaskState::Staging, "");
        let failure = may_be_entered(&waiting, "f/web").unwrap_err();
        assert!(
            failure.to_string().contains("argosy explain f/web"),
            "{failure}"
        );
    }

    #[test]
    fn signals_become_codes_as_in_a_shell() {
        assert_eq!([9, 15, 64].map(by_signal), [137, 143, 192]);
    }
}
