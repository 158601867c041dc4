//! Images: from a name to layers on disk and the image's configuration. Runs and mounts nothing.
//!
//! Reading order: `reference`, `manifest`, `image`, `command` (all pure), `registry`, `layout`,
//! `source`, `blob_writer`, `registries`, `pull`, `store`, and this.

mod blob_writer;
mod command;
mod credentials;
mod digest;
mod error;
#[cfg(feature = "fuzzing")]
#[doc(hidden)]
pub mod fuzzing;
mod image;
mod layer_directories;
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

use argosy_state::ids::FrameworkId;
use futures::FutureExt;
use futures::future::BoxFuture;
use tokio::sync::watch;

use crate::FairSlots;
use crate::singleflight::{Singleflight, Waiter};
pub use credentials::AuthHeader;
use layout::{ImageLayout, LayoutForm};
pub use manifest::BlobDescriptor;
use pull::{PinnedImage, Puller};
pub(crate) use registries::{RegistryPool, SessionKey};
#[cfg(test)]
use registry::{Registries, RetryTimeouts};
use source::{DirectSource, ImageSource};
pub use source::{RegistryClient, ResolvedImage};
pub use store::space;
use store::{ImageStore, blocking};

pub use command::{CommandError, CommandOverrides, ContainerCommand, combine};
pub use digest::{Digest, InvalidDigest};
pub use error::{PullError, PullErrorKind};
pub use image::{ImageConfig, LeasedImage};
pub use layer_directories::LayerDirs;
pub use reference::{ImageReference, InvalidReference, LayoutReference, RegistryReference};
pub use registry::{InsecureRegistry, InvalidRegistry};
pub use store::{DRAFT, LocalLayerDirs};
pub use unpacker::{LayerCompression, UnpackError, UnpackedLayer, Unpacker};

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
    pub directories: Vec<PathBuf>,
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
            directories: Vec::new(),
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
    fn accepts_cached(self, reference: &ImageReference) -> bool {
        let (tag, digest) = match reference {
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
pub struct PullProgress {
    /// Received packed bytes of missing layers; decreases if a download must restart.
    pub bytes_done: u64,
    /// Packed bytes of all missing layers.
    pub bytes_total: u64,
}

/// A pull in progress. Dropping it ends the pull, unless others wait for it as well.
pub struct PendingPull {
    /// Shared with all other waiters of the same pull.
    pub progress: watch::Receiver<PullProgress>,
    /// The image, leased to its container until [`ImageManager::release`].
    pub image: BoxFuture<'static, Result<LeasedImage, PullError>>,
}

/// The result of a pull, for all its waiters.
type PullResult = Result<Arc<PinnedImage>, PullError>;

/// The process that connects to registries.
enum RegistryRoute {
    /// A process with few privileges.
    Service(Arc<dyn RegistryClient>),
    /// This process, for the tests of the service's code.
    #[cfg(test)]
    Local(Registries),
}

/// The images of one agent.
pub struct ImageManager {
    store: Arc<ImageStore>,
    registries: RegistryRoute,
    settings: Arc<ImageSettings>,
    puller: Puller,
    /// By framework, because each one waits for its layers in its own turn.
    pulls: Arc<Singleflight<(FrameworkId, ImageReference), PullResult, PullProgress>>,
}

impl ImageManager {
    /// Opens the store in `directory` for an agent that holds its lock, and removes what a crash
    /// left. `layers` changes its directory of layers, and each layer is unpacked in one of the
    /// `slots`. Reads the disk and blocks.
    ///
    /// # Errors
    /// If the directories cannot be created or read.
    pub fn open(
        directory: &Path,
        settings: ImageSettings,
        (unpacker, layers, slots): (Arc<dyn Unpacker>, Arc<dyn LayerDirs>, Arc<FairSlots>),
        registries: Arc<dyn RegistryClient>,
    ) -> Result<Arc<Self>, PullErrorKind> {
        let route = RegistryRoute::Service(registries);
        Self::with(directory, settings, (unpacker, layers, slots), route)
    }

    fn with(
        directory: &Path,
        settings: ImageSettings,
        (unpacker, layers, slots): (Arc<dyn Unpacker>, Arc<dyn LayerDirs>, Arc<FairSlots>),
        registries: RegistryRoute,
    ) -> Result<Arc<Self>, PullErrorKind> {
        let store = ImageStore::open(directory, layers)?;
        let settings = Arc::new(settings);
        Ok(Arc::new(Self {
            puller: Puller::new(Arc::clone(&store), unpacker, slots, Arc::clone(&settings)),
            registries,
            pulls: Singleflight::new(),
            store,
            settings,
        }))
    }

    /// Returns the operator's policy.
    #[must_use]
    pub fn pull_policy(&self) -> PullPolicy {
        self.settings.pull
    }

    /// Pulls an image if necessary, and leases it to a container of this framework. Nothing happens
    /// before the future is polled.
    #[must_use]
    pub fn obtain(
        self: &Arc<Self>,
        reference: ImageReference,
        policy: PullPolicy,
        framework: FrameworkId,
        container: String,
    ) -> PendingPull {
        if policy.accepts_cached(&reference)
            && let Some((record, pin)) = self.store.find(&reference.to_string())
        {
            let pulled = Ok(Arc::new(PinnedImage { record, _pin: pin }));
            let image = self.leased(std::future::ready(pulled), reference, container);
            let (_, progress) = watch::channel(PullProgress::default());
            return PendingPull { progress, image };
        }
        let images = Arc::clone(self);
        let wanted = reference.clone();
        let key = (framework, reference.clone());
        let pulling = move |progress, _| images.pull(wanted, framework, progress);
        let Waiter { work, progress, .. } = self.pulls.join(key, (), pulling);
        PendingPull {
            progress,
            image: self.leased(work, reference, container),
        }
    }

    /// Ends a container's lease of its image; succeeds if there is none. Blocks.
    ///
    /// # Errors
    /// If the lease cannot be removed from the disk; then the container still holds it.
    pub fn release(&self, container: &str) -> Result<(), PullErrorKind> {
        self.store.release(container)
    }

    /// Runs one round of garbage collection: ends leases of containers that no longer exist, and
    /// removes unused images while the disk is too full. `living` is called after the leases were
    /// listed, so that it knows all their containers. Returns the numbers of removed images and
    /// layers; `None` if the live containers are unknown.
    ///
    /// # Errors
    /// If the store cannot be read or written.
    pub async fn collect_garbage(
        &self,
        live: impl Future<Output = Option<BTreeSet<String>>>,
    ) -> Result<Option<(usize, usize)>, PullErrorKind> {
        let listed = self.store.leases();
        let Some(living) = live.await else {
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
    fn leased(
        &self,
        pulled: impl Future<Output = PullResult> + Send + 'static,
        reference: ImageReference,
        container: String,
    ) -> BoxFuture<'static, Result<LeasedImage, PullError>> {
        let store = Arc::clone(&self.store);
        let hold = async move {
            let pulled = pulled.await?;
            let leasing = move || -> Result<LeasedImage, PullErrorKind> {
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
        framework: FrameworkId,
        progress: watch::Sender<PullProgress>,
    ) -> PullResult {
        let image = reference.to_string();
        let pulled = async {
            let source = self.source(reference, framework).await?;
            let puller = self.puller.clone();
            puller
                .pull(source, image.clone(), framework, progress)
                .await
        };
        match pulled.await {
            Ok(pulled) => Ok(Arc::new(pulled)),
            Err(source) => Err(PullError { image, source }),
        }
    }

    /// Returns the source of an image of this name, for a framework.
    async fn source(
        &self,
        reference: ImageReference,
        framework: FrameworkId,
    ) -> Result<ImageSource, PullErrorKind> {
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
                    RegistryRoute::Service(service) => ImageSource::Service {
                        service: Arc::clone(service),
                        reference,
                        login,
                        framework,
                    },
                    #[cfg(test)]
                    RegistryRoute::Local(registries) => {
                        ImageSource::Direct(DirectSource::Registry {
                            session: Box::new(registries.session(&reference, login, framework)),
                            reference,
                        })
                    }
                });
            }
            ImageReference::Layout(of) => (of, LayoutForm::Directory),
            ImageReference::Archive(of) => (of, LayoutForm::Archive),
        };
        let settings = Arc::clone(&self.settings);
        let open = move || -> Result<ImageSource, PullErrorKind> {
            let layout = ImageLayout::open(&of.path, form, &settings.directories)?;
            Ok(ImageSource::Direct(DirectSource::Layout {
                layout: Arc::new(layout),
                tag: of.tag,
            }))
        };
        blocking(open).await
    }
}
