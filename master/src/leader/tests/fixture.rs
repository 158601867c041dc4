//! A leader with its registry: the test feeds inputs, proposals are committed immediately (or on
//! request), and every effect is a line.

mod access;
mod levels;
mod log;

use std::collections::{BTreeMap, VecDeque};

use argosy_proto::{convert, v1};
use argosy_state::Registry;
use argosy_state::actor::Actor;
use argosy_state::agent::AgentInfo;
use argosy_state::command::{
    Accept, Acknowledge, AgentUpdate, Call, CallAction, Command, HeldTask, LogEntry,
    OfferOperation, OfferTerms, OpenEpoch, Operate, OperatorOperation, ProposedCommand,
};
use argosy_state::digest::DigestKind;
use argosy_state::framework::FrameworkInfo;
use argosy_state::ids::{
    AgentId, Epoch, FrameworkId, NodeId, OrderIndex, Revision, TaskId, TaskKey, Ticket, Timestamp,
};
use argosy_state::limits;
use argosy_state::task::{TaskSpec, TaskState};
use argosy_state::testing::{amounts, framework_info, key, spec, update};
use expect_test::Expect;

use super::messages_text;
use crate::config::LeaderTimeouts;
use crate::leader::{
    Decline, Effect, Hello, Input, Leader, LeaderTime, ReconcileQuery, SchedulerHello,
};
use crate::links::{LinkId, RequestId};

/// The only framework or agent of most tests.
pub(super) const FRAMEWORK: FrameworkId = FrameworkId(1);
pub(super) const AGENT: AgentId = AgentId(1);

pub(super) const LIMITS: LeaderTimeouts = LeaderTimeouts {
    agent_timeout_ms: 15_000,
    framework_timeout_ms: 15_000,
    framework_grace_ms: 10_000,
    lost_agent_ms: 3_600_000,
    deposed_leader_ms: 400,
    resume_ms: 100,
};

pub(super) struct World {
    pub(super) registry: Registry,
    pub(super) leader: Leader,
    pub(super) now: Timestamp,
    links: u64,
    requests: u64,
    numbers: BTreeMap<(FrameworkId, u64), u64>,
    /// Proposals that are not committed yet.
    pub(super) queue: VecDeque<ProposedCommand>,
    /// The actor of links and calls from now on.
    pub(super) actor: Actor,
    /// Whether proposals wait for [`Self::commit`].
    slow_log: bool,
    /// Whether the registry is checked after each entry.
    checks: bool,
    /// Offers as their frameworks received them, by id.
    received: BTreeMap<String, v1::Offer>,
    lines: Vec<String>,
    /// Whether heartbeats of frameworks are lines, too.
    pub(super) shows_heartbeats: bool,
}

impl World {
    /// Returns a world in its first epoch, without agents and frameworks.
    pub(super) fn new() -> Self {
        let mut registry = Registry::new();
        let now = Timestamp(1_000);
        open_epoch(&mut registry, now);
        let leader = Leader::new(&registry, clocks(now), LIMITS);
        Self {
            registry,
            leader,
            now,
            links: 0,
            requests: 0,
            numbers: BTreeMap::new(),
            queue: VecDeque::new(),
            actor: Actor::default(),
            slow_log: false,
            checks: true,
            received: BTreeMap::new(),
            lines: Vec::new(),
            shows_heartbeats: false,
        }
    }

    /// Returns a world with `framework-1` on link-1, `agent-1` with four processors on link-2, and
    /// no unread lines: the framework holds offer 1.1 of all of the agent.
    pub(super) fn with_offer() -> Self {
        let mut world = Self::new();
        world.subscribe("web");
        world.agent("cpus:4;mem:4096");
        world.clear_lines();
        world
    }

    /// Like [`Self::with_offer`], with an acknowledged task `a` of one processor running there.
    pub(super) fn with_running_task() -> Self {
        let mut world = Self::with_offer();
        world.accept("1.1", &["a"]);
        world.report(LinkId(2), "a", 1, TaskState::Running);
        world.acknowledge(&["a"]);
        world.clear_lines();
        world
    }

    /// Starts another leader, which has only the facts of the former one.
    pub(super) fn new_leader(&mut self) {
        self.queue.clear();
        open_epoch(&mut self.registry, self.now);
        self.leader = Leader::new(&self.registry, clocks(self.now), LIMITS);
        self.feed(Input::Tick);
    }

    // Inputs.

    pub(super) fn feed(&mut self, input: Input) {
        let effects = self.leader.step(&self.registry, clocks(self.now), input);
        self.perform(effects);
        if !self.slow_log {
            self.commit();
        }
        self.offer();
        self.check_book();
    }

    /// Checks the book as each master does between two inputs.
    fn check_book(&self) {
        let book = self.leader.book();
        if let Err(broken) = book.check(&self.registry) {
            panic!("{broken}");
        }
        let slice = book.check_slice(&self.registry, None, usize::MAX);
        assert_eq!(slice, Ok((book.len(), None)));
    }

    /// Defers the check of the registry to the end of the test: the registry is so large that a
    /// check after each entry would take too long.
    pub(super) fn defer_check(&mut self) {
        self.checks = false;
    }

    /// Makes proposals wait for [`Self::commit`] from now on.
    pub(super) fn slow_log(&mut self) {
        self.slow_log = true;
    }

    /// Commits the proposals, and the proposals that follow from them, one entry each.
    pub(super) fn commit(&mut self) {
        while self.commit_oldest() {}
        self.offer();
        self.check_book();
    }

    /// Commits the oldest proposal; false if there is none.
    pub(super) fn commit_oldest(&mut self) -> bool {
        let Some(proposed) = self.queue.pop_front() else {
            return false;
        };
        let entry = LogEntry {
            at: self.now,
            commands: vec![proposed],
        };
        let applied = self.registry.apply(self.registry.applied() + 1, &entry);
        drop(self.registry.take_changes());
        if self.checks
            && let Err(broken) = self.registry.check()
        {
            panic!("after {entry:?}: {broken}");
        }
        self.leader.settle(&applied);
        for applied in applied {
            let input = Input::Applied(applied);
            let effects = self.leader.step(&self.registry, clocks(self.now), input);
            self.perform(effects);
        }
        true
    }

    /// Advances cluster time in steps of a tick, without other inputs.
    pub(super) fn advance(&mut self, ms: u64) {
        self.advance_with(ms, &[]);
    }

    /// Advances cluster time while these agents send heartbeats every second.
    pub(super) fn advance_with(&mut self, ms: u64, pinging: &[LinkId]) {
        for step in 1..=ms / 100 {
            self.now = self.now.plus_ms(100);
            if step % 10 == 0 {
                for link in pinging {
                    self.feed(Input::AgentPing {
                        link: *link,
                        serial: 0,
                    });
                }
            }
            self.feed(Input::Tick);
        }
        self.lines.retain(|line| !line.ends_with("pong 0"));
    }

    /// Simulates a pause of the leader's process or machine.
    pub(super) fn pause(&mut self) {
        self.now = self.now.plus_ms(1_000);
        self.leader.refresh(clocks(self.now));
        self.feed(Input::Tick);
    }

    pub(super) fn link(&mut self) -> LinkId {
        self.links += 1;
        LinkId(self.links)
    }

    /// Sends the hello of a new agent.
    pub(super) fn agent(&mut self, resources: &str) -> LinkId {
        let link = self.link();
        let hello = new_agent(1_000 + link.0, resources);
        self.hello(link, hello);
        link
    }

    pub(super) fn hello(&mut self, link: LinkId, hello: Hello) {
        self.feed(Input::AgentHello {
            link,
            actor: self.actor.clone(),
            hello: Box::new(hello),
        });
    }

    /// Returns the hello of `agent` on a new link, holding exactly what the registry expects.
    pub(super) fn hello_of(&self, agent: AgentId) -> Hello {
        let record = self.registry.agent(agent).unwrap();
        let index = self.registry.agent_index(agent);
        let held = index.map(|index| index.expected).unwrap_or_default();
        Hello {
            cluster: Some(self.registry.cluster().facts.id),
            follows: None,
            agent: Some(agent),
            confirmed: record.report.incarnation,
            tried: Vec::new(),
            nonce: record.nonce,
            boot_id: record.report.boot_id.clone(),
            highest_epoch: self.registry.epoch(),
            info: record.report.info.clone(),
            floor: record.orders,
            digests: DigestKind::ALL.map(|kind| (kind, held.of(kind))).into(),
            version: 1,
        }
    }

    /// Reconnects the agent, holding exactly what the registry expects.
    pub(super) fn agent_returns(&mut self, agent: AgentId) -> LinkId {
        let link = self.link();
        let hello = self.hello_of(agent);
        self.hello(link, hello);
        link
    }

    /// Sends the agent's list as one chunk.
    pub(super) fn list(&mut self, link: LinkId, floor: u64, held: &[(&str, u64)]) {
        let held = held.iter().map(|(task, order)| HeldTask {
            key: key(FRAMEWORK, task),
            order: OrderIndex(*order),
        });
        self.feed(Input::AgentList {
            link,
            floor: OrderIndex(floor),
            held: held.collect(),
            last: true,
        });
    }

    /// Sends an agent's update of a task of `framework-1`.
    pub(super) fn report(&mut self, link: LinkId, task: &str, number: u64, state: TaskState) {
        let update = self.update(task, number, state);
        self.feed(Input::AgentReport {
            link,
            updates: vec![update],
        });
    }

    pub(super) fn update(&self, task: &str, number: u64, state: TaskState) -> AgentUpdate {
        let key = key(FRAMEWORK, task);
        let order = self
            .registry
            .task(&key)
            .map_or(OrderIndex(1), |task| task.order);
        update(key, order, number, state)
    }

    /// Subscribes a new framework.
    pub(super) fn subscribe(&mut self, name: &str) -> LinkId {
        let link = self.link();
        let subscription = new_framework(100 + link.0, framework_info(name));
        self.subscribe_with(link, subscription);
        link
    }

    pub(super) fn subscribe_with(&mut self, link: LinkId, subscription: SchedulerHello) {
        self.feed(Input::Subscribe {
            link,
            actor: self.actor.clone(),
            subscription: Box::new(subscription),
        });
    }

    /// Returns the subscription of the framework's present scheduler on a new stream, holding these
    /// offers.
    pub(super) fn subscription_of(&self, framework: FrameworkId, held: &[&str]) -> SchedulerHello {
        let record = self.registry.framework(framework).unwrap();
        SchedulerHello {
            cluster: Some(self.registry.cluster().facts.id),
            framework: Some(framework),
            held: held.iter().map(|id| self.held(id)).collect(),
            ..new_framework(record.session, (*record.info).clone())
        }
    }

    /// Returns the results of presented offers since the last call.
    pub(super) fn take_presented(&mut self) -> BTreeMap<&'static str, u64> {
        self.leader.take_presented()
    }

    /// Opens a new stream of the framework's present scheduler, holding these offers.
    pub(super) fn framework_returns(&mut self, framework: FrameworkId, held: &[&str]) -> LinkId {
        let link = self.link();
        let subscription = self.subscription_of(framework, held);
        self.subscribe_with(link, subscription);
        link
    }

    /// Returns the terms and the token of an offer that was received.
    pub(super) fn held(&self, id: &str) -> (OfferTerms, Vec<u8>) {
        let offer = self
            .received
            .get(id)
            .unwrap_or_else(|| panic!("no link received {id}"));
        convert::offer_terms(&v1::HeldOffer {
            offer: Some(offer.clone()),
        })
        .unwrap()
    }

    /// Returns the next numbered call of `framework-1`.
    pub(super) fn call_of(&mut self, action: CallAction) -> Call {
        let session = self.registry.framework(FRAMEWORK).unwrap().session;
        let number = self.numbers.entry((FRAMEWORK, session)).or_default();
        *number += 1;
        Call {
            framework: FRAMEWORK,
            session,
            number: *number,
            lowest_unanswered: *number,
            hash: *number,
            action,
        }
    }

    pub(super) fn call(&mut self, action: CallAction) {
        let call = self.call_of(action);
        self.send(call, Vec::new());
    }

    pub(super) fn send(&mut self, call: Call, tokens: Vec<Vec<u8>>) {
        let request = self.request();
        self.feed(Input::Call {
            request,
            actor: self.actor.clone(),
            call: Box::new(call),
            tokens,
            filter_ms: 5_000,
        });
    }

    /// Launches tasks of `framework-1` of one processor each on the offers, which are named with
    /// spaces between.
    pub(super) fn accept(&mut self, offers: &str, tasks: &[&str]) {
        let specs = tasks.iter().map(|task| spec(task, "cpus:1")).collect();
        self.launch(offers, specs);
    }

    pub(super) fn launch(&mut self, offers: &str, tasks: Vec<TaskSpec>) {
        let (accept, tokens) = self.acceptance(offers, tasks);
        let call = self.call_of(CallAction::Accept(accept));
        self.send(call, tokens);
    }

    pub(super) fn acceptance(&self, offers: &str, tasks: Vec<TaskSpec>) -> (Accept, Vec<Vec<u8>>) {
        let held = offers.split(' ').map(|id| self.held(id));
        let (offers, tokens) = held.unzip();
        let accept = Accept {
            offers,
            operations: vec![OfferOperation::Launch(tasks)],
            all_or_nothing: false,
            wall_ms: 0,
        };
        (accept, tokens)
    }

    pub(super) fn kill(&mut self, task: &str) {
        self.call(CallAction::Kill {
            task: TaskId::new(task).unwrap(),
            grace_ms: None,
        });
    }

    pub(super) fn decline(&mut self, offers: &[&str], filter_ms: u64) {
        let request = self.request();
        let decline = Decline {
            framework: FRAMEWORK,
            session: self.registry.framework(FRAMEWORK).unwrap().session,
            offers: offers.iter().map(|id| id.parse().unwrap()).collect(),
            filter_ms,
            reason: ("too-small".to_owned(), "wants 64 cpus".to_owned()),
        };
        let actor = self.actor.clone();
        self.feed(Input::Decline {
            request,
            actor,
            decline,
        });
    }

    /// Acknowledges the newest update of each task, as `framework-1`.
    pub(super) fn acknowledge(&mut self, tasks: &[&str]) {
        let updates = tasks.iter().map(|task| {
            let latest = self.registry.task(&key(FRAMEWORK, task));
            let revision = latest.map_or(Revision::default(), |task| task.latest.revision);
            (TaskId::new(task).unwrap(), revision)
        });
        self.send_acknowledge(Acknowledge {
            framework: FRAMEWORK,
            session: self.registry.framework(FRAMEWORK).unwrap().session,
            updates: updates.collect(),
        });
    }

    pub(super) fn send_acknowledge(&mut self, acknowledge: Acknowledge) {
        let (request, actor) = (self.request(), self.actor.clone());
        self.feed(Input::Acknowledge {
            request,
            actor,
            acknowledge,
        });
    }

    pub(super) fn reconcile(&mut self, tasks: &[&str], next_number: u64) {
        let query = self.query(tasks, next_number);
        self.send_query(query);
    }

    /// Returns a query of `framework-1`.
    pub(super) fn query(&self, tasks: &[&str], next_number: u64) -> ReconcileQuery {
        let tasks = tasks.iter().map(|task| TaskId::new(task).unwrap());
        ReconcileQuery {
            framework: FRAMEWORK,
            session: self.registry.framework(FRAMEWORK).unwrap().session,
            tasks: tasks.collect(),
            after: None,
            next_number,
        }
    }

    pub(super) fn send_query(&mut self, reconcile: ReconcileQuery) {
        let (request, actor) = (self.request(), self.actor.clone());
        self.feed(Input::Reconcile {
            request,
            actor,
            reconcile,
        });
    }

    pub(super) fn operate(&mut self, operation: OperatorOperation) {
        self.send_batch(Operate {
            request: None,
            hash: 0,
            operations: vec![operation],
            wall_ms: 0,
        });
    }

    pub(super) fn send_batch(&mut self, operate: Operate) {
        let request = self.request();
        let actor = self.actor.clone();
        self.feed(Input::Operate {
            request,
            actor,
            operate,
        });
    }

    pub(super) fn request(&mut self) -> RequestId {
        self.requests += 1;
        RequestId(self.requests)
    }

    // Outputs.

    /// Compares the lines since the last call.
    pub(super) fn expect(&mut self, wanted: &Expect) {
        let output: String = self.lines.drain(..).map(|line| line + "\n").collect();
        wanted.assert_eq(&output);
    }

    pub(super) fn expect_nothing(&mut self) {
        assert_eq!(self.lines, Vec::<String>::new());
    }

    /// Drops the lines, for output that another test covers.
    pub(super) fn clear_lines(&mut self) {
        self.lines.clear();
    }

    pub(super) fn take_lines(&mut self) -> Vec<String> {
        std::mem::take(&mut self.lines)
    }

    /// Returns the number of entries in the log.
    pub(super) fn entries(&self) -> u64 {
        self.registry.applied()
    }

    pub(super) fn state_of(&self, task: &str) -> TaskState {
        self.registry.task(&key(FRAMEWORK, task)).unwrap().state
    }

    fn offer(&mut self) {
        loop {
            let (effects, more) = self.leader.offer(&self.registry, clocks(self.now));
            self.perform(effects);
            if !more {
                return;
            }
        }
    }

    fn perform(&mut self, effects: Vec<Effect>) {
        let is_order = |effect: &&Effect| matches!(effect, Effect::ToAgent(_, message) if matches!(message.message, Some(v1::to_agent::Message::Order(_))));
        let orders = effects.iter().filter(is_order).count();
        assert!(orders <= 257, "{orders} orders in one turn");
        let is_proposal = |effect: &&Effect| matches!(effect, Effect::Propose(..));
        let proposals = effects.iter().filter(is_proposal).count();
        assert!(proposals <= 700, "{proposals} proposals in one turn");
        let is_heartbeat = |effect: &&Effect| matches!(effect, Effect::ToFramework(_, event) if matches!(event.event, Some(v1::event::Event::Heartbeat(_))));
        let heartbeats = effects.iter().filter(is_heartbeat).count();
        assert!(heartbeats <= 512, "{heartbeats} heartbeats in one turn");
        for effect in effects {
            match effect {
                Effect::Propose(proposed) => self.queue.push_back(*proposed),
                Effect::ToAgent(link, message) => {
                    assert_eq!(Epoch(message.epoch), self.registry.epoch());
                    let message = message.message.expect("a message has a body");
                    self.push_line(format!(
                        "link-{} <- {}",
                        link.0,
                        messages_text::to_agent(&message)
                    ));
                }
                Effect::ToFramework(link, event) => {
                    self.show_event(link, &event.event.expect("an event has a body"));
                }
                Effect::CloseAgent(link) | Effect::CloseFramework(link) => {
                    self.push_line(format!("link-{} closed", link.0));
                }
                Effect::Answer(request, answer) => {
                    self.push_line(format!(
                        "call-{}: {}",
                        request.0,
                        messages_text::answer(&answer)
                    ));
                }
                Effect::TransferLeadership => self.push_line("hand over".to_owned()),
            }
        }
    }

    fn show_event(&mut self, link: LinkId, event: &v1::event::Event) {
        match event {
            v1::event::Event::Heartbeat(_) if !self.shows_heartbeats => return,
            v1::event::Event::Offers(offers) => {
                let offers = offers.offers.iter();
                self.received
                    .extend(offers.map(|offer| (offer.offer_id.clone(), offer.clone())));
            }
            _ => {}
        }
        self.push_line(format!(
            "link-{} <- {}",
            link.0,
            messages_text::event(event)
        ));
    }

    fn push_line(&mut self, line: String) {
        self.lines.push(line);
    }
}

/// Checks that no line is left unread at the end of a test.
impl Drop for World {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            assert_eq!(self.lines, Vec::<String>::new(), "this was not checked");
        }
    }
}

/// Returns a first hello; its incarnation is its nonce.
pub(super) fn new_agent(nonce: u64, resources: &str) -> Hello {
    Hello {
        cluster: None,
        follows: None,
        agent: None,
        confirmed: 0,
        tried: vec![nonce],
        nonce,
        boot_id: "boot".to_owned(),
        highest_epoch: Epoch::default(),
        info: AgentInfo {
            host_name: format!("host-{nonce}"),
            address: format!("127.0.0.1:{nonce}"),
            resources: amounts(resources),
            isolation: "full".to_owned(),
            changes_limits: true,
            ..AgentInfo::default()
        },
        floor: OrderIndex::default(),
        digests: [(DigestKind::Task, 0)].into(),
        version: 1,
    }
}

/// Returns a first subscription.
pub(super) fn new_framework(session: u64, info: FrameworkInfo) -> SchedulerHello {
    SchedulerHello {
        cluster: None,
        framework: None,
        session,
        replaces: None,
        info,
        held: Vec::new(),
        filters: Vec::new(),
        version: 1,
        sends_heartbeats: false,
    }
}

/// Returns the key of a task of `framework-1`.
pub(super) fn task_key(task: &str) -> TaskKey {
    key(FRAMEWORK, task)
}

fn open_epoch(registry: &mut Registry, now: Timestamp) {
    let term = registry.applied() + 1;
    let open = OpenEpoch {
        node: NodeId(1),
        process: term,
        term,
        entropy: [7; 32],
        wall_ms: 0,
        level: argosy_state::level::Level::NEWEST,
    };
    let entry = LogEntry {
        at: now,
        commands: vec![ProposedCommand {
            ticket: Ticket::default(),
            actor: Actor::Cluster,
            command: Command::OpenEpoch(open),
        }],
    };
    drop(registry.apply(term, &entry));
    drop(registry.take_changes());
}

fn clocks(at: Timestamp) -> LeaderTime {
    LeaderTime { at, wall_ms: 0 }
}

/// The maximum lifetime of an offer unless its framework sets another.
pub(super) const OFFER_MS: u64 = limits::OFFER_TIMEOUT_MS;
