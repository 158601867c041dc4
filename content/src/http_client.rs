//! An HTTP client that is created on first use.
//!
//! It reads the trusted certificate authorities then, and keeps them. Most agents fetch nothing.

use std::fmt;
use std::sync::OnceLock;

use reqwest::{Client, ClientBuilder};

/// The settings of a client, and the client once it is created.
pub(crate) struct HttpClient {
    settings: Box<dyn Fn() -> ClientBuilder + Send + Sync>,
    /// The log message for a host without certificate authorities: what does not work there.
    consequence: &'static str,
    built: OnceLock<BuiltClient>,
}

struct BuiltClient {
    client: Client,
    has_authorities: bool,
}

impl HttpClient {
    pub(crate) fn new(
        lost: &'static str,
        settings: impl Fn() -> ClientBuilder + Send + Sync + 'static,
    ) -> Self {
        Self {
            settings: Box::new(settings),
            consequence: lost,
            built: OnceLock::new(),
        }
    }

    /// Returns the client, which is created on the first call.
    pub(crate) fn client(&self) -> &Client {
        &self.built().client
    }

    /// Whether the host has certificate authorities, without which no https server can be trusted.
    /// A client that has none on the first call still works for everything else.
    pub(crate) fn has_authorities(&self) -> bool {
        self.built().has_authorities
    }

    fn built(&self) -> &BuiltClient {
        self.built.get_or_init(|| match (self.settings)().build() {
            Ok(client) => BuiltClient {
                client,
                has_authorities: true,
            },
            Err(error) => {
                let (why, lost) = (crate::error_chain(&error), self.consequence);
                tracing::warn!(why, "{lost}: install ca-certificates");
                let plain = (self.settings)().tls_certs_only([]).build();
                BuiltClient {
                    client: plain.expect("a client that loads no certificates can be made"),
                    has_authorities: false,
                }
            }
        })
    }
}

impl fmt::Debug for HttpClient {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let is_made = self.built.get().is_some();
        let mut shown = formatter.debug_struct("HttpClient");
        shown.field("is_made", &is_made).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU32, Ordering};

    use super::*;

    #[test]
    fn the_client_is_created_once_at_first_use() {
        let builds = Arc::new(AtomicU32::new(0));
        let counted = builds.clone();
        let client = HttpClient::new("nothing", move || {
            counted.fetch_add(1, Ordering::SeqCst);
            Client::builder().tls_certs_only([])
        });
        assert_eq!(builds.load(Ordering::SeqCst), 0);
        assert!(client.has_authorities());
        client.client();
        assert_eq!(builds.load(Ordering::SeqCst), 1);
    }
}
