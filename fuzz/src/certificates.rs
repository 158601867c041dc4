//! Targets for decoders of certificates, requests for them, fingerprints and host names.

use argosy_tls::description::{describe, time_text};
use argosy_tls::joining::Fingerprint;
use argosy_tls::peers::identity_of;
use argosy_tls::request::{CertificateRequest, Host, first_certificate, key_hash};
use rustls::pki_types::CertificateDer;

use crate::property::{check_error, text};

/// A certificate in DER.
pub fn certificate(bytes: &[u8]) -> bool {
    let certificate = CertificateDer::from(bytes);
    let identity = identity_of(&certificate);
    let _ = key_hash(&certificate);
    match CertificateRequest::of_certificate(&certificate) {
        Ok(request) => {
            assert!(request.names.hosts.len() <= 64);
            // Two parsers find the same identity.
            if let Ok(identity) = identity {
                assert_eq!(identity, request.names.identity);
            }
            true
        }
        Err(error) => {
            check_error(&error, bytes.len());
            false
        }
    }
}

/// Certificates or requests in PEM, a fingerprint or a host: the first byte selects one.
pub fn certificate_texts(bytes: &[u8]) -> bool {
    let Some((kind, rest)) = bytes.split_first() else {
        return false;
    };
    match kind {
        b'p' => {
            let first = first_certificate(rest).is_ok();
            match describe(rest) {
                Ok(described) => {
                    assert!(first && !described.is_empty());
                    let times = described.iter().map(|one| time_text(one.not_after));
                    times.for_each(|text| assert!(!text.is_empty()));
                    true
                }
                Err(error) => {
                    check_error(&error, rest.len());
                    false
                }
            }
        }
        b'r' => match CertificateRequest::from_pem(rest) {
            Ok(request) => {
                assert!(request.names.hosts.len() <= 64);
                true
            }
            Err(error) => {
                check_error(&error, rest.len());
                false
            }
        },
        b'f' => std::str::from_utf8(rest).is_ok_and(text::<Fingerprint>),
        b'h' => std::str::from_utf8(rest).is_ok_and(|value| match value.parse::<Host>() {
            Ok(host) => {
                let again = host.to_string().parse::<Host>();
                assert_eq!(again.expect("a written host is read"), host);
                true
            }
            Err(error) => {
                check_error(&error, value.len());
                false
            }
        }),
        _ => false,
    }
}
