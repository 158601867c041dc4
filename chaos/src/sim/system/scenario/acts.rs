//! Faults that come alone when all is well, and what must follow.

use std::time::Duration;

use super::Course;
use crate::sim::run::Stage;
use crate::sim::system::hosts::AGENT_TIMEOUT_MS;

/// Agents are away for so much longer than they may be.
const BEYOND: Duration = Duration::from_millis(1_500);
/// How soon an agent is back, and its tasks with it, once nothing keeps it away.
const RETURNS: Duration = Duration::from_secs(8);
/// How long the disks of masters take meanwhile: decisions wait to be committed.
const SLOW: Duration = Duration::from_millis(120);
/// How soon a leader that hears of no other master acts as one no more.
const RESIGNS: Duration = Duration::from_millis(1_500);
/// How often agents are restarted between two leaders.
const RESTARTS: u32 = 12;

impl Course {
    /// No master runs for longer than an agent may be silent, twice: the first time nobody else can be elected, the
    /// second time somebody may.
    pub(super) fn frozen(&mut self, stage: &mut Stage<'_>) -> Option<()> {
        // Whoever was away until a moment ago is back, or known to be lost.
        self.pass(stage, RETURNS)?;
        self.nemesis.part_followers(stage);
        for _ in 0..2 {
            self.nemesis
                .freeze(Duration::from_millis(AGENT_TIMEOUT_MS) + BEYOND);
            let before = self.audit.given_up_since(0).len();
            // Whoever is given up for it is given up by then, and may be back.
            self.pass(stage, Duration::from_secs(2))?;
            let lost = self.audit.given_up_since(before);
            if !lost.is_empty() {
                stage.notes.violation(format!(
                    "T7: all masters were frozen, and {lost:?} were given up for it"
                ));
            }
            self.nemesis.heal(stage);
        }
        Some(())
    }

    /// All agents are cut off until they are given up, and come back.
    pub(super) fn away(&mut self, stage: &mut Stage<'_>, still: bool) -> Option<()> {
        self.world.kept().still = still;
        // Whoever was away until a moment ago is back: a hello that is under way when the links are cut would be waited
        // for much longer. If all hold still, what was asked before is done, and no order waits for anybody.
        self.pass(stage, Duration::from_secs(2))?;
        if !still {
            self.nemesis.slow_masters(SLOW);
        }
        self.nemesis.cut_agents(stage);
        self.pass(stage, Duration::from_millis(AGENT_TIMEOUT_MS) + BEYOND)?;
        self.nemesis.slow_masters(Duration::ZERO);
        self.nemesis.heal(stage);
        self.pass(stage, RETURNS)?;
        let lost = self.audit.still_away();
        if !lost.is_empty() {
            stage.notes.violation(format!(
                "T10: {RETURNS:?} after all agents could come back {lost:?}"
            ));
        }
        self.world.kept().still = false;
        Some(())
    }

    /// No master reaches another one, and all reach everybody else.
    pub(super) fn no_quorum(&mut self, stage: &mut Stage<'_>) -> Option<()> {
        self.nemesis.part_masters(stage);
        self.pass(stage, RESIGNS)?;
        let since_ms = stage.now().as_millis() as u64;
        self.pass(stage, Duration::from_secs(3))?;
        let led = self.audit.led_since(since_ms);
        if !led.is_empty() {
            stage.notes.violation(format!(
                "R9: {RESIGNS:?} after the masters lost each other {led:?} still obey a leader"
            ));
        }
        self.nemesis.heal(stage);
        Some(())
    }

    /// A leader is replaced and does not notice, and agents look for a leader anew again and again.
    pub(super) fn two_leaders(&mut self, stage: &mut Stage<'_>) -> Option<()> {
        self.nemesis.cut_leader(stage);
        for _ in 0..RESTARTS {
            self.pass(stage, Duration::from_millis(350))?;
            self.nemesis.restart_agents(stage);
        }
        self.nemesis.heal(stage);
        Some(())
    }
}
