//! T6: what was told ended has no process, and what was killed or dropped before it was delivered never
//! starts.

use std::collections::BTreeMap;

use argosy_state::ids::TaskKey;
use argosy_state::task::TaskState;

use super::Findings;
use super::facts::{APART_NS, of_tasks};
use crate::history::{History, TaskFact};

/// Whether an end of this kind says that no process is left. Nobody knows what runs on a host that is
/// gone.
fn leaves_nothing(state: TaskState) -> bool {
    state.is_terminal() && !matches!(state, TaskState::Gone | TaskState::GoneByOperator)
}

/// Judges a history.
pub(super) fn check(history: &History) -> Findings {
    let mut findings = Findings::default();
    let mut ended: BTreeMap<&TaskKey, usize> = BTreeMap::new();
    let mut never: BTreeMap<&TaskKey, (usize, &str)> = BTreeMap::new();
    for (at, _, fact) in of_tasks(history) {
        match fact {
            TaskFact::Told { task, state, .. } | TaskFact::Changed { task, state, .. } => {
                if leaves_nothing(*state) {
                    ended.entry(task).or_insert(at);
                }
                if *state == TaskState::Dropped {
                    never.entry(task).or_insert((at, "dropped"));
                }
            }
            TaskFact::KillCommitted { task, delivered } => {
                findings.look();
                if !delivered {
                    never
                        .entry(task)
                        .or_insert((at, "killed before it was delivered"));
                }
            }
            _ => {}
        }
    }
    for (at, event, fact) in of_tasks(history) {
        match fact {
            // What was in sight when the end was told may be recorded a little later.
            TaskFact::Alive { task, .. } => {
                if let Some(end) = ended.get(task) {
                    let end_ns = history.events[*end].time_ns;
                    findings.must(event.time_ns <= end_ns + APART_NS, [*end, at], || {
                        format!("{task} has a process after it was told ended")
                    });
                }
            }
            // Witness files are read at the end: a start is a start, whenever it was.
            TaskFact::Witnessed { task, .. } => {
                findings.look();
                if let Some((since, why)) = never.get(task) {
                    findings.wrong(format!("{task} was {why}, and started"), [*since, at]);
                }
            }
            _ => {}
        }
    }
    findings
}

#[cfg(test)]
mod tests {
    use super::super::scene::{Scene, catches, key, passes};
    use super::*;

    fn killed(delivered: bool) -> Scene {
        let task = key("web");
        Scene::new().saw("master-1", TaskFact::KillCommitted { task, delivered })
    }

    #[test]
    fn a_process_that_ends_with_its_task_is_fine() {
        let scene = Scene::new()
            .witnessed("web", "n")
            .alive("web", 4, 1)
            .told(9, "web", TaskState::Killed)
            .alive("web", 4, 2);
        passes(check, scene);
        passes(check, killed(true).witnessed("web", "n"));
        passes(check, killed(false));
    }

    #[test]
    fn a_process_that_outlives_its_end_is_seen() {
        let scene = Scene::new()
            .told(9, "web", TaskState::Killed)
            .after_ms(1500);
        catches(check, scene.alive("web", 4, 1), "after it was told ended");
        let gone = Scene::new().told(9, "web", TaskState::Gone).after_ms(1500);
        assert_eq!(check(&gone.alive("web", 4, 1).history()).wrong, []);
    }

    #[test]
    fn a_task_that_was_never_to_start_and_starts_is_seen() {
        catches(
            check,
            killed(false).witnessed("web", "n"),
            "killed before it was delivered",
        );
        let dropped = Scene::new().changed(9, "web", TaskState::Dropped);
        catches(
            check,
            dropped.witnessed("web", "n"),
            "framework-3/web was dropped",
        );
    }
}
