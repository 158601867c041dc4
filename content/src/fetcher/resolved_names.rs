//! Addresses of names, for the connections of requests in progress.
//!
//! A name is looked up before its request. The HTTP client would count the time that a look-up
//! waits for its slot as time for connecting.

use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use reqwest::dns::{Addrs, Name, Resolve, Resolving};

/// The checked addresses of a name, or the error of its look-up as text.
pub(super) type LookupResult = Result<Vec<SocketAddr>, String>;

/// The results of look-ups, for the connections of one client.
#[derive(Default)]
pub(super) struct ResolvedNames {
    /// By name: the results that requests hold, newest last. A lock, because requests share the
    /// client.
    results: Mutex<HashMap<String, Vec<Weak<LookupResult>>>>,
}

impl ResolvedNames {
    /// Adds a result, which connections to this name use until it is dropped.
    pub(super) fn insert(&self, name: &str, result: LookupResult) -> Arc<LookupResult> {
        let result = Arc::new(result);
        let mut all = self.results.lock().unwrap_or_else(PoisonError::into_inner);
        all.retain(|_, results| {
            results.retain(|result| result.strong_count() > 0);
            !results.is_empty()
        });
        let results = all.entry(name.to_owned()).or_default();
        results.push(Arc::downgrade(&result));
        result
    }

    /// Returns the newest result for a name.
    fn newest(&self, name: &str) -> Option<Arc<LookupResult>> {
        let all = self.results.lock().unwrap_or_else(PoisonError::into_inner);
        all.get(name)?.iter().rev().find_map(Weak::upgrade)
    }
}

impl Resolve for ResolvedNames {
    fn resolve(&self, name: Name) -> Resolving {
        let result = self.newest(name.as_str());
        Box::pin(async move {
            // A connection can outlive its request, which then used another connection.
            let result = result.ok_or_else(|| io::Error::other("the request has ended"))?;
            let addresses = result.as_ref().clone().map_err(io::Error::other)?;
            Ok(Box::new(addresses.into_iter()) as Addrs)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_result_is_used_while_its_request_is_in_progress() {
        let names = ResolvedNames::default();
        let found = |last: u8| Ok(vec![SocketAddr::from(([192, 0, 2, last], 80))]);
        let first = names.insert("a.example", found(1));
        let second = names.insert("a.example", found(2));
        assert_eq!(names.newest("a.example"), Some(second.clone()));
        assert_eq!(names.newest("b.example"), None);
        drop(second);
        assert_eq!(names.newest("a.example"), Some(first.clone()));
        drop(first);
        assert_eq!(names.newest("a.example"), None);
        let other = names.insert("b.example", Err("no such name".to_owned()));
        assert_eq!(names.results.lock().unwrap().len(), 1);
        drop(other);
    }
}
