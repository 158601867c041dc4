//! Error messages for failed handshakes: the cause and the remedy.

use std::io;

use rustls::pki_types::UnixTime;
use rustls::{AlertDescription, CertificateError, Error, InconsistentKeys, InvalidMessage};

use crate::description::time_text;

/// Returns the TLS error in an error of a stream.
pub(crate) fn tls_error(error: &io::Error) -> Option<&Error> {
    error.get_ref()?.downcast_ref()
}

/// Returns whether a peer has answered a TLS client without TLS.
pub(crate) fn is_plaintext(error: &io::Error) -> bool {
    matches!(
        tls_error(error),
        Some(Error::InvalidMessage(InvalidMessage::InvalidContentType))
    )
}

/// Returns the same error with a sentence about the peer, if TLS has failed. Other errors keep
/// their kind and text, by which callers recognize a port without a listener.
pub(crate) fn explained(error: io::Error, peer: &str) -> io::Error {
    let Some(tls) = tls_error(&error) else {
        return error;
    };
    let kind = match tls {
        Error::InvalidCertificate(_) | Error::AlertReceived(_) | Error::NoCertificatesPresented => {
            io::ErrorKind::PermissionDenied
        }
        _ => io::ErrorKind::InvalidData,
    };
    io::Error::new(kind, format!("no TLS with {peer}: {}", of_peer(tls)))
}

/// Describes why a handshake with a peer has failed.
pub(crate) fn of_peer(error: &Error) -> String {
    match error {
        Error::InvalidMessage(InvalidMessage::InvalidContentType) => {
            "it speaks plaintext; check its port, and whether it was started with --insecure-plaintext".to_owned()
        }
        Error::InvalidCertificate(why) => format!("its certificate is rejected: {}", certificate(why)),
        Error::NoCertificatesPresented => "it has presented no certificate, and this port requires one".to_owned(),
        Error::AlertReceived(alert) => of_alert(*alert),
        Error::PeerIncompatible(why) => format!("it lacks what TLS 1.3 needs ({why:?})"),
        Error::NoApplicationProtocol => "it asks for another protocol than this port has".to_owned(),
        other => other.to_string(),
    }
}

/// Describes why the certificate or the key of this process cannot be used.
pub(crate) fn of_own(error: &Error) -> String {
    match error {
        Error::InconsistentKeys(InconsistentKeys::KeyMismatch) => {
            "it is not the key of the certificate".to_owned()
        }
        Error::InvalidCertificate(why) => certificate(why),
        other => other.to_string(),
    }
}

/// Describes a fatal alert: the reason for which the peer ended the connection.
fn of_alert(alert: AlertDescription) -> String {
    match alert {
        AlertDescription::CertificateRequired => {
            "it requires a certificate, and this process has none; name one with --tls-cert and --tls-key".to_owned()
        }
        AlertDescription::UnknownCA => {
            "it does not trust the CA of this process's certificate; compare --tls-ca there".to_owned()
        }
        AlertDescription::CertificateExpired => {
            "the certificate of this process has expired, or is not valid yet, by the clock there"
                .to_owned()
        }
        AlertDescription::BadCertificate
        | AlertDescription::UnsupportedCertificate
        | AlertDescription::CertificateRevoked
        | AlertDescription::CertificateUnknown
        | AlertDescription::AccessDenied => {
            format!("it has rejected the certificate of this process ({alert:?}); its log has the reason")
        }
        AlertDescription::ProtocolVersion => "it does not accept TLS 1.3".to_owned(),
        AlertDescription::NoApplicationProtocol => {
            "it is a port of another protocol; check whether it is the API's or Raft's".to_owned()
        }
        other => format!("it has ended the handshake ({other:?})"),
    }
}

fn certificate(error: &CertificateError) -> String {
    match error {
        CertificateError::ExpiredContext { not_after, .. } => {
            format!(
                "it expired on {}; renew it with argosy ca renew",
                day(*not_after)
            )
        }
        CertificateError::NotValidYetContext { not_before, .. } => {
            let day = day(*not_before);
            format!(
                "it is not valid before {day}; compare the clocks of this host and of its issuer"
            )
        }
        CertificateError::BadSignature => {
            "the trusted CA of its issuer's name has not signed it".to_owned()
        }
        CertificateError::UnknownIssuer => "no trusted CA has signed it".to_owned(),
        CertificateError::Other(why) => why.to_string(),
        other => other.to_string(),
    }
}

fn day(time: UnixTime) -> String {
    time_text(i64::try_from(time.as_secs()).unwrap_or(i64::MAX))
}
