//! Random sequences of mostly invalid entries: nothing next to the target changes, and no link of
//! an archive leads outside.

use std::fs;
use std::path::Path;

use proptest::prelude::*;

use super::super::{ArchiveFormat, UnpackLimits};
use super::UnpackFixture;
use super::archives::{TarEntry, Tarball, own};

/// Few names, so that entries collide.
const NAMES: [&str; 12] = [
    "a",
    "b",
    "c",
    "l",
    "..",
    ".",
    "",
    ".wh.a",
    ".wh.l",
    ".wh..wh..opq",
    "outside",
    "secret",
];

fn path() -> impl Strategy<Value = String> {
    let name = prop::sample::select(&NAMES[..]);
    prop::collection::vec(name, 1..5).prop_map(|names| names.join("/"))
}

fn entry() -> impl Strategy<Value = (u8, String, String, u32, Vec<u8>)> {
    let kinds = *b"0012255346SxLg";
    let kind = prop::sample::select(kinds.to_vec());
    let body = prop::collection::vec(any::<u8>(), 0..40);
    (kind, path(), path(), 0_u32..0o10000, body)
}

fn tarball(entries: &[(u8, String, String, u32, Vec<u8>)]) -> Vec<u8> {
    let items = entries
        .iter()
        .map(|(kind, path, link, mode, body)| TarEntry {
            kind: *kind,
            path: path.as_bytes(),
            link: link.as_bytes(),
            mode: *mode,
            owner: own(),
            body,
        });
    items
        .fold(Tarball::default(), |tarball, item| tarball.item(&item))
        .end()
}

fn assert_links_stay(directory: &Path, root: &Path) {
    for entry in fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        let data = fs::symlink_metadata(&path).unwrap();
        if data.is_dir() {
            assert_links_stay(&path, root);
        } else if data.is_symlink()
            && let Ok(end) = fs::canonicalize(&path)
        {
            assert!(
                end.starts_with(root),
                "{} leads to {}",
                path.display(),
                end.display()
            );
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn random_archives_do_not_write_outside_their_directory(entries in prop::collection::vec(entry(), 1..12)) {
        // An invalid entry ends the work, so each is also tried as the last one.
        for length in 1..=entries.len() {
            let world = UnpackFixture::new();
            let _ = world.unpack(&tarball(&entries[..length]), ArchiveFormat::Tar, &UnpackLimits::archive());
            let root = fs::canonicalize(world.target()).unwrap();
            assert_links_stay(&root, &root);
        }
    }

    #[test]
    fn random_layers_do_not_write_outside_their_directory(entries in prop::collection::vec(entry(), 1..12)) {
        let world = UnpackFixture::new();
        let _ = world.unpack(&tarball(&entries), ArchiveFormat::Tar, &UnpackLimits::layer());
    }

    #[test]
    fn random_bytes_are_not_an_archive(
        bytes in prop::collection::vec(any::<u8>(), 0..3000),
        format in prop::sample::select(vec![ArchiveFormat::Tar, ArchiveFormat::TarGzip, ArchiveFormat::TarZstd, ArchiveFormat::TarXz, ArchiveFormat::Zip]),
    ) {
        prop_assert!(UnpackFixture::new().unpack(&bytes, format, &UnpackLimits::archive()).is_err());
    }

    #[test]
    fn one_changed_byte_never_escapes(at in any::<prop::sample::Index>(), to in any::<u8>()) {
        let mut bytes = Tarball::default().directory("a").file("a/f", "x").link("l", "a/f").hard_link("h", "a/f").end();
        let at = at.index(bytes.len());
        bytes[at] = to;
        let world = UnpackFixture::new();
        let _ = world.unpack(&bytes, ArchiveFormat::Tar, &UnpackLimits::archive());
        let root = fs::canonicalize(world.target()).unwrap();
        assert_links_stay(&root, &root);
    }
}
