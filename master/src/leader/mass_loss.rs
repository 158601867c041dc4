//! Mass loss: very many agents that fall silent within one timeout. The likely cause is that this
//! master is cut off.
//!
//! The leader first transfers leadership, once for each such loss, then declares one agent in a
//! hundred per second unreachable. The registry records the transfer, so that the next leader
//! continues slowly instead of transferring leadership again.

use argosy_state::Registry;
use argosy_state::command::Command;
use argosy_state::ids::Timestamp;
use argosy_state::level::Level;

use super::{Effect, Leader, LeaderTime, ProposalOrigin};

/// Number of agents that may be declared unreachable immediately, however small the cluster is.
const FEW: usize = 10;
/// Agent timeouts for which a record of a mass loss counts: longer than a change of leader with its
/// following grace period. A leader that still holds agents back renews the record after one
/// timeout.
const RECENT_TIMEOUTS: u64 = 4;
/// Time for which the leader waits for its successor before it declares the next agent unreachable,
/// in milliseconds.
const TRANSFER_MS: u64 = 1_000;

/// A place that became free this long ago is still used, in milliseconds: agents are checked once
/// in each tick, and many places may have become free since the last one.
const UNUSED_MS: u64 = 200;

/// State of the rate limit for declaring agents unreachable.
#[derive(Debug, Default)]
pub(super) struct MassLoss {
    /// Agents declared unreachable within the current window.
    marked: usize,
    window_began: Timestamp,
    /// The maximum number of watched agents within the current window.
    watched: usize,
    /// Time at which an agent was last held back, or declared unreachable at the slow rate.
    last_held_back: Timestamp,
    /// Time at which the next agent may be declared unreachable while many are silent.
    next_mark: Timestamp,
    /// Whether a record of the mass loss is in flight in the log.
    recording: bool,
    /// Before level 3: whether leadership was transferred for a mass loss.
    has_transferred: bool,
}

impl Leader {
    /// Continues after a leader that may have transferred leadership for a mass loss: then no agent
    /// is declared unreachable immediately.
    pub(super) fn begin_mass_loss(&mut self, registry: &Registry, now: LeaderTime) {
        let goes_on = self.since_mass_loss(registry, now).is_some();
        let state = &mut self.mass_loss;
        state.window_began = now.at;
        if goes_on {
            state.marked = usize::MAX;
            // Agents are due after one timeout: until the first of them is held back, no new window
            // begins.
            state.last_held_back = now.at.plus_ms(self.limits.agent_timeout_ms);
        }
    }

    /// Returns when the agent is checked again, if it must not be declared unreachable now. When
    /// more than max(10, a fifth) of the watched agents fall silent within one timeout, the leader
    /// transfers leadership, once. Then it declares one agent in a hundred per second unreachable.
    pub(super) fn throttle(&mut self, registry: &Registry, now: LeaderTime) -> Option<Timestamp> {
        let watched = self.deadlines.watched();
        let timeout_ms = self.limits.agent_timeout_ms;
        let state = &mut self.mass_loss;
        // While agents are held back, no new window lets another fifth through.
        if now.at.since_ms(state.window_began) > timeout_ms
            && now.at.since_ms(state.last_held_back) > timeout_ms
        {
            state.window_began = now.at;
            state.marked = 0;
            state.watched = 0;
        }
        state.watched = state.watched.max(watched);
        if state.marked < (state.watched / 5).max(FEW) {
            state.marked += 1;
            return None;
        }
        state.last_held_back = state.last_held_back.max(now.at);
        self.record_mass_loss(registry, now);
        let state = &mut self.mass_loss;
        if state.next_mark > now.at {
            return Some(state.next_mark);
        }
        let a_second = (state.watched / 100).max(1) as u64;
        let is_recent = now.at.since_ms(state.next_mark) <= UNUSED_MS;
        let from = if is_recent { state.next_mark } else { now.at };
        state.next_mark = from.plus_ms(1_000 / a_second.min(1_000));
        None
    }

    fn record_mass_loss(&mut self, registry: &Registry, now: LeaderTime) {
        let since_ms = self.since_mass_loss(registry, now);
        let is_due = since_ms.is_none_or(|since_ms| since_ms >= self.limits.agent_timeout_ms);
        if self.mass_loss.recording || !is_due {
            return;
        }
        if self.level < Level::RELEASE_0_2 {
            return self.transfer_once(now);
        }
        self.mass_loss.recording = true;
        let hand_over = since_ms.is_none();
        if hand_over {
            self.mass_loss.next_mark = now.at.plus_ms(TRANSFER_MS);
        }
        self.decide(Command::MassLoss, ProposalOrigin::MassLoss { hand_over });
    }

    /// Transfers leadership once in the epoch, as release 0.1.0 does: before level 3 a mass loss is
    /// not recorded.
    fn transfer_once(&mut self, now: LeaderTime) {
        let state = &mut self.mass_loss;
        if !std::mem::replace(&mut state.has_transferred, true) {
            state.next_mark = now.at.plus_ms(TRANSFER_MS);
            self.effects.push(Effect::TransferLeadership);
        }
    }

    /// Transfers leadership only once the next leader can know the reason.
    pub(super) fn mass_loss_recorded(&mut self, hand_over: bool) {
        self.mass_loss.recording = false;
        if hand_over {
            self.effects.push(Effect::TransferLeadership);
        }
    }

    /// Returns the milliseconds of cluster time since a mass loss was last recorded, if that is
    /// recent.
    fn since_mass_loss(&self, registry: &Registry, now: LeaderTime) -> Option<u64> {
        let recorded = registry.cluster().mass_loss?;
        let since_ms = now.at.since_ms(recorded);
        (since_ms <= RECENT_TIMEOUTS * self.limits.agent_timeout_ms).then_some(since_ms)
    }
}
