//! `apply`: the only function that changes facts.
//!
//! `apply` is total and deterministic: every command gets an outcome, and none fails half-way. All
//! checks come before the first change. Reading order: `epochs`, `agents`, `reconcile`,
//! `frameworks`, `calls`, `accept`, `overlay`, `groups`, `tasks`, `stopped`, `operators`,
//! `operation`, `access`, `sweeps`, `conversion`.

mod accept;
mod access;
mod agents;
mod bounds;
mod calls;
mod checks;
mod command_line;
mod confinement;
mod container;
mod conversion;
mod discovery;
mod epochs;
mod executors;
mod frameworks;
mod groups;
mod host_paths;
mod limits_change;
mod operation;
mod operators;
mod overlay;
mod reconcile;
mod secrets;
mod stopped;
mod sweeps;
mod tasks;
mod uris;
mod volumes;

pub use accept::check_descriptions;
pub use frameworks::check_subscription;

use crate::Registry;
use crate::actor::Actor;
use crate::command::{ApplyOutcome, Command, CommandReply, LogEntry, ProposedCommand, Rejection};
use crate::event::Event;
use crate::ids::{Epoch, Revision, Ticket, Timestamp};
use crate::limits;
use crate::planted_bug;
use crate::registry::RecordKey;

/// The result of one command.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AppliedProposal {
    /// The ticket of the command.
    pub ticket: Ticket,
    /// The actor of the command.
    pub actor: Actor,
    /// The answer.
    pub outcome: ApplyOutcome,
    /// The changes, in order.
    pub events: Vec<Event>,
}

/// The context of a command: its position in the log, its time, its actor, and the changes so far.
struct CommandContext {
    at: Timestamp,
    index: u64,
    position: u32,
    actor: Actor,
    events: Vec<Event>,
    /// The number of tasks that sweeps may still end in this command. All teardowns of a batch
    /// share it.
    sweep_budget: usize,
    /// The number of records that sweeps may still change in this command, since level 3.
    record_budget: usize,
    /// The number of records that the history may still drop in this command.
    drop_budget: usize,
}

impl CommandContext {
    /// Returns a revision that no other fact has.
    fn next_revision(&mut self) -> Revision {
        let revision = Revision {
            index: self.index,
            position: self.position,
        };
        self.position += 1;
        revision
    }

    fn emit(&mut self, event: Event) {
        self.events.push(event);
    }
}

impl Registry {
    /// Applies the entry at log `index`. Entries are applied in order, each once. An entry at or
    /// below the last applied index changes nothing and returns no results.
    pub fn apply(&mut self, index: u64, entry: &LogEntry) -> Vec<AppliedProposal> {
        if index <= self.applied {
            return Vec::new();
        }
        self.applied = index;
        if entry.at > self.time {
            self.time = entry.at;
            self.changed.insert(RecordKey::Time);
        }
        let mut context = CommandContext {
            at: self.time,
            index,
            position: 0,
            actor: Actor::default(),
            events: Vec::new(),
            sweep_budget: 0,
            record_budget: 0,
            drop_budget: 0,
        };
        let mut all = Vec::with_capacity(entry.commands.len());
        for ProposedCommand {
            ticket,
            actor,
            command,
        } in &entry.commands
        {
            context.actor.clone_from(actor);
            context.sweep_budget = limits::TASKS_PER_SWEEP;
            context.record_budget = limits::CHANGED_RECORDS;
            context.drop_budget = limits::DROPPED_RECORDS;
            let outcome = self.command(&mut context, *ticket, command);
            all.push(AppliedProposal {
                ticket: *ticket,
                actor: std::mem::take(&mut context.actor),
                outcome,
                events: std::mem::take(&mut context.events),
            });
        }
        all
    }

    fn command(
        &mut self,
        context: &mut CommandContext,
        ticket: Ticket,
        command: &Command,
    ) -> ApplyOutcome {
        if let Command::OpenEpoch(open) = command {
            return self.open_epoch(context, open);
        }
        // Before the first epoch only `OpenEpoch` is applied.
        let is_stale = ticket.epoch != self.cluster.epoch;
        if (is_stale && !planted_bug!(StaleEpochCommits)) || ticket.epoch == Epoch::default() {
            return Err(Rejection::StaleEpoch);
        }
        match command {
            Command::OpenEpoch(_) | Command::Tick => Ok(CommandReply::Done),
            Command::RegisterAgent(register) => self.register_agent(context, register),
            Command::AgentUnreachable(decision) => self.agent_unreachable(context, decision),
            Command::PruneAgent(decision) => self.prune_agent(context, decision),
            Command::TasksStopped(stopped) => self.stopped(context, stopped),
            Command::ReconcileAgent(list) => self.reconcile_agent(context, list),
            Command::UpdateTasks(report) => self.update_tasks(context, report),
            Command::Subscribe(subscribe) => self.subscribe(context, subscribe),
            Command::DisconnectFramework(decision) => self.disconnect_framework(context, decision),
            Command::ExpireFramework(decision) => self.expire_framework(context, decision),
            Command::Call(call) => self.call(context, call),
            Command::Acknowledge(acknowledge) => self.acknowledge(context, acknowledge),
            Command::RaiseLowWater(raise) => self.raise_low_water(raise),
            Command::Operate(operate) => self.operate(context, operate),
            Command::Sweep(target) => self.sweep(context, *target),
            Command::MassLoss => Ok(self.mass_loss(context)),
            Command::RaiseLevel { level } => self.raise_level(context, *level),
            Command::CompareDigest(compare) => {
                context.emit(Event::DigestLogged {
                    index: compare.index,
                    digest: compare.digest,
                });
                Ok(CommandReply::Done)
            }
        }
    }
}
