//! Valid and invalid documents of registries.

use serde_json::{Value, json};

use super::*;

fn digest(seed: &str) -> String {
    Digest::of(seed.as_bytes()).to_string()
}

fn amd64() -> Platform {
    Platform {
        architecture: "amd64".to_owned(),
    }
}

fn entry(seed: &str, os: &str, architecture: &str, variant: Option<&str>) -> Value {
    let mut platform = json!({"os": os, "architecture": architecture});
    if let Some(variant) = variant {
        platform["variant"] = json!(variant);
    }
    json!({"mediaType": MANIFEST, "digest": digest(seed), "size": 7, "platform": platform})
}

fn chosen(entries: &[Value]) -> Result<String, String> {
    let index = json!({"schemaVersion": 2, "mediaType": INDEX, "manifests": entries});
    let bytes = serde_json::to_vec(&index).unwrap();
    let ManifestDocument::Index(entries) = document("the index", &bytes, Some(INDEX)).unwrap()
    else {
        panic!("an index is an index");
    };
    let chosen = choose(&entries, &amd64());
    chosen
        .map(|entry| entry.digest.as_str().to_owned())
        .map_err(|fault| fault.to_string())
}

fn manifest_bytes(layers: &[(&str, &str, u64)]) -> Vec<u8> {
    let layers: Vec<_> = layers
        .iter()
        .map(|(seed, media_type, size)| {
            json!({"mediaType": media_type, "digest": digest(seed), "size": size})
        })
        .collect();
    let config = json!({"mediaType": "application/vnd.oci.image.config.v1+json",
        "digest": digest("config"), "size": 2});
    let document = json!({"schemaVersion": 2, "config": config, "layers": layers});
    serde_json::to_vec(&document).unwrap()
}

fn manifest(layers: &[(&str, &str, u64)]) -> ImageManifest {
    let bytes = manifest_bytes(layers);
    let Ok(ManifestDocument::Manifest(manifest)) = document("the manifest", &bytes, None) else {
        panic!("it is a manifest");
    };
    manifest
}

fn config_bytes(diff_ids: &[&str]) -> Vec<u8> {
    let diff_ids: Vec<_> = diff_ids.iter().map(|seed| digest(seed)).collect();
    let document = json!({"architecture": "amd64", "os": "linux",
        "rootfs": {"type": "layers", "diff_ids": diff_ids}});
    serde_json::to_vec(&document).unwrap()
}

fn config(diff_ids: &[&str]) -> ImageConfiguration {
    serde_json::from_slice(&config_bytes(diff_ids)).unwrap()
}

const GZIP: &str = "application/vnd.oci.image.layer.v1.tar+gzip";

#[test]
fn the_index_entry_of_this_platform_is_chosen_baseline_first() {
    let entries = [
        entry("windows", "windows", "amd64", None),
        entry("arm", "linux", "arm64", Some("v8")),
        entry("newest", "linux", "amd64", Some("v3")),
        entry("plain", "linux", "amd64", None),
        entry("later", "linux", "amd64", None),
        entry("signature", "unknown", "unknown", None),
    ];
    assert_eq!(chosen(&entries), Ok(digest("plain")));
    assert_eq!(chosen(&entries[..3]), Ok(digest("newest")));
    let none = chosen(&[entries[0].clone(), entries[1].clone(), entries[5].clone()]);
    assert_eq!(
        none.unwrap_err(),
        "it is not made for linux/amd64, only for windows/amd64, linux/arm64/v8"
    );
    let anywhere = json!({"mediaType": MANIFEST, "digest": digest("any"), "size": 7});
    assert_eq!(chosen(std::slice::from_ref(&anywhere)), Ok(digest("any")));
    assert!(chosen(&[anywhere, entries[1].clone()]).is_err());
    assert!(chosen(&[]).unwrap_err().contains("only for nothing"));
}

#[test]
fn ambiguous_documents_are_rejected() {
    let config = json!({"mediaType": "x", "digest": digest("c"), "size": 1});
    for (document, announced, wanted) in [
        (
            json!({"schemaVersion": 2, "manifests": [], "layers": []}),
            None,
            "at once",
        ),
        (
            json!({"schemaVersion": 2, "manifests": [], "config": config}),
            None,
            "at once",
        ),
        (json!({"schemaVersion": 2}), None, "neither"),
        (json!([]), None, "neither"),
        (
            json!({"schemaVersion": 1, "fsLayers": []}),
            None,
            "newer tool",
        ),
        (
            json!({"schemaVersion": 3, "manifests": []}),
            None,
            "schemaVersion",
        ),
        (
            json!({"schemaVersion": 2, "manifests": [], "mediaType": MANIFEST}),
            None,
            "media type",
        ),
        (
            json!({"schemaVersion": 2, "manifests": []}),
            Some(DOCKER_MANIFEST),
            "media type",
        ),
        (
            json!({"schemaVersion": 2, "manifests": [], "mediaType": "text/plain"}),
            None,
            "unknown",
        ),
        (
            json!({"schemaVersion": 2, "config": config, "layers": [{"digest": "sha256:../x"}]}),
            None,
            "the manifest",
        ),
    ] {
        let bytes = serde_json::to_vec(&document).unwrap();
        let fault = super::document("the manifest", &bytes, announced).unwrap_err();
        assert!(fault.to_string().contains(wanted), "{document}: {fault}");
    }
    let deep = "[".repeat(100_000);
    assert!(super::document("the manifest", deep.as_bytes(), None).is_err());
    let plain = json!({"schemaVersion": 2, "config": config, "layers": []});
    let bytes = serde_json::to_vec(&plain).unwrap();
    for announced in [None, Some("application/json"), Some(DOCKER_MANIFEST)] {
        assert!(super::document("the manifest", &bytes, announced).is_ok());
    }
}

#[test]
fn layer_counts_sizes_and_types_are_validated() {
    let fine = manifest(&[("a", GZIP, 5), ("b", GZIP, 5)]);
    let found = layers(&fine, &config(&["A", "B"]), 10).unwrap();
    assert_eq!(found.len(), 2);
    assert_eq!(found[0].packing, LayerCompression::TarGzip);
    assert_eq!(found[1].diff_id, Digest::of(b"B"));
    let heavy = layers(&fine, &config(&["A", "B"]), 9).unwrap_err();
    assert!(heavy.to_string().contains("limit of 9 bytes"), "{heavy}");
    let uneven = layers(&fine, &config(&["A"]), 10).unwrap_err();
    assert!(uneven.to_string().contains("names 1 layers"), "{uneven}");
    let foreign = "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip";
    let foreign = layers(&manifest(&[("a", foreign, 5)]), &config(&["A"]), 10).unwrap_err();
    assert!(
        foreign.to_string().contains("cannot be unpacked"),
        "{foreign}"
    );
    let sizes = manifest(&[("a", GZIP, u64::MAX), ("b", GZIP, u64::MAX)]);
    assert!(layers(&sizes, &config(&["A", "B"]), 10).is_err());
    let many = vec![("a", GZIP, 1); LAYERS + 1];
    let many = document("the manifest", &manifest_bytes(&many), None).unwrap_err();
    assert!(many.to_string().contains("129 layers"), "{many}");
    // An image that a container cannot mount is not pulled either.
    assert_eq!(LAYERS, argosy_isolation::LAYERS_MAX);
}

#[test]
fn a_repeated_layer_keeps_its_highest_position() {
    let twice = manifest(&[("a", GZIP, 1), ("b", GZIP, 1), ("a", GZIP, 1)]);
    let found = layers(&twice, &config(&["A", "B", "A"]), 10).unwrap();
    let found: Vec<_> = found.iter().map(|layer| layer.diff_id).collect();
    assert_eq!(found, [Digest::of(b"B"), Digest::of(b"A")]);
}

#[test]
fn an_image_for_another_platform_is_rejected_also_without_an_index() {
    let bytes = config_bytes(&[]);
    assert!(configuration("the configuration", &bytes, &amd64()).is_ok());
    let arm = Platform {
        architecture: "arm64".to_owned(),
    };
    let fault = configuration("the configuration", &bytes, &arm).unwrap_err();
    assert_eq!(
        fault.to_string(),
        "it is not made for linux/arm64, only for linux/amd64"
    );
}

/// Other parts may be many times as large in memory as in the document.
#[test]
fn unused_parts_of_large_documents_are_skipped() {
    let fill = |head: &str, item: &str, tail: &str, bytes: u64| {
        let count = (bytes as usize - head.len() - tail.len()) / item.len() - 1;
        let items = item.repeat(count);
        format!("{head}{}{tail}", items.trim_end_matches(',')).into_bytes()
    };
    let rootfs = r#""rootfs":{"type":"layers","diff_ids":[]}}"#;
    let bytes = fill(
        r#"{"architecture":"amd64","os":"linux","history":["#,
        "{},",
        &format!("],{rootfs}"),
        CONFIG_BYTES,
    );
    let read = configuration("the configuration", &bytes, &amd64()).unwrap();
    // What is printed is all that was stored.
    let stored = format!("{read:?}");
    assert!(stored.len() < 1_000, "{stored:.1000}");
    let layer = json!({"mediaType": GZIP, "digest": digest("a"), "size": 1});
    let head =
        format!(r#"{{"schemaVersion":2,"config":{layer},"layers":[{layer}],"annotations":["#);
    for item in [r#"{"":0},"#, "[],"] {
        let bytes = fill(&head, item, "]}", MANIFEST_BYTES);
        let Ok(ManifestDocument::Manifest(read)) = document("the manifest", &bytes, None) else {
            panic!("it is a manifest");
        };
        let stored = format!("{read:?}");
        assert!(stored.len() < 2_000, "{stored:.1000}");
    }
}

#[test]
fn long_texts_of_parts_are_refused() {
    let long = "x".repeat(5_000);
    for layer in [
        json!({"mediaType": long, "digest": digest("a"), "size": 1}),
        json!({"mediaType": GZIP, "digest": long, "size": 1}),
    ] {
        let manifest = json!({"schemaVersion": 2, "config": layer, "layers": []});
        let bytes = serde_json::to_vec(&manifest).unwrap();
        let fault = document("the manifest", &bytes, None).unwrap_err();
        assert!(fault.to_string().contains("at most 4096"), "{fault}");
    }
}
