//! Explorations of the model, and proofs that its laws can fail.

mod explorations;
mod form;
pub(crate) mod laws;
mod mistakes;

use std::fmt::Write as _;

use stateright::{Checker, HasDiscoveries, Model, Path};

use crate::{Action, Bounds, System};

/// One task, one offer of it, and one call. Budgets are those of elections, offers, calls, crashes,
/// losses and timeouts.
const ONE_TASK: Bounds =
    Bounds { tasks: 1, units: 1, window: 1, budget: [0, 1, 1, 0, 0, 0], mistake: None };

/// The result of an exploration.
struct Explored {
    states: usize,
    depth: usize,
    /// The violated laws, each with the steps that lead to a violation.
    violations: Vec<(&'static str, Path<System, Action>)>,
    /// The situations that were reached, in order.
    situations: Vec<&'static str>,
}

/// Explores all states up to a depth, or up to the first violations.
fn explore(bounds: Bounds, depth: usize) -> Explored {
    let checker = bounds.checker().target_max_depth(depth);
    let checker = checker.finish_when(HasDiscoveries::AnyFailures).spawn_bfs().join();
    let (states, depth) = (checker.unique_state_count(), checker.max_depth());
    let discoveries = checker.discoveries().into_iter();
    let (situations, violations): (Vec<_>, _) =
        discoveries.partition(|(name, _)| laws::SITUATIONS.contains(name));
    let mut situations: Vec<_> = situations.into_iter().map(|(name, _)| name).collect();
    situations.sort_unstable();
    Explored { states, depth, violations, situations }
}

/// Returns the steps of a path, one in each line.
fn trace(path: &Path<System, Action>) -> String {
    let mut text = String::new();
    for action in path.clone().into_actions() {
        writeln!(text, "    {action:?}").expect("a text takes any line");
    }
    text
}
