//! Checks, when a client resumes the change feed, whether access rules still allow exactly the
//! records that it got before.

use std::collections::BTreeSet;

use argosy_state::Registry;
use argosy_state::ids::{FrameworkId, Revision};
use tonic::Status;

use super::render::framework_fields;
use super::selection::{Selection, Verdict};
use super::subject::{Kind, Subject};
use crate::owner_handle::OwnerHandle;
use crate::service::spawn_reader;

/// The records that a client got before it resumed, compared with what it may see now.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum HeldRecords {
    /// They are up to date. Contains the visible frameworks, or nothing if all are visible.
    Current(BTreeSet<FrameworkId>),
    /// The client may hold records that are now hidden from it, or lack some that are now visible.
    Outdated,
    /// The client got them from another cluster, which had other changes.
    OfOtherCluster,
}

impl HeldRecords {
    /// Compares the records of a client that resumes after this revision.
    ///
    /// # Errors
    /// UNAVAILABLE if this master stops or does not apply that revision in time.
    pub(super) async fn after(
        revision: Revision,
        owner: &OwnerHandle,
        selection: &Selection,
    ) -> Result<Self, Status> {
        let policy = owner.access.borrow().policy_revision;
        if selection.depends_on_rules() && policy.is_some_and(|set| set > revision) {
            return Ok(Self::Outdated);
        }
        let is_partial = selection.is_partial(Kind::Framework);
        if !is_partial || !selection.includes(Kind::Framework) {
            return Ok(Self::Current(BTreeSet::new()));
        }
        let view = owner.view(revision.index).await?;
        let selection = selection.clone();
        let read = async move { Self::of_frameworks(&view.registry, &selection, revision) };
        spawn_reader(owner, read).await
    }

    /// A hidden framework that has changed since this revision may have been visible before, in
    /// another role.
    fn of_frameworks(registry: &Registry, selection: &Selection, after: Revision) -> Self {
        let mut held = BTreeSet::new();
        for framework in registry.frameworks() {
            let subject = Subject::Framework(framework.id);
            let fields = framework_fields(&framework.info);
            let fields = Some(&fields);
            if !selection.may_see(&subject, fields) && framework.revision > after {
                return Self::Outdated;
            }
            if selection.judge(&subject, fields, true) == Verdict::Shown {
                held.insert(framework.id);
            }
        }
        Self::Current(held)
    }
}
