//! Attacks by a hostile registry: bytes that do not match their digests, layers that lead out,
//! redirects, false sizes.

use std::collections::BTreeMap;
use std::fs;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use serde_json::{Value, json};

use super::servers::{Archive, page, redirect, serve, serve_at, typed};
use super::tasks::HOST;
use super::{Attempt, against_a_host, at_once, attack, run, with_cluster};
use crate::cluster::DevCluster;
use crate::registry::{MANIFEST, descriptor, digest, image};
use crate::web::BUSYBOX;

const ATTACKER: &str = "a hostile registry";

/// Its answers by path, from the status line on.
#[derive(Default)]
struct CannedResponses(BTreeMap<String, Vec<u8>>);

impl CannedResponses {
    fn blob(&mut self, repository: &str, name: &str, answer: Vec<u8>) {
        self.0
            .insert(format!("/v2/{repository}/blobs/{name}"), answer);
    }

    fn manifest(&mut self, repository: &str, bytes: &[u8]) {
        let answer = typed(MANIFEST, bytes);
        self.0.insert(
            format!("/v2/{repository}/manifests/{}", digest(bytes)),
            answer.clone(),
        );
        self.0
            .insert(format!("/v2/{repository}/manifests/1"), answer);
    }

    /// Adds a valid image, and returns its blobs.
    fn offer(&mut self, repository: &str, layers: Vec<Vec<u8>>) -> Vec<Vec<u8>> {
        let blobs = image(layers, &json!({"Cmd": ["/bin/busybox", "true"]}));
        let (manifest, rest) = blobs.split_last().unwrap();
        for blob in rest {
            self.blob(repository, &digest(blob), page(blob));
        }
        self.manifest(repository, manifest);
        blobs
    }

    /// The same with a changed manifest.
    fn claim(&mut self, repository: &str, change: impl FnOnce(&mut Value)) {
        let blobs = self.offer(repository, vec![base(repository)]);
        let mut manifest: Value = serde_json::from_slice(blobs.last().unwrap()).unwrap();
        change(&mut manifest);
        self.manifest(repository, &serde_json::to_vec(&manifest).unwrap());
    }

    /// The same with another answer for its only layer.
    fn swap(&mut self, repository: &str, answer: Vec<u8>) {
        let blobs = self.offer(repository, vec![base(repository)]);
        self.blob(repository, &digest(&blobs[0]), answer);
    }
}

/// Unique to this repository: no other provides it.
fn base(repository: &str) -> Vec<u8> {
    let busybox = fs::read(BUSYBOX).unwrap();
    Archive::default()
        .entry(b'0', "bin/busybox", "", &busybox)
        .file("repository", repository)
        .end()
}

fn over_base(responses: &mut CannedResponses, repository: &str, layer: Archive) {
    responses.offer(repository, vec![base(repository), layer.end()]);
}

/// Each attack, its repository, and the expected message.
const ATTACKS: &[(&str, &str, &str)] = &[
    (
        "other bytes than a layer's digest names",
        "other-layer",
        "damaged or tampered with",
    ),
    (
        "other bytes than a pinned manifest's digest names",
        "pinned",
        "damaged or tampered with",
    ),
    (
        "fewer bytes than a layer has",
        "short-layer",
        " bytes, and 512 came",
    ),
    ("more bytes than a layer has", "long-layer", " bytes, and"),
    (
        "a layer that is sent without an end",
        "endless-layer",
        "error reading a body",
    ),
    ("a layer of any size", "claimed-size", "limit"),
    ("a manifest that is too large", "large-manifest", "limit"),
    ("a manifest that is none", "no-manifest", "not valid"),
    ("a manifest of a thousand layers", "many-layers", "layers"),
    (
        "a digest that leads out of the store",
        "path-digest",
        "digest",
    ),
    (
        "a layer of an unknown kind",
        "unknown-kind",
        "cannot be unpacked",
    ),
    (
        "a configuration that is none",
        "no-config",
        "the server answered 404",
    ),
    (
        "an image for another architecture",
        "architecture",
        "made for",
    ),
    (
        "an index of itself",
        "round-index",
        "cannot bring the image",
    ),
    (
        "a redirect of a layer to a port of agents",
        "to-agent",
        "a loopback address",
    ),
    (
        "a redirect of a layer to a metadata service",
        "to-metadata",
        "a link-local address",
    ),
    (
        "a redirect of a layer to an address of the host",
        "to-host",
        "an address of the agent's host",
    ),
    (
        "a redirect of a layer to a server without TLS",
        "to-server",
        "has no TLS",
    ),
    (
        "a redirect of a layer to a file",
        "to-file",
        "neither http nor https",
    ),
    ("redirects in a circle", "round", "redirects too often"),
    ("a layer with an entry above its root", "dots", "'..'"),
    (
        "a layer with an entry through a link",
        "through-link",
        "links are not followed",
    ),
    (
        "a layer with a hard link to a file of the host",
        "hard-link",
        "hard link",
    ),
    (
        "a layer with an owner that no container has",
        "owner",
        "its owner is",
    ),
    (
        "a layer that has a link in place of /proc",
        "link-proc",
        "link",
    ),
    (
        "a layer that has a link in place of the sandbox",
        "link-sandbox",
        "link",
    ),
];

/// The control, which shows that the attack alone keeps another image from running.
fn honest(repository: &str) -> String {
    format!("honest/{repository}")
}

fn responses() -> CannedResponses {
    let mut snapshots = CannedResponses::default();
    for (_, repository, _) in ATTACKS {
        snapshots.offer(&honest(repository), vec![base(&honest(repository))]);
    }
    snapshots.swap("other-layer", page(&vec![7; base("other-layer").len()]));
    snapshots.offer("pinned", vec![base("pinned")]);
    snapshots.swap("short-layer", page(&base("short-layer")[..512]));
    snapshots.swap(
        "long-layer",
        page(&[base("long-layer"), vec![0; 4096]].concat()),
    );
    let head = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n".to_vec();
    snapshots.swap(
        "endless-layer",
        [
            head,
            b"2000\r\n".to_vec(),
            vec![0; 0x2000],
            b"\r\n".to_vec(),
        ]
        .concat(),
    );
    snapshots.claim("claimed-size", |manifest| {
        manifest["layers"][0]["size"] = json!(1_u64 << 60)
    });
    snapshots.claim("large-manifest", |manifest| {
        manifest["annotations"] = json!({"x": "y".repeat(8 << 20)})
    });
    snapshots.manifest("no-manifest", b"[1, 2");
    snapshots.claim("many-layers", |manifest| {
        let layer = manifest["layers"][0].clone();
        manifest["layers"] = vec![layer; 1_000].into();
    });
    snapshots.claim("path-digest", |manifest| {
        manifest["layers"][0]["digest"] = json!("sha256:../../../../etc/passwd")
    });
    snapshots.claim("unknown-kind", |manifest| {
        manifest["layers"][0]["mediaType"] = json!("application/x-executable")
    });
    snapshots.claim("no-config", |manifest| {
        manifest["config"]["digest"] = json!(digest(b"nothing"))
    });
    architecture(&mut snapshots);
    let index = json!({"schemaVersion": 2, "mediaType": "application/vnd.oci.image.index.v1+json",
        "manifests": [descriptor("application/vnd.oci.image.index.v1+json", b"itself")]});
    snapshots.0.insert(
        "/v2/round-index/manifests/1".to_owned(),
        typed(
            "application/vnd.oci.image.index.v1+json",
            &serde_json::to_vec(&index).unwrap(),
        ),
    );
    redirects(&mut snapshots);
    layers(&mut snapshots);
    snapshots
}

fn redirects(responses: &mut CannedResponses) {
    responses.swap("to-agent", redirect("http://127.0.0.1:5051/v1/agent"));
    responses.swap("to-metadata", redirect("http://169.254.169.254/latest"));
    responses.swap("to-host", redirect(&format!("https://{HOST}:8443/page")));
    responses.swap("to-server", redirect("http://192.0.2.1:8080/page"));
    responses.swap("to-file", redirect("file:///etc/shadow"));
    let layer = digest(&base("round"));
    responses.swap("round", redirect(&format!("/v2/round/blobs/{layer}")));
}

fn layers(responses: &mut CannedResponses) {
    over_base(
        responses,
        "dots",
        Archive::default().file("../planted", "x"),
    );
    over_base(
        responses,
        "through-link",
        Archive::default()
            .entry(b'2', "out", "/etc", b"")
            .file("out/planted", "x"),
    );
    over_base(
        responses,
        "hard-link",
        Archive::default().entry(b'1', "shadow", "etc/shadow", b""),
    );
    over_base(
        responses,
        "owner",
        Archive::default().owned(70_000, "theirs"),
    );
    over_base(
        responses,
        "link-proc",
        Archive::default().entry(b'2', "proc", "/etc", b""),
    );
    over_base(
        responses,
        "link-sandbox",
        Archive::default().entry(b'2', "sandbox", "/etc", b""),
    );
}

fn architecture(responses: &mut CannedResponses) {
    let blobs = responses.offer("architecture", vec![base("architecture")]);
    let mut config: Value = serde_json::from_slice(&blobs[1]).unwrap();
    config["architecture"] = json!("s390x");
    let config = serde_json::to_vec(&config).unwrap();
    responses.blob("architecture", &digest(&config), page(&config));
    let mut manifest: Value = serde_json::from_slice(&blobs[2]).unwrap();
    manifest["config"] = descriptor("application/vnd.oci.image.config.v1+json", &config);
    responses.manifest("architecture", &serde_json::to_vec(&manifest).unwrap());
}

#[test]
fn a_hostile_registry_affects_only_the_task_that_uses_it() {
    against_a_host(|| {
        // The redirect to a port of agents leads to the very layer that is requested.
        serve_at("127.0.0.1:5051", Box::new(|_| page(&base("to-agent"))));
        let snapshots = Arc::new(responses());
        // For any manifest of this image that is requested by a digest, it returns another.
        let pinned = digest(b"another");
        let of_pinned = snapshots.0["/v2/pinned/manifests/1"].clone();
        let (path_of_pinned, served) = (
            format!("/v2/pinned/manifests/{pinned}"),
            Arc::clone(&snapshots),
        );
        let registry =
            serve(Box::new(move |path| match path {
                path if path == path_of_pinned => of_pinned.clone(),
                path => served.0.get(path).cloned().unwrap_or_else(|| {
                    b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n".to_vec()
                }),
            }));
        let listed = registry.to_string();
        let flags = [
            "--agent-resources",
            "cpus:8;mem:4096;disk:8192",
            "--insecure-registry",
            &listed,
        ];
        let pull = |cluster: &DevCluster, name: &str| -> Attempt {
            let image = match name {
                "pinned" => format!("{registry}/pinned@{pinned}"),
                name => format!("{registry}/{name}:1"),
            };
            let line = [
                "--image",
                &image,
                "--",
                "/bin/busybox",
                "cat",
                "/repository",
            ];
            run(cluster, &line)
        };
        with_cluster(DevCluster::start(45, "1x1", &flags), |cluster| {
            let pulled = at_once(ATTACKS, |(_, repository, _)| pull(cluster, repository));
            for ((technique, repository, because), pulled) in ATTACKS.iter().zip(pulled) {
                let control = pull(cluster, &honest(repository));
                attack(ATTACKER, technique, because, pulled, control);
            }
            unlisted(cluster, &registry.to_string());
        });
    });
}

/// Registries on the host that the operator does not list. The control: the same image from one
/// that is listed.
fn unlisted(cluster: &DevCluster, listed: &str) {
    for (address, technique) in [
        ("127.0.0.1", "an image of a registry on the host's loopback"),
        (HOST, "an image of a registry at an address of the host"),
    ] {
        let asked = Arc::new(AtomicU32::new(0));
        let count = Arc::clone(&asked);
        let mut responses = CannedResponses::default();
        responses.offer("unlisted", vec![base("unlisted")]);
        let answer = move |path: &str| {
            count.fetch_add(1, Ordering::SeqCst);
            responses.0[path].clone()
        };
        let registry = serve_at(&format!("{address}:0"), Box::new(answer));
        let pull = |image: &str| run(cluster, &["--image", image, "--", "/bin/busybox", "true"]);
        let pulled = pull(&format!("{registry}/unlisted:1"));
        let control = pull(&format!("{listed}/{}:1", honest("dots")));
        attack(ATTACKER, technique, "--insecure-registry", pulled, control);
        assert_eq!(asked.load(Ordering::SeqCst), 0, "it was asked");
    }
}
