//! Objects of actions, by the facets that patterns of rules name.

use std::fmt;

use argosy_state::Registry;
use argosy_state::access::{Pattern, SecretName};
use argosy_state::framework::FrameworkInfo;
use argosy_state::ids::{AgentId, FrameworkId, Role, TaskKey};
use argosy_state::task::Task;

use super::images;

/// The object of an action. A pattern of a facet that the object does not have does not match it.
/// An object without facets is the cluster as a whole.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Object<'a> {
    pub(crate) role: Option<&'a Role>,
    pub(crate) framework: Option<FrameworkId>,
    pub(crate) agent: Option<AgentId>,
    /// A user of the host.
    pub(crate) user: Option<&'a str>,
    /// The name of a secret of the role.
    pub(crate) secret: Option<&'a SecretName>,
    /// The complete name of an image.
    pub(crate) image: Option<&'a str>,
    pub(crate) host_path: Option<&'a str>,
    /// The record that the caller has named. The other facets may be known from it alone.
    pub(crate) record: Option<Record<'a>>,
    /// Whether the registry does not have this record, so that other facets are not known.
    pub(crate) is_unknown: bool,
}

/// A record of the registry that is the object of an action.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Record<'a> {
    Task(&'a TaskKey),
    Framework(FrameworkId),
}

impl fmt::Display for Record<'_> {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Task(key) => key.fmt(out),
            Self::Framework(id) => id.fmt(out),
        }
    }
}

impl<'a> Object<'a> {
    /// The cluster as a whole.
    pub(crate) const CLUSTER: Self = Self {
        role: None,
        framework: None,
        agent: None,
        user: None,
        secret: None,
        image: None,
        host_path: None,
        record: None,
        is_unknown: false,
    };

    pub(crate) fn agent(id: AgentId) -> Self {
        Self {
            agent: Some(id),
            ..Self::CLUSTER
        }
    }

    pub(crate) fn role(role: &'a Role) -> Self {
        Self {
            role: Some(role),
            ..Self::CLUSTER
        }
    }

    /// Returns a secret of a role. Without a name, only a rule about all objects applies to it.
    pub(crate) fn secret(role: &'a Role, name: Option<&'a SecretName>) -> Self {
        Self {
            secret: name,
            ..Self::role(role)
        }
    }

    pub(crate) fn task(task: &'a Task) -> Self {
        let user = task.spec.user.as_str();
        Self {
            role: Some(&task.role),
            framework: Some(task.key.framework),
            agent: Some(task.agent),
            user: Some(user).filter(|user| !user.is_empty()),
            record: Some(Record::Task(&task.key)),
            ..Self::CLUSTER
        }
    }

    /// Returns a framework that the registry does not have.
    pub(crate) fn unknown_framework(id: FrameworkId) -> Self {
        Self {
            framework: Some(id),
            record: Some(Record::Framework(id)),
            is_unknown: true,
            ..Self::CLUSTER
        }
    }

    /// Returns one object for each role of a framework.
    pub(crate) fn framework(
        id: FrameworkId,
        info: &'a FrameworkInfo,
    ) -> impl Iterator<Item = Self> + Clone {
        info.roles.iter().map(move |role| Self {
            role: Some(role),
            framework: Some(id),
            record: Some(Record::Framework(id)),
            ..Self::CLUSTER
        })
    }

    /// Returns a task, live or ended, as the objects of which each must be allowed. `agent` is the
    /// one at which it is used: another task of the same id may have been there before. An unknown
    /// task may have each role of its framework.
    pub(crate) fn of_key(
        registry: &'a Registry,
        key: &'a TaskKey,
        agent: Option<AgentId>,
    ) -> Vec<Self> {
        let ended = || registry.finished_task(key).map(|ended| &ended.task);
        let known = registry.task(key).or_else(ended);
        if let Some(task) = known.filter(|task| agent.is_none_or(|agent| task.agent == agent)) {
            return vec![Self::task(task)];
        }
        let unknown = Self {
            framework: Some(key.framework),
            agent,
            record: Some(Record::Task(key)),
            is_unknown: true,
            ..Self::CLUSTER
        };
        let removed = || {
            let mut removed = registry.finished_frameworks();
            removed.find(|removed| removed.id == key.framework)
        };
        let live = registry.framework(key.framework);
        let info = live.map(|live| &live.info);
        let info = info.or_else(|| removed().map(|removed| &removed.info));
        let roles = info.into_iter().flat_map(|info| &info.roles);
        let mut objects: Vec<Self> = roles
            .map(|role| Self {
                role: Some(role),
                ..unknown
            })
            .collect();
        // The role of a task that is used at another agent now, too.
        objects.extend(known.map(|task| Self {
            role: Some(&task.role),
            ..unknown
        }));
        if objects.is_empty() {
            objects.push(unknown);
        }
        objects
    }

    /// Returns whether a pattern matches its facet of this object.
    pub(crate) fn matches(&self, pattern: &Pattern) -> bool {
        match pattern {
            Pattern::Any => true,
            Pattern::Role(_) | Pattern::Subtree(_) => {
                self.role.is_some_and(|role| pattern.matches_role(role))
            }
            Pattern::Framework(id) => self.framework == Some(*id),
            Pattern::User(user) => self.user == Some(user.as_str()),
            Pattern::Agent(id) => self.agent == Some(*id),
            Pattern::Secret { .. } => {
                let secret = self.role.zip(self.secret);
                secret.is_some_and(|(role, name)| pattern.matches_secret(role, name))
            }
            Pattern::Image(prefix) => self
                .image
                .is_some_and(|image| images::covers(prefix, image)),
            Pattern::HostPath(_) => self
                .host_path
                .is_some_and(|path| pattern.matches_host_path(path)),
        }
    }

    /// Returns whether a pattern of a denial matches this object. A path of the host makes the
    /// paths below it accessible, so it is denied with each of them. A facet of an unknown record
    /// may be the one that is denied.
    pub(crate) fn is_denied_by(&self, pattern: &Pattern) -> bool {
        let is_above = || match (self.host_path, pattern) {
            (Some(own), Pattern::HostPath(denied)) => {
                let own = Pattern::HostPath(own.trim_end_matches('/').to_owned());
                own.matches_host_path(denied)
            }
            _ => false,
        };
        let may_match = match pattern {
            Pattern::Role(_) | Pattern::Subtree(_) => self.role.is_none(),
            Pattern::User(_) => self.user.is_none(),
            Pattern::Agent(_) => self.agent.is_none(),
            Pattern::Any
            | Pattern::Framework(_)
            | Pattern::Secret { .. }
            | Pattern::Image(_)
            | Pattern::HostPath(_) => false,
        };
        self.matches(pattern) || is_above() || (self.is_unknown && may_match)
    }
}

/// Returns the name of a secret in its role, as rules name it; `None` if no rule can.
pub(crate) fn name_in_role(secret: &argosy_state::secret::SecretName) -> Option<SecretName> {
    let (_, name) = secret.as_str().rsplit_once('/')?;
    SecretName::new(name).ok()
}

/// Writes the facets as patterns name them, such as `role:eng framework-1`.
impl fmt::Display for Object<'_> {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut facets = Vec::new();
        match (self.role, self.secret) {
            (Some(role), Some(secret)) => facets.push(format!("secret:{role}/{secret}")),
            (Some(role), None) => facets.push(format!("role:{role}")),
            (None, _) => {}
        }
        facets.extend(self.framework.map(|id| id.to_string()));
        facets.extend(self.agent.map(|id| id.to_string()));
        facets.extend(self.user.map(|user| format!("user:{}", quoted(user))));
        facets.extend(self.image.map(|image| format!("image:{}", quoted(image))));
        facets.extend(
            self.host_path
                .map(|path| format!("host-path:{}", quoted(path))),
        );
        match facets.is_empty() {
            true => out.write_str("the cluster"),
            false => out.write_str(&facets.join(" ")),
        }
    }
}

/// Returns the beginning of a text that a caller has sent. A message must not have its length.
fn quoted(text: &str) -> String {
    text.escape_debug().take(200).collect()
}
