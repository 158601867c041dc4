//! The rule about actors: the actor in the log is the process that sent the command, whichever
//! master received it.

use argosy_state::actor::{Actor, PrincipalKind};
use argosy_state::command::{Command, ProposedCommand};
use argosy_state::ids::Epoch;

/// The kind of actor that may request a command.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum RequesterKind {
    Cluster,
    Principal(PrincipalKind),
}

fn requester(command: &Command) -> RequesterKind {
    match command {
        Command::OpenEpoch(_)
        | Command::AgentUnreachable(_)
        | Command::PruneAgent(_)
        | Command::TasksStopped(_)
        | Command::DisconnectFramework(_)
        | Command::ExpireFramework(_)
        | Command::Sweep(_)
        | Command::Tick
        | Command::MassLoss
        | Command::CompareDigest(_) => RequesterKind::Cluster,
        Command::RegisterAgent(_) | Command::ReconcileAgent(_) | Command::UpdateTasks(_) => {
            RequesterKind::Principal(PrincipalKind::Agent)
        }
        Command::Subscribe(_)
        | Command::Call(_)
        | Command::Acknowledge(_)
        | Command::RaiseLowWater(_) => RequesterKind::Principal(PrincipalKind::Framework),
        Command::Operate(_) | Command::RaiseLevel { .. } => {
            RequesterKind::Principal(PrincipalKind::Operator)
        }
    }
}

/// Returns what is wrong with the actor of a command, if anything. The simulated network proves all
/// identities, but below level 3 commands have no actor. `unnamed` is the newest epoch in which the
/// cluster was at such a level.
pub(super) fn check_actor(proposed: &ProposedCommand, unnamed: Option<Epoch>) -> Option<String> {
    if proposed.actor == Actor::Unauthenticated && Some(proposed.ticket.epoch) <= unnamed {
        return None;
    }
    let found = match &proposed.actor {
        Actor::Cluster => Some(RequesterKind::Cluster),
        Actor::Principal(principal) => Some(RequesterKind::Principal(principal.kind)),
        Actor::Unauthenticated => None,
    };
    let right = requester(&proposed.command);
    let words = || format!("{} asks for what is of {right:?}", proposed.actor);
    (found != Some(right)).then(words)
}
