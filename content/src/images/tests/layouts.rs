//! Tests of images from directories and archives of the host.

use std::os::unix::fs::symlink;

use super::fixtures::{append, index};
use super::*;

/// Writes a layout; each image with its tag.
fn write(directory: &Path, images: &[(&TestImage, Option<&str>)]) {
    let blobs = directory.join("blobs/sha256");
    fs::create_dir_all(&blobs).unwrap();
    fs::write(
        directory.join("oci-layout"),
        r#"{"imageLayoutVersion": "1.0.0"}"#,
    )
    .unwrap();
    let entries: Vec<_> = images
        .iter()
        .map(|(image, tag)| image.entry(None, *tag))
        .collect();
    fs::write(directory.join("index.json"), index(&entries)).unwrap();
    for (image, _) in images {
        let manifest = [image.manifest.clone()];
        for blob in image.blobs().into_iter().chain(manifest) {
            fs::write(blobs.join(Digest::of(&blob).hex()), blob).unwrap();
        }
    }
}

/// Packs a layout, with the extra entries of other tools.
fn pack(directory: &Path, prefix: &str) -> Vec<u8> {
    let mut archive = tar::Builder::new(Vec::new());
    append(
        &mut archive,
        &format!("{}/unrelated", "long".repeat(40)),
        b"x",
    );
    let mut names = vec!["oci-layout".to_owned(), "index.json".to_owned()];
    for entry in fs::read_dir(directory.join("blobs/sha256")).unwrap() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        names.push(format!("blobs/sha256/{name}"));
    }
    for name in names {
        let text = fs::read(directory.join(&name)).unwrap();
        append(&mut archive, &format!("{prefix}{name}"), &text);
    }
    archive.into_inner().unwrap()
}

async fn world() -> (ImagesFixture, tempfile::TempDir) {
    let directory = tempfile::tempdir().unwrap();
    let settings = ImageSettings {
        directories: vec![directory.path().to_owned()],
        ..ImageSettings::default()
    };
    (ImagesFixture::with(settings).await, directory)
}

fn named(form: &str, path: &Path, tag: &str) -> ImageReference {
    format!("{form}:{}{tag}", path.display()).parse().unwrap()
}

fn two() -> (TestImage, TestImage) {
    (
        TestImage::new(&[("page", "one")]),
        TestImage::new(&[("page", "two")]),
    )
}

#[tokio::test]
async fn a_tag_selects_an_image_of_a_layout_or_archive() {
    let (world, directory) = world().await;
    let (one, two) = two();
    let layout = directory.path().join("layout");
    write(&layout, &[(&one, Some("1")), (&two, Some("2"))]);
    let image = world.obtain(&named("oci", &layout, ":2"), 1).await.unwrap();
    assert_eq!(texts(&image, "page"), ["two"]);
    for (at, prefix) in ["", "./"].into_iter().enumerate() {
        let archive = directory.path().join(format!("web{at}.tar"));
        fs::write(&archive, pack(&layout, prefix)).unwrap();
        let image = world
            .obtain(&named("oci-archive", &archive, ":1"), 2)
            .await
            .unwrap();
        assert_eq!(texts(&image, "page"), ["one"]);
    }
    for tag in ["", ":3"] {
        let error = world
            .obtain(&named("oci", &layout, tag), 3)
            .await
            .unwrap_err();
        assert!(error.ends_with("it has 1, 2"), "{error}");
    }
    let single = directory.path().join("single");
    write(&single, &[(&one, None)]);
    let image = world.obtain(&named("oci", &single, ""), 4).await.unwrap();
    assert_eq!(texts(&image, "page"), ["one"]);
    world.until_no_draft().await;
}

#[tokio::test]
async fn only_allowed_directories_are_read() {
    let (world, directory) = world().await;
    let elsewhere = tempfile::tempdir().unwrap();
    let (one, _) = two();
    write(elsewhere.path(), &[(&one, None)]);
    let error = world
        .obtain(&named("oci", elsewhere.path(), ""), 1)
        .await
        .unwrap_err();
    assert!(error.contains("--image-dir"), "{error}");
    let link = directory.path().join("link");
    symlink(elsewhere.path(), &link).unwrap();
    let up = directory
        .path()
        .join("..")
        .join(elsewhere.path().file_name().unwrap());
    for path in [link, up] {
        let error = world.obtain(&named("oci", &path, ""), 1).await.unwrap_err();
        assert!(error.contains("--image-dir"), "{error}");
    }
}

#[tokio::test]
async fn a_layout_cannot_refer_outside_itself() {
    let (world, directory) = world().await;
    let elsewhere = tempfile::tempdir().unwrap();
    let (one, _) = two();
    write(directory.path(), &[(&one, None)]);
    let blob = directory
        .path()
        .join("blobs/sha256")
        .join(Digest::of(&one.layers[0]).hex());
    // The right bytes, but from outside the layout.
    fs::rename(&blob, elsewhere.path().join("blob")).unwrap();
    symlink(elsewhere.path().join("blob"), &blob).unwrap();
    let name = named("oci", directory.path(), "");
    let error = world.obtain(&name, 1).await.unwrap_err();
    assert!(error.contains("cannot read"), "{error}");
    fs::remove_file(&blob).unwrap();
    nix::unistd::mkfifo(&blob, nix::sys::stat::Mode::S_IRUSR).unwrap();
    let error = world.obtain(&name, 1).await.unwrap_err();
    assert!(error.contains("not a regular file"), "{error}");
}

#[tokio::test]
async fn a_damaged_layout_is_rejected_with_the_reason() {
    let (world, directory) = world().await;
    let (one, _) = two();
    write(directory.path(), &[(&one, None)]);
    let name = named("oci", directory.path(), "");
    let blob = directory
        .path()
        .join("blobs/sha256")
        .join(Digest::of(&one.layers[0]).hex());
    for (bytes, wanted) in [
        (vec![0; one.layers[0].len()], "tampered"),
        (vec![0; 10], "and 10 came"),
        (vec![0; one.layers[0].len() + 1], "came"),
    ] {
        fs::write(&blob, bytes).unwrap();
        let error = world.obtain(&name, 1).await.unwrap_err();
        assert!(error.contains(wanted), "{error}");
    }
    for (file, text, wanted) in [
        ("index.json", "[]", "neither"),
        ("index.json", "{", "index.json is not valid"),
        (
            "oci-layout",
            r#"{"imageLayoutVersion": "2.0.0"}"#,
            "is not 1",
        ),
        ("oci-layout", "x", "oci-layout"),
    ] {
        fs::write(directory.path().join(file), text).unwrap();
        let error = world.obtain(&name, 1).await.unwrap_err();
        assert!(error.contains(wanted), "{error}");
    }
    let archive = directory.path().join("web.tar");
    let name = named("oci-archive", &archive, "");
    for (bytes, wanted) in [
        (vec![0x1f, 0x8b, 8, 0], "plain tar file"),
        (vec![b'x'; 2_000], "plain tar file"),
        (Vec::new(), "no file oci-layout"),
        (super::fixtures::tar("other", b""), "no file oci-layout"),
    ] {
        fs::write(&archive, bytes).unwrap();
        let error = world.obtain(&name, 1).await.unwrap_err();
        assert!(error.contains(wanted), "{error}");
    }
    assert!(world.list("layers").is_empty());
}
