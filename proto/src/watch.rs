//! The times on which the masters and the readers of the change feed agree.

use std::time::Duration;

/// Maximum time in which a master opens a stream, or answers why it does not. Within it, the master
/// must have applied the revision from which the stream resumes: another master may have.
pub const OPEN_TIMEOUT: Duration = Duration::from_secs(3);
/// Time after which a reader tries another master if its stream is not open. The master's answer,
/// which has the reason, arrives before that.
pub const ANSWER_TIMEOUT: Duration = Duration::from_secs(4);
/// Interval at which a master sends a message on a stream without changes.
pub const PROGRESS_INTERVAL: Duration = Duration::from_secs(5);
/// Time without a message after which a reader uses another master.
pub const SILENCE: Duration = Duration::from_secs(15);

const _: () = assert!(OPEN_TIMEOUT.as_millis() < ANSWER_TIMEOUT.as_millis());
const _: () = assert!(2 * PROGRESS_INTERVAL.as_millis() < SILENCE.as_millis());
