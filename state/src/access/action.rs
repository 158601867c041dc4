//! Actions: what a rule allows or denies.

use std::fmt;
use std::str::FromStr;

use crate::ids::InvalidId;

/// Defines the actions with their names.
macro_rules! actions {
    ($($(#[$doc:meta])* $action:ident = $name:literal,)+) => {
        /// An action of a caller.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum Action {
            $($(#[$doc])* $action,)+
        }

        impl Action {
            /// All actions.
            pub const ALL: &[Self] = &[$(Self::$action),+];

            /// Returns the name of the action in rules, such as `kill-task`.
            #[must_use]
            pub const fn as_str(self) -> &'static str {
                match self {
                    $(Self::$action => $name,)+
                }
            }
        }
    };
}

actions! {
    /// Subscribing as a framework of a role. Object: the role.
    RegisterFramework = "register-framework",
    /// Removing a framework with its tasks.
    TeardownFramework = "teardown-framework",
    /// Changing the description of a framework, and its suppressed roles.
    UpdateFramework = "update-framework",
    /// Launching a task. Object: the role of its resources.
    LaunchTask = "launch-task",
    /// Launching a task that runs as a user of the host. Object: the user.
    RunAsUser = "run-as-user",
    /// Launching a task with any security option.
    UseSecurityOption = "use-security-option",
    /// Launching a task that mounts a path of the host. Object: the path.
    UseHostPath = "use-host-path",
    /// Launching a task in the network of the host.
    UseHostNetwork = "use-host-network",
    /// Launching a task that reads a secret. Object: the secret.
    UseSecret = "use-secret",
    /// Launching a task from an image. Object: the image.
    UseImage = "use-image",
    /// Killing a task.
    KillTask = "kill-task",
    /// Changing the limits of a task.
    UpdateLimits = "update-limits",
    /// Reading roles, their weights and usage.
    ViewRole = "view-role",
    /// Reading frameworks.
    ViewFramework = "view-framework",
    /// Reading tasks.
    ViewTask = "view-task",
    /// Reading agents.
    ViewAgent = "view-agent",
    /// Reading open offers.
    ViewOffer = "view-offer",
    /// Reading the state of the cluster and its masters.
    ViewCluster = "view-cluster",
    /// Reading metrics.
    ViewMetrics = "view-metrics",
    /// Reading the output of tasks.
    ViewLogs = "view-logs",
    /// Attaching to the input and output of a running task.
    Attach = "attach",
    /// Running a command in a task's container.
    Exec = "exec",
    /// Reading files of a task's sandbox.
    ReadSandbox = "read-sandbox",
    /// Setting an attribute of an agent.
    SetAttribute = "set-attribute",
    /// Deactivating and reactivating an agent.
    DeactivateAgent = "deactivate-agent",
    /// Declaring an agent gone.
    MarkGone = "mark-gone",
    /// Setting the weight of a role.
    SetWeight = "set-weight",
    /// Adding and removing masters.
    ChangeMasters = "change-masters",
    /// Transferring leadership to another master.
    TransferLeader = "transfer-leader",
    /// Raising the feature level.
    RaiseLevel = "raise-level",
    /// Setting the log filter of a master.
    SetLogFilter = "set-log-filter",
    /// Connecting as an agent. Object: the agent.
    ConnectAgent = "connect-agent",
    /// Asking why a task or framework waits.
    Explain = "explain",
    /// Replacing rules and groups.
    SetAccess = "set-access",
    /// Reading rules, groups, tokens and limits.
    ViewAccess = "view-access",
    /// Creating tokens.
    CreateToken = "create-token",
    /// Revoking tokens and keys.
    Revoke = "revoke",
    /// Setting limits of rate.
    SetLimit = "set-limit",
    /// Setting and removing secrets. Object: the secret.
    SetSecret = "set-secret",
    /// Reading the names of secrets. Object: the secret.
    ViewSecretNames = "view-secret-names",
    /// Reading the whole registry, to save it.
    SaveSnapshot = "save-snapshot",
}

impl Action {
    /// Returns whether the action only reads records: those named `view-…`, and `explain`. Output
    /// and sandboxes of tasks have actions of other names, except `view-logs`.
    #[must_use]
    pub fn is_view(self) -> bool {
        self.as_str().starts_with("view-") || self == Self::Explain
    }
}

impl fmt::Display for Action {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(self.as_str())
    }
}

impl FromStr for Action {
    type Err = InvalidId;

    fn from_str(text: &str) -> Result<Self, InvalidId> {
        let mut all = Self::ALL.iter().copied();
        let rule = "`argosy acl --help` lists the actions";
        all.find(|action| action.as_str() == text)
            .ok_or_else(|| InvalidId::new("action", text, rule))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn actions_round_trip_as_text_and_have_distinct_names() {
        let names: BTreeSet<_> = Action::ALL.iter().map(|action| action.as_str()).collect();
        assert_eq!(names.len(), Action::ALL.len());
        for action in Action::ALL {
            let name = action.to_string();
            assert_eq!(name.parse(), Ok(*action));
            assert!(
                name.bytes()
                    .all(|byte| byte.is_ascii_lowercase() || byte == b'-')
            );
        }
        for text in [
            "",
            "*",
            "Kill-task",
            "kill-task ",
            "kill_task",
            "kill",
            "view-audit",
        ] {
            assert!(text.parse::<Action>().is_err(), "{text:?}");
        }
    }
}
