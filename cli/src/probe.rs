//! Direct requests to each master, because the state that one master reports of the others may be
//! stale.

use std::time::Duration;

use argosy_proto::v1;
use futures::future::join_all;

use crate::files::no_web_page;
use crate::health::UnreachableMasters;

/// Timeout of one master.
const LIMIT: Duration = Duration::from_secs(1);

/// Requests all masters concurrently, and returns for those that do not answer the reason.
pub(crate) async fn masters(masters: &[v1::Master]) -> anyhow::Result<UnreachableMasters> {
    let http = client(LIMIT)?;
    let asked = masters.iter().map(|master| {
        let request = http.get(format!("http://{}/healthz", master.api_address));
        async move {
            // Any answer counts; health is not checked here.
            let error = request.send().await.err()?;
            Some((master.node_id.clone(), describe(&error)))
        }
    });
    Ok(join_all(asked).await.into_iter().flatten().collect())
}

/// Returns the text at a URL of a master or agent, at most `limit` bytes of it.
///
/// # Errors
/// The reason, without the URL.
pub(crate) async fn text(
    http: &reqwest::Client,
    url: String,
    limit: usize,
) -> Result<String, String> {
    let response = http.get(url).send().await;
    let mut response = response.map_err(|error| describe(&error))?;
    if !response.status().is_success() {
        return Err(format!("answers with {}", response.status()));
    }
    let mut bytes = Vec::new();
    while let Some(chunk) = response.chunk().await.map_err(|error| describe(&error))? {
        if bytes.len() + chunk.len() > limit {
            return Err(format!("answers with more than {limit} bytes"));
        }
        bytes.extend_from_slice(&chunk);
    }
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// Returns a client for direct requests, each of which takes at most `limit`.
pub(crate) fn client(limit: Duration) -> anyhow::Result<reqwest::Client> {
    // No proxy: cluster addresses are never reached through the environment's proxy. No
    // certificates: nothing here is encrypted, and a host may have none to load.
    let client = reqwest::Client::builder()
        .no_proxy()
        .tls_certs_only([])
        .timeout(limit)
        .default_headers(no_web_page())
        .build()?;
    Ok(client)
}

fn describe(error: &reqwest::Error) -> String {
    if error.is_timeout() {
        return "does not answer in time".to_owned();
    }
    let chain = crate::exit::chain(error);
    if chain.contains("refused") {
        "refused".to_owned()
    } else if chain.contains("dns") || chain.contains("lookup") {
        "is an unknown host".to_owned()
    } else {
        "closed the connection".to_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_stopped_master_is_distinguished_from_a_hung_one() {
        let gone = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = gone.local_addr().unwrap().to_string();
        drop(gone);
        // Accepts into its backlog and never answers, as a stopped process does.
        let hanging = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let master = |node_id: &str, api_address: String| v1::Master {
            node_id: node_id.to_owned(),
            api_address,
            ..v1::Master::default()
        };
        let all = [
            master("gone", address),
            master("hanging", hanging.local_addr().unwrap().to_string()),
        ];
        let found = masters(&all).await.unwrap();
        assert_eq!(found["gone"], "refused");
        assert_eq!(found["hanging"], "does not answer in time");
    }
}
