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

    /// Returns the name of the present step, for display.
    #[must_use]
    pub fn step(&self) -> &'static str {
        let is_complete = self.total_bytes > 0 && self.done_bytes >= self.total_bytes;
        match &self.item {
            None => "waiting",
            Some(ItemKind::File(_)) => "fetching-file",
            Some(ItemKind::Archive(_)) => "unpacking-file",
            // Layers are unpacked as they arrive, the last ones after the last byte.
            Some(ItemKind::Image(_)) if is_complete => "unpacking-image",
            Some(ItemKind::Image(_)) => "pulling-image",
        }
    }

    /// Returns the URI without secrets, or the name of the image.
    #[must_use]
    pub fn name(&self) -> Option<&str> {
        self.item.as_ref().map(|item| match item {
            ItemKind::File(name) | ItemKind::Archive(name) | ItemKind::Image(name) => name.as_str(),
        })
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

    #[test]
    fn an_image_is_unpacked_once_all_its_bytes_are_received() {
        let mut image = FetchProgress::of(ItemKind::Image("nginx".to_owned()));
        assert_eq!(
            (image.step(), image.name()),
            ("pulling-image", Some("nginx"))
        );
        image.total_bytes = 100;
        image.done_bytes = 99;
        assert_eq!(image.step(), "pulling-image");
        image.done_bytes = 100;
        assert_eq!(image.step(), "unpacking-image");
        assert_eq!(at(100, 100).step(), "fetching-file");
        let nothing = FetchProgress::default();
        assert_eq!((nothing.step(), nothing.name()), ("waiting", None));
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
