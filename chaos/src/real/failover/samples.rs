//! What was measured: quantiles as a table, the gaps as a histogram.

use std::fmt::Write as _;

use serde::{Deserialize, Serialize};

use super::Loss;

/// One loss of a leader; milliseconds since the loss.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Sample {
    pub(super) loss: Loss,
    /// The first fresh write at a survivor was answered.
    pub(super) commit_ms: f64,
    /// The first new offer; absent if none came within ten seconds.
    pub(super) offer_ms: Option<f64>,
    /// The first launch that runs.
    pub(super) launch_ms: Option<f64>,
    /// All agents are connected to the new leader.
    pub(super) agents_ms: Option<f64>,
}

/// All of them.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Samples {
    samples: Vec<Sample>,
}

type Phase = (&'static str, fn(&Sample) -> Option<f64>);

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

const PHASES: [Phase; 4] = [
    ("next commit", |sample| Some(sample.commit_ms)),
    ("first new offer", |sample| sample.offer_ms),
    ("first launch running", |sample| sample.launch_ms),
    ("all agents verified", |sample| sample.agents_ms),
];

impl Samples {
    pub(super) fn add(&mut self, sample: Sample) {
        self.samples.push(sample);
    }

    fn of(&self, loss: Loss) -> impl Iterator<Item = &Sample> {
        self.samples
            .iter()
            .filter(move |sample| sample.loss == loss)
    }

    fn losses(&self) -> Vec<Loss> {
        let mut all: Vec<Loss> = self.samples.iter().map(|sample| sample.loss).collect();
        all.sort();
        all.dedup();
        all
    }

    /// The next commit of one kind, in a few words.
    pub(super) fn line(&self, loss: Loss) -> String {
        let values = sorted(self.of(loss).map(|sample| sample.commit_ms));
        let (p50, p99, max) = (at(&values, 50), at(&values, 99), at(&values, 100));
        format!("next commit p50 {p50:.0} ms, p99 {p99:.0} ms, max {max:.0} ms")
    }

    /// Quantiles of every phase.
    pub(crate) fn table(&self) -> String {
        let mut text =
            String::from("\nmilliseconds after the loss  losses     p50     p90     p99     max\n");
        for loss in self.losses() {
            for (name, phase) in PHASES {
                let values = sorted(self.of(loss).filter_map(phase));
                let count = values.len();
                let _ = writeln!(
                    text,
                    "{:<13} {name:<21}{count:>6}{:>8.0}{:>8.0}{:>8.0}{:>8.0}",
                    loss.name(),
                    at(&values, 50),
                    at(&values, 90),
                    at(&values, 99),
                    at(&values, 100)
                );
            }
        }
        text
    }

    /// Gaps until the next commit, a row for each kind of loss.
    pub(super) fn histogram(&self) -> String {
        let losses = self.losses();
        let height = losses.len() * ROW + 30;
        let mut text = format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 760 {height}\" font-family=\"system-ui, sans-serif\" font-size=\"11\">\n<rect width=\"760\" height=\"{height}\" fill=\"#ffffff\"/>\n"
        );
        for (row, loss) in losses.into_iter().enumerate() {
            self.bars(&mut text, row * ROW + 90, loss);
        }
        text.push_str("</svg>\n");
        text
    }

    fn bars(&self, text: &mut String, base: usize, loss: Loss) {
        let mut counts = [0_u32; BOUNDS.len()];
        for sample in self.of(loss) {
            let place = BOUNDS.iter().position(|bound| sample.commit_ms < *bound);
            counts[place.unwrap_or(BOUNDS.len() - 1)] += 1;
        }
        let most = counts.iter().copied().max().unwrap_or(1).max(1);
        let name = loss.name();
        let _ = writeln!(
            text,
            "<text x=\"100\" y=\"{base}\" text-anchor=\"end\">{name}</text>"
        );
        for (place, count) in counts.into_iter().enumerate() {
            let (x, tall) = (110 + place * 49, f64::from(count) / f64::from(most) * 60.0);
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

    fn sample(commit_ms: f64) -> Sample {
        Sample {
            loss: Loss::Kill,
            commit_ms,
            offer_ms: Some(commit_ms + 5.0),
            launch_ms: None,
            agents_ms: Some(commit_ms + 9.0),
        }
    }

    #[test]
    fn quantiles_and_bars_tell_what_was_added() {
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
            samples.line(Loss::Kill),
            "next commit p50 50 ms, p99 99 ms, max 100 ms"
        );
    }
}
