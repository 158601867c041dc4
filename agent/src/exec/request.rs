//! Parses the query of an exec request. Pure.

use argosy_isolation::exec::DEFAULT_SIZE;
use argosy_isolation::{ExecAction, ExecRequest, Program, WindowSize};
use argosy_state::ids::TaskKey;
use axum::extract::Query;
use axum::http::Uri;

use super::ExecError;

/// Maximum length of a value in an error message, in characters.
const SHOWN_CHARS: usize = 200;

/// A parsed exec request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct ExecOptions {
    pub(super) task: TaskKey,
    /// For display: arguments may contain secrets, the program's name does not.
    pub(super) program: String,
    pub(super) request: ExecRequest,
}

fn invalid(field: &str, value: &str, remedy: &'static str) -> ExecError {
    ExecError::Invalid {
        field: field.chars().take(SHOWN_CHARS).collect(),
        value: value.chars().take(SHOWN_CHARS).collect(),
        remedy,
    }
}

impl ExecOptions {
    /// Parses a query. An unknown parameter is refused: it could restrict the request in a newer
    /// version.
    pub(super) fn parse(query: &str) -> Result<Self, ExecError> {
        let mut task = None;
        let mut arguments = Vec::new();
        let mut request = ExecRequest::new(ExecAction::Command(Program::Arguments(Vec::new())));
        let (mut tty, mut rows, mut columns) = (false, None, None);
        for (name, value) in pairs(query)? {
            match name.as_str() {
                "task" => once(&mut task, &name, &value, task_of(&value)?)?,
                "argument" => arguments.push(value),
                "tty" => tty = flag(&name, &value)?,
                "rows" => once(&mut rows, &name, &value, cells(&name, &value)?)?,
                "columns" => once(&mut columns, &name, &value, cells(&name, &value)?)?,
                "user" => {
                    let user = (!value.is_empty()).then(|| value.clone());
                    let remedy = "name a user of the container, or leave it out";
                    let user = user.ok_or_else(|| invalid(&name, &value, remedy))?;
                    once(&mut request.user_name, &name, &value, user)?;
                }
                "env" => request.environment.push(variable(&value)?),
                "workdir" => {
                    let dir = value.clone().into();
                    once(&mut request.directory, &name, &value, dir)?;
                }
                _ => {
                    let remedy =
                        "there are task, argument, tty, rows, columns, user, env and workdir";
                    return Err(invalid("parameter", &name, remedy));
                }
            }
        }
        let task = task.ok_or_else(|| invalid("task", "", "write task=FRAMEWORK/TASK"))?;
        let program = arguments.first().filter(|program| !program.is_empty());
        let program = program.cloned().ok_or_else(|| {
            invalid(
                "argument",
                "",
                "the first names a program, each further one an argument",
            )
        })?;
        if !tty && (rows.is_some() || columns.is_some()) {
            let remedy = "only a terminal has a size: add tty=true";
            return Err(invalid("rows, columns", "", remedy));
        }
        request.terminal = tty.then(|| WindowSize {
            rows: rows.unwrap_or(DEFAULT_SIZE.rows),
            columns: columns.unwrap_or(DEFAULT_SIZE.columns),
        });
        request.work = ExecAction::Command(Program::Arguments(arguments));
        Ok(Self {
            task,
            program,
            request,
        })
    }
}

/// A parsed request to attach to a task's own command.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct AttachOptions {
    pub(super) task: TaskKey,
    /// Whether the client writes to its standard input, too.
    pub(super) stdin: bool,
}

impl AttachOptions {
    /// As strict as the other.
    pub(super) fn parse(query: &str) -> Result<Self, ExecError> {
        let (mut task, mut stdin) = (None, false);
        for (name, value) in pairs(query)? {
            match name.as_str() {
                "task" => once(&mut task, &name, &value, task_of(&value)?)?,
                "stdin" => stdin = flag(&name, &value)?,
                _ => return Err(invalid("parameter", &name, "there are task and stdin")),
            }
        }
        let task = task.ok_or_else(|| invalid("task", "", "write task=FRAMEWORK/TASK"))?;
        Ok(Self { task, stdin })
    }
}

fn pairs(query: &str) -> Result<Vec<(String, String)>, ExecError> {
    let remedy = "write NAME=VALUE&…, percent-encoded";
    let uri: Result<Uri, _> = format!("/?{query}").parse();
    let uri = uri.map_err(|_| invalid("query", query, remedy))?;
    let pairs = Query::try_from_uri(&uri).map_err(|_| invalid("query", query, remedy))?;
    Ok(pairs.0)
}

fn once<T>(slot: &mut Option<T>, name: &str, value: &str, given: T) -> Result<(), ExecError> {
    match slot.replace(given) {
        None => Ok(()),
        Some(_) => Err(invalid(name, value, "it was given already: leave one out")),
    }
}

/// Returns the task of this name, as `framework-1/web`.
pub(crate) fn task_named(name: &str) -> Option<TaskKey> {
    let (framework, task) = name.split_once('/')?;
    crate::core::task_key(framework, task)
}

/// Parses a task in the format of paths in the files API.
fn task_of(value: &str) -> Result<TaskKey, ExecError> {
    let key = task_named(value);
    key.ok_or_else(|| invalid("task", value, "write FRAMEWORK/TASK, as framework-1/web"))
}

fn flag(name: &str, value: &str) -> Result<bool, ExecError> {
    match value {
        "true" => Ok(true),
        "false" => Ok(false),
        _ => Err(invalid(name, value, "write true or false")),
    }
}

fn cells(name: &str, value: &str) -> Result<u16, ExecError> {
    let number = value.parse();
    number.map_err(|_| invalid(name, value, "write a number from 0 to 65535"))
}

fn variable(value: &str) -> Result<(String, String), ExecError> {
    let parts = value.split_once('=').filter(|(name, _)| !name.is_empty());
    let (name, value) = parts.ok_or_else(|| invalid("env", value, "write NAME=VALUE"))?;
    Ok((name.to_owned(), value.to_owned()))
}

/// Returns the task that a query of exec or attach names, for a fuzz target.
#[cfg(feature = "fuzzing")]
pub(crate) fn requested_task(is_exec: bool, query: &str) -> Option<TaskKey> {
    match is_exec {
        true => ExecOptions::parse(query).map(|options| options.task).ok(),
        false => AttachOptions::parse(query).map(|options| options.task).ok(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exec_queries_are_parsed_completely() {
        let query = "task=framework-7/web&argument=sh&argument=-c&argument=echo+%22%24A%22%3B%20ls&tty=true&rows=50\
                     &columns=120&user=daemon%3Aadm&env=A=1%3D2&env=B=&workdir=%2Fusr";
        let asked = ExecOptions::parse(query).unwrap();
        assert_eq!(asked.task.to_string(), "framework-7/web");
        assert_eq!(asked.program, "sh");
        let line = "echo \"$A\"; ls";
        let arguments = ["sh", "-c", line].map(str::to_owned).to_vec();
        let mut expected = ExecRequest::new(ExecAction::Command(Program::Arguments(arguments)));
        expected.environment = vec![("A".into(), "1=2".into()), ("B".into(), String::new())];
        expected.user_name = Some("daemon:adm".into());
        expected.directory = Some("/usr".into());
        expected.terminal = Some(WindowSize {
            rows: 50,
            columns: 120,
        });
        assert_eq!(asked.request, expected);
    }

    #[test]
    fn attach_queries_name_the_task_and_stdin() {
        let asked = AttachOptions::parse("task=framework-7/web&stdin=true").unwrap();
        assert_eq!(
            (asked.task.to_string().as_str(), asked.stdin),
            ("framework-7/web", true)
        );
        assert!(!AttachOptions::parse("task=framework-7/web").unwrap().stdin);
        for query in [
            "",
            "stdin=true",
            "task=web",
            "task=framework-7/web&tty=true",
        ] {
            AttachOptions::parse(query).unwrap_err();
        }
    }

    #[test]
    fn omitted_exec_options_default_to_the_task() {
        let asked = ExecOptions::parse("task=framework-7/web&argument=true").unwrap();
        let arguments = vec!["true".to_owned()];
        let expected = ExecRequest::new(ExecAction::Command(Program::Arguments(arguments)));
        assert_eq!(asked.request, expected);
        let asked = ExecOptions::parse("task=framework-7/web&argument=true&tty=true").unwrap();
        assert_eq!(asked.request.terminal, Some(DEFAULT_SIZE));
    }

    #[test]
    fn invalid_fields_are_rejected_with_value_and_remedy() {
        let good = "task=framework-7/web&argument=true";
        for (query, field, remedy) in [
            ("argument=true", "task", "FRAMEWORK/TASK"),
            ("task=web&argument=true", "\"web\"", "FRAMEWORK/TASK"),
            (
                "task=web/web&argument=true",
                "\"web/web\"",
                "framework-1/web",
            ),
            ("task=framework-7/web", "argument", "names a program"),
            (
                "task=framework-7/web&argument=",
                "argument",
                "names a program",
            ),
            (&format!("{good}&task=framework-7/db"), "task", "already"),
            (&format!("{good}&tty=yes"), "\"yes\"", "true or false"),
            (&format!("{good}&rows=3"), "rows", "tty=true"),
            (&format!("{good}&tty=true&rows=70000"), "\"70000\"", "65535"),
            (&format!("{good}&env=A"), "env \"A\"", "NAME=VALUE"),
            (&format!("{good}&env=%3DA"), "env \"=A\"", "NAME=VALUE"),
            (&format!("{good}&user="), "user", "leave it out"),
            (
                &format!("{good}&privileged=true"),
                "\"privileged\"",
                "workdir",
            ),
        ] {
            let refused = ExecOptions::parse(query).unwrap_err().to_string();
            assert!(refused.contains(field), "{query}: {refused}");
            assert!(refused.contains(remedy), "{query}: {refused}");
        }
    }
}
