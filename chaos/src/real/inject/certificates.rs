//! Renewal of certificates while their processes run: three members get new files, one of them a
//! wrong file first.
//!
//! A process reads its files every ten seconds. The fault ends when all three have done so.

use std::time::Duration;

use anyhow::{Context, Result, bail};
use argosy_testbed::cluster::Cluster;
use argosy_testbed::partitions::HostIndex;
use argosy_testbed::waiting::poll;
use argosy_tls::store::{CHANGED, KEPT, RELOAD_INTERVAL};

use super::{Injector, UndoStep, restart_if_ended};
use crate::history::{FaultKind, Recorder};

/// Timeout for a healthy cluster before files are replaced.
const HEALTH_TIMEOUT: Duration = Duration::from_secs(30);
/// Timeout for a process to read its files. It logs only the second of two failures.
const RELOAD_TIMEOUT: Duration = RELOAD_INTERVAL.saturating_mul(4);
/// Interval of polling its log.
const POLL_INTERVAL: Duration = Duration::from_millis(100);

/// The way in which files are replaced.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::real) enum Renewal {
    /// A certificate for the same key.
    SameKey,
    /// A new key and its certificate.
    NewKey,
    /// A text that is no certificate, and then a new key and its certificate.
    WrongFile,
}

impl Renewal {
    const ALL: [Self; 3] = [Self::SameKey, Self::NewKey, Self::WrongFile];

    fn text(self) -> &'static str {
        match self {
            Self::SameKey => "same key",
            Self::NewKey => "new key",
            Self::WrongFile => "wrong file first",
        }
    }
}

/// A member whose files were replaced.
pub(in crate::real) struct RenewedMember {
    place: HostIndex,
    renewal: Renewal,
    /// The number of its starts, and the length of its log, when the files were replaced.
    starts: u32,
    log_bytes: usize,
}

impl Injector<'_> {
    pub(super) async fn certificate_renewal(&mut self) -> Result<(String, Duration)> {
        // A process that is just starting could read a key and the certificate of another one.
        self.cluster.await_health(HEALTH_TIMEOUT).await?;
        let mut places: Vec<HostIndex> = (0..self.cluster.members.len()).collect();
        let mut targets = Vec::new();
        for renewal in Renewal::ALL {
            let place = self.random_member(&places)?;
            places.retain(|other| *other != place);
            let name = self.name(place);
            self.note(FaultKind::CertificateRenewal, &name, renewal.text());
            let renewed = RenewedMember {
                place,
                renewal,
                starts: self.cluster.members[place].starts,
                log_bytes: self.cluster.members[place].log().len(),
            };
            replace_files(self.cluster, &renewed)?;
            self.undo.push(UndoStep::AwaitRenewal(renewed));
            targets.push(format!("{name} ({})", renewal.text()));
        }
        Ok((targets.join(", "), self.between(500, 3_000)))
    }
}

fn replace_files(cluster: &mut Cluster, renewed: &RenewedMember) -> Result<()> {
    let place = renewed.place;
    let certificates = cluster.environment.certificates.clone();
    let certificates = certificates.context("the cluster uses no TLS")?;
    let name = cluster.members[place].name().to_owned();
    match renewed.renewal {
        Renewal::SameKey => certificates.renew(&name),
        Renewal::NewKey => cluster.issue(place),
        Renewal::WrongFile => {
            certificates.damage(&name)?;
            // If another fault ends it, it cannot start.
            cluster.members[place].allow_exit();
            Ok(())
        }
    }
}

impl RenewedMember {
    /// Waits until the member uses its new files. A wrong file is replaced once it has reported it.
    pub(super) async fn finish(&self, cluster: &mut Cluster, recorder: &Recorder) -> Result<()> {
        if self.renewal != Renewal::WrongFile {
            return self.await_line(cluster, CHANGED).await;
        }
        let kept = self.await_line(cluster, KEPT).await;
        let issued = cluster.issue(self.place);
        cluster.members[self.place].forbid_exit();
        restart_if_ended(cluster, recorder, self.place)?;
        kept.and(issued)?;
        self.await_line(cluster, CHANGED).await
    }

    /// Waits for a line in the log of the member. There is none if another fault has ended its
    /// process since, which reads the files at its next start, or prevents it from reading them.
    async fn await_line(&self, cluster: &Cluster, line: &str) -> Result<()> {
        let member = &cluster.members[self.place];
        let is_disturbed = || !member.is_healthy() || member.starts != self.starts;
        let found = poll(RELOAD_TIMEOUT, POLL_INTERVAL, async || {
            let log = member.log();
            let has_line = log
                .get(self.log_bytes..)
                .is_some_and(|log| log.contains(line));
            (has_line || is_disturbed()).then_some(()).ok_or(())
        });
        match found.await {
            Err(()) if !member.may_exit() => {
                bail!(
                    "{} has not logged {line:?} within {RELOAD_TIMEOUT:?}",
                    member.name()
                )
            }
            Ok(()) | Err(()) => Ok(()),
        }
    }
}
