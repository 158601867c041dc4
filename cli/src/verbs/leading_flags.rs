//! Flags of most commands, which may also precede the command: `argosy --masters 10.0.0.1 ps`.

use std::ffi::OsString;

use clap::Command;

/// The flags, each with a value.
const LEADING: [&str; 5] = ["--masters", "--context", "--timeout", "--output", "-o"];
/// A flag of the whole program, with a value.
const GLOBAL: &str = "--color";

/// Returns the arguments with such flags behind the command.
pub(super) fn moved(command: &Command, args: Vec<OsString>) -> Vec<OsString> {
    let mut rest = args.into_iter();
    let mut first: Vec<OsString> = rest.by_ref().take(1).collect();
    let mut flags = Vec::new();
    let mut verb = None;
    while let Some(word) = rest.next() {
        let text = word.to_string_lossy().into_owned();
        let of = |flag: &&&str| text == **flag || text.starts_with(&format!("{flag}="));
        let is_short = text.starts_with("-o") && !text.starts_with("--");
        let (list, name) = if let Some(name) = LEADING.iter().find(of) {
            (&mut flags, *name)
        } else if is_short {
            (&mut flags, "-o")
        } else if of(&&GLOBAL) {
            (&mut first, GLOBAL)
        } else {
            verb = Some(word);
            break;
        };
        list.push(word);
        if text == name {
            list.extend(rest.next());
        }
    }
    let is_flag = |word: &OsString| word.to_string_lossy().starts_with('-');
    let verb = match verb {
        Some(verb) if !is_flag(&verb) => verb,
        // Without a command, nothing is moved: the error names what was written.
        other => {
            first.extend(flags);
            first.extend(other);
            first.extend(rest);
            return first;
        }
    };
    let found = command.find_subcommand(&verb);
    first.push(verb);
    let mut rest = rest.peekable();
    let is_inner =
        |word: &OsString| found.is_some_and(|found| found.find_subcommand(word).is_some());
    first.extend(rest.next_if(is_inner));
    first.extend(flags);
    first.extend(rest);
    first
}

#[cfg(test)]
mod tests {
    use super::*;

    fn moved_line(line: &str) -> String {
        let args = line.split(' ').map(OsString::from).collect();
        let moved = moved(&super::super::command(), args);
        let words: Vec<_> = moved.iter().map(|word| word.to_string_lossy()).collect();
        words.join(" ")
    }

    #[test]
    fn flags_before_a_command_are_read_as_its_own() {
        let table = [
            ("argosy --masters a ps --all", "argosy ps --masters a --all"),
            (
                "argosy -o json --timeout=3s task list",
                "argosy task list -o json --timeout=3s",
            ),
            (
                "argosy -ojson --color never ps",
                "argosy --color never ps -ojson",
            ),
            ("argosy --masters a task", "argosy task --masters a"),
            ("argosy --context=a ps", "argosy ps --context=a"),
            (
                "argosy run --masters a -- ps",
                "argosy run --masters a -- ps",
            ),
            ("argosy --version", "argosy --version"),
            ("argosy --masters a --help", "argosy --masters a --help"),
            ("argosy --masters", "argosy --masters"),
            ("argosy", "argosy"),
        ];
        for (line, expected) in table {
            assert_eq!(moved_line(line), expected);
        }
    }
}
