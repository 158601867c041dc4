//! Objects of actions, by the facets that patterns of rules name.

use std::fmt;

use argosy_state::Registry;
use argosy_state::access::Pattern;
use argosy_state::framework::FrameworkInfo;
use argosy_state::ids::{AgentId, FrameworkId, Role, TaskKey};
use argosy_state::secret::SecretName;
use argosy_state::task::Task;

use super::{images, users};

/// The object of an action. A pattern matches only an object that has its facet. An object without
/// facets is the cluster as a whole.
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
    /// The complete name of an image.
    pub(crate) image: Option<&'a str>,
    pub(crate) host_path: Option<&'a str>,
    /// The record that the caller has named. The other facets may come from this record.
    pub(crate) record: Option<Record<'a>>,
    /// Whether the registry does not contain this record. Its other facets are then unknown.
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
        task_role: None,
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
            record: Some(Record::Task(&task.key)),
            ..Self::CLUSTER
        }
    }

    /// Returns a framework that the registry does not contain.
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
            record: Some(Record::Task(key)),
            ..Self::any_task(Some(key.framework), agent)
        };
        let mut objects = unknown.with_each_role_of(registry, key.framework);
        // The task may be at another agent now: its present role counts too.
        objects.extend(known.map(|task| Self {
            role: Some(&task.role),
            ..unknown
        }));
        if objects.is_empty() {
            objects.push(unknown);
        }
        objects
    }

    /// Returns any task of a framework, as the objects of which each must be allowed.
    pub(crate) fn any_task_of(
        registry: &'a Registry,
        framework: FrameworkId,
        agent: Option<AgentId>,
    ) -> Vec<Self> {
        let any = Self::any_task(Some(framework), agent);
        let mut objects = any.with_each_role_of(registry, framework);
        if objects.is_empty() {
            objects.push(any);
        }
        objects
    }

    /// Returns a task of which only these facets are known: it is denied by any denial that may
    /// apply to it.
    pub(crate) fn any_task(framework: Option<FrameworkId>, agent: Option<AgentId>) -> Self {
        Self {
            framework,
            agent,
            is_unknown: true,
            ..Self::CLUSTER
        }
    }

    /// Returns the object with each role of a framework, live or removed.
    fn with_each_role_of(&self, registry: &'a Registry, id: FrameworkId) -> Vec<Self> {
        let removed = || {
            let mut removed = registry.finished_frameworks();
            removed.find(|removed| removed.id == id)
        };
        let live = registry.framework(id).map(|live| &*live.info);
        let info = live.or_else(|| removed().map(|removed| &removed.info));
        let roles = info.into_iter().flat_map(|info| &info.roles);
        let with = |role| Self {
            role: Some(role),
            ..*self
        };
        roles.map(with).collect()
    }

    /// Returns whether a pattern matches its facet of this object.
    pub(crate) fn matches(&self, pattern: &Pattern) -> bool {
        match pattern {
            Pattern::Any => true,
            Pattern::Role(_) | Pattern::Subtree(_) => {
                self.role.is_some_and(|role| pattern.matches_role(role))
            }
            Pattern::Framework(id) => self.framework == Some(*id),
            Pattern::User(user) => self.user.is_some_and(|own| users::covers(user, own)),
            Pattern::Agent(id) => self.agent == Some(*id),
            Pattern::Secret(_) | Pattern::SecretSubtree(_) => self
                .secret
                .is_some_and(|secret| pattern.matches_secret(secret)),
            Pattern::Image(prefix) => self
                .image
                .is_some_and(|image| images::covers(prefix, image)),
            Pattern::HostPath(_) => self
                .host_path
                .is_some_and(|path| pattern.matches_host_path(path)),
        }
    }

    /// Returns whether a pattern of a denial matches this object. A path of the host makes the
    /// paths below it accessible, so it is denied with each of them. A user is denied with each of
    /// its groups. If the record is unknown, so are its properties, and every pattern that could
    /// match does.
    pub(crate) fn is_denied_by(&self, pattern: &Pattern) -> bool {
        let is_above = || match (self.host_path, pattern) {
            (Some(own), Pattern::HostPath(denied)) => {
                let own = Pattern::HostPath(own.trim_end_matches('/').to_owned());
                own.matches_host_path(denied)
            }
            _ => false,
        };
        let is_user = || match (self.user, pattern) {
            (Some(own), Pattern::User(denied)) => users::is_same(denied, own),
            _ => false,
        };
        let is_of_task = || {
            self.task_role
                .is_some_and(|role| pattern.matches_role(role))
        };
        let may_match = match pattern {
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
        self.matches(pattern)
            || is_above()
            || is_user()
            || is_of_task()
            || (self.is_unknown && may_match)
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

/// Returns the beginning of a text from a caller, whose length is not bounded.
fn quoted(text: &str) -> String {
    text.escape_debug().take(200).collect()
}
