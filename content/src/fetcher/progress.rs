//! Progress of fetching a task's files and image, and the schedule of its reports.
//!
//! A fetch of a few seconds is reported only at its end. A longer one is reported at most once in
//! [`REPORT_INTERVAL`], and only after progress: each report is an update of the task, which the
//! masters replicate.

use std::time::Duration;

use argosy_state::task::{Code, Explanation};
use tokio::sync::watch;
use tokio::time::{Instant, MissedTickBehavior, interval_at};

/// The time from the start to the first report, and from each to the next.
pub const REPORT_INTERVAL: Duration = Duration::from_secs(5);

/// The current item, and the received part of it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct FetchProgress {
    /// `None` if nothing is being fetched.
    pub item: Option<ItemKind>,
    /// The received bytes.
    pub done_bytes: u64,
    /// 0 if unknown.
    pub total_bytes: u64,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ItemKind {
    /// A file, by its URI without secrets.
    File(String),
    /// The extraction of a fetched archive.
    Archive(String),
    /// An image, by its name.
    Image(String),
}

impl FetchProgress {
    /// Returns the progress of an item that starts.
    pub fn of(what: ItemKind) -> Self {
        Self {
            item: Some(what),
            ..Self::default()
        }
    }

    fn explanation(&self) -> Explanation {
        let Self {
            item: what,
            done_bytes,
            total_bytes,
        } = self;
        let ([begun, so_far, of], name) = match what {
            Some(ItemKind::File(uri)) => (
                [Code::FetchingFile, Code::FetchingSoFar, Code::FetchingOf],
                uri,
            ),
            Some(ItemKind::Archive(uri)) => ([Code::UnpackingFile; 3], uri),
            Some(ItemKind::Image(name)) => (
                [Code::PullingImage, Code::PullingSoFar, Code::PullingOf],
                name,
            ),
            None => return Explanation::default(),
        };
        match (*done_bytes, *total_bytes) {
            (0, 0) => Explanation::of(begun, &[name]),
            (done, 0) => Explanation::of(so_far, &[name, &mib(done)]),
            (done, total) => Explanation::of(of, &[name, &mib(done), &mib(total)]),
        }
    }
}

/// Formats to a tenth, rounded down: an incomplete item is never shown as complete.
fn mib(bytes: u64) -> String {
    let tenths = u128::from(bytes) * 10 / (1 << 20);
    format!("{}.{} MiB", tenths / 10, tenths % 10)
}

/// Reports the progress at this interval, as long as the future is polled; never returns.
pub async fn report<F: Future<Output = ()>>(
    meter: watch::Receiver<FetchProgress>,
    interval: Duration,
    mut send: impl FnMut(Explanation) -> F,
) -> std::convert::Infallible {
    let mut ticks = interval_at(Instant::now() + interval, interval);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut last = Explanation::default();
    loop {
        ticks.tick().await;
        let now = meter.borrow().explanation();
        if now != last {
            last.clone_from(&now);
            send(now).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::sync::mpsc;

    use super::*;

    fn at(done_bytes: u64, total_bytes: u64) -> FetchProgress {
        FetchProgress {
            done_bytes,
            total_bytes,
            ..FetchProgress::of(ItemKind::File("x".to_owned()))
        }
    }

    #[test]
    fn unknown_totals_are_omitted() {
        let reported = |done, total| at(done, total).explanation().to_string();
        assert_eq!(reported(0, 0), "fetching x");
        assert_eq!(reported(3 << 19, 0), "fetching x: 1.5 MiB so far");
        let almost = reported((100 << 20) - 1, 100 << 20);
        assert_eq!(almost, "fetching x: 99.9 MiB of 100.0 MiB");
    }

    #[tokio::test]
    async fn unchanged_progress_is_not_reported_again() {
        let (meter, seen) = watch::channel(FetchProgress::default());
        let (output, mut reported) = mpsc::unbounded_channel();
        let telling = report(seen, Duration::from_millis(1), |now| {
            output.send(now).unwrap();
            std::future::ready(())
        });
        let listening = async {
            for done in [1, 2] {
                let now = at(done << 20, 4 << 20);
                meter.send_replace(now.clone());
                assert_eq!(reported.recv().await, Some(now.explanation()));
                tokio::time::sleep(Duration::from_millis(20)).await;
                assert!(reported.is_empty());
            }
        };
        tokio::select! {
            never = telling => match never {},
            () = listening => {}
        }
    }
}
