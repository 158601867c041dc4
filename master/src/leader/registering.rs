//! Registrations on their way through the log: a bounded number of them, the others in line.
//!
//! After a start of very many hosts all their agents say hello at once, and each gives up after some seconds and says it
//! again. A registration that is proposed costs the log, whether its link is still there or not. One that waits in line
//! costs nothing once its link is closed, so that the time of the masters goes to agents that still wait.

use std::collections::BTreeSet;

use argosy_state::command::{Command, RegisterAgent};

use super::agents::Stage;
use super::{Hello, Leader, Route};
use crate::links::LinkId;

/// Registrations in the log at once: less than a second of work.
pub(super) const REGISTRATIONS: usize = 1_024;

/// How many registrations are in the log, and the links in line. A link is in line at most once, so that the line is
/// bounded by the number of links.
#[derive(Debug, Default)]
pub(super) struct Registering {
    proposed: usize,
    /// Link numbers ascend as connections arrive: the first is the next.
    in_line: BTreeSet<LinkId>,
}

impl Registering {
    /// The link is closed.
    pub(super) fn leave(&mut self, link: LinkId) {
        self.in_line.remove(&link);
    }
}

impl Leader {
    /// A hello that says something new: it is proposed when its turn comes.
    pub(super) fn register_in_turn(&mut self, link: LinkId) {
        self.registering.in_line.insert(link);
        self.register_next();
    }

    /// A registration has come through the log, or could not be proposed.
    pub(super) fn registration_concluded(&mut self) {
        let registering = &mut self.registering;
        registering.proposed = registering.proposed.saturating_sub(1);
        self.register_next();
    }

    fn register_next(&mut self) {
        while self.registering.proposed < REGISTRATIONS
            && let Some(link) = self.registering.in_line.pop_first()
        {
            let Some(state) = self.agent_links.get(&link) else {
                continue;
            };
            let Stage::Registering(hello) = &state.stage else {
                continue;
            };
            let (actor, register) = (state.actor.clone(), registration(hello));
            // Counted only with its proposal, whose end uncounts it.
            self.registering.proposed += 1;
            self.propose(actor, Command::RegisterAgent(register), Route::Agent(link));
        }
    }
}

fn registration(hello: &Hello) -> RegisterAgent {
    RegisterAgent {
        agent: hello.agent,
        nonce: hello.nonce,
        confirmed: hello.confirmed,
        tried: hello.tried.clone(),
        boot_id: hello.boot_id.clone(),
        info: hello.info.clone(),
    }
}
