//! Pulls from Debian's registry, which confirm the behaviour of the tests' registry.

use std::process::{Child, Command, Stdio};

use super::fixtures::{MANIFEST, tar};
use super::*;

const PROGRAM: &str = "/usr/bin/docker-registry";

/// A registry process of this test only, on a separate port.
struct RegistryProcess {
    child: Child,
    address: String,
    _directory: tempfile::TempDir,
}

impl Drop for RegistryProcess {
    fn drop(&mut self) {
        // It may have exited by itself; either way it has ended after the wait.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl RegistryProcess {
    async fn start() -> Self {
        let directory = tempfile::tempdir().unwrap();
        // Free now; no other process on loopback requests it by number.
        let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = free.local_addr().unwrap().to_string();
        drop(free);
        let config = format!(
            "version: 0.1\nlog:\n  level: error\nstorage:\n  filesystem:\n    rootdirectory: {}\nhttp:\n  \
             addr: {address}\n",
            directory.path().join("data").display()
        );
        let file = directory.path().join("config.yml");
        fs::write(&file, config).unwrap();
        let mut command = Command::new(PROGRAM);
        command.arg("serve").arg(&file).stdin(Stdio::null());
        command.stdout(Stdio::null()).stderr(Stdio::null());
        let process = Self {
            child: command.spawn().unwrap(),
            address,
            _directory: directory,
        };
        eventually(|| std::net::TcpStream::connect(&process.address).is_ok()).await;
        process
    }

    fn url(&self, path: &str) -> String {
        format!("http://{}/v2/{path}", self.address)
    }

    /// Pushes in one upload, as in the protocol: requests a location, and puts all bytes there.
    async fn push_blob(&self, client: &reqwest::Client, bytes: &[u8]) {
        let asked = client
            .post(self.url("team/web/blobs/uploads/"))
            .send()
            .await;
        let asked = asked.unwrap().error_for_status().unwrap();
        let place = asked.headers()["location"].to_str().unwrap();
        let mut place = asked.url().join(place).unwrap();
        let digest = Digest::of(bytes).to_string();
        place.query_pairs_mut().append_pair("digest", &digest);
        let put = client
            .put(place)
            .header("content-type", "application/octet-stream");
        let put = put.body(bytes.to_vec()).send().await.unwrap();
        put.error_for_status().unwrap();
    }

    async fn push(&self, tag: &str, image: &TestImage) {
        let client = reqwest::Client::builder().no_proxy().build().unwrap();
        for blob in image.blobs() {
            self.push_blob(&client, &blob).await;
        }
        let put = client.put(self.url(&format!("team/web/manifests/{tag}")));
        let put = put.header("content-type", MANIFEST);
        let put = put.body(image.manifest.clone()).send().await.unwrap();
        put.error_for_status().unwrap();
    }
}

#[tokio::test]
async fn an_image_pushed_to_the_debian_registry_can_be_pulled() {
    if !Path::new(PROGRAM).exists() {
        return argosy_testing::skip("needs the package docker-registry");
    }
    let process = RegistryProcess::start().await;
    let world = ImagesFixture::listing(&[&process.address]).await;
    let big = tar("page", &vec![7; 3_000_000]);
    let made = TestImage::of(vec![tar("base", b"lowest"), big]);
    process.push("1", &made).await;
    let name = |rest: &str| -> ImageReference {
        let name = format!("{}/team/web{rest}", process.address);
        name.parse().unwrap()
    };
    let image = world.obtain(&name(":1"), 1).await.unwrap();
    assert_eq!(image.digest, made.digest());
    assert_eq!(texts(&image, "base"), ["lowest"]);
    assert_eq!(texts(&image, "page")[0].len(), 3_000_000);
    let pinned = name(&format!("@{}", made.digest()));
    assert_eq!(world.obtain(&pinned, 2).await.unwrap(), image);
    // The tag moves. A task that accepts the local image keeps it; one that always pulls gets the
    // new one.
    let moved = TestImage::of(vec![tar("base", b"lowest"), tar("page", b"new")]);
    process.push("1", &moved).await;
    assert_eq!(world.obtain(&name(":1"), 4).await.unwrap(), image);
    let newest = world.obtain_by(&name(":1"), PullPolicy::Always, 5).await;
    let newest = newest.unwrap();
    assert_eq!(newest.digest, moved.digest());
    assert_eq!(texts(&newest, "page"), ["new"]);
    assert_eq!(newest.layers[0], image.layers[0], "not pulled again");
    let missing = world.obtain(&name(":2"), 3).await.unwrap_err();
    assert!(
        missing.ends_with("there is no such image or tag"),
        "{missing}"
    );
}
