//! Raising the feature level: every member must have reported that it supports the next one.

use argosy_proto::{trace, v1};
use argosy_raft::{Member, MembershipGuard};
use argosy_state::access::Action;
use argosy_state::actor::Actor;
use argosy_state::level::{Level, Levels};
use tonic::Status;

use super::membership::unchanged;
use super::{Services, accepted, here, refused};
use crate::access::Object;
use crate::leader::Input;
use crate::owner_handle::OwnerHandle;
use crate::principal_limits::{self, within};

impl Services {
    /// Runs at the leader.
    pub(super) async fn raise_level_here(
        &self,
        request: v1::RaiseLevelRequest,
        actor: Actor,
    ) -> Result<v1::RaiseLevelReply, Status> {
        // Only a caller with this right may lock the members, and learn their addresses from an
        // error. The step of the leader decides again.
        here(&self.owner, &actor, Action::RaiseLevel, &Object::CLUSTER)?;
        let raised = raise_level(self.owner.clone(), request, actor);
        let raised = within(principal_limits::current(), raised);
        // A task: it holds the lock until the command is committed, even if its caller cancels.
        let task = self.tasks.spawn(trace::scope(trace::current(), raised));
        task.await
            .unwrap_or_else(|why| Err(Status::internal(format!("the call failed: {why}"))))
    }
}

/// Raises the level. No member joins between the check and the commit.
async fn raise_level(
    owner: OwnerHandle,
    request: v1::RaiseLevelRequest,
    actor: Actor,
) -> Result<v1::RaiseLevelReply, Status> {
    let wanted = (request.level != 0).then_some(Level(request.level));
    let held = owner.node.lock_members().await;
    let MembershipGuard { members, .. } = held.as_ref().map_err(unchanged)?;
    let former = owner.query(|facts| facts.registry.level()).await?;
    let level =
        choose_level(former, wanted, members).map_err(|text| refused("feature-level", &text))?;
    let raised = owner.ask(move |request| Input::RaiseLevel {
        request,
        actor,
        level,
    });
    accepted(raised.await?)?;
    Ok(v1::RaiseLevelReply {
        level: level.0,
        former_level: former.0,
        masters: super::views::masters(&owner.node),
    })
}

/// Returns the new level of the cluster: the requested one, or the next one if all members support
/// it.
fn choose_level(
    present: Level,
    wanted: Option<Level>,
    members: &[(u64, Member, Option<Levels>)],
) -> Result<Level, String> {
    let next = Level(present.0 + 1);
    let mut newest = wanted.unwrap_or(next.min(Level::NEWEST));
    if newest < present {
        return Err(format!(
            "the cluster is at feature level {present}: a level is never lowered"
        ));
    }
    for (id, member, levels) in members {
        let Some(levels) = levels else {
            return Err(format!(
                "master-{id} ({}) does not report which feature levels it knows: start it, or remove it with `argosy master remove master-{id}`",
                member.raft_address
            ));
        };
        if wanted.is_none() {
            newest = newest.min(levels.newest);
        }
    }
    let short = members.iter().find_map(|(id, member, levels)| {
        let levels = levels.filter(|levels| !levels.include(newest))?;
        Some(format!(
            "master-{id} ({}) knows the feature levels {levels}, not {newest}: install a release there that does",
            member.raft_address
        ))
    });
    short.map_or(Ok(newest.max(present)), Err)
}

#[cfg(test)]
mod tests {
    use super::*;

    const NEW: Option<Levels> = Some(Levels::OWN);
    const OLD: Option<Levels> = Some(Levels::OF_0_1_0);

    fn raised(present: u32, wanted: Option<u32>, levels: &[Option<Levels>]) -> Result<u32, String> {
        let members: Vec<_> = (1_u64..)
            .zip(levels)
            .map(|(id, levels)| {
                let member = Member {
                    raft_address: format!("m{id}:1"),
                    ..Member::default()
                };
                (id, member, *levels)
            })
            .collect();
        choose_level(Level(present), wanted.map(Level), &members).map(|level| level.0)
    }

    #[test]
    fn the_level_is_the_newest_that_all_members_know() {
        assert_eq!(raised(2, None, &[NEW, NEW, NEW]), Ok(3));
        assert_eq!(raised(2, None, &[NEW, OLD, NEW]), Ok(2));
        assert_eq!(raised(3, None, &[NEW, NEW]), Ok(3), "a repeat");
        assert_eq!(raised(2, Some(2), &[NEW, OLD]), Ok(2));
    }

    #[test]
    fn members_that_do_not_know_or_report_the_level_are_named() {
        let why = raised(2, Some(3), &[NEW, OLD, NEW]).unwrap_err();
        assert!(
            why.starts_with("master-2 (m2:1) knows the feature levels 1-2, not 3"),
            "{why}"
        );
        let why = raised(2, None, &[NEW, NEW, None]).unwrap_err();
        assert!(why.contains("master-3 (m3:1) does not report"), "{why}");
        let why = raised(2, Some(4), &[NEW]).unwrap_err();
        assert!(why.contains("not 4"), "{why}");
        let why = raised(3, Some(2), &[NEW]).unwrap_err();
        assert!(why.contains("never lowered"), "{why}");
    }
}
