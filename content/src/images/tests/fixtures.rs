//! Images for the tests: layers of a few files, with configuration and manifest.

use serde_json::{Value, json};

use super::Digest;

pub(super) const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
pub(super) const INDEX: &str = "application/vnd.oci.image.index.v1+json";
const CONFIG: &str = "application/vnd.oci.image.config.v1+json";
const LAYER: &str = "application/vnd.oci.image.layer.v1.tar";

/// An image, in bytes.
#[derive(Clone)]
pub(super) struct TestImage {
    pub(super) layers: Vec<Vec<u8>>,
    pub(super) config: Vec<u8>,
    pub(super) manifest: Vec<u8>,
}

impl TestImage {
    /// Creates layers of one file each, with this name and text.
    pub(super) fn new(layers: &[(&str, &str)]) -> Self {
        Self::of(
            layers
                .iter()
                .map(|(name, text)| tar(name, text.as_bytes()))
                .collect(),
        )
    }

    pub(super) fn of(layers: Vec<Vec<u8>>) -> Self {
        let diff_ids = layers.iter().map(|layer| Digest::of(layer)).collect();
        Self::claiming(layers, diff_ids)
    }

    /// Creates an image whose configuration may claim other diff ids for its layers.
    pub(super) fn claiming(layers: Vec<Vec<u8>>, diff_ids: Vec<Digest>) -> Self {
        let config = json!({
            "architecture": host(), "os": "linux",
            "config": {"Entrypoint": ["/entry"], "Cmd": ["serve"], "Env": ["A=image"],
                "WorkingDir": "/srv", "User": "web", "ExposedPorts": {"80/tcp": {}}},
            "rootfs": {"type": "layers", "diff_ids": diff_ids},
        });
        let config = serde_json::to_vec(&config).unwrap();
        let described = layers.iter().map(|layer| descriptor(LAYER, layer));
        let manifest = json!({
            "schemaVersion": 2, "mediaType": MANIFEST, "config": descriptor(CONFIG, &config),
            "layers": described.collect::<Vec<_>>(),
        });
        let manifest = serde_json::to_vec(&manifest).unwrap();
        Self {
            layers,
            config,
            manifest,
        }
    }

    pub(super) fn digest(&self) -> Digest {
        Digest::of(&self.manifest)
    }

    pub(super) fn blobs(&self) -> Vec<Vec<u8>> {
        let mut blobs = self.layers.clone();
        blobs.push(self.config.clone());
        blobs
    }

    /// Returns its index entry.
    pub(super) fn entry(&self, platform: Option<(&str, &str)>, tag: Option<&str>) -> Value {
        let mut entry = descriptor(MANIFEST, &self.manifest);
        if let Some((os, architecture)) = platform {
            entry["platform"] = json!({"os": os, "architecture": architecture});
        }
        if let Some(tag) = tag {
            entry["annotations"] = json!({"org.opencontainers.image.ref.name": tag});
        }
        entry
    }
}

pub(super) fn index(entries: &[Value]) -> Vec<u8> {
    let index = json!({"schemaVersion": 2, "mediaType": INDEX, "manifests": entries});
    serde_json::to_vec(&index).unwrap()
}

pub(super) fn descriptor(media_type: &str, bytes: &[u8]) -> Value {
    json!({"mediaType": media_type, "digest": Digest::of(bytes), "size": bytes.len()})
}

/// Returns a tar file with one file in it.
pub(super) fn tar(name: &str, text: &[u8]) -> Vec<u8> {
    let mut archive = tar::Builder::new(Vec::new());
    append(&mut archive, name, text);
    archive.into_inner().unwrap()
}

pub(super) fn append(archive: &mut tar::Builder<Vec<u8>>, name: &str, text: &[u8]) {
    let mut header = tar::Header::new_ustar();
    header.set_size(text.len() as u64);
    header.set_mode(0o644);
    archive.append_data(&mut header, name, text).unwrap();
}

/// Returns this host's architecture, as images name it.
pub(super) fn host() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}
