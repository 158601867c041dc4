//! Parsing and validation of manifests, indexes and configurations. Pure.

mod schema;

use std::collections::BTreeSet;

use argosy_isolation::LAYERS_MAX;
use serde::{Deserialize, Serialize};

use super::digest::Digest;
use super::error::PullErrorKind;
use super::unpacker::LayerCompression;
pub(super) use schema::{Descriptor, ImageConfiguration, ImageManifest};
use schema::{DocumentKind, ImageIndex, ShortText};

/// The maximum size of a manifest or index, in bytes.
pub(super) const MANIFEST_BYTES: u64 = 4 * 1024 * 1024;
/// The maximum size of a configuration, in bytes.
pub(super) const CONFIG_BYTES: u64 = 8 * 1024 * 1024;
/// The maximum number of layers of an image: that of a container's root.
pub(super) const LAYERS: usize = LAYERS_MAX;
/// The maximum number of platforms in an error.
const OFFERED: usize = 20;
/// The operating system of images that a host of this agent can run.
const LINUX: &str = "linux";

/// The accepted media types of a manifest response.
pub(super) const MEDIA_TYPES: [&str; 4] = [INDEX, DOCKER_INDEX, MANIFEST, DOCKER_MANIFEST];
const INDEX: &str = "application/vnd.oci.image.index.v1+json";
const DOCKER_INDEX: &str = "application/vnd.docker.distribution.manifest.list.v2+json";
const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const DOCKER_MANIFEST: &str = "application/vnd.docker.distribution.manifest.v2+json";

/// A content with its announced digest and size.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BlobDescriptor {
    /// Its display name, `the layer sha256:...`.
    pub(super) what: String,
    pub(super) digest: Digest,
    pub(super) size: u64,
}

/// A layer as announced by a manifest and the configuration.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct LayerDescriptor {
    pub(super) blob: BlobDescriptor,
    pub(super) packing: LayerCompression,
    pub(super) diff_id: Digest,
}

/// The document that a name, or an entry of an index, refers to.
#[derive(Debug)]
pub(super) enum ManifestDocument {
    Index(Vec<Descriptor>),
    Manifest(ImageManifest),
}

/// The platform of this host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Platform {
    architecture: String,
}

impl Platform {
    pub(super) fn of_this_host() -> Self {
        Self {
            architecture: match std::env::consts::ARCH {
                "x86_64" => "amd64",
                "aarch64" => "arm64",
                "x86" => "386",
                "powerpc64" => "ppc64le",
                "loongarch64" => "loong64",
                other => other,
            }
            .to_owned(),
        }
    }

    fn name(&self) -> String {
        format!("linux/{}", self.architecture)
    }
}

/// Parses a manifest or an index. `announced` is the media type that came with it, if any.
pub(super) fn document(
    what: &str,
    bytes: &[u8],
    announced: Option<&str>,
) -> Result<ManifestDocument, PullErrorKind> {
    let malformed = |rule: &str| PullErrorKind::Malformed {
        what: what.to_owned(),
        rule: rule.to_owned(),
    };
    // Lists have no fields, but the parser accepts their items as those of a struct.
    if bytes.trim_ascii_start().first() != Some(&b'{') {
        return Err(malformed("it is neither a manifest nor an index"));
    }
    let read = |error: serde_json::Error| PullErrorKind::malformed(what, &error);
    let kind: DocumentKind = serde_json::from_slice(bytes).map_err(read)?;
    if kind.fs_layers.is_some() || kind.schema_version == Some(1) {
        return Err(malformed(
            "it has the format of before 2016: push the image again with a newer tool",
        ));
    }
    // One document must not be a manifest for one reader and an index for another.
    let is_index = kind.manifests.is_some();
    if is_index && (kind.layers.is_some() || kind.config.is_some()) {
        return Err(malformed("it is a manifest and an index at once"));
    }
    if !is_index && kind.layers.is_none() {
        return Err(malformed("it is neither a manifest nor an index"));
    }
    let inside = kind.media_type.as_deref();
    for output in [inside, announced].into_iter().flatten() {
        let is_typed_index = match output {
            INDEX | DOCKER_INDEX => true,
            MANIFEST | DOCKER_MANIFEST => false,
            // Servers of plain files announce any type.
            _ if inside != Some(output) => continue,
            _ => return Err(malformed(&format!("its media type {output:?} is unknown"))),
        };
        if is_typed_index != is_index {
            return Err(malformed(&format!(
                "it is not of its media type {output:?}"
            )));
        }
    }
    if kind.schema_version != Some(2) {
        return Err(malformed("its schemaVersion is not 2"));
    }
    if is_index {
        let index: ImageIndex = serde_json::from_slice(bytes).map_err(read)?;
        return Ok(ManifestDocument::Index(index.manifests));
    }
    let manifest: ImageManifest = serde_json::from_slice(bytes).map_err(read)?;
    // At once, because a manifest stays in memory while the configuration is downloaded.
    let count = manifest.layers.len();
    if count > LAYERS {
        return Err(PullErrorKind::TooManyLayers {
            count,
            limit: LAYERS,
        });
    }
    Ok(ManifestDocument::Manifest(manifest))
}

/// Returns the entry of an index for this host.
pub(super) fn choose<'a>(
    entries: &'a [Descriptor],
    host: &Platform,
) -> Result<&'a Descriptor, PullErrorKind> {
    let mut fitting = Vec::new();
    let mut offered = Vec::new();
    for entry in entries {
        let Some(platform) = &entry.platform else {
            // An entry without a platform is for all hosts, but only if it is the only one.
            if entries.len() == 1 {
                return Ok(entry);
            }
            continue;
        };
        let (os, architecture) = (platform.os.as_str(), platform.architecture.as_str());
        let variant = platform.variant.as_ref().map_or("", ShortText::as_str);
        if os == LINUX && architecture == host.architecture {
            fitting.push((!is_baseline(architecture, variant), entry));
        }
        // Signatures and the like are listed in indexes as images for no platform.
        if architecture != "unknown" && offered.len() < OFFERED {
            let parts = [os, architecture, variant].into_iter();
            let parts: Vec<_> = parts.filter(|part| !part.is_empty()).collect();
            offered.push(parts.join("/"));
        }
    }
    // Among equals the first, as the specification requires.
    fitting.sort_by_key(|(is_special, _)| *is_special);
    if let Some((_, entry)) = fitting.first().copied() {
        return Ok(entry);
    }
    Err(PullErrorKind::Platform {
        wanted: host.name(),
        offered: match offered.is_empty() {
            true => "nothing".to_owned(),
            false => offered.join(", "),
        },
    })
}

/// Whether every processor of the architecture supports it.
fn is_baseline(architecture: &str, variant: &str) -> bool {
    matches!(
        (architecture, variant),
        (_, "") | ("amd64", "v1") | ("arm64", "v8") | ("arm", "v6")
    )
}

/// Validates a descriptor.
pub(super) fn content(
    kind: &str,
    descriptor: &Descriptor,
) -> Result<BlobDescriptor, PullErrorKind> {
    let named = descriptor.digest.as_str();
    let what = format!("{kind} {named}");
    let digest = named
        .parse::<Digest>()
        .map_err(|error| PullErrorKind::malformed(&what, &error))?;
    Ok(BlobDescriptor {
        what,
        digest,
        size: descriptor.size,
    })
}

/// Returns the configuration that a manifest names.
pub(super) fn config_of(manifest: &ImageManifest) -> Result<BlobDescriptor, PullErrorKind> {
    let content = content("the configuration", &manifest.config)?;
    if content.size > CONFIG_BYTES {
        return Err(PullErrorKind::TooLarge {
            what: content.what,
            limit_bytes: CONFIG_BYTES,
        });
    }
    Ok(content)
}

/// Parses a configuration, and checks whether this host can run the image.
pub(super) fn configuration(
    what: &str,
    bytes: &[u8],
    host: &Platform,
) -> Result<ImageConfiguration, PullErrorKind> {
    let config: ImageConfiguration =
        serde_json::from_slice(bytes).map_err(|error| PullErrorKind::malformed(what, &error))?;
    let (os, architecture) = (config.os.as_str(), config.architecture.as_str());
    if os != LINUX || architecture != host.architecture {
        return Err(PullErrorKind::Platform {
            wanted: host.name(),
            offered: format!("{os}/{architecture}"),
        });
    }
    Ok(config)
}

/// Returns the layers, lowest first. Of a repeated layer only the highest position is kept: its
/// files are visible there, and an overlay accepts no directory twice.
pub(super) fn layers(
    manifest: &ImageManifest,
    config: &ImageConfiguration,
    limit_bytes: u64,
) -> Result<Vec<LayerDescriptor>, PullErrorKind> {
    let count = manifest.layers.len();
    if count == 0 {
        return Err(PullErrorKind::Malformed {
            what: "the manifest".to_owned(),
            rule: "it has no layers, so there is nothing to run".to_owned(),
        });
    }
    let diff_ids = &config.rootfs.diff_ids;
    if diff_ids.len() != count {
        return Err(PullErrorKind::Malformed {
            what: "the configuration".to_owned(),
            rule: format!("it names {} layers, the manifest {count}", diff_ids.len()),
        });
    }
    let mut total_bytes = 0_u64;
    let mut layers: Vec<LayerDescriptor> = Vec::with_capacity(count);
    for (descriptor, diff_id) in manifest.layers.iter().zip(diff_ids) {
        let blob = content("the layer", descriptor)?;
        let media_type = descriptor.media_type.as_str();
        let packing = LayerCompression::of(media_type).ok_or_else(|| PullErrorKind::Malformed {
            what: blob.what.clone(),
            rule: format!(
                "its media type {media_type:?} cannot be unpacked: build the image with tar, gzip or zstd layers"
            ),
        })?;
        let diff_id = diff_id
            .as_str()
            .parse::<Digest>()
            .map_err(|error| PullErrorKind::malformed("the configuration", &error))?;
        total_bytes = total_bytes.saturating_add(blob.size);
        layers.retain(|layer| layer.diff_id != diff_id);
        layers.push(LayerDescriptor {
            blob,
            packing,
            diff_id,
        });
    }
    check_size(total_bytes, limit_bytes)?;
    Ok(layers)
}

fn check_size(total_bytes: u64, limit_bytes: u64) -> Result<(), PullErrorKind> {
    if total_bytes <= limit_bytes {
        return Ok(());
    }
    Err(PullErrorKind::TooLarge {
        what: format!("the image, with {total_bytes} bytes of layers,"),
        limit_bytes,
    })
}

/// Checks the limits again, for layers that another process has validated.
pub(super) fn check_limits(
    layers: &[LayerDescriptor],
    limit_bytes: u64,
) -> Result<(), PullErrorKind> {
    let diff_ids: BTreeSet<_> = layers.iter().map(|layer| layer.diff_id).collect();
    if !(1..=LAYERS).contains(&layers.len()) || diff_ids.len() != layers.len() {
        return Err(PullErrorKind::Malformed {
            what: "the description of the image".to_owned(),
            rule: format!(
                "it has {} layers, each of which must be there once",
                layers.len()
            ),
        });
    }
    let sizes = layers.iter().map(|layer| layer.blob.size);
    check_size(sizes.fold(0, u64::saturating_add), limit_bytes)
}

#[cfg(test)]
mod tests;
