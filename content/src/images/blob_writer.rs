//! A blob that is being written to disk: hashed on the way, never longer than announced.

use std::fs::File;
use std::io::SeekFrom;
use std::path::PathBuf;

use tokio::io::{AsyncSeekExt, AsyncWriteExt};
use tokio::sync::watch;

use super::digest::Hasher;
use super::error::PullErrorKind;
use super::manifest::BlobDescriptor;

/// A blob being written.
pub(super) struct BlobWriter<'a> {
    content: &'a BlobDescriptor,
    /// For messages.
    path: PathBuf,
    file: tokio::fs::File,
    hash: Hasher,
    written: u64,
    /// Receives the number of bytes after every write.
    progress: &'a watch::Sender<u64>,
}

impl<'a> BlobWriter<'a> {
    /// Starts at the first byte, whatever an earlier attempt left in the file.
    pub(super) async fn new(
        content: &'a BlobDescriptor,
        (path, file): (PathBuf, tokio::fs::File),
        progress: &'a watch::Sender<u64>,
    ) -> Result<Self, PullErrorKind> {
        let mut intake = Self {
            content,
            path,
            file,
            hash: Hasher::default(),
            written: 0,
            progress,
        };
        intake.restart().await?;
        Ok(intake)
    }

    /// Returns the number of bytes written.
    pub(super) fn written(&self) -> u64 {
        self.written
    }

    pub(super) async fn write(&mut self, bytes: &[u8]) -> Result<(), PullErrorKind> {
        let written = self.written.saturating_add(bytes.len() as u64);
        if written > self.content.size {
            return Err(self.wrong_size(written));
        }
        let put = self.file.write_all(bytes).await;
        put.map_err(PullErrorKind::write(&self.path))?;
        self.hash.update(bytes);
        self.written = written;
        self.progress.send_replace(written);
        Ok(())
    }

    /// Discards the received bytes: another response starts at the first byte.
    pub(super) async fn restart(&mut self) -> Result<(), PullErrorKind> {
        let emptied = async {
            self.file.seek(SeekFrom::Start(0)).await?;
            self.file.set_len(0).await
        };
        emptied.await.map_err(PullErrorKind::write(&self.path))?;
        self.hash = Hasher::default();
        self.written = 0;
        self.progress.send_replace(0);
        Ok(())
    }

    /// Checks that all bytes have come.
    pub(super) fn is_complete(&self) -> Result<(), PullErrorKind> {
        if self.written == self.content.size {
            return Ok(());
        }
        Err(self.wrong_size(self.written))
    }

    /// Returns the verified blob, positioned at its start.
    pub(super) async fn finish(mut self) -> Result<File, PullErrorKind> {
        self.is_complete()?;
        let found = self.hash.finish();
        if found != self.content.digest {
            return Err(PullErrorKind::WrongDigest {
                what: self.content.what.clone(),
                wanted: self.content.digest,
                found,
            });
        }
        let rewound = async {
            self.file.flush().await?;
            self.file.rewind().await
        };
        rewound.await.map_err(PullErrorKind::write(&self.path))?;
        Ok(self.file.into_std().await)
    }

    fn wrong_size(&self, found_bytes: u64) -> PullErrorKind {
        PullErrorKind::WrongSize {
            what: self.content.what.clone(),
            wanted_bytes: self.content.size,
            found_bytes,
        }
    }
}
