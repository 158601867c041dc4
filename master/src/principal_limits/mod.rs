//! Limits of each principal at a master: the order of calls to the owner, and their rate.
//!
//! The account of a call is its principal, or the address of a caller without one. It does not
//! depend on connections, sessions or frameworks, so a new scheduler of a principal continues with
//! its account. Reading order: `account`, `fair_queue` (whose call is next), `rates` (how many
//! calls a second), `calls` (the queue in front of the owner), `join_rates` (requests for
//! certificates). Nothing here depends on what is called.

mod account;
mod calls;
mod fair_queue;
mod join_rates;
mod rates;

use std::time::Duration;

use metrics::counter;
use tonic::Status;
use tonic_types::{ErrorDetails, StatusExt as _};

pub(crate) use account::{Account, current, within};
pub(crate) use calls::{CallQueue, CallWaiter, QueuedMessage};
pub(crate) use join_rates::JoinRates;

/// The code of a call that is refused because of its account.
pub(crate) const RATE_LIMITED: &str = "rate-limited";
/// The pause that a refusal suggests if the queue of the account is full.
const QUEUE_PAUSE: Duration = Duration::from_millis(100);
/// The longest pause that a refusal suggests.
const LONGEST_PAUSE: Duration = Duration::from_secs(60);

/// The reason of a refusal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum LimitReached {
    /// The rate of the principal; the next call is admitted after this time.
    PrincipalRate(Duration),
    /// The rate of the connection.
    ConnectionRate(Duration),
    /// The queue of the principal is full.
    PrincipalQueue,
}

impl LimitReached {
    /// Returns the value of the label `reason` in metrics.
    fn reason(self) -> &'static str {
        match self {
            Self::PrincipalRate(_) => "principal-rate",
            Self::ConnectionRate(_) => "connection-rate",
            Self::PrincipalQueue => "principal-queue",
        }
    }

    /// Counts the refusal, and returns its status: RESOURCE_EXHAUSTED, with a pause after which to
    /// repeat the call.
    pub(crate) fn refuse(self) -> Status {
        counter!("argosy_requests_refused_total", "reason" => self.reason()).increment(1);
        let (text, pause) = match self {
            Self::PrincipalRate(pause) => ("this principal calls more often than it may", pause),
            Self::ConnectionRate(pause) => ("this connection calls more often than it may", pause),
            Self::PrincipalQueue => (
                "as many calls of this principal wait for the leader as may",
                QUEUE_PAUSE,
            ),
        };
        let pause = pause.min(LONGEST_PAUSE);
        let mut details = ErrorDetails::with_error_info(RATE_LIMITED, "argosy", []);
        details.set_retry_info(Some(pause));
        let text = format!(
            "{text}: the call was not processed; repeat it in {} ms",
            pause.as_millis().max(1)
        );
        Status::with_error_details(tonic::Code::ResourceExhausted, text, details)
    }
}
