//! Waiting for a master or agent that has no capacity for a request now (HTTP status 429).

use std::time::Duration;

use super::{RETRY_PAUSE, ReadError};

/// The pause if the answer names none.
const DEFAULT_PAUSE: Duration = Duration::from_secs(1);
/// Maximum time of all pauses without an answer between them.
const MAX_WAIT: Duration = Duration::from_mins(5);

/// Returns the pause that a `Retry-After` header asks for, in seconds. A date counts as absent.
pub(super) fn pause(header: Option<&str>) -> Duration {
    let seconds = header.and_then(|text| text.trim().parse().ok());
    seconds.map_or(DEFAULT_PAUSE, Duration::from_secs)
}

/// The pauses since the last answer.
#[derive(Debug, Default)]
pub(super) struct BusyWait {
    waited: Duration,
}

impl BusyWait {
    /// Records an answer.
    pub(super) fn answered(&mut self) {
        self.waited = Duration::ZERO;
    }

    /// Returns how long to wait before the next request.
    ///
    /// # Errors
    /// If that would exceed the maximum time.
    pub(super) fn refused(&mut self, text: &str, pause: Duration) -> Result<Duration, ReadError> {
        let pause = pause.max(RETRY_PAUSE);
        self.waited = self.waited.saturating_add(pause);
        match self.waited <= MAX_WAIT {
            true => Ok(pause),
            false => Err(ReadError::Refused(format!(
                "{text}; this command waits for at most {} minutes",
                MAX_WAIT.as_secs() / 60
            ))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_are_those_of_the_answer() {
        assert_eq!(pause(Some("7")), Duration::from_secs(7));
        assert_eq!(pause(Some(" 0 ")), Duration::ZERO);
        let dated = Some("Fri, 27 Nov 2026 09:00:00 GMT");
        for header in [None, Some(""), Some("-1"), dated] {
            assert_eq!(pause(header), DEFAULT_PAUSE, "{header:?}");
        }
    }

    #[test]
    fn pauses_are_bounded_until_there_is_an_answer() {
        let minute = Duration::from_mins(1);
        let mut busy = BusyWait::default();
        for _ in 0..3 {
            for _ in 0..5 {
                assert_eq!(busy.refused("full", minute).ok(), Some(minute));
            }
            busy.answered();
        }
        let mut refused = 0;
        let error = loop {
            match busy.refused("full", Duration::ZERO) {
                Ok(pause) => assert_eq!(pause, RETRY_PAUSE),
                Err(error) => break error,
            }
            refused += 1;
        };
        assert_eq!(refused, MAX_WAIT.as_millis() / RETRY_PAUSE.as_millis());
        let text = "full; this command waits for at most 5 minutes";
        assert!(
            matches!(&error, ReadError::Refused(found) if found == text),
            "{error:?}"
        );
        let most = BusyWait::default().refused("full", Duration::MAX);
        assert!(most.is_err());
    }
}
