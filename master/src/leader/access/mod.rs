//! Access: an input that its actor may not send is refused before anything is proposed, by the
//! leader's own registry.

mod checks;
mod launches;

use argosy_state::Registry;
use argosy_state::actor::Actor;
use argosy_state::command::{Call, CallAction};
use argosy_state::ids::Revision;

use super::agents::LinkStage;
use super::{Input, Leader, LeaderTime};
use crate::access::PermitCache;
use crate::leader_reply::LeaderReply;
use crate::links::LinkId;
use checks::{Checks, known_agent};
pub(super) use launches::{DeniedTasks, rejected_part};
use launches::{denied_tasks, invalidate};

/// Links whose rights are decided again in one tick after the policy has changed.
const LINKS_PER_TICK: usize = 500;

/// Whether access is enforced, and how far the links are checked against the present policy.
#[derive(Debug, Default)]
pub(super) struct Enforcement {
    is_enforced: bool,
    /// The policy by which all links up to `checked` were checked.
    policy: Option<Revision>,
    /// The last link that was checked, while not all are.
    checked: Option<LinkId>,
    permits: PermitCache,
}

impl Enforcement {
    /// Returns the checks by the policy of a registry.
    fn checks<'a>(&'a mut self, registry: &'a Registry) -> Checks<'a> {
        self.permits.follow(&registry.access().policy);
        Checks {
            registry,
            permits: &mut self.permits,
        }
    }
}

/// The reason why an input is refused, with its code for machines.
type Refused = (&'static str, String);

impl Leader {
    /// Returns a leader that enforces access, or not.
    pub(crate) fn with_enforcement(mut self, registry: &Registry, is_enforced: bool) -> Self {
        self.enforcement = Enforcement {
            is_enforced,
            policy: registry.access().policy_revision,
            checked: None,
            permits: PermitCache::default(),
        };
        self
    }

    /// Returns the input if its actor may send it. Otherwise the sender gets the reason.
    pub(super) fn permitted(&mut self, registry: &Registry, mut input: Input) -> Option<Input> {
        let is_enforced = self.enforcement.is_enforced;
        let mut checks = self.enforcement.checks(registry);
        let checked = match is_enforced {
            true => checks.input(&mut input),
            false => checks.access_changes(&input),
        };
        let Err((code, message)) = checked else {
            return Some(input);
        };
        let request = match input {
            Input::AgentHello { link, .. } => {
                self.refuse_agent(link, code, &message);
                return None;
            }
            Input::Subscribe { link, .. } => {
                self.end_stream(link, code, &message);
                return None;
            }
            Input::FrameworkHeartbeat { request, .. }
            | Input::Call { request, .. }
            | Input::Decline { request, .. }
            | Input::Message { request, .. }
            | Input::Acknowledge { request, .. }
            | Input::Reconcile { request, .. }
            | Input::Operate { request, .. }
            | Input::RaiseLevel { request, .. } => request,
            Input::AgentReport { .. }
            | Input::AgentList { .. }
            | Input::AgentPing { .. }
            | Input::AgentMessage { .. }
            | Input::AgentClosed { .. }
            | Input::FrameworkClosed { .. }
            | Input::FrameworkBehind { .. }
            | Input::Applied(_)
            | Input::BeyondLevel { .. }
            | Input::TooLarge { .. }
            | Input::Unreadable { .. }
            | Input::Tick => return None,
        };
        self.answer(request, LeaderReply::Refused { code, message });
        None
    }

    /// Finds the tasks of an acceptance that its caller may not launch, and makes their
    /// descriptions invalid, so that every master refuses them in their places.
    ///
    /// # Errors
    /// The answer, if nothing of the call could be launched.
    pub(super) fn deny_launches(
        &mut self,
        registry: &Registry,
        actor: &Actor,
        call: &mut Call,
    ) -> Result<DeniedTasks, LeaderReply> {
        let CallAction::Accept(accept) = &mut call.action else {
            return Ok(Vec::new());
        };
        if !self.enforcement.is_enforced {
            return Ok(Vec::new());
        }
        let permits = self.enforcement.checks(registry).permits;
        let denied = denied_tasks(permits, actor, call.framework, accept);
        let Some((_, (code, message))) = denied.first() else {
            return Ok(Vec::new());
        };
        if accept.all_or_nothing || denied.len() == accept.tasks().count() {
            let (code, message) = (*code, message.clone());
            return Err(LeaderReply::Refused { code, message });
        }
        let denied = denied.into_iter();
        let denied: DeniedTasks = denied.map(|(at, (_, why))| (at, why)).collect();
        invalidate(accept, &denied);
        Ok(denied)
    }

    /// Ends links whose actors may not have them any more, some at each tick after a change of the
    /// policy.
    pub(super) fn check_links(&mut self, registry: &Registry, now: LeaderTime) {
        let present = registry.access().policy_revision;
        let enforcement = &mut self.enforcement;
        if !enforcement.is_enforced {
            return;
        }
        if enforcement.policy != present {
            enforcement.policy = present;
            enforcement.checked = Some(LinkId(0));
        }
        let Some(LinkId(last)) = enforcement.checked else {
            return;
        };
        let from = LinkId(last + 1)..;
        let agents = self.agent_links.range(from.clone()).map(|(link, _)| *link);
        let frameworks = self.framework_links.range(from).map(|(link, _)| *link);
        let agents = agents.take(LINKS_PER_TICK);
        let mut next: Vec<LinkId> = agents.chain(frameworks.take(LINKS_PER_TICK)).collect();
        next.sort_unstable();
        next.truncate(LINKS_PER_TICK);
        self.enforcement.checked = next.last().copied();
        for link in next {
            self.check_link(registry, now, link);
        }
    }

    fn check_link(&mut self, registry: &Registry, now: LeaderTime, link: LinkId) {
        if let Some(state) = self.agent_links.get(&link) {
            let agent = match &state.stage {
                // The rules may have changed since the hello was checked.
                LinkStage::Registering(hello) => known_agent(registry, hello),
                LinkStage::Queued { .. } | LinkStage::Listing { .. } | LinkStage::Ready { .. } => {
                    state.agent
                }
            };
            let checks = &mut self.enforcement.checks(registry);
            if let Err((code, text)) = checks.agent(&state.actor, agent) {
                self.refuse_agent(link, code, &text);
            }
        } else if let Some(state) = self.framework_links.get(&link) {
            let checks = &mut self.enforcement.checks(registry);
            let framework = state.framework.and_then(|id| registry.framework(id));
            let checked = match framework {
                Some(framework) => checks.stream(&state.actor, framework),
                None => checks.roles(&state.actor, &state.subscription.info.roles),
            };
            let Err((code, text)) = checked else {
                return;
            };
            if let Some(id) = state.framework {
                self.rescind_all(id, "its scheduler may not have them any more");
            }
            self.framework_closed(now, link);
            self.end_stream(link, code, &text);
        }
    }
}
