//! The parts of manifests, indexes and configurations that are used.
//!
//! Registries choose what is in these documents, and other parts may be many times as large in
//! memory as in a document. So they are skipped while a document is parsed, never stored.

use serde::Deserialize;
use serde::de::IgnoredAny;

/// The maximum length of the texts below, in bytes. Manifests stay in memory while a registry sends
/// the configuration, which may take long.
const TEXT_BYTES: usize = 4_096;

/// What shows whether a document is a manifest or an index.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct DocumentKind {
    pub(super) schema_version: Option<u64>,
    pub(super) media_type: Option<String>,
    pub(super) manifests: Option<IgnoredAny>,
    pub(super) config: Option<IgnoredAny>,
    pub(super) layers: Option<IgnoredAny>,
    pub(super) fs_layers: Option<IgnoredAny>,
}

#[derive(Deserialize)]
pub(super) struct ImageIndex {
    pub(super) manifests: Vec<Descriptor>,
}

#[derive(Debug, Deserialize)]
pub(in crate::images) struct ImageManifest {
    pub(super) config: Descriptor,
    pub(super) layers: Vec<Descriptor>,
}

/// A content with its digest and size.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(in crate::images) struct Descriptor {
    pub(super) media_type: ShortText,
    pub(super) digest: ShortText,
    pub(super) size: u64,
    pub(super) platform: Option<TargetPlatform>,
    annotations: Option<Annotations>,
}

/// The platform that an image is made for.
#[derive(Debug, Deserialize)]
pub(super) struct TargetPlatform {
    pub(super) architecture: ShortText,
    pub(super) os: ShortText,
    pub(super) variant: Option<ShortText>,
}

#[derive(Debug, Deserialize)]
struct Annotations {
    #[serde(rename = "org.opencontainers.image.ref.name")]
    tag: Option<ShortText>,
}

#[derive(Debug, Deserialize)]
pub(in crate::images) struct ImageConfiguration {
    pub(super) architecture: ShortText,
    pub(super) os: ShortText,
    pub(in crate::images) config: Option<RunConfig>,
    pub(super) rootfs: RootFs,
}

/// How the command of an image runs.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(in crate::images) struct RunConfig {
    pub(in crate::images) entrypoint: Option<Vec<String>>,
    pub(in crate::images) cmd: Option<Vec<String>>,
    pub(in crate::images) env: Option<Vec<String>>,
    pub(in crate::images) working_dir: Option<String>,
    pub(in crate::images) user: Option<String>,
    pub(in crate::images) stop_signal: Option<String>,
}

#[derive(Debug, Deserialize)]
pub(super) struct RootFs {
    pub(super) diff_ids: Vec<ShortText>,
}

/// A text of at most [`TEXT_BYTES`] bytes.
#[derive(Debug, Deserialize)]
#[serde(try_from = "String")]
pub(super) struct ShortText(String);

impl Descriptor {
    /// Returns the tag that a layout gives it.
    pub(in crate::images) fn tag(&self) -> Option<&str> {
        let tag = self.annotations.as_ref()?.tag.as_ref()?;
        Some(tag.as_str())
    }

    /// Returns whether it names a platform.
    pub(in crate::images) fn has_platform(&self) -> bool {
        self.platform.is_some()
    }
}

impl ShortText {
    pub(super) fn as_str(&self) -> &str {
        &self.0
    }
}

impl TryFrom<String> for ShortText {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        if text.len() > TEXT_BYTES {
            return Err(format!(
                "a text in it has {} bytes; at most {TEXT_BYTES}",
                text.len()
            ));
        }
        Ok(Self(text))
    }
}
