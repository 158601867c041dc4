//! The former names of environment variables, which are read for one more release. The former names
//! of flags and values are hidden aliases at their definitions.

use std::ffi::{OsStr, OsString};

use clap::{Arg, ArgMatches, Command};

/// Former names of variables, and their present names.
pub(crate) const VARIABLES: [(&str, &str); 5] = [
    (
        "ARGOSY_MASTER_FRAMEWORK_GRACE",
        "ARGOSY_MASTER_FRAMEWORK_DISCONNECT_TIMEOUT",
    ),
    ("ARGOSY_AGENT_SECRET_FOLDER", "ARGOSY_AGENT_SECRET_DIR"),
    ("ARGOSY_AGENT_IMAGE_FOLDERS", "ARGOSY_AGENT_IMAGE_DIRS"),
    ("ARGOSY_AGENT_CNI_CONFIG", "ARGOSY_AGENT_CNI_CONFIG_DIR"),
    (
        "ARGOSY_AGENT_NETWORK_OPEN",
        "ARGOSY_AGENT_NETWORK_INTER_CONTAINER",
    ),
];

/// Returns the former name of a variable.
pub(crate) fn former(name: impl AsRef<OsStr>) -> Option<&'static str> {
    let mut all = VARIABLES.iter();
    let found = all.find(|(_, present)| name.as_ref() == *present);
    found.map(|(former, _)| *former)
}

/// Gives each flag the value of its variable's former name, for the case that neither the flag nor
/// the present name is set. `variable` reads the environment.
pub(crate) fn read(command: Command, variable: &dyn Fn(&str) -> Option<OsString>) -> Command {
    let with_former = |flag: Arg| {
        let Some(value) = flag.get_env().and_then(former).and_then(variable) else {
            return flag;
        };
        // The text lives as long as the definition of the command line: until the process ends.
        let value: &'static OsStr = Box::leak(value.into_boxed_os_str());
        let shows_default = flag.get_action().takes_values();
        flag.default_value(value).hide_default_value(shows_default)
    };
    command
        .mut_args(with_former)
        .mut_subcommands(|inner| read(inner, variable))
}

/// Returns an error message if both names of a variable of the selected command are set.
pub(crate) fn conflict(
    command: &Command,
    matches: &ArgMatches,
    variable: &dyn Fn(&str) -> Option<OsString>,
) -> Option<String> {
    if let Some((name, inner)) = matches.subcommand() {
        return conflict(command.find_subcommand(name)?, inner, variable);
    }
    let mut flags = command.get_arguments().filter_map(Arg::get_env);
    flags.find_map(|present| {
        let former = former(present)?;
        let present = present.to_str()?;
        variable(former)
            .and(variable(present))
            .map(|_| format!("{present} and its former name {former} are both set: unset {former}"))
    })
}
