//! The certificate authority of a master, which the program that starts the master supplies.
//!
//! The formats of requests and certificates are not known here.

use std::fmt;
use std::sync::Arc;

use argosy_state::access::KeyHash;
use argosy_state::actor::Principal;

/// A request for a certificate that its own key has signed, for an identity of this cluster.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RequestedCertificate {
    /// The identity.
    pub principal: Principal,
    /// The key of the certificate.
    pub key: KeyHash,
    /// The names and addresses of hosts.
    pub hosts: Vec<String>,
}

/// Signs the certificate of one request. Returns it in PEM, or the reason of a failure.
pub type SignCertificate = Box<dyn FnOnce() -> Result<String, String> + Send>;

type Authorities = dyn Fn() -> Vec<Vec<u8>> + Send + Sync;
type ReadRequest =
    dyn Fn(&str) -> Result<(RequestedCertificate, SignCertificate), String> + Send + Sync;

/// A certificate authority. Cheap to clone.
#[derive(Clone)]
pub struct CertificateIssuer {
    cluster: Arc<str>,
    authorities: Arc<Authorities>,
    read: Arc<ReadRequest>,
}

impl CertificateIssuer {
    /// Creates one for the members of `cluster`. `authorities` returns the CA certificates that
    /// this process trusts, in DER. `read` verifies a request in PEM; its error is a sentence.
    #[must_use]
    pub fn new(
        cluster: &str,
        authorities: impl Fn() -> Vec<Vec<u8>> + Send + Sync + 'static,
        read: impl Fn(&str) -> Result<(RequestedCertificate, SignCertificate), String>
        + Send
        + Sync
        + 'static,
    ) -> Self {
        Self {
            cluster: cluster.into(),
            authorities: Arc::new(authorities),
            read: Arc::new(read),
        }
    }

    /// Returns the name of the cluster.
    pub(crate) fn cluster(&self) -> &str {
        &self.cluster
    }

    /// Returns the trusted CA certificates, in DER.
    pub(crate) fn authorities(&self) -> Vec<Vec<u8>> {
        (self.authorities)()
    }

    /// Verifies a request.
    pub(crate) fn read(
        &self,
        request: &str,
    ) -> Result<(RequestedCertificate, SignCertificate), String> {
        (self.read)(request)
    }
}

/// Writes no key.
impl fmt::Debug for CertificateIssuer {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("CertificateIssuer")
            .field("cluster", &self.cluster)
            .finish_non_exhaustive()
    }
}
