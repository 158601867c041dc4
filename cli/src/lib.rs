//! The executable `argosy`: wiring, `dev`, operator commands, output.
//!
//! It contains no rule of the cluster. Reading order: `verbs` (the command line), this file,
//! `exit`; `transport`, `contexts`; the services `master` (with `issuing`) and `agent`; `dev`;
//! `run`; `objects` and `commands` with `operator`, `watching`; `top`; `completion`; `ca`;
//! `output`.

mod adoption;
mod agent;
mod args;
mod ca;
mod commands;
mod completion;
mod containers;
mod contexts;
mod dev;
mod doctor;
mod exit;
mod files;
#[cfg(feature = "fuzzing")]
#[doc(hidden)]
pub mod fuzzing;
mod health;
mod issuing;
mod launcher;
mod learner;
mod listen;
mod logging;
mod lookup;
mod manual;
mod master;
mod metrics;
mod names;
mod objects;
mod operator;
mod output;
mod parsers;
mod pid_file;
mod preparation;
mod probe;
mod random;
mod reasons;
mod recover;
mod rejoin;
mod run;
mod service_manager;
mod shutdown;
mod snapshot_file;
mod top;
mod transport;
mod verbs;
mod version;
mod watching;

use std::process::ExitCode;

use argosy_proto::trace::{self, TraceContext};
use nix::sys::resource::{Resource, getrlimit, setrlimit};

use exit::{Failure, VerbResult};
use objects::{AgentCommand, MasterCommand, ObjectCommand, calls, in_a_task};
use verbs::{DebugCommand, Verb};

/// Runs the whole program: reads the command line, executes it, returns the exit code.
pub fn main() -> ExitCode {
    #[cfg(feature = "testing")]
    if let Err(failure) = plant() {
        output::failure(&failure, false);
        return ExitCode::from(failure.code as u8);
    }
    // First, because an agent's helpers must begin as processes without threads.
    let first = std::env::args_os().nth(1).unwrap_or_default();
    if first == launcher::VERB {
        return helper_exit_code(argosy_isolation::launcher::run_from_fd());
    }
    if first == launcher::CONTENT_VERB {
        return helper_exit_code(argosy_agent::serve_content(transport::cluster_tls));
    }
    if completion::answer() {
        return ExitCode::SUCCESS;
    }
    let arguments = verbs::read();
    output::choose(arguments.color);
    let as_json = prints_json(&arguments.verb);
    begin_trace(&arguments.verb);
    match run_verb(&arguments.verb) {
        Ok(code) => ExitCode::from(code),
        Err(failure) => {
            output::failure(&failure, as_json);
            ExitCode::from(failure.code as u8)
        }
    }
}

/// Enables the planted bugs that the environment names.
#[cfg(feature = "testing")]
fn plant() -> Result<(), Failure> {
    use argosy_state::bugs;
    let names = std::env::var(bugs::VARIABLE).unwrap_or_default();
    bugs::plant_named(&names)
        .map_err(|error| Failure::usage(format!("{}: {error}", bugs::VARIABLE)))
}

/// Converts the result of an agent's helper process to an exit code.
fn helper_exit_code<E: std::error::Error + Send + Sync + 'static>(
    ended: Result<(), E>,
) -> ExitCode {
    match ended {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            output::failure(&Failure::of(&error), false);
            ExitCode::FAILURE
        }
    }
}

/// Gives all requests of a command one id, which its failure names. Services have no id: they serve
/// many requests.
fn begin_trace(verb: &Verb) {
    let is_service = match verb {
        Verb::Master(command) => matches!(**command, MasterCommand::Start(_)),
        Verb::Agent(command) => matches!(**command, AgentCommand::Start(_)),
        Verb::Dev(_) | Verb::Launcher | Verb::Content => true,
        _ => false,
    };
    // Without random numbers, masters give each request an id.
    if !is_service
        && let (Ok(high), Ok(low), Ok(parent)) =
            (random::number(), random::number(), random::number())
    {
        trace::begin_process(TraceContext::new([high, low, parent]));
    }
}

fn run_verb(verb: &Verb) -> VerbResult {
    match verb {
        Verb::Master(command) => command.run(),
        Verb::Agent(command) => command.run(),
        Verb::Task(command) => command.run(),
        Verb::Group(command) => command.run(),
        Verb::Framework(command) => command.run(),
        Verb::Offer(command) => command.run(),
        Verb::Weight(command) => command.run(),
        Verb::Secret(command) => command.run(),
        Verb::Snapshot(command) => command.run(),
        Verb::Ca(command) => command.run(),
        Verb::Audit(command) => command.run(),
        Verb::Acl(command) => command.run(),
        Verb::Token(command) => command.run(),
        Verb::Limit(command) => command.run(),
        Verb::Context(command) => command.run(),
        Verb::Dev(arguments) => calls(dev::run(arguments)),
        Verb::Run(arguments) => in_a_task(run::run(arguments)),
        Verb::Ps(arguments) => calls(objects::ps(arguments)),
        Verb::Top(arguments) => top::run(arguments),
        Verb::Logs(arguments) => calls(commands::logs::show(arguments)),
        Verb::Cp(arguments) => in_a_task(commands::cp::run(arguments)),
        Verb::Exec(arguments) => in_a_task(commands::exec::run(arguments)),
        Verb::Attach(arguments) => in_a_task(commands::attach::run(arguments)),
        Verb::Update(arguments) => calls(commands::update::run(arguments)),
        Verb::Events(arguments) => calls(commands::events::show(arguments)),
        Verb::Wait(arguments) => calls(commands::wait::run(arguments)),
        Verb::Status(arguments) => calls(commands::status::show(arguments)),
        Verb::Explain(arguments) => calls(commands::explain::show(arguments)),
        Verb::Doctor(arguments) => doctor::run(arguments),
        Verb::Debug(DebugCommand::Bundle(arguments)) => calls(commands::bundle::collect(arguments)),
        Verb::Version(arguments) => version::show(arguments),
        Verb::Completions(arguments) => completion::script(arguments.shell),
        Verb::Man(arguments) => manual::write(arguments),
        Verb::Launcher | Verb::Content => {
            Err(Failure::usage("only an agent starts its helper processes"))
        }
    }
}

/// Returns whether errors are printed as JSON.
fn prints_json(verb: &Verb) -> bool {
    let show = match verb {
        Verb::Master(command) => command.output(),
        Verb::Agent(command) => command.output(),
        Verb::Task(command) => command.output(),
        Verb::Group(command) => command.output(),
        Verb::Framework(command) => command.output(),
        Verb::Offer(command) => command.output(),
        Verb::Weight(command) => command.output(),
        Verb::Secret(command) => command.output(),
        Verb::Snapshot(command) => command.output(),
        Verb::Ca(command) => command.output(),
        Verb::Audit(command) => command.output(),
        Verb::Acl(command) => command.output(),
        Verb::Token(command) => command.output(),
        Verb::Limit(command) => command.output(),
        Verb::Context(command) => command.output(),
        Verb::Dev(arguments) => Some(arguments.show),
        Verb::Ps(arguments) => Some(arguments.show),
        Verb::Events(arguments) => Some(arguments.show),
        Verb::Status(arguments) => Some(arguments.show),
        Verb::Explain(arguments) => Some(arguments.show),
        Verb::Doctor(arguments) => Some(arguments.show),
        Verb::Run(_)
        | Verb::Top(_)
        | Verb::Logs(_)
        | Verb::Cp(_)
        | Verb::Exec(_)
        | Verb::Attach(_)
        | Verb::Update(_)
        | Verb::Wait(_)
        | Verb::Debug(_)
        | Verb::Version(_)
        | Verb::Completions(_)
        | Verb::Man(_)
        | Verb::Launcher
        | Verb::Content => None,
    };
    show.is_some_and(|show| show.output.is_json())
}

/// Raises the limit of open files to the system's maximum: services hold a connection or file for
/// many objects.
pub(crate) fn raise_file_limit() {
    if let Ok((soft, hard)) = getrlimit(Resource::RLIMIT_NOFILE)
        && soft < hard
        && let Err(errno) = setrlimit(Resource::RLIMIT_NOFILE, hard, hard)
    {
        tracing::warn!(soft, hard, %errno, "cannot raise the limit of open files");
    }
}
