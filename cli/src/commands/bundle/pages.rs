//! The pages of masters and agents that a bundle has.
//!
//! An agent reports its own address, and any service may listen there. So nothing is kept that is
//! not recognized as a page of this program.

use std::collections::BTreeSet;

use argosy_proto::metric_list;
use serde::{Deserialize, Serialize};

use super::PART_BYTES;
use crate::probe::{self, Member, ProbeClient};

/// A page, and the name of its file in the archive.
pub(super) struct Page {
    path: &'static str,
    pub(super) file: &'static str,
    /// Returns the recognized part.
    keep: fn(&str) -> Result<String, String>,
}

const METRICS: Page = Page {
    path: "/metrics",
    file: "metrics.txt",
    keep: metrics,
};
pub(super) const OF_MASTERS: &[Page] = &[
    METRICS,
    Page {
        path: "/readyz",
        file: "ready.txt",
        keep: ready,
    },
];
pub(super) const OF_AGENTS: &[Page] = &[
    METRICS,
    Page {
        path: "/v1/agent",
        file: "agent.json",
        keep: registration,
    },
];
/// The error for a page of another program.
const UNKNOWN: &str = "answers with an unknown text";

/// The answer of an agent to `/v1/agent`.
#[derive(Deserialize, Serialize)]
struct Registration {
    agent_id: Option<String>,
    cluster_id: Option<String>,
    registered: bool,
    epoch: u64,
    floor: u64,
    tasks: u64,
}

impl Page {
    /// Requests the page of the member with this address.
    ///
    /// # Errors
    /// The reason why there is none.
    pub(super) async fn read(
        &self,
        http: &ProbeClient,
        member: Member<'_>,
    ) -> Result<String, String> {
        let address = member.address;
        if !probe::is_host_and_port(address) {
            return Err(format!("its address {address:?} is not host:port"));
        }
        let text = http.text(member, self.path, PART_BYTES).await?;
        (self.keep)(&text)
    }
}

/// Keeps the listed metrics, with their descriptions.
fn metrics(text: &str) -> Result<String, String> {
    let names: BTreeSet<&str> = metric_list::all()
        .iter()
        .map(|metric| metric.name)
        .collect();
    let is_own = |line: &&str| {
        let described = ["# HELP ", "# TYPE "];
        let described = described.iter().find_map(|mark| line.strip_prefix(*mark));
        let text = described.unwrap_or(line);
        let name = text.split(['{', ' ']).next().unwrap_or_default();
        let of_histogram = ["_bucket", "_sum", "_count"];
        let mut family = of_histogram.iter().filter_map(|end| name.strip_suffix(end));
        names.contains(name) || family.any(|family| names.contains(family))
    };
    let kept = text.lines().filter(is_own);
    let kept: String = kept.flat_map(|line| [line, "\n"]).collect();
    match kept.is_empty() {
        true => Err(UNKNOWN.to_owned()),
        false => Ok(kept),
    }
}

fn ready(text: &str) -> Result<String, String> {
    match text.trim() {
        "ready" => Ok("ready\n".to_owned()),
        _ => Err(UNKNOWN.to_owned()),
    }
}

fn registration(text: &str) -> Result<String, String> {
    let known = serde_json::from_str::<Registration>(text);
    let known = known.map_err(|_| UNKNOWN.to_owned())?;
    Ok(super::json(&known))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::transport::ClientTransport;

    #[test]
    fn only_pages_of_this_program_are_kept() {
        let page = "# HELP argosy_tasks Tasks.\n# TYPE argosy_tasks gauge\nargosy_tasks 3\n\
                    # hunter2\nprocess_open_fds 7\nAWS_KEY=hunter2\n argosy_x hunter2\n\
                    argosy_hunter2 1\nargosy_rpc_duration_seconds_count{code=\"Ok\"} 2\n";
        let kept = "# HELP argosy_tasks Tasks.\n# TYPE argosy_tasks gauge\nargosy_tasks 3\n\
                    process_open_fds 7\nargosy_rpc_duration_seconds_count{code=\"Ok\"} 2\n";
        assert_eq!(metrics(page).unwrap(), kept);
        assert_eq!(metrics("hunter2").unwrap_err(), UNKNOWN);
        assert_eq!(ready("ready\n").unwrap(), "ready\n");
        assert_eq!(ready("hunter2").unwrap_err(), UNKNOWN);
        let page = r#"{"agent_id":"agent-1","cluster_id":null,"registered":true,"epoch":3,
                       "floor":2,"tasks":1,"key":"hunter2"}"#;
        let kept = registration(page).unwrap();
        assert!(
            kept.contains("agent-1") && !kept.contains("hunter2"),
            "{kept}"
        );
        assert_eq!(registration(r#"{"key":"hunter2"}"#).unwrap_err(), UNKNOWN);
    }

    #[tokio::test]
    async fn an_address_with_a_path_is_not_called() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        listener.set_nonblocking(true).unwrap();
        let address = format!("{}/latest?x=", listener.local_addr().unwrap());
        let transport = ClientTransport::plaintext();
        let http = ProbeClient::new(&transport, Duration::from_secs(1));
        let read = METRICS.read(&http, Member::master(&address));
        let why = read.await.unwrap_err();
        assert!(why.contains("is not host:port"), "{why}");
        assert!(listener.accept().is_err(), "it was called");
    }
}
