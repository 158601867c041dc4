//! Tests of the content service as a process, with real servers on loopback: downloads,
//! confinement, and its replacement after a loss.
//!
//! It has a separate harness: the same executable is the service, which must start before any
//! thread. A first argument selects the tests whose name contains it.

use std::fs;
use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Barrier};
use std::time::{Duration, Instant};

use argosy_content::FairSlots;
use argosy_content::fetcher::{
    ClusterAuthorities, Extractor, FetchContext, FetchProgress, FetchSettings, Fetcher,
};
use argosy_content::images::{
    Digest, ImageManager, ImageReference, ImageSettings, InsecureRegistry, LayerCompression,
    LocalLayerDirs, PullPolicy, UnpackError, UnpackedLayer, Unpacker,
};
use argosy_content::service::{self, ContentService, ServiceCommand, ServiceSettings};
use argosy_isolation::ContainerUser;
use argosy_isolation::service::Packet;
use argosy_proto::transport::Dialer;
use argosy_proto::v1;
use argosy_state::ids::FrameworkId;
use futures::FutureExt;
use futures::future::{BoxFuture, LocalBoxFuture};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tokio::sync::watch;

/// The verb with which this program is the service.
const VERB: &str = "content";
/// The verb with which it is a compromised service.
const LIAR: &str = "lie";
/// The framework of all tests.
const FRAMEWORK: FrameworkId = FrameworkId(1);
/// The timeout of all waits in tests.
const TIMEOUT: Duration = Duration::from_secs(60);

type TestCase = (&'static str, fn() -> LocalBoxFuture<'static, ()>);

const CASES: &[TestCase] = &[
    ("a_file_is_brought_by_a_process_of_its_own", || {
        fetch_succeeds().boxed_local()
    }),
    ("what_is_brought_is_judged", || {
        access_is_checked().boxed_local()
    }),
    ("a_service_that_is_killed_is_replaced", || {
        killed().boxed_local()
    }),
    ("a_service_that_hangs_is_replaced", || {
        stopped().boxed_local()
    }),
    ("a_fetch_that_is_given_up_ends_in_the_service", || {
        given_up().boxed_local()
    }),
    ("a_service_that_cannot_be_started_is_named", || {
        missing().boxed_local()
    }),
    ("a_service_that_was_taken_over_holds_nobody_up", || {
        compromised_service().boxed_local()
    }),
    ("an_image_of_a_registry_is_pulled", || {
        pulled().boxed_local()
    }),
    ("a_long_uri_fails_only_its_own_fetch", || {
        long_uri().boxed_local()
    }),
    ("a_long_text_of_a_registry_fails_only_its_own_pull", || {
        long_media_type().boxed_local()
    }),
    ("large_configurations_fit_into_its_memory", || {
        large_configurations().boxed_local()
    }),
    ("a_service_ends_with_its_agent", || ended().boxed_local()),
];

fn main() -> ExitCode {
    let argument = std::env::args().nth(1);
    if argument.as_deref() == Some(VERB) {
        return match service::run_from_fd(without_tls) {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => panic!("{error}: {error:?}"),
        };
    }
    if argument.as_deref() == Some(LIAR) {
        return lie();
    }
    if std::env::args().any(|argument| argument == "--list") {
        CASES.iter().for_each(|(name, _)| println!("{name}: test"));
        return ExitCode::SUCCESS;
    }
    let picked = argument
        .filter(|argument| !argument.starts_with('-'))
        .unwrap_or_default();
    let mut count = 0;
    for (name, case) in CASES.iter().filter(|(name, _)| name.contains(&picked)) {
        // A panic names the failed test on the line before its message.
        print!("test {name} ... ");
        let runtime = tokio::runtime::Runtime::new().unwrap();
        runtime
            .block_on(async { tokio::time::timeout(TIMEOUT, case()).await })
            .unwrap();
        println!("ok");
        count += 1;
    }
    println!("\ntest result: ok. {count} passed; 0 failed");
    ExitCode::SUCCESS
}

/// No test contacts an agent.
fn without_tls(_: Dialer, _: &ClusterAuthorities) -> Result<Dialer, String> {
    Err("this program has no TLS".to_owned())
}

/// Reports that all is done, and passes a descriptor whose data never ends.
fn lie() -> ExitCode {
    let packets = argosy_isolation::service::connection().unwrap();
    let (reader, _writer) = nix::unistd::pipe().unwrap();
    while let Ok(Packet::Message(ask, _)) = packets.receive::<serde_json::Value>() {
        let id = ["plan", "fetch", "blob"]
            .iter()
            .find_map(|kind| ask[kind]["id"].as_u64());
        if let Some(id) = id {
            let done = serde_json::json!({"done": {"id": id}});
            packets.send(&done, &[reader.as_fd()]).unwrap();
        }
    }
    ExitCode::SUCCESS
}

fn settings() -> FetchSettings {
    FetchSettings {
        limit_bytes: 1 << 20,
        directories: Vec::new(),
        allow: vec!["127.0.0.0/8".parse().unwrap()],
        masters: Vec::new(),
        api: "127.0.0.1:5051".to_owned(),
        api_port: None,
        task_subnets: None,
    }
}

fn command() -> ServiceCommand {
    ServiceCommand {
        program: PathBuf::from("/proc/self/exe"),
        arguments: vec![VERB.to_owned()],
    }
}

fn service_by(command: ServiceCommand) -> Arc<ContentService> {
    service_of(command, Vec::new())
}

fn images_of(
    directory: &Path,
    settings: ImageSettings,
    service: &Arc<ContentService>,
) -> Arc<ImageManager> {
    ImageManager::open(
        directory,
        settings,
        (
            Arc::new(CountingUnpacker),
            Arc::new(LocalLayerDirs),
            FairSlots::new(4),
        ),
        service.clone(),
    )
    .unwrap()
}

/// Returns the same service, which contacts these registries without TLS.
fn service_of(
    command: ServiceCommand,
    insecure_registries: Vec<InsecureRegistry>,
) -> Arc<ContentService> {
    let settings = ServiceSettings {
        fetch: settings(),
        insecure_registries,
        image_limit_bytes: 1 << 20,
        cluster: service::ClusterAuthoritySource::none(),
    };
    ContentService::new(command.starter(None), settings)
}

/// An extractor that extracts nothing.
struct NoExtractor;

impl Extractor for NoExtractor {
    fn extract<'a>(
        &'a self,
        _: fs::File,
        _: fs::File,
        _: Option<&'a ContainerUser>,
    ) -> BoxFuture<'a, Result<(), String>> {
        std::future::ready(Err("nothing is taken apart here".to_owned())).boxed()
    }
}

fn fetcher(service: &Arc<ContentService>) -> Fetcher {
    let (extractor, slots) = (Arc::new(NoExtractor), FairSlots::new(4));
    Fetcher::new(settings(), service.clone(), extractor, slots, None)
}

async fn fetch(
    fetcher: &Fetcher,
    directory: &Path,
    value: String,
    sha256: &str,
) -> Result<(), String> {
    let uri = v1::Uri {
        value,
        sha256: sha256.to_owned(),
        output_file: "file".to_owned(),
        ..v1::Uri::default()
    };
    let (meter, _) = watch::channel(FetchProgress::default());
    let fetched = fetcher
        .fetch_all(&[uri], directory, FetchContext::default(), &meter)
        .await;
    fetched.map_err(|error| argosy_content::error_chain(&error))
}

/// Starts a server that runs `answer` on each connection; returns it with its number of
/// connections.
fn serve(
    answer: impl Fn(u32, TcpStream, String) + Send + Sync + 'static,
) -> (SocketAddr, Arc<AtomicU32>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let asked = Arc::new(AtomicU32::new(0));
    let (count, answer) = (Arc::clone(&asked), Arc::new(answer));
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let (answer, number) = (Arc::clone(&answer), count.fetch_add(1, Ordering::SeqCst));
            std::thread::spawn(move || {
                let mut head = [0; 8192];
                let length = stream.read(&mut head).unwrap_or(0);
                let head = String::from_utf8_lossy(&head[..length]).into_owned();
                answer(number, stream, head);
            });
        }
    });
    (address, asked)
}

fn whole(mut stream: &TcpStream, kind: &str, body: &[u8]) {
    let head = format!(
        "HTTP/1.1 200 OK\r\ncontent-type: {kind}\r\ncontent-length: {}\r\nconnection: close\r\n\r\n",
        body.len()
    );
    let _ = stream.write_all(head.as_bytes());
    let _ = stream.write_all(body);
}

/// Announces ten bytes, sends five, and waits until it may continue or the client disconnects.
fn half(mut stream: &TcpStream) {
    let _ = stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nhello");
}

async fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !holds() {
        assert!(begun.elapsed() < TIMEOUT, "{what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

fn is_there(pid: u32) -> bool {
    Path::new(&format!("/proc/{pid}")).exists()
}

async fn fetch_succeeds() {
    let (address, _) = serve(|_, stream, _| whole(&stream, "text/plain", b"hello"));
    let directory = tempfile::tempdir().unwrap();
    let service = service_by(command());
    assert_eq!(
        service.pid(),
        None,
        "nothing is started before it is needed"
    );
    fetch(
        &fetcher(&service),
        directory.path(),
        format!("http://{address}/f"),
        "",
    )
    .await
    .unwrap();
    assert_eq!(fs::read(directory.path().join("file")).unwrap(), b"hello");
    let pid = service.pid().expect("it runs on");
    assert_ne!(pid, std::process::id());
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    for wall in ["CapEff:\t0000000000000000", "NoNewPrivs:\t1", "Seccomp:\t2"] {
        assert!(status.contains(wall), "{wall} is not in {status}");
    }
    if nix::unistd::geteuid().is_root() {
        let id = argosy_isolation::service::SERVICE_HOST_ID;
        assert!(
            status.contains(&format!("Uid:\t{id}\t{id}\t{id}\t{id}")),
            "{status}"
        );
    }
    // The same service performs the next download.
    fetch(
        &fetcher(&service),
        directory.path(),
        format!("http://{address}/g"),
        "",
    )
    .await
    .unwrap();
    assert_eq!(service.pid(), Some(pid));
}

/// Returns an address of this host that is not loopback, if it has one.
fn own_address() -> Option<IpAddr> {
    let socket = UdpSocket::bind("0.0.0.0:0").ok()?;
    socket.connect("192.0.2.1:9").ok()?;
    let own = socket.local_addr().ok()?.ip();
    (!own.is_loopback()).then_some(own)
}

async fn access_is_checked() {
    let (address, _) = serve(|_, stream, head| {
        let size = if head.starts_with("GET /large") {
            2 << 20
        } else {
            5
        };
        whole(&stream, "text/plain", &vec![b'x'; size]);
    });
    let directory = tempfile::tempdir().unwrap();
    let service = service_by(command());
    let fetcher = fetcher(&service);
    let why = fetch(
        &fetcher,
        directory.path(),
        format!("http://{address}/large"),
        "",
    )
    .await;
    assert!(
        why.unwrap_err()
            .contains("larger than the limit of 1048576 bytes")
    );
    let (url, wrong) = (
        format!("http://u:hunter2@{address}/f?hunter2"),
        "0".repeat(64),
    );
    let why = fetch(&fetcher, directory.path(), url, &wrong)
        .await
        .unwrap_err();
    assert!(why.contains("is not what was asked for"), "{why}");
    assert!(!why.contains("hunter2"), "{why}");
    let why = fetch(
        &fetcher,
        directory.path(),
        "http://169.254.169.254/x".to_owned(),
        "",
    )
    .await;
    assert!(why.unwrap_err().contains("--fetch-allow"));
    // The process still knows facts of its host from files that it can no longer open.
    if let Some(own) = own_address() {
        let url = format!("http://{own}:{}/f", address.port());
        let why = fetch(&fetcher, directory.path(), url, "")
            .await
            .unwrap_err();
        assert!(why.contains("an address of the agent's host"), "{why}");
    }
    assert_eq!(
        fs::read_dir(directory.path()).unwrap().count(),
        0,
        "nothing is left"
    );
}

/// Starts a server that stalls in its first answer; returns it with the number of stalls.
fn stalling() -> (SocketAddr, Arc<AtomicU32>) {
    let stalled = Arc::new(AtomicU32::new(0));
    let count = Arc::clone(&stalled);
    let (address, _) = serve(move |number, mut stream, _| {
        if number > 0 {
            return whole(&stream, "text/plain", b"whole");
        }
        half(&stream);
        count.fetch_add(1, Ordering::SeqCst);
        // Until the client disconnects.
        let _ = stream.read(&mut [0; 1]);
    });
    (address, stalled)
}

/// Kills the service in the middle of a fetch, and checks that the fetch completes.
async fn lost(signal: Signal) {
    let (address, stalled) = stalling();
    let directory = tempfile::tempdir().unwrap();
    let service = service_by(command());
    let fetcher = Arc::new(fetcher(&service));
    let (place, by) = (directory.path().to_owned(), Arc::clone(&fetcher));
    let fetching =
        tokio::spawn(async move { fetch(&by, &place, format!("http://{address}/f"), "").await });
    until("it is asked", || stalled.load(Ordering::SeqCst) > 0).await;
    let first = service.pid().unwrap();
    kill(Pid::from_raw(first as i32), signal).unwrap();
    fetching.await.unwrap().unwrap();
    assert_eq!(fs::read(directory.path().join("file")).unwrap(), b"whole");
    assert_ne!(service.pid(), Some(first));
    until("the lost one is reaped", || !is_there(first)).await;
}

async fn killed() {
    lost(Signal::SIGKILL).await;
}

async fn stopped() {
    lost(Signal::SIGSTOP).await;
}

async fn given_up() {
    let (address, stalled) = stalling();
    let directory = tempfile::tempdir().unwrap();
    let service = service_by(command());
    let fetcher = Arc::new(fetcher(&service));
    let (place, by) = (directory.path().to_owned(), Arc::clone(&fetcher));
    let fetching =
        tokio::spawn(async move { fetch(&by, &place, format!("http://{address}/f"), "").await });
    until("it is asked", || stalled.load(Ordering::SeqCst) > 0).await;
    let pid = service.pid().unwrap();
    let files = || fs::read_dir(format!("/proc/{pid}/fd")).map_or(0, Iterator::count);
    let before = files();
    fetching.abort();
    // The connection and the file of the fetch.
    until("the service has closed both", || files() < before).await;
    assert_eq!(service.pid(), Some(pid), "it continues");
}

async fn missing() {
    let directory = tempfile::tempdir().unwrap();
    for (program, remedy) in [
        ("/nonexistent/program", "No such file"),
        ("/bin/true", "was lost"),
    ] {
        let fetcher = fetcher(&service_by(ServiceCommand {
            program: program.into(),
            arguments: Vec::new(),
        }));
        let url = "http://127.0.0.1:9/f".to_owned();
        let why = fetch(&fetcher, directory.path(), url, "")
            .await
            .unwrap_err();
        assert!(why.contains("content service"), "{why}");
        assert!(why.contains(remedy), "{why}");
    }
}

/// An unpacker that counts a layer's bytes.
struct CountingUnpacker;

impl Unpacker for CountingUnpacker {
    fn unpack<'a>(
        &'a self,
        mut layer: fs::File,
        _: LayerCompression,
        _: &'a Path,
    ) -> BoxFuture<'a, Result<UnpackedLayer, UnpackError>> {
        let mut bytes = Vec::new();
        layer.read_to_end(&mut bytes).unwrap();
        let unpacked = UnpackedLayer {
            diff_id: Digest::of(&bytes),
            bytes: bytes.len() as u64,
        };
        std::future::ready(Ok(unpacked)).boxed()
    }
}

async fn compromised_service() {
    let directory = tempfile::tempdir().unwrap();
    let service = service_by(ServiceCommand {
        program: PathBuf::from("/proc/self/exe"),
        arguments: vec![LIAR.to_owned()],
    });
    let unpacker = Arc::new(CountingUnpacker);
    let images = ImageManager::open(
        directory.path(),
        ImageSettings::default(),
        (unpacker, Arc::new(LocalLayerDirs), FairSlots::new(4)),
        service.clone(),
    );
    let name: ImageReference = "127.0.0.1:9/site:1".parse().unwrap();
    let obtaining = images
        .unwrap()
        .obtain(name, PullPolicy::Always, FRAMEWORK, "1-1-1".to_owned());
    let error = obtaining.image.await.unwrap_err();
    let why = argosy_content::error_chain(&error);
    assert!(
        why.contains("it passed a descriptor that is not a file"),
        "{why}"
    );
}

/// Starts a registry of one image with one layer, in all repositories. `more` are other fields of
/// its configuration, which is sent completely to so many clients at a time.
fn registry(more: &str, clients: usize) -> SocketAddr {
    let together = Barrier::new(clients);
    let layer = b"not looked into".to_vec();
    let diff_id = Digest::of(&layer);
    let architecture = match std::env::consts::ARCH {
        "aarch64" => "arm64",
        _ => "amd64",
    };
    let config = format!(
        r#"{{"architecture":"{architecture}","os":"linux","config":{{"Cmd":["serve"]}},{more}
            "rootfs":{{"type":"layers","diff_ids":["{diff_id}"]}}}}"#
    );
    let (kind, of_config) = (
        "application/vnd.oci.image.manifest.v1+json",
        Digest::of(config.as_bytes()),
    );
    let manifest = format!(
        r#"{{"schemaVersion":2,"mediaType":"{kind}",
            "config":{{"mediaType":"application/vnd.oci.image.config.v1+json","digest":"{of_config}","size":{}}},
            "layers":[{{"mediaType":"application/vnd.oci.image.layer.v1.tar","digest":"{diff_id}","size":{}}}]}}"#,
        config.len(),
        layer.len()
    );
    let (address, _) = serve(move |_, mut stream, head| {
        let path = head.split(' ').nth(1).unwrap_or_default();
        let is = |what: String| path.starts_with("/v2/site") && path.ends_with(&what);
        if is("manifests/1".to_owned()) {
            whole(&stream, kind, manifest.as_bytes());
        } else if is(format!("blobs/{of_config}")) {
            let (most, last) = config.split_at(config.len() - 1);
            let length = config.len();
            let head = format!("HTTP/1.1 200 OK\r\ncontent-length: {length}\r\n\r\n{most}");
            let _ = stream.write_all(head.as_bytes());
            together.wait();
            let _ = stream.write_all(last.as_bytes());
        } else if is(format!("blobs/{diff_id}")) {
            whole(&stream, "application/octet-stream", &layer);
        }
    });
    address
}

async fn pulled() {
    let address = registry("", 1);
    let directory = tempfile::tempdir().unwrap();
    let listed = vec![address.to_string().parse().unwrap()];
    let service = service_of(command(), listed);
    let settings = ImageSettings {
        limit_bytes: 1 << 20,
        ..ImageSettings::default()
    };
    let images = images_of(directory.path(), settings, &service);
    let name: ImageReference = format!("{address}/site:1").parse().unwrap();
    let image = images
        .obtain(name, PullPolicy::Always, FRAMEWORK, "1-1-1".to_owned())
        .image
        .await
        .unwrap();
    assert_eq!(image.config.cmd, ["serve"]);
    assert_eq!(image.layers.len(), 1);
    let none: ImageReference = format!("{address}/none:1").parse().unwrap();
    service.stop();
    let failed = images
        .obtain(none, PullPolicy::Always, FRAMEWORK, "1-2-1".to_owned())
        .image;
    let failed = tokio::time::timeout(Duration::from_millis(500), failed).await;
    assert!(failed.is_err(), "a registry that breaks off is asked again");
}

/// Of these, two at a time would exhaust the memory if everything in them were stored.
async fn large_configurations() {
    let (history, features) = ("{},".repeat(2_100_000), r#""","#.repeat(650_000));
    let more = format!(r#""history":[{history}{{}}],"os.features":[{features}""],"#);
    let (address, directory) = (registry(&more, 4), tempfile::tempdir().unwrap());
    let service = service_of(command(), vec![address.to_string().parse().unwrap()]);
    let images = images_of(directory.path(), ImageSettings::default(), &service);
    let (server, _) = serve(|_, stream, _| whole(&stream, "text/plain", b"hello"));
    let (fetcher, url) = (fetcher(&service), format!("http://{server}/f"));
    let sandbox = tempfile::tempdir().unwrap();
    let fetched = async || fetch(&fetcher, sandbox.path(), url.clone(), "").await;
    fetched().await.unwrap();
    let pid = service.pid();
    let pulls = (0..24).map(|number| {
        let name = format!("{address}/site{number}:1").parse().unwrap();
        let container = format!("1-{number}-1");
        images
            .obtain(name, PullPolicy::Always, FRAMEWORK, container)
            .image
    });
    let (pulled, between) = tokio::join!(futures::future::join_all(pulls), fetched());
    between.unwrap();
    for image in pulled {
        assert_eq!(image.unwrap().config.cmd, ["serve"]);
    }
    assert_eq!(service.pid(), pid);
}

async fn long_uri() {
    let (address, stalled) = stalling();
    let directory = tempfile::tempdir().unwrap();
    let service = service_by(command());
    let fetcher = Arc::new(fetcher(&service));
    let (place, by) = (directory.path().to_owned(), Arc::clone(&fetcher));
    let fetching =
        tokio::spawn(async move { fetch(&by, &place, format!("http://{address}/f"), "").await });
    until("it is asked", || stalled.load(Ordering::SeqCst) > 0).await;
    let pid = service.pid();
    let url = format!("http://{address}/f?{}", "x".repeat(140 << 10));
    let place = tempfile::tempdir().unwrap();
    let why = fetch(&fetcher, place.path(), url, "").await.unwrap_err();
    assert!(why.contains("use a shorter URI"), "{why}");
    assert_eq!(service.pid(), pid);
    assert!(!fetching.is_finished(), "it continues");
    fetching.abort();
}

/// Quotations of 150 KiB, and of 300 KiB once control characters are escaped: more than a socket
/// sends at a time.
async fn long_media_type() {
    for character in ["x", "\\u0001"] {
        let kind = "application/vnd.oci.image.manifest.v1+json";
        let media_type = character.repeat(150 << 10);
        let manifest = format!(
            r#"{{"schemaVersion":2,"mediaType":"{media_type}","config":{{}},"layers":[]}}"#
        );
        let (address, _) = serve(move |_, stream, _| whole(&stream, kind, manifest.as_bytes()));
        let directory = tempfile::tempdir().unwrap();
        let service = service_of(command(), vec![address.to_string().parse().unwrap()]);
        let images = images_of(directory.path(), ImageSettings::default(), &service);
        let name: ImageReference = format!("{address}/site:1").parse().unwrap();
        let error = images
            .obtain(name, PullPolicy::Always, FRAMEWORK, "1-1-1".to_owned())
            .image
            .await
            .unwrap_err();
        let why = argosy_content::error_chain(&error);
        assert!(why.contains("media type"), "{why:.300}");
        let pid = service.pid().expect("it continues");
        assert!(is_there(pid));
    }
}

async fn ended() {
    let (address, _) = serve(|_, stream, _| whole(&stream, "text/plain", b"hello"));
    let directory = tempfile::tempdir().unwrap();
    let service = service_by(command());
    fetch(
        &fetcher(&service),
        directory.path(),
        format!("http://{address}/f"),
        "",
    )
    .await
    .unwrap();
    let pid = service.pid().unwrap();
    drop(service);
    until("the service ends", || !is_there(pid)).await;
}
