//! Requests for certificates: the names and the public key, signed by the private key.
//!
//! The private key is created where it is used and stays there; only the request goes to the
//! certificate authority.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use argosy_proto::transport::certificate_identity::{CertificateIdentity, IdentityError};
use argosy_state::access::KeyHash;
use rcgen::{
    CertificateParams, DistinguishedName, KeyPair, PKCS_ECDSA_P256_SHA256, PublicKeyData as _,
    SanType, SubjectPublicKeyInfo,
};
use rustls::pki_types::pem::{self, PemObject as _};
use rustls::pki_types::{CertificateDer, CertificateSigningRequestDer, DnsName, PrivateKeyDer};
use sha2::{Digest as _, Sha256};
use x509_parser::certificate::X509Certificate;
use x509_parser::certification_request::X509CertificationRequest;
use x509_parser::extensions::{GeneralName, ParsedExtension};
use x509_parser::prelude::FromDer as _;

/// The maximum number of host names and addresses in a certificate.
const HOSTS: usize = 64;
/// The number of characters of a name that an error shows.
const SHOWN: usize = 64;

/// A name or address of a host, for clients that verify it, such as browsers.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Host {
    /// A name, without wildcards.
    Name(String),
    /// An address.
    Address(IpAddr),
}

/// The names in a certificate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CertificateNames {
    /// The identity in the cluster.
    pub identity: CertificateIdentity,
    /// The hosts, at most 64.
    pub hosts: Vec<Host>,
}

/// The reason for which a request is rejected.
#[derive(Debug, thiserror::Error)]
pub enum RequestError {
    /// A text is no name or address of a host.
    #[error("{0:?} is not a host; write a name such as m1.example, or an address, without a port")]
    Host(String),
    /// There are too many hosts.
    #[error("{0} hosts are too many; a certificate has at most 64")]
    Hosts(usize),
    /// The text is not in PEM, or has another content.
    #[error("the text contains no {what} in PEM")]
    Pem {
        /// What was expected.
        what: &'static str,
        /// The cause.
        source: pem::Error,
    },
    /// The content is malformed.
    #[error("the {0} is malformed")]
    Malformed(&'static str),
    /// The private key of the public key has not signed the request.
    #[error("the request is not signed by its own key")]
    Signature,
    /// It has a name of another kind, such as a mail address.
    #[error("it asks for a name that is neither a host nor an identity: {0}")]
    Name(String),
    /// It has no identity, or several.
    #[error(transparent)]
    Identity(#[from] IdentityError),
    /// The type of the key is not supported.
    #[error("its key cannot be used; create an ECDSA key on the curve P-256")]
    Key(#[source] rcgen::Error),
    /// A key or request cannot be created.
    #[error("cannot create a key and a request")]
    Create(#[source] rcgen::Error),
}

/// A request for a certificate, with a public key whose owner has signed it.
#[derive(Debug)]
pub struct CertificateRequest {
    /// The requested names.
    pub names: CertificateNames,
    pub(crate) key: SubjectPublicKeyInfo,
}

/// A new private key, and the request for its certificate, both in PEM.
pub struct NewRequest {
    /// The private key.
    pub key: String,
    /// The request.
    pub request: String,
}

impl CertificateNames {
    /// Returns the alternative names of a certificate.
    pub(crate) fn alternative_names(&self) -> Result<Vec<SanType>, rcgen::Error> {
        let identity = SanType::URI(self.identity.to_string().try_into()?);
        let mut names = vec![identity];
        for host in &self.hosts {
            names.push(match host {
                Host::Name(name) => SanType::DnsName(name.as_str().try_into()?),
                Host::Address(address) => SanType::IpAddress(*address),
            });
        }
        Ok(names)
    }

    fn of<'a>(names: impl IntoIterator<Item = &'a GeneralName<'a>>) -> Result<Self, RequestError> {
        let (mut uris, mut hosts) = (Vec::new(), Vec::new());
        for name in names {
            match name {
                GeneralName::URI(uri) => uris.push(*uri),
                GeneralName::DNSName(name) => hosts.push(name.parse()?),
                GeneralName::IPAddress(bytes) => hosts.push(Host::Address(address(bytes)?)),
                other => return Err(RequestError::Name(shown(other))),
            }
        }
        if hosts.len() > HOSTS {
            return Err(RequestError::Hosts(hosts.len()));
        }
        let identity = CertificateIdentity::among(uris.iter().copied())?;
        if uris.len() > 1 {
            return Err(RequestError::Name(shown(&uris)));
        }
        Ok(Self { identity, hosts })
    }
}

fn shown(name: &impl fmt::Debug) -> String {
    format!("{name:?}").chars().take(SHOWN).collect()
}

fn address(bytes: &[u8]) -> Result<IpAddr, RequestError> {
    let v4 = <[u8; 4]>::try_from(bytes).map(IpAddr::from);
    let either = v4.or_else(|_| <[u8; 16]>::try_from(bytes).map(IpAddr::from));
    either.map_err(|_| RequestError::Malformed("address of a host"))
}

impl CertificateRequest {
    /// Reads a request in PEM.
    ///
    /// # Errors
    /// [`RequestError`]; nothing in the request is used unless its own key has signed it.
    pub fn from_pem(text: &[u8]) -> Result<Self, RequestError> {
        let what = "certificate request";
        let der = CertificateSigningRequestDer::from_pem_slice(text);
        let der = der.map_err(|source| RequestError::Pem { what, source })?;
        let parsed = X509CertificationRequest::from_der(&der);
        let (rest, parsed) = parsed.map_err(|_| RequestError::Malformed(what))?;
        if !rest.is_empty() {
            return Err(RequestError::Malformed(what));
        }
        let verified = parsed.verify_signature();
        verified.map_err(|_| RequestError::Signature)?;
        let mut names = Vec::new();
        for extension in parsed.requested_extensions().into_iter().flatten() {
            if let ParsedExtension::SubjectAlternativeName(alternative) = extension {
                names.extend(&alternative.general_names);
            }
        }
        let key = parsed.certification_request_info.subject_pki.raw;
        Ok(Self {
            names: CertificateNames::of(names)?,
            key: SubjectPublicKeyInfo::from_der(key).map_err(RequestError::Key)?,
        })
    }

    /// Returns the hash of its public key.
    #[must_use]
    pub fn key_hash(&self) -> KeyHash {
        KeyHash(Sha256::digest(self.key.subject_public_key_info()).into())
    }

    /// Returns a request for a new certificate with the names and the key of this one.
    ///
    /// # Errors
    /// [`RequestError`].
    pub fn of_certificate(certificate: &CertificateDer<'_>) -> Result<Self, RequestError> {
        let what = "certificate";
        let parsed = X509Certificate::from_der(certificate);
        let (_, parsed) = parsed.map_err(|_| RequestError::Malformed(what))?;
        let alternative = parsed.subject_alternative_name();
        let alternative = alternative.map_err(|_| RequestError::Malformed(what))?;
        let names = alternative.map(|found| &found.value.general_names);
        Ok(Self {
            names: CertificateNames::of(names.into_iter().flatten())?,
            key: SubjectPublicKeyInfo::from_der(parsed.public_key().raw)
                .map_err(RequestError::Key)?,
        })
    }
}

/// Returns the first certificate in a text in PEM: that of the process, before those of CAs.
///
/// # Errors
/// [`RequestError::Pem`].
pub fn first_certificate(text: &[u8]) -> Result<CertificateDer<'static>, RequestError> {
    let what = "certificate";
    let found = CertificateDer::from_pem_slice(text);
    found.map_err(|source| RequestError::Pem { what, source })
}

/// Returns the hash of a certificate's public key.
///
/// # Errors
/// [`RequestError::Malformed`].
pub fn key_hash(certificate: &CertificateDer<'_>) -> Result<KeyHash, RequestError> {
    let parsed = X509Certificate::from_der(certificate);
    let (_, parsed) = parsed.map_err(|_| RequestError::Malformed("certificate"))?;
    Ok(KeyHash(Sha256::digest(parsed.public_key().raw).into()))
}

/// Creates a key, and the request for its certificate.
///
/// # Errors
/// [`RequestError::Create`], and [`RequestError::Hosts`].
pub fn new_request(names: &CertificateNames) -> Result<NewRequest, RequestError> {
    if names.hosts.len() > HOSTS {
        return Err(RequestError::Hosts(names.hosts.len()));
    }
    let creating = || {
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
        Ok(NewRequest {
            request: signed_request(names, &key)?,
            key: key.serialize_pem(),
        })
    };
    creating().map_err(RequestError::Create)
}

/// Creates a request for the certificate of a key that exists, in PEM. Returns the request in PEM.
///
/// # Errors
/// [`RequestError::Pem`], [`RequestError::Create`], and [`RequestError::Hosts`].
pub fn request_of_key(names: &CertificateNames, key: &[u8]) -> Result<String, RequestError> {
    if names.hosts.len() > HOSTS {
        return Err(RequestError::Hosts(names.hosts.len()));
    }
    let what = "private key";
    let key = PrivateKeyDer::from_pem_slice(key);
    let key = key.map_err(|source| RequestError::Pem { what, source })?;
    let key = KeyPair::try_from(&key).map_err(RequestError::Create)?;
    signed_request(names, &key).map_err(RequestError::Create)
}

fn signed_request(names: &CertificateNames, key: &KeyPair) -> Result<String, rcgen::Error> {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.subject_alt_names = names.alternative_names()?;
    params.serialize_request(key)?.pem()
}

impl FromStr for Host {
    type Err = RequestError;

    fn from_str(text: &str) -> Result<Self, RequestError> {
        if let Ok(address) = text.parse() {
            return Ok(Self::Address(address));
        }
        let is_name = DnsName::try_from(text).is_ok();
        // A name of digits and dots only would be read as an address by others.
        let is_address = text
            .rsplit('.')
            .next()
            .is_some_and(|last| last.bytes().all(|byte| byte.is_ascii_digit()));
        if is_name && !is_address {
            return Ok(Self::Name(text.to_owned()));
        }
        Err(RequestError::Host(text.chars().take(SHOWN).collect()))
    }
}

impl fmt::Display for Host {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Name(name) => out.write_str(name),
            Self::Address(address) => address.fmt(out),
        }
    }
}
