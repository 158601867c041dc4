//! The decoders of images, for fuzz targets. Only with the feature `fuzzing`.
//!
//! Each function decodes bytes, checks what must hold for the result, and returns whether the bytes
//! were accepted.

use super::IMAGE_LIMIT_BYTES;
use super::credentials;
use super::image::ImageConfig;
use super::manifest::{
    LAYERS, LayerDescriptor, ManifestDocument, Platform, check_limits, choose, config_of,
    configuration, content, document, layers,
};
use super::registry::challenge::{self, Challenge};

/// A manifest or index, and the configuration of the image.
#[must_use]
pub fn manifest(manifest: &[u8], config: &[u8]) -> bool {
    let host = Platform::of_this_host();
    let read = document("the manifest", manifest, None);
    let config = configuration("the configuration", config, &host).ok();
    match read {
        Ok(ManifestDocument::Index(entries)) => {
            let chosen = choose(&entries, &host);
            chosen.is_ok_and(|entry| content("the manifest", entry).is_ok())
        }
        Ok(ManifestDocument::Manifest(manifest)) => {
            let named = config_of(&manifest);
            let Some(Ok(layers)) =
                config.map(|config| layers(&manifest, &config, IMAGE_LIMIT_BYTES))
            else {
                return false;
            };
            assert!((1..=LAYERS).contains(&layers.len()), "{layers:?}");
            check_limits(&layers, IMAGE_LIMIT_BYTES).expect("valid layers stay valid");
            let written = serde_json::to_vec(&layers).expect("layers become JSON");
            let again: Vec<LayerDescriptor> =
                serde_json::from_slice(&written).expect("written layers are read");
            assert_eq!(again, layers);
            named.is_ok()
        }
        Err(error) => {
            assert!(!error.to_string().is_empty());
            false
        }
    }
}

/// The configuration of an image: how its command runs.
#[must_use]
pub fn image_configuration(bytes: &[u8]) -> bool {
    let what = "the configuration";
    let Ok(document) = configuration(what, bytes, &Platform::of_this_host()) else {
        return false;
    };
    let Ok(read) = ImageConfig::read(what, &document) else {
        return false;
    };
    assert!(read.working_dir.starts_with('/'));
    assert!(
        read.stop_signal
            .is_none_or(|signal| (1..=64).contains(&signal))
    );
    let written = serde_json::to_vec(&read).expect("a configuration becomes JSON");
    let again: ImageConfig = serde_json::from_slice(&written).expect("it is read again");
    assert_eq!(again, read);
    true
}

/// A file of credentials of Docker. An error does not repeat what was read.
#[must_use]
pub fn docker_credentials(bytes: &[u8]) -> bool {
    let Ok(text) = std::str::from_utf8(bytes) else {
        return false;
    };
    match credentials::entry_of(text, "docker.io") {
        Ok(found) => found.is_some_and(|secret| {
            assert!(!format!("{secret:?}").contains("Basic"), "it is shown");
            secret.text().starts_with("Basic ")
        }),
        Err(rule) => {
            assert!(!rule.is_empty());
            false
        }
    }
}

/// Headers in which a registry names its scheme of authentication, one a line.
#[must_use]
pub fn challenges(bytes: &[u8]) -> bool {
    let Ok(text) = std::str::from_utf8(bytes) else {
        return false;
    };
    match challenge::preferred(text.lines()) {
        Some(Challenge::Bearer { realm, service }) => {
            assert!(realm.len() + service.map_or(0, |name| name.len()) <= 2 * text.len());
            true
        }
        Some(Challenge::Basic) => true,
        None => false,
    }
}
