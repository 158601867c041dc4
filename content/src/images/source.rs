//! Where an image comes from: a registry or a layout. What it says is judged here, once for both.

use std::fs::File;
use std::sync::Arc;

use tokio::sync::watch;

use super::digest::Digest;
use super::fault::Fault;
use super::intake::Intake;
use super::layout::{Layout, Part};
use super::manifest::{Content, Document, MANIFEST_BYTES, document};
use super::reference::RegistryReference;
use super::registry::{Retry, Session, resumes_at};
use super::store::{Draft, blocking};

/// Where an image comes from.
pub(super) enum Source {
    Registry {
        session: Box<Session>,
        reference: RegistryReference,
    },
    Layout {
        layout: Arc<Layout>,
        tag: Option<String>,
    },
}

impl Source {
    /// What the image's name stands for, and its digest.
    pub(super) async fn root(&self) -> Result<(Document, Digest), Fault> {
        match self {
            Self::Registry { session, reference } => {
                let name = match (&reference.digest, &reference.tag) {
                    (Some(digest), _) => digest.to_string(),
                    (None, Some(tag)) => tag.clone(),
                    (None, None) => "latest".to_owned(),
                };
                let (document, digest) = manifest(session, &name).await?;
                if let Some(wanted) = reference.digest {
                    expect(&format!("the manifest {name}"), wanted, digest)?;
                }
                Ok((document, digest))
            }
            Self::Layout { layout, tag } => {
                let (layout, tag) = (Arc::clone(layout), tag.clone());
                let entries = move || layout.entries(tag.as_deref());
                let (entries, digest) = blocking(entries).await?;
                Ok((Document::Index(entries), digest))
            }
        }
    }

    /// The manifest or index that an index names.
    pub(super) async fn document(&self, content: &Content) -> Result<Document, Fault> {
        if content.size > MANIFEST_BYTES {
            return Err(Fault::TooLarge {
                what: content.what.clone(),
                limit_bytes: MANIFEST_BYTES,
            });
        }
        match self {
            Self::Registry { session, .. } => {
                let (document, found) = manifest(session, &content.digest.to_string()).await?;
                expect(&content.what, content.digest, found)?;
                Ok(document)
            }
            Self::Layout { .. } => document(&content.what, &self.small(content).await?, None),
        }
    }

    /// A small blob, whole, as announced.
    pub(super) async fn small(&self, content: &Content) -> Result<Vec<u8>, Fault> {
        let bytes = match self {
            Self::Registry { session, .. } => {
                let mut retry = Retry::new(session.patience());
                loop {
                    match session.small(content).await {
                        Ok(bytes) => break bytes,
                        Err(fault) => retry.after(fault).await?,
                    }
                }
            }
            Self::Layout { layout, .. } => {
                let (layout, content) = (Arc::clone(layout), content.clone());
                blocking(move || layout.small_blob(&content)).await?
            }
        };
        if bytes.len() as u64 != content.size {
            return Err(Fault::WrongSize {
                what: content.what.clone(),
                wanted_bytes: content.size,
                found_bytes: bytes.len() as u64,
            });
        }
        expect(&content.what, content.digest, Digest::of(&bytes))?;
        Ok(bytes)
    }

    /// A blob as announced, as a file without a name.
    pub(super) async fn blob(
        &self,
        content: &Content,
        draft: Draft,
        progress: &watch::Sender<u64>,
    ) -> Result<File, Fault> {
        let mut intake = Intake::create(content, draft, progress).await?;
        match self {
            Self::Registry { session, .. } => {
                let mut retry = Retry::new(session.patience());
                while let Err(fault) = download(session, content, &mut intake, &mut retry).await {
                    retry.after(fault).await?;
                }
            }
            Self::Layout { layout, .. } => {
                let (layout, digest) = (Arc::clone(layout), content.digest);
                let mut part = blocking(move || layout.blob(digest)).await?;
                loop {
                    let read = move || -> Result<(Part, Vec<u8>), Fault> {
                        let bytes = part.chunk()?;
                        Ok((part, bytes))
                    };
                    let (rest, bytes) = blocking(read).await?;
                    if bytes.is_empty() {
                        break;
                    }
                    intake.put(&bytes).await?;
                    part = rest;
                }
            }
        }
        intake.finish().await
    }
}

async fn manifest(session: &Session, name: &str) -> Result<(Document, Digest), Fault> {
    let mut retry = Retry::new(session.patience());
    let answer = loop {
        match session.manifest(name).await {
            Ok(answer) => break answer,
            Err(fault) => retry.after(fault).await?,
        }
    };
    let what = format!("the manifest {name}");
    let document = document(&what, &answer.bytes, answer.media_type.as_deref())?;
    Ok((document, Digest::of(&answer.bytes)))
}

/// Brings what is missing of a blob; what came is kept for the next try.
async fn download(
    session: &Session,
    content: &Content,
    intake: &mut Intake<'_>,
    retry: &mut Retry,
) -> Result<(), Fault> {
    if intake.written() == content.size && content.size > 0 {
        return Ok(());
    }
    let mut answer = session.blob(content, intake.written()).await?;
    if resumes_at(&answer) != intake.written() {
        intake.restart().await?;
        // A part of the blob that we have no use for.
        if resumes_at(&answer) != 0 {
            answer = session.blob(content, 0).await?;
        }
    }
    while let Some(bytes) = session.chunk(&mut answer).await? {
        retry.heard();
        intake.put(&bytes).await?;
    }
    intake.is_complete()
}

fn expect(what: &str, wanted: Digest, found: Digest) -> Result<(), Fault> {
    if wanted == found {
        return Ok(());
    }
    Err(Fault::WrongDigest {
        what: what.to_owned(),
        wanted,
        found,
    })
}
