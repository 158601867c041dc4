//! The reasons for which a master ends.

use argosy_raft::StartError;

use crate::comparison::Divergence;

/// The reason for which a master ended.
#[derive(Debug, thiserror::Error)]
pub enum MasterError {
    /// Raft did not start.
    #[error(transparent)]
    Start(#[from] StartError),
    /// The master cannot continue; restarting from the log is safer.
    #[error("this master cannot continue: {0}")]
    Failed(String),
    /// Its registry differs from that of the group: the master must not be started again on this
    /// directory.
    #[error(transparent)]
    Diverged(#[from] Divergence),
}

impl MasterError {
    pub(crate) fn ended() -> Self {
        Self::Failed("consensus has ended".to_owned())
    }

    pub(crate) fn unreadable(why: &dyn std::fmt::Display) -> Self {
        Self::Failed(format!("the stored registry cannot be read: {why}"))
    }
}
