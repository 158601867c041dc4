//! Detection of a failed leader, and election of the next one.
//!
//! Reading order: `leader_contact` (when the leader's last message arrived), `failover` (the
//! leader's process has ended), `suspicion` and `detector` (the leader is silent). Then `campaign`
//! (which node starts an election, and when; pure), `prober` (a leader measures whether it is
//! followed).

pub(crate) mod campaign;
pub(crate) mod detector;
pub(crate) mod failover;
pub(crate) mod leader_contact;
pub(crate) mod prober;
pub(crate) mod suspicion;
