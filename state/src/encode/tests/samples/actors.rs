//! Samples of commands of each kind of actor.

use crate::command::ProposedCommand;

/// Returns some of `plain`, each by an actor.
pub(super) fn commands(
    plain: &[(&'static str, ProposedCommand)],
) -> Vec<(&'static str, ProposedCommand)> {
    let by = |name: &'static str, command: &str, actor: &str| {
        let sample = plain.iter().find(|(name, _)| *name == command);
        let (_, proposed) = sample.expect("it is a sample");
        let actor = actor.parse().expect("it is an actor");
        let command = proposed.command.clone();
        let ticket = proposed.ticket;
        let proposed = ProposedCommand {
            ticket,
            actor,
            command,
        };
        (name, proposed)
    };
    vec![
        by("by-cluster", "tick", "cluster"),
        by("by-master", "tick", "master/master-1"),
        by("by-agent", "update-tasks", "agent/agent-7.example"),
        by("by-framework", "acknowledge", "framework/web"),
        by("by-operator", "operate", "operator/alice@example.com"),
    ]
}
