//! Tests of the store: what survives an agent, what a crash leaves, and what protects from removal.

use std::io;
use std::sync::Mutex;

use super::registry::InjectedFault;
use super::*;

/// Returns settings that keep the whole disk free: everything unused is removed.
fn no_space() -> ImageSettings {
    ImageSettings {
        headroom_percent: 100,
        ..ImageSettings::default()
    }
}

async fn with_two_images(
    settings: ImageSettings,
) -> (ImagesFixture, ImageReference, ImageReference) {
    let world = ImagesFixture::with(settings).await;
    let one = TestImage::new(&[("base", "shared"), ("page", "one")]);
    let two = TestImage::new(&[("base", "shared"), ("page", "two")]);
    world.registry.offer("web:1", &one);
    world.registry.offer("web:2", &two);
    let names = (world.name("web:1"), world.name("web:2"));
    (world, names.0, names.1)
}

async fn collect(world: &ImagesFixture, orders: &[u64]) -> Option<(usize, usize)> {
    let living = std::future::ready(live(orders));
    world.images.collect_garbage(living).await.unwrap()
}

#[tokio::test]
async fn nothing_is_removed_while_there_is_space() {
    let settings = ImageSettings {
        headroom_percent: 0,
        ..ImageSettings::default()
    };
    let (world, one, _) = with_two_images(settings).await;
    world.obtain(&one, 1).await.unwrap();
    assert_eq!(collect(&world, &[]).await, Some((0, 0)));
    assert!(world.list("leases").is_empty(), "its container has ended");
    world.registry.clear_requests();
    world.obtain(&one, 2).await.unwrap();
    assert!(world.registry.requests("").is_empty());
}

#[tokio::test]
async fn leased_images_are_kept_on_a_full_disk() {
    let (world, one, two) = with_two_images(no_space()).await;
    let kept = world.obtain(&one, 1).await.unwrap();
    world.obtain(&two, 2).await.unwrap();
    assert_eq!(collect(&world, &[1, 2]).await, Some((0, 0)));
    world.images.release(&container(2)).unwrap();
    world.images.release(&container(2)).unwrap();
    // The other image shares a layer with the leased one, so it stays as a whole.
    assert_eq!(collect(&world, &[1]).await, Some((0, 0)));
    assert_eq!(texts(&kept, "page"), ["one"]);
    world.images.release(&container(1)).unwrap();
    assert_eq!(collect(&world, &[]).await, Some((2, 3)));
    for directory in ["layers", "records", "leases", "blobs"] {
        assert_eq!(world.list(directory), [""; 0], "{directory}");
    }
    world.obtain(&one, 3).await.unwrap();
}

#[tokio::test]
async fn an_image_that_cannot_fit_removes_no_other_one() {
    let settings = ImageSettings {
        headroom_percent: 0,
        limit_bytes: u64::MAX,
        ..ImageSettings::default()
    };
    let (world, one, _) = with_two_images(settings).await;
    world.obtain(&one, 1).await.unwrap();
    world.images.release(&container(1)).unwrap();
    let mut claim = TestImage::new(&[("page", "claims to have an exbibyte")]);
    let mut manifest: serde_json::Value = serde_json::from_slice(&claim.manifest).unwrap();
    manifest["layers"][0]["size"] = (1_u64 << 60).into();
    claim.manifest = serde_json::to_vec(&manifest).unwrap();
    world.registry.offer("huge:1", &claim);
    let error = world.obtain(&world.name("huge:1"), 2).await.unwrap_err();
    let reason = "make room on the disk: no space left on device for 1152921504606846976 bytes";
    assert!(error.contains(reason), "{error}");
    assert_eq!(world.list("records").len(), 1, "the unused image stays");
    assert_eq!(world.list("layers").len(), 2);
}

#[tokio::test]
async fn without_a_list_of_containers_nothing_is_removed() {
    let (world, one, _) = with_two_images(no_space()).await;
    world.obtain(&one, 1).await.unwrap();
    let unknown = std::future::ready(None);
    assert_eq!(world.images.collect_garbage(unknown).await.unwrap(), None);
    assert_eq!(world.list("leases"), ["1-1-1.json"]);
}

#[tokio::test]
async fn a_lease_taken_during_garbage_collection_is_kept() {
    let (world, one, _) = with_two_images(no_space()).await;
    let late = async {
        world.obtain(&one, 1).await.unwrap();
        live(&[])
    };
    assert_eq!(
        world.images.collect_garbage(late).await.unwrap(),
        Some((0, 0))
    );
    assert_eq!(world.list("leases"), ["1-1-1.json"]);
}

#[tokio::test]
async fn leases_survive_a_restart_and_end_with_their_containers() {
    let (mut world, one, two) = with_two_images(no_space()).await;
    let image = world.obtain(&one, 1).await.unwrap();
    world.obtain(&two, 2).await.unwrap();
    world.restart(no_space());
    assert_eq!(collect(&world, &[1]).await, Some((0, 0)));
    assert_eq!(world.list("leases"), ["1-1-1.json"]);
    world.registry.clear_requests();
    assert_eq!(world.obtain(&one, 3).await.unwrap(), image);
    assert!(world.registry.requests("").is_empty());
}

#[tokio::test]
async fn pulls_in_progress_are_not_removed() {
    let (world, one, _) = with_two_images(no_space()).await;
    let image = TestImage::new(&[("base", "shared"), ("page", "one")]);
    let blob = format!("/blobs/{}", Digest::of(&image.layers[1]));
    let gate = Arc::new(tokio::sync::Semaphore::new(0));
    world
        .registry
        .plan(blob, [InjectedFault::Wait(Arc::clone(&gate))]);
    let tidying = async {
        eventually(|| world.unpacker.count.load(Ordering::SeqCst) == 1).await;
        eventually(|| {
            world
                .list("layers")
                .iter()
                .any(|name| !name.starts_with('.'))
        })
        .await;
        assert_eq!(collect(&world, &[]).await, Some((0, 0)));
        gate.add_permits(1);
    };
    let (image, ()) = tokio::join!(world.obtain(&one, 1), tidying);
    assert_eq!(texts(&image.unwrap(), "base"), ["shared"]);
}

#[tokio::test]
async fn leftovers_of_a_crash_are_removed_at_the_next_start() {
    let (mut world, one, _) = with_two_images(ImageSettings::default()).await;
    world.obtain(&one, 1).await.unwrap();
    let images = world.directory();
    fs::write(images.join("blobs/.draft-9"), "half").unwrap();
    fs::create_dir_all(images.join("layers/.draft-8/root/deep/er")).unwrap();
    fs::create_dir_all(images.join("layers/unrelated")).unwrap();
    fs::create_dir_all(images.join("layers").join("0".repeat(64))).unwrap();
    fs::write(images.join("records/.draft-7"), "{").unwrap();
    fs::write(images.join("leases/.draft-6"), "{").unwrap();
    let before = world.list("layers").len();
    world.restart(ImageSettings::default());
    assert_eq!(before - world.list("layers").len(), 2);
    assert_eq!(world.list("layers").len(), 3);
    collect(&world, &[1]).await;
    assert_eq!(world.list("layers").len(), 2);
    assert_eq!(world.list("records").len(), 1);
    assert_eq!(world.list("leases").len(), 1);
    assert!(world.list("blobs").is_empty());
    world.registry.clear_requests();
    world.obtain(&one, 2).await.unwrap();
    assert!(world.registry.requests("").is_empty());
}

/// Records what is removed.
#[derive(Default)]
struct RecordedRemovals(Mutex<Vec<PathBuf>>);

impl LayerDirs for RecordedRemovals {
    fn make(&self, draft: &Path) -> io::Result<()> {
        LocalLayerDirs.make(draft)
    }

    fn describe(&self, draft: &Path, json: Vec<u8>) -> io::Result<()> {
        LocalLayerDirs.describe(draft, json)
    }

    fn metadata(&self, layer: &Path) -> io::Result<Option<Vec<u8>>> {
        LocalLayerDirs.metadata(layer)
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        LocalLayerDirs.rename(from, to)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        self.0.lock().unwrap().push(path.to_owned());
        LocalLayerDirs.remove(path)
    }
}

#[tokio::test]
async fn opening_the_store_does_not_wait_for_the_removal_of_drafts() {
    let directory = tempfile::tempdir().unwrap();
    let draft = directory.path().join("layers/.draft-8");
    fs::create_dir_all(draft.join("root/deep/er")).unwrap();
    let removals = Arc::new(RecordedRemovals::default());
    let removed = || removals.0.lock().unwrap().len();
    let registries = Registries::new(&fetch_settings(&[]), &[], RetryTimeouts::default()).unwrap();
    let images = ImageManager::with(
        directory.path(),
        ImageSettings::default(),
        (
            Arc::new(PlainUnpacker::default()),
            Arc::clone(&removals) as _,
            FairSlots::new(4),
        ),
        RegistryRoute::Local(registries),
    );
    let images = images.unwrap();
    assert_eq!(removed(), 0);
    let collected = images.collect_garbage(std::future::ready(live(&[])));
    collected.await.unwrap();
    assert_eq!(removed(), 1);
    assert!(!draft.exists());
}

#[tokio::test]
async fn a_crash_between_steps_loses_only_the_step() {
    let (mut world, one, _) = with_two_images(ImageSettings::default()).await;
    let image = world.obtain(&one, 1).await.unwrap();
    // A layer exists, its image's record does not yet.
    let record = world.directory().join("records");
    let record = record.join(&world.list("records")[0]);
    fs::remove_file(record).unwrap();
    world.restart(ImageSettings::default());
    world.registry.clear_requests();
    assert_eq!(world.obtain(&one, 1).await.unwrap(), image);
    assert_eq!(world.registry.requests("").len(), 2, "no layer comes again");
    // A layer is removed, its image's record is not yet.
    fs::remove_dir_all(image.layers[1].parent().unwrap()).unwrap();
    world.restart(ImageSettings::default());
    world.registry.clear_requests();
    assert_eq!(world.obtain(&one, 1).await.unwrap(), image);
    assert_eq!(
        world.registry.requests("").len(),
        3,
        "one layer comes again"
    );
    assert_eq!(texts(&image, "page"), ["one"]);
}

#[tokio::test]
async fn only_damaged_entries_are_lost() {
    let (mut world, one, two) = with_two_images(no_space()).await;
    let image = world.obtain(&one, 1).await.unwrap();
    world.obtain(&two, 2).await.unwrap();
    let images = world.directory();
    for name in world.list("records") {
        fs::write(images.join("records").join(name), "not JSON").unwrap();
    }
    fs::write(image.layers[0].parent().unwrap().join("layer.json"), "").unwrap();
    fs::write(images.join("leases/1-1-1.json"), "").unwrap();
    world.restart(no_space());
    assert!(world.list("records").is_empty());
    // The first container's lease is unreadable, so nothing is removed while it lives.
    assert_eq!(collect(&world, &[1]).await, Some((0, 0)));
    assert_eq!(texts(&image, "base"), ["shared"]);
    assert_eq!(collect(&world, &[]).await, Some((0, 3)));
    assert!(world.list("layers").is_empty());
}

#[tokio::test]
async fn layers_are_accessible_only_to_the_agent() {
    use std::os::unix::fs::PermissionsExt;
    let (mut world, one, _) = with_two_images(ImageSettings::default()).await;
    let image = world.obtain(&one, 1).await.unwrap();
    // As an operator, or an earlier release, may have left it.
    let open = fs::Permissions::from_mode(0o755);
    fs::set_permissions(world.directory(), open).unwrap();
    world.restart(ImageSettings::default());
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert!(image.layers[0].is_dir());
    assert_eq!(mode(world.directory()), 0o700);
    for directory in ["blobs", "layers", "records", "leases"] {
        assert_eq!(
            mode(&world.directory().join(directory)),
            0o700,
            "{directory}"
        );
    }
}
