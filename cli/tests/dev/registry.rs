//! Debian's image registry, and images for it.

use std::fs;
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::cluster::wait_for;

const PROGRAM: &str = "/usr/bin/docker-registry";
/// Its address, and the flag of clusters that pull from it.
const ADDRESS: &str = "127.0.0.1:5000";
pub(crate) const REGISTRY_FLAGS: [&str; 2] = ["--insecure-registry", ADDRESS];
pub(crate) const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";

pub(crate) fn digest(bytes: &[u8]) -> String {
    let digest = Sha256::digest(bytes);
    let digits: String = digest.iter().map(|byte| format!("{byte:02x}")).collect();
    format!("sha256:{digits}")
}

pub(crate) fn descriptor(media_type: &str, bytes: &[u8]) -> Value {
    json!({"mediaType": media_type, "digest": digest(bytes), "size": bytes.len()})
}

/// Returns layers, configuration and manifest of an image of these archives with this
/// configuration.
pub(crate) fn image(layers: Vec<Vec<u8>>, config: &Value) -> Vec<Vec<u8>> {
    let architecture = match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    };
    let ids: Vec<_> = layers.iter().map(|layer| digest(layer)).collect();
    let config = json!({
        "architecture": architecture, "os": "linux", "config": config,
        "rootfs": {"type": "layers", "diff_ids": ids},
    });
    let config = serde_json::to_vec(&config).unwrap();
    let kind = "application/vnd.oci.image.layer.v1.tar";
    let described: Vec<_> = layers.iter().map(|layer| descriptor(kind, layer)).collect();
    let manifest = json!({
        "schemaVersion": 2, "mediaType": MANIFEST,
        "config": descriptor("application/vnd.oci.image.config.v1+json", &config),
        "layers": described,
    });
    let manifest = serde_json::to_vec(&manifest).unwrap();
    [layers, vec![config, manifest]].concat()
}

/// Writes the image to a layout on disk, and returns its name.
pub(crate) fn in_a_layout(directory: &Path, blobs: &[Vec<u8>]) -> String {
    let places = directory.join("blobs/sha256");
    fs::create_dir_all(&places).unwrap();
    for blob in blobs {
        let name = digest(blob);
        fs::write(places.join(name.strip_prefix("sha256:").unwrap()), blob).unwrap();
    }
    let mut entry = descriptor(MANIFEST, blobs.last().unwrap());
    entry["annotations"] = json!({"org.opencontainers.image.ref.name": "1"});
    let index = json!({"schemaVersion": 2, "manifests": [entry]});
    fs::write(directory.join("index.json"), index.to_string()).unwrap();
    fs::write(
        directory.join("oci-layout"),
        r#"{"imageLayoutVersion":"1.0.0"}"#,
    )
    .unwrap();
    format!("oci:{}:1", directory.display())
}

/// Debian's registry, stopped with the test.
pub(crate) struct ImageRegistry {
    child: Child,
    directory: PathBuf,
}

impl Drop for ImageRegistry {
    fn drop(&mut self) {
        // It may have exited by itself; either way it is gone after the wait.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl ImageRegistry {
    pub(crate) fn is_installed() -> bool {
        Path::new(PROGRAM).exists()
    }

    pub(crate) fn start(directory: &Path) -> Self {
        let config = format!(
            "version: 0.1\nlog:\n  level: error\nstorage:\n  filesystem:\n    rootdirectory: {}\nhttp:\n  addr: \
             {ADDRESS}\n",
            directory.join("data").display()
        );
        let file = directory.join("config.yml");
        fs::write(&file, config).unwrap();
        let mut command = Command::new(PROGRAM);
        command.arg("serve").arg(&file).stdin(Stdio::null());
        command.stdout(Stdio::null()).stderr(Stdio::null());
        let registry = Self {
            child: command.spawn().unwrap(),
            directory: directory.to_owned(),
        };
        wait_for("the registry", || TcpStream::connect(ADDRESS).is_ok());
        registry
    }

    /// Pushes the image, and returns its name. Blobs first, the manifest under its tag last.
    pub(crate) fn push(&self, repository: &str, blobs: &[Vec<u8>]) -> String {
        let base = format!("http://{ADDRESS}/v2/{repository}");
        let (manifest, rest) = blobs.split_last().unwrap();
        let put = |url: &str, kind: &str, bytes: &[u8]| {
            let file = self.directory.join("upload");
            fs::write(&file, bytes).unwrap();
            let data = format!("@{}", file.display());
            let kind = format!("Content-Type: {kind}");
            curl(&[
                "-fsS",
                "-X",
                "PUT",
                "-H",
                &kind,
                "--data-binary",
                &data,
                url,
            ]);
        };
        for blob in rest {
            let begin = format!("{base}/blobs/uploads/");
            let head = curl(&["-fsS", "-i", "-X", "POST", "-d", "", &begin]);
            let place = head
                .lines()
                .find_map(|line| line.strip_prefix("Location: "))
                .unwrap();
            let url = format!("{}&digest={}", place.trim(), digest(blob));
            put(&url, "application/octet-stream", blob);
        }
        put(&format!("{base}/manifests/1"), MANIFEST, manifest);
        format!("{ADDRESS}/{repository}:1")
    }
}

fn curl(words: &[&str]) -> String {
    let output = Command::new("curl").args(words).output().unwrap();
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "curl {words:?}: {text}");
    String::from_utf8(output.stdout).unwrap()
}
