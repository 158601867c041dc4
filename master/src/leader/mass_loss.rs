//! What happens when very many agents fall silent at once: probably it is this master that is cut off.
//!
//! The leader first hands leadership over, once for each such loss, then gives up one agent in a hundred a second. The
//! registry records the hand-over, so that the next leader continues slowly instead of handing over again.

use argosy_state::Registry;
use argosy_state::command::Command;
use argosy_state::ids::Timestamp;
use argosy_state::level::Level;

use super::{Effect, Leader, Now, Route};

/// Agents that may be given up at once, however few there are.
const FEW: usize = 10;
/// A record of a mass loss counts for so many agent timeouts: longer than a change of leader takes with the grace that
/// follows. A leader that still holds agents back renews the record after one.
const RECENT_TIMEOUTS: u64 = 4;
/// How long the leader waits for its successor before it gives up the next agent, in milliseconds.
const HAND_OVER_MS: u64 = 1_000;

/// How fast agents are given up.
#[derive(Debug, Default)]
pub(super) struct MassLoss {
    /// Agents given up within the running window.
    silent: usize,
    window_began: Timestamp,
    /// The most agents that were watched within the running window.
    watched: usize,
    /// When an agent was last held back, or given up in the slow way.
    held_back: Timestamp,
    /// When the next agent may be given up while many are silent.
    next_mark: Timestamp,
    /// A record of it is on its way through the log.
    recording: bool,
    /// Before level 3: leadership was handed over for one.
    handed_over: bool,
}

impl Leader {
    /// Takes over from a leader that may have handed over for a mass loss: then none is given up at once here.
    pub(super) fn begin_mass_loss(&mut self, registry: &Registry, now: Now) {
        let goes_on = self.since_mass_loss(registry, now).is_some();
        let state = &mut self.mass_loss;
        state.window_began = now.at;
        if goes_on {
            state.silent = usize::MAX;
            // Agents are due after one timeout: until the first of them is held back, no new window begins.
            state.held_back = now.at.plus_ms(self.limits.agent_timeout_ms);
        }
    }

    /// When the agent is looked at again, if it is not to be given up now. When more than max(10, a fifth) of the agents
    /// that are watched fall silent within one timeout, the leader hands over, once; then it gives up one in a hundred a
    /// second.
    pub(super) fn hold_back(&mut self, registry: &Registry, now: Now) -> Option<Timestamp> {
        let watched = self.deadlines.watched();
        let timeout_ms = self.limits.agent_timeout_ms;
        let state = &mut self.mass_loss;
        // As long as some wait for their turn, no new window lets a fifth through at once.
        if now.at.since_ms(state.window_began) > timeout_ms
            && now.at.since_ms(state.held_back) > timeout_ms
        {
            state.window_began = now.at;
            state.silent = 0;
            state.watched = 0;
        }
        state.watched = state.watched.max(watched);
        if state.silent < (state.watched / 5).max(FEW) {
            state.silent += 1;
            return None;
        }
        state.held_back = state.held_back.max(now.at);
        self.record_mass_loss(registry, now);
        let state = &mut self.mass_loss;
        if state.next_mark > now.at {
            return Some(state.next_mark);
        }
        let a_second = (state.watched / 100).max(1) as u64;
        state.next_mark = now.at.plus_ms(1_000 / a_second.min(1_000));
        None
    }

    fn record_mass_loss(&mut self, registry: &Registry, now: Now) {
        let since_ms = self.since_mass_loss(registry, now);
        let is_due = since_ms.is_none_or(|since_ms| since_ms >= self.limits.agent_timeout_ms);
        if self.mass_loss.recording || !is_due {
            return;
        }
        if self.level < Level::RELEASE_0_2 {
            return self.hand_over_once(now);
        }
        self.mass_loss.recording = true;
        let hand_over = since_ms.is_none();
        if hand_over {
            self.mass_loss.next_mark = now.at.plus_ms(HAND_OVER_MS);
        }
        self.decide(Command::MassLoss, Route::MassLoss { hand_over });
    }

    /// Before level 3 a mass loss is not recorded: each leader hands over once, as release 0.1.0 does.
    fn hand_over_once(&mut self, now: Now) {
        let state = &mut self.mass_loss;
        if !std::mem::replace(&mut state.handed_over, true) {
            state.next_mark = now.at.plus_ms(HAND_OVER_MS);
            self.out.push(Effect::HandOver);
        }
    }

    /// Leadership is handed over only once the next leader can know why.
    pub(super) fn mass_loss_recorded(&mut self, hand_over: bool) {
        self.mass_loss.recording = false;
        if hand_over {
            self.out.push(Effect::HandOver);
        }
    }

    /// Milliseconds of cluster time since a mass loss was last recorded, if that is recent.
    fn since_mass_loss(&self, registry: &Registry, now: Now) -> Option<u64> {
        let recorded = registry.cluster().mass_loss?;
        let since_ms = now.at.since_ms(recorded);
        (since_ms <= RECENT_TIMEOUTS * self.limits.agent_timeout_ms).then_some(since_ms)
    }
}
