//! Feature levels of members: the check of a joining master, and the levels that all members
//! support.

use std::sync::atomic::Ordering;

use argosy_state::level::{Level, Levels};
use futures::future::join_all;
use tokio::sync::OwnedMutexGuard;

use super::{MemberChanger, TIMEOUT};
use crate::error::MembershipError;
use crate::transport::connections;
use crate::transport::versions::MasterVersions;
use crate::transport::wire::proto;
use crate::types::Member;

/// The members of a group, which does not change until this is dropped.
#[derive(Debug)]
pub struct MembershipGuard {
    /// Each member with its levels; `None`: it does not answer.
    pub members: Vec<(u64, Member, Option<Levels>)>,
    _change_lock: OwnedMutexGuard<()>,
}

impl MemberChanger {
    pub(crate) fn set_level(&self, level: Level) {
        self.level.store(level.0, Ordering::Relaxed);
    }

    /// Rejects a master that could not apply entries in the log.
    pub(super) fn check_levels(
        &self,
        address: &str,
        answer: &proto::AskResponse,
    ) -> Result<(), MembershipError> {
        let level = Level(self.level.load(Ordering::Relaxed));
        let levels = MasterVersions::of(answer.versions).levels;
        match level == Level::default() || levels.include(level) {
            true => Ok(()),
            false => Err(MembershipError::Level {
                address: address.to_owned(),
                levels,
                level,
            }),
        }
    }

    /// See [`crate::Node::lock_members`].
    pub(crate) async fn lock_members(&self) -> Result<MembershipGuard, MembershipError> {
        self.check_leads()?;
        let locked = self.change_lock.clone().lock_owned();
        let Ok(changing) = tokio::time::timeout(TIMEOUT, locked).await else {
            return Err(MembershipError::Busy);
        };
        self.finish_change().await?;
        let (_, members) = self.members();
        let asked = members.into_iter().map(async |(id, member)| {
            let levels = match id == self.caller.id {
                true => Some(Levels::OWN),
                false => self.ask_levels(id, &member).await,
            };
            (id, member, levels)
        });
        let members = join_all(asked).await;
        self.check_leads()?;
        Ok(MembershipGuard {
            members,
            _change_lock: changing,
        })
    }

    /// Returns the levels that the process at this address reports now, if it is the member.
    async fn ask_levels(&self, id: u64, member: &Member) -> Option<Levels> {
        let request = connections::ask_request();
        let asked = self
            .peers
            .query(&member.raft_address, request, TIMEOUT)
            .await;
        let answer = asked.ok()?;
        let is_member = answer.identity.is_some_and(|identity| {
            identity.id == id && identity.cluster_key == self.caller.cluster_key
        });
        is_member.then(|| MasterVersions::of(answer.versions).levels)
    }
}
