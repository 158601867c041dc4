//! The answers of a leader to its callers.

use argosy_proto::v1;
use argosy_state::command::{Position, Rejection};
use argosy_state::ids::{Revision, TaskId};

/// An answer to a caller.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum LeaderReply {
    Called {
        revision: Revision,
        refused: Vec<RejectedPart>,
    },
    Acknowledged,
    Declined,
    HeartbeatRecorded,
    /// The message was sent, or is lost.
    Forwarded,
    Reconciled {
        reply: v1::ReconcileReply,
        /// The last task of this answer, if more follow.
        more: Option<TaskId>,
    },
    Operated {
        revision: Revision,
        outcomes: Vec<Result<(), (&'static str, String)>>,
    },
    Refused {
        code: &'static str,
        message: String,
    },
}

/// A rejected part of a call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct RejectedPart {
    pub(crate) position: Position,
    pub(crate) code: &'static str,
    pub(crate) message: String,
}

impl From<&Rejection> for LeaderReply {
    fn from(why: &Rejection) -> Self {
        Self::Refused {
            code: why.code(),
            message: why.to_string(),
        }
    }
}
