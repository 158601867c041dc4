//! Turns of the loop that owns a master's registry, from its metrics: how many exceeded their
//! budget.

use anyhow::{Context, Result, ensure};
use argosy_testbed::transport::ClientTransport;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

/// Turns by the time from their beginning to their end.
pub(crate) const LONG: &str = "turns of the leader above 5 ms";
/// Turns by the CPU time of their thread. In the rest of their time they waited for a processor.
pub(crate) const BUSY: &str = "turns of the leader above 5 ms of CPU time";

const METRICS: [&str; 2] = [
    "argosy_master_turn_seconds",
    "argosy_master_turn_cpu_seconds",
];
/// The budget in seconds, which is a bound of the histograms.
const BUDGET: &str = "0.005";

/// Turns so far, by both clocks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Turns([TurnCounts; 2]);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct TurnCounts {
    all: u64,
    within: u64,
}

/// Reads the metrics of a master over a new connection, as Prometheus does after a pause.
///
/// # Errors
/// If the master does not answer with metrics.
pub(crate) async fn scrape(transport: &ClientTransport, api: &str) -> Result<String> {
    let mut stream = transport.dial_http(api).await?;
    let request = format!("GET /metrics HTTP/1.1\r\nhost: {api}\r\nconnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await?;
    stream.flush().await?;
    let mut text = String::new();
    stream.read_to_string(&mut text).await?;
    let body = body(&text).with_context(|| format!("a scrape of {api}"))?;
    Ok(body.to_owned())
}

/// Returns an answer without its headers.
fn body(answer: &str) -> Result<&str> {
    let (head, body) = answer
        .split_once("\r\n\r\n")
        .context("it has no end of the headers")?;
    let status = head.lines().next().unwrap_or_default();
    ensure!(
        status.starts_with("HTTP/1.1 200 "),
        "its status is {status:?}"
    );
    Ok(body)
}

impl Turns {
    /// Reads the metrics of a master.
    ///
    /// # Errors
    /// If they cannot be read, or lack a histogram.
    pub(crate) async fn of(transport: &ClientTransport, api: &str) -> Result<Self> {
        let text = scrape(transport, api).await?;
        Self::read(&text).with_context(|| {
            format!("the metrics of {api} lack one of {METRICS:?} with a bound of {BUDGET}")
        })
    }

    fn read(text: &str) -> Option<Self> {
        let [long, busy] = METRICS.map(|metric| TurnCounts::read(text, metric));
        Some(Self([long?, busy?]))
    }

    /// Returns how many of a thousand turns since `before` exceeded the budget: [`LONG`] and
    /// [`BUSY`].
    pub(crate) fn per_thousand(self, before: Self) -> [f64; 2] {
        let Self([long, busy]) = self;
        let Self([long_before, busy_before]) = before;
        [
            long.per_thousand(long_before),
            busy.per_thousand(busy_before),
        ]
    }
}

impl TurnCounts {
    fn read(text: &str, metric: &str) -> Option<Self> {
        let value = |name: &str| {
            let mut values = text.lines().filter_map(|line| line.strip_prefix(name));
            values.next()?.trim().parse().ok()
        };
        Some(Self {
            all: value(&format!("{metric}_count"))?,
            within: value(&format!("{metric}_bucket{{le=\"{BUDGET}\"}}"))?,
        })
    }

    fn per_thousand(self, before: Self) -> f64 {
        let all = self.all.saturating_sub(before.all);
        let within = self.within.saturating_sub(before.within);
        all.saturating_sub(within) as f64 * 1e3 / (all as f64).max(1.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_an_answer_with_metrics_is_a_scrape() {
        let answer = |status: &str| format!("HTTP/1.1 {status}\r\nserver: a\r\n\r\nup 1\n");
        assert_eq!(body(&answer("200 OK")).unwrap(), "up 1\n");
        let error = body(&answer("503 Service Unavailable")).unwrap_err();
        assert!(error.to_string().contains("503"), "{error}");
        assert!(body("HTTP/1.1 200 OK\r\nserver: a").is_err());
    }

    #[test]
    fn turns_above_the_budget_are_counted_from_a_given_time() {
        let histogram = |metric: &str, within, all| {
            format!(
                "# TYPE {metric} histogram\n\
                 {metric}_bucket{{le=\"0.0025\"}} 1\n\
                 {metric}_bucket{{le=\"0.005\"}} {within}\n\
                 {metric}_bucket{{le=\"+Inf\"}} {all}\n\
                 {metric}_sum 1.5\n\
                 {metric}_count {all}\n"
            )
        };
        let text = |long, busy, all| {
            let [first, second] = METRICS;
            histogram(first, long, all) + &histogram(second, busy, all)
        };
        let before = Turns::read(&text(90, 95, 100)).unwrap();
        let after = Turns::read(&text(1_085, 1_095, 1_100)).unwrap();
        assert_eq!(after.per_thousand(before), [5.0, 0.0]);
        assert_eq!(before.per_thousand(before), [0.0, 0.0]);
        assert_eq!(Turns::read(&histogram(METRICS[0], 1, 3)), None);
    }
}
