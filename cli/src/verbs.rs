//! The command line: objects with commands, a few short commands, and the help of each with two
//! examples.
//!
//! The behaviour of a command is in the module of its object (`objects`), or of its name
//! (`commands`); flags that several modules read are in `args`.

mod context_flag;
mod hints;
mod leading_flags;

use std::ffi::OsString;

use clap::builder::Styles;
use clap::builder::styling::{AnsiColor, Style};
use clap::error::{ContextKind, ContextValue, ErrorKind};
use clap::{ArgAction, CommandFactory, FromArgMatches, Parser, Subcommand};

use crate::args::{
    Attach, Bundle, Colour, Completions, Cp, Dev, Doctor, Events, Exec, Explain, Logs, Manual, Run,
    Status, Top, Update, Version, Wait, former_names,
};
use crate::ca::CaCommand;
use crate::objects::{
    AclCommand, AgentCommand, AuditCommand, ContextCommand, FrameworkCommand, GroupCommand, LISTS,
    LimitCommand, MasterCommand, ObjectCommand, OfferCommand, SecretCommand, SnapshotCommand,
    TaskCommand, TaskList, TokenCommand, WeightCommand,
};
use crate::parsers;

const STYLES: Styles = Styles::styled()
    .header(Style::new().bold())
    .usage(Style::new().bold())
    .literal(Style::new().bold())
    .error(AnsiColor::Red.on_default().bold())
    .valid(AnsiColor::Green.on_default())
    .invalid(AnsiColor::Yellow.on_default());

/// Cluster manager: masters hold the registry, agents run tasks, frameworks are offered resources.
#[derive(Debug, Parser)]
#[command(
    name = "argosy",
    version,
    styles = STYLES,
    max_term_width = 100,
    arg_required_else_help = true,
    disable_help_subcommand = true,
    after_help = "Examples:
  argosy dev                                 a cluster on this machine, until Ctrl-C
  argosy run --cpus 0.5 --mem 64M -- echo hello

The flags --masters, --context, --timeout and --output may also precede the command.

Exit codes: 0 done, 1 failed, 2 usage, 3 not found, 4 refused, 5 unavailable, 6 not placed in time.
An attached run exits with the code of the task, 125 if it never started, 128+n on signal n. So do
attach, and exec with the code of its command."
)]
pub(crate) struct Arguments {
    #[command(subcommand)]
    pub(crate) verb: Verb,
    /// Use of colour: auto, always or never; NO_COLOR is respected
    #[arg(long, global = true, value_enum, default_value_t = Colour::Auto, value_name = "WHEN", hide_possible_values = true)]
    pub(crate) color: Colour,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Verb {
    #[command(subcommand, about = MasterCommand::ABOUT, after_help = MasterCommand::EXAMPLES)]
    Master(Box<MasterCommand>),
    #[command(subcommand, about = AgentCommand::ABOUT, after_help = AgentCommand::EXAMPLES)]
    Agent(Box<AgentCommand>),
    #[command(subcommand, about = TaskCommand::ABOUT, after_help = TaskCommand::EXAMPLES)]
    Task(TaskCommand),
    #[command(subcommand, about = GroupCommand::ABOUT, after_help = GroupCommand::EXAMPLES)]
    Group(GroupCommand),
    #[command(subcommand, about = FrameworkCommand::ABOUT, after_help = FrameworkCommand::EXAMPLES)]
    Framework(FrameworkCommand),
    #[command(subcommand, about = OfferCommand::ABOUT, after_help = OfferCommand::EXAMPLES)]
    Offer(OfferCommand),
    #[command(subcommand, about = WeightCommand::ABOUT, after_help = WeightCommand::EXAMPLES)]
    Weight(WeightCommand),
    #[command(subcommand, about = SecretCommand::ABOUT, after_help = SecretCommand::EXAMPLES)]
    Secret(SecretCommand),
    #[command(subcommand, about = SnapshotCommand::ABOUT, after_help = SnapshotCommand::EXAMPLES)]
    Snapshot(Box<SnapshotCommand>),
    #[command(subcommand, about = CaCommand::ABOUT, after_help = CaCommand::EXAMPLES)]
    Ca(Box<CaCommand>),
    #[command(subcommand, about = AuditCommand::ABOUT, after_help = AuditCommand::EXAMPLES)]
    Audit(AuditCommand),
    #[command(subcommand, about = AclCommand::ABOUT, after_help = AclCommand::EXAMPLES)]
    Acl(AclCommand),
    #[command(subcommand, about = TokenCommand::ABOUT, after_help = TokenCommand::EXAMPLES)]
    Token(Box<TokenCommand>),
    #[command(subcommand, about = LimitCommand::ABOUT, after_help = LimitCommand::EXAMPLES)]
    Limit(LimitCommand),
    #[command(subcommand, about = ContextCommand::ABOUT, after_help = ContextCommand::EXAMPLES)]
    Context(ContextCommand),
    /// Run a whole cluster on this machine until Ctrl-C
    #[command(after_help = DEV)]
    Dev(Box<Dev>),
    /// Run a command on the cluster, show its output, and exit with its code
    #[command(after_help = RUN)]
    Run(Box<Run>),
    /// Show the live tasks
    #[command(after_help = PS)]
    Ps(Box<TaskList>),
    /// Watch the cluster, its agents, tasks, frameworks and roles on the whole terminal
    #[command(after_help = TOP)]
    Top(Top),
    /// Show the output of tasks
    #[command(after_help = LOGS)]
    Logs(Logs),
    /// Copy files from and to the sandbox of a task
    #[command(after_help = CP)]
    Cp(Cp),
    /// Run a command in a running task, and exit with its code
    #[command(after_help = EXEC)]
    Exec(Box<Exec>),
    /// Attach to the input and output of a running task
    #[command(after_help = ATTACH)]
    Attach(Attach),
    /// Change the limits of a running task
    #[command(after_help = UPDATE)]
    Update(Box<Update>),
    /// Show changes of tasks, agents, frameworks and roles
    #[command(after_help = EVENTS)]
    Events(Events),
    /// Wait until a task, an agent, a framework, a master or the cluster is in a state
    #[command(after_help = WAIT)]
    Wait(Wait),
    /// Show the state of the cluster
    #[command(after_help = STATUS)]
    Status(Status),
    /// Explain why a task or framework does not run
    #[command(after_help = EXPLAIN)]
    Explain(Explain),
    /// Check whether this host is suitable for masters and agents, or check a running cluster
    #[command(after_help = DOCTOR)]
    Doctor(Doctor),
    /// Collect what a report of a problem needs
    #[command(subcommand, after_help = DEBUG)]
    Debug(DebugCommand),
    /// Show the version
    #[command(after_help = VERSION)]
    Version(Version),
    /// Print completions for a shell
    #[command(after_help = COMPLETIONS)]
    Completions(Completions),
    /// Write the manual pages of all commands to a directory (for packages)
    #[command(hide = true, after_help = MAN)]
    Man(Manual),
    /// Run as the launcher of an agent (started by agents only)
    #[command(hide = true, after_help = LAUNCHER)]
    Launcher,
    /// Fetch from servers and registries for an agent (started by agents only)
    #[command(hide = true, after_help = CONTENT)]
    Content,
}

/// Commands for reports of problems.
#[derive(Debug, Subcommand)]
pub(crate) enum DebugCommand {
    /// Collect state, metrics, logs and flags in one archive, without known secrets
    #[command(after_help = BUNDLE)]
    Bundle(Bundle),
}

const DEV: &str = "Examples:
  argosy dev
  argosy dev --size 1x2 --keep /var/tmp/argosy";
const RUN: &str = "Examples:
  argosy run --cpus 0.5 --mem 64M -- sh -c 'echo tick; sleep 2; echo tock'
  argosy run --detach --name web --uri /srv/site.tar -- python3 -m http.server 31000

Ctrl-C before an agent is found cancels the run, and nothing is left behind. Ctrl-C while the task
runs sends its kill signal, and KILL after the grace period. A second Ctrl-C sends KILL
immediately.";
const PS: &str = "Examples:
  argosy ps
  argosy ps --all --limit 20 -o wide

The task that changed last comes first. CHANGED is the time since its newest update.";
const TOP: &str = "Examples:
  argosy top
  argosy top --page frameworks

Keys: 1 to 5 and Tab choose the page, < and > the column by which it is sorted, r reverses the
order, / filters by text, arrows, PgUp, PgDn, Home and End scroll, ? shows all keys, q leaves.";
const LOGS: &str = "Examples:
  argosy logs -f --tail 20 framework-7/web-3
  argosy logs --since 10m --timestamps --framework shop

What a task wrote to standard output and standard error goes to the same streams here. Without
--follow, standard output comes first, and one task comes after the other. With --timestamps, sort
restores the order. The lines of several tasks begin with their ids. A live task takes precedence
over a group of the same name. With --follow, at most 50 tasks are shown, and tasks that start later
are not. Times are by the clock of the task's host; - is a time that is not known.";
const CP: &str = "Examples:
  argosy cp web:result.csv .
  argosy cp ./site framework-7/web-3:public

PATH is relative to the sandbox. Directories are copied with their content, into the destination if
it exists; DIR/. is the content alone. Permissions are kept. Links, special files, and names with
control characters or without UTF-8 are not copied; the exit code is then 1. A file has its name
only when it is complete. A copy to a task needs a running task whose image has a shell.";
const EXEC: &str = "Examples:
  argosy exec -it brave-otter -- sh
  argosy exec framework-7/web-3 -- cat /proc/loadavg

Runs with the task's user, environment, limits and isolation. Its whole process tree is killed when
this client exits. Without --tty, Ctrl-C and TERM are forwarded to the command.";
const ATTACH: &str = "Examples:
  argosy attach -it brave-otter
  argosy attach --tail 10 framework-7/web-3

The task keeps running when this client exits. If the task ends first, the client exits with its
code. Ctrl-P Ctrl-Q detaches from a terminal. Without --tty, --interactive forwards Ctrl-C and TERM.";
const UPDATE: &str = "Examples:
  argosy update brave-otter --mem-limit 2G
  argosy update framework-7/web-3 --cpu-limit none --io-limit /dev/sda:wbps=10M

Limits that are not named do not change. Resources, which are reserved for the task, never change.
Memory in use is not reclaimed: the task then keeps its former limits, and the exit code is 4.";
const EVENTS: &str = "Examples:
  argosy events -f --kind task,agent
  argosy events --tail 20 --kind task

Without --follow, the changes are printed that a master still has, oldest first: the states of
tasks, and the newest change of each other record. A message names the revision up to which they are
lost. A former state of a task has its ids, state, source, reason, exit status and time only. With
--follow, several quick changes of a record may be one line.";
const WAIT: &str = "Examples:
  argosy wait task web --for running --timeout 1m
  argosy wait cluster --for healthy --timeout 2m

Exits with 0 when the condition holds, with 1 if it cannot hold any more or after --timeout,
and with 3 if there is no such object. For a master, it exits with 1 only if a quorum has named
another leader, and with 5 if the leader is unknown. An agent is idle if no task of it is live, and
connected if it is registered and has a connection to the leader, also while it is deactivated. The
cluster is healthy if all voting masters answer and follow one leader with a short lag and equal
registries, all of this for 5 seconds.";
const STATUS: &str = "Examples:
  argosy status
  argosy status -o json";
const EXPLAIN: &str = "Examples:
  argosy explain calm-heron
  argosy explain framework-7 --wanted 'cpus:4;mem:2048'

For a framework, each agent has the first reason that applies, such as too small (it never has
enough), busy (tasks use its resources), offered elsewhere (another framework holds them), filtered
(this framework declined it) or ready (it is offered in turn).";
const DOCTOR: &str = "Examples:
  argosy doctor --data-dir /var/lib/argosy/master
  argosy doctor --masters 10.0.0.1,10.0.0.2,10.0.0.3

With --cluster, the cluster is that of ARGOSY_MASTERS, else the one that other commands call.

The exit code is 1 if a check has failed; warnings do not change it.";
const DEBUG: &str = "Examples:
  argosy debug bundle
  argosy debug bundle --masters 10.0.0.1,10.0.0.2,10.0.0.3";
const BUNDLE: &str = "Examples:
  argosy debug bundle
  argosy debug bundle --file /tmp/report.tar.gz --log /var/log/argosy-agent.log

Left out: commands, files, volumes and images of tasks; values of environment variables, labels and
attributes; tokens of offers; messages of executors; values of flags that may be secret. In logs and
messages, passwords and parameters of URIs are hidden, and values whose names contain password,
secret, token or authorization. Other secrets are not recognized: read the archive before you
publish it. The logs of other hosts cannot be collected: run it on each host whose logs matter.
missing.txt in the archive names what else is missing.";
const VERSION: &str = "Examples:
  argosy version
  argosy version -v";
const COMPLETIONS: &str = "Examples:
  argosy completions bash > /usr/share/bash-completion/completions/argosy
  argosy completions fish > ~/.config/fish/completions/argosy.fish";
const MAN: &str = "Examples:
  argosy man /usr/share/man/man1
  argosy man ./man1                          man ./man1/argosy-run.1 shows a page";
const LAUNCHER: &str = "Examples:
  argosy launcher                            run by an agent, with its socket as standard input
  argosy agent start                         starts one";
const CONTENT: &str = "Examples:
  argosy content                             run by an agent, with its socket as standard input
  argosy agent start                         starts one when it is first needed";

/// Returns the definition of the whole command line. Help never shows the values of environment
/// variables, because they may be secret.
pub(crate) fn command() -> clap::Command {
    fn adapt(command: clap::Command) -> clap::Command {
        // A negative number is a wrong value, which the flag explains, and not an unknown flag.
        let argument = |argument: clap::Arg| {
            let takes_values = argument.get_action().takes_values();
            let is_switch = matches!(argument.get_action(), ArgAction::SetTrue);
            let argument = argument
                .hide_env_values(true)
                .allow_negative_numbers(takes_values);
            match is_switch && argument.get_env().is_some() {
                true => argument.value_parser(parsers::switch),
                false => argument,
            }
        };
        command.mut_args(argument).mut_subcommands(adapt)
    }
    let lists = LISTS.iter();
    lists.fold(adapt(Arguments::command()), |command, (path, columns)| {
        with_columns(command, path, &columns().join(", "))
    })
}

/// Adds the names of the columns to the help of a list.
fn with_columns(command: clap::Command, path: &[&str], columns: &str) -> clap::Command {
    match path {
        // Unlike `mut_arg`, this keeps the order of the flags.
        [] => command.mut_args(|argument| match argument.get_id() == "columns" {
            true => argument.help(format!(
                "Columns of the table, of {columns}; with + before the first, they are added to the default ones"
            )),
            false => argument,
        }),
        // Unlike `mut_subcommand`, this keeps the order of the commands.
        [first, rest @ ..] => command.mut_subcommands(|inner| match inner.get_name() == *first {
            true => with_columns(inner, rest, columns),
            false => inner,
        }),
    }
}

/// Reads the command line, or exits with help (code 0) or a usage error (code 2).
pub(crate) fn read() -> Arguments {
    let variable = |name: &str| std::env::var_os(name);
    let mut command = former_names::read(command(), &variable);
    let args = leading_flags::moved(&command, std::env::args_os().collect());
    let mut matches = match command.try_get_matches_from_mut(args.clone()) {
        Ok(matches) => matches,
        Err(error) => advised(&mut command, error, &args).exit(),
    };
    if context_flag::has_precedence(&matches) {
        command = context_flag::without_variables(command);
        let again = command.try_get_matches_from_mut(args);
        matches = again.unwrap_or_else(|error| error.exit());
    }
    if let Some(conflict) = former_names::conflict(&command, &matches, &variable) {
        command.error(ErrorKind::ArgumentConflict, conflict).exit();
    }
    Arguments::from_arg_matches(&matches).unwrap_or_else(|error| error.exit())
}

/// Adds the command that does what an unknown word means elsewhere.
fn advised(command: &mut clap::Command, error: clap::Error, args: &[OsString]) -> clap::Error {
    let unknown = match error.get(ContextKind::InvalidSubcommand) {
        Some(ContextValue::String(word)) => word.clone(),
        _ => return error,
    };
    let first = args.get(1).and_then(|word| word.to_str());
    let object =
        first.filter(|first| *first != unknown && command.find_subcommand(first).is_some());
    match hints::advice(object, &unknown) {
        Some(advice) => {
            let text = format!("there is no command {unknown:?} here\n\n  tip: {advice}");
            command.error(ErrorKind::InvalidSubcommand, text)
        }
        None => error,
    }
}

#[cfg(test)]
mod tests;
