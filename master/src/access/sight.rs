//! The records that a caller may see in one copy of the registry.

use std::sync::Arc;

use argosy_state::Registry;
use argosy_state::access::{Action, Policy};
use argosy_state::actor::Actor;
use argosy_state::command::OfferTerms;
use argosy_state::framework::FrameworkInfo;
use argosy_state::ids::{AgentId, FrameworkId, Role};
use argosy_state::secret::SecretName;
use argosy_state::task::Task;

use super::decision::Permits;
use super::denial::Denial;
use super::object::Object;

/// The caller on whose behalf something is read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Reader {
    /// This master itself, or any caller if access is not enforced.
    Unrestricted,
    As(Actor),
}

impl Reader {
    /// Returns the objects on which the reader may perform an action, by the policy of a registry.
    pub(crate) fn sight(&self, registry: &Registry, action: Action) -> Sight {
        self.sight_by(&registry.access().policy, action)
    }

    /// Returns the objects on which the reader may perform an action, by a policy.
    pub(crate) fn sight_by(&self, policy: &Policy, action: Action) -> Sight {
        match self {
            Self::Unrestricted => Sight::ALL,
            Self::As(actor) => Sight::of(policy, actor, action),
        }
    }

    /// Decides about several objects, each of which must be allowed.
    pub(crate) fn check_all(
        &self,
        policy: &Policy,
        action: Action,
        objects: &[Object<'_>],
    ) -> Result<(), Denial> {
        let mut objects = objects.iter();
        objects.try_for_each(|object| self.check(policy, action, object))
    }

    /// Denies an action to a caller without an identity that may perform it on no object, before
    /// any record is read.
    pub(crate) fn check_proof(&self, policy: &Policy, action: Action) -> Result<(), Denial> {
        match self {
            Self::As(Actor::Unauthenticated) => self.sight_by(policy, action).some(),
            Self::As(Actor::Cluster | Actor::Principal(_)) | Self::Unrestricted => Ok(()),
        }
    }

    /// Decides about one object.
    pub(crate) fn check(
        &self,
        policy: &Policy,
        action: Action,
        object: &Object<'_>,
    ) -> Result<(), Denial> {
        match self {
            Self::Unrestricted => Ok(()),
            Self::As(actor) => {
                let decide =
                    |action, object: &Object<'_>| super::decide(policy, actor, action, object);
                let decision = decide(action, object);
                Denial::of(decision, actor, action, object, |action, object| {
                    decide(action, object).is_allowed()
                })
            }
        }
    }
}

/// The objects on which a reader may perform an action. Cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct Sight(
    /// `None`: all objects.
    Option<Arc<(Actor, Action, Permits)>>,
);

impl Sight {
    /// All objects.
    pub(crate) const ALL: Self = Self(None);

    fn of(policy: &Policy, actor: &Actor, action: Action) -> Self {
        let permits = Permits::of(policy, actor, action);
        match permits.has_all() {
            true => Self::ALL,
            false => Self(Some(Arc::new((actor.clone(), action, permits)))),
        }
    }

    /// Returns whether the reader may perform the action on every object.
    pub(crate) fn is_all(&self) -> bool {
        self.0.is_none()
    }

    /// Denies the action if the reader may perform it on no object at all.
    pub(crate) fn some(&self) -> Result<(), Denial> {
        match &self.0 {
            None => Ok(()),
            Some(of) => {
                let (actor, action, permits) = &**of;
                let denied = permits.nowhere();
                denied.map_or(Ok(()), |denied| Denial::nowhere(actor, *action, denied))
            }
        }
    }

    fn includes(&self, object: &Object<'_>) -> bool {
        let permits = self.0.as_ref().map(|of| &of.2);
        permits.is_none_or(|permits| permits.decide(object).is_allowed())
    }

    /// Returns whether it includes the cluster as a whole.
    pub(crate) fn cluster(&self) -> bool {
        self.is_all() || self.includes(&Object::CLUSTER)
    }

    pub(crate) fn task(&self, task: &Task) -> bool {
        self.is_all() || self.includes(&Object::task(task))
    }

    /// Returns whether it includes a task with these properties.
    pub(crate) fn task_of(
        &self,
        framework: FrameworkId,
        agent: AgentId,
        role: &Role,
        user: &str,
    ) -> bool {
        self.is_all()
            || self.includes(&Object {
                role: Some(role),
                framework: Some(framework),
                agent: Some(agent),
                user: Some(user).filter(|user| !user.is_empty()),
                ..Object::CLUSTER
            })
    }

    pub(crate) fn agent(&self, id: AgentId) -> bool {
        self.is_all() || self.includes(&Object::agent(id))
    }

    pub(crate) fn role(&self, role: &Role) -> bool {
        self.is_all() || self.includes(&Object::role(role))
    }

    pub(crate) fn secret(&self, name: &SecretName) -> bool {
        self.is_all() || self.includes(&Object::secret(&name.role(), name))
    }

    /// Returns whether it includes a framework: no role of it is denied by a rule, and the reader
    /// sees one of them at least.
    pub(crate) fn framework(&self, id: FrameworkId, info: &FrameworkInfo) -> bool {
        self.framework_of(id, info.roles.iter())
    }

    pub(crate) fn framework_of<'a>(
        &self,
        id: FrameworkId,
        roles: impl Iterator<Item = &'a Role>,
    ) -> bool {
        let Some(of) = &self.0 else {
            return true;
        };
        let decisions = roles.map(|role| {
            of.2.decide(&Object {
                role: Some(role),
                framework: Some(id),
                ..Object::CLUSTER
            })
        });
        let mut is_seen = false;
        for decision in decisions {
            match decision {
                super::Decision::Allowed => is_seen = true,
                super::Decision::Denied { by: Some(_) } => return false,
                super::Decision::Denied { by: None } => {}
            }
        }
        is_seen
    }

    pub(crate) fn offer(&self, terms: &OfferTerms) -> bool {
        self.task_of(terms.framework, terms.agent, &terms.role, "")
    }
}

/// The records of each kind that a reader may see. Cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct Sights {
    pub(crate) cluster: Sight,
    pub(crate) roles: Sight,
    pub(crate) agents: Sight,
    pub(crate) frameworks: Sight,
    pub(crate) tasks: Sight,
    pub(crate) offers: Sight,
}

impl Sights {
    pub(crate) fn of(reader: &Reader, policy: &Policy) -> Self {
        Self {
            cluster: reader.sight_by(policy, Action::ViewCluster),
            roles: reader.sight_by(policy, Action::ViewRole),
            agents: reader.sight_by(policy, Action::ViewAgent),
            frameworks: reader.sight_by(policy, Action::ViewFramework),
            tasks: reader.sight_by(policy, Action::ViewTask),
            offers: reader.sight_by(policy, Action::ViewOffer),
        }
    }

    /// Returns whether the reader sees all records of every kind.
    pub(crate) fn is_all(&self) -> bool {
        let Self {
            cluster,
            roles,
            agents,
            frameworks,
            tasks,
            offers,
        } = self;
        let kinds = [cluster, roles, agents, frameworks, tasks, offers];
        kinds.into_iter().all(Sight::is_all)
    }
}

/// The records that the reader of a stream may see, by the present policy.
#[derive(Debug, Clone)]
pub(crate) struct FollowedSights {
    reader: Reader,
    policy: Arc<Policy>,
    pub(crate) sights: Sights,
}

impl FollowedSights {
    pub(crate) fn new(reader: Reader, policy: Arc<Policy>) -> Self {
        Self {
            sights: Sights::of(&reader, &policy),
            reader,
            policy,
        }
    }

    /// Returns whether rules decide what the reader may see.
    pub(crate) fn depends_on_rules(&self) -> bool {
        self.reader != Reader::Unrestricted
    }

    /// Sets the present policy. Returns whether the reader may see other records than before: its
    /// stream must begin again.
    pub(crate) fn follow(&mut self, policy: &Arc<Policy>) -> bool {
        if !self.depends_on_rules() || Arc::ptr_eq(&self.policy, policy) {
            return false;
        }
        let had_all = self.sights.is_all();
        *self = Self::new(self.reader.clone(), Arc::clone(policy));
        !(had_all && self.sights.is_all())
    }
}
