//! Handwritten histories for the tests of checkers: one line for each event.

use argosy_state::ids::{
    AgentId, Epoch, FrameworkId, NodeId, OfferId, OrderIndex, Revision, Role, TaskId, TaskKey,
};
use argosy_state::resources::Resources;
use argosy_state::task::TaskState;

use super::Findings;
use crate::history::{
    CallName, EventKind, Expectation, Fault, FaultKind, FrameworkFact, History, HistoryEvent,
    LaunchedTask, Observation, OfferFact, Operation, OperationResponse, ProcessName, Removal,
    RunPhase, TaskFact, witness::ProcessStart,
};

pub(super) const FRAMEWORK: FrameworkId = FrameworkId(3);
pub(super) const AGENT: AgentId = AgentId(5);
pub(super) const NODE_1: NodeId = NodeId(1);
pub(super) const NODE_2: NodeId = NodeId(2);
pub(super) const NODE_3: NodeId = NodeId(3);

pub(super) fn key(task: &str) -> TaskKey {
    TaskKey {
        framework: FRAMEWORK,
        task: TaskId::new(task).unwrap(),
    }
}

pub(super) fn offer(epoch: u64, serial: u64) -> OfferId {
    let epoch = Epoch(epoch);
    OfferId { epoch, serial }
}

pub(super) fn revision(index: u64) -> Revision {
    Revision { index, position: 0 }
}

pub(super) fn resources(text: &str) -> Resources {
    text.parse().unwrap()
}

pub(super) fn call_name(session: u64, number: u64) -> CallName {
    CallName {
        framework: FRAMEWORK,
        session,
        number,
    }
}

pub(super) enum CallEnd {
    Ok(OperationResponse),
    Fail(&'static str),
    Info,
}

/// A builder of a history. Each event comes one millisecond after the previous one.
#[derive(Clone, Default)]
pub(super) struct HistoryBuilder {
    events: Vec<HistoryEvent>,
    time_ns: u64,
    calls: u64,
}

impl HistoryBuilder {
    pub(super) fn new() -> Self {
        Self::default()
    }

    /// Delays the next event by this time.
    pub(super) fn after_ms(mut self, ms: u64) -> Self {
        self.time_ns += ms * 1_000_000;
        self
    }

    fn push(mut self, process: &str, revision: Option<Revision>, what: EventKind) -> Self {
        self.time_ns += 1_000_000;
        self.events.push(HistoryEvent {
            time_ns: self.time_ns,
            process: ProcessName::new(process),
            revision,
            what,
        });
        self
    }

    pub(super) fn observe(self, process: &str, seen: impl Into<Observation>) -> Self {
        self.push(process, None, EventKind::Observation(seen.into()))
    }

    /// Adds an observation of something that became true with the entry `index`.
    pub(super) fn observe_at(
        self,
        process: &str,
        index: u64,
        seen: impl Into<Observation>,
    ) -> Self {
        let revision = Some(revision(index));
        self.push(process, revision, EventKind::Observation(seen.into()))
    }

    pub(super) fn fault(self, kind: FaultKind, target: &str) -> Self {
        self.inject(Fault::new(kind, target))
    }

    pub(super) fn inject(self, fault: Fault) -> Self {
        self.push("nemesis", None, EventKind::Fault(fault))
    }

    pub(super) fn phase(self, phase: RunPhase) -> Self {
        self.observe("harness", Expectation::Phase { phase })
    }

    pub(super) fn begin(mut self, process: &str, operation: Operation) -> Self {
        self.calls += 1;
        let call = self.calls;
        self.push(process, None, EventKind::Invoke { call, operation })
    }

    /// Ends the call that was the `call`th to begin.
    pub(super) fn end(self, process: &str, call: u64, ending: CallEnd) -> Self {
        let what = match ending {
            CallEnd::Ok(outcome) => EventKind::Ok { call, outcome },
            CallEnd::Fail(reason) => EventKind::Fail {
                call,
                reason: reason.to_owned(),
            },
            CallEnd::Info => EventKind::Info {
                call,
                reason: "deadline".to_owned(),
            },
        };
        self.push(process, None, what)
    }

    /// Ends a call with the value of a register, as of the entry `index`.
    pub(super) fn end_at(self, process: &str, call: u64, index: u64, value: Option<&str>) -> Self {
        let value = value.map(ToOwned::to_owned);
        let outcome = OperationResponse::Value { value };
        let what = EventKind::Ok { call, outcome };
        self.push(process, Some(revision(index)), what)
    }

    /// Ends a call as done at the entry `index`.
    pub(super) fn end_done_at(self, process: &str, call: u64, index: u64) -> Self {
        let outcome = OperationResponse::Done;
        let what = EventKind::Ok { call, outcome };
        self.push(process, Some(revision(index)), what)
    }

    pub(super) fn call(self, process: &str, operation: Operation, ending: CallEnd) -> Self {
        let builder = self.begin(process, operation);
        let call = builder.calls;
        builder.end(process, call, ending)
    }

    /// Adds a completed acceptance of one offer for one task.
    pub(super) fn accepted(self, number: u64, used: OfferId, task: &str) -> Self {
        let outcome = OperationResponse::Accepted {
            refused: Vec::new(),
        };
        self.call("greedy", accept(number, used, task), CallEnd::Ok(outcome))
    }

    pub(super) fn offer_made(self, made: OfferId) -> Self {
        let seen = OfferFact::Made {
            offer: made,
            framework: FRAMEWORK,
            session: 7,
            agent: AGENT,
            role: Role::default(),
            resources: resources("cpus:4"),
        };
        self.observe("greedy", seen)
    }

    /// Adds the removal of a framework with a failover timeout of one minute. It was disconnected
    /// at ten seconds of cluster time, and is removed `away_ms` later by a command of this kind.
    pub(super) fn removed(self, by: Removal, away_ms: u64) -> Self {
        let framework = FRAMEWORK;
        let at_ms = 10_000;
        let subscribed = FrameworkFact::Subscribed {
            framework,
            failover_timeout_ms: 60_000,
        };
        let removing = FrameworkFact::Removing {
            framework,
            by,
            at_ms: at_ms + away_ms,
        };
        self.observe("greedy", subscribed)
            .observe_at("log", 7, FrameworkFact::Disconnected { framework, at_ms })
            .observe_at("log", 8, removing)
    }

    /// Adds an operator's request for the teardown of the framework.
    pub(super) fn torn_down(self) -> Self {
        let teardown = Operation::Teardown {
            name: None,
            framework: FRAMEWORK,
        };
        self.call("hand", teardown, CallEnd::Info)
    }

    pub(super) fn launched(self, index: u64, task: &str, order: u64) -> Self {
        let seen = TaskFact::Launched {
            task: key(task),
            order: OrderIndex(order),
            agent: AGENT,
            offers: vec![offer(12, 1)],
            principal: "alice".to_owned(),
        };
        self.observe_at("master-1", index, seen)
    }

    pub(super) fn changed(self, index: u64, task: &str, state: TaskState) -> Self {
        let task = key(task);
        let number = 0;
        self.observe_at(
            "master-1",
            index,
            TaskFact::Changed {
                task,
                state,
                number,
            },
        )
    }

    pub(super) fn update_received(self, index: u64, task: &str, state: TaskState) -> Self {
        let seen = TaskFact::UpdateReceived {
            task: key(task),
            update: revision(index),
            state,
            end: None,
        };
        self.observe("greedy", seen)
    }

    pub(super) fn witnessed(self, task: &str, nonce: &str) -> Self {
        let start = ProcessStart {
            order: None,
            nonce: nonce.to_owned(),
            boot_id: "boot-1".to_owned(),
            pid: 4,
            start_time: 900,
        };
        let task = key(task);
        self.observe("witness", TaskFact::Witnessed { task, start })
    }

    pub(super) fn alive(self, task: &str, pid: u32, progress: u64) -> Self {
        self.alive_in("boot-1", task, pid, progress)
    }

    pub(super) fn alive_in(self, boot: &str, task: &str, pid: u32, progress: u64) -> Self {
        let seen = TaskFact::Alive {
            task: key(task),
            agent: AGENT,
            pid,
            start_time: 900,
            boot_id: boot.to_owned(),
            progress: Some(progress),
        };
        self.observe("audit", seen)
    }

    pub(super) fn history(self) -> History {
        History::new(self.events)
    }
}

pub(super) fn accept(number: u64, used: OfferId, task: &str) -> Operation {
    Operation::Accept {
        name: call_name(7, number),
        offers: vec![used],
        launches: vec![LaunchedTask {
            task: key(task),
            resources: resources("cpus:1;ports:[31000-31000]"),
        }],
        all_or_nothing: false,
    }
}

/// Asserts that the checker compares something and finds no violation.
#[track_caller]
pub(super) fn assert_clean(check: fn(&History) -> Findings, builder: HistoryBuilder) {
    let findings = check(&builder.history());
    assert_eq!(findings.violations, []);
    assert!(findings.compared > 0, "it looked at nothing");
}

/// Asserts that the checker finds exactly one violation, with this text, and names events.
#[track_caller]
pub(super) fn assert_violation(
    check: fn(&History) -> Findings,
    builder: HistoryBuilder,
    message: &str,
) {
    let history = builder.history();
    let findings = check(&history);
    let [(what, events)] = findings.violations.as_slice() else {
        panic!("not one thing is wrong: {:#?}", findings.violations);
    };
    assert!(
        what.contains(message),
        "{what:?} does not contain {message:?}"
    );
    assert!(!events.is_empty(), "no event shows it");
    assert!(events.iter().all(|at| *at < history.events.len()));
}

/// Asserts that the checker compares nothing.
#[track_caller]
pub(super) fn assert_nothing_compared(check: fn(&History) -> Findings, builder: HistoryBuilder) {
    assert_eq!(check(&builder.history()), Findings::default());
}
