//! Statuses of rejected member changes.

use argosy_raft::MembershipError;
use tonic::Status;

use super::refused;

/// Returns the status for a failed member change. A master that knows no leader may have been
/// removed: the caller must use another master.
pub(super) fn unchanged(why: &MembershipError) -> Status {
    let code = match why {
        MembershipError::NoLeader | MembershipError::Stopped => "no-leader",
        _ => "membership",
    };
    refused(code, &why.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Found by simulation seed 2000054: an operator's client that had chosen a removed master was
    /// rejected by it, and tried no other.
    #[test]
    fn a_master_that_knows_no_leader_sends_the_caller_to_another() {
        let code = |why| unchanged(&why).code();
        assert_eq!(code(MembershipError::NoLeader), tonic::Code::Unavailable);
        assert_eq!(code(MembershipError::Busy), tonic::Code::FailedPrecondition);
    }
}
