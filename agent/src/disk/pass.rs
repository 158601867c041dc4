//! One scan of a task's files, in the process that has access to them.

use std::path::PathBuf;

#[cfg(test)]
use super::scan::Scan;
use crate::broker_client::{BrokerClient, MeasureStep, ScanProgress, ScanState};
use crate::core::ContainerName;

/// The process that scans the files of tasks.
#[derive(Clone)]
pub(super) enum Scanner {
    Broker(BrokerClient),
    /// This process.
    #[cfg(test)]
    Local(std::sync::Arc<std::sync::Mutex<std::collections::BTreeMap<u64, Scan>>>),
}

/// A scan of a task's files in progress.
pub(super) struct RunningScan {
    scanner: Scanner,
    step: MeasureStep,
    /// The cost so far, in entries.
    pub(super) cost: u64,
    open_dirs: usize,
}

impl Scanner {
    /// Returns a scanner that runs in this process.
    #[cfg(test)]
    pub(super) fn in_process() -> Self {
        Self::Local(std::sync::Arc::default())
    }

    fn scan(&self, step: &MeasureStep) -> Result<(ScanState, Option<u64>), String> {
        match self {
            Self::Broker(broker) => broker.measure(step.clone()),
            #[cfg(test)]
            Self::Local(walks) => {
                let mut walks = walks.lock().unwrap();
                let begun = step.pass.and_then(|pass| walks.remove(&pass));
                let mut walk = begun.unwrap_or_else(|| Scan::new(&step.directories));
                let progress = walk.advance(step.until_cost, step.enough_bytes);
                let passage = walk.state(progress);
                let next = walks.keys().max().map_or(1, |pass| pass + 1);
                let pass = passage.is_incomplete().then_some(next);
                walks.extend(pass.map(|pass| (pass, walk)));
                Ok((passage, pass))
            }
        }
    }
}

impl RunningScan {
    /// Returns a scan that has not begun.
    pub(super) fn new(
        scanner: Scanner,
        directories: Vec<PathBuf>,
        processes: Option<ContainerName>,
    ) -> Self {
        let step = MeasureStep {
            pass: None,
            directories,
            processes,
            until_cost: 0,
            enough_bytes: 0,
        };
        Self {
            scanner,
            step,
            cost: 0,
            open_dirs: 0,
        }
    }

    /// Continues until the cost is reached, or it has found more bytes than `enough_bytes`.
    pub(super) fn advance(&mut self, until_cost: u64, enough_bytes: u64) -> ScanProgress {
        let step = &mut self.step;
        (step.until_cost, step.enough_bytes) = (until_cost, enough_bytes);
        match self.scanner.scan(step) {
            Ok((passage, pass)) => {
                step.pass = pass;
                (self.cost, self.open_dirs) = (passage.cost, passage.held);
                passage.progress
            }
            Err(why) => {
                tracing::warn!(
                    why,
                    "the disk usage of a task cannot be measured in this round"
                );
                // The scan begins again.
                step.pass = None;
                (self.cost, self.open_dirs) = (until_cost, 0);
                ScanProgress::Unfinished(0)
            }
        }
    }

    /// Returns the number of descriptors that it holds while suspended.
    pub(super) fn open_dirs(&self) -> usize {
        self.open_dirs
    }
}

impl Drop for RunningScan {
    fn drop(&mut self) {
        match (&self.scanner, self.step.pass) {
            (Scanner::Broker(broker), Some(pass)) => broker.end_measure(pass),
            (Scanner::Broker(_), None) => {}
            #[cfg(test)]
            (Scanner::Local(_), _) => {}
        }
    }
}
