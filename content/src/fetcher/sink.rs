//! A file that is being written: hashed on the way, never larger than the operator's limit.

use std::io;
use std::path::Path;

use argosy_host::crash_point;
use argosy_proto::uri::RedactedUri;
use sha2::{Digest, Sha256};
use tokio::fs::File;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncSeekExt, AsyncWriteExt};
use tokio::sync::watch;

use super::FetchProgress;
use super::error::FetchError;

/// Bytes copied at a time.
const CHUNK_BYTES: usize = 256 * 1024;

#[derive(Debug, Clone, Copy)]
pub struct RequestedFile<'a> {
    pub uri: &'a str,
    /// In hexadecimal digits; empty if the task gives none.
    pub sha256: &'a str,
}

/// The destination of a file.
pub(super) struct FileSink<'a> {
    request: RequestedFile<'a>,
    /// For messages.
    path: &'a Path,
    file: &'a mut File,
    written: u64,
    limit_bytes: u64,
    hash: Sha256,
    meter: &'a watch::Sender<FetchProgress>,
}

impl<'a> FileSink<'a> {
    /// Starts at the first byte, whatever an earlier attempt left in the file.
    pub(super) async fn new(
        wanted: RequestedFile<'a>,
        (path, file): (&'a Path, &'a mut File),
        limit_bytes: u64,
        meter: &'a watch::Sender<FetchProgress>,
    ) -> Result<Self, FetchError> {
        let emptied = async {
            file.set_len(0).await?;
            file.rewind().await
        };
        emptied.await.map_err(|source| FetchError::Write {
            uri: RedactedUri::of(wanted.uri),
            path: path.to_owned(),
            source,
        })?;
        Ok(Self {
            request: wanted,
            path,
            file,
            written: 0,
            limit_bytes,
            hash: Sha256::new(),
            meter,
        })
    }

    /// Sets the expected size; 0 if unknown. No byte has come yet.
    pub(super) fn set_total(&self, bytes: u64) {
        self.meter.send_modify(|progress| {
            (progress.done_bytes, progress.total_bytes) = (0, bytes);
        });
    }

    pub(super) async fn write(&mut self, bytes: &[u8]) -> Result<(), FetchError> {
        self.written += bytes.len() as u64;
        if self.written > self.limit_bytes {
            return Err(FetchError::TooLarge {
                uri: RedactedUri::of(self.request.uri),
                limit_bytes: self.limit_bytes,
            });
        }
        let written = self.file.write_all(bytes).await;
        written.map_err(|source| self.failed(source))?;
        self.hash.update(bytes);
        let written = self.written;
        self.meter
            .send_modify(|progress| progress.done_bytes = written);
        crash_point!("fetch.chunk-written");
        Ok(())
    }

    pub(super) async fn copy_from(
        mut self,
        mut source: impl AsyncRead + Unpin,
    ) -> Result<(), FetchError> {
        let mut buffer = vec![0; CHUNK_BYTES];
        loop {
            let read = source.read(&mut buffer).await;
            let length = read.map_err(|source| FetchError::Open {
                uri: RedactedUri::of(self.request.uri),
                source,
            })?;
            if length == 0 {
                return self.finish().await;
            }
            self.write(&buffer[..length]).await?;
        }
    }

    /// Checks the complete file against the request.
    pub(super) async fn finish(self) -> Result<(), FetchError> {
        let flushed = self.file.flush().await;
        flushed.map_err(|source| self.failed(source))?;
        let sum = self.hash.finalize();
        let found: String = sum.iter().map(|byte| format!("{byte:02x}")).collect();
        if self.request.sha256.is_empty() || self.request.sha256 == found {
            return Ok(());
        }
        Err(FetchError::Digest {
            uri: RedactedUri::of(self.request.uri),
            wanted: self.request.sha256.to_owned(),
            found,
        })
    }

    fn failed(&self, source: io::Error) -> FetchError {
        FetchError::Write {
            uri: RedactedUri::of(self.request.uri),
            path: self.path.to_owned(),
            source,
        }
    }
}
