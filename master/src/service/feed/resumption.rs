//! What a reader that resumes has, as far as rules of access decide it.

use std::collections::BTreeSet;

use argosy_state::Registry;
use argosy_state::ids::{FrameworkId, Revision};
use tonic::Status;

use super::render::framework_fields;
use super::selection::{Selection, Verdict};
use super::subject::{Kind, Subject};
use crate::owner_handle::OwnerHandle;
use crate::service::spawn_reader;

/// What a reader has when it begins.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum HeldRecords {
    /// What it could see up to its revision. Of the frameworks, these, if it may see only some.
    Current(BTreeSet<FrameworkId>),
    /// It may have records that it may no longer see, or lack some that it may see now.
    Outdated,
}

impl HeldRecords {
    /// Returns what a reader has that resumes after this revision.
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

    /// A framework that the reader may not see now, and that has changed since, may have had
    /// another role before.
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
