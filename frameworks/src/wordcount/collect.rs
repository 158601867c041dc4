//! Fetching of the reduces' outputs, and writing of the single result.
//!
//! Every word is in one output only, so no counts are added here.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, anyhow, bail, ensure};
use argosy_client::ExpectedPeer;
use argosy_proto::http_client::HttpClient;
use argosy_proto::uri::RedactedUri;

use crate::words::{WordCounts, add_lines, to_lines};

/// Time for which an unresponsive agent is retried.
const FETCH_TIMEOUT: Duration = Duration::from_secs(60);
/// Maximum size of one output, in bytes.
const OUTPUT_BYTES: usize = 1 << 30;

/// Statistics of the written result.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, serde::Serialize)]
pub struct ResultStats {
    /// Number of distinct words.
    pub distinct: usize,
    /// Number of all words.
    pub words: u64,
}

/// Downloads `urls` of agents and writes their lines, sorted, to `output`. The file appears only
/// when it is complete.
///
/// # Errors
/// With the URL or path that failed.
pub async fn collect(
    urls: &[String],
    output: &Path,
    client: &HttpClient,
) -> anyhow::Result<ResultStats> {
    let mut counts = WordCounts::new();
    for url in urls {
        let bytes = download(client, url).await?;
        let url = RedactedUri::of(url);
        let before = counts.len();
        let mut part = WordCounts::new();
        add_lines(&mut part, &bytes)
            .map_err(|line| anyhow!("{url} holds {line:?}, which is not a count"))?;
        let new = part.len();
        counts.extend(part);
        ensure!(
            counts.len() == before + new,
            "{url} holds a word that another output has too"
        );
    }
    let written = ResultStats {
        distinct: counts.len(),
        words: counts.values().sum(),
    };
    let unfinished = output.with_extension("unfinished");
    let lines = to_lines(&counts);
    tokio::fs::write(&unfinished, lines)
        .await
        .with_context(|| format!("cannot write {}", unfinished.display()))?;
    tokio::fs::rename(&unfinished, output)
        .await
        .with_context(|| format!("cannot write {}", output.display()))?;
    Ok(written)
}

async fn download(client: &HttpClient, url: &str) -> anyhow::Result<Vec<u8>> {
    let started = tokio::time::Instant::now();
    let shown = RedactedUri::of(url);
    loop {
        let error = match get(client, url).await {
            Ok((200, bytes)) => return Ok(bytes),
            // An answer such as "not found" is final.
            Ok((status @ 400..500, bytes)) => {
                let text = String::from_utf8_lossy(&bytes);
                bail!("cannot fetch {shown}: {status}: {text}");
            }
            Ok((status, _)) => anyhow!("{status}"),
            Err(error) => error,
        };
        // An agent that restarts becomes available again.
        if started.elapsed() > FETCH_TIMEOUT {
            return Err(error).with_context(|| format!("cannot fetch {shown}"));
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}

async fn get(client: &HttpClient, url: &str) -> anyhow::Result<(u16, Vec<u8>)> {
    let address_and_path = url.split_once("://").map(|(_, rest)| rest);
    let (address, path) = address_and_path
        .and_then(|rest| rest.split_once('/'))
        .context("it is not a URL")?;
    let path = format!("/{path}");
    Ok(client
        .get(address, &ExpectedPeer::AGENT, &path, OUTPUT_BYTES)
        .await?)
}
