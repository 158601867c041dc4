//! Calls of a host that joins: CA certificates, and a certificate by a token.

use std::future::Future;
use std::time::Duration;

use argosy_proto::trace;
use argosy_proto::v1;
use argosy_proto::v1::certificates_client::CertificatesClient as Stub;
use argosy_proto::versions::{self, VersionRange};
use tonic::transport::Channel;
use tonic::{Request, Response, Status};

use crate::connector::{Connector, RepeatPolicy};
use crate::failure::CallError;

/// Calls of `argosy.v1.Certificates`.
#[derive(Clone)]
pub struct CertificatesClient {
    connector: Connector,
    deadline: Duration,
}

impl CertificatesClient {
    /// Creates a client on the connections of `connector`; each call has this deadline.
    #[must_use]
    pub fn new(connector: Connector, deadline: Duration) -> Self {
        Self {
            connector,
            deadline,
        }
    }

    /// Returns the CA certificates of the masters.
    ///
    /// # Errors
    /// [`CallError`]; the call is repeated until the deadline.
    pub async fn list_authorities(&self) -> Result<v1::Authorities, CallError> {
        let request = v1::ListAuthoritiesRequest {};
        self.ask(request, |mut stub, request| async move {
            stub.list_authorities(request).await
        })
        .await
    }

    /// Requests a certificate. The request names its key, so that a repetition is harmless.
    ///
    /// # Errors
    /// [`CallError`]; the call is repeated until the deadline.
    pub async fn issue(
        &self,
        request: v1::IssueCertificateRequest,
    ) -> Result<v1::IssuedCertificate, CallError> {
        self.ask(request, |mut stub, request| async move {
            stub.issue(request).await
        })
        .await
    }

    async fn ask<Q, R, F, Fut>(&self, body: Q, ask: F) -> Result<R, CallError>
    where
        Q: Clone,
        F: Fn(Stub<Channel>, Request<Q>) -> Fut,
        Fut: Future<Output = Result<Response<R>, Status>>,
    {
        let call = |channel, limit| {
            let mut request = Request::new(body.clone());
            request.set_timeout(limit);
            let own = VersionRange::OWN.header();
            let own = own.try_into().expect("digits and a hyphen are a value");
            request.metadata_mut().insert(versions::HEADER, own);
            trace::add_to_call(request.metadata_mut());
            ask(Stub::new(channel), request)
        };
        let answer = self
            .connector
            .call(self.deadline, RepeatPolicy::Always, call);
        Ok(answer.await?.body)
    }
}
