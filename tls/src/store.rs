//! The newest credentials of a process, which change when its files do.
//!
//! A connection keeps the credentials of its handshake until it ends.

use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use metrics::gauge;
use rustls::pki_types::UnixTime;
use tracing::{debug, info, warn};

use crate::credentials::{CredentialError, CredentialFiles, Credentials};
use crate::description::time_text;

/// The interval at which files are read again.
pub const RELOAD_INTERVAL: Duration = Duration::from_secs(10);
/// The log line of a process that uses changed files.
pub const CHANGED: &str = "new connections use the changed certificates";
/// The log line of a process whose files cannot be used any more.
pub const KEPT: &str = "cannot reload certificates; the former stay in use";

/// The credentials of a process and their files.
#[derive(Debug)]
pub struct CredentialStore {
    files: CredentialFiles,
    // A lock, because connections of several threads read it. Held to copy or replace a pointer.
    current: RwLock<Arc<Credentials>>,
}

/// The result of reading the files again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reload {
    /// They have the same content.
    Unchanged,
    /// New connections use the new content.
    Changed,
}

impl CredentialStore {
    /// Reads the files for the first time.
    ///
    /// # Errors
    /// [`CredentialError`].
    pub fn load(files: CredentialFiles, now: UnixTime) -> Result<Self, CredentialError> {
        let current = RwLock::new(Arc::new(Credentials::read(&files, now)?));
        Ok(Self { files, current })
    }

    /// Returns the newest credentials.
    #[must_use]
    pub fn current(&self) -> Arc<Credentials> {
        let current = self.current.read();
        current.unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Reads the files again.
    ///
    /// # Errors
    /// [`CredentialError`]; the former credentials then stay in use. The certificate and its key
    /// are two files, so this is also the result while they are being replaced.
    pub fn reload(&self, now: UnixTime) -> Result<Reload, CredentialError> {
        let read = Credentials::read(&self.files, now)?;
        let former = self.current();
        if read.has_content_of(&former) {
            return Ok(Reload::Unchanged);
        }
        if let (Some(found), Some(own), Some(files)) =
            (read.identity(), former.identity(), &self.files.own)
            && found != own
        {
            return Err(CredentialError::Identity {
                path: files.certificate.clone(),
                found: found.clone(),
                own: own.clone(),
            });
        }
        *self.current.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(read);
        Ok(Reload::Changed)
    }
}

/// Decides when to warn that a certificate expires: within its last week, once a day.
#[derive(Debug, Default)]
struct ExpiryWarning {
    last: Option<i64>,
}

impl ExpiryWarning {
    /// Returns whether to warn now. Times are seconds since 1970.
    fn is_due(&mut self, now: i64, not_after: i64) -> bool {
        const DAY: i64 = 86_400;
        let is_near = not_after.saturating_sub(now) < 7 * DAY;
        let is_repeated = self.last.is_some_and(|last| now.saturating_sub(last) < DAY);
        let is_due = is_near && !is_repeated;
        if is_due {
            self.last = Some(now);
        }
        is_due
    }
}

/// Decides which failures to reload are reported. A single one is usual while files are replaced.
#[derive(Debug, Default)]
struct ReloadFailures {
    last: Option<String>,
    is_reported: bool,
}

impl ReloadFailures {
    /// Returns whether this failure is reported: it is not the first in a row, and its error has
    /// not been reported yet.
    fn is_due(&mut self, error: &str) -> bool {
        let again = self.last.is_some();
        if self.last.as_deref() != Some(error) {
            self.last = Some(error.to_owned());
            self.is_reported = false;
        }
        let is_due = again && !self.is_reported;
        self.is_reported |= is_due;
        is_due
    }
}

/// Reads the files again at each interval, and warns before the own certificate expires. Never
/// returns; dropping the future ends it.
pub async fn follow_files(store: Arc<CredentialStore>) {
    let mut failures = ReloadFailures::default();
    let mut expiry = ExpiryWarning::default();
    loop {
        let now = i64::try_from(UnixTime::now().as_secs()).unwrap_or(i64::MAX);
        if let Some(not_after) = store.current().not_after() {
            gauge!("argosy_certificate_expiry_timestamp_seconds").set(not_after as f64);
            if expiry.is_due(now, not_after) {
                let at = time_text(not_after);
                warn!(
                    at,
                    "the certificate of this process expires; renew it with argosy ca renew"
                );
            }
        }
        tokio::time::sleep(RELOAD_INTERVAL).await;
        let reading = store.clone();
        // The disk may be slow, and must not block other tasks of the runtime.
        let read = tokio::task::spawn_blocking(move || reading.reload(UnixTime::now())).await;
        let Ok(read) = read else { continue };
        match read {
            Ok(Reload::Unchanged) => failures = ReloadFailures::default(),
            Ok(Reload::Changed) => {
                info!("{CHANGED}");
                failures = ReloadFailures::default();
            }
            Err(error) => {
                let error = chain(&error);
                match failures.is_due(&error) {
                    true => warn!(error, "{KEPT}"),
                    false => debug!(error, "cannot reload certificates"),
                }
            }
        }
    }
}

fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(inner) = cause {
        text.push_str(": ");
        text.push_str(&inner.to_string());
        cause = inner.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_to_reload_is_reported_once_if_it_lasts() {
        let mut failures = ReloadFailures::default();
        let due = ["a", "a", "a", "b", "b", "a"].map(|error| failures.is_due(error));
        assert_eq!(due, [false, true, false, true, false, true]);
    }

    #[test]
    fn an_expiring_certificate_is_reported_once_a_day_in_its_last_week() {
        const DAY: i64 = 86_400;
        let end = 100 * DAY;
        let mut expiry = ExpiryWarning::default();
        let due: Vec<i64> = (0..110 * 24)
            .map(|hour| hour * 3_600)
            .filter(|now| expiry.is_due(*now, end))
            .collect();
        let first = 93 * DAY + 3_600;
        let expected: Vec<i64> = (0..17).map(|day| first + day * DAY).collect();
        assert_eq!(due, expected);
        // A renewed certificate causes no warning.
        assert!(!expiry.is_due(120 * DAY, 400 * DAY));
    }
}
