//! Tests of the slots for pulls, which frameworks share: for look-ups of names, and for downloading
//! and unpacking layers.

use super::fixtures::tar;
use super::registry::InjectedFault;
use super::*;

/// Does not end layers with the file `slow` until it is dropped.
#[derive(Default)]
struct StuckUnpacker {
    plain: PlainUnpacker,
    stuck: AtomicU32,
}

impl Unpacker for StuckUnpacker {
    fn unpack<'a>(
        &'a self,
        layer: File,
        packing: LayerCompression,
        into: &'a Path,
    ) -> BoxFuture<'a, Result<UnpackedLayer, UnpackError>> {
        let unpacking = self.plain.unpack(layer, packing, into);
        async move {
            let unpacked = unpacking.await;
            if into.join("slow").exists() {
                self.stuck.fetch_add(1, Ordering::SeqCst);
                std::future::pending::<()>().await;
            }
            unpacked
        }
        .boxed()
    }
}

/// Starts a pull of an image of the registry for a framework.
fn pull(
    world: &ImagesFixture,
    image: &str,
    framework: u64,
) -> tokio::task::JoinHandle<Result<LeasedImage, PullError>> {
    let (name, container) = (world.name(image), container(framework));
    let framework = FrameworkId(framework);
    let images = &world.images;
    let pull = images.obtain(name, PullPolicy::IfAbsent, framework, container);
    tokio::spawn(pull.image)
}

#[tokio::test]
async fn layers_of_one_framework_do_not_delay_those_of_others() {
    let mut world = ImagesFixture::new().await;
    let unpacker = Arc::new(StuckUnpacker::default());
    let settings = listing(ImageSettings::default(), world.registry.address());
    let insecure = settings.insecure_registries.clone();
    let timeouts = RetryTimeouts::default();
    let registries = Registries::new(&fetch_settings(&[]), &insecure, timeouts).unwrap();
    let by = (
        Arc::clone(&unpacker) as _,
        Arc::new(LocalLayerDirs) as _,
        FairSlots::new(4),
    );
    let route = RegistryRoute::Local(registries);
    world.images = ImageManager::with(world.directory.path(), settings, by, route).unwrap();
    let slow = (0..6).map(|number: u8| tar("slow", &[number]));
    world
        .registry
        .offer("slow:1", &TestImage::of(slow.collect()));
    let (base, own) = (tar("base", b"shared"), tar("page", b"own"));
    let shared = TestImage::of(vec![base.clone()]);
    world.registry.offer("base:1", &shared);
    world
        .registry
        .offer("web:1", &TestImage::of(vec![base.clone(), own]));
    let hindered = pull(&world, "slow:1", 1);
    eventually(|| unpacker.stuck.load(Ordering::SeqCst) == 2).await;
    // The framework waits with a layer that another one needs, too.
    let waiting = pull(&world, "base:1", 1);
    let path = format!("/blobs/{}", Digest::of(&base));
    eventually(|| !world.registry.requests(&path).is_empty()).await;
    let other = pull(&world, "web:1", 2);
    for pull in [other, waiting] {
        let pulled = tokio::time::timeout(DEADLINE, pull).await;
        pulled.expect("it is unpacked in time").unwrap().unwrap();
    }
    assert_eq!(unpacker.stuck.load(Ordering::SeqCst), 2);
    assert_eq!(world.registry.requests(&path).len(), 1, "it is shared");
    hindered.abort();
}

#[tokio::test]
async fn downloads_of_one_framework_do_not_delay_those_of_others() {
    let world = ImagesFixture::new().await;
    let slow = (0..10).map(|number: u8| tar("slow", &[number]));
    let slow = TestImage::of(slow.collect());
    for layer in &slow.layers {
        let path = format!("/blobs/{}", Digest::of(layer));
        world.registry.plan(path, [InjectedFault::StallAfter(100)]);
    }
    world.registry.offer("slow:1", &slow);
    let (base, own) = (tar("base", b"shared"), tar("page", b"own"));
    let shared = TestImage::of(vec![base.clone()]);
    world.registry.offer("base:1", &shared);
    let web = TestImage::of(vec![base.clone(), own]);
    world.registry.offer("web:1", &web);
    let hindered = pull(&world, "slow:1", 1);
    eventually(|| world.registry.in_progress() == 4).await;
    // The framework waits with a layer that another one needs, too.
    let waiting = pull(&world, "base:1", 1);
    let config = format!("/blobs/{}", Digest::of(&shared.config));
    eventually(|| !world.registry.requests(&config).is_empty()).await;
    let other = pull(&world, "web:1", 2);
    for pull in [other, waiting] {
        let pulled = tokio::time::timeout(DEADLINE, pull).await;
        pulled.expect("it is downloaded in time").unwrap().unwrap();
    }
    // The framework uses half of the slots.
    eventually(|| world.registry.in_progress() == 4).await;
    let path = format!("/blobs/{}", Digest::of(&base));
    assert_eq!(world.registry.requests(&path).len(), 1, "it is shared");
    hindered.abort();
}

#[tokio::test]
async fn look_ups_of_one_framework_do_not_delay_pulls_of_others() {
    let mut world = ImagesFixture::new().await;
    let registry = world.registry.address().replace("127.0.0.1", "localhost");
    let settings = listing(ImageSettings::default(), &registry);
    let timeouts = RetryTimeouts::default();
    world.images = opened(world.directory.path(), settings, &world.unpacker, timeouts);
    world
        .registry
        .offer("web:1", &TestImage::new(&[("page", "text")]));
    let name: ImageReference = format!("{registry}/web:1").parse().unwrap();
    let pull = |framework: u64| {
        let (images, container) = (&world.images, container(framework));
        let framework = FrameworkId(framework);
        let pull = images.obtain(name.clone(), PullPolicy::Always, framework, container);
        tokio::spawn(tokio::time::timeout(DEADLINE, pull.image))
    };
    let taken = crate::fetcher::take_slots(FrameworkId(77)).await;
    let waiting = pull(77);
    pull(78).await.unwrap().expect("it has a slot").unwrap();
    assert!(!waiting.is_finished(), "it waits for a slot");
    drop(taken);
    waiting.await.unwrap().expect("slots are free").unwrap();
}
