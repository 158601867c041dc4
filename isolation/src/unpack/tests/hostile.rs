//! Each archive has one defect. The error names the entry and the rule.

use std::fs;
use std::os::unix::fs::MetadataExt;

use super::super::{ArchiveFormat, UnpackError, UnpackLimits};
use super::UnpackFixture;
use super::archives::{TarEntry, Tarball, gzip, own, xz, zip, zstd};

fn refused(tarball: Tarball, entry: &str, rule: &str) {
    let refusal = UnpackFixture::new().refusal(&tarball.end());
    assert!(
        refusal.starts_with(&format!("entry \"{entry}\" is refused: ")),
        "{refusal}"
    );
    assert!(refusal.contains(rule), "{refusal}");
}

#[test]
fn paths_outside_the_target_are_rejected() {
    refused(
        Tarball::default().file("/etc/evil", "x"),
        "/etc/evil",
        "absolute",
    );
    refused(
        Tarball::default().file("../outside/secret", "x"),
        "../outside/secret",
        "'..'",
    );
    refused(
        Tarball::default().file("a/../../b", "x"),
        "a/../../b",
        "'..'",
    );
    refused(Tarball::default().directory(".."), "..", "'..'");
    refused(
        Tarball::default().directory("a/..//../outside"),
        "a/..//../outside",
        "'..'",
    );
}

#[test]
fn nothing_is_written_through_a_link() {
    let direct = Tarball::default()
        .link("l", "../outside")
        .file("l/secret", "x");
    refused(direct, "l", "may lead out");
    let inside = Tarball::default()
        .directory("a")
        .link("l", "a")
        .file("l/file", "x");
    refused(inside, "l/file", "through the link \"l\"");
    let last = Tarball::default()
        .directory("a")
        .link("l", "a/file")
        .file("l", "x");
    let world = UnpackFixture::new();
    world
        .unpack(&last.end(), ArchiveFormat::Tar, &UnpackLimits::archive())
        .unwrap();
    assert_eq!(world.found("l"), "file 644 x", "the link was replaced");
    assert_eq!(world.found("a/file"), "nothing");
}

#[test]
fn an_existing_link_is_not_followed() {
    let world = UnpackFixture::new();
    std::os::unix::fs::symlink("../outside", world.at("l")).unwrap();
    let refusal = world.refusal(&Tarball::default().file("l/secret", "x").end());
    assert!(refusal.contains("through the link \"l\""), "{refusal}");
    world
        .unpack(
            &Tarball::default().directory("l").end(),
            ArchiveFormat::Tar,
            &UnpackLimits::archive(),
        )
        .unwrap();
    assert_eq!(world.found("l"), "directory 755");
}

#[test]
fn links_to_outside_the_target_are_rejected() {
    refused(
        Tarball::default().link("l", "/etc/passwd"),
        "l",
        "\"/etc/passwd\"",
    );
    refused(
        Tarball::default().link("a/l", "../../outside"),
        "a/l",
        "may lead out",
    );
    let chain = Tarball::default()
        .directory("a")
        .link("a/up", "..")
        .link("l", "a/up/../outside");
    refused(chain, "l", "may lead out");
    refused(Tarball::default().link("l", ""), "l", "empty");
}

#[test]
fn hard_links_may_target_only_files_of_the_archive() {
    refused(
        Tarball::default().hard_link("h", "../outside/secret"),
        "h",
        "'..'",
    );
    refused(
        Tarball::default().hard_link("h", "/etc/passwd"),
        "h",
        "absolute",
    );
    refused(
        Tarball::default().hard_link("h", "missing"),
        "h",
        "not an earlier file",
    );
    refused(
        Tarball::default().hard_link("h", "h"),
        "h",
        "not an earlier file",
    );
    refused(
        Tarball::default().directory("a").hard_link("h", "a"),
        "h",
        "not an earlier file",
    );
    // At another path the same link is allowed.
    let moved = Tarball::default()
        .link("a/b/l", "../..")
        .hard_link("l", "a/b/l");
    refused(moved, "l", "not an earlier file");
    let through = Tarball::default()
        .file("a/f", "x")
        .link("l", "a")
        .hard_link("h", "l/f");
    refused(through, "h", "not an earlier file");
    let gone = Tarball::default().file("a/f", "x").hard_link("a", "a/f");
    refused(gone, "a", "not an earlier file");
}

#[test]
fn replacing_a_hard_linked_file_does_not_change_the_other_name() {
    let world = UnpackFixture::new();
    let tarball = Tarball::default()
        .file("a", "one")
        .hard_link("b", "a")
        .file("b", "two");
    world
        .unpack(&tarball.end(), ArchiveFormat::Tar, &UnpackLimits::archive())
        .unwrap();
    assert_eq!(world.found("a"), "file 644 one");
    assert_eq!(world.found("b"), "file 644 two");
}

#[test]
fn devices_and_pipes_are_refused() {
    refused(
        Tarball::default().entry(b'3', "dev", "", ""),
        "dev",
        "it is a device",
    );
    refused(
        Tarball::default().entry(b'4', "disk", "", ""),
        "disk",
        "it is a device",
    );
    refused(
        Tarball::default().entry(b'6', "pipe", "", ""),
        "pipe",
        "it is a pipe",
    );
    refused(
        Tarball::default().entry(b'V', "name", "", ""),
        "name",
        "unknown kind 'V'",
    );
}

#[test]
fn set_id_bits_are_kept_only_in_layers() {
    let world = UnpackFixture::new();
    let item = |kind, path| TarEntry {
        kind,
        path,
        link: b"",
        mode: 0o7755,
        owner: own(),
        body: b"",
    };
    let tarball = Tarball::default()
        .item(&item(b'0', b"file"))
        .item(&item(b'5', b"folder"));
    let tarball = tarball.end();
    world
        .unpack(&tarball, ArchiveFormat::Tar, &UnpackLimits::archive())
        .unwrap();
    assert_eq!(world.found("file"), "file 755 ");
    assert_eq!(world.found("folder"), "directory 755");
    world
        .unpack(&tarball, ArchiveFormat::Tar, &UnpackLimits::layer())
        .unwrap();
    // The mount options decide whether they have an effect.
    assert_eq!(world.found("file"), "file 6755 ");
    assert_eq!(
        world.found("folder"),
        "directory 3755",
        "new files get the group of the directory"
    );
}

#[test]
fn declared_sizes_count_before_the_data() {
    let rules = UnpackLimits {
        bytes_max: 1 << 30,
        ..UnpackLimits::archive()
    };
    let world = UnpackFixture::new();
    let declared = Tarball::default().declared("large", 4 << 30).end();
    let refusal = world.refusal_of(&declared, ArchiveFormat::Tar, &rules);
    assert!(refusal.contains("\"large\" is refused"), "{refusal}");
    assert_eq!(world.found("large"), "nothing");
    let hole = Tarball::default().hole("hole", 1 << 40).end();
    let refusal = world.refusal_of(&hole, ArchiveFormat::Tar, &rules);
    assert!(
        refusal.contains("\"hole\" is refused: the archive"),
        "{refusal}"
    );
    let small = Tarball::default().hole("hole", 1 << 20).end();
    world.unpack(&small, ArchiveFormat::Tar, &rules).unwrap();
    assert_eq!(fs::metadata(world.at("hole")).unwrap().size(), 1 << 20);
    let pax = Tarball::default()
        .pax("GNU.sparse.realsize", b"7")
        .file("pax", "x");
    refused(pax, "pax", "without --sparse");
}

#[test]
fn compression_bombs_are_rejected_in_every_format() {
    let zeroes = "\0".repeat(24 << 20);
    let tarball = Tarball::default().file("zeroes", &zeroes).end();
    let rules = UnpackLimits::archive();
    let bombs = [
        (ArchiveFormat::TarGzip, gzip(&tarball)),
        (ArchiveFormat::TarZstd, zstd(&tarball)),
        (ArchiveFormat::TarXz, xz(&tarball)),
        (
            ArchiveFormat::Zip,
            zip(&[("zeroes", 0o644, zeroes.as_bytes())]),
        ),
    ];
    for (format, bomb) in bombs {
        assert!(bomb.len() < 120_000, "{}: {}", format.name(), bomb.len());
        let world = UnpackFixture::new();
        let refusal = world.refusal_of(&bomb, format, &rules);
        let expected = "entry \"zeroes\" is refused: the archive grows to more than 200 times";
        assert!(
            refusal.starts_with(expected),
            "{}: {refusal}",
            format.name()
        );
        let trusted = UnpackLimits {
            ratio_max: 100_000,
            ..rules.clone()
        };
        world.unpack(&bomb, format, &trusted).unwrap();
        assert_eq!(fs::metadata(world.at("zeroes")).unwrap().size(), 24 << 20);
    }
}

#[test]
fn too_many_entries_are_refused() {
    let rules = UnpackLimits {
        entries_max: 1000,
        ..UnpackLimits::archive()
    };
    let many = Tarball::default().repeated("again", 200_000).end();
    let refusal = UnpackFixture::new().refusal_of(&many, ArchiveFormat::Tar, &rules);
    assert!(refusal.contains("more than 1000 entries"), "{refusal}");
    let few = UnpackLimits {
        entries_max: 10,
        ..UnpackLimits::archive()
    };
    let deep = Tarball::default().file("a/b/c/d/e/f/g/h/i/j/k/l", "").end();
    let refusal = UnpackFixture::new().refusal_of(&deep, ArchiveFormat::Tar, &few);
    assert!(refusal.contains("more than 10 entries"), "{refusal}");
    let names: Vec<_> = (0..1001).map(|number| number.to_string()).collect();
    let files: Vec<_> = names
        .iter()
        .map(|name| (name.as_str(), 0o644, &b""[..]))
        .collect();
    let refusal = UnpackFixture::new().refusal_of(&zip(&files), ArchiveFormat::Zip, &rules);
    assert!(refusal.contains("more than 1000 entries"), "{refusal}");
    UnpackFixture::new()
        .unpack(&zip(&files[1..]), ArchiveFormat::Zip, &rules)
        .unwrap();
}

#[test]
fn paths_that_are_too_long_or_deep_are_refused() {
    let deep = "a/".repeat(1000);
    let world = UnpackFixture::new();
    let refusal = world.refusal(&Tarball::default().file(&format!("{deep}f"), "x").end());
    assert!(refusal.contains("deeper than 128 directories"), "{refusal}");
    assert_eq!(world.found("a"), "nothing");
    let refusal = world.refusal(&Tarball::default().file(&"n".repeat(300), "x").end());
    assert!(refusal.contains("more than 255 bytes"), "{refusal}");
    let fits = "n".repeat(255);
    world
        .unpack(
            &Tarball::default().file(&fits, "x").end(),
            ArchiveFormat::Tar,
            &UnpackLimits::archive(),
        )
        .unwrap();
    assert_eq!(world.found(&fits), "file 644 x");
}

#[test]
fn a_nul_byte_is_rejected_everywhere() {
    refused(
        Tarball::default().pax("path", b"a\0b").file("f", "x"),
        "a\\0b",
        "a NUL byte",
    );
    refused(Tarball::default().file("a\0b", "x"), "a\\0b", "a NUL byte");
    refused(
        Tarball::default().pax("linkpath", b"a\0b").link("l", "x"),
        "l",
        "a NUL byte",
    );
}

#[test]
fn headers_are_bounded() {
    let long = vec![b'x'; 2 << 20];
    let refusal =
        UnpackFixture::new().refusal(&Tarball::default().pax("comment", &long).file("f", "").end());
    assert!(
        refusal.contains("its header has more than 1048576 bytes"),
        "{refusal}"
    );
}

#[test]
fn the_last_entry_with_a_name_is_kept() {
    let world = UnpackFixture::new();
    let tarball = Tarball::default()
        .file("a", "one")
        .file("a", "two")
        .file("b", "file")
        .directory("b")
        .file("b/inner", "x")
        .directory("c")
        .file("c/inner/deep", "x")
        .file("c", "file")
        .directory("c")
        .link("d", "a")
        .directory("d");
    world
        .unpack(&tarball.end(), ArchiveFormat::Tar, &UnpackLimits::archive())
        .unwrap();
    assert_eq!(world.found("a"), "file 644 two");
    assert_eq!(world.found("b"), "directory 755");
    assert_eq!(world.found("b/inner"), "file 644 x");
    assert_eq!(world.found("c"), "directory 755");
    assert_eq!(world.found("c/inner"), "nothing");
    assert_eq!(world.found("d"), "directory 755");
    refused(
        Tarball::default().file("a", "x").file("a/b", "x"),
        "a/b",
        "\"a\", which is not a directory",
    );
}

#[test]
fn zip_archives_follow_the_same_rules() {
    let link = libc::S_IFLNK | 0o777;
    let refused = |files: &[(&str, u32, &[u8])], rule: &str| {
        let refusal = UnpackFixture::new().refusal_of(
            &zip(files),
            ArchiveFormat::Zip,
            &UnpackLimits::archive(),
        );
        assert!(refusal.contains(rule), "{refusal}");
    };
    refused(&[("../outside/secret", 0o644, b"x")], "'..'");
    refused(&[("/etc/evil", 0o644, b"x")], "absolute");
    refused(&[("..\\..\\evil", 0o644, b"x")], "a backslash");
    refused(&[("C:\\evil", 0o644, b"x")], "a backslash");
    refused(&[("l", link, b"../outside")], "may lead out");
    refused(
        &[
            ("l", link, b"a"),
            ("a/f", 0o644, b"x"),
            ("l/f", 0o644, b"x"),
        ],
        "through the link",
    );
    let world = UnpackFixture::new();
    let files: [(&str, u32, &[u8]); 3] = [
        ("a/file", 0o6755, b"x"),
        ("a/l", link, b"file"),
        ("b/", 0o755, b""),
    ];
    world
        .unpack(&zip(&files), ArchiveFormat::Zip, &UnpackLimits::archive())
        .unwrap();
    assert_eq!(world.found("a/file"), "file 755 x");
    assert_eq!(world.found("a/l"), "link file");
    assert_eq!(world.found("b"), "directory 755");
}

#[test]
fn zip_entries_may_not_share_bytes() {
    let mut bytes = zip(&[("one", 0o644, b"same"), ("two", 0o644, b"same")]);
    let lists: Vec<_> = (0..bytes.len() - 4)
        .filter(|at| bytes[*at..].starts_with(b"PK\x01\x02"))
        .collect();
    // The offset of the second entry is 42 bytes after its signature: it now refers to the first
    // entry.
    bytes[lists[1] + 42..lists[1] + 46].copy_from_slice(&[0; 4]);
    let refusal =
        UnpackFixture::new().refusal_of(&bytes, ArchiveFormat::Zip, &UnpackLimits::archive());
    assert!(refusal.contains("overlap"), "{refusal}");
}

#[test]
fn truncated_and_corrupt_archives_are_rejected() {
    let text: String = (0..20_000).map(|number| number.to_string()).collect();
    let tarball = Tarball::default().file("first", "x").file("text", &text);
    let whole = tarball.end();
    let zipped = zip(&[("first", 0o644, b"x"), ("text", 0o644, text.as_bytes())]);
    let packed = [
        (ArchiveFormat::Tar, whole.clone()),
        (ArchiveFormat::TarGzip, gzip(&whole)),
        (ArchiveFormat::TarZstd, zstd(&whole)),
        (ArchiveFormat::TarXz, xz(&whole)),
        (ArchiveFormat::Zip, zipped),
    ];
    for (format, archive) in packed {
        assert_eq!(ArchiveFormat::of(&archive), Some(format));
        for cut in [0, 1, 100, archive.len() / 2, archive.len() * 9 / 10] {
            let world = UnpackFixture::new();
            let error = world
                .unpack(&archive[..cut], format, &UnpackLimits::archive())
                .unwrap_err();
            let damaged = matches!(error, UnpackError::Damaged { .. });
            assert!(
                damaged,
                "{} cut at {cut}: {}",
                format.name(),
                error.message()
            );
        }
        let mut broken = archive.clone();
        let middle = broken.len() / 2;
        broken[middle] ^= 0xff;
        if format != ArchiveFormat::Tar {
            UnpackFixture::new()
                .unpack(&broken, format, &UnpackLimits::archive())
                .unwrap_err();
        }
        UnpackFixture::new()
            .unpack(&archive, format, &UnpackLimits::archive())
            .unwrap();
    }
    let unmarked = Tarball::default().file("first", "x").without_end();
    let error = UnpackFixture::new().refusal(&unmarked);
    assert!(
        error.contains("after entry \"first\"") && error.contains("no end mark"),
        "{error}"
    );
}

#[test]
fn trailing_data_is_rejected() {
    let mut archive = Tarball::default().file("f", "x").end();
    archive.extend([0; 10 * 512]);
    UnpackFixture::new()
        .unpack(&archive, ArchiveFormat::Tar, &UnpackLimits::archive())
        .unwrap();
    archive.extend(b"garbage");
    let refusal = UnpackFixture::new().refusal(&archive);
    assert!(refusal.contains("continues after its end"), "{refusal}");
    let mut packed = gzip(&Tarball::default().file("f", "x").end());
    packed.extend(b"garbage");
    UnpackFixture::new()
        .unpack(&packed, ArchiveFormat::TarGzip, &UnpackLimits::archive())
        .unwrap_err();
}

#[test]
fn the_caller_can_cancel() {
    let body = "x".repeat(4 << 20);
    let archive = Tarball::default().file("f", &body).file("g", &body).end();
    let world = UnpackFixture::new();
    let ended = world.unpack_until(
        &archive,
        ArchiveFormat::Tar,
        &UnpackLimits::archive(),
        2 << 20,
    );
    assert!(matches!(ended, Err(UnpackError::Cancelled)));
    assert!(fs::metadata(world.at("f")).unwrap().size() < 3 << 20);
}
