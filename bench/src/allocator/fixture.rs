//! A registry of many agents and frameworks, with a leader's offer book and allocator.

use std::sync::Arc;

use argosy_master::allocator::{
    AllocationRound, Allocator, AllocatorSettings, DeclinedResources, LinkStates, StreamState,
    TurnBudget,
};
use argosy_master::offers::OfferBook;
use argosy_state::Registry;
use argosy_state::actor::Actor;
use argosy_state::agent::AgentInfo;
use argosy_state::command::{
    Command, LogEntry, OfferTerms, OpenEpoch, ProposedCommand, RegisterAgent, Subscribe,
};
use argosy_state::framework::FrameworkInfo;
use argosy_state::ids::{AgentId, FrameworkId, NodeId, Role, Ticket, Timestamp};
use argosy_state::resources::Resources;

/// Resources of each agent.
pub(super) const RESOURCES: &str = "cpus:24;mem:4096;disk:4096;ports:[31000-32000]";

pub(super) struct AllocatorFixture {
    registry: Registry,
    book: OfferBook,
    allocator: Allocator,
    now: Timestamp,
    agents: u64,
}

impl AllocatorFixture {
    pub(super) fn new(agents: u64, frameworks: u64, roles: u64) -> Self {
        let mut registry = Registry::new();
        let mut index = 0;
        let mut apply = |command| {
            index += 1;
            let ticket = Ticket {
                epoch: registry.epoch(),
                serial: index,
            };
            let entry = LogEntry {
                at: Timestamp(1),
                commands: vec![ProposedCommand {
                    ticket,
                    actor: Actor::default(),
                    command,
                }],
            };
            let applied = registry.apply(index, &entry);
            assert!(applied.iter().all(|one| one.outcome.is_ok()), "{applied:?}");
        };
        apply(Command::OpenEpoch(OpenEpoch {
            node: NodeId(1),
            process: 1,
            term: 1,
            entropy: [1; 32],
            wall_ms: 0,
            level: argosy_state::level::Level::NEWEST,
        }));
        (1..=agents).for_each(|nonce| apply(register(nonce)));
        (1..=frameworks).for_each(|session| apply(subscribe(session, roles)));
        Self {
            book: OfferBook::new(registry.epoch()),
            allocator: Allocator::new(AllocatorSettings {
                filters: usize::MAX,
                ..AllocatorSettings::default()
            }),
            registry,
            now: Timestamp(1),
            agents,
        }
    }

    pub(super) fn step(&mut self, budget: TurnBudget) -> AllocationRound {
        let demand = LinkStates {
            linked: &|_| true,
            stream: &|_| StreamState::Open,
        };
        self.allocator
            .step(&self.registry, &mut self.book, demand, self.now, budget)
    }

    /// Advances to the time of the next full round, the safety net.
    pub(super) fn next_second(&mut self) {
        self.now = self.now.plus_ms(1_000);
    }

    /// Withdraws all offers, so that everything is free.
    pub(super) fn withdraw_all(&mut self) {
        for agent in 1..=self.agents {
            self.book.rescind_agent(AgentId(agent));
        }
        assert!(self.book.is_empty());
    }

    /// Returns the offer of an unpredictable agent, the same in every run.
    pub(super) fn some_offer(&mut self, at: u64) -> Arc<OfferTerms> {
        loop {
            for step in 0..self.agents {
                let agent = AgentId(1 + (at.wrapping_mul(7_919) + step * 104_729) % self.agents);
                let offer = self.book.offers_on(agent).next().map(|(offer, _)| offer);
                if let Some(offer) = offer {
                    return Arc::clone(offer);
                }
            }
            // Every framework has declined everything: the filters must expire.
            self.now = self.now.plus_ms(10_000);
            while self.step(TurnBudget::UNBOUNDED).more {}
        }
    }

    pub(super) fn decline(&mut self, offer: &OfferTerms) {
        let offer = self
            .book
            .decline(offer.framework, offer.id)
            .expect("it was open a moment ago");
        let declined = DeclinedResources {
            framework: offer.framework,
            session: offer.session,
            role: offer.role.clone(),
            agent: offer.agent,
            resources: offer.resources.clone(),
            filter_ms: None,
            reason: None,
        };
        self.allocator.decline(declined, self.now);
    }

    /// Filters nine of ten pairs of framework and agent for an hour. The remaining one differs
    /// between agents.
    pub(super) fn filter_nine_of_ten(&mut self) {
        let resources: Resources = RESOURCES.parse().expect("it is well-formed");
        let clients: Vec<(FrameworkId, u64, Role)> = self
            .registry
            .frameworks()
            .map(|framework| {
                let role = framework.info.roles.first().expect("each has one");
                (framework.id, framework.session, role.clone())
            })
            .collect();
        for (framework, session, role) in clients {
            for agent in (1..=self.agents).map(AgentId) {
                if mixed(framework.0 * 1_000_003 + agent.0).is_multiple_of(10) {
                    continue;
                }
                let declined = DeclinedResources {
                    framework,
                    session,
                    role: role.clone(),
                    agent,
                    resources: resources.clone(),
                    filter_ms: Some(3_600_000),
                    reason: None,
                };
                self.allocator.decline(declined, self.now);
            }
            while self.step(TurnBudget::UNBOUNDED).more {}
        }
    }
}

/// Spreads numbers evenly.
fn mixed(number: u64) -> u64 {
    let mut mixed = number.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    mixed ^= mixed >> 32;
    mixed.wrapping_mul(0xd6e8_feb8_6659_fd93) >> 32
}

fn register(nonce: u64) -> Command {
    Command::RegisterAgent(RegisterAgent {
        agent: None,
        nonce,
        confirmed: 0,
        tried: vec![nonce],
        boot_id: format!("boot-{nonce}"),
        info: AgentInfo {
            host_name: format!("host-{nonce}"),
            address: format!("10.0.0.1:{nonce}"),
            resources: RESOURCES.parse().expect("it is well-formed"),
            ..AgentInfo::default()
        },
        follows: None,
    })
}

fn subscribe(session: u64, roles: u64) -> Command {
    let role = Role::new(&format!("role-{}", session % roles)).expect("it is well-formed");
    Command::Subscribe(Subscribe {
        framework: None,
        session,
        info: FrameworkInfo {
            name: format!("framework-{session}"),
            roles: [role].into(),
            principal: "bench".to_owned(),
            failover_timeout_ms: 3_600_000,
            ..FrameworkInfo::default()
        },
    })
}
