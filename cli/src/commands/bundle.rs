//! `argosy debug bundle`: collects in one archive what a report of a problem needs.
//!
//! Everything in it was selected by name: a field, flag or variable that this program does not know
//! as harmless is left out (`scrub`). What cannot be collected is named in the archive.

mod archive;
mod host;
mod lines;
mod pages;
mod scrub;

use std::path::PathBuf;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use argosy_proto::v1;
use futures::stream::{self, StreamExt as _};
use serde::Serialize;

use super::exec::by_signal;
use super::interruption;
use crate::args::Bundle;
use crate::exit::{DONE, Failure, VerbResult};
use crate::operator::{ClusterClient, EndedObjects};
use crate::output::{self, bytes, note};
use crate::probe::{Member, ProbeClient};
use crate::transport::{AGENT, MASTER};
use archive::Archive;
use pages::Page;
#[cfg(feature = "fuzzing")]
pub(crate) use scrub::text as scrubbed_text;

/// Maximum size of one page of metrics, or one log file, in bytes. Of a log, the end is kept.
const PART_BYTES: usize = 16 << 20;
/// Maximum number of agents whose metrics are collected.
const AGENTS: usize = 200;
/// Maximum number of records of each list.
const RECORDS: usize = 20_000;
/// Number of members that are called at a time.
const CONCURRENT: usize = 8;
/// Timeout of one page of metrics.
const PAGE_LIMIT: Duration = Duration::from_secs(5);

/// Collects the archive.
pub(crate) async fn collect(arguments: &Bundle) -> VerbResult {
    tokio::select! {
        // The signals are awaited before there is an archive, which is removed when it is dropped.
        biased;
        signal = interruption() => Ok(by_signal(signal?)),
        collected = collect_archive(arguments) => collected,
    }
}

async fn collect_archive(arguments: &Bundle) -> VerbResult {
    let client = ClusterClient::open(&arguments.reach)?;
    let path = arguments.file.clone().unwrap_or_else(default_path);
    let mut archive = Archive::create(&path)?;
    note("collecting the state of the cluster");
    let masters = collect_cluster(&client, &mut archive).await?;
    let agents = collect_records(&client, &mut archive).await?;
    note("collecting metrics");
    collect_metrics(masters, agents, &client, &mut archive).await?;
    note("collecting logs and flags of this host");
    for (name, content) in host::collect(&arguments.logs, PART_BYTES) {
        archive.add_result(&name, content)?;
    }
    archive.add("about.json", about().as_bytes())?;
    let size = archive.finish()?;
    note(&format!(
        "{} takes {}; its records have no commands, no tokens and no values of environment variables; its logs have no passwords and parameters of URIs and no values with names of secrets, but may contain other secrets: read it before you publish it",
        path.display(),
        bytes(size)
    ));
    output::print(&format!("{}\n", path.display()))?;
    Ok(DONE)
}

fn default_path() -> PathBuf {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    let seconds = now.unwrap_or_default().as_secs();
    PathBuf::from(format!("argosy-bundle-{seconds}.tar.gz"))
}

fn about() -> String {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    let about = serde_json::json!({
        "release": env!("CARGO_PKG_VERSION"),
        "collectedAtMs": u64::try_from(now.unwrap_or_default().as_millis()).unwrap_or(0),
    });
    format!("{about:#}\n")
}

/// A member to call, and the name of its directory in the archive.
struct MemberAddress {
    directory: String,
    address: String,
}

/// Adds the view of each master. Without any answer, there is still the rest of the archive.
async fn collect_cluster(
    client: &ClusterClient,
    archive: &mut Archive,
) -> Result<Vec<MemberAddress>, Failure> {
    let cluster = match client.cluster_at_best().await {
        Ok(cluster) => cluster,
        Err(failure) => {
            archive.add_error("cluster.json", &failure.message)?;
            return Ok(Vec::new());
        }
    };
    let mut members = Vec::new();
    for master in &cluster.masters {
        let directory = format!("masters/{}", file_name(&master.node_id));
        let name = format!("{directory}/cluster.json");
        let own = argosy_client::Masters::new([&master.api_address]);
        let own = own.map_err(|why| why.to_string());
        let seen = match own {
            Ok(own) => {
                let itself = client.at(own, client.timeout().min(PAGE_LIMIT));
                let seen = itself.cluster(v1::Consistency::Local).await;
                seen.map_err(|failure| failure.message)
            }
            Err(why) => Err(why),
        };
        archive.add_result(&name, seen.map(|seen| json(&scrub::cluster(seen))))?;
        members.push(MemberAddress {
            directory,
            address: master.api_address.clone(),
        });
    }
    archive.add("cluster.json", json(&scrub::cluster(cluster)).as_bytes())?;
    Ok(members)
}

/// Adds the lists of records. Returns the agents.
async fn collect_records(
    client: &ClusterClient,
    archive: &mut Archive,
) -> Result<Vec<MemberAddress>, Failure> {
    let agents = client.agents(EndedObjects::Included).await;
    let mut members = Vec::new();
    if let Ok(page) = &agents {
        let connected = page.agents.iter().filter(|agent| agent.live_tasks > 0);
        let idle = page.agents.iter().filter(|agent| agent.live_tasks == 0);
        let chosen = connected.chain(idle).take(AGENTS);
        members = chosen
            .map(|agent| MemberAddress {
                directory: format!("agents/{}", file_name(&agent.agent_id)),
                address: agent.info.clone().unwrap_or_default().address,
            })
            .collect();
    }
    let agents = agents.map(|page| records(page.agents, scrub::agent));
    let frameworks = client.frameworks(EndedObjects::Included).await;
    let frameworks = frameworks.map(|page| records(page.frameworks, scrub::framework));
    let tasks = client.tasks(&[], EndedObjects::Included).await;
    let tasks = tasks.map(|page| records(page.tasks, scrub::task));
    let offers = client.offers().await;
    let offers = offers.map(|page| records(page.offers, scrub::offer));
    for (name, content) in [
        ("agents.json", agents),
        ("frameworks.json", frameworks),
        ("tasks.json", tasks),
        ("offers.json", offers),
    ] {
        archive.add_result(name, content.map_err(|failure| failure.message))?;
    }
    Ok(members)
}

/// Returns the newest records, without what may be secret.
fn records<T, S: Serialize>(mut all: Vec<T>, scrub: impl Fn(T) -> S) -> String {
    let excess = all.len().saturating_sub(RECORDS);
    let kept = all.drain(excess..).map(scrub);
    let kept: Vec<_> = kept.collect();
    json(&serde_json::json!({ "records": kept, "leftOut": excess }))
}

async fn collect_metrics(
    masters: Vec<MemberAddress>,
    agents: Vec<MemberAddress>,
    client: &ClusterClient,
    archive: &mut Archive,
) -> Result<(), Failure> {
    let http = ProbeClient::new(client.transport(), PAGE_LIMIT);
    let pages = |pages: &'static [Page], expected, members: Vec<MemberAddress>| {
        members.into_iter().flat_map(move |member| {
            pages.iter().map(move |page| {
                let name = format!("{}/{}", member.directory, page.file);
                (name, member.address.clone(), expected, page)
            })
        })
    };
    let of_masters = pages(pages::OF_MASTERS, MASTER, masters);
    let of_agents = pages(pages::OF_AGENTS, AGENT, agents);
    let asked = of_masters.chain(of_agents);
    let asked = asked.map(|(name, address, expected, page)| {
        let http = http.clone();
        async move {
            let address = address.as_str();
            (name, page.read(&http, Member { address, expected }).await)
        }
    });
    let mut answers = stream::iter(asked).buffer_unordered(CONCURRENT);
    while let Some((name, text)) = answers.next().await {
        archive.add_result(&name, text)?;
    }
    Ok(())
}

fn json<T: Serialize>(value: &T) -> String {
    // Messages of the protocol always have a JSON form.
    output::json(value).unwrap_or_else(|failure| failure.message)
}

/// Returns a name of a file: ids of a cluster are plain, and anything else is replaced.
fn file_name(id: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_".contains(c);
    let name = id.chars().map(|c| if plain(c) { c } else { '_' });
    name.take(100).collect()
}
