//! Direct requests to each master, because the state that one master reports of the others may be
//! stale.

use std::time::Duration;

use argosy_proto::v1;
use futures::future::join_all;

use crate::health::UnreachableMasters;

/// Timeout of one master.
const LIMIT: Duration = Duration::from_secs(1);

/// Requests all masters concurrently, and returns for those that do not answer the reason.
pub(crate) async fn masters(masters: &[v1::Master]) -> anyhow::Result<UnreachableMasters> {
    // No proxy: cluster addresses are never reached through the environment's proxy. No
    // certificates: nothing here is encrypted, and a host may have none to load.
    let http = reqwest::Client::builder()
        .no_proxy()
        .tls_certs_only([])
        .timeout(LIMIT)
        .build()?;
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

fn describe(error: &reqwest::Error) -> String {
    if error.is_timeout() {
        return format!("does not answer within {} s", LIMIT.as_secs());
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
        assert_eq!(found["hanging"], "does not answer within 1 s");
    }
}
