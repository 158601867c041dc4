//! The flag `--isolation`, and the refusal of a mode that was removed.

use std::ffi::OsStr;

use clap::ValueEnum;
use clap::builder::{EnumValueParser, PossibleValue, StringValueParser, TypedValueParser};

/// Isolation modes of tasks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum IsolationName {
    /// The default profile: separate users, read-only programs of the host, few system calls.
    /// Requires root.
    Full,
    /// Namespaces inside a user namespace.
    UserNamespaces,
    /// Plain processes, without isolation.
    Processes,
}

/// The mode of earlier releases in which tasks were users of the host.
const REMOVED_ISOLATION: &str = "namespaces";

/// Parses an isolation mode. The one that was removed is refused with a remedy.
#[derive(Debug, Clone)]
pub(super) struct IsolationParser;

impl TypedValueParser for IsolationParser {
    type Value = IsolationName;

    fn parse_ref(
        &self,
        command: &clap::Command,
        argument: Option<&clap::Arg>,
        value: &OsStr,
    ) -> Result<IsolationName, clap::Error> {
        let is_present = |text: String| match text.as_str() {
            REMOVED_ISOLATION => Err(
                "this mode was removed; use full, with --host-path for directories of the host and \
                 --allow-host-network for its network, or less isolation: user-namespaces or processes",
            ),
            _ => Ok(()),
        };
        let present = StringValueParser::new().try_map(is_present);
        present.parse_ref(command, argument, value)?;
        EnumValueParser::new().parse_ref(command, argument, value)
    }

    fn possible_values(&self) -> Option<Box<dyn Iterator<Item = PossibleValue> + '_>> {
        let names = IsolationName::value_variants().iter();
        Some(Box::new(names.filter_map(ValueEnum::to_possible_value)))
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Debug, Parser)]
    struct Arguments {
        #[arg(long, value_parser = IsolationParser)]
        isolation: IsolationName,
    }

    #[test]
    fn the_removed_isolation_mode_is_refused_with_the_present_ones() {
        let parse = |mode: &str| Arguments::try_parse_from(["argosy", "--isolation", mode]);
        for mode in IsolationName::value_variants() {
            let name = mode.to_possible_value().unwrap();
            assert_eq!(parse(name.get_name()).unwrap().isolation, *mode);
        }
        let removed = parse("namespaces").unwrap_err().to_string();
        for part in [
            "was removed",
            "full",
            "user-namespaces",
            "processes",
            "--host-path",
        ] {
            assert!(removed.contains(part), "{removed}");
        }
        let unknown = parse("vm").unwrap_err().to_string();
        assert!(
            unknown.contains("possible values: full, user-namespaces, processes"),
            "{unknown}"
        );
    }
}
