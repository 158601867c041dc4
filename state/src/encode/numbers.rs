//! Stored numbers of enumerations. The number of a variant never changes. 0 means an omitted field;
//! no variant has it except that of a flag.

use crate::actor::PrincipalKind;
use crate::agent::{Administration, AgentMode};
use crate::codec::scalars::AsNumber;
use crate::level::Level;
use crate::task::{
    ImagePull, KillSignal, LinuxCapability, Reason, Scheme, TaskState, UpdateSource,
};

macro_rules! numbered {
    ($name:ident, $($variant:ident = $number:literal),+ $(,)?) => {
        impl AsNumber for $name {
            fn number(&self) -> u64 {
                match self {
                    $(Self::$variant => $number,)+
                }
            }

            fn of(number: u64) -> Option<Self> {
                match number as u32 {
                    $($number => Some(Self::$variant),)+
                    _ => None,
                }
            }
        }
    };
}

numbered!(
    TaskState,
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

numbered!(UpdateSource, Master = 1, Agent = 2, Task = 3);

numbered!(
    PrincipalKind,
    Master = 1,
    Agent = 2,
    Framework = 3,
    Operator = 4,
);

numbered!(
    Reason,
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
    AgentIncapable = 50,
);

numbered!(
    AgentMode,
    Registered = 1,
    Unreachable = 2,
    Draining = 3,
    Drained = 4,
    Deactivated = 5,
    Gone = 6,
);

numbered!(
    Administration,
    Active = 1,
    Draining = 2,
    Drained = 3,
    Deactivated = 4,
    Gone = 5,
);

numbered!(ImagePull, IfAbsent = 1, Always = 2);

impl AsNumber for KillSignal {
    fn number(&self) -> u64 {
        (*self).number().into()
    }

    fn of(number: u64) -> Option<Self> {
        Self::of(number as u32)
    }
}

impl AsNumber for LinuxCapability {
    fn number(&self) -> u64 {
        (*self).number().into()
    }

    fn of(number: u64) -> Option<Self> {
        Self::of(number as u32)
    }
}

/// Stored as a flag: whether the scheme uses TLS.
impl AsNumber for Scheme {
    fn number(&self) -> u64 {
        match self {
            Self::Http => 0,
            Self::Https => 1,
        }
    }

    fn of(number: u64) -> Option<Self> {
        Some(match number {
            0 => Self::Http,
            _ => Self::Https,
        })
    }
}

impl AsNumber for Level {
    fn number(&self) -> u64 {
        self.0.into()
    }

    fn of(number: u64) -> Option<Self> {
        Some(Self(number as u32))
    }
}
