//! The facts of access: whole lists.

use argosy_proto::v1;

use super::ClusterClient;
use super::failures::read_failure;
use crate::exit::Failure;

impl ClusterClient {
    /// Returns the rules and groups in force.
    pub(crate) async fn policy(&self) -> Result<v1::Policy, Failure> {
        let request = v1::GetPolicyRequest::default();
        self.client.get_policy(request).await.map_err(read_failure)
    }

    /// Returns all tokens.
    pub(crate) async fn tokens(&self) -> Result<Vec<v1::Token>, Failure> {
        let mut tokens = Vec::new();
        let mut request = v1::ListRequest::default();
        loop {
            let page = self.client.list_tokens(request.clone()).await;
            let page = page.map_err(read_failure)?;
            tokens.extend(page.tokens);
            if page.next_page_token.is_empty() {
                return Ok(tokens);
            }
            request.page_token = page.next_page_token;
        }
    }

    /// Returns all limits of rate.
    pub(crate) async fn rate_limits(&self) -> Result<Vec<v1::SubjectLimit>, Failure> {
        let mut limits = Vec::new();
        let mut request = v1::ListRequest::default();
        loop {
            let page = self.client.list_rate_limits(request.clone()).await;
            let page = page.map_err(read_failure)?;
            limits.extend(page.limits);
            if page.next_page_token.is_empty() {
                return Ok(limits);
            }
            request.page_token = page.next_page_token;
        }
    }
}
