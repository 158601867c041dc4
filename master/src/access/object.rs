//! Objects of actions, by the facets that patterns of rules name.

use std::fmt;

use argosy_state::Registry;
use argosy_state::access::Pattern;
use argosy_state::framework::FrameworkInfo;
use argosy_state::ids::{AgentId, FrameworkId, Role, TaskKey};
use argosy_state::secret::SecretName;
use argosy_state::task::Task;

/// The object of an action. A pattern of a facet that the object does not have does not match it.
/// An object without facets is the cluster as a whole.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Object<'a> {
    pub(crate) role: Option<&'a Role>,
    /// The role of the task that uses a secret of `role`. Only denials apply to it.
    pub(crate) task_role: Option<&'a Role>,
    pub(crate) framework: Option<FrameworkId>,
    pub(crate) agent: Option<AgentId>,
    /// A user of the host.
    pub(crate) user: Option<&'a str>,
    /// A secret, whose role may be above that of the task that uses it.
    pub(crate) secret: Option<&'a SecretName>,
    pub(crate) image: Option<&'a str>,
    pub(crate) host_path: Option<&'a str>,
}

impl<'a> Object<'a> {
    /// The cluster as a whole.
    pub(crate) const CLUSTER: Self = Self {
        role: None,
        task_role: None,
        framework: None,
        agent: None,
        user: None,
        secret: None,
        image: None,
        host_path: None,
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

    /// Returns a secret of the registry. `role` is that of its name.
    pub(crate) fn secret(role: &'a Role, name: &'a SecretName) -> Self {
        Self {
            secret: Some(name),
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
            ..Self::CLUSTER
        })
    }

    /// Returns a task, live or ended. Of an unknown one only the framework is a facet.
    pub(crate) fn of_key(registry: &'a Registry, key: &TaskKey) -> Self {
        Self::known_task(registry, key).unwrap_or(Self {
            framework: Some(key.framework),
            ..Self::CLUSTER
        })
    }

    /// Returns a task, live or ended, if the registry has it.
    pub(crate) fn known_task(registry: &'a Registry, key: &TaskKey) -> Option<Self> {
        let ended = || registry.finished_task(key).map(|ended| &ended.task);
        registry.task(key).or_else(ended).map(Self::task)
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
            Pattern::Secret(_) | Pattern::SecretSubtree(_) => self
                .secret
                .is_some_and(|secret| pattern.matches_secret(secret)),
            Pattern::Image(_) => self.image.is_some_and(|image| pattern.matches_image(image)),
            Pattern::HostPath(_) => self
                .host_path
                .is_some_and(|path| pattern.matches_host_path(path)),
        }
    }

    /// Returns whether a pattern of a denial may match a task of which only these facets are known.
    pub(super) fn may_be_denied_by(&self, pattern: &Pattern) -> bool {
        let is_unknown = match pattern {
            Pattern::Role(_) | Pattern::Subtree(_) => self.role.is_none(),
            Pattern::Framework(_) => self.framework.is_none(),
            Pattern::User(_) => self.user.is_none(),
            Pattern::Agent(_) => self.agent.is_none(),
            // Tasks do not have these facets.
            Pattern::Any
            | Pattern::Secret(_)
            | Pattern::SecretSubtree(_)
            | Pattern::Image(_)
            | Pattern::HostPath(_) => false,
        };
        is_unknown || self.is_denied_by(pattern)
    }

    /// Returns whether a pattern of a denial matches this object. A path of the host makes the
    /// paths below it accessible, so it is denied with each of them.
    pub(crate) fn is_denied_by(&self, pattern: &Pattern) -> bool {
        let is_above = || match (self.host_path, pattern) {
            (Some(own), Pattern::HostPath(denied)) => {
                let own = Pattern::HostPath(own.trim_end_matches('/').to_owned());
                own.matches_host_path(denied)
            }
            _ => false,
        };
        let is_of_task = || {
            self.task_role
                .is_some_and(|role| pattern.matches_role(role))
        };
        self.matches(pattern) || is_above() || is_of_task()
    }
}

/// Writes the facets as patterns name them, such as `role:eng framework-1`.
impl fmt::Display for Object<'_> {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut facets = Vec::new();
        facets.extend(self.secret.map(|secret| format!("secret:{secret}")));
        let is_of_secret = |role: &&Role| self.secret.is_some_and(|one| one.role() == **role);
        let role = self.role.filter(|role| !is_of_secret(role));
        facets.extend(role.map(|role| format!("role:{role}")));
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
