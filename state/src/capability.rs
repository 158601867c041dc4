//! Capabilities of agents and frameworks that not every release supports.
//!
//! They are names, so that a master keeps unknown ones and ignores them. The list is in
//! `docs/protocol.md`.

use std::collections::BTreeSet;
use std::fmt;
use std::str::FromStr;

use crate::limits;
use crate::task::{self, CapabilityRule, TaskSpec};

/// The names that one agent or framework announces, including those of later releases.
pub type CapabilityNames = BTreeSet<String>;

/// The error for a capability name that this release does not know.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("unknown capability")]
pub struct UnknownCapability;

/// A capability of an agent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct AgentCapability {
    name: &'static str,
    what: &'static str,
}

impl AgentCapability {
    /// Accepts launches. Every release does, whether announced or not.
    pub const LAUNCH: Self = Self::new("launch", "a launch");
    /// Accepts kills. Every release does, whether announced or not.
    pub const KILL: Self = Self::new("kill", "a kill");
    /// Accepts orders that change the limits of tasks. Agents of release 0.1 announce it in a
    /// separate field.
    pub const LIMITS: Self = Self::new("limits", "a change of limits");

    /// Returns a capability by its announced name, and the part of a request that needs it.
    const fn new(name: &'static str, what: &'static str) -> Self {
        Self { name, what }
    }

    fn of_rule(rule: &CapabilityRule) -> Self {
        Self::new(rule.capability, rule.what)
    }

    /// Returns all capabilities that this release knows, in the order of the documentation.
    pub fn all() -> impl Iterator<Item = Self> {
        let of_fields = task::CAPABILITIES.iter().map(Self::of_rule);
        [Self::LAUNCH, Self::KILL, Self::LIMITS]
            .into_iter()
            .chain(of_fields)
    }

    /// Returns the announced name.
    #[must_use]
    pub fn name(self) -> &'static str {
        self.name
    }

    /// Returns the part of a request that needs the capability.
    #[must_use]
    pub fn what(self) -> &'static str {
        self.what
    }

    /// Returns whether every release has the capability, whether announced or not.
    pub(crate) fn is_of_every_release(self) -> bool {
        [Self::LAUNCH, Self::KILL].contains(&self)
    }

    /// Returns all names that this release announces.
    #[must_use]
    pub fn announced() -> CapabilityNames {
        Self::all().map(|one| one.name().to_owned()).collect()
    }

    /// Returns the capabilities that the agent of a task needs.
    pub fn needed(spec: &TaskSpec) -> impl Iterator<Item = Self> {
        let needed = task::CAPABILITIES
            .iter()
            .filter(|rule| (rule.is_needed)(spec));
        needed.map(Self::of_rule)
    }
}

impl fmt::Display for AgentCapability {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(self.name())
    }
}

impl FromStr for AgentCapability {
    type Err = UnknownCapability;

    fn from_str(name: &str) -> Result<Self, UnknownCapability> {
        let mut all = Self::all();
        all.find(|one| one.name() == name).ok_or(UnknownCapability)
    }
}

/// A capability of a framework.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum FrameworkCapability {
    /// Accepts `gpus`, which are removed from the offers to other frameworks.
    Gpus,
    /// Accepts revocable resources.
    Revocable,
    /// Its scheduler sends heartbeats.
    Heartbeats,
}

impl FrameworkCapability {
    /// All capabilities that this release knows, in the order of the documentation.
    pub const ALL: [Self; 3] = [Self::Gpus, Self::Revocable, Self::Heartbeats];

    /// Returns the announced name.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Gpus => "gpus",
            Self::Revocable => "revocable",
            Self::Heartbeats => "heartbeats",
        }
    }

    /// Returns the label that announces the capability to release 0.1.0, with the value "true". It
    /// is read for one more release.
    #[must_use]
    pub fn former_label(self) -> Option<&'static str> {
        match self {
            Self::Gpus => Some("argosy.offers/gpus"),
            Self::Revocable => Some("argosy.offers/revocable"),
            Self::Heartbeats => None,
        }
    }
}

/// Returns whether the names are few and short enough to be stored.
pub(crate) fn are_bounded(announced: &CapabilityNames) -> bool {
    announced.len() <= limits::CAPABILITIES
        && announced
            .iter()
            .all(|name| !name.is_empty() && name.len() <= limits::CAPABILITY_BYTES)
}

/// Returns a message that states these bounds.
pub(crate) fn bounds() -> String {
    let (most, bytes) = (limits::CAPABILITIES, limits::CAPABILITY_BYTES);
    format!("announce at most {most}, of 1 to {bytes} bytes each")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::command::{CallAction, Command, CommandReply, Rejection, Subscribe};
    use crate::ids::{AgentId, FrameworkId, NodeId};
    use crate::level::{self, Level};
    use crate::task::{HostPath, ImagePull, KillSignal, TaskLimits};
    use crate::testing::{World, framework_info, registration, spec};

    fn named(name: &str) -> AgentCapability {
        name.parse().unwrap()
    }

    #[test]
    fn capability_names_round_trip_and_unknown_ones_are_rejected() {
        for one in AgentCapability::all() {
            assert_eq!(one.name().parse(), Ok(one));
        }
        assert_eq!(
            "teleport".parse::<AgentCapability>(),
            Err(UnknownCapability)
        );
        let names = FrameworkCapability::ALL.map(FrameworkCapability::name);
        assert_eq!(BTreeSet::from(names).len(), names.len());
    }

    #[test]
    fn a_task_needs_what_release_0_1_0_would_ignore() {
        let needed = |spec: &TaskSpec| AgentCapability::needed(spec).collect::<Vec<_>>();
        let mut task = spec("t", "cpus:1");
        task.host_paths = vec![HostPath {
            host_path: "/srv/data".to_owned(),
            container_path: "data".to_owned(),
            read_only: false,
        }];
        assert_eq!(needed(&task), []);
        task.host_paths[0].container_path = "/data".to_owned();
        assert_eq!(needed(&task), [named("host-path-places")]);
        task.kill_signal = Some(KillSignal::Int);
        task.container.pull = Some(ImagePull::Always);
        let names = ["kill-signal", "image-pull", "host-path-places"];
        assert_eq!(needed(&task), names.map(named));
    }

    #[test]
    fn the_pull_policy_of_an_executor_needs_the_capability_before_its_launch_is_sent_too() {
        let mut task = spec("t", "cpus:1");
        let mut executor = crate::testing::executor("e", "cpus:0.1");
        executor.container.pull = Some(ImagePull::Always);
        task.executor = Some(executor.into());
        let needed: Vec<_> = AgentCapability::needed(&task).collect();
        assert_eq!(needed, [named("image-pull")]);
        let mut info = registration(7, "cpus:4").info;
        for (announced, can) in [("kill-signal", false), ("image-pull", true)] {
            info.capabilities = [announced.to_owned()].into();
            assert_eq!(info.can_launch(&task), can, "{announced}");
        }
    }

    /// Returns a cluster with one agent that announces these names, and a framework.
    fn world(level: Level, announced: &[&str]) -> (World, AgentId, FrameworkId) {
        let mut world = World::empty();
        world.level = level;
        world.open_epoch(NodeId(1));
        let mut register = registration(7, "cpus:4");
        register.info.changes_limits = false;
        register.info.capabilities = announced.iter().map(|name| (*name).to_owned()).collect();
        let registered = world.apply(Command::RegisterAgent(register));
        let Ok(CommandReply::Agent(agent)) = registered.outcome else {
            panic!("{registered:?}");
        };
        let framework = world.subscribe("web");
        (world, agent, framework)
    }

    /// Returns the rejection of the launch of this task, if any.
    fn refused(
        (world, agent, framework): &mut (World, AgentId, FrameworkId),
        task: &TaskSpec,
    ) -> Option<Rejection> {
        let offer = world.offer(*framework, *agent, "cpus:1");
        let applied = world.accept(*framework, vec![offer], vec![task.clone()]);
        match applied.outcome {
            Ok(CommandReply::Call { refused, .. }) => {
                refused.into_iter().next().map(|(_, why)| why)
            }
            other => panic!("{other:?}"),
        }
    }

    fn placed() -> TaskSpec {
        let mut task = spec("placed", "cpus:1");
        task.host_paths = vec![HostPath {
            host_path: "/srv/data".to_owned(),
            container_path: "/data".to_owned(),
            read_only: true,
        }];
        task
    }

    #[test]
    fn a_missing_agent_capability_is_rejected_with_agent_and_capability() {
        let mut signalled = spec("signalled", "cpus:1");
        signalled.kill_signal = Some(KillSignal::Int);
        for (task, capability) in [
            (signalled, named("kill-signal")),
            (placed(), named("host-path-places")),
        ] {
            let mut unable = world(Level::NEWEST, &["launch", "kill"]);
            let why = refused(&mut unable, &task);
            assert_eq!(why, Some(Rejection::AgentIncapable(unable.1, capability)));
            let text = why.unwrap().to_string();
            for part in ["agent-1", capability.name(), capability.what()] {
                assert!(text.contains(part), "{text}");
            }
            let mut able = world(Level::NEWEST, &[capability.name()]);
            assert_eq!(refused(&mut able, &task), None);
        }
    }

    #[test]
    fn at_level_2_the_agent_checks_capabilities_as_in_release_0_1_0() {
        assert_eq!(
            refused(&mut world(Level::RELEASE_0_1, &[]), &placed()),
            None
        );
    }

    #[test]
    fn limit_changes_require_the_capability_of_the_agent() {
        for (announced, is_refused) in [("limits", false), ("kill", true)] {
            let (mut world, agent, framework) = world(Level::NEWEST, &[announced]);
            let key = world.launch(framework, agent, "a", "cpus:1");
            let limits = TaskLimits {
                pids: Some(50),
                ..TaskLimits::default()
            };
            let task = key.task;
            let applied = world.call(framework, CallAction::UpdateLimits { task, limits });
            let incapable = Rejection::AgentIncapable(agent, AgentCapability::LIMITS);
            assert_eq!(applied.outcome.err(), is_refused.then_some(incapable));
        }
    }

    #[test]
    fn unknown_capability_names_are_stored_within_bounds() {
        let names = ["kill", "of-a-later-release"];
        let (world, agent, _) = world(Level::NEWEST, &names);
        let stored = world.reloaded();
        let stored = &stored.agent(agent).unwrap().report.info.capabilities;
        assert_eq!(*stored, CapabilityNames::from(names.map(ToOwned::to_owned)));
        let many = (0..=limits::CAPABILITIES)
            .map(|at| at.to_string())
            .collect();
        let long = "x".repeat(limits::CAPABILITY_BYTES + 1);
        for wrong in [
            many,
            CapabilityNames::from([long]),
            CapabilityNames::from([String::new()]),
        ] {
            assert!(!are_bounded(&wrong));
            let mut world = World::new();
            let mut register = registration(7, "cpus:4");
            register.info.capabilities.clone_from(&wrong);
            let agent = world.apply(Command::RegisterAgent(register));
            let mut info = framework_info("web");
            info.capabilities = wrong;
            let subscribe = Command::Subscribe(Subscribe {
                framework: None,
                session: 1,
                info,
            });
            for refused in [agent, world.apply(subscribe)] {
                let text = refused.outcome.unwrap_err().to_string();
                assert!(text.starts_with("info.capabilities: "), "{text}");
            }
        }
    }

    #[test]
    fn before_level_3_a_framework_announces_by_the_labels_of_release_0_1_0() {
        let mut info = framework_info("web");
        info.capabilities = ["gpus", "heartbeats", "new"].map(ToOwned::to_owned).into();
        assert_eq!(level::announced(Level::NEWEST, &info), info);
        let former = level::announced(Level::RELEASE_0_1, &info);
        assert_eq!(former.capabilities, CapabilityNames::new());
        let label = ("argosy.offers/gpus".to_owned(), "true".to_owned());
        assert_eq!(former.labels, [label].into());
        assert!(former.can(FrameworkCapability::Gpus));
        assert!(!former.can(FrameworkCapability::Revocable));
    }
}
