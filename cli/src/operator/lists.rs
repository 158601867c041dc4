//! Whole lists, page by page.
//!
//! A list ends with an empty token. A server whose tokens never become empty is detected: no page
//! is read twice, and the number of pages is bounded.

use std::collections::HashSet;

use argosy_client::CallError;
use argosy_proto::v1;
use argosy_state::ids::Role;

use super::{ClusterClient, EndedObjects, read_failure};
use crate::exit::Failure;

/// Number of records per page.
pub(super) const PAGE: u32 = 1_000;
/// Maximum number of pages of a list. A page scans up to 100,000 records, and is shorter only if
/// the records are large: no cluster needs as many.
const MAX_PAGES: usize = 10_000;

impl ClusterClient {
    /// Returns all agents, with gone ones if `ended` includes them.
    pub(crate) async fn agents(&self, ended: EndedObjects) -> Result<v1::AgentPage, Failure> {
        all_pages(request(ended, &[]), |request| {
            self.client.list_agents(request)
        })
        .await
    }

    pub(crate) async fn frameworks(
        &self,
        ended: EndedObjects,
    ) -> Result<v1::FrameworkPage, Failure> {
        all_pages(request(ended, &[]), |request| {
            self.client.list_frameworks(request)
        })
        .await
    }

    /// Returns the tasks with these values of fields.
    pub(crate) async fn tasks(
        &self,
        filter: &[(&str, &str)],
        ended: EndedObjects,
    ) -> Result<v1::TaskPage, Failure> {
        all_pages(request(ended, filter), |request| {
            self.client.list_tasks(request)
        })
        .await
    }

    /// Returns the secrets of a role and of the roles below it, or all, without values.
    pub(crate) async fn secrets(&self, role: Option<&Role>) -> Result<v1::SecretList, Failure> {
        let request = v1::ListSecretsRequest {
            role: role.map(ToString::to_string).unwrap_or_default(),
            ..v1::ListSecretsRequest::default()
        };
        self.client
            .list_secrets(request)
            .await
            .map_err(read_failure)
    }

    pub(crate) async fn offers(&self) -> Result<v1::OfferPage, Failure> {
        all_pages(request(EndedObjects::Excluded, &[]), |request| {
            self.client.list_offers(request)
        })
        .await
    }
}

/// A page of a list, to which the records of the next ones are added.
trait ListPage: Default {
    /// Adds the records of the next page, and returns the token of the page after it.
    fn add(&mut self, next: Self) -> String;
}

macro_rules! pages {
    ($($page:ident of $records:ident;)*) => {$(
        impl ListPage for v1::$page {
            fn add(&mut self, next: Self) -> String {
                self.revision = self.revision.or(next.revision);
                self.$records.extend(next.$records);
                next.next_page_token
            }
        }
    )*};
}

pages! {
    AgentPage of agents;
    FrameworkPage of frameworks;
    TaskPage of tasks;
    OfferPage of offers;
}

/// Returns the records of all pages, with the revision of the first one.
async fn all_pages<P, F>(
    mut request: v1::ListRequest,
    ask: impl Fn(v1::ListRequest) -> F,
) -> Result<P, Failure>
where
    P: ListPage,
    F: Future<Output = Result<P, CallError>>,
{
    let mut all = P::default();
    let mut tokens = PageTokens::default();
    loop {
        let page = ask(request.clone()).await.map_err(read_failure)?;
        match tokens.next(all.add(page))? {
            Some(token) => request.page_token = token,
            None => return Ok(all),
        }
    }
}

/// The tokens of the pages that were read.
#[derive(Debug, Default)]
struct PageTokens(HashSet<String>);

impl PageTokens {
    /// Returns the token of the next page; `None` after the last one.
    fn next(&mut self, token: String) -> Result<Option<String>, Failure> {
        if token.is_empty() {
            return Ok(None);
        }
        if !self.0.insert(token.clone()) {
            return Err(endless("it repeats the token of a page"));
        }
        if self.0.len() >= MAX_PAGES {
            return Err(endless(&format!("it has more than {MAX_PAGES} pages")));
        }
        Ok(Some(token))
    }
}

fn endless(why: &str) -> Failure {
    Failure::failed(format!(
        "the list that the server sends does not end: {why}"
    ))
    .advise("check that --masters names masters, and that no proxy changes or stores answers")
}

fn request(ended: EndedObjects, filter: &[(&str, &str)]) -> v1::ListRequest {
    v1::ListRequest {
        page_size: PAGE,
        filter: filter
            .iter()
            .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
            .collect(),
        include_ended: ended == EndedObjects::Included,
        ..v1::ListRequest::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_number_of_pages_is_bounded() {
        let mut tokens = PageTokens::default();
        for page in 1..MAX_PAGES {
            let token = format!("agent-{page}");
            assert_eq!(tokens.next(token.clone()), Ok(Some(token)));
        }
        let failure = tokens.next("one-more".to_owned()).unwrap_err();
        assert!(failure.message.contains("10000 pages"), "{failure}");
        assert_eq!(tokens.next(String::new()), Ok(None));
    }
}
