//! The table of all calls and their authorization. `http/routes.rs` has that of paths.
//!
//! A test compares it with the protocol, so a call without a row fails the tests; while access is
//! enforced, a call without a row is refused.

use argosy_state::access::Action;

/// How a call is authorized.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Check {
    /// All callers may make it.
    Open,
    /// Every caller with a proven identity may make it.
    Proven,
    /// The action on the cluster as a whole, by the rules that this master has: it depends on no
    /// other master.
    Local(Action),
    /// The action on the cluster as a whole, by the rules after a read index, once the message of
    /// the call is here.
    Confirmed(Action),
    /// The action on some object, by the rules of the copy that is read: the answer has what the
    /// caller may see.
    Seen(Action),
    /// As `Seen`, with an action for each kind of record.
    Records,
    /// The action on the task that the request names, by the rules that this master has.
    Task(Action),
    /// The leader decides in its step: the framework's own principal may, unless a rule denies it;
    /// others need the action on the framework or task.
    Framework(Action),
    /// The leader decides in its step about each object.
    Leader(Action),
    /// The leader decides in its step about each operation of the batch.
    Operations,
    /// No master serves it.
    Elsewhere,
}

/// The calls of `argosy.v1`, as `SERVICE/CALL`.
#[rustfmt::skip]
pub(crate) const CALLS: &[(&str, Check)] = &[
    ("Agents/Connect", Check::Leader(Action::ConnectAgent)),
    ("Certificates/ListAuthorities", Check::Open),
    ("Certificates/Issue", Check::Open),
    ("Executor/Connect", Check::Elsewhere),
    ("Leadership/Watch", Check::Proven),
    ("Reigns/Watch", Check::Proven),
    ("Operator/Write", Check::Operations),
    ("Operator/WriteOne", Check::Operations),
    ("Operator/GetCluster", Check::Seen(Action::ViewCluster)),
    ("Operator/ListAgents", Check::Seen(Action::ViewAgent)),
    ("Operator/GetAgent", Check::Seen(Action::ViewAgent)),
    ("Operator/ListFrameworks", Check::Seen(Action::ViewFramework)),
    ("Operator/GetFramework", Check::Seen(Action::ViewFramework)),
    ("Operator/ListTasks", Check::Seen(Action::ViewTask)),
    ("Operator/GetTask", Check::Seen(Action::ViewTask)),
    ("Operator/ListOffers", Check::Seen(Action::ViewOffer)),
    ("Operator/Explain", Check::Seen(Action::Explain)),
    ("Operator/JoinMaster", Check::Confirmed(Action::ChangeMasters)),
    ("Operator/RemoveMaster", Check::Confirmed(Action::ChangeMasters)),
    ("Operator/TransferLeader", Check::Confirmed(Action::TransferLeader)),
    ("Operator/RaiseLevel", Check::Leader(Action::RaiseLevel)),
    ("Operator/SetLogFilter", Check::Seen(Action::SetLogFilter)),
    ("Operator/Watch", Check::Records),
    ("Operator/GetPolicy", Check::Seen(Action::ViewAccess)),
    ("Operator/ListTokens", Check::Seen(Action::ViewAccess)),
    ("Operator/ListRevokedKeys", Check::Seen(Action::ViewAccess)),
    ("Operator/ListRateLimits", Check::Seen(Action::ViewAccess)),
    ("Operator/ListSecrets", Check::Seen(Action::ViewSecretNames)),
    ("Operator/IssueTickets", Check::Proven),
    ("Operator/SaveSnapshot", Check::Local(Action::SaveSnapshot)),
    ("Scheduler/Subscribe", Check::Leader(Action::RegisterFramework)),
    ("Scheduler/Accept", Check::Framework(Action::LaunchTask)),
    ("Scheduler/Decline", Check::Framework(Action::UpdateFramework)),
    ("Scheduler/Kill", Check::Framework(Action::KillTask)),
    ("Scheduler/UpdateLimits", Check::Framework(Action::UpdateLimits)),
    ("Scheduler/Acknowledge", Check::Framework(Action::UpdateFramework)),
    ("Scheduler/Reconcile", Check::Framework(Action::UpdateFramework)),
    ("Scheduler/Message", Check::Framework(Action::UpdateFramework)),
    ("Scheduler/Heartbeat", Check::Framework(Action::UpdateFramework)),
    ("Scheduler/Suppress", Check::Framework(Action::UpdateFramework)),
    ("Scheduler/Revive", Check::Framework(Action::UpdateFramework)),
    ("Scheduler/UpdateFramework", Check::Framework(Action::UpdateFramework)),
    ("Scheduler/Teardown", Check::Framework(Action::TeardownFramework)),
];

/// Returns how a call of `argosy.v1` is authorized, by its path, such as
/// `/argosy.v1.Operator/GetTask`.
pub(crate) fn check_of_call(path: &str) -> Option<Check> {
    let name = path.strip_prefix("/argosy.v1.")?;
    let row = CALLS.iter().find(|(call, _)| *call == name);
    row.map(|(_, check)| *check)
}
