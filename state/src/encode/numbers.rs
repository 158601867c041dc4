//! Enumerations as stored: each variant has one number for ever, 0 is never used.

use super::{Read, Wrong};
use crate::agent::AgentMode;
use crate::task::{Reason, Source, TaskState};

/// An enumeration with stored numbers.
pub(super) trait Numbered: Sized {
    /// The stored number.
    fn number(self) -> u32;
    /// The variant of a stored number.
    fn of(number: u32) -> Read<Self>;
}

macro_rules! numbered {
    ($name:ident, $field:literal, $($variant:ident = $number:literal),+ $(,)?) => {
        impl Numbered for $name {
            fn number(self) -> u32 {
                match self {
                    $(Self::$variant => $number,)+
                }
            }

            fn of(number: u32) -> Read<Self> {
                match number {
                    $($number => Ok(Self::$variant),)+
                    _ => Err(Wrong($field)),
                }
            }
        }
    };
}

numbered!(
    TaskState,
    "task state",
    Staging = 1,
    Starting = 2,
    Running = 3,
    Killing = 4,
    Finished = 5,
    Failed = 6,
    Killed = 7,
    Error = 8,
    Dropped = 9,
    Gone = 10,
    GoneByOperator = 11,
    Unreachable = 12,
    Unknown = 13,
);

numbered!(Source, "source", Master = 1, Agent = 2, Task = 3);

numbered!(
    Reason,
    "reason",
    None = 1,
    TaskInvalid = 2,
    InvalidOffers = 3,
    AgentUnreachable = 4,
    AgentRemoved = 5,
    AgentRemovedByOperator = 6,
    AgentRestarted = 7,
    AgentReregistered = 8,
    AgentRebooted = 9,
    ContainerLaunchFailed = 10,
    FetchFailed = 11,
    CommandExited = 12,
    CommandNotStarted = 13,
    TaskKilled = 14,
    KilledDuringLaunch = 15,
    FrameworkRemoved = 16,
    Reconciliation = 17,
    TaskMissingOnAgent = 18,
    LaunchVoided = 19,
    LimitMemory = 20,
    MaxCompletionTime = 21,
    StoppedWithoutLeader = 22,
    TaskUnknown = 23,
    HealthCheckStatusUpdated = 24,
    ReadinessCheckStatusUpdated = 25,
    HealthCheckFailed = 26,
    LimitDisk = 27,
    ExecutorTerminated = 37,
    ExecutorRegistrationTimeout = 38,
    LimitsUpdated = 41,
);

numbered!(
    AgentMode,
    "agent mode",
    Registered = 1,
    Unreachable = 2,
    Draining = 3,
    Drained = 4,
    Deactivated = 5,
    Gone = 6,
);
