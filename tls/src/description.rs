//! Descriptions of certificates and requests.
//!
//! Nothing is verified here except the form. Texts in a certificate are those of its issuer, and
//! the caller shows them as such.

use std::fmt::Write as _;

use argosy_proto::transport::certificate_identity::CertificateIdentity;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::{self, PemObject as _};
use sha2::{Digest as _, Sha256};
use time::OffsetDateTime;
use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::FromDer as _;

/// The content of one certificate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CertificateDescription {
    /// The identity; empty for a CA, or the reason for which there is none.
    pub identity: String,
    /// Whether it may sign other certificates.
    pub is_ca: bool,
    /// The name of the issuer.
    pub issuer: String,
    /// The hosts.
    pub hosts: Vec<String>,
    /// The serial number, in hexadecimal digits.
    pub serial: String,
    /// The first second of its validity, since 1970.
    pub not_before: i64,
    /// The last second of its validity, since 1970.
    pub not_after: i64,
    /// The SHA-256 digest of the certificate, in hexadecimal digits.
    pub fingerprint: String,
}

/// The reason for which a file cannot be described.
#[derive(Debug, thiserror::Error)]
pub enum DescriptionError {
    /// The text is not in PEM.
    #[error("it is not in PEM")]
    Pem(#[source] pem::Error),
    /// The text contains no certificate.
    #[error("it contains no certificate")]
    Empty,
    /// A certificate is malformed.
    #[error("certificate {0} is malformed")]
    Malformed(usize),
}

/// Returns a time as `2026-11-27 10:30 UTC`.
#[must_use]
pub fn time_text(seconds: i64) -> String {
    match OffsetDateTime::from_unix_timestamp(seconds) {
        Ok(at) => format!("{} {:02}:{:02} UTC", at.date(), at.hour(), at.minute()),
        Err(_) => format!("second {seconds}"),
    }
}

/// Describes the certificates of a file in PEM.
///
/// # Errors
/// [`DescriptionError`].
pub fn describe(text: &[u8]) -> Result<Vec<CertificateDescription>, DescriptionError> {
    let mut described = Vec::new();
    for certificate in CertificateDer::pem_slice_iter(text) {
        let certificate = certificate.map_err(DescriptionError::Pem)?;
        let one = describe_one(&certificate);
        described.push(one.ok_or(DescriptionError::Malformed(described.len() + 1))?);
    }
    if described.is_empty() {
        return Err(DescriptionError::Empty);
    }
    Ok(described)
}

/// Returns the last second of a certificate's validity, since 1970.
pub(crate) fn end_of(certificate: &CertificateDer<'_>) -> Option<i64> {
    let (_, parsed) = X509Certificate::from_der(certificate).ok()?;
    Some(parsed.validity().not_after.timestamp())
}

fn describe_one(certificate: &CertificateDer<'_>) -> Option<CertificateDescription> {
    let (_, parsed) = X509Certificate::from_der(certificate).ok()?;
    let names = parsed.subject_alternative_name().ok()?;
    let names = names.map(|found| &found.value.general_names);
    let (mut uris, mut hosts) = (Vec::new(), Vec::new());
    for name in names.into_iter().flatten() {
        match name {
            GeneralName::URI(uri) => uris.push(*uri),
            other => hosts.push(host(other)),
        }
    }
    let is_ca = parsed.is_ca();
    let identity = match CertificateIdentity::among(uris.iter().copied()) {
        _ if is_ca => String::new(),
        Ok(identity) => identity.to_string(),
        Err(why) => why.to_string(),
    };
    Some(CertificateDescription {
        identity,
        is_ca,
        issuer: parsed.issuer().to_string(),
        hosts,
        serial: hexadecimal(parsed.tbs_certificate.raw_serial()),
        not_before: parsed.validity().not_before.timestamp(),
        not_after: parsed.validity().not_after.timestamp(),
        fingerprint: hexadecimal(&Sha256::digest(certificate)),
    })
}

fn host(name: &GeneralName<'_>) -> String {
    let address = |bytes: &[u8]| -> Option<std::net::IpAddr> {
        let v4 = <[u8; 4]>::try_from(bytes).map(std::net::IpAddr::from);
        v4.or_else(|_| <[u8; 16]>::try_from(bytes).map(Into::into))
            .ok()
    };
    match name {
        GeneralName::DNSName(name) => (*name).to_owned(),
        GeneralName::IPAddress(bytes) => {
            address(bytes).map_or_else(|| format!("{bytes:?}"), |address| address.to_string())
        }
        other => format!("{other:?}"),
    }
}

fn hexadecimal(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        write!(text, "{byte:02x}").expect("a string grows");
        text
    })
}
