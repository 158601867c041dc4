//! Turns of the loop that owns a master's registry, as its metrics show them: how many took longer than their budget.

use anyhow::{Context, Result};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// Name of the measurement in a report.
pub(crate) const LONG: &str = "turns of the leader above 5 ms";

const METRIC: &str = "argosy_master_turn_seconds";
/// The budget, which is a bound of the histogram: seconds.
const BUDGET: &str = "0.005";

/// Turns so far.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Turns {
    all: u64,
    within: u64,
}

impl Turns {
    /// Reads the metrics of a master.
    ///
    /// # Errors
    /// If they cannot be read, or lack the histogram.
    pub(crate) async fn of(api: &str) -> Result<Self> {
        let mut stream = TcpStream::connect(api).await?;
        let request = format!("GET /metrics HTTP/1.1\r\nhost: {api}\r\nconnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await?;
        let mut text = Vec::new();
        stream.read_to_end(&mut text).await?;
        Self::read(&String::from_utf8_lossy(&text)).with_context(|| {
            format!("the metrics of {api} have no {METRIC} with a bound of {BUDGET}")
        })
    }

    fn read(text: &str) -> Option<Self> {
        let value = |name: &str| {
            let mut values = text.lines().filter_map(|line| line.strip_prefix(name));
            values.next()?.trim().parse().ok()
        };
        Some(Self {
            all: value(&format!("{METRIC}_count"))?,
            within: value(&format!("{METRIC}_bucket{{le=\"{BUDGET}\"}}"))?,
        })
    }

    /// Of a thousand turns since `before`, how many took longer than the budget.
    pub(crate) fn long_per_thousand(self, before: Self) -> f64 {
        let all = self.all.saturating_sub(before.all);
        let within = self.within.saturating_sub(before.within);
        all.saturating_sub(within) as f64 * 1e3 / (all as f64).max(1.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn turns_above_the_budget_are_counted_since_a_moment() {
        let text = |within, all| {
            format!(
                "# TYPE argosy_master_turn_seconds histogram\n\
                 argosy_master_turn_seconds_bucket{{le=\"0.0025\"}} 1\n\
                 argosy_master_turn_seconds_bucket{{le=\"0.005\"}} {within}\n\
                 argosy_master_turn_seconds_bucket{{le=\"+Inf\"}} {all}\n\
                 argosy_master_turn_seconds_sum 1.5\n\
                 argosy_master_turn_seconds_count {all}\n"
            )
        };
        let before = Turns::read(&text(90, 100)).unwrap();
        let after = Turns::read(&text(1_085, 1_100)).unwrap();
        assert_eq!(after.long_per_thousand(before), 5.0);
        assert_eq!(before.long_per_thousand(before), 0.0);
        assert_eq!(Turns::read("argosy_master_turn_seconds_count 3\n"), None);
    }
}
