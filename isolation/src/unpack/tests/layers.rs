//! Tests of image layers: which entries are kept, left out, and hidden from lower layers.

use std::fs;
use std::os::unix::fs::MetadataExt;

use sha2::{Digest, Sha256};

use super::super::{ArchiveFormat, UnpackLimits, UnpackResult};
use super::UnpackFixture;
use super::archives::{TarEntry, Tarball, gzip, own};

fn unpacked(world: &UnpackFixture, layer: Tarball) -> UnpackResult {
    world
        .unpack(&layer.end(), ArchiveFormat::Tar, &UnpackLimits::layer())
        .unwrap()
}

fn is_opaque(world: &UnpackFixture, path: &str) -> bool {
    let mut value = [0; 8];
    let length = rustix::fs::lgetxattr(world.at(path), "user.overlay.opaque", &mut value);
    length.is_ok_and(|length| value[..length] == *b"y")
}

#[test]
fn whiteouts_become_overlay_whiteouts() {
    let world = UnpackFixture::new();
    unpacked(
        &world,
        Tarball::default()
            .file("a/.wh.b", "")
            .file("c/.wh..wh..opq", "")
            .file(".wh.d", ""),
    );
    assert_eq!(world.found("a/b"), "hidden");
    assert_eq!(world.found("d"), "hidden");
    assert_eq!(world.found("c"), "directory 755");
    assert!(is_opaque(&world, "c") && !is_opaque(&world, "a"));
    assert_eq!(world.tree().len(), 4, "the names themselves are not there");
}

#[test]
fn a_layer_does_not_hide_its_own_entries() {
    let entries: [fn(Tarball) -> Tarball; 2] = [
        |layer| {
            layer
                .file(".wh.file", "")
                .file(".wh.folder", "")
                .file("opaque/.wh..wh..opq", "")
        },
        |layer| {
            layer
                .file("file", "x")
                .file("folder/f", "x")
                .file("opaque/f", "x")
        },
    ];
    for order in [[0, 1], [1, 0]] {
        let world = UnpackFixture::new();
        let layer = order
            .iter()
            .fold(Tarball::default(), |layer, which| entries[*which](layer));
        unpacked(&world, layer);
        assert_eq!(world.found("file"), "file 644 x");
        assert_eq!(world.found("folder/f"), "file 644 x");
        assert_eq!(world.found("opaque/f"), "file 644 x");
        assert!(
            is_opaque(&world, "folder"),
            "the directory of lower layers is hidden"
        );
        assert!(is_opaque(&world, "opaque"));
    }
}

#[test]
fn only_whiteout_names_create_overlay_metadata() {
    let world = UnpackFixture::new();
    let done = unpacked(
        &world,
        Tarball::default()
            .entry(b'3', "null", "", "")
            .entry(b'4', "disk", "", "")
            .entry(b'6', "pipe", "", "")
            .file("a/.wh..wh.plnk", "")
            .pax("SCHILY.xattr.user.overlay.opaque", b"y")
            .directory("a")
            .pax("SCHILY.xattr.security.capability", b"\x01\0\0\x02")
            .file("tool", "x"),
    );
    assert_eq!(done.skipped, 4);
    let found: Vec<_> = world.tree().into_iter().collect();
    let expected = [("a", "directory 755"), ("tool", "file 644 x")];
    assert_eq!(
        found,
        expected.map(|(path, what)| (path.to_owned(), what.to_owned()))
    );
    assert!(!is_opaque(&world, "a"));
    let names = rustix::fs::llistxattr(world.at("tool"), &mut [0; 512]).unwrap();
    assert_eq!(names, 0);
}

#[test]
fn links_are_kept_as_they_are_and_never_followed() {
    let world = UnpackFixture::new();
    let layer = Tarball::default()
        .link("etc", "/etc")
        .link("up", "../../..")
        .hard_link("same", "up");
    unpacked(&world, layer);
    assert_eq!(world.found("etc"), "link /etc");
    assert_eq!(world.found("up"), "link ../../..");
    assert_eq!(world.found("same"), "link ../../..");
    let through = Tarball::default()
        .link("l", "/etc")
        .file("l/passwd", "x")
        .end();
    let refusal = world.refusal_of(&through, ArchiveFormat::Tar, &UnpackLimits::layer());
    assert!(refusal.contains("through the link \"l\""), "{refusal}");
    let hard = Tarball::default()
        .link("l", "/etc")
        .hard_link("h", "l/passwd")
        .end();
    let refusal = world.refusal_of(&hard, ArchiveFormat::Tar, &UnpackLimits::layer());
    assert!(refusal.contains("not an earlier file"), "{refusal}");
    let hidden = Tarball::default()
        .file(".wh.gone", "")
        .hard_link("h", "gone")
        .end();
    let refusal = world.refusal_of(&hidden, ArchiveFormat::Tar, &UnpackLimits::layer());
    assert!(refusal.contains("not an earlier file"), "{refusal}");
}

#[test]
fn owners_times_and_modes_are_kept() {
    let world = UnpackFixture::new();
    let item = TarEntry {
        kind: b'5',
        path: b"./",
        link: b"",
        mode: 0o555,
        owner: own(),
        body: b"",
    };
    let layer = Tarball::default()
        .item(&item)
        .directory("shut")
        .file("shut/f", "x");
    let shut = TarEntry {
        path: b"shut",
        mode: 0,
        ..item
    };
    unpacked(&world, layer.item(&shut));
    let root = fs::metadata(world.target()).unwrap();
    assert_eq!((root.mode() & 0o7777, root.mtime()), (0o555, 1_000_000));
    let directory = fs::metadata(world.at("shut")).unwrap();
    assert_eq!(
        (directory.mode() & 0o7777, directory.mtime()),
        (0, 1_000_000)
    );
    // So that the user of the test may remove it.
    for path in [world.target(), world.at("shut")] {
        fs::set_permissions(path, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    }
    assert_eq!(fs::metadata(world.at("shut/f")).unwrap().mtime(), 1_000_000);
}

#[test]
fn owners_outside_the_container_range_are_rejected() {
    for owner in [(65_536, 0), (0, 65_536), (u64::from(u32::MAX) + 1, 0)] {
        let item = TarEntry {
            kind: b'0',
            path: b"f",
            link: b"",
            mode: 0o644,
            owner,
            body: b"",
        };
        let refusal = UnpackFixture::new().refusal_of(
            &Tarball::default().item(&item).end(),
            ArchiveFormat::Tar,
            &UnpackLimits::layer(),
        );
        let number = owner.0.max(owner.1);
        assert!(
            refusal.contains(&format!("its owner is {number}")),
            "{refusal}"
        );
        let world = UnpackFixture::new();
        world
            .unpack(
                &Tarball::default().item(&item).end(),
                ArchiveFormat::Tar,
                &UnpackLimits::archive(),
            )
            .unwrap();
    }
}

#[test]
fn the_digest_covers_all_unpacked_data() {
    let mut layer = Tarball::default().file("f", "x").end();
    layer.extend([0; 9 * 1024]);
    let expected: [u8; 32] = Sha256::digest(&layer).into();
    for (format, bytes) in [
        (ArchiveFormat::Tar, layer.clone()),
        (ArchiveFormat::TarGzip, gzip(&layer)),
    ] {
        let done = UnpackFixture::new()
            .unpack(&bytes, format, &UnpackLimits::layer())
            .unwrap();
        assert_eq!(done.digest, Some(expected));
    }
    let without_mark = Tarball::default().file("f", "x").without_end();
    UnpackFixture::new()
        .unpack(&without_mark, ArchiveFormat::Tar, &UnpackLimits::layer())
        .unwrap();
}
