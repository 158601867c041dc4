//! The certificate authority of a master that issues certificates to hosts that join.

use std::path::Path;
use std::sync::Arc;
use std::time::SystemTime;

use argosy_master::{CertificateIssuer, RequestedCertificate, SignCertificate};
use argosy_proto::transport::certificate_identity::ClusterName;
use argosy_tls::authority::Authority;
use argosy_tls::credentials::{read_certificates, read_key};
use argosy_tls::request::CertificateRequest;

use crate::exit::Failure;
use crate::random;

/// The days for which a certificate is valid, at most until the end of the CA.
const DAYS: u16 = 365;

/// The files of a CA.
pub(crate) struct AuthorityFiles<'a> {
    /// Its certificate, followed by those of the CAs above it.
    pub(crate) certificate: &'a Path,
    /// Its key.
    pub(crate) key: &'a Path,
}

/// Reads the CA of a master of `cluster`. `trusted` returns the CA certificates that the master
/// trusts, in DER.
pub(crate) fn issuer(
    files: &AuthorityFiles<'_>,
    cluster: ClusterName,
    trusted: impl Fn() -> Vec<Vec<u8>> + Send + Sync + 'static,
) -> Result<CertificateIssuer, Failure> {
    let failed = |error: &dyn std::error::Error| {
        let text = format!("--ca-key: {}", Failure::of(error).message);
        Failure::usage(text).advise(
            "name the key of the CA, and with --ca-cert its certificate; argosy ca init creates both",
        )
    };
    let certificates = read_certificates(files.certificate).map_err(|error| failed(&error))?;
    let key = read_key(files.key).map_err(|error| failed(&error))?;
    let authority = Authority::from_pem(&certificates, &key).map_err(|error| failed(&error))?;
    if let Some(other) = authority.cluster().filter(|other| **other != cluster) {
        return Err(Failure::usage(format!(
            "--ca-key: the CA is for the cluster {other}, and this master is of {cluster}"
        )));
    }
    Ok(of_authority(Arc::new(authority), cluster, trusted))
}

fn of_authority(
    authority: Arc<Authority>,
    cluster: ClusterName,
    trusted: impl Fn() -> Vec<Vec<u8>> + Send + Sync + 'static,
) -> CertificateIssuer {
    let name = cluster.to_string();
    CertificateIssuer::new(&name, trusted, move |text| read(&authority, &cluster, text))
}

/// Verifies a request, and checks that nothing prevents its signature.
fn read(
    authority: &Arc<Authority>,
    cluster: &ClusterName,
    text: &str,
) -> Result<(RequestedCertificate, SignCertificate), String> {
    let request = CertificateRequest::from_pem(text.as_bytes());
    let request = request.map_err(|error| Failure::of(&error).message)?;
    let identity = &request.names.identity;
    if identity.cluster != *cluster {
        return Err(format!(
            "it asks for {identity}, and this is the cluster {cluster}"
        ));
    }
    let wanted = RequestedCertificate {
        principal: identity.principal.clone(),
        key: request.key_hash(),
        hosts: request
            .names
            .hosts
            .iter()
            .map(ToString::to_string)
            .collect(),
    };
    let authority = authority.clone();
    let sign = move || {
        let serial = random::bytes().map_err(|error| format!("{error:#}"))?;
        let validity = authority.validity(SystemTime::now(), DAYS);
        let signed = authority.sign(&request, validity, serial);
        signed.map_err(|error| Failure::of(&error).message)
    };
    Ok((wanted, Box::new(sign)))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use argosy_proto::transport::certificate_identity::CertificateIdentity;
    use argosy_tls::Time;
    use argosy_tls::authority::{Validity, new_authority};
    use argosy_tls::description::describe;
    use argosy_tls::joining::{IssuedError, check_issued};
    use argosy_tls::request::{CertificateNames, first_certificate, key_hash, new_request};

    use super::*;

    fn names(identity: &str) -> CertificateNames {
        CertificateNames {
            identity: CertificateIdentity::among([identity]).unwrap(),
            hosts: vec!["10.0.0.7".parse().unwrap()],
        }
    }

    /// Returns an authority that is valid for so many days, and its certificate in DER.
    fn authority(days: u16) -> (Arc<Authority>, Vec<u8>) {
        let cluster = ClusterName::new("prod").unwrap();
        let validity = Validity::of_days(SystemTime::now() - Duration::from_secs(1), days);
        let new = new_authority(&cluster, validity, [7; 16]).unwrap();
        let certificate = first_certificate(new.certificate.as_bytes()).unwrap();
        let authority = Authority::from_pem(new.certificate.as_bytes(), new.key.as_bytes());
        (Arc::new(authority.unwrap()), certificate.to_vec())
    }

    fn prod() -> ClusterName {
        ClusterName::new("prod").unwrap()
    }

    #[test]
    fn a_request_is_signed_for_its_identity_and_key() {
        // The CA ends before a year has passed, and the certificate with it.
        let (authority, ca) = authority(30);
        let names = names("argosy://prod/agent/a7");
        let made = new_request(&names).unwrap();
        let (wanted, sign) = read(&authority, &prod(), &made.request).unwrap();
        assert_eq!(wanted.principal.to_string(), "agent/a7");
        assert_eq!(wanted.hosts, ["10.0.0.7"]);
        let issued = sign().unwrap();
        let certificate = first_certificate(issued.as_bytes()).unwrap();
        assert_eq!(key_hash(&certificate).unwrap(), wanted.key);
        let described = describe(issued.as_bytes()).unwrap();
        assert_eq!(described[0].identity, names.identity.to_string());
        let check = |key: &str, ca: &[u8], identity: &str| {
            let requested = CertificateIdentity::among([identity]).unwrap();
            check_issued((&issued, key), ca, &requested, Time::now())
        };
        let own = "argosy://prod/agent/a7";
        check(&made.key, &ca, own).unwrap();
        // The host accepts it for nothing else.
        let other = check(&made.key, &ca, "argosy://prod/agent/a8");
        assert!(
            matches!(other, Err(IssuedError::Identity { .. })),
            "{other:?}"
        );
        let foreign = self::authority(30).1;
        let other = check(&made.key, &foreign, own);
        assert!(matches!(other, Err(IssuedError::Unusable(_))), "{other:?}");
        let key = new_request(&names).unwrap().key;
        let other = check(&key, &ca, own);
        assert!(matches!(other, Err(IssuedError::Unusable(_))), "{other:?}");
    }

    #[test]
    fn other_requests_are_refused_before_a_token_is_used() {
        let (authority, _) = authority(30);
        let refused = |text: &str| read(&authority, &prod(), text).err().unwrap();
        let foreign = new_request(&names("argosy://test/agent/a7")).unwrap();
        let text = refused(&foreign.request);
        assert!(text.contains("argosy://test/agent/a7"), "{text}");
        assert!(refused("").contains("PEM"));
        assert!(refused(&foreign.key).contains("PEM"));
        // A digit of the signature is changed.
        let made = new_request(&names("argosy://prod/agent/a7")).unwrap();
        let end = made.request.find("\n-----END").unwrap();
        let mut changed = made.request.into_bytes();
        changed[end - 20] = if changed[end - 20] == b'A' {
            b'B'
        } else {
            b'A'
        };
        let text = refused(std::str::from_utf8(&changed).unwrap());
        assert!(text.contains("not signed by its own key"), "{text}");
    }
}
