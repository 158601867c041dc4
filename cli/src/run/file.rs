//! The file of a group: tasks with fields that are named as the flags of `run`. Pure.
//!
//! Each task is converted to the equivalent command line. So a task of a group accepts what any
//! task accepts, with the same errors.

use clap::{Args as _, FromArgMatches as _};
use serde::Deserialize;
use serde_json::{Map, Value};

use crate::args::Run;
use crate::exit::Failure;

/// Flags of the group or its caller, which a task cannot have.
const GROUP_ONLY_FLAGS: [&str; 9] = [
    "role", "detach", "timeout", "quiet", "masters", "context", "tls-ca", "tls-cert", "tls-key",
];
/// The field of the command, which follows the flags.
const COMMAND: &str = "command";

/// A parsed file.
#[derive(Debug)]
pub(crate) struct GroupFile {
    pub(crate) group: String,
    pub(crate) tasks: Vec<Run>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawGroupFile {
    group: String,
    tasks: Vec<Map<String, Value>>,
}

impl GroupFile {
    /// Parses `text`, which was read from `path`.
    pub(crate) fn read(path: &str, text: &str) -> Result<Self, Failure> {
        let wrong = |what: &str| Failure::usage(format!("{path}: {what}"));
        let advice = "argosy group run --help shows a file";
        let written: RawGroupFile = serde_json::from_str(text)
            .map_err(|error| wrong(&format!("it is not a group: {error}")).advise(advice))?;
        if written.tasks.is_empty() {
            return Err(wrong("tasks: a group has at least one").advise(advice));
        }
        let tasks = written.tasks.iter().enumerate().map(|(at, task)| {
            let named = task.get("name").and_then(Value::as_str);
            let place = match named {
                Some(name) => format!("task {name:?}"),
                None => return Err(wrong(&format!("tasks[{at}]: it has no name; give it one"))),
            };
            parse(task).map_err(|why| wrong(&format!("{place}: {why}")))
        });
        Ok(Self {
            tasks: tasks.collect::<Result<_, _>>()?,
            group: written.group,
        })
    }
}

/// Parses a task as the arguments of `argosy run`.
fn parse(task: &Map<String, Value>) -> Result<Run, String> {
    let grammar = Run::augment_args(clap::Command::new("run").no_binary_name(true));
    let mut words = Vec::new();
    for (name, value) in task.iter().filter(|(name, _)| *name != COMMAND) {
        let mut all = grammar.get_arguments();
        let flag = all.find(|argument| argument.get_long() == Some(name.as_str()));
        let Some(flag) = flag else {
            return Err(format!("argosy run has no flag --{name}"));
        };
        if GROUP_ONLY_FLAGS.contains(&name.as_str()) {
            return Err(format!(
                "{name} is not a field of a task: give --{name} to argosy group run"
            ));
        }
        words.extend(flags(name, value, flag.get_action().takes_values())?);
    }
    if let Some(command) = task.get(COMMAND) {
        let all = command.as_array().map(|all| all.iter().map(Value::as_str));
        let all = all.and_then(|all| all.collect::<Option<Vec<_>>>());
        let all = all.ok_or("command: write a list of words, as [\"sh\", \"-c\", \"date\"]")?;
        words.push("--".to_owned());
        words.extend(all.into_iter().map(str::to_owned));
    }
    let matches = grammar.try_get_matches_from(words);
    let run = matches.and_then(|matches| Run::from_arg_matches(&matches));
    run.map_err(|error| describe(&error))
}

/// Returns a flag with its value, or repeated with one value each.
fn flags(name: &str, value: &Value, takes_values: bool) -> Result<Vec<String>, String> {
    let one = |value: &Value| match value {
        Value::String(text) => Ok(format!("--{name}={text}")),
        Value::Number(number) => Ok(format!("--{name}={number}")),
        Value::Null | Value::Bool(_) | Value::Array(_) | Value::Object(_) => Err(format!(
            "{name}: write a text or a number, or a list of them"
        )),
    };
    match value {
        Value::Bool(true) if !takes_values => Ok(vec![format!("--{name}")]),
        Value::Bool(false) if !takes_values => Ok(Vec::new()),
        _ if !takes_values => Err(format!("{name}: write true or false")),
        Value::Array(all) => all.iter().map(one).collect(),
        _ => one(value).map(|word| vec![word]),
    }
}

/// Returns the message of an error without its advice for a command line.
fn describe(error: &clap::Error) -> String {
    let text = error.to_string();
    let mut lines = text.lines().map(str::trim);
    let first = lines.next().unwrap_or_default();
    let first = first.trim_start_matches("error: ");
    match first.ends_with(':') {
        // The subject is on a separate line.
        true => format!("{first} {}", lines.next().unwrap_or_default()),
        false => first.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<GroupFile, Failure> {
        GroupFile::read("site.json", text)
    }

    #[test]
    fn a_task_of_a_file_accepts_the_flags_of_run() {
        let text = r#"{"group": "site", "tasks": [
            {"name": "web", "cpus": 0.5, "mem": "64M", "env": ["A=1", "B=2"], "publish": ["8080:80"],
             "tty": true, "interactive": false, "health-cmd": "true", "command": ["serve", "--port", "80"]},
            {"name": "reader", "label": "a=b", "command": ["sh", "-c", "tail -F /group/log"]}
        ]}"#;
        let file = read(text).unwrap();
        assert_eq!((file.group.as_str(), file.tasks.len()), ("site", 2));
        let web = &file.tasks[0];
        assert_eq!(web.command, ["serve", "--port", "80"]);
        assert_eq!((web.cpus.0, web.mem.0), (500, 64_000));
        assert_eq!(web.environment.len(), 2);
        assert_eq!(web.published[0].container_port, 80);
        assert!(web.tty && !web.interactive);
        let label = ("a".to_owned(), "b".to_owned());
        assert_eq!(file.tasks[1].labels, [label]);
    }

    #[test]
    fn errors_name_file_task_and_field() {
        let task = |more: &str| format!(r#"{{"group": "g", "tasks": [{{"name": "web"{more}}}]}}"#);
        let table = [
            ("{".to_owned(), "site.json: it is not a group"),
            (r#"{"group": "g", "tasks": []}"#.to_owned(), "at least one"),
            (
                r#"{"group": "g", "tasks": [{}]}"#.to_owned(),
                "tasks[0]: it has no name",
            ),
            (
                r#"{"group": "g", "task": []}"#.to_owned(),
                "unknown field `task`",
            ),
            (
                task(r#", "memory": 5"#),
                "task \"web\": argosy run has no flag --memory",
            ),
            (
                task(r#", "detach": true"#),
                "detach is not a field of a task: give --detach to argosy group run",
            ),
            (
                task(r#", "cpus": true, "command": ["x"]"#),
                "cpus: write a text or a number",
            ),
            (
                task(r#", "tty": "yes", "command": ["x"]"#),
                "tty: write true or false",
            ),
            (
                task(r#", "command": "x""#),
                "command: write a list of words",
            ),
            (
                task(r#", "cpus": "many", "command": ["x"]"#),
                "invalid value 'many' for '--cpus <NUMBER>'",
            ),
        ];
        for (text, part) in table {
            let failure = read(&text).unwrap_err();
            assert_eq!(failure.code, crate::exit::FailureCode::Usage, "{text}");
            assert!(failure.message.contains(part), "{failure}");
        }
        let none = read(&task("")).unwrap_err();
        assert!(none.message.contains("required"), "{none}");
    }
}
