//! Lists of agents and tasks, read page by page.

use std::time::Duration;

use anyhow::Result;
use argosy_proto::v1;
use tokio::time::Instant;
use tonic::Code;

use crate::cluster::{MasterClient, channel};

/// The number of records in a page.
pub(crate) const PAGE: u32 = 1_000;
/// Pause after a read that was refused because the queue of readers is full.
const PAUSE: Duration = Duration::from_millis(100);
/// Maximum size of an answer.
const MESSAGE_BYTES: usize = 8 << 20;

/// A reader of one master's lists.
#[derive(Clone)]
pub(crate) struct PageReader {
    client: MasterClient,
}

impl PageReader {
    /// Returns a reader that connects with its first page.
    ///
    /// # Errors
    /// If the address is malformed.
    pub(crate) fn new(api: &str) -> Result<Self> {
        let client = MasterClient::new(channel(api)?.connect_lazy());
        Ok(Self {
            client: client.max_decoding_message_size(MESSAGE_BYTES),
        })
    }

    /// Reads all agents, and returns their number.
    ///
    /// # Errors
    /// If a page cannot be read.
    pub(crate) async fn agents(&mut self) -> Result<usize> {
        let (mut count, mut token) = (0, String::new());
        loop {
            let page = match self.client.list_agents(request(&token)).await {
                Err(status) if status.code() == Code::ResourceExhausted => {
                    tokio::time::sleep(PAUSE).await;
                    continue;
                }
                page => page?.into_inner(),
            };
            count += page.agents.len();
            if page.next_page_token.is_empty() {
                return Ok(count);
            }
            token = page.next_page_token;
        }
    }

    /// Reads all tasks, and returns their number. Adds the milliseconds of each full page to
    /// `page_ms`.
    ///
    /// # Errors
    /// If a page cannot be read.
    pub(crate) async fn tasks(&mut self, page_ms: &mut Vec<f64>) -> Result<usize> {
        let (mut count, mut token) = (0, String::new());
        loop {
            let started = Instant::now();
            let page = match self.client.list_tasks(request(&token)).await {
                Err(status) if status.code() == Code::ResourceExhausted => {
                    tokio::time::sleep(PAUSE).await;
                    continue;
                }
                page => page?.into_inner(),
            };
            count += page.tasks.len();
            if page.tasks.len() == PAGE as usize {
                page_ms.push(started.elapsed().as_secs_f64() * 1e3);
            }
            if page.next_page_token.is_empty() {
                return Ok(count);
            }
            token = page.next_page_token;
        }
    }
}

fn request(token: &str) -> v1::ListRequest {
    v1::ListRequest {
        page_size: PAGE,
        page_token: token.to_owned(),
        ..Default::default()
    }
}
