//! A miniature cluster: registry, book and allocator, driven as a leader drives them.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use argosy_state::Registry;
use argosy_state::actor::Actor;
use argosy_state::agent::AgentInfo;
use argosy_state::apply::AppliedProposal;
use argosy_state::command::{
    Accept, Acknowledge, AgentDecision, AgentUpdate, Call, CallAction, Command, CommandReply,
    LogEntry, OfferOperation, OfferTerms, OpenEpoch, Operate, OperatorOperation, ProposedCommand,
    RegisterAgent, Subscribe, UpdateTasks,
};
use argosy_state::framework::FrameworkInfo;
use argosy_state::ids::{
    AgentId, FrameworkId, NodeId, Revision, Role, TaskId, TaskKey, Ticket, Timestamp,
};
use argosy_state::resources::Resources;
use argosy_state::task::{CommandSpec, Reason, TaskSpec, TaskState, UpdateSource};
use argosy_state::testing::next_update;

use crate::allocator::{
    AllocationRound, Allocator, AllocatorSettings, DeclineReason, DeclinedResources,
    DemandExplanation, ExplainQuery, LinkStates, StreamState, TurnBudget,
};
use crate::offers::OfferBook;

pub(crate) fn parse(text: &str) -> Resources {
    text.parse().unwrap()
}

pub(crate) fn role(text: &str) -> Role {
    Role::new(text).unwrap()
}

/// The links of the simulated leader.
#[derive(Debug, Default)]
pub(crate) struct SimulatedLinks {
    pub(crate) unlinked: BTreeSet<AgentId>,
    pub(crate) streams: BTreeMap<FrameworkId, StreamState>,
}

impl SimulatedLinks {
    fn with<T>(&self, work: impl FnOnce(LinkStates<'_>) -> T) -> T {
        let linked = |agent| !self.unlinked.contains(&agent);
        let stream = |framework| {
            let known = self.streams.get(&framework).copied();
            known.unwrap_or(StreamState::Open)
        };
        work(LinkStates {
            linked: &linked,
            stream: &stream,
        })
    }
}

pub(crate) struct World {
    pub(crate) registry: Registry,
    pub(crate) book: OfferBook,
    pub(crate) allocator: Allocator,
    pub(crate) links: SimulatedLinks,
    pub(crate) now: Timestamp,
    pub(crate) unmet: Vec<(FrameworkId, Role)>,
    index: u64,
    nonce: u64,
    calls: BTreeMap<FrameworkId, u64>,
}

impl World {
    pub(crate) fn new() -> Self {
        Self::with(AllocatorSettings::default())
    }

    pub(crate) fn with(settings: AllocatorSettings) -> Self {
        let mut world = Self {
            registry: Registry::new(),
            book: OfferBook::new(Default::default()),
            allocator: Allocator::new(settings.clone()),
            links: SimulatedLinks::default(),
            now: Timestamp(1),
            unmet: Vec::new(),
            index: 0,
            nonce: 0,
            calls: BTreeMap::new(),
        };
        world.new_leader(settings);
        world
    }

    /// Begins another epoch with a new book and a new allocator.
    pub(crate) fn new_leader(&mut self, settings: AllocatorSettings) {
        self.apply(Command::OpenEpoch(OpenEpoch {
            node: NodeId(1),
            process: 1,
            term: 1,
            entropy: [3; 32],
            wall_ms: 0,
            level: argosy_state::level::Level::NEWEST,
        }));
        self.book = OfferBook::new(self.registry.epoch());
        self.allocator = Allocator::new(settings);
    }

    pub(crate) fn apply(&mut self, command: Command) -> AppliedProposal {
        self.index += 1;
        let ticket = Ticket {
            epoch: self.registry.epoch(),
            serial: self.index,
        };
        let entry = LogEntry {
            at: self.now,
            commands: vec![ProposedCommand {
                ticket,
                actor: Actor::default(),
                command,
            }],
        };
        let applied = self.registry.apply(self.index, &entry).remove(0);
        for event in &applied.events {
            self.allocator.observe(event);
        }
        applied
    }

    pub(crate) fn agent(&mut self, resources: &str) -> AgentId {
        self.nonce += 1;
        let nonce = self.nonce;
        self.register(nonce, None, resources)
    }

    /// Registers an agent again with other resources.
    pub(crate) fn resize(&mut self, id: AgentId, resources: &str) {
        let nonce = self.registry.agent(id).unwrap().nonce;
        assert_eq!(self.register(nonce, Some(id), resources), id);
    }

    fn register(&mut self, nonce: u64, agent: Option<AgentId>, resources: &str) -> AgentId {
        let info = AgentInfo {
            resources: parse(resources),
            ..AgentInfo::default()
        };
        let register = RegisterAgent {
            agent,
            nonce,
            confirmed: nonce,
            tried: vec![nonce],
            boot_id: String::new(),
            info,
            follows: None,
        };
        match self.apply(Command::RegisterAgent(register)).outcome {
            Ok(CommandReply::Agent(id)) => id,
            other => panic!("{other:?}"),
        }
    }

    pub(crate) fn framework(&mut self, roles: &[&str]) -> FrameworkId {
        self.framework_with(roles, &[])
    }

    pub(crate) fn framework_with(
        &mut self,
        roles: &[&str],
        labels: &[(&str, &str)],
    ) -> FrameworkId {
        self.nonce += 1;
        let session = self.nonce;
        let info = Self::info(roles, labels);
        self.subscribe(None, session, info)
    }

    pub(crate) fn info(roles: &[&str], labels: &[(&str, &str)]) -> FrameworkInfo {
        let labels = labels.iter();
        FrameworkInfo {
            name: "test".to_owned(),
            roles: roles.iter().map(|text| role(text)).collect(),
            labels: labels
                .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
                .collect(),
            failover_timeout_ms: 1_000_000,
            ..FrameworkInfo::default()
        }
    }

    pub(crate) fn subscribe(
        &mut self,
        framework: Option<FrameworkId>,
        session: u64,
        info: FrameworkInfo,
    ) -> FrameworkId {
        let subscribe = Subscribe {
            framework,
            session,
            info,
        };
        match self.apply(Command::Subscribe(subscribe)).outcome {
            Ok(CommandReply::Framework(id)) => id,
            other => panic!("{other:?}"),
        }
    }

    pub(crate) fn call(&mut self, framework: FrameworkId, action: CallAction) -> AppliedProposal {
        let number = self.calls.entry(framework).or_default();
        *number += 1;
        let number = *number;
        let session = self.registry.framework(framework).unwrap().session;
        self.apply(Command::Call(Call {
            framework,
            session,
            number,
            lowest_unanswered: number,
            hash: number,
            action,
        }))
    }

    pub(crate) fn operate(&mut self, operation: OperatorOperation) {
        self.apply(Command::Operate(Operate {
            request: None,
            hash: 0,
            operations: vec![operation],
            wall_ms: 0,
        }))
        .outcome
        .unwrap();
    }

    pub(crate) fn mark_unreachable(&mut self, agent: AgentId) {
        let decided_on = self.registry.agent(agent).unwrap().revision;
        self.apply(Command::AgentUnreachable(AgentDecision {
            agent,
            decided_on,
            wall_ms: 0,
        }))
        .outcome
        .unwrap();
        self.book.rescind_agent(agent);
    }

    /// Accepts an offer as a leader does: taken, applied, settled. Each task is (id, resources).
    pub(crate) fn accept(&mut self, offer: &OfferTerms, tasks: &[(&str, &str)]) {
        self.book.take(&[offer.id]).unwrap();
        let launches = tasks.iter().map(|(id, resources)| TaskSpec {
            resources: parse(resources),
            ..TaskSpec::new(
                TaskId::new(id).unwrap(),
                CommandSpec::Shell("true".to_owned()),
            )
        });
        let accept = CallAction::Accept(Accept {
            offers: vec![offer.clone()],
            operations: vec![OfferOperation::Launch(launches.collect())],
            all_or_nothing: false,
            wall_ms: 0,
        });
        let applied = self.call(offer.framework, accept);
        assert!(
            matches!(&applied.outcome, Ok(CommandReply::Call { refused, .. }) if refused.is_empty()),
            "{applied:?}"
        );
        self.book.settle(&[offer.id]);
        if !tasks.is_empty() {
            let allocator = &mut self.allocator;
            allocator.record_launch(offer.framework, &offer.role, self.now);
        }
    }

    pub(crate) fn finish(&mut self, framework: FrameworkId, id: &str) {
        let key = TaskKey {
            framework,
            task: TaskId::new(id).unwrap(),
        };
        let task = self.registry.task(&key).unwrap();
        let update = AgentUpdate {
            source: UpdateSource::Task,
            reason: Reason::CommandExited,
            ..next_update(task, TaskState::Finished)
        };
        let agent = task.agent;
        self.apply(Command::UpdateTasks(UpdateTasks {
            agent,
            updates: vec![update],
        }))
        .outcome
        .unwrap();
        // A framework that is being removed disappears with its last task.
        let Some(session) = self
            .registry
            .framework(framework)
            .map(|facts| facts.session)
        else {
            return;
        };
        let last = Revision {
            index: u64::MAX,
            position: 0,
        };
        self.apply(Command::Acknowledge(Acknowledge {
            framework,
            session,
            updates: vec![(key.task, last)],
        }))
        .outcome
        .unwrap();
    }

    pub(crate) fn decline(&mut self, offer: &OfferTerms, filter_ms: Option<u64>) {
        self.decline_because(offer, filter_ms, "", "");
    }

    pub(crate) fn decline_because(
        &mut self,
        offer: &OfferTerms,
        filter_ms: Option<u64>,
        code: &str,
        text: &str,
    ) {
        self.book.decline(offer.framework, offer.id).unwrap();
        let declined = DeclinedResources {
            framework: offer.framework,
            session: offer.session,
            role: offer.role.clone(),
            agent: offer.agent,
            resources: offer.resources.clone(),
            filter_ms,
            reason: Some(DeclineReason {
                code: code.to_owned(),
                text: text.to_owned(),
            }),
        };
        self.allocator.decline(declined, self.now);
    }

    /// Runs one turn.
    pub(crate) fn step(&mut self, budget: TurnBudget) -> AllocationRound {
        let (registry, book, now) = (&self.registry, &mut self.book, self.now);
        let allocator = &mut self.allocator;
        let round = self
            .links
            .with(|links| allocator.step(registry, book, links, now, budget));
        self.unmet.extend(round.unmet.iter().cloned());
        round
    }

    /// Runs turns until no work is left, and checks that every invariant holds then.
    pub(crate) fn offers(&mut self) -> Vec<Arc<OfferTerms>> {
        let mut offers = Vec::new();
        loop {
            let round = self.step(TurnBudget::TURN);
            offers.extend(round.offers);
            if !round.more {
                break;
            }
        }
        self.check();
        offers
    }

    /// Returns which framework is offered which agent, in order.
    pub(crate) fn offered(&mut self) -> Vec<(FrameworkId, AgentId)> {
        let offers = self.offers();
        offers
            .iter()
            .map(|offer| (offer.framework, offer.agent))
            .collect()
    }

    /// Advances cluster time.
    pub(crate) fn wait_ms(&mut self, ms: u64) {
        self.now = self.now.plus_ms(ms);
    }

    pub(crate) fn explain(&self, query: &ExplainQuery) -> DemandExplanation {
        self.links.with(|links| {
            self.allocator
                .explain(&self.registry, &self.book, links, query)
        })
    }

    /// Evaluates this number of agents to find out why demands wait.
    pub(crate) fn update_wait_reasons(&mut self, agents: usize) {
        let (registry, book, allocator) = (&self.registry, &self.book, &mut self.allocator);
        self.links
            .with(|links| allocator.update_wait_reasons(registry, book, links, agents));
    }

    /// Returns reason, number and longest wait in milliseconds of the demands, each evaluated now.
    pub(crate) fn waits(&mut self) -> Vec<(&'static str, usize, u64)> {
        self.update_wait_reasons(usize::MAX);
        let waits = self.allocator.waits();
        waits
            .map(|waits| {
                let waited_ms = self.now.since_ms(waits.since);
                (waits.reason.code(), waits.demands, waited_ms)
            })
            .collect()
    }

    pub(crate) fn check(&mut self) {
        self.book.check(&self.registry).unwrap();
        self.check_mirrors();
        self.check_no_unoffered_resources();
    }
}
