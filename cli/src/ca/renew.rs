//! `ca renew`: a certificate for the same key and names that is valid for longer.

use std::path::PathBuf;
use std::time::{SystemTime, UNIX_EPOCH};

use argosy_tls::credentials::read_certificates;
use argosy_tls::description::{self, time_text};
use argosy_tls::request::{self, CertificateRequest};
use clap::Args;

use super::{days, failed, files, fresh, of_file, open, report_certificate};
use crate::exit::{DONE, VerbResult};
use crate::output::note;

#[derive(Debug, Args)]
pub(crate) struct CaRenew {
    /// The certificate, which may have expired
    certificate: PathBuf,
    /// Directory of the CA
    #[arg(
        long,
        env = "ARGOSY_CA",
        value_name = "DIR",
        default_value = "argosy-ca"
    )]
    ca: PathBuf,
    /// Days for which the new certificate is valid
    #[arg(long, value_name = "DAYS", default_value = "365", value_parser = days())]
    days: u16,
    /// Change nothing before two thirds of the validity of the certificate have passed
    #[arg(long)]
    due: bool,
}

pub(super) fn renew(arguments: &CaRenew) -> VerbResult {
    let authority = open(&arguments.ca)?;
    let path = &arguments.certificate;
    let text = read_certificates(path).map_err(failed)?;
    let former = request::first_certificate(&text).map_err(|error| of_file(path, error))?;
    let checked = authority.check_own(&former);
    checked.map_err(|error| of_file(path, error))?;
    let described = description::describe(&text).map_err(|error| of_file(path, error))?;
    // Its own certificate is the first one; those of intermediate CAs follow.
    if let (true, Some(own)) = (arguments.due, described.first()) {
        let due_at = due_at(own.not_before, own.not_after);
        if now() < due_at {
            let (path, day) = (path.display(), time_text(due_at));
            note(&format!(
                "{path} is not due: two thirds of its validity end on {day}"
            ));
            return Ok(DONE);
        }
    }
    let request = CertificateRequest::of_certificate(&former);
    let request = request.map_err(|error| of_file(path, error))?;
    let (validity, serial) = fresh(arguments.days)?;
    let signed = authority.sign(&request, validity, serial).map_err(failed)?;
    files::replace(path, &signed)?;
    report_certificate(path, &signed);
    Ok(DONE)
}

/// Returns the second since 1970 at which two thirds of a validity have passed.
fn due_at(from: i64, until: i64) -> i64 {
    let validity = until.saturating_sub(from).max(0);
    until.saturating_sub(validity / 3)
}

fn now() -> i64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    i64::try_from(now.unwrap_or_default().as_secs()).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::due_at;

    #[test]
    fn a_certificate_is_due_after_two_thirds_of_its_validity() {
        assert_eq!(due_at(100, 400), 300);
        assert_eq!(due_at(0, 2), 2);
        // A file may have any times.
        assert_eq!(due_at(400, 100), 100);
        assert_eq!(due_at(i64::MIN, i64::MAX), i64::MAX - i64::MAX / 3);
    }
}
