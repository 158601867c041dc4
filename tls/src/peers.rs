//! The certificates of peers that are accepted: signed by a trusted CA, valid now, and with an
//! identity of this cluster.
//!
//! Host names are not compared here: the addresses of masters and agents may change, and their
//! identities do not. Only masters compare the hosts of other masters.

use std::net::IpAddr;
use std::sync::Arc;

use argosy_proto::transport::ExpectedPeer;
use argosy_proto::transport::certificate_identity::{
    CertificateIdentity, ClusterName, IdentityError,
};
use argosy_state::actor::PrincipalKind;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::verify_server_cert_signed_by_trust_anchor;
use rustls::crypto::{CryptoProvider, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{
    CertificateError, DigitallySignedStruct, DistinguishedName, Error, OtherError, RootCertStore,
    SignatureScheme,
};
use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::FromDer as _;

use crate::application::PortKind;

/// The reason for which a certificate is rejected that a trusted CA has signed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PeerRejection {
    /// It states no identity, or several.
    #[error(transparent)]
    Identity(#[from] IdentityError),
    /// It is of another cluster.
    #[error("{found} is not a member of the cluster {own}")]
    Cluster {
        /// The identity of the peer.
        found: CertificateIdentity,
        /// The cluster of this process.
        own: ClusterName,
    },
    /// It is of another kind than a port accepts.
    #[error("{0} is not a master, and only masters may use this port")]
    NotMaster(CertificateIdentity),
    /// It is of another principal than the caller expects.
    #[error("{found} is there, and not {expected}")]
    Unexpected {
        /// The identity of the peer.
        found: CertificateIdentity,
        /// The expected peer, such as `any master`.
        expected: String,
    },
}

impl From<PeerRejection> for Error {
    fn from(rejection: PeerRejection) -> Self {
        CertificateError::Other(OtherError(Arc::new(rejection))).into()
    }
}

/// Returns the identity that a certificate states.
///
/// # Errors
/// The certificate is malformed, or states no identity, or several.
pub fn identity_of(certificate: &CertificateDer<'_>) -> Result<CertificateIdentity, Error> {
    let parsed = webpki::EndEntityCert::try_from(certificate);
    let parsed = parsed.map_err(|_| Error::from(CertificateError::BadEncoding))?;
    let identity = CertificateIdentity::among(parsed.valid_uri_names());
    identity.map_err(|why| PeerRejection::from(why).into())
}

/// Returns the names and addresses of hosts in a certificate that was verified.
pub(crate) fn hosts_of(certificate: &CertificateDer<'_>) -> Vec<String> {
    let Ok((_, parsed)) = X509Certificate::from_der(certificate) else {
        return Vec::new();
    };
    let names = parsed.subject_alternative_name().ok().flatten();
    let names = names.map(|found| found.value.general_names.iter());
    let hosts = names.into_iter().flatten().filter_map(|name| match name {
        GeneralName::DNSName(name) => Some((*name).to_owned()),
        GeneralName::IPAddress(bytes) => {
            let v4 = <[u8; 4]>::try_from(*bytes).map(IpAddr::from).ok();
            let v6 = || <[u8; 16]>::try_from(*bytes).map(IpAddr::from).ok();
            v4.or_else(v6).map(|address| address.to_string())
        }
        _ => None,
    });
    hosts.collect()
}

/// Checks that an identity belongs to the cluster.
fn of_cluster(
    certificate: &CertificateDer<'_>,
    own: Option<&ClusterName>,
) -> Result<CertificateIdentity, Error> {
    let found = identity_of(certificate)?;
    match own {
        Some(own) if found.cluster != *own => Err(PeerRejection::Cluster {
            found,
            own: own.clone(),
        }
        .into()),
        Some(_) | None => Ok(found),
    }
}

/// The verification of clients at a port.
#[derive(Debug)]
pub(crate) struct ClientVerifier {
    /// The verification of signatures and times.
    pub(crate) signatures: Arc<dyn ClientCertVerifier>,
    pub(crate) cluster: ClusterName,
    pub(crate) port: PortKind,
}

impl ClientCertVerifier for ClientVerifier {
    fn client_auth_mandatory(&self) -> bool {
        match self.port {
            PortKind::Api => false,
            PortKind::ClosedApi | PortKind::Raft => true,
        }
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        self.signatures.root_hint_subjects()
    }

    fn verify_client_cert(
        &self,
        certificate: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        let verified = self
            .signatures
            .verify_client_cert(certificate, intermediates, now)?;
        let found = of_cluster(certificate, Some(&self.cluster))?;
        let is_admitted = match self.port {
            PortKind::Api | PortKind::ClosedApi => true,
            PortKind::Raft => found.principal.kind == PrincipalKind::Master,
        };
        if !is_admitted {
            return Err(PeerRejection::NotMaster(found).into());
        }
        Ok(verified)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.signatures
            .verify_tls12_signature(message, certificate, signed)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.signatures
            .verify_tls13_signature(message, certificate, signed)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.signatures.supported_verify_schemes()
    }
}

/// The verification of the server of one connection.
#[derive(Debug)]
pub(crate) struct ServerVerifier {
    pub(crate) roots: Arc<RootCertStore>,
    pub(crate) provider: Arc<CryptoProvider>,
    /// Unknown to a client without a certificate, which accepts each cluster of its CAs.
    pub(crate) cluster: Option<ClusterName>,
    pub(crate) expected: ExpectedPeer,
}

impl ServerCertVerifier for ServerVerifier {
    fn verify_server_cert(
        &self,
        certificate: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _name: &ServerName<'_>,
        _ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let algorithms = self.provider.signature_verification_algorithms.all;
        let parsed = ParsedCertificate::try_from(certificate)?;
        verify_server_cert_signed_by_trust_anchor(
            &parsed,
            &self.roots,
            intermediates,
            now,
            algorithms,
        )?;
        let found = of_cluster(certificate, self.cluster.as_ref())?;
        let is_named = |name| name == &found.principal.name;
        if found.principal.kind != self.expected.kind
            || !self.expected.name.as_ref().is_none_or(is_named)
        {
            return Err(PeerRejection::Unexpected {
                found,
                expected: self.expected.to_string(),
            }
            .into());
        }
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
