//! Tests of the store: what survives an agent, what a crash leaves, and what protects from removal.

use super::registry::InjectedFault;
use super::*;

/// Keeps the whole disk free: everything unused is removed.
fn full() -> ImageSettings {
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

async fn tidy(world: &ImagesFixture, orders: &[u64]) -> Option<(usize, usize)> {
    let living = std::future::ready(living(orders));
    world.images.tidy(living).await.unwrap()
}

#[tokio::test]
async fn nothing_goes_while_there_is_room() {
    let settings = ImageSettings {
        headroom_percent: 0,
        ..ImageSettings::default()
    };
    let (world, one, _) = with_two_images(settings).await;
    world.obtain(&one, 1).await.unwrap();
    assert_eq!(tidy(&world, &[]).await, Some((0, 0)));
    assert!(world.listed("leases").is_empty(), "its container has ended");
    world.registry.forget_asked();
    world.obtain(&one, 2).await.unwrap();
    assert!(world.registry.asked("").is_empty());
}

#[tokio::test]
async fn what_a_container_holds_stays_however_full_the_disk_is() {
    let (world, one, two) = with_two_images(full()).await;
    let kept = world.obtain(&one, 1).await.unwrap();
    world.obtain(&two, 2).await.unwrap();
    assert_eq!(tidy(&world, &[1, 2]).await, Some((0, 0)));
    world.images.release(&container(2)).unwrap();
    world.images.release(&container(2)).unwrap();
    // The other image shares a layer with the leased one, so it stays as a whole.
    assert_eq!(tidy(&world, &[1]).await, Some((0, 0)));
    assert_eq!(texts(&kept, "page"), ["one"]);
    world.images.release(&container(1)).unwrap();
    assert_eq!(tidy(&world, &[]).await, Some((2, 3)));
    for folder in ["layers", "records", "leases", "blobs"] {
        assert_eq!(world.listed(folder), [""; 0], "{folder}");
    }
    world.obtain(&one, 3).await.unwrap();
}

#[tokio::test]
async fn if_nobody_knows_who_lives_nothing_is_removed() {
    let (world, one, _) = with_two_images(full()).await;
    world.obtain(&one, 1).await.unwrap();
    let unknown = std::future::ready(None);
    assert_eq!(world.images.tidy(unknown).await.unwrap(), None);
    assert_eq!(world.listed("leases"), ["1-1-1.json"]);
}

#[tokio::test]
async fn a_container_that_started_after_the_holds_were_listed_keeps_its_own() {
    let (world, one, _) = with_two_images(full()).await;
    let late = async {
        world.obtain(&one, 1).await.unwrap();
        living(&[])
    };
    assert_eq!(world.images.tidy(late).await.unwrap(), Some((0, 0)));
    assert_eq!(world.listed("leases"), ["1-1-1.json"]);
}

#[tokio::test]
async fn holds_outlive_the_agent_and_end_with_what_its_journal_does_not_know() {
    let (mut world, one, two) = with_two_images(full()).await;
    let image = world.obtain(&one, 1).await.unwrap();
    world.obtain(&two, 2).await.unwrap();
    world.restart(full());
    assert_eq!(tidy(&world, &[1]).await, Some((0, 0)));
    assert_eq!(world.listed("leases"), ["1-1-1.json"]);
    world.registry.forget_asked();
    assert_eq!(world.obtain(&one, 3).await.unwrap(), image);
    assert!(world.registry.asked("").is_empty());
}

#[tokio::test]
async fn what_is_on_its_way_is_not_removed() {
    let (world, one, _) = with_two_images(full()).await;
    let image = TestImage::new(&[("base", "shared"), ("page", "one")]);
    let blob = format!("/blobs/{}", Digest::of(&image.layers[1]));
    let gate = Arc::new(tokio::sync::Semaphore::new(0));
    world
        .registry
        .plan(blob, [InjectedFault::Wait(Arc::clone(&gate))]);
    let tidying = async {
        until(|| world.unpacker.count.load(Ordering::SeqCst) == 1).await;
        until(|| {
            world
                .listed("layers")
                .iter()
                .any(|name| !name.starts_with('.'))
        })
        .await;
        assert_eq!(tidy(&world, &[]).await, Some((0, 0)));
        gate.add_permits(1);
    };
    let (image, ()) = tokio::join!(world.obtain(&one, 1), tidying);
    assert_eq!(texts(&image.unwrap(), "base"), ["shared"]);
}

#[tokio::test]
async fn leftovers_of_a_crash_go_at_the_next_start() {
    let (mut world, one, _) = with_two_images(ImageSettings::default()).await;
    world.obtain(&one, 1).await.unwrap();
    let images = world.folder();
    fs::write(images.join("blobs/.draft-9"), "half").unwrap();
    fs::create_dir_all(images.join("layers/.draft-8/root/deep/er")).unwrap();
    fs::create_dir_all(images.join("layers/unrelated")).unwrap();
    fs::create_dir_all(images.join("layers").join("0".repeat(64))).unwrap();
    fs::write(images.join("records/.draft-7"), "{").unwrap();
    fs::write(images.join("leases/.draft-6"), "{").unwrap();
    let before = world.listed("layers").len();
    world.restart(ImageSettings::default());
    assert_eq!(before - world.listed("layers").len(), 3);
    assert_eq!(world.listed("layers").len(), 2);
    assert_eq!(world.listed("records").len(), 1);
    assert_eq!(world.listed("leases").len(), 1);
    assert!(world.listed("blobs").is_empty());
    world.registry.forget_asked();
    world.obtain(&one, 2).await.unwrap();
    assert!(world.registry.asked("").is_empty());
}

#[tokio::test]
async fn a_crash_between_any_two_steps_costs_no_more_than_the_step() {
    let (mut world, one, _) = with_two_images(ImageSettings::default()).await;
    let image = world.obtain(&one, 1).await.unwrap();
    // A layer exists, its image's record does not yet.
    let record = world.folder().join("records");
    let record = record.join(&world.listed("records")[0]);
    fs::remove_file(record).unwrap();
    world.restart(ImageSettings::default());
    world.registry.forget_asked();
    assert_eq!(world.obtain(&one, 1).await.unwrap(), image);
    assert_eq!(world.registry.asked("").len(), 2, "no layer comes again");
    // A layer is removed, its image's record is not yet.
    fs::remove_dir_all(image.layers[1].parent().unwrap()).unwrap();
    world.restart(ImageSettings::default());
    world.registry.forget_asked();
    assert_eq!(world.obtain(&one, 1).await.unwrap(), image);
    assert_eq!(world.registry.asked("").len(), 3, "one layer comes again");
    assert_eq!(texts(&image, "page"), ["one"]);
}

#[tokio::test]
async fn damage_costs_what_is_damaged() {
    let (mut world, one, two) = with_two_images(full()).await;
    let image = world.obtain(&one, 1).await.unwrap();
    world.obtain(&two, 2).await.unwrap();
    let images = world.folder();
    for name in world.listed("records") {
        fs::write(images.join("records").join(name), "not JSON").unwrap();
    }
    fs::write(image.layers[0].parent().unwrap().join("layer.json"), "").unwrap();
    fs::write(images.join("leases/1-1-1.json"), "").unwrap();
    world.restart(full());
    assert!(world.listed("records").is_empty());
    // The first container's lease is unreadable, so nothing is removed while it lives.
    assert_eq!(tidy(&world, &[1]).await, Some((0, 0)));
    assert_eq!(texts(&image, "base"), ["shared"]);
    assert_eq!(tidy(&world, &[]).await, Some((0, 3)));
    assert!(world.listed("layers").is_empty());
}

#[tokio::test]
async fn layers_are_for_the_agent_alone() {
    use std::os::unix::fs::PermissionsExt;
    let (mut world, one, _) = with_two_images(ImageSettings::default()).await;
    let image = world.obtain(&one, 1).await.unwrap();
    // As an operator, or an earlier release, may have left it.
    let open = fs::Permissions::from_mode(0o755);
    fs::set_permissions(world.folder(), open).unwrap();
    world.restart(ImageSettings::default());
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert!(image.layers[0].is_dir());
    assert_eq!(mode(world.folder()), 0o700);
    for folder in ["blobs", "layers", "records", "leases"] {
        assert_eq!(mode(&world.folder().join(folder)), 0o700, "{folder}");
    }
}
