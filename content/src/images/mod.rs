//! Images: from a name to layers on disk and the image's configuration. Runs and mounts nothing.
//!
//! Reading order: `reference`, `manifest`, `image`, `command` (all pure), `registry`, `layout`,
//! `source`, `blob_writer`, `registries`, `pull`, `store`, and this.

mod blob_writer;
mod command;
mod credentials;
mod digest;
mod error;
mod image;
mod layer_folders;
mod layout;
mod manifest;
mod pull;
mod reference;
mod registries;
mod registry;
mod source;
mod store;
#[cfg(test)]
mod tests;
mod unpacker;

use std::collections::BTreeSet;
use std::future::Future;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use futures::FutureExt;
use futures::future::BoxFuture;
use tokio::sync::watch;

use crate::service::Service;
use crate::singleflight::{Flights, Seat};
pub(crate) use credentials::Secret;
use layout::{Form, Layout};
pub(crate) use manifest::Content;
use pull::{Pulled, Puller};
pub(crate) use registries::Registry;
#[cfg(test)]
use registry::{Patience, Registries};
pub(crate) use source::Plan;
use source::{Reading, Source};
pub use store::space;
use store::{Store, blocking};

pub use command::{Command, CommandError, Wish, combine};
pub use digest::{Digest, InvalidDigest};
pub use error::{Fault, PullError};
pub use image::{Image, ImageConfig};
pub use layer_folders::{LayerFolders, OwnFolders};
pub use reference::{ImageReference, InvalidReference, LayoutReference, RegistryReference};
pub use registry::{InsecureRegistry, InvalidRegistry};
pub use store::DRAFT;
pub use unpacker::{Packing, UnpackError, UnpackedLayer, Unpacker};

/// The default maximum size of all packed layers of one image, in bytes: 32 GiB.
pub const IMAGE_LIMIT_BYTES: u64 = 32 * 1024 * 1024 * 1024;
/// The default share of the disk that is kept free of unused images, in per cent.
pub const IMAGE_HEADROOM_PERCENT: u64 = 10;

/// An operator's settings for images.
#[derive(Debug, Clone)]
pub struct ImageSettings {
    /// A credentials file in the format of Docker's `config.json`; read at each pull.
    pub credentials: Option<PathBuf>,
    /// Registries that are contacted without TLS, wherever they are.
    pub insecure_registries: Vec<InsecureRegistry>,
    /// Host directories below which images may be used; empty means none.
    pub folders: Vec<PathBuf>,
    /// The maximum size of the packed layers of one image, in bytes.
    pub limit_bytes: u64,
    /// Unused images are removed when less of the disk is free, in per cent; with 0 only to make
    /// space for new ones.
    pub headroom_percent: u64,
    /// The images whose origin is queried although they are here.
    pub pull: PullPolicy,
}

impl Default for ImageSettings {
    fn default() -> Self {
        Self {
            credentials: None,
            insecure_registries: Vec::new(),
            folders: Vec::new(),
            limit_bytes: IMAGE_LIMIT_BYTES,
            headroom_percent: IMAGE_HEADROOM_PERCENT,
            pull: PullPolicy::default(),
        }
    }
}

/// The policy for querying the origin of an image. An image that is named by its digest is queried
/// only if it is not here.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum PullPolicy {
    /// Only if the image is not here: a tag keeps the meaning of its pull.
    #[default]
    IfAbsent,
    /// Each time if its tag is `latest`, else as [`Self::IfAbsent`].
    Latest,
    /// Each time; layers that are here already are not downloaded again.
    Always,
}

impl PullPolicy {
    fn is_content_with(self, kept: &ImageReference) -> bool {
        let (tag, digest) = match kept {
            ImageReference::Registry(of) => (of.tag.as_deref(), of.digest),
            ImageReference::Layout(of) | ImageReference::Archive(of) => (of.tag.as_deref(), None),
        };
        match self {
            Self::IfAbsent => true,
            Self::Latest => digest.is_some() || tag != Some("latest"),
            Self::Always => digest.is_some(),
        }
    }
}

/// The progress of a pull. Both fields are 0 before its layers are known.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Progress {
    /// Received packed bytes of missing layers; decreases if a download must restart.
    pub bytes_done: u64,
    /// Packed bytes of all missing layers.
    pub bytes_total: u64,
}

/// A pull in progress. Dropping it ends the pull, unless others wait for it as well.
pub struct Obtaining {
    /// Shared with all who wait for the same pull.
    pub progress: watch::Receiver<Progress>,
    /// The image, leased to its container until [`Images::release`].
    pub image: BoxFuture<'static, Result<Image, PullError>>,
}

/// The result of a pull, for all who wait for it.
type PullEnd = Result<Arc<Pulled>, PullError>;

/// The process that connects to registries.
enum Asking {
    /// A process with few privileges.
    Service(Arc<Service>),
    /// This process, for the tests of the service's code.
    #[cfg(test)]
    Here(Registries),
}

/// The images of one agent.
pub struct Images {
    store: Arc<Store>,
    registries: Asking,
    settings: Arc<ImageSettings>,
    puller: Puller,
    pulls: Arc<Flights<ImageReference, PullEnd, Progress>>,
}

impl Images {
    /// Opens the store in `directory` for an agent that holds its lock, and removes what a crash
    /// left. `layers` changes its directory of layers. Reads the disk and blocks.
    ///
    /// # Errors
    /// If the directories cannot be created or read.
    pub fn open(
        directory: &Path,
        settings: ImageSettings,
        (unpacker, layers): (Arc<dyn Unpacker>, Arc<dyn LayerFolders>),
        service: Arc<Service>,
    ) -> Result<Arc<Self>, Fault> {
        let asking = Asking::Service(service);
        Self::with(directory, settings, (unpacker, layers), asking)
    }

    fn with(
        directory: &Path,
        settings: ImageSettings,
        (unpacker, layers): (Arc<dyn Unpacker>, Arc<dyn LayerFolders>),
        registries: Asking,
    ) -> Result<Arc<Self>, Fault> {
        let store = Store::open(directory, layers)?;
        let settings = Arc::new(settings);
        Ok(Arc::new(Self {
            puller: Puller::new(Arc::clone(&store), unpacker, Arc::clone(&settings)),
            registries,
            pulls: Flights::new(),
            store,
            settings,
        }))
    }

    /// Returns the operator's policy.
    #[must_use]
    pub fn pull_policy(&self) -> PullPolicy {
        self.settings.pull
    }

    /// Pulls an image if necessary, and leases it to a container. Nothing happens before the future
    /// is polled.
    #[must_use]
    pub fn obtain(
        self: &Arc<Self>,
        reference: ImageReference,
        policy: PullPolicy,
        container: String,
    ) -> Obtaining {
        if policy.is_content_with(&reference)
            && let Some((record, pin)) = self.store.find(&reference.to_string())
        {
            let pulled = Ok(Arc::new(Pulled { record, _pin: pin }));
            let image = self.held(std::future::ready(pulled), reference, container);
            let (_, progress) = watch::channel(Progress::default());
            return Obtaining { progress, image };
        }
        let images = Arc::clone(self);
        let wanted = reference.clone();
        let Seat { work, progress, .. } = self.pulls.join(reference.clone(), move |progress| {
            images.pull(wanted, progress)
        });
        Obtaining {
            progress,
            image: self.held(work, reference, container),
        }
    }

    /// Ends a container's lease of its image; succeeds if there is none. Blocks.
    ///
    /// # Errors
    /// If the lease cannot be removed from the disk; then the container still holds it.
    pub fn release(&self, container: &str) -> Result<(), Fault> {
        self.store.release(container)
    }

    /// Runs one round of garbage collection: ends leases of containers that no longer exist, and
    /// removes unused images while the disk is too full. `living` is called after the leases were
    /// listed, so that it knows all their containers. Returns the numbers of removed images and
    /// layers; `None` if the live containers are unknown.
    ///
    /// # Errors
    /// If the store cannot be read or written.
    pub async fn tidy(
        &self,
        living: impl Future<Output = Option<BTreeSet<String>>>,
    ) -> Result<Option<(usize, usize)>, Fault> {
        let listed = self.store.leases();
        let Some(living) = living.await else {
            return Ok(None);
        };
        let (store, percent) = (Arc::clone(&self.store), self.settings.headroom_percent);
        let tidying = move || {
            let mut gone = listed.into_iter().filter(|name| !living.contains(name));
            gone.try_for_each(|container| store.release(&container))?;
            store.collect(percent, 0)
        };
        blocking(tidying).await.map(Some)
    }

    /// Returns the pulled image, leased to a container as soon as it is here.
    fn held(
        &self,
        pulled: impl Future<Output = PullEnd> + Send + 'static,
        reference: ImageReference,
        container: String,
    ) -> BoxFuture<'static, Result<Image, PullError>> {
        let store = Arc::clone(&self.store);
        let hold = async move {
            let pulled = pulled.await?;
            let leasing = move || -> Result<Image, Fault> {
                // Its layers stay pinned until the lease exists.
                store.lease(&container, &pulled.record)?;
                let image = store.image(&pulled.record);
                drop(pulled);
                Ok(image)
            };
            let leased = blocking(leasing).await;
            leased.map_err(|fault| PullError {
                image: reference.to_string(),
                source: Arc::new(fault),
            })
        };
        hold.boxed()
    }

    async fn pull(
        self: Arc<Self>,
        reference: ImageReference,
        progress: watch::Sender<Progress>,
    ) -> PullEnd {
        let image = reference.to_string();
        let pulled = async {
            let source = self.source(reference).await?;
            let puller = self.puller.clone();
            puller.pull(source, image.clone(), progress).await
        };
        match pulled.await {
            Ok(pulled) => Ok(Arc::new(pulled)),
            Err(source) => Err(PullError { image, source }),
        }
    }

    /// Returns the source of an image of this name.
    async fn source(&self, reference: ImageReference) -> Result<Source, Fault> {
        let (of, form) = match reference {
            ImageReference::Registry(reference) => {
                let file = self.settings.credentials.clone();
                let registry = reference.registry.clone();
                let find = move || match file {
                    Some(file) => credentials::find(&file, &registry),
                    None => Ok(None),
                };
                let login = blocking(find).await?;
                return Ok(match &self.registries {
                    Asking::Service(service) => Source::Service {
                        service: Arc::clone(service),
                        reference,
                        login,
                    },
                    #[cfg(test)]
                    Asking::Here(registries) => Source::Read(Reading::Registry {
                        session: Box::new(registries.session(&reference, login)),
                        reference,
                    }),
                });
            }
            ImageReference::Layout(of) => (of, Form::Folder),
            ImageReference::Archive(of) => (of, Form::Archive),
        };
        let settings = Arc::clone(&self.settings);
        let open = move || -> Result<Source, Fault> {
            let layout = Layout::open(&of.path, form, &settings.folders)?;
            Ok(Source::Read(Reading::Layout {
                layout: Arc::new(layout),
                tag: of.tag,
            }))
        };
        blocking(open).await
    }
}
