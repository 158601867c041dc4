//! The precedence of `--context` over variables of the environment.
//!
//! Otherwise a command that names a context would call the masters of `ARGOSY_MASTERS`.

use clap::parser::ValueSource;
use clap::{ArgMatches, Command};

const CONTEXT: &str = "context";
/// The arguments whose variables name a cluster.
const CLUSTER: [&str; 5] = ["masters", "tls_ca", "tls_cert", "tls_key", "token_file"];

/// Returns whether the command line has a context, and variables have parts of a cluster.
pub(super) fn has_precedence(matches: &ArgMatches) -> bool {
    let mut inner = matches;
    while let Some((_, next)) = inner.subcommand() {
        inner = next;
    }
    let source = |name: &str| match inner.try_contains_id(name) {
        Ok(true) => inner.value_source(name),
        Ok(false) | Err(_) => None,
    };
    let is_variable = |name: &&str| source(name) == Some(ValueSource::EnvVariable);
    source(CONTEXT) == Some(ValueSource::CommandLine) && CLUSTER.iter().any(is_variable)
}

/// Returns the same definition, by which these variables are not read.
pub(super) fn without_variables(command: Command) -> Command {
    let reset = |argument: clap::Arg| match CLUSTER.contains(&argument.get_id().as_str()) {
        true => argument.env(clap::builder::Resettable::Reset),
        false => argument,
    };
    command.mut_args(reset).mut_subcommands(without_variables)
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use argosy_client::Masters;

    use super::*;

    /// A variable that each test has, and whose value is a host.
    const VARIABLE: &str = "CARGO_PKG_NAME";

    /// Returns the definition of the command line with this argument in the environment.
    fn command(id: &'static str) -> Command {
        let set = |argument: clap::Arg| match argument.get_id() == id {
            true => argument.env(VARIABLE),
            false => argument,
        };
        let ps = |command: Command| command.mut_args(set);
        super::super::command().mut_subcommand("ps", ps)
    }

    fn masters(matches: &ArgMatches) -> Option<String> {
        let (_, inner) = matches.subcommand()?;
        inner.get_one::<Masters>("masters").map(ToString::to_string)
    }

    #[test]
    fn a_context_on_the_command_line_replaces_masters_of_the_environment() {
        let parse = |command: Command, line: &str| {
            let words = line.split(' ');
            command.try_get_matches_from(words).unwrap()
        };
        let matches = parse(command("masters"), "argosy ps");
        assert_eq!(masters(&matches).as_deref(), Some("argosy-cli:5050"));
        assert!(!has_precedence(&matches));

        let line = "argosy ps --context prod";
        assert!(has_precedence(&parse(command("masters"), line)));
        assert_eq!(
            masters(&parse(without_variables(command("masters")), line)),
            None
        );

        let line = "argosy ps --context prod --masters 10.0.0.1";
        assert!(!has_precedence(&parse(command("masters"), line)));
    }

    #[test]
    fn a_token_of_the_environment_is_not_sent_to_the_cluster_of_a_named_context() {
        let token = |command: Command, line: &str| {
            let matches = command.try_get_matches_from(line.split(' ')).unwrap();
            let (_, ps) = matches.subcommand().unwrap();
            let file = ps.get_one::<PathBuf>("token_file").cloned();
            (has_precedence(&matches), file)
        };
        let of_variable = Some(PathBuf::from("argosy-cli"));
        assert_eq!(
            token(command("token_file"), "argosy ps"),
            (false, of_variable.clone())
        );
        let line = "argosy ps --context prod";
        assert_eq!(token(command("token_file"), line), (true, of_variable));
        let without = || without_variables(command("token_file"));
        assert_eq!(token(without(), line), (false, None));
        let line = "argosy ps --context prod --token-file mine";
        assert_eq!(token(without(), line), (false, Some("mine".into())));
    }
}
