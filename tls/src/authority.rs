//! A certificate authority: signs certificates that state identities.
//!
//! Files, times and random numbers are arguments. The caller decides whether a request is to be
//! signed.

use std::time::{Duration, SystemTime};

use argosy_proto::transport::certificate_identity::{CertificateIdentity, ClusterName};
use argosy_state::actor::PrincipalKind;
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa,
    Issuer, KeyPair, KeyUsagePurpose, PKCS_ECDSA_P256_SHA256, PublicKeyData as _, SanType,
    SerialNumber,
};
use rustls::pki_types::pem::{self, PemObject as _};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use time::OffsetDateTime;
use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::FromDer as _;

use crate::request::CertificateRequest;

/// The time before its issue from which a certificate is valid: the clocks of other hosts may be
/// behind.
const CLOCK_DIFFERENCE: Duration = Duration::from_secs(300);
/// The longest common name of a certificate, in characters.
const COMMON_NAME: usize = 64;
/// A URI that names a cluster in the certificate of its CA.
const CLUSTER_URI: &str = "argosy://";

/// Random bytes, from which the serial number of a certificate is made.
pub type Serial = [u8; 16];

/// The time for which a certificate is valid.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Validity {
    from: OffsetDateTime,
    until: OffsetDateTime,
}

/// The reason for which a certificate is not issued.
#[derive(Debug, thiserror::Error)]
pub enum AuthorityError {
    /// A file is not in PEM.
    #[error("the {what} of the CA is not in PEM")]
    Pem {
        /// The certificate or the key.
        what: &'static str,
        /// The cause.
        source: pem::Error,
    },
    /// The certificate of the CA cannot be used.
    #[error("the certificate of the CA cannot be used: {0}")]
    Certificate(&'static str),
    /// The key of the CA cannot be used.
    #[error("the key of the CA cannot be used")]
    Key(#[source] rcgen::Error),
    /// The key belongs to another certificate.
    #[error("the key of the CA does not belong to its certificate")]
    Mismatch,
    /// The CA is for another cluster.
    #[error("this CA is for the cluster {own}, and signs nothing for {asked}")]
    Cluster {
        /// The cluster of the CA.
        own: ClusterName,
        /// The cluster of the request.
        asked: ClusterName,
    },
    /// The certificate of the CA expires before the new one.
    #[error(
        "the certificate of the CA expires on {0}, before the new one would; issue it for fewer days, or create a new CA"
    )]
    Expires(String),
    /// The certificate to renew is of another CA.
    #[error("this CA has not signed the certificate")]
    Foreign,
    /// The certificate cannot be created.
    #[error("cannot sign a certificate")]
    Sign(#[source] rcgen::Error),
}

/// The certificate and the key of a new certificate authority, both in PEM.
pub struct NewAuthority {
    /// The certificate.
    pub certificate: String,
    /// The private key.
    pub key: String,
}

/// A certificate authority.
pub struct Authority {
    issuer: Issuer<'static, KeyPair>,
    own: CertificateDer<'static>,
    /// The certificates from this CA to its root, without the root.
    intermediates: Vec<CertificateDer<'static>>,
    /// The only cluster for which it signs, if its certificate names one.
    cluster: Option<ClusterName>,
    until: OffsetDateTime,
}

impl Validity {
    /// Returns the time from now to the end of this number of days.
    #[must_use]
    pub fn of_days(now: SystemTime, days: u16) -> Self {
        let now = OffsetDateTime::from(now);
        let length = Duration::from_secs(u64::from(days) * 86_400);
        Self {
            from: now - CLOCK_DIFFERENCE,
            until: now + length,
        }
    }
}

/// Creates a certificate authority for a cluster. It signs certificates of members, and no
/// intermediate CAs.
///
/// # Errors
/// [`AuthorityError::Sign`].
pub fn new_authority(
    cluster: &ClusterName,
    validity: Validity,
    serial: Serial,
) -> Result<NewAuthority, AuthorityError> {
    let creating = || {
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
        let mut params = params(validity, serial);
        // Two CAs of a cluster need different names: a certificate names its issuer, and while a
        // CA is replaced, both are trusted.
        let [.., a, b, c, d] = serial;
        let number = u32::from_be_bytes([a, b, c, d]);
        let name = format!("Argosy CA {number:08x} of {cluster}");
        let name: String = name.chars().take(COMMON_NAME).collect();
        params.distinguished_name.push(DnType::CommonName, name);
        let uri = format!("{CLUSTER_URI}{cluster}");
        params.subject_alt_names = vec![SanType::URI(uri.try_into()?)];
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let certificate = params.self_signed(&key)?.pem();
        Ok(NewAuthority {
            certificate,
            key: key.serialize_pem(),
        })
    };
    creating().map_err(AuthorityError::Sign)
}

fn params(validity: Validity, serial: Serial) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.not_before = validity.from;
    params.not_after = validity.until;
    params.serial_number = Some(SerialNumber::from_slice(&serial));
    params.distinguished_name = DistinguishedName::new();
    params.use_authority_key_identifier_extension = true;
    params
}

impl Authority {
    /// Reads a CA from its certificate, followed by those of the CAs above it, and its key.
    ///
    /// # Errors
    /// [`AuthorityError`].
    pub fn from_pem(certificates: &[u8], key: &[u8]) -> Result<Self, AuthorityError> {
        let what = "certificate";
        let chain: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(certificates).collect();
        let chain = chain.map_err(|source| AuthorityError::Pem { what, source })?;
        let unusable = AuthorityError::Certificate;
        let own = chain.first().cloned();
        let own = own.ok_or_else(|| unusable("the file contains none"))?;
        let (_, parsed) =
            X509Certificate::from_der(&own).map_err(|_| unusable("it is malformed"))?;
        let usage = parsed
            .key_usage()
            .map_err(|_| unusable("it is malformed"))?;
        if !parsed.is_ca() || usage.is_some_and(|usage| !usage.value.key_cert_sign()) {
            return Err(unusable("it may not sign others"));
        }
        let key = PrivateKeyDer::from_pem_slice(key).map_err(|source| {
            let what = "key";
            AuthorityError::Pem { what, source }
        })?;
        let key = KeyPair::try_from(&key).map_err(AuthorityError::Key)?;
        if key.subject_public_key_info() != parsed.public_key().raw {
            return Err(AuthorityError::Mismatch);
        }
        let cluster = cluster(&parsed)?;
        let until = parsed.validity().not_after.to_datetime();
        let issuer = Issuer::from_ca_cert_der(&own, key).map_err(AuthorityError::Key)?;
        let intermediates = chain.into_iter().filter(|one| !is_self_signed(one));
        Ok(Self {
            issuer,
            intermediates: intermediates.collect(),
            own,
            cluster,
            until,
        })
    }

    /// Returns the cluster for which it signs, if its certificate names one.
    #[must_use]
    pub fn cluster(&self) -> Option<&ClusterName> {
        self.cluster.as_ref()
    }

    /// Returns the time from now to the end of this number of days, or to the end of the CA.
    #[must_use]
    pub fn validity(&self, now: SystemTime, days: u16) -> Validity {
        let Validity { from, until } = Validity::of_days(now, days);
        Validity {
            from,
            until: until.min(self.until),
        }
    }

    /// Signs a certificate with the names and the key of a request, and with the usages of the kind
    /// of its identity. Everything else in the request is ignored. Returns the certificate in PEM,
    /// followed by those of intermediate CAs.
    ///
    /// # Errors
    /// [`AuthorityError`].
    pub fn sign(
        &self,
        request: &CertificateRequest,
        validity: Validity,
        serial: Serial,
    ) -> Result<String, AuthorityError> {
        let identity = &request.names.identity;
        if let Some(own) = &self.cluster
            && *own != identity.cluster
        {
            return Err(AuthorityError::Cluster {
                own: own.clone(),
                asked: identity.cluster.clone(),
            });
        }
        if validity.until > self.until {
            return Err(AuthorityError::Expires(self.until.date().to_string()));
        }
        let signing = || {
            let mut params = params(validity, serial);
            let common_name = common_name(identity);
            params
                .distinguished_name
                .push(DnType::CommonName, common_name);
            params.subject_alt_names = request.names.alternative_names()?;
            params.is_ca = IsCa::ExplicitNoCa;
            params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
            params.extended_key_usages = usages(identity.principal.kind);
            params.signed_by(&request.key, &self.issuer)
        };
        let certificate = signing().map_err(AuthorityError::Sign)?;
        let chain = std::iter::once(certificate.der()).chain(&self.intermediates);
        Ok(chain.map(pem_of).collect())
    }

    /// Checks that this CA has signed a certificate.
    ///
    /// # Errors
    /// [`AuthorityError::Foreign`].
    pub fn check_own(&self, certificate: &CertificateDer<'_>) -> Result<(), AuthorityError> {
        let foreign = |_| AuthorityError::Foreign;
        let (_, own) = X509Certificate::from_der(&self.own).map_err(foreign)?;
        let (_, other) = X509Certificate::from_der(certificate).map_err(foreign)?;
        let verified = other.verify_signature(Some(own.public_key()));
        verified.map_err(|_| AuthorityError::Foreign)
    }
}

/// Returns the purposes of a certificate. Masters and agents are servers, and clients of masters.
fn usages(kind: PrincipalKind) -> Vec<ExtendedKeyUsagePurpose> {
    use ExtendedKeyUsagePurpose::{ClientAuth, ServerAuth};
    match kind {
        PrincipalKind::Master | PrincipalKind::Agent => vec![ServerAuth, ClientAuth],
        PrincipalKind::Framework | PrincipalKind::Operator => vec![ClientAuth],
    }
}

/// Returns a name for people; only the URI is an identity.
fn common_name(identity: &CertificateIdentity) -> String {
    let name = identity.principal.name.as_str();
    name.chars().take(COMMON_NAME).collect()
}

fn cluster(own: &X509Certificate<'_>) -> Result<Option<ClusterName>, AuthorityError> {
    let malformed = || AuthorityError::Certificate("its names are malformed");
    let names = own.subject_alternative_name().map_err(|_| malformed())?;
    let names = names.map(|found| &found.value.general_names);
    let mut clusters = names.into_iter().flatten().filter_map(|name| match name {
        GeneralName::URI(uri) => uri.strip_prefix(CLUSTER_URI),
        _ => None,
    });
    let cluster = clusters.next().map(ClusterName::new).transpose();
    match (cluster, clusters.next()) {
        (Ok(cluster), None) => Ok(cluster),
        (Err(_), _) | (_, Some(_)) => Err(malformed()),
    }
}

fn is_self_signed(certificate: &CertificateDer<'_>) -> bool {
    X509Certificate::from_der(certificate)
        .is_ok_and(|(_, parsed)| parsed.subject().as_raw() == parsed.issuer().as_raw())
}

/// Returns a certificate in PEM.
pub(crate) fn pem_of(certificate: &CertificateDer<'_>) -> String {
    let config = ::pem::EncodeConfig::new().set_line_ending(::pem::LineEnding::LF);
    ::pem::encode_config(
        &::pem::Pem::new("CERTIFICATE", certificate.to_vec()),
        config,
    )
}
