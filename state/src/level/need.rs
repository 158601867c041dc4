//! Which level a command needs: what it holds that earlier levels do not have.
//!
//! A new command, and a new field of one, is named here together with its level. What is only reported, and not asked for,
//! is left out at earlier levels instead: see [`reported`].

use super::Level;
use crate::agent::AgentInfo;
use crate::command::{CallAction, Command};
use crate::task::{Container, TaskSpec};

/// What a command needs that not every level has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Need {
    /// The lowest level that has it.
    pub level: Level,
    /// What needs it, as `kill_policy.signal`.
    pub what: &'static str,
}

/// What a command needs beyond the level of its cluster; `None` if the level has all of it.
#[must_use]
pub fn beyond(level: Level, command: &Command) -> Option<Need> {
    let need = |need: Level, what| (need > level).then_some(Need { level: need, what });
    match command {
        Command::Stopped(_) => need(Level::RELEASE_0_2, "the end of stop_after_ms"),
        Command::MassLoss => need(Level::RELEASE_0_2, "the record of a mass loss of agents"),
        Command::CompareDigest(_) => need(Level::RELEASE_0_2, "a digest in the log"),
        Command::Call(call) => match &call.action {
            CallAction::Accept(accept) => accept.launches.iter().find_map(|spec| {
                let what = of_spec(spec)?;
                need(Level::RELEASE_0_2, what)
            }),
            CallAction::Kill { .. }
            | CallAction::UpdateLimits { .. }
            | CallAction::Suppress(_)
            | CallAction::Revive(_)
            | CallAction::Update(_)
            | CallAction::Teardown => None,
        },
        Command::OpenEpoch(_)
        | Command::RegisterAgent(_)
        | Command::AgentUnreachable(_)
        | Command::PruneAgent(_)
        | Command::ReconcileAgent(_)
        | Command::UpdateTasks(_)
        | Command::Subscribe(_)
        | Command::DisconnectFramework(_)
        | Command::ExpireFramework(_)
        | Command::Acknowledge(_)
        | Command::RaiseLowWater(_)
        | Command::Operate(_)
        | Command::Sweep(_)
        | Command::Tick => None,
    }
}

/// A field of a task that release 0.1.0 does not have.
fn of_spec(spec: &TaskSpec) -> Option<&'static str> {
    if spec.kill_signal.is_some() {
        return Some("kill_policy.signal");
    }
    let executor = spec.executor.as_ref().map(|executor| &executor.container);
    [Some(&spec.container), executor]
        .into_iter()
        .flatten()
        .find_map(of_container)
}

fn of_container(container: &Container) -> Option<&'static str> {
    let fields = [
        ("container.sizes", !container.sizes.is_empty()),
        ("container.pull", container.pull.is_some()),
        (
            "container.opt_outs.host_network",
            container.opt_outs.host_network,
        ),
    ];
    let mut fields = fields.into_iter();
    fields.find_map(|(field, is_set)| is_set.then_some(field))
}

/// What an agent reports, as far as the level has it. The agent is registered again when the level is raised.
#[must_use]
pub fn reported(level: Level, info: &AgentInfo) -> AgentInfo {
    let mut info = info.clone();
    if level < Level::RELEASE_0_2 {
        info.largest_sizes = crate::task::Sizes::default();
        info.order_kinds.clear();
        info.allowed_opt_outs.host_network = false;
    }
    info
}
