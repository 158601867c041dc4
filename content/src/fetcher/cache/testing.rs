//! The state of the cache, for tests.

use std::io;
use std::sync::Arc;

use argosy_proto::v1;

use super::{CacheLease, FetchCache, file_name};

impl FetchCache {
    /// Returns the size of the cache, and the pinned part.
    pub(in crate::fetcher) fn sizes(&self) -> io::Result<(u64, u64)> {
        let entries = self.entries()?;
        Ok((
            entries.total(|_| true),
            entries.total(|entry| entry.is_pinned),
        ))
    }

    /// Marks the file of a URI as in use.
    pub(in crate::fetcher) fn used_by_uri(self: &Arc<Self>, uri: &v1::Uri) -> CacheLease {
        self.lease(&file_name(uri))
    }

    /// Returns whether the file of a URI is in use.
    pub(in crate::fetcher) fn is_in_use(&self, uri: &v1::Uri) -> bool {
        self.usage().leases.contains_key(&file_name(uri))
    }
}
