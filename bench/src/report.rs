//! The measurements, as a table and as JSON.
//!
//! It compares medians, and gives a verdict only as a gate. Invalid runs count only if all are
//! invalid.

mod table;

use std::fmt;

use serde::Serialize;

use crate::machine::{MachineInfo, Probes};

pub(crate) use crate::statistics::{Spread, grouped, median, quantile};

/// Cores used by other processes above which a run is invalid.
pub(crate) const VOID_LOAD: f64 = 0.3;
/// Relative shortfall of a ratio that a gate tolerates.
const TOLERANCE: f64 = 0.2;

/// The measured side.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Side {
    Argosy,
    /// Argosy without TLS, next to Argosy with TLS.
    Plaintext,
    Etcd,
    Hyperqueue,
}

impl Side {
    /// Returns whether the cluster is one of Argosy.
    pub(crate) fn is_argosy(self) -> bool {
        match self {
            Self::Argosy | Self::Plaintext => true,
            Self::Etcd | Self::Hyperqueue => false,
        }
    }
}

impl fmt::Display for Side {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Argosy => "argosy",
            Self::Plaintext => "plaintext",
            Self::Etcd => "etcd",
            Self::Hyperqueue => "hyperqueue",
        })
    }
}

/// The goal of the ratio of the medians, Argosy's to the peer's.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum RatioGoal {
    /// Shown, without a verdict.
    None,
    AtLeast(f64),
    AtMost(f64),
    /// Argosy's own median is at most this; no peer.
    OwnAtMost(f64),
}

/// One figure of a workload.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Cell {
    /// The counted or timed quantity.
    pub(crate) name: String,
    /// The unit of its values.
    pub(crate) unit: &'static str,
    pub(crate) goal: RatioGoal,
    /// A published figure of another project, measured in another run; it never affects the
    /// verdict.
    pub(crate) quoted: Option<&'static str>,
}

impl Cell {
    pub(crate) fn new(name: impl Into<String>, unit: &'static str, goal: RatioGoal) -> Self {
        Self {
            name: name.into(),
            unit,
            goal,
            quoted: None,
        }
    }

    pub(crate) fn quoting(self, quoted: &'static str) -> Self {
        Self {
            quoted: Some(quoted),
            ..self
        }
    }
}

/// One value of a cell.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Sample {
    pub(crate) cell: String,
    pub(crate) value: f64,
}

#[derive(Debug, Clone, Serialize)]
pub(crate) struct SideRun {
    pub(crate) side: Side,
    /// The number of the run, from 1 for each side.
    pub(crate) number: u32,
    pub(crate) probes: Probes,
    /// Cores used by other processes.
    pub(crate) other_load: f64,
    /// Whether other load disturbed it.
    pub(crate) void: bool,
    pub(crate) samples: Vec<Sample>,
    pub(crate) kills: Vec<Kill>,
}

impl SideRun {
    fn values(&self, cell: &str) -> Vec<f64> {
        let samples = self.samples.iter().filter(|sample| sample.cell == cell);
        samples.map(|sample| sample.value).collect()
    }
}

/// One failover, after a kill or freeze of the leader. Phases are milliseconds after the signal, as
/// the next leader saw them.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Kill {
    pub(crate) signal: &'static str,
    pub(crate) load: &'static str,
    /// CLOCK_MONOTONIC just before the signal, in nanoseconds.
    pub(crate) before_ns: u64,
    pub(crate) leader_pid: u32,
    /// Time until the first successful write at a survivor.
    pub(crate) gap_ms: f64,
    pub(crate) phases: Option<Phases>,
}

/// The steps of one failover. Absent: not seen, or not before the next kill.
#[derive(Debug, Clone, Copy, Serialize)]
pub(crate) struct Phases {
    pub(crate) dead_seen_ms: Option<i64>,
    pub(crate) elected_ms: Option<i64>,
    pub(crate) first_commit_ms: Option<i64>,
    pub(crate) first_offer_ms: Option<i64>,
    pub(crate) first_launch_ms: Option<i64>,
}

/// All results of one workload.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct WorkloadReport {
    pub(crate) workload: &'static str,
    /// Description of the measurement.
    pub(crate) about: Vec<String>,
    pub(crate) machine: MachineInfo,
    /// Programs and their versions.
    pub(crate) versions: Vec<String>,
    pub(crate) cells: Vec<Cell>,
    pub(crate) runs: Vec<SideRun>,
}

impl WorkloadReport {
    /// Returns the valid runs of one side, or all if none is valid.
    fn valid(&self, side: Side) -> impl Iterator<Item = &SideRun> {
        let of_side = move || self.runs.iter().filter(move |run| run.side == side);
        let all_void = of_side().all(|run| run.void);
        of_side().filter(move |run| all_void || !run.void)
    }

    /// Returns the values of one side in one cell.
    pub(crate) fn values(&self, cell: &str, side: Side) -> Vec<f64> {
        self.valid(side).flat_map(|run| run.values(cell)).collect()
    }

    /// Returns the measured peer.
    pub(crate) fn peer(&self) -> Option<Side> {
        let sides = self.runs.iter().map(|run| run.side);
        sides.into_iter().find(|side| *side != Side::Argosy)
    }

    /// Returns the ratio of the medians, with the lowest and highest ratio of runs of the same
    /// number. `None` if there are no values, or the divisor is zero.
    pub(crate) fn ratio(&self, cell: &str) -> Option<Spread> {
        let peer = self.peer()?;
        let theirs = median(&self.values(cell, peer));
        let ours = Spread::of(&self.values(cell, Side::Argosy))?;
        if theirs <= 0.0 {
            return None;
        }
        let whole = ours.median / theirs;
        let of_pair = |run: &SideRun| {
            let mut peers = self.valid(peer);
            let peer = peers.find(|peer| peer.number == run.number)?;
            let ratio = median(&run.values(cell)) / median(&peer.values(cell));
            ratio.is_finite().then_some(ratio)
        };
        let pairs: Vec<f64> = self.valid(Side::Argosy).filter_map(of_pair).collect();
        let ends = Spread::of(&pairs);
        Some(Spread {
            median: whole,
            lowest: ends.map_or(whole, |ends| ends.lowest),
            highest: ends.map_or(whole, |ends| ends.highest),
        })
    }

    /// Returns what falls short of its goal by more than a gate tolerates, as text.
    pub(crate) fn shortfalls(&self) -> Vec<String> {
        self.cells
            .iter()
            .filter_map(|cell| self.shortfall(cell))
            .collect()
    }

    fn shortfall(&self, cell: &Cell) -> Option<String> {
        let ratio = || Some(self.ratio(&cell.name)?.median);
        let own = || Some(Spread::of(&self.values(&cell.name, Side::Argosy))?.median);
        let (value, bound, is_short) = match cell.goal {
            RatioGoal::None => return None,
            RatioGoal::AtLeast(goal) => (ratio()?, goal, ratio()? < goal * (1.0 - TOLERANCE)),
            RatioGoal::AtMost(goal) => (ratio()?, goal, ratio()? > goal * (1.0 + TOLERANCE)),
            RatioGoal::OwnAtMost(goal) => (own()?, goal, own()? > goal * (1.0 + TOLERANCE)),
        };
        let words = format!(
            "{} {}: {value:.2}, the goal is {bound}",
            self.workload, cell.name
        );
        is_short.then_some(words)
    }
}

impl fmt::Display for WorkloadReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        table::write(self, f)
    }
}

#[cfg(test)]
mod tests;
