//! Why a framework is not offered agents: each judged once, under the first check that fails.
//!
//! Computed when asked, from the facts, the book and the filters; a bounded number of agents a call.

use argosy_state::Registry;
use argosy_state::agent::Agent;
use argosy_state::framework::Framework;
use argosy_state::ids::{AgentId, FrameworkId, Role};
use argosy_state::resources::{Resource, Resources};

use super::Allocator;
use super::eligibility::{Demand, Minimum, Sight, agent_obstacle, framework_obstacle};
use super::reason::{Explanation, Reason, Verdict};
use crate::offers::OfferBook;

/// What is to be explained.
#[derive(Debug, Clone)]
pub struct Question {
    /// To whom.
    pub framework: FrameworkId,
    /// In which role; `None` takes the best of all its roles.
    pub role: Option<Role>,
    /// What it waits for; `None` means the least that is worth an offer.
    pub wanted: Option<Resources>,
    /// Agents behind this one; the default is from the first.
    pub after: AgentId,
    /// Agents judged at most; about a microsecond each, and the leader's loop waits for them.
    pub agents: usize,
    /// Verdicts kept at most; beyond them only the counts go on.
    pub verdicts: usize,
}

impl Question {
    /// Why `framework` is not offered `wanted`: 2,000 agents a call, 100 verdicts.
    #[must_use]
    pub fn new(framework: FrameworkId, wanted: Option<Resources>) -> Self {
        Self {
            framework,
            role: None,
            wanted,
            after: AgentId(0),
            agents: 2_000,
            verdicts: 100,
        }
    }
}

/// Everything that one question is judged on.
struct Scene<'a> {
    allocator: &'a Allocator,
    registry: &'a Registry,
    book: &'a OfferBook,
    demand: Demand<'a>,
    framework: Option<&'a Framework>,
    obstacle: Option<Reason>,
    roles: Vec<Eyes>,
    wanted: &'a Resources,
}

/// A role with what it can see and is content with.
struct Eyes {
    role: Role,
    sight: Sight,
    minimum: Minimum,
}

impl Allocator {
    /// Judges agents for a framework. Pages by [`Explanation::next`].
    #[must_use]
    pub fn explain(
        &self,
        registry: &Registry,
        book: &OfferBook,
        demand: Demand<'_>,
        question: &Question,
    ) -> Explanation {
        let framework = registry.framework(question.framework);
        let nothing = Resources::none();
        let scene = Scene {
            allocator: self,
            registry,
            book,
            demand,
            framework,
            obstacle: framework.map_or(Some(Reason::NotActive), |framework| {
                framework_obstacle(registry, &demand, framework)
            }),
            roles: framework.map_or_else(Vec::new, |framework| self.eyes(framework, question)),
            wanted: question.wanted.as_ref().unwrap_or(&nothing),
        };
        let mut explanation = Explanation {
            wanted: scene.wanted.clone(),
            last_decline: self.last_decline(question),
            round: self.rounds,
            ..Explanation::default()
        };
        let mut agents = registry.agents_after(question.after);
        for agent in agents.by_ref().take(question.agents.max(1)) {
            let (reason, detail) = scene.judge(agent);
            *explanation.counts.entry(reason).or_default() += 1;
            if reason == Reason::TooSmall {
                let this = (agent.id, agent.info.resources.clone());
                explanation.nearest = Some(match explanation.nearest.take() {
                    Some(best) => nearer(scene.wanted, best, this),
                    None => this,
                });
            }
            if explanation.verdicts.len() < question.verdicts {
                explanation.verdicts.push(Verdict {
                    agent: agent.id,
                    reason,
                    detail,
                });
            }
            explanation.next = Some(agent.id);
        }
        if agents.next().is_none() {
            explanation.next = None;
        }
        explanation
    }

    fn eyes(&self, framework: &Framework, question: &Question) -> Vec<Eyes> {
        let roles = framework.info.roles.iter();
        let asked = roles.filter(|role| question.role.as_ref().is_none_or(|asked| asked == *role));
        let own = Minimum::of(&framework.info);
        asked
            .map(|role| Eyes {
                role: role.clone(),
                sight: Sight::new(&framework.info, role),
                minimum: own.clone().unwrap_or_else(|| self.settings.minimum.clone()),
            })
            .collect()
    }

    fn last_decline(&self, question: &Question) -> Option<super::LastDecline> {
        let known = self.clients.frameworks.get(&question.framework)?;
        let asked = known
            .clients
            .iter()
            .filter(|(role, _)| question.role.as_ref().is_none_or(|asked| asked == *role));
        let declines = asked.filter_map(|(_, at)| self.clients.get(*at).last_decline.clone());
        declines.max_by_key(|last| last.at)
    }
}

impl Scene<'_> {
    /// The best that any of the roles gets: the later a check fails, the nearer the agent was.
    fn judge(&self, agent: &Agent) -> (Reason, String) {
        if let Some(reason) = self.obstacle {
            return (reason, self.framework_detail(reason));
        }
        let judged = self
            .roles
            .iter()
            .map(|eyes| self.judge_role(agent, eyes))
            .max_by_key(|(reason, _)| *reason);
        judged.unwrap_or_else(|| {
            (
                Reason::NotActive,
                "the framework is not in that role".to_owned(),
            )
        })
    }

    fn judge_role(&self, agent: &Agent, eyes: &Eyes) -> (Reason, String) {
        let suppressed = self
            .framework
            .is_some_and(|framework| framework.suppressed.contains(&eyes.role));
        if suppressed {
            let detail = format!("the framework has suppressed offers in role {}", eyes.role);
            return (Reason::Suppressed, detail);
        }
        if let Some(reason) = agent_obstacle(&self.demand, agent) {
            return (reason, format!("it is {reason}"));
        }
        let total = &agent.info.resources;
        let enough = |part: &Resources| {
            if self.wanted.is_empty() {
                eyes.minimum.is_met(part)
            } else {
                part.contains(self.wanted)
            }
        };
        if !has(total, self.wanted, enough(total)) {
            return (Reason::TooSmall, self.lack("it has", total));
        }
        if !enough(&eyes.sight.part(total)) {
            let detail = "what would do is reserved, or of a kind that was not asked for";
            return (Reason::NotVisible, detail.to_owned());
        }
        self.judge_free(agent, eyes, &enough)
    }

    fn judge_free(
        &self,
        agent: &Agent,
        eyes: &Eyes,
        enough: &dyn Fn(&Resources) -> bool,
    ) -> (Reason, String) {
        let free = self.registry.free(agent.id);
        let left = free.minus_saturating(&self.book.offered_on(agent.id));
        let visible = eyes.sight.part(&left);
        if let Some(detail) = self.over_limit(eyes, &visible) {
            return (Reason::OverLimit, detail);
        }
        if self.is_filtered(agent.id, &eyes.role) && !left.is_empty() {
            return (Reason::Filtered, self.decline_detail());
        }
        if enough(&visible) {
            return if eyes.minimum.is_met(&visible) {
                (
                    Reason::Ready,
                    "it is offered as soon as it is its turn".to_owned(),
                )
            } else {
                let detail = format!("{visible} is free, less than {}", eyes.minimum);
                (Reason::BelowMinimum, detail)
            };
        }
        if enough(&eyes.sight.part(&free)) {
            return self.judge_offered(agent);
        }
        let tasks = self.registry.agent_index(agent.id);
        let tasks = tasks.map_or(0, |index| index.live);
        if self.wanted.is_empty() && !visible.is_empty() {
            let detail = format!("{visible} is free, less than {}", eyes.minimum);
            return (Reason::BelowMinimum, detail);
        }
        let detail = format!("{}; {tasks} tasks use the rest", self.lack("free", &left));
        (Reason::Busy, detail)
    }

    /// Enough is free, but it is on offer.
    fn judge_offered(&self, agent: &Agent) -> (Reason, String) {
        let mut others = 0;
        for (promise, _) in self.book.offers_on(agent.id) {
            if self
                .framework
                .is_some_and(|framework| framework.id == promise.framework)
            {
                let detail = format!("offer {} awaits the framework's answer", promise.id);
                return (Reason::Offered, detail);
            }
            others += 1;
        }
        let detail = format!("{others} open offers to other frameworks hold it");
        (Reason::OfferedElsewhere, detail)
    }

    fn is_filtered(&self, agent: AgentId, role: &Role) -> bool {
        let allocator = self.allocator;
        let client = self
            .framework
            .and_then(|framework| allocator.clients.place(framework.id, role));
        let agent = allocator.agents.place(agent);
        client
            .zip(agent)
            .is_some_and(|(client, agent)| allocator.filters.hides(client, agent))
    }

    fn over_limit(&self, eyes: &Eyes, visible: &Resources) -> Option<String> {
        let allocator = self.allocator;
        let client = allocator.clients.place(self.framework?.id, &eyes.role)?;
        let wanted = if self.wanted.is_empty() {
            visible
        } else {
            self.wanted
        };
        let amounts = allocator.kinds.amounts(wanted);
        let limit = allocator.limits.get(&eyes.role)?;
        (!allocator.tree.has_room(client, &amounts))
            .then(|| format!("role {} is limited to {limit}", eyes.role))
    }

    fn decline_detail(&self) -> String {
        let known = self
            .framework
            .and_then(|framework| self.allocator.clients.frameworks.get(&framework.id));
        let last = known.and_then(|known| {
            let clients = known.clients.values();
            clients
                .filter_map(|at| self.allocator.clients.get(*at).last_decline.as_ref())
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

    fn framework_detail(&self, reason: Reason) -> String {
        if reason == Reason::Unacknowledged {
            let limit = argosy_state::limits::UNACKNOWLEDGED_TASKS;
            format!("{limit} ended tasks are not acknowledged")
        } else if reason == Reason::Behind {
            "the framework reads its events too slowly".to_owned()
        } else if self.framework.is_some_and(|framework| framework.removing) {
            "the framework is being removed".to_owned()
        } else {
            "the framework is not connected".to_owned()
        }
    }

    /// The first thing asked for that `have` falls short of: "asked cpus:64; it has cpus:2".
    fn lack(&self, verb: &str, have: &Resources) -> String {
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

/// Whether the agent could do when empty: amounts of a name count whatever they are reserved for.
fn has(total: &Resources, wanted: &Resources, enough: bool) -> bool {
    enough || (!wanted.is_empty() && wanted.iter().all(|asked| covers(total, asked)))
}

fn covers(have: &Resources, asked: &Resource) -> bool {
    let milli = asked.value.scalar_milli();
    if milli > 0 {
        have.scalar_milli(&asked.identity.name) >= milli
    } else {
        Resources::collect([asked.clone()]).is_some_and(|asked| have.contains(&asked))
    }
}

fn text(resources: &Resources) -> String {
    if resources.is_empty() {
        "nothing".to_owned()
    } else {
        resources.to_string()
    }
}

/// The one of two agents that falls less short of what is wanted: by the kind it has the smallest
/// part of. The first of two equals.
pub(super) fn nearer(
    wanted: &Resources,
    first: (AgentId, Resources),
    second: (AgentId, Resources),
) -> (AgentId, Resources) {
    // The worst kind as (have, asked); compared by cross-multiplication.
    let worst = |have: &Resources| {
        let parts = wanted.iter().map(|asked| {
            let asked_milli = asked.value.scalar_milli();
            let have_milli = have.scalar_milli(&asked.identity.name).min(asked_milli);
            if asked_milli > 0 {
                (i128::from(have_milli), i128::from(asked_milli))
            } else {
                (i128::from(covers(have, asked)), 1)
            }
        });
        parts
            .min_by(|a, b| (a.0 * b.1).cmp(&(b.0 * a.1)))
            .unwrap_or((0, 1))
    };
    let (a, b) = (worst(&first.1), worst(&second.1));
    if b.0 * a.1 > a.0 * b.1 { second } else { first }
}
