//! The rule about actors: the actor in the log is the process that sent the command, whichever
//! master received it.

use argosy_state::actor::{Actor, PrincipalKind};
use argosy_state::command::{Command, Proposed};
use argosy_state::ids::Epoch;

/// The kind of actor that may request a command.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Asker {
    Cluster,
    Principal(PrincipalKind),
}

fn asker(command: &Command) -> Asker {
    match command {
        Command::OpenEpoch(_)
        | Command::AgentUnreachable(_)
        | Command::PruneAgent(_)
        | Command::Stopped(_)
        | Command::DisconnectFramework(_)
        | Command::ExpireFramework(_)
        | Command::Sweep(_)
        | Command::Tick
        | Command::MassLoss
        | Command::CompareDigest(_) => Asker::Cluster,
        Command::RegisterAgent(_) | Command::ReconcileAgent(_) | Command::UpdateTasks(_) => {
            Asker::Principal(PrincipalKind::Agent)
        }
        Command::Subscribe(_)
        | Command::Call(_)
        | Command::Acknowledge(_)
        | Command::RaiseLowWater(_) => Asker::Principal(PrincipalKind::Framework),
        Command::Operate(_) | Command::RaiseLevel { .. } => {
            Asker::Principal(PrincipalKind::Operator)
        }
    }
}

/// Returns what is wrong with the actor of a command, if anything. The simulated network proves all
/// identities, but below level 3 commands have no actor. `unnamed` is the newest epoch in which the
/// cluster was at such a level.
pub(super) fn mistaken(proposed: &Proposed, unnamed: Option<Epoch>) -> Option<String> {
    if proposed.actor == Actor::Unauthenticated && Some(proposed.ticket.epoch) <= unnamed {
        return None;
    }
    let found = match &proposed.actor {
        Actor::Cluster => Some(Asker::Cluster),
        Actor::Principal(principal) => Some(Asker::Principal(principal.kind)),
        Actor::Unauthenticated => None,
    };
    let right = asker(&proposed.command);
    let words = || format!("{} asks for what is of {right:?}", proposed.actor);
    (found != Some(right)).then(words)
}
