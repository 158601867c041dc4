//! A blob on its way to disk: hashed while it is written, never longer than announced.

use std::fs::File;
use std::io::SeekFrom;
use std::os::unix::fs::OpenOptionsExt;

use tokio::io::{AsyncSeekExt, AsyncWriteExt};
use tokio::sync::watch;

use super::digest::Hash;
use super::fault::Fault;
use super::manifest::Content;
use super::store::Draft;

/// A blob being written.
pub(super) struct Intake<'a> {
    content: &'a Content,
    /// Goes from the disk when the blob is done with, or never came.
    draft: Draft,
    file: tokio::fs::File,
    hash: Hash,
    written: u64,
    /// Is told of every byte.
    progress: &'a watch::Sender<u64>,
}

impl<'a> Intake<'a> {
    pub(super) async fn create(
        content: &'a Content,
        draft: Draft,
        progress: &'a watch::Sender<u64>,
    ) -> Result<Self, Fault> {
        let mut options = std::fs::OpenOptions::new();
        options.read(true).write(true).create_new(true).mode(0o600);
        let options = tokio::fs::OpenOptions::from(options);
        let file = options.open(draft.path()).await;
        let file = file.map_err(Fault::write(draft.path()))?;
        Ok(Self {
            content,
            draft,
            file,
            hash: Hash::default(),
            written: 0,
            progress,
        })
    }

    /// Bytes that are here.
    pub(super) fn written(&self) -> u64 {
        self.written
    }

    pub(super) async fn put(&mut self, bytes: &[u8]) -> Result<(), Fault> {
        let written = self.written.saturating_add(bytes.len() as u64);
        if written > self.content.size {
            return Err(self.wrong_size(written));
        }
        let put = self.file.write_all(bytes).await;
        put.map_err(Fault::write(self.draft.path()))?;
        self.hash.update(bytes);
        self.written = written;
        self.progress.send_replace(written);
        Ok(())
    }

    /// Forgets what came: another answer begins at the first byte.
    pub(super) async fn restart(&mut self) -> Result<(), Fault> {
        let emptied = async {
            self.file.seek(SeekFrom::Start(0)).await?;
            self.file.set_len(0).await
        };
        emptied.await.map_err(Fault::write(self.draft.path()))?;
        self.hash = Hash::default();
        self.written = 0;
        self.progress.send_replace(0);
        Ok(())
    }

    /// Nothing more comes: whether all of it came.
    pub(super) fn is_complete(&self) -> Result<(), Fault> {
        if self.written == self.content.size {
            return Ok(());
        }
        Err(self.wrong_size(self.written))
    }

    /// The blob, if it is what it should be: standing at its beginning, and without a name.
    pub(super) async fn finish(mut self) -> Result<File, Fault> {
        self.is_complete()?;
        let found = self.hash.finish();
        if found != self.content.digest {
            return Err(Fault::WrongDigest {
                what: self.content.what.clone(),
                wanted: self.content.digest,
                found,
            });
        }
        let rewound = async {
            self.file.flush().await?;
            self.file.rewind().await
        };
        rewound.await.map_err(Fault::write(self.draft.path()))?;
        Ok(self.file.into_std().await)
    }

    fn wrong_size(&self, found_bytes: u64) -> Fault {
        Fault::WrongSize {
            what: self.content.what.clone(),
            wanted_bytes: self.content.size,
            found_bytes,
        }
    }
}
