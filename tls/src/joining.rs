//! The client of a host that joins a cluster: it has the fingerprint of the CA, but no certificate.
//!
//! The host reads the CA certificates over a connection without verification, keeps the certificate
//! with the fingerprint, and trusts only that one from then on. It sends no secret before.

use std::fmt;
use std::io;
use std::str::FromStr;
use std::sync::Arc;

use argosy_proto::transport::certificate_identity::CertificateIdentity;
use argosy_proto::transport::{Connection, Dialer, PeerIdentity};
use rustls::client::Resumption;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, aws_lc_rs, verify_tls13_signature};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::server::WebPkiClientVerifier;
use rustls::sign::CertifiedKey;
use rustls::version::TLS13;
use rustls::{ClientConfig, DigitallySignedStruct, Error, RootCertStore, SignatureScheme};
use sha2::{Digest as _, Sha256};
use tokio_rustls::TlsConnector;

use crate::application::Application;
use crate::authority::pem_of;
use crate::dialer::{HANDSHAKE_TIMEOUT, server_name};
use crate::explanation;
use crate::peers::identity_of;

/// The SHA-256 of a CA certificate in DER. Written as `sha256:` and 64 hexadecimal digits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fingerprint([u8; 32]);

/// A text is not a fingerprint.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("write sha256: and 64 hexadecimal digits, as argosy ca show prints them for ca.crt")]
pub struct InvalidFingerprint;

/// The reason for which an issued certificate is not used.
#[derive(Debug, thiserror::Error)]
pub enum IssuedError {
    /// The certificate or its key is not in PEM.
    #[error("the masters have sent no certificate in PEM")]
    Pem,
    /// The CA has not signed it, or it is for another key.
    #[error("the masters have sent a certificate that cannot be used: {0}")]
    Unusable(String),
    /// It is for another identity.
    #[error("the masters have sent a certificate of {found}, and not of {requested}")]
    Identity {
        /// The identity in the certificate.
        found: CertificateIdentity,
        /// The identity that was requested.
        requested: CertificateIdentity,
    },
}

impl Fingerprint {
    /// Returns that of a certificate in DER.
    #[must_use]
    pub fn of(certificate: &[u8]) -> Self {
        Self(Sha256::digest(certificate).into())
    }
}

impl fmt::Display for Fingerprint {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str("sha256:")?;
        self.0.iter().try_for_each(|byte| write!(out, "{byte:02x}"))
    }
}

/// Reads it with or without `sha256:`, also as `openssl x509 -fingerprint` prints it: with colons,
/// in capitals.
impl FromStr for Fingerprint {
    type Err = InvalidFingerprint;

    fn from_str(text: &str) -> Result<Self, InvalidFingerprint> {
        let text = text.strip_prefix("sha256:").unwrap_or(text);
        let digits: String = text.chars().filter(|one| *one != ':').collect();
        let is_hexadecimal = digits.bytes().all(|byte| byte.is_ascii_hexdigit());
        if digits.len() != 64 || !is_hexadecimal {
            return Err(InvalidFingerprint);
        }
        let mut bytes = [0; 32];
        for (at, byte) in bytes.iter_mut().enumerate() {
            let pair = &digits[2 * at..2 * at + 2];
            *byte = u8::from_str_radix(pair, 16).map_err(|_| InvalidFingerprint)?;
        }
        Ok(Self(bytes))
    }
}

/// Returns a certificate in DER as text in PEM.
#[must_use]
pub fn certificate_text(certificate: &[u8]) -> String {
    pem_of(&certificate.into())
}

/// Returns whether a text in PEM contains a certificate, which is in DER.
#[must_use]
pub fn contains(text: &[u8], certificate: &[u8]) -> bool {
    let mut found = CertificateDer::pem_slice_iter(text).filter_map(Result::ok);
    found.any(|one| *one == *certificate)
}

/// Returns a dialer of TLS connections that accepts every server. What is received over them is not
/// authenticated, and no secret may be sent over them.
#[must_use]
pub fn dial_unverified(inner: Dialer) -> Dialer {
    let provider = Arc::new(aws_lc_rs::default_provider());
    let verifier = AnyServer {
        provider: provider.clone(),
    };
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&TLS13])
        .expect("the provider has suites of TLS 1.3")
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(verifier))
        .with_no_client_auth();
    config.alpn_protocols = vec![Application::Http2.name().to_vec()];
    config.resumption = Resumption::disabled();
    config.enable_early_data = false;
    let config = Arc::new(config);
    Dialer::new(move |address, expected| {
        let (inner, connector) = (inner.clone(), TlsConnector::from(config.clone()));
        async move {
            let connection = inner.dial(&address, &expected).await?;
            let connecting = connector.connect(server_name(&address), connection);
            let connected = tokio::time::timeout(HANDSHAKE_TIMEOUT, connecting).await;
            let late = |_| io::Error::from(io::ErrorKind::TimedOut);
            let connected = connected.map_err(late)?;
            let stream = connected.map_err(|error| explanation::explained(error, &address))?;
            let peer = PeerIdentity::unauthenticated(None);
            Ok((Connection::new(stream), peer))
        }
    })
}

/// Checks a certificate that masters have issued: this CA has signed it, it is valid now, and it is
/// of this identity and this key.
///
/// # Errors
/// [`IssuedError`].
pub fn check_issued(
    (certificate, key): (&str, &str),
    ca: &[u8],
    requested: &CertificateIdentity,
    now: UnixTime,
) -> Result<(), IssuedError> {
    let unusable = |error: Error| IssuedError::Unusable(explanation::of_own(&error));
    let provider = Arc::new(aws_lc_rs::default_provider());
    let chain: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(certificate.as_bytes()).collect();
    let chain = chain.map_err(|_| IssuedError::Pem)?;
    let (own, intermediates) = chain.split_first().ok_or(IssuedError::Pem)?;
    let mut roots = RootCertStore::empty();
    roots.add(ca.to_vec().into()).map_err(unusable)?;
    let verifier = WebPkiClientVerifier::builder_with_provider(roots.into(), provider.clone());
    let verifier = verifier.build();
    let verifier = verifier.map_err(|error| IssuedError::Unusable(error.to_string()))?;
    let verified = verifier.verify_client_cert(own, intermediates, now);
    let found = verified.and_then(|_| identity_of(own)).map_err(unusable)?;
    if found != *requested {
        let requested = requested.clone();
        return Err(IssuedError::Identity { found, requested });
    }
    let key = PrivateKeyDer::from_pem_slice(key.as_bytes()).map_err(|_| IssuedError::Pem)?;
    let pair = CertifiedKey::from_der(chain.clone(), key, &provider);
    pair.map(drop).map_err(unusable)
}

/// Accepts every server that has the key of its certificate.
#[derive(Debug)]
struct AnyServer {
    provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for AnyServer {
    fn verify_server_cert(
        &self,
        _certificate: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _name: &ServerName<'_>,
        _ocsp: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _certificate: &CertificateDer<'_>,
        _signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(Error::General("TLS 1.2 is not used".to_owned()))
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls13_signature(message, certificate, signed, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider
            .signature_verification_algorithms
            .supported_schemes()
    }
}
