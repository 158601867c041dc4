//! Tests of the command line: two examples per command, units, and suggestions for near misses.

use clap::Parser;
use expect_test::expect_file;

use super::*;

fn every_command(command: &clap::Command, path: &str, visit: &mut dyn FnMut(&str, &clap::Command)) {
    let path = format!("{path} {}", command.get_name()).trim().to_owned();
    visit(&path, command);
    for inner in command.get_subcommands() {
        every_command(inner, &path, visit);
    }
}

#[test]
fn every_command_shows_two_examples_that_parse() {
    every_command(&command(), "", &mut |path, command| {
        let help = command
            .get_after_help()
            .map(ToString::to_string)
            .unwrap_or_default();
        let examples: Vec<_> = help
            .lines()
            .filter(|line| line.starts_with("  argosy "))
            .collect();
        assert_eq!(examples.len(), 2, "{path} has {} examples", examples.len());
        for example in examples {
            // Two blanks begin a remark, `>` begins a redirection.
            let words = example.trim().split("  ").next().unwrap_or_default();
            let words = words.split(" > ").next().unwrap_or_default();
            let fingerprint = format!("sha256:{}", "0".repeat(64));
            let words = words.replace("sha256:HEX", &fingerprint);
            let parsed = Arguments::try_parse_from(shell_words(&words));
            assert!(parsed.is_ok(), "{path}: {example}: {}", parsed.unwrap_err());
        }
    });
}

/// Splits a line at blanks outside single quotes, which is enough for the examples of the help.
fn shell_words(line: &str) -> Vec<String> {
    let (mut words, mut word, mut quoted) = (Vec::new(), String::new(), false);
    for letter in line.chars() {
        match letter {
            '\'' => quoted = !quoted,
            ' ' if !quoted => words.push(std::mem::take(&mut word)),
            _ => word.push(letter),
        }
    }
    words.push(word);
    words
}

#[test]
fn the_argument_definitions_are_valid() {
    command().debug_assert();
}

#[test]
fn help_texts_match_the_golden_files() {
    let mut text = String::new();
    every_command(&command(), "", &mut |path, found| {
        let help = found.clone().term_width(100).render_help();
        text.push_str(&format!("===== {path}\n{help}\n"));
    });
    expect_file!["../../tests/help.txt"].assert_eq(&text);
}

#[test]
fn every_list_names_its_columns_in_its_help() {
    let mut lists = 0;
    every_command(&command(), "", &mut |path, found| {
        let mut flags = found.get_arguments();
        let Some(columns) = flags.find(|flag| flag.get_id() == "columns") else {
            return;
        };
        lists += 1;
        let help = columns.get_help().map(ToString::to_string);
        let help = help.unwrap_or_default();
        let words: Vec<_> = path.split(' ').skip(1).collect();
        let list = LISTS.iter().find(|(path, _)| *path == words);
        let (_, names) = list.unwrap_or_else(|| panic!("{path} is not among the lists"));
        for name in names() {
            assert!(help.contains(&name), "{path}: {name} is not in {help:?}");
        }
        assert_eq!(
            help.contains("label.NAME"),
            path.ends_with("ps") || path == "argosy task list"
        );
    });
    assert_eq!(lists, LISTS.len());
}

fn parse_error(args: &[&str]) -> clap::Error {
    let args = std::iter::once(&"argosy").chain(args);
    command()
        .try_get_matches_from(args)
        .expect_err("it should be refused")
}

fn is_switch_with_variable(argument: &clap::Arg) -> bool {
    argument.get_env().is_some() && !argument.get_action().takes_values()
}

/// Gives each flag without a value this text, as its variable would.
fn with_variables(command: clap::Command, text: &'static str) -> clap::Command {
    let command = command.mut_args(|argument| match is_switch_with_variable(&argument) {
        true => argument.default_value(text),
        false => argument,
    });
    command.mut_subcommands(|inner| with_variables(inner, text))
}

#[test]
fn variables_of_flags_without_a_value_have_the_usual_words() {
    let mut commands = Vec::new();
    every_command(&command(), "", &mut |path, found| {
        let ids = found
            .get_arguments()
            .filter(|one| is_switch_with_variable(one));
        let ids: Vec<_> = ids.map(|one| one.get_id().to_string()).collect();
        if !ids.is_empty() {
            commands.push((path.to_owned(), ids));
        }
    });
    let parsed = |path: &str, text| {
        let command = with_variables(command(), text);
        command.try_get_matches_from(path.split(' '))
    };
    let words = [("true", "false"), ("Yes", "No"), ("on", "OFF"), ("1", "0")];
    for (path, ids) in &commands {
        for (text, expected) in words
            .iter()
            .flat_map(|(yes, no)| [(*yes, true), (*no, false)])
        {
            let matches = parsed(path, text).unwrap();
            let mut matches = &matches;
            while let Some((_, inner)) = matches.subcommand() {
                matches = inner;
            }
            for id in ids {
                assert_eq!(matches.get_flag(id), expected, "{path}: {id} is {text}");
            }
        }
    }
    for text in ["maybe", "2", ""] {
        assert!(
            parsers::switch(text).unwrap_err().contains("yes, on or 1"),
            "{text}"
        );
    }
    let start = commands
        .iter()
        .find(|(path, _)| path == "argosy master start");
    assert!(start.is_some_and(|(_, ids)| ids.contains(&"insecure_plaintext".to_owned())));
}

#[test]
fn an_unknown_word_gets_a_suggestion() {
    let verb = parse_error(&["taks", "list"]).to_string();
    assert!(verb.contains("'task'"), "{verb}");
    let flag = parse_error(&["run", "--cpu", "1", "--", "true"]).to_string();
    assert!(flag.contains("'--cpus'"), "{flag}");
}

#[test]
fn usage_errors_name_field_value_and_remedy() {
    let table: [(&[&str], [&str; 3]); 10] = [
        (
            &["run", "--cpus", "-1", "--", "true"],
            ["--cpus", "-1", "0.5"],
        ),
        (
            &["run", "--mem", "-1", "--", "true"],
            ["--mem", "-1", "64M"],
        ),
        (
            &["run", "--mem", "64K", "--", "true"],
            ["--mem", "64K", "64M"],
        ),
        (&["ps", "--timeout", "0"], ["--timeout", "'0'", "10s"]),
        (
            &["explain", "web", "--wanted", "4"],
            ["--wanted", "'4'", "cpus:4"],
        ),
        (
            &["run", "--mem", "64X", "--", "true"],
            ["--mem", "64X", "64M"],
        ),
        (
            &["run", "--cpus", "NaN", "--", "true"],
            ["--cpus", "NaN", "0.5"],
        ),
        (&["dev", "--size", "2x2"], ["--size", "2x2", "3x3"]),
        (
            &["ps", "--masters", "a:b"],
            ["--masters", "a:b", "1 to 65535"],
        ),
        (&["ps", "--timeout", "soon"], ["--timeout", "soon", "10s"]),
    ];
    assert_each_rejected(&table);
}

#[test]
fn usage_errors_of_services_name_field_value_and_remedy() {
    let table: [(&[&str], [&str; 3]); 10] = [
        (
            &["agent", "start", "--resources", "cpus:-1"],
            ["--resources", "cpus:-1", "cpus:-1"],
        ),
        (
            &["agent", "start", "--log-file-size", "1K"],
            ["--log-file-size", "1K", "64KiB"],
        ),
        (
            &["agent", "start", "--fetch-cache", "2GB"],
            ["--fetch-cache", "2GB", "2GiB"],
        ),
        (
            &["agent", "start", "--fetch-cache-pin", "/srv/a"],
            ["--fetch-cache-pin", "/srv/a", "http://"],
        ),
        (
            &["agent", "start", "--fetch-allow", "localhost"],
            ["--fetch-allow", "localhost", "files.example:443"],
        ),
        (
            &["agent", "start", "--task-allow", "http"],
            ["--task-allow", "http", "65535, or metadata"],
        ),
        (
            &["dev", "--task-allow", "0"],
            ["--task-allow", "0", "65535, or metadata"],
        ),
        (
            &["dev", "--fetch-allow", "10.0.0.7/8"],
            ["--fetch-allow", "10.0.0.7/8", "write 10.0.0.0/8"],
        ),
        (
            &["master", "start", "--allow-host", "a.example:5050"],
            ["--allow-host", "a.example:5050", "without scheme and port"],
        ),
        (
            &["agent", "start", "--log-files", "0"],
            ["--log-files", "0", "1..=100"],
        ),
    ];
    assert_each_rejected(&table);
}

/// Asserts that each command line is rejected with an error that contains the given words.
fn assert_each_rejected(table: &[(&[&str], [&str; 3])]) {
    for (words, parts) in table {
        let error = parse_error(words);
        assert_eq!(error.exit_code(), 2, "{words:?}");
        let text = error.to_string();
        for part in parts {
            assert!(text.contains(part), "{words:?}: {part:?} is not in {text}");
        }
    }
}

#[test]
fn words_of_other_programs_get_the_command_that_does_the_same() {
    let table = [
        ("kill x", "argosy task kill"),
        ("nodes", "argosy agent list"),
        ("--masters a get pods", "argosy task list"),
        ("agent drain agent-1", "argosy agent deactivate"),
        ("task ls", "argosy task list"),
        ("framework describe", "argosy framework show"),
        ("taks", "'task'"),
    ];
    for (line, expected) in table {
        let args = format!("argosy {line}");
        let args: Vec<OsString> = args.split(' ').map(OsString::from).collect();
        let mut command = command();
        let args = leading_flags::moved(&command, args);
        let error = command.try_get_matches_from_mut(args.clone()).unwrap_err();
        let error = advised(&mut command, error, &args);
        assert_eq!(error.exit_code(), 2, "{line}");
        assert!(error.to_string().contains(expected), "{line}: {error}");
    }
}

#[test]
fn a_command_is_required_after_two_dashes() {
    let error = parse_error(&["run", "--cpus", "1"]);
    assert_eq!(error.kind(), ErrorKind::MissingRequiredArgument);
}

#[test]
fn a_bare_number_of_memory_is_mib() {
    let args = ["argosy", "run", "--mem", "64", "--", "true"];
    let Verb::Run(run) = Arguments::try_parse_from(args).unwrap().verb else {
        panic!("it is a run");
    };
    assert_eq!(run.mem.0, 64_000);
    assert_eq!(run.command, ["true"]);
}

fn parse(command: clap::Command, args: &[&str]) -> Arguments {
    let args = std::iter::once(&"argosy").chain(args);
    let matches = command.try_get_matches_from(args).unwrap();
    Arguments::from_arg_matches(&matches).unwrap()
}

/// Former flags and values of each command, and what replaced them.
const RENAMED: [(&[&str], &[&str]); 8] = [
    (
        &["master", "start", "--framework-grace", "3s"],
        &["master", "start", "--framework-disconnect-timeout", "3s"],
    ),
    (
        &["master", "start", "--timing", "shipped"],
        &["master", "start", "--timing", "default"],
    ),
    (
        &["dev", "--timing", "shipped"],
        &["dev", "--timing", "default"],
    ),
    (
        &["dev", "--secret-folder", "/srv/a"],
        &["dev", "--secret-dir", "/srv/a"],
    ),
    (
        &["agent", "start", "--secret-folder", "/srv/a"],
        &["agent", "start", "--secret-dir", "/srv/a"],
    ),
    (
        &[
            "agent",
            "start",
            "--image-folder",
            "/a",
            "--image-dir",
            "/b",
        ],
        &["agent", "start", "--image-dir", "/a", "--image-dir", "/b"],
    ),
    (
        &["agent", "start", "--cni-config", "/etc/cni/net.d"],
        &["agent", "start", "--cni-config-dir", "/etc/cni/net.d"],
    ),
    (
        &["agent", "start", "--network-open"],
        &["agent", "start", "--network-inter-container"],
    ),
];

/// Values of the former variables, and the flags that do the same.
const FORMER_VARIABLES: [(&str, &str, &[&str]); 5] = [
    (
        "ARGOSY_MASTER_FRAMEWORK_GRACE",
        "3s",
        &["master", "start", "--framework-disconnect-timeout", "3s"],
    ),
    (
        "ARGOSY_AGENT_SECRET_FOLDER",
        "/srv/a",
        &["agent", "start", "--secret-dir", "/srv/a"],
    ),
    (
        "ARGOSY_AGENT_IMAGE_FOLDERS",
        "/a,/b",
        &["agent", "start", "--image-dir", "/a", "--image-dir", "/b"],
    ),
    (
        "ARGOSY_AGENT_CNI_CONFIG",
        "/etc/cni/net.d",
        &["agent", "start", "--cni-config-dir", "/etc/cni/net.d"],
    ),
    (
        "ARGOSY_AGENT_NETWORK_OPEN",
        "true",
        &["agent", "start", "--network-inter-container"],
    ),
];

#[test]
fn former_flags_and_values_are_aliases() {
    for (former, present) in RENAMED {
        let [former, present] = [former, present].map(|words| parse(command(), words));
        assert_eq!(format!("{former:?}"), format!("{present:?}"));
    }
}

#[test]
fn a_variable_with_a_former_name_is_used_unless_the_flag_is_given() {
    assert_eq!(FORMER_VARIABLES.len(), former_names::VARIABLES.len());
    for (former, value, flags) in FORMER_VARIABLES {
        let variable = |name: &str| (name == former).then(|| value.into());
        let from_variable = parse(former_names::read(command(), &variable), &flags[..2]);
        let from_flags = parse(command(), flags);
        assert_eq!(format!("{from_variable:?}"), format!("{from_flags:?}"));
        let neither = parse(command(), &flags[..2]);
        assert_ne!(format!("{from_flags:?}"), format!("{neither:?}"));
        if let [.., flag, _] = flags
            && flag.starts_with("--secret")
        {
            let other = [&flags[..2], &[*flag, "/other"]].concat();
            let both = parse(former_names::read(command(), &variable), &other);
            let flag_only = parse(command(), &other);
            assert_eq!(format!("{both:?}"), format!("{flag_only:?}"));
        }
    }
}

#[test]
fn setting_both_names_of_a_variable_is_rejected_by_commands_that_use_it() {
    for (former, present) in former_names::VARIABLES {
        let variable = |name: &str| (name == former || name == present).then(|| "/srv/a".into());
        let service = if former.starts_with("ARGOSY_MASTER") {
            "master"
        } else {
            "agent"
        };
        let mut refusals = Vec::new();
        for words in [
            &["argosy", service, "start"][..],
            &["argosy", service, "list"],
        ] {
            let mut command = command();
            let matches = command.try_get_matches_from_mut(words).unwrap();
            refusals.push(former_names::conflict(&command, &matches, &variable));
        }
        let expected =
            format!("{present} and its former name {former} are both set: unset {former}");
        assert_eq!(refusals, [Some(expected), None]);
    }
}

#[test]
fn help_and_completions_omit_former_names() {
    let set = |name: &str| {
        let mut all = FORMER_VARIABLES.iter();
        let found = all.find(|(former, ..)| *former == name);
        found.map(|(_, value, _)| (*value).into())
    };
    let mut text = Vec::new();
    every_command(&command(), "", &mut |_, found| {
        let found = former_names::read(found.clone(), &set);
        text.extend(found.clone().render_long_help().to_string().bytes());
        text.extend(found.clone().render_help().to_string().bytes());
    });
    every_command(&command(), "", &mut |path, _| {
        let mut words: Vec<OsString> = path.split(' ').map(OsString::from).collect();
        words.push("--".into());
        let last = words.len() - 1;
        let found = clap_complete::engine::complete(&mut command(), words, last, None);
        for candidate in found.unwrap() {
            text.extend(candidate.get_value().as_encoded_bytes());
        }
    });
    let text = String::from_utf8(text).unwrap();
    let flags = [
        "--secret-folder",
        "--image-folder",
        "--framework-grace",
        "--network-open",
    ];
    let variables = former_names::VARIABLES.map(|(former, _)| former);
    for former in flags
        .iter()
        .chain(&variables)
        .chain(&["--cni-config", "shipped"])
    {
        // A present name may begin with the former one.
        let longer = ["-dir", "_DIR"].map(|end| format!("{former}{end}"));
        let rest = text.replace(&longer[0], "").replace(&longer[1], "");
        assert!(!rest.contains(former), "{former}");
    }
}
