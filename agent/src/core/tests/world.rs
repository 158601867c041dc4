//! The only helper that depends on the core's interface: tests state facts through it.

use argosy_proto::convert::agent_info_from;
use argosy_proto::v1;
use argosy_proto::v1::from_agent::Message as FromAgent;
use argosy_proto::v1::to_agent::Message as ToAgent;
use argosy_state::ids::{AgentId, OrderIndex, Timestamp};

use crate::core::checks::{CheckPurpose, CheckResult, ProbeId};
use crate::core::{
    AgentState, CommandExit, CommandStatus, ContainerEffect, ContainerName, Core, CoreConfig,
    DiskDefault, Effect, Input, Instance, JournalEffect, JournalRecord, LaunchOrder, LinkEffect,
    OrderBody, RecoveredContainer, StartedFact, SyncMode,
};
use crate::wire;

pub(super) const CLUSTER: &str = "000000000000000000000000000000aa";
const EPOCH: u64 = 5;

/// A core, its persisted records, and its effects since the last check.
pub(super) struct CoreFixture {
    pub(super) core: Core,
    pub(super) now: u64,
    /// Every record, in order, and whether it is on disk.
    pub(super) journal: Vec<JournalRecord>,
    /// The records of all runs, as they were appended to the journal.
    pub(super) written: Vec<(JournalRecord, SyncMode)>,
    /// The facts of a reader of these records.
    replayed: AgentState,
    durable: u64,
    appended: u64,
    pub(super) effects: Vec<String>,
    /// Containers whose starts were prepared.
    pub(super) prepared: Vec<String>,
    /// The wait of the newest dial.
    pub(super) dialled_after_ms: u64,
    pub(super) epoch: u64,
    /// The cluster of the masters.
    pub(super) cluster: &'static str,
    pub(super) link: u64,
}

impl CoreFixture {
    pub(super) fn new() -> Self {
        Self::with(AgentState::default(), "boot-1")
    }

    pub(super) fn with(facts: AgentState, boot_id: &str) -> Self {
        Self::begin(facts, boot_id, false)
    }

    /// Returns an agent that found a part of its journal damaged.
    pub(super) fn of_damaged(facts: AgentState) -> Self {
        Self::begin(facts, "boot-1", true)
    }

    fn begin(facts: AgentState, boot_id: &str, journal_damaged: bool) -> Self {
        let journal = facts.snapshot();
        let setup = CoreConfig {
            info: agent_info_from(v1::AgentInfo::default()).unwrap(),
            boot_id: boot_id.to_owned(),
            journal_damaged,
            executor_timeout_ms: 60_000,
            disk_default: DiskDefault::default(),
            adoption: None,
            seed: 7,
            wall_offset_ms: 0,
        };
        let mut world = Self {
            replayed: facts.clone(),
            core: Core::new(facts, setup),
            now: 1_000,
            journal,
            written: Vec::new(),
            durable: 0,
            appended: 0,
            effects: Vec::new(),
            prepared: Vec::new(),
            dialled_after_ms: 0,
            epoch: EPOCH,
            cluster: CLUSTER,
            link: 0,
        };
        world.feed(Input::Begin);
        world
    }

    /// Returns an agent that a master has registered as `agent-1`, with nothing to report.
    pub(super) fn registered() -> Self {
        let mut world = Self::new();
        world.register(true);
        world.discard_effects();
        world
    }

    /// As `registered`, with a task "web" under order 1 that runs and is reported.
    pub(super) fn running() -> Self {
        let mut world = Self::registered();
        world.launch(1, "web");
        world.sync();
        world.started(1);
        world.report();
        world.committed(1, "web", 1, false);
        world.discard_effects();
        world
    }

    /// Starts the next run of the same agent, with only the synced records.
    pub(super) fn restart(self, boot_id: &str) -> Self {
        let on_disk = self.journal.len() - usize::try_from(self.appended - self.durable).unwrap();
        let mut facts = AgentState::default();
        self.journal[..on_disk]
            .iter()
            .for_each(|record| facts.apply(record));
        let mut next = Self::with(facts, boot_id);
        next.epoch = self.epoch;
        let mut written = self.written;
        written.truncate(written.len() - usize::try_from(self.appended - self.durable).unwrap());
        written.append(&mut next.written);
        next.written = written;
        next
    }

    /// As `restart`, with all appended records on disk, though the agent received no confirmation.
    pub(super) fn restart_synced(mut self, boot_id: &str) -> Self {
        self.durable = self.appended;
        self.restart(boot_id)
    }

    pub(super) fn feed(&mut self, input: Input) {
        for effect in self.core.step(Timestamp(self.now), input) {
            self.perform(effect);
        }
        assert_eq!(
            &self.replayed,
            self.core.facts(),
            "journal and memory agree"
        );
    }

    /// Checks that a snapshot is equivalent to the records that it replaces.
    pub(super) fn check_snapshot(&self) {
        let mut copied = AgentState::default();
        self.replayed
            .snapshot()
            .iter()
            .for_each(|record| copied.apply(record));
        assert_eq!(copied, self.replayed);
    }

    fn perform(&mut self, effect: Effect) {
        if let Effect::Journal(JournalEffect::Append {
            number,
            record,
            sync,
        }) = &effect
        {
            self.appended += 1;
            assert_eq!(*number, self.appended, "records are counted without gaps");
            self.replayed.apply(record);
            self.journal.push((**record).clone());
            self.written.push(((**record).clone(), *sync));
        }
        match &effect {
            // It precedes each start; tests that check it read this list.
            Effect::Container(ContainerEffect::Prepare(start)) => {
                self.prepared.push(start.name.to_string())
            }
            _ => self.effects.push(format_effect(&effect)),
        }
        if let Effect::Link(LinkEffect::Dial { after_ms, .. }) = &effect {
            self.dialled_after_ms = *after_ms;
        }
    }

    /// Confirms that all appended records are on disk.
    pub(super) fn sync(&mut self) {
        self.durable = self.appended;
        let number = self.appended;
        self.feed(Input::Durable { number });
    }

    pub(super) fn wait(&mut self, ms: u64) {
        self.now += ms;
        self.feed(Input::Tick);
    }

    /// Waits until gathered updates are sent.
    pub(super) fn report(&mut self) {
        self.wait(5);
        self.sync();
    }

    pub(super) fn connect(&mut self) {
        self.sync();
        self.link += 1;
        let link = self.link;
        self.feed(Input::Connected { link });
    }

    pub(super) fn register(&mut self, equal: bool) {
        self.connect();
        self.receive(ToAgent::Registered(v1::Registered {
            agent_id: "agent-1".into(),
            incarnation: self
                .core
                .facts()
                .identity
                .unconfirmed
                .last()
                .copied()
                .unwrap_or(1),
            heartbeat_interval_ms: 1_000,
            equal,
            protocol: None,
            ticket_keys: Vec::new(),
        }));
        self.sync();
    }

    pub(super) fn receive(&mut self, message: ToAgent) {
        let message = v1::ToAgent {
            epoch: self.epoch,
            cluster_id: self.cluster.into(),
            message: Some(message),
        };
        let message = Box::new(wire::from_master(message));
        let link = self.link;
        self.feed(Input::Message { link, message });
    }

    pub(super) fn order_about(
        &mut self,
        index: u64,
        order: v1::order::Order,
        subject: v1::Subject,
    ) {
        self.receive(ToAgent::Order(v1::Order {
            index,
            order: Some(order),
            subject: Some(subject),
            ..v1::Order::default()
        }));
    }

    pub(super) fn order(&mut self, index: u64, order: v1::order::Order) {
        let order = Some(order);
        self.receive(ToAgent::Order(v1::Order {
            index,
            order,
            ..v1::Order::default()
        }));
    }

    pub(super) fn launch(&mut self, index: u64, task: &str) {
        self.launch_spec(index, spec(task));
    }

    pub(super) fn launch_spec(&mut self, index: u64, spec: v1::TaskSpec) {
        self.order(
            index,
            v1::order::Order::Launch(v1::LaunchOrder {
                framework_id: "framework-1".into(),
                spec: Some(spec),
                ..v1::LaunchOrder::default()
            }),
        );
    }

    pub(super) fn kill(&mut self, index: u64, task: &str, grace_ms: u64) {
        self.order(
            index,
            v1::order::Order::Kill(v1::KillOrder {
                framework_id: "framework-1".into(),
                task_id: task.into(),
                grace_ms,
            }),
        );
    }

    pub(super) fn committed(&mut self, order_index: u64, task: &str, number: u64, released: bool) {
        let update = v1::CommittedUpdate {
            framework_id: "framework-1".into(),
            task_id: task.into(),
            order_index,
            number,
            released,
        };
        self.receive(ToAgent::Committed(v1::Committed {
            updates: vec![update],
        }));
    }

    pub(super) fn started(&mut self, order: u64) {
        let fact = StartedFact {
            pid: 77,
            at: Timestamp(self.now),
        };
        let instance = instance(order);
        self.feed(Input::Started { instance, fact });
    }

    pub(super) fn exited(&mut self, order: u64, how: CommandStatus) {
        self.feed(Input::Exited {
            instance: instance(order),
            exit: ended(how),
        });
    }

    pub(super) fn found(&mut self, order: u64, found: RecoveredContainer) {
        let instance = instance(order);
        self.feed(Input::ContainerFound {
            instance,
            container: found,
        });
    }

    /// Delivers the result of this check's probe, counted from 1.
    pub(super) fn probe_finished(
        &mut self,
        order: u64,
        kind: CheckPurpose,
        number: u64,
        answer: CheckResult,
    ) {
        let (instance, probe) = (instance(order), ProbeId { kind, number });
        self.feed(Input::ProbeFinished {
            instance,
            probe,
            answer,
        });
    }

    pub(super) fn destroyed(&mut self, order: u64) {
        let name = self.core.facts().container(instance(order)).unwrap();
        self.feed(Input::Destroyed { name });
    }

    /// Compares the effects since the last check, without those of the journal.
    #[track_caller]
    pub(super) fn expect(&mut self, wanted: &[&str]) {
        let output: Vec<_> = std::mem::take(&mut self.effects);
        let output: Vec<_> = output
            .iter()
            .filter(|line| !line.starts_with("persist"))
            // Every task is measured; only a limit matters here.
            .filter(|line| !line.starts_with("measure") || line.contains(" up to "))
            .collect();
        assert_eq!(output, wanted);
    }

    /// As `expect`, with the journal's.
    #[track_caller]
    pub(super) fn expect_all(&mut self, wanted: &[&str]) {
        assert_eq!(std::mem::take(&mut self.effects), wanted);
    }

    /// Returns the effects since the last check.
    pub(super) fn take_effects(&mut self) -> Vec<String> {
        std::mem::take(&mut self.effects)
    }

    /// Discards the effects so far.
    pub(super) fn discard_effects(&mut self) {
        self.effects.clear();
    }
}

pub(super) fn instance(order: u64) -> Instance {
    Instance {
        agent: AgentId(1),
        order: OrderIndex(order),
    }
}

pub(super) fn spec(task: &str) -> v1::TaskSpec {
    v1::TaskSpec {
        task_id: task.into(),
        shell: "true".into(),
        ..v1::TaskSpec::default()
    }
}

/// Returns a file to fetch.
pub(super) fn file() -> v1::Uri {
    v1::Uri {
        value: "http://x/file".into(),
        ..v1::Uri::default()
    }
}

pub(super) fn ended(how: CommandStatus) -> CommandExit {
    CommandExit {
        status: how,
        stop: None,
        out_of_memory: false,
        why: "it ended".into(),
    }
}

/// Formats an effect as one line.
pub(super) fn format_effect(effect: &Effect) -> String {
    match effect {
        Effect::Journal(JournalEffect::Append { record, .. }) => {
            format!("persist {}", format_record(record))
        }
        Effect::Journal(JournalEffect::Compact(_)) => "compact".into(),
        Effect::Link(LinkEffect::Dial { .. }) => "dial".into(),
        Effect::Link(LinkEffect::Send { message, .. }) => {
            format_message(&wire::to_master((**message).clone()))
        }
        Effect::Link(LinkEffect::Hangup { why, .. }) => format!("hang up: {why}"),
        Effect::Link(LinkEffect::Quarantined(task)) => format!("{task} is quarantined"),
        Effect::Link(LinkEffect::Revoke(keys)) => format!("revoke {} keys", keys.len()),
        Effect::Container(effect) => format_container_effect(effect),
    }
}

fn format_container_effect(effect: &ContainerEffect) -> String {
    let short = |instance: &Instance| instance.order.0;
    match effect {
        ContainerEffect::Fetch(start) => format!("fetch for {}", start.name),
        ContainerEffect::CancelFetch(instance) => {
            format!("cancel the fetch for {}", short(instance))
        }
        ContainerEffect::CancelStart(instance) => {
            format!("cancel the start of {}", short(instance))
        }
        ContainerEffect::DeliverSecrets { instance, answer } => {
            format!("deliver to {}: {answer:?}", short(instance))
        }
        ContainerEffect::Prepare(start) => format!("prepare {}", start.name),
        ContainerEffect::Start(start) => {
            let mut text = format!("start {}", start.name);
            if let Some(at) = start.stop_at {
                text += &format!(" until {}", at.0);
            }
            for name in &start.predecessors {
                text += &format!(" after {name}");
            }
            text
        }
        ContainerEffect::Find { name, .. } => format!("find {name}"),
        ContainerEffect::Kill { instance, grace_ms } => {
            format!("kill {} in {grace_ms}", short(instance))
        }
        ContainerEffect::Renew { instance, stop_at } => {
            format!("renew {} until {}", short(instance), stop_at.0)
        }
        ContainerEffect::Probe {
            instance, probe, ..
        } => format!("probe {}", format_probe(*instance, *probe)),
        ContainerEffect::CancelProbe {
            instance, probe, ..
        } => {
            format!("stop looking {}", format_probe(*instance, *probe))
        }
        ContainerEffect::Measure {
            name,
            limit_bytes,
            group,
            ..
        } => format_measure(*name, *limit_bytes, group.as_ref()),
        ContainerEffect::Destroy { name, .. } => format!("destroy {name}"),
        ContainerEffect::Limit {
            name,
            launch,
            task_amounts,
            order,
        } => format_limit(*name, launch, task_amounts.len(), *order),
        ContainerEffect::Listen(name) => format!("listen {name}"),
        ContainerEffect::StopListening(name) => format!("stop listening {name}"),
        ContainerEffect::SendToExecutor { message, .. } => {
            format_executor(&wire::to_executor((**message).clone()))
        }
        ContainerEffect::DestroyGroup { name } => format!("destroy group {name}"),
    }
}

fn format_limit(
    name: ContainerName,
    launch: &LaunchOrder,
    task_amounts: usize,
    order: Option<OrderIndex>,
) -> String {
    match order {
        None => {
            let amounts = launch.spec.resources.iter().count() + task_amounts;
            format!("limit {name} by {amounts}")
        }
        Some(order) => {
            let limits = launch.spec.limits.as_ref();
            let pids = limits.and_then(|limits| limits.pids).unwrap_or(0);
            format!("limit {name} to {pids} pids by order {}", order.0)
        }
    }
}

fn format_measure(
    name: ContainerName,
    limit_bytes: u64,
    group: Option<&(String, ContainerName)>,
) -> String {
    let group = group.map_or_else(String::new, |(id, group)| format!(" with {id} {group}"));
    match limit_bytes {
        u64::MAX => format!("measure {name}{group}"),
        _ => format!("measure {name}{group} up to {limit_bytes}"),
    }
}

fn format_probe(instance: Instance, probe: ProbeId) -> String {
    let (order, number) = (instance.order.0, probe.number);
    match probe.kind {
        CheckPurpose::Health => format!("at {order}'s health {number}"),
        CheckPurpose::Readiness => format!("at {order}'s readiness {number}"),
    }
}

fn format_record(record: &JournalRecord) -> String {
    match record {
        JournalRecord::Identity(identity) => {
            format!("epoch {} run {}", identity.epoch.0, identity.run)
        }
        JournalRecord::IdentityReset(_) => "forgot".into(),
        JournalRecord::OrderAccepted { order, body } => match body {
            OrderBody::Launch { key, .. } => format!("order {}: launch {}", order.0, key.task),
            OrderBody::Limits { instance, .. } => {
                format!("order {}: limits {}", order.0, instance.order.0)
            }
            OrderBody::Kill { instance, .. } => {
                format!("order {}: kill {}", order.0, instance.order.0)
            }
            OrderBody::Nothing => format!("order {}: nothing", order.0),
        },
        JournalRecord::Started { instance, .. } => format!("start of {}", instance.order.0),
        JournalRecord::Updated { instance, update } => {
            format!("update {}: {:?}", instance.order.0, update.state)
        }
        JournalRecord::Committed { instance, number } => {
            format!("commit {}: {number}", instance.order.0)
        }
        JournalRecord::Released { instance } => format!("release {}", instance.order.0),
        JournalRecord::Orphaned { instance } => format!("stray {}", instance.order.0),
        JournalRecord::Retried { instance, run } => {
            format!("retry {} in run {run}", instance.order.0)
        }
        JournalRecord::Floor(order) => format!("floor {}", order.0),
        JournalRecord::Task { instance, .. } => format!("task {}", instance.order.0),
        JournalRecord::Executor(_) => "executor".into(),
    }
}

fn format_executor(message: &v1::ToExecutor) -> String {
    use v1::to_executor::Message;
    match message.message.as_ref().unwrap() {
        Message::Subscribed(subscribed) => format!("subscribed {}", subscribed.executor_id),
        Message::Launch(launch) => {
            let task = &launch.spec.as_ref().unwrap().task_id;
            format!("hand {task}@{}", launch.order_index)
        }
        Message::Kill(kill) => {
            let v1::ExecutorKill {
                task_id,
                order_index,
                grace_ms,
            } = kill;
            format!("tell to kill {task_id}@{order_index} in {grace_ms}")
        }
        Message::Acknowledged(update) => {
            format!("acknowledge {} {}", update.task_id, update.serial)
        }
        Message::Shutdown(shutdown) => format!("shut down in {}", shutdown.grace_ms),
        Message::FrameworkMessage(data) => format!("tell {}", String::from_utf8_lossy(data)),
    }
}

fn format_message(message: &v1::FromAgent) -> String {
    match message.message.as_ref().unwrap() {
        FromAgent::Hello(_) => "hello".into(),
        FromAgent::UnsupportedOrder(order) => format!("order {} is unknown", order.order_index),
        FromAgent::SecretsWanted(wanted) => {
            format!("want secrets of {}@{}", wanted.task_id, wanted.order_index)
        }
        FromAgent::Ping(ping) => format!("ping {}", ping.serial),
        FromAgent::ExecutorMessage(message) => format!("message of {}", message.executor_id),
        FromAgent::Report(report) => {
            let updates = report.updates.iter().map(|update| {
                format!(
                    "{} {} {:?}",
                    update.task_id,
                    update.number,
                    wire::task_state(update.state)
                )
            });
            format!("report {}", updates.collect::<Vec<_>>().join(", "))
        }
        FromAgent::TaskList(list) => {
            let tasks = list.tasks.iter().map(|task| {
                format!(
                    "{}/{}:{}",
                    task.framework_id, task.task_id, task.order_index
                )
            });
            let last = if list.last { " last" } else { "" };
            format!(
                "list at {}: {}{last}",
                list.floor,
                tasks.collect::<Vec<_>>().join(" ")
            )
        }
    }
}
