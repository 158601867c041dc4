//! Fresh writes at the survivors, one after the other, during a change of leader. They measure when
//! the first write was answered, and the longest time without an answer.

use std::cell::Cell;
use std::time::Duration;

use tokio::task::JoinSet;
use tokio::time::Instant;

use super::writer::{WRITE_INTERVAL, Writer, answered};

/// The answered writes since a loss.
pub(super) struct AnsweredWrites {
    first: Cell<Option<Instant>>,
    latest: Cell<Instant>,
    longest_gap: Cell<Duration>,
}

impl AnsweredWrites {
    /// Starts the measurement at this moment.
    pub(super) fn from(moment: Instant) -> Self {
        Self {
            first: Cell::new(None),
            latest: Cell::new(moment),
            longest_gap: Cell::new(Duration::ZERO),
        }
    }

    /// Returns when the first write was answered.
    pub(super) fn first(&self) -> Option<Instant> {
        self.first.get()
    }

    /// Returns the longest time between two answers so far. The moment of the loss counts as an
    /// answer.
    pub(super) fn longest_gap(&self) -> Duration {
        self.longest_gap.get()
    }

    pub(super) async fn write_until_dropped(&self, members: &[Writer]) {
        let mut writes = JoinSet::new();
        let mut next = Instant::now();
        for serial in 1.. {
            for member in members {
                let mut fresh = member.new_client();
                writes
                    .spawn(async move { fresh.write(serial).await.ok().map(|()| Instant::now()) });
            }
            next += WRITE_INTERVAL;
            while let Ok(answer) = tokio::time::timeout_at(next, answered(&mut writes)).await {
                if let Some(at) = answer {
                    self.note(at);
                }
            }
        }
    }

    fn note(&self, at: Instant) {
        if self.first.get().is_none() {
            self.first.set(Some(at));
        }
        let since = at.saturating_duration_since(self.latest.get());
        self.longest_gap.set(self.longest_gap.get().max(since));
        self.latest.set(self.latest.get().max(at));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_longest_gap_is_measured_wherever_it_occurs() {
        let begin = Instant::now();
        let pulse = AnsweredWrites::from(begin);
        let ms = |ms| begin + Duration::from_millis(ms);
        for at in [10, 12, 590, 588, 600] {
            pulse.note(ms(at));
        }
        assert_eq!(pulse.first(), Some(ms(10)));
        assert_eq!(pulse.longest_gap(), Duration::from_millis(578));
    }
}
