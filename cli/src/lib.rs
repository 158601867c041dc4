//! The executable `argosy`: wiring, `dev`, operator commands, output.
//!
//! It contains no rule of the cluster. Reading order: `args` (the command line), this file, `exit`;
//! the services `master` and `agent`; `dev`; `run`; `objects` and `commands` with `operator`;
//! `output`.

mod agent;
mod args;
mod commands;
mod containers;
mod dev;
mod doctor;
mod exit;
mod files;
mod health;
mod launcher;
mod listen;
mod logging;
mod lookup;
mod master;
mod metrics;
mod names;
mod objects;
mod operator;
mod output;
mod parsers;
mod pid_file;
mod probe;
mod random;
mod reasons;
mod rejoin;
mod run;
mod shutdown;
mod version;

use std::process::ExitCode;

use anyhow::Context;
use clap::CommandFactory;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use tokio::runtime::{Builder, Runtime};

use args::{
    AgentCommand, Arguments, FrameworkCommand, GroupCommand, MasterCommand, OfferCommand,
    TaskCommand, Verb,
};
use exit::{DONE, Failure, VerbResult};

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
        return helper_exit_code(argosy_agent::serve_content());
    }
    let arguments = args::read();
    output::choose(arguments.color);
    let as_json = wants_json(&arguments.verb);
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

fn run_verb(verb: &Verb) -> VerbResult {
    match verb {
        Verb::Master(master) => masters(master),
        Verb::Agent(agent) => agents(agent),
        Verb::Task(task) => tasks(task),
        Verb::Group(group) => groups(group),
        Verb::Framework(framework) => frameworks(framework),
        Verb::Offer(OfferCommand::List(list)) => {
            client_runtime()?.block_on(objects::offers::list(list))
        }
        Verb::Dev(arguments) => client_runtime()?.block_on(dev::run(arguments)),
        Verb::Run(arguments) => two_threads()?.block_on(run::run(arguments)),
        Verb::Ps(arguments) => client_runtime()?.block_on(objects::tasks::ps(arguments)),
        Verb::Logs(arguments) => client_runtime()?.block_on(commands::logs::show(arguments)),
        Verb::Exec(arguments) => in_a_task(commands::exec::run(arguments)),
        Verb::Attach(arguments) => in_a_task(commands::attach::run(arguments)),
        Verb::Update(arguments) => client_runtime()?.block_on(commands::update::run(arguments)),
        Verb::Status(arguments) => client_runtime()?.block_on(commands::status::show(arguments)),
        Verb::Explain(arguments) => client_runtime()?.block_on(commands::explain::show(arguments)),
        Verb::Doctor(arguments) => doctor::run(arguments),
        Verb::Version(arguments) => version::show(arguments),
        Verb::Completions(arguments) => completions(arguments.shell),
        Verb::Launcher | Verb::Content => {
            Err(Failure::usage("only an agent starts its helper processes"))
        }
    }
}

fn in_a_task(verb: impl Future<Output = VerbResult>) -> VerbResult {
    let runtime = two_threads()?;
    let ended = runtime.block_on(verb);
    // A thread may block without end on a terminal that accepts no output.
    runtime.shutdown_background();
    ended
}

fn masters(master: &MasterCommand) -> VerbResult {
    match master {
        MasterCommand::Start(arguments) => master::start(arguments),
        MasterCommand::List(list) => client_runtime()?.block_on(objects::masters::list(list)),
        MasterCommand::Join(arguments) => {
            client_runtime()?.block_on(objects::masters::join(arguments))
        }
        MasterCommand::Remove(arguments) => {
            client_runtime()?.block_on(objects::masters::remove(arguments))
        }
        MasterCommand::Transfer(arguments) => {
            client_runtime()?.block_on(objects::masters::transfer(arguments))
        }
        MasterCommand::RaiseLevel(arguments) => {
            client_runtime()?.block_on(objects::masters::raise_level(arguments))
        }
        MasterCommand::Rejoin(arguments) => rejoin::rejoin(arguments),
    }
}

fn agents(agent: &AgentCommand) -> VerbResult {
    match agent {
        AgentCommand::Start(arguments) => agent::start(arguments),
        AgentCommand::Stop(arguments) => agent::stop(arguments),
        AgentCommand::List(list) => client_runtime()?.block_on(objects::agents::list(list)),
        AgentCommand::Show(named) => client_runtime()?.block_on(objects::agents::show(named)),
    }
}

fn tasks(task: &TaskCommand) -> VerbResult {
    match task {
        TaskCommand::List(list) => client_runtime()?.block_on(objects::tasks::list(list)),
        TaskCommand::Show(named) => client_runtime()?.block_on(objects::tasks::show(named)),
        TaskCommand::Kill(arguments) => client_runtime()?.block_on(objects::tasks::kill(arguments)),
    }
}

fn groups(group: &GroupCommand) -> VerbResult {
    match group {
        GroupCommand::Run(arguments) => two_threads()?.block_on(run::run_group(arguments)),
        GroupCommand::List(list) => client_runtime()?.block_on(objects::groups::list(list)),
        GroupCommand::Kill(arguments) => {
            client_runtime()?.block_on(objects::groups::kill(arguments))
        }
    }
}

fn frameworks(framework: &FrameworkCommand) -> VerbResult {
    match framework {
        FrameworkCommand::List(list) => client_runtime()?.block_on(objects::frameworks::list(list)),
        FrameworkCommand::Show(named) => {
            client_runtime()?.block_on(objects::frameworks::show(named))
        }
        FrameworkCommand::Teardown(arguments) => {
            client_runtime()?.block_on(objects::frameworks::teardown(arguments))
        }
    }
}

/// Creates a runtime for a few calls.
fn client_runtime() -> anyhow::Result<Runtime> {
    Builder::new_current_thread()
        .enable_all()
        .build()
        .context("cannot start a runtime")
}

/// Creates a runtime in which one thread may wait for a slow terminal while the other keeps the
/// session.
fn two_threads() -> anyhow::Result<Runtime> {
    Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .context("cannot start threads")
}

fn completions(shell: clap_complete::Shell) -> VerbResult {
    let mut script = Vec::new();
    clap_complete::generate(
        shell,
        &mut args::command(),
        Arguments::command().get_name(),
        &mut script,
    );
    let text = String::from_utf8(script).context("the completions are not UTF-8")?;
    output::print(&text)?;
    Ok(DONE)
}

/// Returns whether errors are printed as JSON.
fn wants_json(verb: &Verb) -> bool {
    let show = match verb {
        Verb::Master(master) => match &**master {
            MasterCommand::Start(_) => None,
            MasterCommand::List(list) => Some(list.show),
            MasterCommand::Join(arguments) => Some(arguments.show),
            MasterCommand::Remove(arguments) => Some(arguments.show),
            MasterCommand::Transfer(arguments) => Some(arguments.show),
            MasterCommand::RaiseLevel(arguments) => Some(arguments.show),
            MasterCommand::Rejoin(arguments) => Some(arguments.show),
        },
        Verb::Agent(agent) => match &**agent {
            AgentCommand::Start(_) | AgentCommand::Stop(_) => None,
            AgentCommand::List(list) => Some(list.show),
            AgentCommand::Show(named) => Some(named.show),
        },
        Verb::Task(TaskCommand::List(list)) => Some(list.show),
        Verb::Task(TaskCommand::Show(named)) | Verb::Framework(FrameworkCommand::Show(named)) => {
            Some(named.show)
        }
        Verb::Task(TaskCommand::Kill(_)) | Verb::Framework(FrameworkCommand::Teardown(_)) => None,
        Verb::Group(GroupCommand::List(list)) => Some(list.show),
        Verb::Group(GroupCommand::Run(_) | GroupCommand::Kill(_)) => None,
        Verb::Framework(FrameworkCommand::List(list)) => Some(list.show),
        Verb::Offer(OfferCommand::List(list)) => Some(list.show),
        Verb::Dev(arguments) => Some(arguments.show),
        Verb::Ps(arguments) => Some(arguments.show),
        Verb::Status(arguments) => Some(arguments.show),
        Verb::Explain(arguments) => Some(arguments.show),
        Verb::Doctor(arguments) => Some(arguments.show),
        Verb::Run(_)
        | Verb::Logs(_)
        | Verb::Exec(_)
        | Verb::Attach(_)
        | Verb::Update(_)
        | Verb::Version(_)
        | Verb::Completions(_)
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
