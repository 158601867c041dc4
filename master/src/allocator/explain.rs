//! Explanations of why agents are not offered to a framework: each agent is evaluated once, under
//! the first check that fails.
//!
//! An explanation is computed on request from two sources: a copy of the facts, and the state that
//! only the leader has (streams, offers, filters, limits). That state is copied out of the leader's
//! memory, so that agents are evaluated outside its loop.

use argosy_state::Registry;
use argosy_state::agent::Agent;
use argosy_state::framework::Framework;
use argosy_state::ids::{AgentId, FrameworkId, OfferId, Role};
use argosy_state::resources::Resources;

use super::Allocator;
use super::eligibility::{
    LinkStates, OfferMinimum, VisibilityRules, framework_obstacle, mode_obstacle,
};
use super::fair_share::LimitHeadroom;
use super::share::ResourceKinds;
use super::skip_reason::{
    DemandExplanation, LastDecline, SkipReason, SkippedAgent, covers, nearer,
};
use crate::offers::OfferBook;

/// The query that an explanation answers.
#[derive(Debug, Clone)]
pub struct ExplainQuery {
    /// The framework that waits.
    pub framework: FrameworkId,
    /// The role; `None` takes the best of all roles of the framework.
    pub role: Option<Role>,
    /// The resources that it waits for; `None` means the minimum that is worth an offer.
    pub wanted: Option<Resources>,
    /// Only agents after this one are evaluated; the default starts with the first agent.
    pub after: AgentId,
    /// The maximum number of agents to evaluate, at about a microsecond each. Callers within the
    /// leader's loop set it.
    pub agents: usize,
    /// The maximum number of skipped agents to list. Beyond it, and beyond 128 KiB of details,
    /// agents are only counted.
    pub max_skipped: usize,
}

impl ExplainQuery {
    /// Asks why `framework` is not offered `wanted`: all agents, 100 of them listed.
    #[must_use]
    pub fn new(framework: FrameworkId, wanted: Option<Resources>) -> Self {
        Self {
            framework,
            role: None,
            wanted,
            after: AgentId(0),
            agents: usize::MAX,
            max_skipped: 100,
        }
    }
}

/// The maximum number of bytes of details that are kept.
const DETAIL_BYTES: usize = 128 << 10;

/// The leader's private state that a query needs, copied out of its memory. With it, agents can be
/// evaluated on any copy of the registry.
#[derive(Debug, Clone)]
pub struct ExplainInputs {
    wanted: Resources,
    max_skipped: usize,
    /// The reason for which the framework takes no offers at all, as a code and a text.
    obstacle: Option<(SkipReason, String)>,
    roles: Vec<RoleVisibility>,
    kinds: ResourceKinds,
    last_decline: Option<LastDecline>,
    /// The detail for a filtered agent.
    declined: String,
    round: u64,
}

/// A role with its visibility and its minimum.
#[derive(Debug, Clone)]
struct RoleVisibility {
    role: Role,
    suppressed: bool,
    visibility: VisibilityRules,
    minimum: OfferMinimum,
    client: Option<u32>,
    limit: Option<RoleLimit>,
}

/// The limit of a role, and the amounts left below it and below the limits of the roles above.
#[derive(Debug, Clone)]
struct RoleLimit {
    text: String,
    headroom: LimitHeadroom,
}

/// The leader's private state about one agent, as far as the query needs it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct AgentInputs {
    linked: bool,
    offered: Resources,
    /// An open offer to the framework itself.
    own_offer: Option<OfferId>,
    /// The number of open offers. If `own_offer` is `None`, all of them are to other frameworks.
    offers: usize,
    /// The roles, by index, from which a filter hides the agent.
    hidden: Vec<usize>,
}

impl Allocator {
    /// Evaluates agents for a framework. [`DemandExplanation::next`] continues with the next page.
    #[must_use]
    pub fn explain(
        &self,
        registry: &Registry,
        book: &OfferBook,
        demand: LinkStates<'_>,
        query: &ExplainQuery,
    ) -> DemandExplanation {
        let inputs = self.inputs(registry, demand, query);
        let mut explanation = inputs.begin();
        let mut agents = registry.agents_after(query.after);
        for agent in agents.by_ref().take(query.agents.max(1)) {
            let known = self.agent_inputs(&inputs, book, demand, (query.framework, agent.id));
            inputs.evaluate(&mut explanation, registry, agent, &known);
        }
        if agents.next().is_none() {
            explanation.next = None;
        }
        explanation
    }

    /// Returns the leader's private state for a query, without agents.
    #[must_use]
    pub fn inputs(
        &self,
        registry: &Registry,
        demand: LinkStates<'_>,
        query: &ExplainQuery,
    ) -> ExplainInputs {
        let framework = registry.framework(query.framework);
        let obstacle = framework.map_or(Some(SkipReason::NotActive), |framework| {
            framework_obstacle(registry, &demand, framework)
        });
        ExplainInputs {
            wanted: query.wanted.clone().unwrap_or_default(),
            max_skipped: query.max_skipped,
            obstacle: obstacle.map(|reason| (reason, framework_detail(framework, reason))),
            roles: framework
                .map_or_else(Vec::new, |framework| self.role_visibility(framework, query)),
            kinds: self.kinds.clone(),
            last_decline: self.last_decline(query),
            declined: self.decline_detail(query.framework),
            round: self.rounds,
        }
    }

    /// Returns the leader's private state about an agent.
    #[must_use]
    pub fn agent_inputs(
        &self,
        inputs: &ExplainInputs,
        book: &OfferBook,
        demand: LinkStates<'_>,
        (framework, agent): (FrameworkId, AgentId),
    ) -> AgentInputs {
        let mut known = AgentInputs {
            linked: (demand.linked)(agent),
            ..AgentInputs::default()
        };
        if book.has_offers_on(agent) {
            known.offered = book.offered_on(agent);
            known.offers = book.offers_on(agent).count();
            let mut own = book.offers_on(agent).map(|(offer, _)| offer);
            known.own_offer = own
                .find(|offer| offer.framework == framework)
                .map(|offer| offer.id);
        }
        if let Some(place) = self.agents.slot(agent) {
            let hides = |eyes: &RoleVisibility| {
                eyes.client.is_some_and(|client| {
                    self.filters.hides(client, place) || self.decline_waits(client, agent)
                })
            };
            let roles = inputs.roles.iter().enumerate();
            known.hidden = roles
                .filter_map(|(at, eyes)| hides(eyes).then_some(at))
                .collect();
        }
        known
    }

    fn role_visibility(&self, framework: &Framework, query: &ExplainQuery) -> Vec<RoleVisibility> {
        let roles = framework.info.roles.iter();
        let asked = roles.filter(|role| query.role.as_ref().is_none_or(|asked| asked == *role));
        let own = OfferMinimum::of(&framework.info);
        asked
            .map(|role| {
                let client = self.clients.slot(framework.id, role);
                let limit = self.limits.get(role).zip(client);
                RoleVisibility {
                    role: role.clone(),
                    suppressed: framework.suppressed.contains(role),
                    visibility: VisibilityRules::new(&framework.info, role),
                    minimum: own.clone().unwrap_or_else(|| self.settings.minimum.clone()),
                    client,
                    limit: limit.map(|(limit, client)| RoleLimit {
                        text: limit.to_string(),
                        headroom: self.tree.headroom(client),
                    }),
                }
            })
            .collect()
    }

    fn last_decline(&self, query: &ExplainQuery) -> Option<LastDecline> {
        let known = self.clients.frameworks.get(&query.framework)?;
        let asked = known
            .clients
            .iter()
            .filter(|(role, _)| query.role.as_ref().is_none_or(|asked| asked == *role));
        let declines = asked.filter_map(|(_, at)| self.clients.get(*at).last_decline.clone());
        declines.max_by_key(|last| last.at)
    }

    fn decline_detail(&self, framework: FrameworkId) -> String {
        let known = self.clients.frameworks.get(&framework);
        let last = known.and_then(|known| {
            let clients = known.clients.values();
            clients
                .filter_map(|at| self.clients.get(*at).last_decline.as_ref())
                .max_by_key(|last| last.at)
        });
        match last {
            Some(last) if !last.text.is_empty() && !last.code.is_empty() => {
                format!("the framework declined it: {} ({})", last.text, last.code)
            }
            Some(last) if !last.text.is_empty() || !last.code.is_empty() => {
                format!("the framework declined it: {}{}", last.text, last.code)
            }
            Some(_) | None => "the framework declined it without a reason".to_owned(),
        }
    }
}

fn framework_detail(framework: Option<&Framework>, reason: SkipReason) -> String {
    if reason == SkipReason::Unacknowledged {
        let limit = argosy_state::limits::UNACKNOWLEDGED_TASKS;
        format!("{limit} ended tasks are not acknowledged")
    } else if reason == SkipReason::Behind {
        "the framework reads its events too slowly".to_owned()
    } else if framework.is_some_and(|framework| framework.removing) {
        "the framework is being removed".to_owned()
    } else {
        "the framework is not connected".to_owned()
    }
}

impl ExplainInputs {
    /// Returns an explanation without agents.
    #[must_use]
    pub fn begin(&self) -> DemandExplanation {
        DemandExplanation {
            wanted: self.wanted.clone(),
            last_decline: self.last_decline.clone(),
            round: self.round,
            ..DemandExplanation::default()
        }
    }

    /// Evaluates one more agent, as described by `registry` and `known`.
    pub fn evaluate(
        &self,
        explanation: &mut DemandExplanation,
        registry: &Registry,
        agent: &Agent,
        known: &AgentInputs,
    ) {
        let (reason, detail) = self.best_reason(registry, agent, known);
        *explanation.counts.entry(reason).or_default() += 1;
        if matches!(reason, SkipReason::Filtered | SkipReason::Offered)
            && is_partly_held(registry, agent, known)
        {
            *explanation.remainders.entry(reason).or_default() += 1;
        }
        if reason == SkipReason::TooSmall {
            let this = (agent.id, agent.total().clone());
            explanation.nearest = Some(match explanation.nearest.take() {
                Some(best) => nearer(&self.wanted, best, this),
                None => this,
            });
        }
        let bytes = explanation.detail_bytes + detail.len();
        if explanation.skipped.len() < self.max_skipped && bytes <= DETAIL_BYTES {
            explanation.detail_bytes = bytes;
            explanation.skipped.push(SkippedAgent {
                agent: agent.id,
                reason,
                detail,
            });
        }
        explanation.next = Some(agent.id);
    }

    /// Returns the best result of any role: the later a check fails, the closer the agent was.
    fn best_reason(
        &self,
        registry: &Registry,
        agent: &Agent,
        known: &AgentInputs,
    ) -> (SkipReason, String) {
        if let Some((reason, detail)) = &self.obstacle {
            return (*reason, detail.clone());
        }
        let checked = self
            .roles
            .iter()
            .enumerate()
            .map(|(at, eyes)| {
                let is_hidden = known.hidden.contains(&at);
                self.evaluate_role(registry, agent, eyes, (known, is_hidden))
            })
            .max_by_key(|(reason, _)| *reason);
        checked.unwrap_or_else(|| {
            (
                SkipReason::NotActive,
                "the framework is not in that role".to_owned(),
            )
        })
    }

    fn evaluate_role(
        &self,
        registry: &Registry,
        agent: &Agent,
        role: &RoleVisibility,
        (known, is_hidden): (&AgentInputs, bool),
    ) -> (SkipReason, String) {
        if role.suppressed {
            let detail = format!("the framework has suppressed offers in role {}", role.role);
            return (SkipReason::Suppressed, detail);
        }
        if let Some(reason) = mode_obstacle(agent, || known.linked) {
            return (reason, format!("it is {reason}"));
        }
        let total = agent.total();
        let enough = |part: &Resources| {
            if self.wanted.is_empty() {
                role.minimum.is_met(part)
            } else {
                part.contains(&self.wanted)
            }
        };
        if !has(total, &self.wanted, enough(total)) {
            return (SkipReason::TooSmall, self.shortfall("it has", total));
        }
        if !enough(&role.visibility.visible_part(total)) {
            let detail = "what would do is reserved, or of a kind that was not asked for";
            return (SkipReason::NotVisible, detail.to_owned());
        }
        self.evaluate_free(registry, agent.id, role, (known, is_hidden), &enough)
    }

    fn evaluate_free(
        &self,
        registry: &Registry,
        agent: AgentId,
        role: &RoleVisibility,
        (known, is_hidden): (&AgentInputs, bool),
        enough: &dyn Fn(&Resources) -> bool,
    ) -> (SkipReason, String) {
        let free = registry.free(agent);
        let left = free.minus_saturating(&known.offered);
        let visible = role.visibility.visible_part(&left);
        if let Some(detail) = self.over_limit(role, &visible) {
            return (SkipReason::OverLimit, detail);
        }
        if is_hidden && !left.is_empty() {
            return (SkipReason::Filtered, self.declined.clone());
        }
        if enough(&visible) {
            return if role.minimum.is_met(&visible) {
                (
                    SkipReason::Ready,
                    "it is offered as soon as it is its turn".to_owned(),
                )
            } else {
                let detail = format!("{visible} is free, less than {}", role.minimum);
                (SkipReason::BelowMinimum, detail)
            };
        }
        if enough(&role.visibility.visible_part(&free)) {
            return offered(known);
        }
        let tasks = registry.agent_index(agent);
        let tasks = tasks.map_or(0, |index| index.live);
        if self.wanted.is_empty() && !visible.is_empty() {
            let detail = format!("{visible} is free, less than {}", role.minimum);
            return (SkipReason::BelowMinimum, detail);
        }
        let detail = format!(
            "{}; {tasks} tasks use the rest",
            self.shortfall("free", &left)
        );
        (SkipReason::Busy, detail)
    }

    fn over_limit(&self, role: &RoleVisibility, visible: &Resources) -> Option<String> {
        let limit = role.limit.as_ref()?;
        let wanted = if self.wanted.is_empty() {
            visible
        } else {
            &self.wanted
        };
        let amounts = self.kinds.amounts(wanted);
        (!limit.headroom.has(&amounts))
            .then(|| format!("role {} is limited to {}", role.role, limit.text))
    }

    /// Returns the first requested resource that `have` falls short of: "asked cpus:64; it has
    /// cpus:2".
    fn shortfall(&self, verb: &str, have: &Resources) -> String {
        let short = self.wanted.iter().find(|asked| !covers(have, asked));
        let Some(asked) = short else {
            return format!("{verb} {}", text(have));
        };
        let same = have
            .iter()
            .filter(|resource| resource.identity.name == asked.identity.name);
        let same = Resources::collect(same.cloned()).unwrap_or_default();
        let nothing = format!("no {}", asked.identity.name);
        let same = if same.is_empty() {
            nothing
        } else {
            same.to_string()
        };
        let asked = Resources::collect([asked.clone()]).unwrap_or_default();
        format!("asked {asked}; {verb} {same}")
    }
}

/// Returns whether tasks, or offers to other frameworks, hold a part of an agent.
fn is_partly_held(registry: &Registry, agent: &Agent, known: &AgentInputs) -> bool {
    let own = usize::from(known.own_offer.is_some());
    known.offers > own || registry.free(agent.id) != *agent.total()
}

/// Describes an agent that has enough free resources which are on offer.
fn offered(known: &AgentInputs) -> (SkipReason, String) {
    match known.own_offer {
        Some(id) => {
            let detail = format!("offer {id} awaits the framework's answer");
            (SkipReason::Offered, detail)
        }
        None => {
            let detail = format!("{} open offers to other frameworks hold it", known.offers);
            (SkipReason::OfferedElsewhere, detail)
        }
    }
}

/// Returns whether an empty agent would suffice: amounts of a name count regardless of their
/// reservation.
fn has(total: &Resources, wanted: &Resources, enough: bool) -> bool {
    enough || (!wanted.is_empty() && wanted.iter().all(|asked| covers(total, asked)))
}

fn text(resources: &Resources) -> String {
    if resources.is_empty() {
        "nothing".to_owned()
    } else {
        resources.to_string()
    }
}
