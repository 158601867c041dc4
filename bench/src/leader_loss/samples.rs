//! The measured samples: quantiles as a table, and the gaps as a histogram.

use std::fmt::Write as _;

use serde::{Deserialize, Serialize};

use super::LeaderLoss;
use crate::load::LoadLevel;

/// The system that lost its leader, with its settings.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum MeasuredSystem {
    #[default]
    Argosy,
    /// With default settings.
    Etcd,
    /// Heartbeats every 50 ms, elections after 250 ms.
    EtcdTuned,
    /// As its package configures it.
    Zookeeper,
    /// Ticks of 100 ms.
    ZookeeperTuned,
}

impl MeasuredSystem {
    /// Returns the name for tables.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Argosy => "argosy",
            Self::Etcd => "etcd",
            Self::EtcdTuned => "etcd tuned",
            Self::Zookeeper => "zookeeper",
            Self::ZookeeperTuned => "zookeeper tuned",
        }
    }

    /// Returns the name for files.
    pub(super) fn word(self) -> &'static str {
        match self {
            Self::EtcdTuned => "etcd-tuned",
            Self::ZookeeperTuned => "zookeeper-tuned",
            Self::Argosy | Self::Etcd | Self::Zookeeper => self.name(),
        }
    }
}

/// The key of losses that are compared with each other.
pub(super) type LossCase = (MeasuredSystem, LeaderLoss, LoadLevel);

/// One loss of a leader, in milliseconds since the loss.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct LossSample {
    #[serde(default)]
    pub(super) system: MeasuredSystem,
    pub(super) loss: LeaderLoss,
    #[serde(default)]
    pub(super) load: LoadLevel,
    /// Time until the first fresh write at a survivor was answered.
    pub(super) commit_ms: f64,
    /// The longest time without an answered write until the last phase. A leader that works for a
    /// while may be lost later.
    #[serde(default)]
    pub(super) gap_ms: Option<f64>,
    /// Time until the first new offer; absent if none came within ten seconds.
    pub(super) offer_ms: Option<f64>,
    /// Time until the first launched task runs.
    pub(super) launch_ms: Option<f64>,
    /// Time until all agents are connected to the new leader.
    pub(super) agents_ms: Option<f64>,
}

impl LossSample {
    pub(super) fn new((system, loss, load): LossCase, commit_ms: f64) -> Self {
        Self {
            system,
            loss,
            load,
            commit_ms,
            gap_ms: None,
            offer_ms: None,
            launch_ms: None,
            agents_ms: None,
        }
    }

    fn case(&self) -> LossCase {
        (self.system, self.loss, self.load)
    }
}

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Samples {
    samples: Vec<LossSample>,
    #[serde(default)]
    spells: Vec<FaultFreePeriod>,
}

/// A time without any fault of the leader.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct FaultFreePeriod {
    pub(super) load: LoadLevel,
    pub(super) seconds: f64,
    /// Answered writes of the clients.
    pub(super) answered: u64,
    /// Terms that began. Every change of leader begins at least one.
    pub(super) elections: u64,
}

impl FaultFreePeriod {
    /// Returns a short summary.
    pub(super) fn line(&self) -> String {
        format!(
            "argosy, no loss, {}: {:.0} s, {:.0} writes/s, {} elections",
            self.load.name(),
            self.seconds,
            self.answered as f64 / self.seconds,
            self.elections
        )
    }
}

type PhaseColumn = (&'static str, fn(&LossSample) -> Option<f64>);

/// Height of a row of bars.
const ROW: usize = 110;
/// Upper bounds of the bars, in milliseconds.
const BOUNDS: [f64; 13] = [
    5.0,
    10.0,
    20.0,
    40.0,
    80.0,
    150.0,
    300.0,
    600.0,
    1_000.0,
    1_500.0,
    3_000.0,
    6_000.0,
    f64::INFINITY,
];

const PHASES: [PhaseColumn; 5] = [
    ("next commit", |sample| Some(sample.commit_ms)),
    ("longest gap", |sample| sample.gap_ms),
    ("first new offer", |sample| sample.offer_ms),
    ("first launch running", |sample| sample.launch_ms),
    ("all agents verified", |sample| sample.agents_ms),
];

impl Samples {
    pub(super) fn add(&mut self, sample: LossSample) {
        self.samples.push(sample);
    }

    pub(super) fn add_period(&mut self, period: FaultFreePeriod) {
        self.spells.push(period);
    }

    fn of(&self, case: LossCase) -> impl Iterator<Item = &LossSample> {
        self.samples
            .iter()
            .filter(move |sample| sample.case() == case)
    }

    /// Returns the cases, with those that are compared next to each other.
    fn cases(&self) -> Vec<LossCase> {
        let mut all: Vec<LossCase> = self.samples.iter().map(LossSample::case).collect();
        all.sort_by_key(|(system, loss, load)| (*loss, *load, *system));
        all.dedup();
        all
    }

    /// Returns a short summary of the time to the next commit in one case.
    pub(super) fn line(&self, case: LossCase) -> String {
        let values = sorted(self.of(case).map(|sample| sample.commit_ms));
        let (p50, p99, max) = (at(&values, 50), at(&values, 99), at(&values, 100));
        format!(
            "{}: next commit p50 {p50:.0} ms, p99 {p99:.0} ms, max {max:.0} ms",
            title(case)
        )
    }

    /// Returns the quantiles of every phase.
    pub(crate) fn table(&self) -> String {
        let mut text = format!(
            "\n{:<38}{:<21}{:>6}{:>8}{:>8}{:>8}{:>8}\n",
            "milliseconds after the loss", "", "losses", "p50", "p90", "p99", "max"
        );
        for case in self.cases() {
            for (name, phase) in PHASES {
                let values = sorted(self.of(case).filter_map(phase));
                let count = values.len();
                if count == 0 && case.0 != MeasuredSystem::Argosy {
                    // Peers have neither offers nor agents.
                    continue;
                }
                let _ = writeln!(
                    text,
                    "{:<38}{name:<21}{count:>6}{:>8.0}{:>8.0}{:>8.0}{:>8.0}",
                    title(case),
                    at(&values, 50),
                    at(&values, 90),
                    at(&values, 99),
                    at(&values, 100)
                );
            }
        }
        for spell in &self.spells {
            let _ = writeln!(text, "{}", spell.line());
        }
        text
    }

    /// Returns the histogram of gaps until the next commit, with a row for each case.
    pub(super) fn histogram(&self) -> String {
        let cases = self.cases();
        let height = cases.len() * ROW + 30;
        let mut text = format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 800 {height}\" font-family=\"system-ui, sans-serif\" font-size=\"11\">\n<rect width=\"800\" height=\"{height}\" fill=\"#ffffff\"/>\n"
        );
        for (row, case) in cases.into_iter().enumerate() {
            self.bars(&mut text, row * ROW + 90, case);
        }
        text.push_str("</svg>\n");
        text
    }

    fn bars(&self, text: &mut String, base: usize, case: LossCase) {
        let mut counts = [0_u32; BOUNDS.len()];
        for sample in self.of(case) {
            let place = BOUNDS.iter().position(|bound| sample.commit_ms < *bound);
            counts[place.unwrap_or(BOUNDS.len() - 1)] += 1;
        }
        let most = counts.iter().copied().max().unwrap_or(1).max(1);
        let (system, loss, load) = case;
        for (line, words) in [system.name(), loss.name(), load.name()]
            .into_iter()
            .enumerate()
        {
            let _ = writeln!(
                text,
                "<text x=\"130\" y=\"{}\" text-anchor=\"end\">{words}</text>",
                base - 28 + line * 14
            );
        }
        for (place, count) in counts.into_iter().enumerate() {
            let (x, tall) = (140 + place * 49, f64::from(count) / f64::from(most) * 60.0);
            let (y, middle) = (base as f64 - tall, x + 22);
            let _ = writeln!(
                text,
                "<rect x=\"{x}\" y=\"{y:.1}\" width=\"44\" height=\"{tall:.1}\" fill=\"#4a74c9\"/>"
            );
            if count > 0 {
                let _ = writeln!(
                    text,
                    "<text x=\"{middle}\" y=\"{:.1}\" text-anchor=\"middle\">{count}</text>",
                    y - 3.0
                );
            }
            let name = match BOUNDS[place] {
                bound if bound < 1_000.0 => format!("&lt; {bound} ms"),
                bound if bound.is_finite() => format!("&lt; {} s", bound / 1e3),
                _ => "more".to_owned(),
            };
            let _ = writeln!(
                text,
                "<text x=\"{middle}\" y=\"{}\" text-anchor=\"middle\" fill=\"#5d6b7e\" font-size=\"9\">{name}</text>",
                base + 12
            );
        }
    }
}

fn title((system, loss, load): LossCase) -> String {
    format!("{}, {}, {}", system.name(), loss.name(), load.name())
}

fn sorted(values: impl Iterator<Item = f64>) -> Vec<f64> {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    values
}

fn at(sorted: &[f64], percent: usize) -> f64 {
    let place = (sorted.len() * percent).div_ceil(100).saturating_sub(1);
    sorted.get(place).copied().unwrap_or(f64::NAN)
}

#[cfg(test)]
mod tests {
    use super::*;

    const OURS: LossCase = (MeasuredSystem::Argosy, LeaderLoss::Kill, LoadLevel::Quiet);

    fn sample(commit_ms: f64) -> LossSample {
        LossSample {
            offer_ms: Some(commit_ms + 5.0),
            agents_ms: Some(commit_ms + 9.0),
            ..LossSample::new(OURS, commit_ms)
        }
    }

    #[test]
    fn quantiles_and_bars_show_the_samples() {
        let mut samples = Samples::default();
        for number in 1..=100 {
            samples.add(sample(f64::from(number)));
        }
        let table = samples.table();
        assert!(
            table.contains("next commit             100      50      90      99     100"),
            "{table}"
        );
        assert!(samples.histogram().contains("&lt; 150 ms"));
        assert_eq!(
            samples.line(OURS),
            "argosy, kill -9, quiet: next commit p50 50 ms, p99 99 ms, max 100 ms"
        );
    }

    #[test]
    fn a_peer_is_listed_below_argosy_without_offers() {
        let mut samples = Samples::default();
        samples.add(LossSample::new(
            (MeasuredSystem::Etcd, LeaderLoss::Freeze, LoadLevel::Quiet),
            1_155.0,
        ));
        samples.add(LossSample::new(
            (MeasuredSystem::Etcd, LeaderLoss::Kill, LoadLevel::Quiet),
            1_230.0,
        ));
        samples.add(sample(12.0));
        let table = samples.table();
        let lines: Vec<&str> = table.lines().skip(2).collect();
        assert_eq!(lines.len(), 7, "{table}");
        assert!(lines[4].starts_with("argosy, kill -9, quiet"), "{table}");
        assert!(lines[5].starts_with("etcd, kill -9, quiet"), "{table}");
        assert!(lines[5].contains("1230"), "{table}");
        assert!(lines[6].starts_with("etcd, SIGSTOP, quiet"), "{table}");
    }
}
