//! An OCI image layout that a test creates: one layer, with a shell and its dependencies.

use std::fs;
use std::path::Path;
use std::process::Command;

use serde_json::{Value, json};
use sha2::{Digest, Sha256};

const BUSYBOX: &str = "/bin/busybox";

/// Writes a layout; returns false if this host lacks the files of its image.
pub(crate) fn write(directory: &Path) -> bool {
    write_with(directory, &json!({}))
}

/// Does the same with these settings in the configuration of the image.
pub(crate) fn write_with(directory: &Path, expected: &Value) -> bool {
    if !Path::new(BUSYBOX).exists() {
        return false;
    }
    let root = tempfile::tempdir().unwrap();
    let programs = root.path().join("bin");
    fs::create_dir(&programs).unwrap();
    fs::copy(BUSYBOX, programs.join("busybox")).unwrap();
    for tool in ["sh", "cat", "sleep"] {
        std::os::unix::fs::symlink("busybox", programs.join(tool)).unwrap();
    }
    let packed = Command::new("tar")
        .args([
            "--create",
            "--file=-",
            "--owner=0",
            "--group=0",
            "--directory",
        ])
        .args([root.path(), Path::new("bin")])
        .output()
        .unwrap();
    assert!(packed.status.success());
    let layer = packed.stdout;
    let config = json!({
        "architecture": "amd64", "os": "linux", "config": expected,
        "rootfs": {"type": "layers", "diff_ids": [digest(&layer)]},
    });
    let blobs = directory.join("blobs/sha256");
    fs::create_dir_all(&blobs).unwrap();
    let keep = |kind: &str, bytes: &[u8]| {
        let digest = digest(bytes);
        fs::write(blobs.join(digest.trim_start_matches("sha256:")), bytes).unwrap();
        let kind = format!("application/vnd.oci.image.{kind}");
        json!({"mediaType": kind, "digest": digest, "size": bytes.len()})
    };
    let bytes = |value: &Value| serde_json::to_vec(value).unwrap();
    let manifest = json!({
        "schemaVersion": 2, "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": keep("config.v1+json", &bytes(&config)),
        "layers": [keep("layer.v1.tar", &layer)],
    });
    let entry = keep("manifest.v1+json", &bytes(&manifest));
    let index = json!({"schemaVersion": 2, "manifests": [entry]});
    fs::write(directory.join("index.json"), bytes(&index)).unwrap();
    let version = json!({"imageLayoutVersion": "1.0.0"});
    fs::write(directory.join("oci-layout"), bytes(&version)).unwrap();
    true
}

fn digest(bytes: &[u8]) -> String {
    let hash = Sha256::digest(bytes);
    let digits: String = hash.iter().map(|byte| format!("{byte:02x}")).collect();
    format!("sha256:{digits}")
}
