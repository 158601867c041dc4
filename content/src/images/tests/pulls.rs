//! Tests of pulls from a registry that follows the protocol, or violates it.

use serde_json::json;

use super::fixtures::{INDEX, descriptor, host, index, tar};
use super::registry::InjectedFault;
use super::*;
use crate::images::registry::SMALL_BYTES;

fn web() -> TestImage {
    TestImage::new(&[("base", "lowest"), ("page", "higher")])
}

fn blob_path(bytes: &[u8]) -> String {
    format!("/blobs/{}", Digest::of(bytes))
}

#[tokio::test]
async fn an_image_is_pulled_once_with_layers_lowest_first() {
    let world = ImagesFixture::new().await;
    let made = web();
    world.registry.offer("team/web:1", &made);
    let name = world.name("team/web:1");
    let image = world.obtain(&name, 1).await.unwrap();
    assert_eq!(image.digest, made.digest());
    assert_eq!(image.config.entrypoint, ["/entry"]);
    assert_eq!(image.layers.len(), 2);
    assert_eq!(
        fs::read_to_string(image.layers[0].join("base")).unwrap(),
        "lowest"
    );
    assert_eq!(
        fs::read_to_string(image.layers[1].join("page")).unwrap(),
        "higher"
    );
    world.until_no_draft().await;

    world.registry.clear_requests();
    assert_eq!(world.obtain(&name, 2).await.unwrap(), image);
    assert!(
        world.registry.requests("").is_empty(),
        "stored content is not requested"
    );
    world.obtain_by(&name, PullPolicy::Always, 3).await.unwrap();
    assert_eq!(
        world.registry.requests("").len(),
        2,
        "manifest and configuration alone"
    );
    assert_eq!(world.list("leases").len(), 3);
}

#[tokio::test]
async fn a_moved_tag_downloads_only_new_layers() {
    let world = ImagesFixture::new().await;
    world.registry.offer("web:1", &web());
    let name = world.name("web:1");
    world.obtain(&name, 1).await.unwrap();
    let newer = TestImage::new(&[("base", "lowest"), ("page", "newer")]);
    world.registry.offer("web:1", &newer);
    let kept = world.obtain(&name, 2).await.unwrap();
    assert_eq!(texts(&kept, "page"), ["higher"]);
    let moved = world.obtain_by(&name, PullPolicy::Always, 3).await.unwrap();
    assert_eq!(texts(&moved, "page"), ["newer"]);
    assert_eq!(moved.layers[0], kept.layers[0]);
    assert_eq!(world.unpacker.count.load(Ordering::SeqCst), 3);
}

#[tokio::test]
async fn the_pull_policy_determines_which_tags_are_resolved_again() {
    let world = ImagesFixture::new().await;
    let first = web();
    for tag in ["web:latest", "web:1"] {
        world.registry.offer(tag, &first);
    }
    let fixed = format!("web:1@{}", first.digest());
    let names = ["web", "web:1", fixed.as_str()].map(|name| world.name(name));
    let mut order = 0;
    let asked_for = async |policy: PullPolicy, order: &mut u64| {
        let mut asked = Vec::new();
        for name in &names {
            world.registry.clear_requests();
            *order += 1;
            world.obtain_by(name, policy, *order).await.unwrap();
            asked.push(!world.registry.requests("").is_empty());
        }
        asked
    };
    assert_eq!(asked_for(PullPolicy::IfAbsent, &mut order).await, [true; 3]);
    for (policy, again) in [
        (PullPolicy::IfAbsent, [false, false, false]),
        (PullPolicy::Latest, [true, false, false]),
        // The content of a digest never changes.
        (PullPolicy::Always, [true, true, false]),
    ] {
        assert_eq!(asked_for(policy, &mut order).await, again, "{policy:?}");
    }
}

#[tokio::test]
async fn the_image_of_this_platform_is_selected_from_an_index() {
    let world = ImagesFixture::new().await;
    let (ours, other) = (web(), TestImage::new(&[("page", "other")]));
    world.registry.offer("web:ours", &ours);
    let inner = index(&[
        other.entry(Some(("windows", host())), None),
        other.entry(Some(("linux", "s390")), None),
        ours.entry(Some(("linux", host())), None),
        other.entry(Some(("unknown", "unknown")), None),
    ]);
    let mut outer = descriptor(INDEX, &inner);
    outer["platform"] = json!({"os": "linux", "architecture": host()});
    let outer = index(&[outer]);
    world
        .registry
        .put_manifest(&format!("web:{}", Digest::of(&inner)), INDEX, inner);
    world.registry.put_manifest("web:1", INDEX, outer.clone());
    world
        .registry
        .put_manifest(&format!("web:{}", Digest::of(&outer)), INDEX, outer.clone());
    let image = world.obtain(&world.name("web:1"), 1).await.unwrap();
    assert_eq!(image.digest, ours.digest());
    let pinned = world.name(&format!("web:1@{}", Digest::of(&outer)));
    assert_eq!(
        world.obtain(&pinned, 2).await.unwrap().digest,
        ours.digest()
    );

    let foreign = index(&[other.entry(Some(("linux", "s390")), None)]);
    world.registry.put_manifest("web:foreign", INDEX, foreign);
    let error = world
        .obtain(&world.name("web:foreign"), 3)
        .await
        .unwrap_err();
    assert!(error.ends_with("only for linux/s390"), "{error}");
}

#[tokio::test]
async fn invalid_content_is_rejected_by_name_without_leftovers() {
    let world = ImagesFixture::new().await;
    let made = web();
    world.registry.offer("web:1", &made);
    let name = world.name("web:1");
    let layer = &made.layers[1];
    let mut tampered = layer.clone();
    tampered[600] ^= 1;
    let longer = [layer.clone(), vec![0]].concat();
    let named = Digest::of(layer).to_string();
    for (path, bytes, wanted) in [
        (blob_path(layer), tampered, "tampered"),
        (blob_path(layer), longer, " came"),
        (
            blob_path(&made.config),
            vec![b' '; made.config.len()],
            "tampered",
        ),
        (blob_path(&made.config), b"{}".to_vec(), " came"),
    ] {
        let what = path.rsplit('/').next().unwrap().to_owned();
        // Too short a response is retried; too long or another one is not.
        world.registry.plan(path, [InjectedFault::Bytes(bytes)]);
        let error = world.obtain(&name, 1).await.unwrap_err();
        assert!(error.contains(wanted) && error.contains(&what), "{error}");
        assert!(
            error.starts_with(&format!("cannot bring the image {name}")),
            "{error}"
        );
        world.until_no_draft().await;
        assert!(world.list("records").is_empty());
        assert!(world.list("leases").is_empty());
        assert!(
            !world
                .list("layers")
                .iter()
                .any(|layer| named.contains(layer.as_str()))
        );
    }
    let pinned = world.name(&format!("web@{}", Digest::of(b"other")));
    let ending = format!("/manifests/{}", Digest::of(b"other"));
    world.registry.put_manifest(
        &format!("web:{}", Digest::of(b"other")),
        super::fixtures::MANIFEST,
        made.manifest.clone(),
    );
    let error = world.obtain(&pinned, 1).await.unwrap_err();
    assert!(error.contains("tampered"), "{error}");
    assert_eq!(world.registry.requests(&ending).len(), 1);
    world.obtain(&name, 1).await.unwrap();
}

#[tokio::test]
async fn a_layer_is_stored_under_its_computed_digest() {
    let world = ImagesFixture::new().await;
    let (honest, evil) = (tar("page", b"honest"), tar("page", b"evil"));
    let liar = TestImage::claiming(vec![evil], vec![Digest::of(&honest)]);
    world.registry.offer("liar:1", &liar);
    world.registry.offer("web:1", &TestImage::of(vec![honest]));
    let (liar, web) = (world.name("liar:1"), world.name("web:1"));
    // The image with false claims fails, unless the honest layer is already stored: then it shares
    // that one.
    let (lied, reported) = tokio::join!(world.obtain(&liar, 1), world.obtain(&web, 2));
    match lied {
        Err(error) => assert!(error.contains("unpacked, must have the digest"), "{error}"),
        Ok(image) => assert_eq!(texts(&image, "page"), ["honest"]),
    }
    assert_eq!(texts(&reported.unwrap(), "page"), ["honest"]);
}

#[tokio::test]
async fn a_layer_that_does_not_match_its_diff_id_is_rejected() {
    let world = ImagesFixture::new().await;
    let (honest, evil) = (tar("page", b"honest"), tar("page", b"evil"));
    let liar = TestImage::claiming(vec![evil], vec![Digest::of(&honest)]);
    world.registry.offer("liar:1", &liar);
    world.registry.offer("web:1", &TestImage::of(vec![honest]));
    let error = world.obtain(&world.name("liar:1"), 1).await.unwrap_err();
    assert!(error.contains("unpacked, must have the digest"), "{error}");
    let web = world.obtain(&world.name("web:1"), 2).await.unwrap();
    assert_eq!(texts(&web, "page"), ["honest"]);
}

#[tokio::test]
async fn an_interrupted_download_resumes() {
    let world = ImagesFixture::new().await;
    let made = TestImage::of(vec![tar("page", &vec![7; 300_000])]);
    world.registry.offer("web:1", &made);
    let layer = &made.layers[0];
    world.registry.plan(
        blob_path(layer),
        [
            InjectedFault::BreakAfter(1_000),
            InjectedFault::BreakAfter(2_000),
            InjectedFault::BreakAfter(0),
        ],
    );
    world.obtain(&world.name("web:1"), 1).await.unwrap();
    let asked = world.registry.requests(&blob_path(layer));
    let ranges: Vec<_> = asked.iter().map(|asked| asked.range.as_deref()).collect();
    assert_eq!(
        ranges,
        [
            None,
            Some("bytes=1000-"),
            Some("bytes=3000-"),
            Some("bytes=3000-")
        ]
    );
}

#[tokio::test]
async fn a_pull_reports_the_received_and_the_missing_bytes_to_every_waiter() {
    let world = ImagesFixture::new().await;
    let made = TestImage::of(vec![tar("page", &vec![7; 300_000])]);
    world.registry.offer("web:1", &made);
    let layer = &made.layers[0];
    let total = layer.len() as u64;
    let gate = Arc::new(tokio::sync::Semaphore::new(0));
    world.registry.plan(
        blob_path(layer),
        [
            InjectedFault::BreakAfter(1_000),
            InjectedFault::Wait(Arc::clone(&gate)),
        ],
    );
    let name = world.name("web:1");
    let obtain = |order| {
        let images = &world.images;
        images.obtain(
            name.clone(),
            PullPolicy::IfAbsent,
            FRAMEWORK,
            container(order),
        )
    };
    let (mut first, mut second) = (obtain(1), obtain(2));
    for PendingPull { progress, image } in [&mut first, &mut second] {
        let is_begun = |now: &PullProgress| (now.bytes_done, now.bytes_total) == (1_000, total);
        let begun = async { progress.wait_for(is_begun).await.map(|now| *now) };
        tokio::select! {
            biased;
            _ = image => panic!("the rest was not sent"),
            begun = tokio::time::timeout(DEADLINE, begun) => {
                begun.expect("the bytes arrive in time").expect("the pull continues");
            }
        }
    }
    gate.add_permits(1);
    for pull in [first, second] {
        let image = tokio::time::timeout(DEADLINE, pull.image).await;
        let image = image.expect("the pull ends in time");
        image.map_err(|error| crate::error_chain(&error)).unwrap();
        let end = *pull.progress.borrow();
        assert_eq!((end.bytes_done, end.bytes_total), (total, total));
    }
}

#[tokio::test]
async fn a_busy_or_failing_registry_is_retried() {
    let world = ImagesFixture::new().await;
    let made = web();
    world.registry.offer("web:1", &made);
    let busy = InjectedFault::Status(429, "retry-after", "0".to_owned());
    let broken = InjectedFault::Status(503, "x", String::new());
    for path in [
        "/manifests/1".to_owned(),
        blob_path(&made.config),
        blob_path(&made.layers[0]),
    ] {
        world.registry.plan(path, [busy.clone(), broken.clone()]);
    }
    world.obtain(&world.name("web:1"), 1).await.unwrap();
    assert_eq!(world.registry.requests("/manifests/1").len(), 3);

    world.registry.plan(
        "/manifests/2",
        [InjectedFault::Status(503, "retry-after", "3600".to_owned())],
    );
    let error = world.obtain(&world.name("web:2"), 2).await.unwrap_err();
    assert!(error.contains("the server answered 503"), "{error}");
    assert_eq!(
        world.registry.requests("/manifests/2").len(),
        1,
        "an hour is too long"
    );
    let error = world.obtain(&world.name("none:1"), 3).await.unwrap_err();
    assert!(
        error.ends_with("404: there is no such image or tag"),
        "{error}"
    );
    assert_eq!(world.registry.requests("/none/").len(), 1);
}

#[tokio::test]
async fn a_stalled_registry_times_out() {
    let timeouts = RetryTimeouts {
        stall: Duration::from_secs(1),
        retry_for: Duration::from_millis(100),
        ..RetryTimeouts::default()
    };
    let world = ImagesFixture::with_timeouts(ImageSettings::default(), timeouts).await;
    let made = web();
    world.registry.offer("web:1", &made);
    world
        .registry
        .plan(blob_path(&made.layers[0]), [InjectedFault::StallAfter(100)]);
    let error = world.obtain(&world.name("web:1"), 1).await.unwrap_err();
    assert!(error.ends_with("nothing came for 1 s"), "{error}");
    world.until_no_draft().await;
}

#[tokio::test]
async fn a_slow_registry_does_not_delay_others() {
    let slow = TestRegistry::start().await;
    let world = ImagesFixture::listing(&[slow.address()]).await;
    let names: Vec<_> = (0..6).map(|number| format!("file{number}")).collect();
    let layers: Vec<_> = names.iter().map(|name| (name.as_str(), "text")).collect();
    let made = TestImage::new(&layers);
    slow.offer("web:1", &made);
    for layer in &made.layers {
        slow.plan(blob_path(layer), [InjectedFault::StallAfter(100)]);
    }
    let name = format!("{}/web:1", slow.address()).parse().unwrap();
    let stalled = world
        .images
        .obtain(name, PullPolicy::IfAbsent, FRAMEWORK, container(1));
    let stalled = tokio::spawn(stalled.image);
    eventually(|| slow.in_progress() == 4).await;
    world.registry.offer("web:1", &web());
    world.obtain(&world.name("web:1"), 2).await.unwrap();
    // The same layers of another registry are downloaded from there.
    world.registry.offer("web:2", &made);
    let image = world.obtain(&world.name("web:2"), 3).await.unwrap();
    assert_eq!(texts(&image, "file5"), ["text"]);
    assert_eq!(slow.requests("/blobs/").len(), 1 + 4, "others wait");
    stalled.abort();
}

#[tokio::test]
async fn large_documents_take_turns_and_do_not_delay_small_ones() {
    let registry = TestRegistry::start().await;
    let (small, large) = (b"small".to_vec(), vec![b'x'; SMALL_BYTES + 1]);
    let listed = [registry.address().parse().unwrap()];
    let settings = fetch_settings(&[]);
    let registries = Registries::new(&settings, &listed, RetryTimeouts::default()).unwrap();
    let name = format!("{}/web", registry.address()).parse().unwrap();
    let ImageReference::Registry(name) = name else {
        panic!("it names a registry");
    };
    let session = Arc::new(registries.session(&name, None, FRAMEWORK));
    let read = |bytes: &[u8]| {
        registry.put_blob(bytes.to_vec());
        let described = descriptor("x", bytes);
        let described = serde_json::from_value(json!({"what": "it", "digest": described["digest"],
            "size": described["size"]}));
        let (session, described): (_, BlobDescriptor) = (session.clone(), described.unwrap());
        tokio::spawn(async move { session.small(&described).await.map(|bytes| bytes.len()) })
    };
    // As many as may be in memory are.
    let slots = Arc::clone(&registries.large_documents);
    let taken = slots.try_acquire_many_owned(4).unwrap();
    let waiting = read(&large);
    eventually(|| !registry.requests("/blobs/").is_empty()).await;
    assert_eq!(read(&small).await.unwrap().unwrap(), small.len());
    assert!(!waiting.is_finished());
    drop(taken);
    assert_eq!(waiting.await.unwrap().unwrap(), large.len());
}

#[tokio::test]
async fn a_registry_that_drips_a_document_loses_its_slot() {
    let timeouts = RetryTimeouts {
        document: Duration::from_millis(200),
        ..RetryTimeouts::default()
    };
    let world = ImagesFixture::with_timeouts(ImageSettings::default(), timeouts).await;
    let made = web();
    world.registry.offer("web:1", &made);
    // Each byte comes in time; all of them would need seconds.
    let drips = std::iter::repeat_n(InjectedFault::Drip, 2);
    world.registry.plan("/manifests/1", drips);
    let error = world.obtain(&world.name("web:1"), 1).await.unwrap_err();
    assert!(error.contains("/v2/web/manifests/1"), "{error}");
    assert!(error.ends_with("it was not complete after 0 s"), "{error}");
    assert_eq!(world.registry.requests("/manifests/1").len(), 1);
    eventually(|| world.registry.in_progress() == 0).await;
}

#[tokio::test]
async fn shared_layers_and_concurrent_pulls_are_downloaded_once() {
    let world = ImagesFixture::new().await;
    let one = TestImage::new(&[("base", "shared"), ("page", "one")]);
    let two = TestImage::new(&[("base", "shared"), ("page", "two")]);
    world.registry.offer("web:1", &one);
    world.registry.offer("web:2", &two);
    let gate = Arc::new(tokio::sync::Semaphore::new(0));
    let shared = blob_path(&one.layers[0]);
    world
        .registry
        .plan(shared.clone(), [InjectedFault::Wait(Arc::clone(&gate))]);
    let (first, second) = (world.name("web:1"), world.name("web:2"));
    let opening = async {
        // The upper layers of both are here, and both wait for the lowest.
        eventually(|| world.unpacker.count.load(Ordering::SeqCst) == 2).await;
        gate.add_permits(1);
    };
    let (a, b, c, ()) = tokio::join!(
        world.obtain(&first, 1),
        world.obtain(&first, 2),
        world.obtain(&second, 3),
        opening
    );
    let (a, b, c) = (a.unwrap(), b.unwrap(), c.unwrap());
    assert_eq!(a, b);
    assert_eq!(a.layers[0], c.layers[0]);
    assert_eq!(world.unpacker.count.load(Ordering::SeqCst), 3);
    for blob in [&one.layers[0], &one.layers[1], &two.layers[1], &one.config] {
        assert_eq!(world.registry.requests(&blob_path(blob)).len(), 1);
    }
    assert_eq!(world.registry.requests("/manifests/1").len(), 1);
}

#[tokio::test]
async fn a_failed_pull_fails_all_waiters_and_the_next_retries() {
    let world = ImagesFixture::new().await;
    let made = web();
    world.registry.offer("web:1", &made);
    let name = world.name("web:1");
    world.registry.plan(
        blob_path(&made.layers[0]),
        [InjectedFault::Status(404, "x", String::new())],
    );
    let (one, two) = tokio::join!(world.obtain(&name, 1), world.obtain(&name, 2));
    assert_eq!(one.clone().unwrap_err(), two.unwrap_err());
    assert!(one.unwrap_err().contains("404"));
    assert!(world.list("leases").is_empty());
    world.obtain(&name, 1).await.unwrap();
}

#[tokio::test]
async fn a_layer_is_retried_after_another_images_pull_failed() {
    let world = ImagesFixture::new().await;
    let made = web();
    world.registry.offer("ours:1", &made);
    world.registry.offer("theirs:1", &made);
    let gate = Arc::new(tokio::sync::Semaphore::new(0));
    let tampered = vec![0; made.layers[0].len()];
    let path = |repository| format!("{repository}{}", blob_path(&made.layers[0]));
    // The first pull requests the layer, and gets it late and wrong.
    let late = InjectedFault::WaitForBytes(Arc::clone(&gate), tampered);
    world.registry.plan(path("theirs"), [late]);
    let requested = |part: &str| world.registry.requests(part).len();
    let (ours, theirs) = (world.name("ours:1"), world.name("theirs:1"));
    let (them, us, ()) = tokio::join!(
        world.obtain(&theirs, 1),
        async {
            eventually(|| requested(&path("theirs")) == 1).await;
            world.obtain(&ours, 2).await
        },
        async {
            // This pull has everything that it needs itself, except what it joined.
            eventually(|| requested("/ours/blobs/") == 1).await;
            eventually(|| world.unpacker.count.load(Ordering::SeqCst) == 1).await;
            tokio::task::yield_now().await;
            gate.add_permits(1);
        }
    );
    assert!(them.unwrap_err().contains("tampered"));
    assert_eq!(us.unwrap().layers.len(), 2);
    assert_eq!(requested(&path("ours")), 1);
}

#[tokio::test]
async fn a_layer_is_retried_after_several_failed_pulls() {
    let world = ImagesFixture::new().await;
    let made = web();
    let others = ["first", "second", "third"];
    let gates = others.map(|other| {
        world.registry.offer(&format!("{other}:1"), &made);
        let gate = Arc::new(tokio::sync::Semaphore::new(0));
        let tampered = vec![0; made.layers[0].len()];
        let path = format!("{other}{}", blob_path(&made.layers[0]));
        let late = InjectedFault::WaitForBytes(Arc::clone(&gate), tampered);
        world.registry.plan(path, [late]);
        gate
    });
    world.registry.offer("ours:1", &made);
    // Its configuration has come: it waits with the others for what is missing.
    let waits = async |repository: &str| {
        let path = format!("/{repository}/blobs/");
        eventually(|| !world.registry.requests(&path).is_empty()).await;
        eventually(|| world.unpacker.count.load(Ordering::SeqCst) == 1).await;
        tokio::time::sleep(Duration::from_millis(20)).await;
    };
    let joins = async |repository: &str, order, before: Option<&str>| {
        if let Some(before) = before {
            waits(before).await;
        }
        let name = world.name(&format!("{repository}:1"));
        world.obtain(&name, order).await
    };
    // Polls them in this order: this pull is the last to request again.
    let (first, second, third, us, ()) = futures::join!(
        joins(others[0], 1, None),
        joins(others[1], 2, Some(others[0])),
        joins(others[2], 3, Some(others[1])),
        joins("ours", 4, Some(others[2])),
        async {
            waits("ours").await;
            gates.iter().for_each(|gate| gate.add_permits(1));
        }
    );
    for end in [first, second, third] {
        assert!(end.unwrap_err().contains("tampered"));
    }
    assert_eq!(us.unwrap().layers.len(), 2);
}

#[tokio::test]
async fn a_pull_continues_until_its_last_waiter_leaves() {
    let world = ImagesFixture::new().await;
    let made = TestImage::of(vec![tar("page", &vec![7; 100_000])]);
    world.registry.offer("web:1", &made);
    let name = world.name("web:1");
    let path = blob_path(&made.layers[0]);
    world
        .registry
        .plan(path.clone(), vec![InjectedFault::StallAfter(60_000); 2]);
    let obtain = |order| {
        world.images.obtain(
            name.clone(),
            PullPolicy::IfAbsent,
            FRAMEWORK,
            container(order),
        )
    };
    let (mut first, second) = (obtain(1), obtain(2));
    let mut progress = second.progress.clone();
    let far = async {
        let size = made.layers[0].len() as u64;
        let reached = progress.wait_for(|all| all.bytes_done >= 60_000 && all.bytes_total == size);
        reached.await.map(|all| *all).unwrap();
    };
    tokio::select! {
        _ = &mut first.image => panic!("it stalls"),
        () = far => {}
    }
    drop(first);
    assert_eq!(world.registry.in_progress(), 1, "one still waits");
    assert_eq!(world.list("blobs").len(), 1);
    drop(second);
    eventually(|| world.registry.in_progress() == 0).await;
    world.until_no_draft().await;
    assert!(world.list("records").is_empty());
    assert_eq!(world.registry.requests(&path).len(), 1);
}

#[tokio::test]
async fn oversized_images_are_rejected_before_the_download() {
    let settings = ImageSettings {
        limit_bytes: 2_500,
        ..ImageSettings::default()
    };
    let world = ImagesFixture::with(settings).await;
    let made = web();
    world.registry.offer("web:1", &made);
    let error = world.obtain(&world.name("web:1"), 1).await.unwrap_err();
    assert!(error.contains("limit of 2500 bytes"), "{error}");
    assert!(
        world
            .registry
            .requests(&blob_path(&made.layers[0]))
            .is_empty()
    );

    world
        .registry
        .put_manifest("web:huge", INDEX, vec![b' '; 5 * 1024 * 1024]);
    let error = world.obtain(&world.name("web:huge"), 1).await.unwrap_err();
    assert!(error.contains("limit of 4194304 bytes"), "{error}");
    let mut entry = made.entry(None, None);
    entry["size"] = json!(5 * 1024 * 1024);
    world
        .registry
        .put_manifest("web:claim", INDEX, index(&[entry]));
    let error = world.obtain(&world.name("web:claim"), 1).await.unwrap_err();
    assert!(error.contains("limit of 4194304 bytes"), "{error}");
}

#[tokio::test]
async fn only_listed_registries_are_contacted_without_tls() {
    let world = ImagesFixture::new().await;
    let name: ImageReference = "192.0.2.1:1/web:1".parse().unwrap();
    let source = world.images.source(name.clone(), FRAMEWORK).await.unwrap();
    let ImageSource::Direct(DirectSource::Registry { session, .. }) = source else {
        panic!("it names a registry");
    };
    assert!(session.address().starts_with("https://192.0.2.1:1/"));
    let listed = ImageSettings {
        insecure_registries: vec!["192.0.2.1:1".parse().unwrap()],
        ..ImageSettings::default()
    };
    let world = ImagesFixture::with(listed).await;
    let source = world.images.source(name, FRAMEWORK).await.unwrap();
    let ImageSource::Direct(DirectSource::Registry { session, .. }) = source else {
        panic!("it names a registry");
    };
    assert!(session.address().starts_with("http://192.0.2.1:1/"));
}
