//! Proposals of the owner to raft: the opening of an epoch, and the leader's commands in their
//! order.

use argosy_proto::trace;
use argosy_raft::{Proposal, ProposeError};
use argosy_state::actor::Actor;
use argosy_state::command::{Command, OpenEpoch, ProposedCommand};
use argosy_state::encode;
use argosy_state::ids::{NodeId, Ticket};
use argosy_state::level;
use tokio::time::Instant;
use tracing::{error, warn};

use super::Replica;
use crate::comparison::check_readable;
use crate::leader::Input;
use crate::turns;

/// A proposal that raft has not accepted yet.
pub(super) struct PendingProposal {
    serial: u64,
    proposal: Proposal,
}

impl Replica {
    /// Proposes an epoch, once in each term. If the proposal is lost with the term, the next term
    /// opens another one.
    pub(super) fn open_epoch(&mut self, term: u64) {
        use sha2::Digest;
        if self.loading.is_loading() {
            return;
        }
        let Some(level) = self.level_to_open(term) else {
            return;
        };
        let entropy =
            sha2::Sha256::digest([&self.entropy[..], &term.to_be_bytes()].concat()).into();
        let open = OpenEpoch {
            node: NodeId(self.node.id()),
            process: self.process,
            term,
            entropy,
            wall_ms: self.node.wall_clock().now_ms(),
            level,
        };
        let proposed = ProposedCommand {
            ticket: Ticket::default(),
            actor: Actor::Cluster,
            command: Command::OpenEpoch(open),
        };
        let proposal = Proposal {
            at_ms: self.registry.time().0,
            command: encode::command(&proposed, level).into(),
            work: 1,
        };
        match self.node.try_propose(proposal) {
            Ok(()) => {
                self.opened_term = term;
                self.opened_at = Instant::now();
            }
            Err(why) => warn!(term, %why, "cannot open an epoch yet"),
        }
    }

    /// Proposes a command after those that already wait.
    pub(super) fn propose(&mut self, proposed: &ProposedCommand) {
        if self.leader.is_none() {
            // Lost with an effect before this one.
            return;
        }
        let Ticket { serial, .. } = proposed.ticket;
        let level = self.registry.level();
        if let Some(need) = level::first_unsupported(level, &proposed.command) {
            return self.step(Input::BeyondLevel { serial, need });
        }
        let work = turns::proposed_work(&self.registry, &proposed.command);
        let command = encode::command(proposed, level);
        if let Err(why) = check_readable(&command) {
            error!(serial, %why, "a command cannot be decoded and is not proposed: please report this defect");
            self.metrics.unreadable.increment(1);
            return self.step(Input::Unreadable { serial, why });
        }
        let proposal = Proposal {
            at_ms: self.clock.now().0,
            work,
            command: command.into(),
        };
        self.traces.record(serial);
        self.unproposed
            .push_back(PendingProposal { serial, proposal });
        if self.unproposed.len() == 1 {
            self.propose_pending();
        }
    }

    /// Passes raft as many proposals as it has room for. A node that no longer leads drops the
    /// rest: losing leadership makes every caller retry, as it does for a call with an unknown
    /// outcome.
    pub(super) fn propose_pending(&mut self) {
        while let Some(first) = self.unproposed.front() {
            let (serial, proposal) = (first.serial, first.proposal.clone());
            let taken = self.node.try_propose(proposal);
            self.metrics.proposed(&taken);
            match taken {
                Ok(()) => drop(self.unproposed.pop_front()),
                Err(ProposeError::Full) => return,
                Err(ProposeError::TooLarge { bytes, .. }) => {
                    self.unproposed.pop_front();
                    let context = self.traces.take(serial);
                    trace::within(context, || self.step(Input::TooLarge { serial, bytes }));
                }
                Err(why @ (ProposeError::NotLeader | ProposeError::Stopped)) => {
                    warn!(%why, "a command could not be proposed");
                    self.stop_leading("raft accepts no commands");
                }
            }
        }
    }
}
