//! Tests of pulls from the tests' registry, from layouts and from Debian's registry, and of the
//! store and its leases.

mod debian;
mod fairness;
mod fixtures;
mod layouts;
mod logins;
mod pulls;
mod reach;
mod registry;
mod stored;

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{Cursor, Read};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use super::*;
use crate::fetcher::FetchSettings;
use crate::testing::eventually;
use fixtures::TestImage;
use registry::TestRegistry;

/// The timeout for events that must happen.
const DEADLINE: Duration = Duration::from_secs(30);

/// The framework of most tests.
const FRAMEWORK: FrameworkId = FrameworkId(1);

/// Extracts a plain tar file, as the agent's user.
#[derive(Default)]
struct PlainUnpacker {
    count: AtomicU32,
}

impl Unpacker for PlainUnpacker {
    fn unpack<'a>(
        &'a self,
        mut layer: File,
        packing: LayerCompression,
        into: &'a Path,
    ) -> BoxFuture<'a, Result<UnpackedLayer, UnpackError>> {
        self.count.fetch_add(1, Ordering::SeqCst);
        let mut unpacked = move || {
            assert_eq!(packing, LayerCompression::Tar);
            let mut bytes = Vec::new();
            layer.read_to_end(&mut bytes)?;
            let mut archive = tar::Archive::new(Cursor::new(&bytes));
            archive.unpack(into)?;
            Ok(UnpackedLayer {
                diff_id: Digest::of(&bytes),
                bytes: bytes.len() as u64,
            })
        };
        let unpacked =
            unpacked().map_err(|error: std::io::Error| UnpackError(format!("no tar: {error}")));
        std::future::ready(unpacked).boxed()
    }
}

/// An agent's images, and a registry.
struct ImagesFixture {
    directory: tempfile::TempDir,
    registry: TestRegistry,
    unpacker: Arc<PlainUnpacker>,
    images: Arc<ImageManager>,
}

impl ImagesFixture {
    async fn new() -> Self {
        Self::with(ImageSettings::default()).await
    }

    async fn with(settings: ImageSettings) -> Self {
        Self::with_timeouts(settings, RetryTimeouts::default()).await
    }

    async fn with_timeouts(settings: ImageSettings, timeouts: RetryTimeouts) -> Self {
        let registry = TestRegistry::start().await;
        let directory = tempfile::tempdir().unwrap();
        let unpacker = Arc::new(PlainUnpacker::default());
        let settings = listing(settings, registry.address());
        let images = opened(directory.path(), settings, &unpacker, timeouts);
        Self {
            directory,
            registry,
            unpacker,
            images,
        }
    }

    /// Returns a fixture whose operator lists other registries as well.
    async fn listing(registries: &[&str]) -> Self {
        let settings = registries.iter().copied();
        Self::with(settings.fold(ImageSettings::default(), listing)).await
    }

    /// Simulates a crash of the agent: nothing in memory survives it.
    fn restart(&mut self, settings: ImageSettings) {
        let timeouts = RetryTimeouts::default();
        let settings = listing(settings, self.registry.address());
        self.images = opened(self.directory.path(), settings, &self.unpacker, timeouts);
    }

    fn directory(&self) -> &Path {
        self.directory.path()
    }

    /// Returns the name of an image of the registry, by its tag.
    fn name(&self, image: &str) -> ImageReference {
        format!("{}/{image}", self.registry.address())
            .parse()
            .unwrap()
    }

    async fn obtain(&self, name: &ImageReference, order: u64) -> Result<LeasedImage, String> {
        self.obtain_by(name, PullPolicy::IfAbsent, order).await
    }

    async fn obtain_by(
        &self,
        name: &ImageReference,
        policy: PullPolicy,
        order: u64,
    ) -> Result<LeasedImage, String> {
        let (images, container) = (&self.images, container(order));
        let obtaining = images.obtain(name.clone(), policy, FRAMEWORK, container);
        let obtained = tokio::time::timeout(DEADLINE, obtaining.image).await;
        obtained
            .expect("a pull ends in time")
            .map_err(|error| crate::error_chain(&error))
    }

    /// Returns the names in a directory of the store.
    fn list(&self, directory: &str) -> Vec<String> {
        let path = self.directory().join(directory);
        let entries = fs::read_dir(path).unwrap();
        let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
        let mut names: Vec<_> = names.collect();
        names.sort();
        names
    }

    /// Waits until no draft is left: drafts are removed shortly after their work.
    async fn until_no_draft(&self) {
        eventually(|| {
            let layers = self.list("layers");
            let drafts = layers.iter().any(|name| name.starts_with('.'));
            self.list("blobs").is_empty() && !drafts
        })
        .await;
    }
}

/// Adds a registry to the operator's list without TLS.
fn listing(mut settings: ImageSettings, registry: &str) -> ImageSettings {
    settings.insecure_registries.push(registry.parse().unwrap());
    settings
}

/// Returns the settings of an operator who allows these servers.
fn fetch_settings(allow: &[&str]) -> FetchSettings {
    FetchSettings {
        limit_bytes: 1,
        directories: Vec::new(),
        allow: allow.iter().map(|text| text.parse().unwrap()).collect(),
        masters: vec!["192.0.2.7:6000".to_owned()],
        api: "192.0.2.8:5051".to_owned(),
        api_port: None,
        task_subnets: None,
    }
}

/// Opens images whose registries this process contacts.
fn opened(
    directory: &Path,
    settings: ImageSettings,
    unpacker: &Arc<PlainUnpacker>,
    timeouts: RetryTimeouts,
) -> Arc<ImageManager> {
    let insecure = &settings.insecure_registries;
    let registries = Registries::new(&fetch_settings(&[]), insecure, timeouts).unwrap();
    let unpacker = Arc::clone(unpacker) as _;
    ImageManager::with(
        directory,
        settings,
        (unpacker, Arc::new(LocalLayerDirs), FairSlots::new(4)),
        RegistryRoute::Local(registries),
    )
    .unwrap()
}

fn container(order: u64) -> String {
    format!("1-{order}-1")
}

/// Returns the texts of a file in each layer of the image that has it, lowest first.
fn texts(image: &LeasedImage, file: &str) -> Vec<String> {
    let layers = image.layers.iter();
    let found = layers.filter_map(|layer| fs::read_to_string(layer.join(file)).ok());
    found.collect()
}

fn live(orders: &[u64]) -> Option<BTreeSet<String>> {
    Some(orders.iter().map(|order| container(*order)).collect())
}
