//! The level that a command needs because of facts that earlier levels do not have.
//!
//! A new command, and a new field of a command, is listed here with its level. The fields of a task
//! have theirs in the table of `task/spec.rs`, the operations of operators in
//! `command/operation.rs`. Facts that are only reported, and not requested, are omitted at earlier
//! levels instead: see [`reported`].

use super::{Level, LevelRequirement};
use crate::agent::AgentInfo;
use crate::capability::FrameworkCapability;
use crate::command::{CallAction, Command, OperatorOperation, SweepTarget};
use crate::framework::FrameworkInfo;
use crate::ids::Role;
use crate::resources::Resources;
use crate::task::{Reason, TaskSpec, cause};

/// Returns the first part of a command that the level of its cluster does not have, or `None`.
#[must_use]
pub fn first_unsupported(level: Level, command: &Command) -> Option<LevelRequirement> {
    if level >= Level::NEWEST {
        return None;
    }
    needed(level, command).filter(|need| need.level > level)
}

fn needed(level: Level, command: &Command) -> Option<LevelRequirement> {
    let need = |need: Level, what| (need > level).then_some(LevelRequirement { level: need, what });
    match command {
        Command::TasksStopped(_) => need(Level::RELEASE_0_2, "the end of stop_after_ms"),
        Command::MassLoss => need(Level::RELEASE_0_2, "the record of a mass loss of agents"),
        Command::Sweep(SweepTarget::Layout) => {
            need(Level::RELEASE_0_2, "the conversion of its records")
        }
        Command::CompareDigest(_) => need(Level::RELEASE_0_2, "a digest in the log"),
        Command::Call(call) => match &call.action {
            CallAction::Accept(accept) => accept.tasks().find_map(|spec| of_spec(level, spec)),
            CallAction::Kill { .. } | CallAction::UpdateLimits { .. } | CallAction::Teardown => {
                None
            }
            CallAction::Suppress(roles) | CallAction::Revive(roles) => {
                LevelRequirement::of_roles(roles)
            }
            CallAction::Update(info) => LevelRequirement::of_roles(&info.roles),
        },
        Command::Subscribe(subscribe) => LevelRequirement::of_roles(&subscribe.info.roles),
        Command::RegisterAgent(register) if register.follows.is_some() => {
            need(Level::RELEASE_0_2, "an agent of an ancestor")
        }
        Command::RegisterAgent(register) => {
            LevelRequirement::of_roles(reserved_for(&register.info.resources))
        }
        Command::Operate(operate) => {
            let needs = operate.operations.iter();
            let mut needs = needs.filter_map(OperatorOperation::level_requirement);
            needs.find(|need| need.level > level)
        }
        // The head of the command holds the level.
        Command::RaiseLevel { .. }
        | Command::OpenEpoch(_)
        | Command::AgentUnreachable(_)
        | Command::PruneAgent(_)
        | Command::ReconcileAgent(_)
        | Command::UpdateTasks(_)
        | Command::DisconnectFramework(_)
        | Command::ExpireFramework(_)
        | Command::Acknowledge(_)
        | Command::RaiseLowWater(_)
        | Command::Sweep(
            SweepTarget::Agent(_) | SweepTarget::Framework(_) | SweepTarget::PrunedAgent(_),
        )
        | Command::Tick => None,
    }
}

/// Returns the roles for which resources are reserved.
fn reserved_for(resources: &Resources) -> impl Iterator<Item = &Role> {
    let levels = resources
        .iter()
        .flat_map(|resource| &resource.identity.reservations);
    levels.map(|level| &level.role)
}

/// Returns the first part of a task's description that the level does not have.
fn of_spec(level: Level, spec: &TaskSpec) -> Option<LevelRequirement> {
    let executor = spec.executor.as_ref().map(|executor| &executor.resources);
    let resources = [Some(&spec.resources), executor].into_iter().flatten();
    let role = LevelRequirement::of_roles(resources.flat_map(reserved_for))
        .filter(|need| need.level > level);
    role.or_else(|| spec.first_above(level))
}

/// Returns the lowest level that has this reason.
fn of_reason(reason: Reason) -> Level {
    match reason {
        Reason::None
        | Reason::TaskInvalid
        | Reason::InvalidOffers
        | Reason::AgentUnreachable
        | Reason::AgentRemoved
        | Reason::AgentRemovedByOperator
        | Reason::AgentRestarted
        | Reason::AgentReregistered
        | Reason::AgentRebooted
        | Reason::ContainerLaunchFailed
        | Reason::FetchFailed
        | Reason::CommandExited
        | Reason::CommandNotStarted
        | Reason::TaskKilled
        | Reason::KilledDuringLaunch
        | Reason::FrameworkRemoved
        | Reason::Reconciliation
        | Reason::TaskMissingOnAgent
        | Reason::LaunchVoided
        | Reason::LimitMemory
        | Reason::MaxCompletionTime
        | Reason::StoppedWithoutLeader
        | Reason::TaskUnknown
        | Reason::HealthCheckStatusUpdated
        | Reason::ReadinessCheckStatusUpdated
        | Reason::HealthCheckFailed
        | Reason::LimitDisk
        | Reason::ExecutorTerminated
        | Reason::ExecutorRegistrationTimeout
        | Reason::LimitsUpdated => Level::RELEASE_0_1,
        Reason::AgentIncapable => Level::RELEASE_0_2,
    }
}

/// Returns an agent's description without the facts that the level does not have. The agent
/// registers again when the level is raised.
#[must_use]
pub fn reported(level: Level, info: &AgentInfo) -> AgentInfo {
    let mut info = info.clone();
    if level < Level::RELEASE_0_2 {
        info.largest_sizes = crate::task::Sizes::default();
        info.capabilities.clear();
        info.allowed_security_options.host_network = false;
    }
    info
}

/// Returns a framework's description in the form of the level: before level 3, capabilities are
/// announced by the labels of release 0.1.0.
#[must_use]
pub fn announced(level: Level, info: &FrameworkInfo) -> FrameworkInfo {
    let mut info = info.clone();
    if level < Level::RELEASE_0_2 {
        for capability in FrameworkCapability::ALL {
            let is_announced = info.capabilities.contains(capability.name());
            if let Some(label) = capability.former_label().filter(|_| is_announced) {
                info.labels.insert(label.to_owned(), "true".to_owned());
            }
        }
        info.capabilities.clear();
    }
    info
}

/// Removes from a command the reported and announced facts that the level does not have, or
/// converts them to the form of that level.
pub fn reduce(level: Level, command: &mut Command) {
    match command {
        Command::RegisterAgent(register) => register.info = reported(level, &register.info),
        Command::Subscribe(subscribe) => subscribe.info = announced(level, &subscribe.info),
        Command::Call(call) => {
            if let CallAction::Update(info) = &mut call.action {
                *info = announced(level, info);
            }
        }
        Command::UpdateTasks(report) if level < Level::RELEASE_0_2 => {
            for update in &mut report.updates {
                if of_reason(update.reason) > level {
                    update.reason = Reason::None;
                }
                let causes = std::mem::take(&mut update.causes);
                update.message = cause::text(&causes, &update.message);
                if let Some(report) = &mut update.limits
                    && let Err(why) = &mut report.outcome
                {
                    let causes = std::mem::take(&mut report.causes);
                    *why = cause::text(&causes, why);
                }
            }
        }
        Command::RaiseLevel { .. }
        | Command::OpenEpoch(_)
        | Command::AgentUnreachable(_)
        | Command::PruneAgent(_)
        | Command::ReconcileAgent(_)
        | Command::UpdateTasks(_)
        | Command::DisconnectFramework(_)
        | Command::ExpireFramework(_)
        | Command::Acknowledge(_)
        | Command::RaiseLowWater(_)
        | Command::Operate(_)
        | Command::Sweep(_)
        | Command::TasksStopped(_)
        | Command::MassLoss
        | Command::CompareDigest(_)
        | Command::Tick => {}
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::capability::AgentCapability;
    use crate::command::{AgentUpdate, CommandReply, Operate, Subscribe, UpdateTasks};
    use crate::ids::OrderIndex;
    use crate::resources::{Reservation, Resource, ResourceIdentity, Value};
    use crate::task::{Code, Explanation, LimitsReport, Task, TaskState};
    use crate::testing::{World, framework_info, next_update, registration, spec};

    /// The samples of fields that agents rightly ignore.
    const OF_MASTERS: [&str; 1] = ["call-accept-discovery"];

    #[test]
    fn a_role_that_release_0_1_0_cannot_read_needs_level_3() {
        let role = |text: &str| Role::new(text).unwrap();
        let commands = |name: &str| {
            let mut info = framework_info("demo");
            info.roles = [role("*"), role(name)].into();
            let operations = vec![OperatorOperation::SetWeight {
                role: role(name),
                weight_milli: 2_000,
            }];
            let mut register = registration(1, "cpus:8");
            let mut identity = ResourceIdentity::plain("cpus");
            identity.reservations.push(Reservation {
                role: role(name),
                principal: String::new(),
                labels: BTreeMap::new(),
            });
            let value = Value::Scalar(8_000);
            register
                .info
                .resources
                .add(&Resource { identity, value })
                .unwrap();
            [
                Command::Subscribe(Subscribe {
                    framework: None,
                    session: 1,
                    info,
                }),
                Command::Operate(Operate {
                    request: None,
                    hash: 0,
                    operations,
                    wall_ms: 0,
                }),
                Command::RegisterAgent(register),
            ]
        };
        for command in commands("eng/backend") {
            let need = first_unsupported(Level::RELEASE_0_1, &command).unwrap();
            assert_eq!(need.level, Level::RELEASE_0_2, "{command:?}");
            assert_eq!(first_unsupported(Level::RELEASE_0_2, &command), None);
        }
        for command in commands("eng") {
            assert_eq!(
                first_unsupported(Level::RELEASE_0_1, &command),
                None,
                "{command:?}"
            );
        }
    }

    #[test]
    fn a_field_that_release_0_1_0_does_not_have_has_a_level_and_a_capability() {
        for (name, spec) in TaskSpec::samples(&spec("web", "cpus:1")) {
            let need = spec.first_above(Level::RELEASE_0_1);
            assert!(need.is_some(), "{name}: no level in FIELD_RULES");
            let capability = AgentCapability::needed(&spec).next();
            let is_of_masters = OF_MASTERS.contains(&name);
            assert_ne!(capability.is_some(), is_of_masters, "{name}: CAPABILITIES");
        }
    }

    /// Returns a report of the task's agent that the task still runs, after this change.
    fn reported_with(task: &Task, change: impl FnOnce(&mut AgentUpdate)) -> Command {
        let mut update = next_update(task, TaskState::Running);
        change(&mut update);
        Command::UpdateTasks(UpdateTasks {
            agent: task.agent,
            updates: vec![update],
        })
    }

    /// Release 0.1.0 cannot read the other reasons: its masters would stop at the entry.
    #[test]
    fn before_level_3_agents_report_only_reasons_of_release_0_1_0() {
        let world = World::with_running_task("web");
        let task = world.registry.tasks().next().unwrap();
        for reason in Reason::all() {
            for level in [Level::RELEASE_0_1, Level::RELEASE_0_2] {
                let mut report = reported_with(task, |update| update.reason = reason);
                reduce(level, &mut report);
                let Command::UpdateTasks(UpdateTasks { updates, .. }) = report else {
                    panic!("it is a report");
                };
                let is_new = reason == Reason::AgentIncapable && level < Level::RELEASE_0_2;
                let expected = if is_new { Reason::None } else { reason };
                assert_eq!(updates[0].reason, expected, "{level}");
            }
        }
    }

    #[test]
    fn a_reason_that_only_masters_set_is_none_in_a_report_of_an_agent() {
        let mut world = World::with_running_task("web");
        let task = world.registry.tasks().next().unwrap().clone();
        let report = reported_with(&task, |update| update.reason = Reason::AgentIncapable);
        assert_eq!(world.apply(report).outcome, Ok(CommandReply::Done));
        let kept = &world.registry.task(&task.key).unwrap().latest;
        assert_eq!(kept.reason, Reason::None);
    }

    #[test]
    fn before_level_3_the_whole_text_of_an_update_is_stored() {
        let text = "its health check failed 3 times in a row, at last: refused";
        let explained = Explanation::of(Code::HealthCheckFailed, &[&3]).with_detail("refused");
        assert_eq!(explained.to_string(), text);
        let Explanation { causes, detail } = explained;
        let report = LimitsReport {
            order: OrderIndex(7),
            outcome: Err("busy".to_owned()),
            held: None,
            causes: Explanation::of(Code::DiskUnlimited, &[]).causes,
        };
        let mut world = World::with_running_task("web");
        let task = world.registry.tasks().next().unwrap().clone();
        let report = reported_with(&task, |update| {
            update.reason = Reason::HealthCheckFailed;
            (update.causes, update.message) = (causes, detail);
            update.limits = Some(report);
        });
        let mut former = report.clone();
        reduce(Level::RELEASE_0_1, &mut former);
        let Command::UpdateTasks(former) = former else {
            panic!("it is a report");
        };
        assert_eq!(former.updates[0].message, text);
        assert!(former.updates[0].causes.is_empty());
        let limits = former.updates[0].limits.as_ref().unwrap();
        assert_eq!(limits.outcome, Err("limits.io: busy".to_owned()));
        assert!(limits.causes.is_empty());
        drop(world.apply(report));
        let kept = &world.registry.task(&task.key).unwrap().latest;
        assert_eq!(kept.message, "refused");
        assert_eq!(kept.text(), text);
        let loaded = world.reloaded();
        assert_eq!(loaded.task(&task.key).unwrap().latest, *kept);
    }
}
