//! Making offers: what a client may be given of an agent, and the order to it.

use argosy_state::command::Promise;
use argosy_state::ids::OfferId;
use argosy_state::resources::Resources;

use super::Allocator;
use super::turn::Turn;

/// What of an agent's free resources a client may be given.
#[derive(Debug)]
pub(super) enum Part {
    /// All of it.
    Whole,
    /// Some: the rest is not for its eyes.
    Some(Resources),
}

impl Allocator {
    /// What a client may be given of an agent now; `None` for nothing.
    pub(super) fn part(&self, client: u32, agent: u32) -> Option<Part> {
        if !self.agents.some.contains(agent) || self.filters.hides(client, agent) {
            return None;
        }
        let facts = self.clients.get(client);
        let mirror = self.agents.get(agent);
        let minimum = facts.minimum.as_ref().unwrap_or(&self.settings.minimum);
        if mirror.plain {
            let ample = match &facts.minimum {
                None => self.agents.ample.contains(agent),
                Some(minimum) => minimum.is_met(&mirror.free),
            };
            let fits = ample && self.tree.has_room(client, mirror.amounts);
            return fits.then_some(Part::Whole);
        }
        let part = facts.sight.part(&mirror.free);
        let fits = minimum.is_met(&part) && self.tree.has_room(client, self.kinds.amounts(&part));
        fits.then_some(Part::Some(part))
    }

    /// Opens the offer; the mirrors follow at once.
    pub(super) fn offer(&mut self, turn: &mut Turn<'_>, client: u32, agent: u32, part: Part) {
        let (resources, amounts) = match part {
            Part::Whole => self.agents.take_all(agent),
            Part::Some(part) => {
                let rest = self.agents.get(agent).free.minus_saturating(&part);
                self.agents
                    .set_free(agent, rest, &self.kinds, &self.settings.minimum);
                let amounts = self.kinds.amounts(&part);
                (part, amounts)
            }
        };
        self.tree.charge(client, amounts);
        let facts = self.clients.get_mut(client);
        facts.unmet = false;
        let mirror = self.agents.get(agent);
        let promise = Promise {
            id: OfferId::default(),
            framework: facts.framework,
            session: facts.session,
            agent: mirror.id,
            role: facts.role.clone(),
            resources,
            promise: mirror.promise,
            expires: turn.now.plus_ms(facts.offer_timeout_ms),
        };
        turn.offers.push(turn.book.open(promise));
        turn.spend(1);
    }

    /// Offers one agent to whoever is next and can use it.
    pub(super) fn offer_agent(&mut self, turn: &mut Turn<'_>, agent: u32) {
        while self.agents.some.contains(agent) {
            self.tree.settle(&self.kinds);
            let mut asked = 0;
            let found = self.tree.first(&mut |client| {
                asked += 1;
                self.part(client, agent)
            });
            // A client that is passed over costs a few dozen nanoseconds.
            turn.spend(1 + asked / 32);
            let Some((client, part)) = found else {
                return;
            };
            self.offer(turn, client, agent, part);
        }
    }
}
