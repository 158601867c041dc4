//! Direct requests to each master, because the state that one master reports of the others may be
//! stale.

use std::net::Ipv6Addr;
use std::time::Duration;

use argosy_proto::v1;
use futures::future::join_all;

use crate::files::no_web_page;
use crate::health::UnreachableMasters;

/// Timeout of one master.
const LIMIT: Duration = Duration::from_secs(1);
/// Reasons of failed requests that are final.
const REFUSED: &str = "refused";
const UNKNOWN_HOST: &str = "is an unknown host";

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

/// Returns whether this reason of a failed request shows that no process listens, so that a
/// repetition is pointless.
pub(crate) fn is_final(why: &str) -> bool {
    [REFUSED, UNKNOWN_HOST].contains(&why)
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
    // certificates: nothing here is encrypted, and a host may have none to load. No redirects: a
    // member may not choose what this host requests.
    let client = reqwest::Client::builder()
        .no_proxy()
        .redirect(reqwest::redirect::Policy::none())
        .tls_certs_only([])
        .timeout(limit)
        .default_headers(no_web_page())
        .build()?;
    Ok(client)
}

/// Returns whether a reported address is a host and a port and nothing else.
pub(crate) fn is_host_and_port(address: &str) -> bool {
    let Some((host, port)) = address.rsplit_once(':') else {
        return false;
    };
    let is_port = port.bytes().all(|byte| byte.is_ascii_digit()) && port.parse::<u16>().is_ok();
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
    let inner = host
        .strip_prefix('[')
        .and_then(|host| host.strip_suffix(']'));
    let is_host = match inner {
        Some(inner) => inner.parse::<Ipv6Addr>().is_ok(),
        None => (1..=253).contains(&host.len()) && host.bytes().all(plain),
    };
    is_port && is_host
}

fn describe(error: &reqwest::Error) -> String {
    if error.is_timeout() {
        return "does not answer in time".to_owned();
    }
    let chain = crate::exit::chain(error);
    if chain.contains("refused") {
        REFUSED.to_owned()
    } else if chain.contains("dns") || chain.contains("lookup") {
        UNKNOWN_HOST.to_owned()
    } else {
        "closed the connection".to_owned()
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read as _, Write as _};

    use super::*;

    #[test]
    fn only_a_host_and_a_port_is_an_address() {
        for good in ["127.0.0.1:5051", "agent-7.example:5051", "[::1]:5051"] {
            assert!(is_host_and_port(good), "{good}");
        }
        for bad in [
            "",
            "host",
            "host:",
            ":5051",
            "host:70000",
            "host:+5051",
            "host/latest?x=:5051",
            "host:5051/latest?x=",
            "host/x",
            "user@host:5051",
            "host:5051#",
            "host\\x:5051",
            "ho st:5051",
            "[host]:5051",
            "::1:5051",
        ] {
            assert!(!is_host_and_port(bad), "{bad}");
        }
    }

    #[tokio::test]
    async fn redirects_are_not_followed() {
        let target = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        target.set_nonblocking(true).unwrap();
        let to = target.local_addr().unwrap();
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let server = std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut request = [0; 1_024];
            let length = stream.read(&mut request).unwrap();
            assert!(length > 0);
            let answer = format!(
                "HTTP/1.1 302 Found\r\nlocation: http://{to}/x\r\ncontent-length: 0\r\n\r\n"
            );
            stream.write_all(answer.as_bytes()).unwrap();
        });
        let http = client(Duration::from_secs(5)).unwrap();
        let answer = text(&http, format!("http://{address}/metrics"), 1_000).await;
        assert_eq!(answer.unwrap_err(), "answers with 302 Found");
        server.join().unwrap();
        assert!(target.accept().is_err(), "the target was called");
    }

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
