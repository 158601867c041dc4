//! Long random runs of events in any order: nothing is offered twice, nothing is withheld, and the
//! cache agrees with the facts.

use std::sync::Arc;

use argosy_state::command::{CallAction, OfferTerms, OperatorOperation};
use argosy_state::ids::{AgentId, FrameworkId, Timestamp};
use argosy_state::resources::Resources;

use super::fixture::{World, parse, role};
use crate::allocator::{AllocatorSettings, StreamState};

/// A small pseudo-random generator: the same seed gives the same run.
pub(crate) struct TestRng(u64);

impl TestRng {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed | 1)
    }

    pub(crate) fn below(&mut self, bound: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) as usize % bound.max(1)
    }

    fn pick<T: Clone>(&mut self, from: &[T]) -> Option<T> {
        from.get(self.below(from.len())).cloned()
    }
}

impl World {
    /// Checks that the amounts of each account in the tree equal those in registry and book.
    pub(crate) fn check_mirrors(&mut self) {
        let allocator = &self.allocator;
        for (id, mirror) in &allocator.clients.frameworks {
            let index = self.registry.framework_index(*id).unwrap();
            for (role, at) in &mirror.clients {
                let mut sum = index.used.get(role).cloned().unwrap_or_default();
                for (offer, _) in self.book.offers_of(*id) {
                    if offer.role == *role {
                        sum = sum.plus(&scalars(&offer.resources)).unwrap();
                    }
                }
                let own = allocator.tree.own(*at);
                assert_eq!(own, allocator.kinds.amounts(&sum), "{id} in {role}");
            }
        }
        for (role, at) in &allocator.roles {
            let mut sum = self.registry.role_used(role).cloned().unwrap_or_default();
            for (offer, _) in self.book.iter().filter(|(offer, _)| offer.role == *role) {
                sum = sum.plus(&scalars(&offer.resources)).unwrap();
            }
            let own = allocator.tree.own(*at);
            assert_eq!(own, allocator.kinds.amounts(&sum), "role {role}");
        }
        for agent in self.registry.agents() {
            let at = allocator.agents.slot(agent.id).unwrap();
            let mirror = allocator.agents.get(at);
            let left = self.registry.free(agent.id);
            let left = left.minus_saturating(&self.book.offered_on(agent.id));
            assert!(
                mirror.free.is_empty() || mirror.free == left,
                "{}",
                agent.id
            );
        }
    }

    /// Checks that no agent that is worth an offer is left over while a client that takes offers
    /// could have it. Resources that wait to be merged with two open offers are an exception: a
    /// full round offers them within a second of the time from which that is allowed.
    pub(crate) fn check_no_unoffered_resources(&mut self) {
        for client in self.allocator.clients.slots() {
            if !self.allocator.tree.is_active(client) {
                continue;
            }
            for agent in self.registry.agents() {
                let at = self.allocator.agents.slot(agent.id).unwrap();
                let is_offered = self.allocator.free_part(client, at).is_none()
                    || self
                        .allocator
                        .offers_to_merge(&self.book, client, at)
                        .is_some();
                assert!(
                    is_offered,
                    "{} could be offered to {:?}",
                    agent.id,
                    self.allocator.clients.get(client)
                );
            }
        }
    }
}

fn scalars(resources: &Resources) -> Resources {
    let only = resources
        .iter()
        .filter(|resource| resource.value.scalar_milli() > 0);
    Resources::collect(only.cloned()).unwrap()
}

/// Checks that the offered and used resources of an agent never exceed its total, unit by unit.
fn check_conservation(world: &World) {
    for agent in world.registry.agents() {
        let used = &world.registry.agent_index(agent.id).unwrap().used;
        let mut sum = used.clone();
        for (offer, _) in world.book.offers_on(agent.id) {
            if offer.offer_revision == agent.offer_revision {
                sum = sum.plus(&offer.resources).expect("no unit is held twice");
            }
        }
        let total = agent.total();
        let is_smaller_now = !total.contains(used);
        assert!(is_smaller_now || total.contains(&sum), "{}", agent.id);
    }
}

struct RandomRun {
    world: World,
    rng: TestRng,
    agents: Vec<AgentId>,
    frameworks: Vec<FrameworkId>,
    held_offers: Vec<Arc<OfferTerms>>,
    tasks: Vec<(FrameworkId, String)>,
    serial: u64,
}

impl RandomRun {
    fn new(seed: u64, settings: AllocatorSettings) -> Self {
        Self {
            world: World::with(settings),
            rng: TestRng::new(seed),
            agents: Vec::new(),
            frameworks: Vec::new(),
            held_offers: Vec::new(),
            tasks: Vec::new(),
            serial: 0,
        }
    }

    fn agent_text(&mut self) -> String {
        let mut text = format!(
            "cpus:{};mem:{};ports:[1000-{}]",
            1 + self.rng.below(8),
            64 * self.rng.below(16),
            1000 + self.rng.below(50)
        );
        match self.rng.below(6) {
            0 => text.push_str(";gpus:2"),
            1 => text.push_str(";bandwidth:100"),
            _ => {}
        }
        text
    }

    fn change(&mut self) {
        match self.rng.below(16) {
            0 if self.agents.len() < 14 => {
                let text = self.agent_text();
                self.agents.push(self.world.agent(&text));
            }
            1 if self.frameworks.len() < 8 => self.add_framework(),
            2 | 3 => self.accept(),
            4 | 5 => self.finish(),
            6..=8 => self.decline(),
            9 => self.disturb_agent(),
            10 => self.disturb_framework(),
            11 => {
                let lapsed = self.world.book.expire(self.world.now, 100);
                self.held_offers.retain(|offer| !lapsed.contains(offer));
            }
            12 => {
                let ms = self.rng.below(3_000) as u64;
                self.world.wait_ms(ms);
            }
            13 => {
                let (dice, agents) = (&mut self.rng, &self.agents);
                if let Some(agent) = dice.pick(agents) {
                    if !self.world.links.unlinked.remove(&agent) {
                        self.world.links.unlinked.insert(agent);
                    }
                    self.world.allocator.agent_changed(agent);
                }
            }
            14 => {
                let weight_milli = 500 + self.rng.below(3_000) as u64;
                self.world.operate(OperatorOperation::SetWeight {
                    role: role("a"),
                    weight_milli,
                });
            }
            _ => {}
        }
    }

    fn add_framework(&mut self) {
        let roles: &[&str] = [&["a"][..], &["b"], &["a", "b"], &["c"]][self.rng.below(4)];
        let labels: &[(&str, &str)] = [
            &[][..],
            &[("argosy.offers/gpus", "true")],
            &[(crate::allocator::MINIMUM_LABEL, "cpus:2")],
        ][self.rng.below(3)];
        self.frameworks
            .push(self.world.framework_with(roles, labels));
    }

    fn take_offer(&mut self) -> Option<Arc<OfferTerms>> {
        let book = &self.world.book;
        let now = self.world.now;
        self.held_offers
            .retain(|offer| book.get(offer.id).is_some() && offer.expires > now);
        let at = self.rng.below(self.held_offers.len());
        (!self.held_offers.is_empty()).then(|| self.held_offers.swap_remove(at))
    }

    fn accept(&mut self) {
        let Some(offer) = self.take_offer() else {
            return;
        };
        self.serial += 1;
        let id = format!("t{}", self.serial);
        let cpus = offer.resources.scalar_milli("cpus");
        let take = parse(&format!("cpus:{}", (cpus / 2_000).max(1)));
        if offer.resources.contains(&take) {
            self.world.accept(&offer, &[(&id, &take.to_string())]);
            self.tasks.push((offer.framework, id));
        } else {
            self.world.decline(&offer, Some(1));
        }
    }

    fn finish(&mut self) {
        let at = self.rng.below(self.tasks.len());
        let Some((framework, id)) = self.tasks.get(at).cloned() else {
            return;
        };
        let key = argosy_state::ids::TaskKey {
            framework,
            task: argosy_state::ids::TaskId::new(&id).unwrap(),
        };
        let Some(task) = self.world.registry.task(&key) else {
            self.tasks.swap_remove(at);
            return;
        };
        let agent = self.world.registry.agent(task.agent).unwrap();
        if agent.mode() == argosy_state::agent::AgentMode::Registered {
            self.world.finish(framework, &id);
            self.tasks.swap_remove(at);
        }
    }

    fn decline(&mut self) {
        if let Some(offer) = self.take_offer() {
            let filter_ms = self.rng.pick(&[None, Some(0), Some(1), Some(60_000)]);
            self.world.decline(&offer, filter_ms.flatten());
        }
    }

    fn disturb_agent(&mut self) {
        let Some(agent) = self.rng.pick(&self.agents) else {
            return;
        };
        let mode = self.world.registry.agent(agent).unwrap().mode();
        let text = self.agent_text();
        match (self.rng.below(3), mode) {
            (0, argosy_state::agent::AgentMode::Registered) => self.world.mark_unreachable(agent),
            (1, _) => self.world.resize(agent, &text),
            (2, argosy_state::agent::AgentMode::Registered) => {
                self.world.operate(OperatorOperation::Deactivate(agent));
            }
            (2, argosy_state::agent::AgentMode::Deactivated) => {
                self.world.operate(OperatorOperation::Reactivate(agent));
            }
            _ => {}
        }
        self.world.book.rescind_agent(agent);
    }

    fn disturb_framework(&mut self) {
        let Some(framework) = self.rng.pick(&self.frameworks) else {
            return;
        };
        match self.rng.below(6) {
            0 => drop(self.world.call(framework, CallAction::Suppress(Vec::new()))),
            1 | 2 => drop(self.world.call(framework, CallAction::Revive(Vec::new()))),
            3 => {
                let stream =
                    [StreamState::None, StreamState::Behind, StreamState::Open][self.rng.below(3)];
                self.world.links.streams.insert(framework, stream);
                self.world.allocator.framework_changed(framework);
            }
            4 => {
                let session = 10_000 + self.serial;
                self.serial += 1;
                let roles: &[&str] = [&["a"][..], &["b", "c"]][self.rng.below(2)];
                let info = World::info(roles, &[]);
                self.world.subscribe(Some(framework), session, info);
                self.world.book.rescind_other_sessions(framework, session);
            }
            _ => {
                self.frameworks.retain(|other| *other != framework);
                self.world.operate(OperatorOperation::Teardown(framework));
                self.world.book.rescind_framework(framework);
            }
        }
    }
}

#[test]
fn no_resource_is_offered_twice_or_withheld_in_random_runs() {
    for seed in 1..=40 {
        let settings = AllocatorSettings {
            filters: if seed % 5 == 0 { 6 } else { 10_000 },
            ..AllocatorSettings::default()
        };
        let mut run = RandomRun::new(seed * 0x9e37_79b9, settings);
        for step in 0..400 {
            for _ in 0..run.rng.below(4) {
                run.change();
                check_conservation(&run.world);
            }
            let offers = run.world.offers();
            check_conservation(&run.world);
            run.held_offers.extend(offers);
            assert!(run.world.now >= Timestamp(1), "seed {seed}, step {step}");
        }
        assert!(run.serial > 20, "seed {seed} has accepted next to nothing");
    }
}

#[test]
fn split_turns_complete_and_withhold_nothing() {
    let mut world = World::new();
    for _ in 0..200 {
        world.agent("cpus:4;mem:256");
    }
    for at in 0..30 {
        world.framework(&[["a", "b", "c"][at % 3]]);
    }
    let mut offers = 0;
    let mut turns = 0;
    loop {
        let round = world.step(crate::allocator::TurnBudget(7));
        assert!(round.offers.len() <= 7, "a turn has gone beyond its budget");
        offers += round.offers.len();
        turns += 1;
        if !round.more {
            break;
        }
    }
    assert_eq!(offers, 200);
    assert!(turns > 50);
    world.check();
}
