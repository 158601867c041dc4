//! Counts of answers by name.

use std::collections::BTreeMap;

use argosy_state::command::{ApplyOutcome, CallAction, Command, CommandReply};

/// The number of answers, by name.
pub(crate) type AnswerCounts = BTreeMap<&'static str, usize>;

/// Returns the code of a refusal, or the name of the result.
pub(crate) fn name(command: &Command, outcome: &ApplyOutcome) -> &'static str {
    match (command, outcome) {
        (_, Err(why)) => why.code(),
        (_, Ok(CommandReply::Repeated(_))) => "repeated",
        (Command::OpenEpoch(_), Ok(_)) => "Open",
        (Command::RegisterAgent(_), Ok(_)) => "Register",
        (Command::AgentUnreachable(_), Ok(_)) => "Unreachable",
        (Command::PruneAgent(_), Ok(_)) => "Prune",
        (Command::TasksStopped(_), Ok(_)) => "Stopped",
        (Command::ReconcileAgent(_), Ok(_)) => "Reconcile",
        (Command::UpdateTasks(_), Ok(_)) => "UpdateTasks",
        (Command::Subscribe(_), Ok(_)) => "Subscribe",
        (Command::DisconnectFramework(_), Ok(_)) => "Disconnect",
        (Command::ExpireFramework(_), Ok(_)) => "Expire",
        (Command::Call(call), Ok(_)) => match &call.action {
            CallAction::Accept(_) => "Accept",
            CallAction::Kill { .. } => "Kill",
            CallAction::UpdateLimits { .. } => "UpdateLimits",
            CallAction::Suppress(_) => "Suppress",
            CallAction::Revive(_) => "Revive",
            CallAction::Update(_) => "Update",
            CallAction::Teardown => "Teardown",
        },
        (Command::Acknowledge(_), Ok(_)) => "Acknowledge",
        (Command::RaiseLowWater(_), Ok(_)) => "Raise",
        (Command::Operate(_), Ok(_)) => "Operate",
        (Command::Sweep(_), Ok(_)) => "Sweep",
        (Command::Tick, Ok(_)) => "Tick",
        (Command::MassLoss, Ok(_)) => "MassLoss",
        (Command::RaiseLevel { .. }, Ok(_)) => "RaiseLevel",
        (Command::CompareDigest(_), Ok(_)) => "Compare",
    }
}
