//! A model of offers, epochs, orders and updates, which the tests explore exhaustively.
//!
//! It has the decisions of `state/src/apply`, `master/src/leader` and `agent/src/core` about these,
//! under the same names, without bytes, times and files. It imports no crate of the product.
//! `docs/chaos.md` states what it covers. Reading order: this file, `registry`, `agent`, `leader`,
//! `system`, `tests/laws`.
#![cfg(test)]

use std::collections::BTreeSet;

mod agent;
mod leader;
mod registry;
mod system;
mod tests;

/// The largest number of tasks.
const TASKS: usize = 2;

/// Derives what parts of a state need.
macro_rules! state {
    ($($part:item)*) => { $(#[derive(Clone, Debug, PartialEq, Eq, Hash)] $part)* };
}

/// The epoch of the leader that made an offer, and a number that ascends.
type OfferId = (u8, u8);

state! {
    /// The sizes of a system with one agent: its tasks; how many its agent has resources for; used
    /// offers that the agent's record keeps; the number of elections, offers, calls, crashes of the
    /// agent, broken links, and decisions that it is unreachable; and a mistake that is planted.
    #[derive(Copy, Default)]
    struct Bounds {
        tasks: usize, units: usize, window: usize, budget: [u8; 6], mistake: Option<Mistake>,
    }

    /// A mistake that the laws must find. `tests/mistakes.rs` describes each.
    #[derive(Copy)]
    enum Mistake {
        EpochNotChecked, FloorNotJournaled, OrderNotSynced, LaunchRepeated, EqualWithUnsentOrder,
        DigestIgnored, UsedOfferHonoured, UsageNotChecked, AnswerBeforeCommit, SettledBeforeCommit,
        UpdateRepeated, UpdateForgotten,
    }

    /// A state of a task. `Ended` stands for all ends that an agent reports.
    #[derive(Copy, Default)]
    enum TaskState { #[default] Staging, Running, Unreachable, Ended, Dropped, Gone }

    /// A command of the log. An agent sends those that it causes.
    #[derive(Copy)]
    enum Command {
        OpenEpoch,
        /// Registers an incarnation.
        RegisterAgent(u8),
        /// Was decided on this revision of the agent's record.
        AgentUnreachable(u8),
        /// Compares the tasks that an incarnation held at a floor.
        ReconcileAgent(u8, u8, [bool; TASKS]),
        /// Reports a task, the number of the update, and the state.
        UpdateTasks(usize, u8, TaskState),
        /// Calls, by the names of their actions: a launch on an offer, and a kill.
        Accept(OfferId, usize),
        Kill(usize),
        /// Covers the updates of a task up to a revision.
        Acknowledge(usize, u8),
    }

    /// A task in the registry. The last two fields are for laws: the offer and the epoch of the
    /// launch, and the number of ends.
    #[derive(Default)]
    struct Task {
        order: u8, kill: Option<u8>, state: TaskState, agent_state: TaskState,
        reported: u8, revision: u8, acknowledged: u8, launch: (OfferId, u8), ends: u8,
    }

    /// The committed facts: the epoch, the record of the agent, and the tasks with the history.
    #[derive(Default)]
    struct Registry {
        epoch: u8, incarnation: u8, is_unreachable: bool, revision: u8, orders: u8,
        used_offers: BTreeSet<OfferId>, used_floor: OfferId, tasks: [Option<Task>; TASKS],
    }

    /// An order. A launch states whether the task must not start.
    #[derive(Copy)]
    enum Order { Launch(usize, bool), Kill(usize), Void }

    /// A message to the agent. The last but one has the number of an update of a task, and whether
    /// the task is released.
    #[derive(Copy)]
    enum Message {
        Registered, ListTasks, Order(u8, Order), Committed(usize, u8, bool), KillStray(usize),
    }

    /// The stage of a link at its leader: with the facts of the hello, with the floor of the list
    /// once that has come, and with the last order that was sent.
    enum LinkStage { Registering(Facts), Listing(Option<u8>), Ready(u8) }

    /// A connection of the agent, which knows whether it is registered. It breaks at both ends in
    /// one step, with all messages in flight.
    struct Link {
        epoch: u8, stage: LinkStage, up: Vec<Command>, down: Vec<Message>, is_registered: bool,
    }

    /// A task on the agent, with the states of its updates, and the number of those that are
    /// committed. Each process finds out by itself whether it is to be started.
    #[derive(Default)]
    struct TaskFacts {
        is_waiting: bool, is_killed: bool, is_orphan: bool,
        updates: Vec<TaskState>, committed: u8,
    }

    /// The facts of the agent. The last field is for laws: the orders that were taken, each with
    /// its epoch.
    #[derive(Default)]
    struct Facts { epoch: u8, floor: u8, tasks: [Option<TaskFacts>; TASKS], taken: Vec<(u8, u8)> }

    /// The agent. Its journal has the facts on disk, and those after each record that may be lost.
    /// Containers outlive its process, and show whether they run. The last field is for laws: the
    /// starts of each task.
    #[derive(Default)]
    struct Agent {
        journal: Vec<Facts>, incarnation: u8, link: Option<Link>,
        containers: [Option<bool>; TASKS], starts: [u8; TASKS],
    }

    /// A leader, with the open offers in its book.
    #[derive(Default)]
    struct Leader { registry: Registry, book: Vec<OfferId>, proposals: Vec<Command> }

    /// The present leader is the first, and has the committed facts. After it comes at most one
    /// that does not know that it was replaced, with the facts of that time. Frameworks use any
    /// offer that was ever made, and know that some tasks were launched.
    #[derive(Default)]
    struct System {
        leaders: Vec<Leader>, agent: Agent,
        offers: Vec<OfferId>, launched: [bool; TASKS], left: [u8; 6],
    }

    /// A step. Leaders are named by their positions. Before another leader wins, a number of
    /// proposals of the former one is committed. At the end of the agent's process, a number of
    /// lazy records is on disk, and its host may be rebooted.
    enum Action {
        OpenEpoch(usize), StepDown, Offer(usize), Propose(usize, Command), Apply(usize, Command),
        Connect(usize), Disconnect, ToLeader(Command), ToAgent(Message),
        Start(usize), Exit(usize), Report(usize), Crash(usize, bool),
    }
}

impl Bounds {
    fn has(&self, mistake: Mistake) -> bool {
        self.mistake == Some(mistake)
    }
}
