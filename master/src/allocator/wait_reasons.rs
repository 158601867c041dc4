//! Determining the reasons for which demands wait: all agents are evaluated for one demand after
//! the other, a part in each call. So the reasons follow the present state at a bounded cost.

use argosy_state::Registry;
use argosy_state::ids::{FrameworkId, Role};

use super::Allocator;
use super::eligibility::LinkStates;
use super::explain::ExplainQuery;
use super::skip_reason::DemandExplanation;
use super::waiting::WaitReason;
use crate::offers::OfferBook;

/// The cost of preparing the evaluation of a demand, in agents.
const PREPARATION: usize = 16;

/// The evaluation in progress.
#[derive(Debug, Default)]
pub(super) struct ReasonPass {
    demand: Option<EvaluatedDemand>,
    /// The demand that was evaluated last.
    last: u32,
}

#[derive(Debug)]
struct EvaluatedDemand {
    client: u32,
    framework: FrameworkId,
    role: Role,
    found: DemandExplanation,
}

impl Allocator {
    /// Evaluates about `agents` agents. Begins where the last call ended, and evaluates no demand
    /// twice.
    pub fn update_wait_reasons(
        &mut self,
        registry: &Registry,
        book: &OfferBook,
        links: LinkStates<'_>,
        agents: usize,
    ) {
        let mut left = agents;
        for _ in 0..self.waiting.len() {
            let begun = self.reason_pass.demand.take();
            let Some(mut demand) = begun.or_else(|| self.next_demand()) else {
                return;
            };
            let query = ExplainQuery {
                role: Some(demand.role.clone()),
                after: demand.found.next.unwrap_or_default(),
                agents: left,
                max_skipped: 0,
                ..ExplainQuery::new(demand.framework, None)
            };
            let page = self.explain(registry, book, links, &query);
            left = left.saturating_sub(page.agents() as usize + PREPARATION);
            demand.found.extend(page);
            if demand.found.next.is_some() {
                self.reason_pass.demand = Some(demand);
                return;
            }
            self.reason_pass.last = demand.client;
            // The client may have been removed, and its place be that of another one.
            if self.clients.slot(demand.framework, &demand.role) == Some(demand.client) {
                let reason = WaitReason::of(&demand.found);
                self.waiting.set_reason(demand.client, reason);
            }
            if left == 0 {
                return;
            }
        }
    }

    fn next_demand(&self) -> Option<EvaluatedDemand> {
        let client = self.waiting.next_after(self.reason_pass.last)?;
        let facts = self.clients.get(client);
        Some(EvaluatedDemand {
            client,
            framework: facts.framework,
            role: facts.role.clone(),
            found: DemandExplanation::default(),
        })
    }
}
