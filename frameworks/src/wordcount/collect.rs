//! Fetching of the reduces' outputs, and writing of the single result.
//!
//! Every word is in one output only, so no counts are added here.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, anyhow, ensure};

use crate::words::{WordCounts, add_lines, to_lines};

/// Time for which an unresponsive agent is retried.
const FETCH_TIMEOUT: Duration = Duration::from_secs(60);

/// Statistics of the written result.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, serde::Serialize)]
pub struct ResultStats {
    /// Number of distinct words.
    pub distinct: usize,
    /// Number of all words.
    pub words: u64,
}

/// Downloads `urls` and writes their lines, sorted, to `output`. The file appears only when it is
/// complete.
///
/// # Errors
/// With the URL or path that failed.
pub async fn collect(urls: &[String], output: &Path) -> anyhow::Result<ResultStats> {
    // Agents use plain HTTP, and a host may have no certificates to load.
    let client = reqwest::Client::builder()
        .tls_certs_only([])
        .connect_timeout(Duration::from_secs(2))
        .build()?;
    let mut counts = WordCounts::new();
    for url in urls {
        let bytes = download(&client, url).await?;
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

async fn download(client: &reqwest::Client, url: &str) -> anyhow::Result<Vec<u8>> {
    let started = tokio::time::Instant::now();
    loop {
        let error = match get(client, url).await {
            Ok(bytes) => return Ok(bytes),
            Err(error) => error,
        };
        // An agent that restarts becomes available again. An answer "not found" is final.
        let is_final = error
            .status()
            .is_some_and(|status| status.is_client_error());
        if is_final || started.elapsed() > FETCH_TIMEOUT {
            return Err(error).with_context(|| format!("cannot fetch {url}"));
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}

async fn get(client: &reqwest::Client, url: &str) -> Result<Vec<u8>, reqwest::Error> {
    let response = client.get(url).send().await?.error_for_status()?;
    Ok(response.bytes().await?.to_vec())
}
