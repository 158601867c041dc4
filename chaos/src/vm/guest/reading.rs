//! Reading everything back: all agents from a quorum, then each master's local copy.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context, bail};
use argosy_proto::v1;
use tokio::time::Instant;

use super::super::report::Values;
use super::agent;
use super::cluster::{self, GuestCluster, POLL_INTERVAL};

/// One master's copy of the registry at an index.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct RegistryCopy {
    pub(super) master: u64,
    pub(super) applied: u64,
    pub(super) digest: String,
}

/// Returns the values of each agent that the load writes to, from linearizable reads.
pub(super) async fn values() -> anyhow::Result<BTreeMap<String, Values>> {
    let client = cluster::client()?;
    let mut found = BTreeMap::new();
    let mut token = String::new();
    loop {
        let request = v1::ListRequest {
            page_token: token,
            consistency: v1::Consistency::Linearizable.into(),
            include_ended: true,
            ..Default::default()
        };
        let page = client.list_agents(request).await?;
        for listed in page.agents {
            let info = listed.info.unwrap_or_default();
            if info.host_name == agent::HOST_NAME {
                continue;
            }
            let values = info.attributes.iter().map(|(key, text)| value(key, text));
            found.insert(listed.agent_id, values.collect::<anyhow::Result<_>>()?);
        }
        token = page.next_page_token;
        if token.is_empty() {
            return Ok(found);
        }
    }
}

fn value(key: &str, text: &str) -> anyhow::Result<(String, u64)> {
    let number = text.split(' ').next().and_then(|word| word.parse().ok());
    let number = number.with_context(|| format!("{key} reads {text:?}"))?;
    Ok((key.to_owned(), number))
}

/// Waits until these masters have applied the same entry, and returns their copies. Their digests
/// may still differ, which the host checks.
pub(super) async fn copies(
    cluster: &mut GuestCluster,
    masters: &[u64],
    timeout: Duration,
) -> anyhow::Result<Vec<RegistryCopy>> {
    let deadline = Instant::now() + timeout;
    loop {
        cluster.check_running(masters)?;
        let mut copies = Vec::new();
        let mut why = String::new();
        for &master in masters {
            match cluster::copy_of(master).await {
                Ok(copy) => copies.push(RegistryCopy {
                    master,
                    applied: copy.applied_index,
                    digest: hex(&copy.digest),
                }),
                Err(error) => why = format!("master-{master}: {error:#}"),
            }
        }
        let first = copies.first().map(|copy| copy.applied);
        if copies.len() == masters.len() && copies.iter().all(|copy| Some(copy.applied) == first) {
            return Ok(copies);
        }
        if Instant::now() > deadline {
            bail!("the masters have not applied the same entry in time: {copies:?} {why}");
        }
        tokio::time::sleep(POLL_INTERVAL).await;
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_is_the_number_before_its_padding() {
        assert_eq!(value("w0-1", "61 xxxx").unwrap(), ("w0-1".into(), 61));
        assert!(value("w0-1", "xxxx").is_err());
    }

    #[test]
    fn a_digest_is_shown_in_full() {
        assert_eq!(hex(&[0, 10, 255]), "000aff");
    }
}
