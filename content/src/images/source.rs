//! The source of an image: a registry or a layout. The documents of both are validated here.

use std::fs::File;
use std::io::Seek;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use argosy_state::ids::FrameworkId;
use futures::future::BoxFuture;
use serde::{Deserialize, Serialize};
use tokio::sync::watch;

use super::blob_writer::BlobWriter;
use super::credentials::AuthHeader;
use super::digest::Digest;
use super::error::PullErrorKind;
use super::image::ImageConfig;
use super::layout::{ImageLayout, LayoutFile};
use super::manifest::{
    self, BlobDescriptor, ImageManifest, LayerDescriptor, MANIFEST_BYTES, ManifestDocument,
    Platform, document,
};
use super::reference::RegistryReference;
use super::registry::{RegistryDocument, RegistrySession, RetryState, resumes_at};
use super::store::{StagedPath, blocking};

/// The maximum number of indexes between a name and a manifest.
const INDEXES: usize = 3;

/// The parts of an image, known before its layers are downloaded.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ResolvedImage {
    pub(super) digest: Digest,
    pub(super) config: ImageConfig,
    pub(super) layers: Vec<LayerDescriptor>,
}

/// A process that requests images from registries.
///
/// A trait, so that images do not depend on the content service, which contains the registries.
pub trait RegistryClient: Send + Sync {
    /// Returns the parts of an image, with these credentials, for a framework.
    ///
    /// # Errors
    /// The registry's error, or that of the process.
    fn plan<'a>(
        self: Arc<Self>,
        reference: &'a RegistryReference,
        login: Option<&'a AuthHeader>,
        framework: FrameworkId,
    ) -> BoxFuture<'a, Result<ResolvedImage, PullErrorKind>>;

    /// Downloads a blob of an image to the empty file of `place`, whose path is for messages.
    ///
    /// # Errors
    /// The registry's error, or that of the process.
    fn blob<'a>(
        self: Arc<Self>,
        image: (&'a RegistryReference, Option<&'a AuthHeader>, FrameworkId),
        blob: &'a BlobDescriptor,
        place: (&'a Path, &'a File),
        progress: &'a watch::Sender<u64>,
    ) -> BoxFuture<'a, Result<(), PullErrorKind>>;
}

pub(super) enum ImageSource {
    /// A registry, through another process.
    Service {
        service: Arc<dyn RegistryClient>,
        reference: RegistryReference,
        login: Option<AuthHeader>,
        framework: FrameworkId,
    },
    /// A source that this process reads itself.
    Direct(DirectSource),
}

/// A source that one process reads: the service reads registries, an agent reads layouts.
pub(super) enum DirectSource {
    Registry {
        session: Box<RegistrySession>,
        reference: RegistryReference,
    },
    Layout {
        layout: Arc<ImageLayout>,
        tag: Option<String>,
    },
}

impl ImageSource {
    /// Returns the host and port of its registry; empty for a layout.
    pub(super) fn registry(&self) -> &str {
        match self {
            Self::Service { reference, .. }
            | Self::Direct(DirectSource::Registry { reference, .. }) => &reference.registry,
            Self::Direct(DirectSource::Layout { .. }) => "",
        }
    }

    /// Returns the parts of the image, for this host and within this size limit in bytes.
    pub(super) async fn plan(
        &self,
        host: &Platform,
        limit_bytes: u64,
    ) -> Result<ResolvedImage, PullErrorKind> {
        match self {
            Self::Service {
                service,
                reference,
                login,
                framework,
            } => {
                let planning = Arc::clone(service).plan(reference, login.as_ref(), *framework);
                let plan = planning.await?;
                // The process that sent it has parsed untrusted data.
                manifest::check_limits(&plan.layers, limit_bytes)?;
                plan.config.validate("the description of the image")?;
                Ok(plan)
            }
            Self::Direct(reading) => reading.resolve(host, limit_bytes).await,
        }
    }

    /// Downloads a blob as announced; returns an unlinked file, positioned at its start.
    pub(super) async fn blob(
        &self,
        content: &BlobDescriptor,
        draft: StagedPath,
        progress: &watch::Sender<u64>,
    ) -> Result<File, PullErrorKind> {
        let path = draft.path().to_owned();
        let mut options = std::fs::OpenOptions::new();
        options.read(true).write(true).create_new(true).mode(0o600);
        let options = tokio::fs::OpenOptions::from(options);
        let file = options
            .open(&path)
            .await
            .map_err(PullErrorKind::write(&path))?;
        // Its name is removed with the draft, when this ends.
        match self {
            Self::Service {
                service,
                reference,
                login,
                framework,
            } => {
                let of = (reference, login.as_ref(), *framework);
                let mut file = file.into_std().await;
                let service = Arc::clone(service);
                service.blob(of, content, (&path, &file), progress).await?;
                file.rewind().map_err(PullErrorKind::write(&path))?;
                Ok(file)
            }
            Self::Direct(reading) => reading.blob(content, (path, file), progress).await,
        }
    }
}

impl DirectSource {
    /// Follows the name to a manifest for this host, and validates it.
    pub(super) async fn resolve(
        &self,
        host: &Platform,
        limit_bytes: u64,
    ) -> Result<ResolvedImage, PullErrorKind> {
        let (manifest, digest) = self.manifest(host).await?;
        let content = manifest::config_of(&manifest)?;
        let bytes = self.small(&content).await?;
        let document = manifest::configuration(&content.what, &bytes, host)?;
        let layers = manifest::layers(&manifest, &document, limit_bytes)?;
        Ok(ResolvedImage {
            digest,
            config: ImageConfig::read(&content.what, &document)?,
            layers,
        })
    }

    async fn manifest(&self, host: &Platform) -> Result<(ImageManifest, Digest), PullErrorKind> {
        let (mut document, mut digest) = self.root().await?;
        for _ in 0..=INDEXES {
            let entries = match document {
                ManifestDocument::Manifest(manifest) => return Ok((manifest, digest)),
                ManifestDocument::Index(entries) => entries,
            };
            let entry = manifest::choose(&entries, host)?;
            let content = manifest::content("the manifest", entry)?;
            // The next document may take long to arrive.
            drop(entries);
            document = self.document(&content).await?;
            digest = content.digest;
        }
        Err(PullErrorKind::Malformed {
            what: format!("the index {digest}"),
            rule: format!("it leads to an index, and more than {INDEXES} times"),
        })
    }

    /// Returns the document that the image's name refers to, and its digest.
    async fn root(&self) -> Result<(ManifestDocument, Digest), PullErrorKind> {
        match self {
            Self::Registry { session, reference } => {
                let name = match (&reference.digest, &reference.tag) {
                    (Some(digest), _) => digest.to_string(),
                    (None, Some(tag)) => tag.clone(),
                    (None, None) => "latest".to_owned(),
                };
                let (document, digest) = manifest(session, &name).await?;
                if let Some(wanted) = reference.digest {
                    check_digest(&format!("the manifest {name}"), wanted, digest)?;
                }
                Ok((document, digest))
            }
            Self::Layout { layout, tag } => {
                let (layout, tag) = (Arc::clone(layout), tag.clone());
                let entries = move || layout.entries(tag.as_deref());
                let (entries, digest) = blocking(entries).await?;
                Ok((ManifestDocument::Index(entries), digest))
            }
        }
    }

    /// Returns the manifest or index that an index names.
    async fn document(&self, content: &BlobDescriptor) -> Result<ManifestDocument, PullErrorKind> {
        if content.size > MANIFEST_BYTES {
            return Err(PullErrorKind::TooLarge {
                what: content.what.clone(),
                limit_bytes: MANIFEST_BYTES,
            });
        }
        match self {
            Self::Registry { session, .. } => {
                let (document, found) = manifest(session, &content.digest.to_string()).await?;
                check_digest(&content.what, content.digest, found)?;
                Ok(document)
            }
            Self::Layout { .. } => document(&content.what, &self.small(content).await?, None),
        }
    }

    /// Returns a small blob, verified.
    async fn small(&self, content: &BlobDescriptor) -> Result<RegistryDocument, PullErrorKind> {
        let bytes = match self {
            Self::Registry { session, .. } => {
                let mut retry = RetryState::new(session.timeouts());
                loop {
                    match session.small(content).await {
                        Ok(bytes) => break bytes,
                        Err(fault) => retry.wait_after(fault).await?,
                    }
                }
            }
            Self::Layout { layout, .. } => {
                let (layout, content) = (Arc::clone(layout), content.clone());
                blocking(move || layout.small_blob(&content)).await?.into()
            }
        };
        if bytes.len() as u64 != content.size {
            return Err(PullErrorKind::WrongSize {
                what: content.what.clone(),
                wanted_bytes: content.size,
                found_bytes: bytes.len() as u64,
            });
        }
        check_digest(&content.what, content.digest, Digest::of(&bytes))?;
        Ok(bytes)
    }

    /// Writes a verified blob to this empty file, whose path is for messages.
    pub(super) async fn blob(
        &self,
        content: &BlobDescriptor,
        place: (PathBuf, tokio::fs::File),
        progress: &watch::Sender<u64>,
    ) -> Result<File, PullErrorKind> {
        let mut intake = BlobWriter::new(content, place, progress).await?;
        match self {
            Self::Registry { session, .. } => {
                let mut retry = RetryState::new(session.timeouts());
                while let Err(fault) = download(session, content, &mut intake, &mut retry).await {
                    retry.wait_after(fault).await?;
                }
            }
            Self::Layout { layout, .. } => {
                let (layout, digest) = (Arc::clone(layout), content.digest);
                let mut part = blocking(move || layout.blob(digest)).await?;
                loop {
                    let read = move || -> Result<(LayoutFile, Vec<u8>), PullErrorKind> {
                        let bytes = part.chunk()?;
                        Ok((part, bytes))
                    };
                    let (rest, bytes) = blocking(read).await?;
                    if bytes.is_empty() {
                        break;
                    }
                    intake.write(&bytes).await?;
                    part = rest;
                }
            }
        }
        intake.finish().await
    }
}

async fn manifest(
    session: &RegistrySession,
    name: &str,
) -> Result<(ManifestDocument, Digest), PullErrorKind> {
    let mut retry = RetryState::new(session.timeouts());
    let answer = loop {
        match session.manifest(name).await {
            Ok(answer) => break answer,
            Err(fault) => retry.wait_after(fault).await?,
        }
    };
    let what = format!("the manifest {name}");
    let document = document(&what, &answer.bytes, answer.media_type.as_deref())?;
    Ok((document, Digest::of(&answer.bytes)))
}

/// Downloads the missing part of a blob; received bytes are kept for the next attempt.
async fn download(
    session: &RegistrySession,
    content: &BlobDescriptor,
    writer: &mut BlobWriter<'_>,
    retry: &mut RetryState,
) -> Result<(), PullErrorKind> {
    if writer.written() == content.size && content.size > 0 {
        return Ok(());
    }
    let mut answer = session.blob(content, writer.written()).await?;
    if resumes_at(&answer) != writer.written() {
        writer.restart().await?;
        // The response starts at an offset that is not usable.
        if resumes_at(&answer) != 0 {
            answer = session.blob(content, 0).await?;
        }
    }
    while let Some(bytes) = session.chunk(&mut answer).await? {
        retry.record_data();
        writer.write(&bytes).await?;
    }
    writer.is_complete()
}

fn check_digest(what: &str, wanted: Digest, found: Digest) -> Result<(), PullErrorKind> {
    if wanted == found {
        return Ok(());
    }
    Err(PullErrorKind::WrongDigest {
        what: what.to_owned(),
        wanted,
        found,
    })
}
